"""What a holder says of its work under one lease, on its way to the node.

Owns the order in which events are said, and that those that come together go together: whoever has
the lease's lock sends what has gathered, for everybody who waits. Without any input or output.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, Generic, TypeVar

from quorate.client.decisions import Denied, Reported
from quorate.core.limits import MAX_RECORDS_PER_COMMAND
from quorate.core.lineage import NO_HEAD
from quorate.v1 import lease_pb2

MOST_TOGETHER: Final = MAX_RECORDS_PER_COMMAND

LockT = TypeVar("LockT")


class Saying:
    """One event, and what became of it: None as long as nobody knows."""

    __slots__ = ("event", "result")

    def __init__(self, event: lease_pb2.Event) -> None:
        self.event = event
        self.result: Reported | Denied | None = None


class Story(Generic[LockT]):
    """The events of one lease. lock: of whoever sends. head: as the node answered last; a lease has
    none at first."""

    def __init__(self, lock: LockT) -> None:
        self.lock = lock
        self.head = NO_HEAD
        self._waiting: deque[Saying] = deque()

    def add(self, event: lease_pb2.Event) -> Saying:
        saying = Saying(event)
        self._waiting.append(saying)
        return saying

    def take(self) -> list[Saying]:
        """The next that go together."""
        return [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST_TOGETHER))]

    def put_back(self, sayings: Sequence[Saying]) -> None:
        """Those that were not sent to an end are next again."""
        self._waiting.extendleft(saying for saying in reversed(sayings) if saying.result is None)
