"""What a holder says of its work under one lease, on its way to the node.

Owns the order in which events are said, and that those that come together go together: whoever has
the lease's lock sends what has gathered, for everybody who waits. Without any input or output.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
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
        self._sent: list[Saying] = []
        self._alone = 0

    def add(self, event: lease_pb2.Event) -> Saying:
        saying = Saying(event)
        self._waiting.append(saying)
        return saying

    def withdraw(self, saying: Saying) -> None:
        """Its caller waits no longer: it is not said, unless it was sent already."""
        with suppress(ValueError):
            self._waiting.remove(saying)

    def take(self) -> Sequence[Saying]:
        """The next that go together. What was sent and not answered goes as it was: with another
        one beside it, it would be no repeat."""
        if not self._sent:
            self._sent = [self._waiting.popleft() for _ in range(self._most())]
            self._alone = max(0, self._alone - 1)
        return self._sent

    def _most(self) -> int:
        return min(len(self._waiting), 1 if self._alone else MOST_TOGETHER)

    def settle(self, result: Reported | Denied) -> None:
        """What became of those that were taken last."""
        for saying in self._sent:
            saying.result = result
        self._sent = []

    def part(self) -> None:
        """Those that were taken last are not accepted together: they go one by one."""
        self._alone = len(self._sent)
        self._waiting.extendleft(reversed(self._sent))
        self._sent = []
