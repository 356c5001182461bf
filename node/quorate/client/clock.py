"""The clock by which an executor counts the life of its permits.

Owns one reading of two clocks, and whether a reading can be trusted against an earlier one. Does
not share code with the node's clock: the client never imports the server.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, Self

MAX_CLOCK_DRIFT_MS: Final = 100
"""How far the wall clock and the boot clock may move apart before neither is believed."""

MAX_CLOCK_DRIFT_NS: Final = MAX_CLOCK_DRIFT_MS * 1_000_000


class Clock(Protocol):
    """Where readings come from; a test gives its own. Two functions, and nothing is made of what
    they say where a cached permit is judged: that is a comparison of numbers."""

    def boottime_ns(self) -> int: ...

    def realtime_ns(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Reading:
    """Both clocks at one moment, nanoseconds."""

    boottime_ns: int
    realtime_ns: int

    @classmethod
    def of(cls, clock: Clock) -> Self:
        return cls(clock.boottime_ns(), clock.realtime_ns())

    @property
    def apart_ns(self) -> int:
        """How far the wall clock is ahead of the boot clock."""
        return self.realtime_ns - self.boottime_ns

    def moved_apart_since(self, earlier: Reading) -> bool:
        """True when the two clocks disagree by more than MAX_CLOCK_DRIFT_MS about how long ago
        `earlier` was: a machine that its host paused, or a wall clock that was set. It is a second
        opinion which can only deny."""
        return abs(self.apart_ns - earlier.apart_ns) > MAX_CLOCK_DRIFT_NS


class SystemClock:
    """CLOCK_BOOTTIME, which goes on while the machine sleeps and which nobody can set, and
    CLOCK_REALTIME beside it."""

    def __init__(self) -> None:
        # Instance attributes: no Python frame of ours stands between a check and the clock.
        self.boottime_ns = partial(time.clock_gettime_ns, time.CLOCK_BOOTTIME)
        self.realtime_ns = time.time_ns
