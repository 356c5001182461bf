"""When a leader gives way that others may not know yet.

Owns the rule for the node of a domain that was admitted by ballot, or has taken another CA since: a
member that lags behind that knows no authority that vouches for this node, and lets it in under no
circumstances, for nothing that this could show would count. So this node must not go on leading
while somebody cannot be reached: any other could bring that member up to date.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, Protocol

import structlog

PATIENCE_S: Final = 3.0
"""How long a member may be out of reach before somebody else is to lead."""
PAUSE_S: Final = 30.0
"""Between two attempts: a member may be out of everybody's reach, and for long."""

log = structlog.get_logger(__name__)


class Leading(Protocol):
    """The replica's part that is asked here."""

    @property
    def is_leader(self) -> bool: ...

    @property
    def members(self) -> Collection[str]: ...

    def hand_over(self, heir: str | None = None) -> bool: ...


class Newcomer:
    """Looks, as long as this node leads, for members that it cannot reach."""

    def __init__(
        self, node_id: str, now_s: Callable[[], float], may_be_unknown: Callable[[], bool]
    ) -> None:
        """may_be_unknown: whether it is such a node, as of now."""
        self._node_id = node_id
        self._now_s = now_s
        self._may_be_unknown = may_be_unknown
        self._lacking_since: float | None = None
        self._not_before = 0.0

    def look(self, replica: Leading, links_up: Collection[str]) -> None:
        """Hands over once somebody was out of reach for long."""
        out_of_reach = set(replica.members) - {self._node_id} - set(links_up)
        if not replica.is_leader or not out_of_reach or not self._may_be_unknown():
            self._lacking_since = None
            return
        now = self._now_s()
        if self._lacking_since is None:
            self._lacking_since = now
        if now - self._lacking_since >= PATIENCE_S and now >= self._not_before:
            self._not_before = now + PAUSE_S
            if replica.hand_over():
                log.info("newcomer.gives_way", out_of_reach=sorted(out_of_reach))
