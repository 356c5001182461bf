"""What is frozen: nothing may be done to somebody's resources, but for the actions that are listed.

Owns the record of it, as it stands in that of a domain (of its own resources) and of the federation
(of everybody's). Who may freeze and thaw is decided in `quorate.core.governing` and `balloting`;
what that means for an act, by `quorate.core.decision`.
"""

from __future__ import annotations

from dataclasses import dataclass

from quorate.core.errors import MalformedError
from quorate.core.limits import MAX_PATTERNS
from quorate.core.patterns import action_listed, check_action_pattern
from quorate.core.rows import Row


@dataclass(frozen=True, slots=True)
class Freeze:
    """Whoever is frozen lets nothing be done to its resources but these actions.

    actions: patterns; none: nothing at all. since: the ledger index of the entry that froze it.
    """

    actions: tuple[str, ...]
    since: int

    def lets(self, action: str) -> bool:
        return action_listed(self.actions, action)

    def to_json(self) -> dict[str, object]:
        return {"actions": list(self.actions), "since": self.since}

    @classmethod
    def from_json(cls, value: object) -> Freeze:
        row = Row(value)
        return cls(row.texts("actions"), row.number("since"))


def check_frozen(frozen: Freeze | None, *, may_be: bool) -> None:
    """Raises MalformedError for what no command has frozen. may_be: whether anything can be."""
    if frozen is None:
        return
    for pattern in frozen.actions:
        check_action_pattern(pattern)
    count = len(frozen.actions)
    if not may_be or len({*frozen.actions}) < count or count > MAX_PATTERNS:
        raise MalformedError("is frozen in a way that cannot be")
