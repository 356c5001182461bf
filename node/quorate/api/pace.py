"""How often one caller may ask for what costs a node much.

Owns a token bucket for each caller, on the boot clock. Of more callers than it can tell apart,
those that have asked for nothing for longest are forgotten, which gives them what a newcomer has.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from quorate.api.errors import TooManyError
from quorate.lease.clock import Clock

MAX_EXPLANATIONS_PER_S: Final = 20
"""Of one caller, at one process, in the long run. Each takes up to some 20 ms of its loop."""
MAX_EXPLANATIONS_AT_ONCE: Final = 40
"""And of one that has asked for nothing for a while."""
MAX_LINEAGE_PAGES_PER_S: Final = 20
"""Of one caller, in the long run. Each takes up to some 20 ms of a thread beside the loop."""
MAX_LINEAGE_PAGES_AT_ONCE: Final = 40
"""And of one that has asked for none for a while: twice what the command line shows."""
MAX_PACED_CALLERS: Final = 4_096
_NS_PER_S: Final = 1_000_000_000


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


def explanations(clock: Clock) -> Pace:
    return Pace(clock, MAX_EXPLANATIONS_PER_S, MAX_EXPLANATIONS_AT_ONCE, "MAX_EXPLANATIONS_PER_S")


def lineage_pages(clock: Clock) -> Pace:
    return Pace(
        clock, MAX_LINEAGE_PAGES_PER_S, MAX_LINEAGE_PAGES_AT_ONCE, "MAX_LINEAGE_PAGES_PER_S"
    )
