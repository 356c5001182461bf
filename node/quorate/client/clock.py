"""The clock by which an executor counts the life of its permits.

Owns one reading of two clocks, and whether a reading can be trusted against an earlier one. Does
not share code with the node's clock: the client never imports the server.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final, Protocol

MAX_CLOCK_DRIFT_MS: Final = 100
"""How far the wall clock and the boot clock may move apart before neither is believed."""

_NS_PER_MS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Reading:
    """Both clocks at one moment, nanoseconds."""

    boottime_ns: int
    realtime_ns: int

    def moved_apart_since(self, earlier: Reading) -> bool:
        """True when the two clocks disagree by more than MAX_CLOCK_DRIFT_MS about how long ago
        `earlier` was: a machine that its host paused, or a wall clock that was set. It is a second
        opinion which can only deny."""
        boot_ns = self.boottime_ns - earlier.boottime_ns
        wall_ns = self.realtime_ns - earlier.realtime_ns
        return abs(boot_ns - wall_ns) > MAX_CLOCK_DRIFT_MS * _NS_PER_MS


class Clock(Protocol):
    """Where readings come from; a test gives its own."""

    def read(self) -> Reading: ...


class SystemClock:
    """CLOCK_BOOTTIME, which goes on while the machine sleeps and which nobody can set, and
    CLOCK_REALTIME beside it."""

    def read(self) -> Reading:
        return Reading(time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns())
