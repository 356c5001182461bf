"""Ledger time: what the leader stamps on commands.

Owns the estimate of the federation's time as the median of the voters' wall clocks, so that one
wrong clock cannot push it, and the promise that it is never before what the ledger holds. What
makes it monotonic in the ledger is `apply`, which takes the larger of the stamp and the last
entry's time. An estimate is not remembered: one that was made alone, or before the wall clock was
set right, must not be stamped later, when the voters say otherwise.
"""

from __future__ import annotations

from typing import Final

from quorate.core.limits import MAX_INTEGER
from quorate.lease.clock import Clock

_NS_PER_MS: Final = 1_000_000
_STALE_NS: Final = 10_000_000_000
"""A voter's clock that was last heard longer ago than this takes no part."""


class LedgerClock:
    """The voters' wall clocks, as offsets from this node's."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offsets: dict[str, tuple[int, int]] = {}
        self._held_ms = 0
        self._told: tuple[int, int] | None = None

    def heard(self, voter: str, wall_clock_ms: int) -> None:
        """A voter has told its wall clock. The way it took makes it look late, which only lets
        leases live a little longer, by at most half a round trip."""
        offset = wall_clock_ms - self._clock.realtime_ns() // _NS_PER_MS
        self._offsets[voter] = (offset, self._clock.boottime_ns())

    def not_before(self, ledger_time_ms: int) -> None:
        """The ledger holds this time already."""
        self._held_ms = max(self._held_ms, ledger_time_ms)

    def now_ms(self) -> int:
        """Ledger time, milliseconds since the epoch; never less than what the ledger holds."""
        own = self._clock.realtime_ns() // _NS_PER_MS
        return max(self._held_ms, min(own + self._median_offset_ms(), MAX_INTEGER))

    def stamp_ms(self, voters: int) -> int:
        """What a leader stamps on a command. It stands still at what the ledger holds until more
        than half of all `voters` are known, this one included: a clock that is wrong and alone
        must not move ledger time, which never goes back."""
        known = 1 + len(self._fresh_offsets())
        return self.now_ms() if 2 * known > voters else self._held_ms

    def told(self, ledger_time_ms: int, realtime_ns: int) -> None:
        """The leader has told the federation's time, which was not before this node's wall clock
        showed `realtime_ns`: the offset that follows errs by the time of the answer's way."""
        offset = ledger_time_ms - realtime_ns // _NS_PER_MS
        self._told = (offset, self._clock.boottime_ns())

    def own_offset_ms(self) -> int:
        """How far this node's wall clock is ahead of the federation's time, as far as it knows:
        of the median of the clocks it has heard itself, else of what its leader told."""
        if self._fresh_offsets():
            return -self._median_offset_ms()
        if self._told is not None and self._told[1] >= self._fresh_after():
            return -self._told[0]
        return 0

    def _median_offset_ms(self) -> int:
        offsets = sorted([0, *self._fresh_offsets()])
        return offsets[(len(offsets) - 1) // 2]

    def _fresh_offsets(self) -> list[int]:
        fresh_after = self._fresh_after()
        return [offset for offset, at in self._offsets.values() if at >= fresh_after]

    def _fresh_after(self) -> int:
        return self._clock.boottime_ns() - _STALE_NS
