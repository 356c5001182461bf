"""How often one caller may ask for what costs a node much, and how many at once.

Owns a token bucket for each caller, on the boot clock, and the turns of work that takes long. Of
more callers than it can tell apart, those that have asked for nothing for longest are forgotten,
which gives them what a newcomer has.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from quorate.api.errors import TooManyError
from quorate.lease.clock import Clock

MAX_EXPLANATIONS_PER_S: Final = 20
"""Of one caller, at one process, in the long run. Each takes up to some 20 ms of its loop."""
MAX_EXPLANATIONS_AT_ONCE: Final = 40
"""And of one that has asked for nothing for a while."""
MAX_LINEAGE_PAGES_PER_S: Final = 20
"""Of one caller, in the long run. One of the longest, of leases with the most ancestors, takes a
quarter of a second of a thread beside the loop, so that they wait for each other, too (`Turns`)."""
MAX_LINEAGE_PAGES_AT_ONCE: Final = 40
"""And of one that has asked for none for a while: twice what the command line shows."""
MAX_LINEAGE_CALLERS: Final = 16
"""Who may wait for a page at once, with one each."""
MAX_PACED_CALLERS: Final = 4_096
_NS_PER_S: Final = 1_000_000_000
T = TypeVar("T")


class Pace:
    """The buckets of all callers of one method, or of one service."""

    def __init__(self, clock: Clock, per_s: int, at_once: int, limit: str) -> None:
        """limit: the name of `per_s`, for whoever is refused."""
        self._clock = clock
        self._per_s = per_s
        self._at_once = at_once
        self._limit = limit
        self._left: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def take(self, caller: str) -> None:
        """Raises TooManyError when the caller has asked too often."""
        now_ns = self._clock.boottime_ns()
        left, since_ns = self._left.pop(caller, (float(self._at_once), now_ns))
        left = min(self._at_once, left + (now_ns - since_ns) * self._per_s / _NS_PER_S)
        is_refused = left < 1
        self._left[caller] = (left if is_refused else left - 1, now_ns)
        if len(self._left) > MAX_PACED_CALLERS:
            self._left.popitem(last=False)
        if is_refused:
            raise TooManyError(f"more than {self._per_s} a second", limit=self._limit)


class Turns:
    """Work that takes long, of several callers: one at a time, in a thread of its own, and one of
    each caller. Nothing else of the process waits for that thread, and nobody for another's
    second."""

    def __init__(self, name: str, most: int, limit: str) -> None:
        """most: callers whose work is under way. limit: the name of that."""
        self._thread = ThreadPoolExecutor(1, name)
        self._most = most
        self._limit = limit
        self._under_way: set[str] = set()

    async def take(self, caller: str, work: Callable[[], T]) -> T:
        """Raises TooManyError, and what the work does."""
        if caller in self._under_way or len(self._under_way) >= self._most:
            raise TooManyError("others are under way", limit=self._limit)
        self._under_way.add(caller)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._under_way.discard(caller)


def lineage_turns() -> Turns:
    return Turns("lineage-pages", MAX_LINEAGE_CALLERS, "MAX_LINEAGE_CALLERS")


def explanations(clock: Clock) -> Pace:
    return Pace(clock, MAX_EXPLANATIONS_PER_S, MAX_EXPLANATIONS_AT_ONCE, "MAX_EXPLANATIONS_PER_S")


def lineage_pages(clock: Clock) -> Pace:
    return Pace(
        clock, MAX_LINEAGE_PAGES_PER_S, MAX_LINEAGE_PAGES_AT_ONCE, "MAX_LINEAGE_PAGES_PER_S"
    )
