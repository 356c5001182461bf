"""Clocks that move when a test says so."""

from __future__ import annotations

from typing import Final

_PPM: Final = 1_000_000
_NS_PER_MS: Final = 1_000_000


class FakeClock:
    """A `quorate.lease.clock.Clock` without time of its own.

    `rate_ppm` makes this machine's clocks run faster (positive) or slower than the `advance` that
    all machines of a test share: what the authority protocol calls rho.
    """

    def __init__(
        self,
        *,
        boottime_ns: int = 1_000_000_000,
        realtime_ns: int = 1_700_000_000_000_000_000,
        rate_ppm: int = 0,
    ) -> None:
        self._boottime_ns = boottime_ns
        self._realtime_ns = realtime_ns
        self._rest = 0  # of the division by _PPM: no drift from rounding
        self.rate_ppm = rate_ppm

    def boottime_ns(self) -> int:
        return self._boottime_ns

    def realtime_ns(self) -> int:
        return self._realtime_ns

    def advance(self, ns: int) -> None:
        """Lets `ns` nanoseconds of true time go by; this machine's clocks move at their rate."""
        assert ns >= 0, "time goes forward; step_realtime is for the wall clock"
        moved, self._rest = divmod(ns * (_PPM + self.rate_ppm) + self._rest, _PPM)
        self._boottime_ns += moved
        self._realtime_ns += moved

    def advance_ms(self, ms: int) -> None:
        self.advance(ms * _NS_PER_MS)

    def step_realtime(self, ns: int) -> None:
        """Steps the wall clock alone, forward or back."""
        self._realtime_ns += ns
