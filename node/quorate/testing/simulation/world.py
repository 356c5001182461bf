"""Simulated time: events in the order of true time, and the clocks that machines read.

Owns time, which no machine can read directly, the order of what happens, and the trace's digest.
Times are nanoseconds of true time unless a name says otherwise. Everything follows from the seed:
each source of chance is a stream of its own, so that leaving out one event does not change what
another draws.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from typing import Final

from quorate.testing.simulation.trace import Trace

NS_PER_S: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000
_PPM: Final = 1_000_000


class Violation(BaseException):
    """A promise was broken; the run is over. Derived from BaseException, because the parts under
    test may turn any Exception into a denial, and must not hide this one."""

    def __init__(self, promise: str, *details: object) -> None:
        super().__init__(f"{promise}: {' '.join(map(str, details))}" if details else promise)
        self.promise = promise


def require(holds: bool, promise: str, *details: object) -> None:
    """Raises Violation unless `holds`."""
    if not holds:
        raise Violation(promise, *details)


class World:
    """True time, and what is going to happen."""

    def __init__(self, seed: int, trace: Trace) -> None:
        self.seed = seed
        self.now = 0
        self.trace = trace
        self.is_over = False
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0

    def stream(self, name: str) -> random.Random:
        """A source of chance of its own for `name`."""
        return random.Random(  # noqa: S311 - a simulation's chance, no secret
            hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        )

    def at(self, when: int, action: Callable[[], None]) -> None:
        """Has `action` happen at true time `when`, after everything that is due then already."""
        self._order += 1
        heapq.heappush(self._events, (when, self._order, action))

    def after(self, delay: int, action: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._events, (self.now + delay, self._order, action))

    def run_until(self, end: int) -> None:
        """Lets time pass until `end`. May be called by what happens, to make that take time: the
        rest of the world goes on meanwhile. Raises Violation, also for what an event raised."""
        events = self._events
        while events and events[0][0] <= end and not self.is_over:
            when, _, action = heapq.heappop(events)
            self.now = max(self.now, when)
            try:
                action()
            except Exception as error:
                raise Violation(
                    "the program does not fail", f"{type(error).__name__}: {error}"
                ) from error
        if not self.is_over:
            self.now = max(self.now, end)

    def run_for(self, ns: int) -> None:
        self.run_until(self.now + ns)


class SimulatedClock:
    """The clocks of one machine, as `quorate.lease.clock.Clock`.

    They run at (1 + rate_ppm / 10^6) of true time; the boot clock begins somewhere at each boot,
    the wall clock is off by as much as it was set wrong.
    """

    def __init__(self, world: World, *, boottime_ns: int, realtime_ns: int, rate_ppm: int) -> None:
        self._world = world
        self._since = world.now
        self._base = boottime_ns
        self._ahead = realtime_ns - boottime_ns
        self._rate = _PPM + rate_ppm
        self._read_at = -1
        self._read = 0

    def boottime_ns(self) -> int:
        now = self._world.now
        if now != self._read_at:
            self._read_at = now
            self._read = self._base + (now - self._since) * self._rate // _PPM
        return self._read

    def realtime_ns(self) -> int:
        return self.boottime_ns() + self._ahead

    def step(self, ns: int) -> None:
        """Steps the wall clock, forward or back."""
        self._ahead += ns

    def set_realtime(self, realtime_ns: int) -> None:
        self._ahead = realtime_ns - self.boottime_ns()

    def set_rate(self, rate_ppm: int) -> None:
        """From now on the clocks run at another rate."""
        self._base = self.boottime_ns()
        self._since = self._world.now
        self._rate = _PPM + rate_ppm
        self._read_at = -1

    def reboot(self, boottime_ns: int) -> None:
        """The machine starts again: its boot clock begins anew, the wall clock goes on."""
        realtime = self.realtime_ns()
        self._base, self._since = boottime_ns, self._world.now
        self._ahead = realtime - boottime_ns
        self._read_at = -1

    def true_at(self, boottime_ns: int) -> int:
        """The first true time at which the boot clock shows `boottime_ns`, at its present rate."""
        left = boottime_ns - self.boottime_ns()
        return self._world.now + max(0, -(-left * _PPM // self._rate))
