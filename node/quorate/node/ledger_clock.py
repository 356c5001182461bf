"""Ledger time: what the leader stamps on commands.

Owns the estimate of the federation's time as the median of the voters' wall clocks, so that one
wrong clock cannot push it. What makes it monotonic in the ledger is `apply`, which takes the larger
of the stamp and the last entry's time.

Every wall clock is kept as its distance from this node's *boot* clock, which nobody can set: a step
of this node's own wall clock moves its own distance and no other's.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from quorate.core.limits import MAX_INTEGER
from quorate.lease.authority import FederationTime
from quorate.lease.clock import Clock

_NS_PER_MS: Final = 1_000_000
_STALE_NS: Final = 10_000_000_000
"""A voter's clock that was last heard longer ago than this takes no part."""
_ENOUGH_CLOCKS: Final = 3
"""With fewer, nobody can tell which of them is wrong."""


class LedgerClock:
    """The wall clocks of a federation of so many `voters`, as this node knows them."""

    def __init__(self, clock: Clock, voters: int) -> None:
        self._clock = clock
        self.voters = voters
        self._bases: dict[str, tuple[int, int]] = {}
        self._held_ms = 0
        self._held_at_ms = 0
        self._told: tuple[int, int] | None = None

    def reconfigure(self, voters: Collection[str]) -> None:
        """These vote, this node among them or not; nobody else's clock counts."""
        self.voters = len(voters)
        if not self._bases.keys() <= set(voters):
            self._bases = {each: base for each, base in self._bases.items() if each in voters}

    def heard(self, voter: str, wall_clock_ms: int) -> None:
        """A voter has told its wall clock. The way it took makes it look late, which only lets
        leases live a little longer, by at most half a round trip."""
        self._bases[voter] = (wall_clock_ms - self._boot_ms(), self._clock.boottime_ns())

    def not_before(self, ledger_time_ms: int) -> None:
        """The ledger holds this time already."""
        if ledger_time_ms > self._held_ms:
            self._held_ms, self._held_at_ms = ledger_time_ms, self._boot_ms()

    def now_ms(self) -> int:
        """Ledger time, milliseconds since the epoch; never less than what the ledger holds.

        While too few clocks are known to tell a wrong one, it moves on at least as the boot clock
        does since the ledger's last time: a clock that is slow, and not outvoted, must not make
        ledger time, and with it every lease's end, stand still.
        """
        estimate = self._clocks_ms()
        if self._known() >= min(_ENOUGH_CLOCKS, self.voters):
            return max(self._held_ms, estimate)
        since_held = self._boot_ms() - self._held_at_ms if self._held_ms else 0
        return max(min(self._held_ms + since_held, MAX_INTEGER), estimate)

    def time(self) -> FederationTime:
        """What this node, as the leader, tells with each grant."""
        return FederationTime(self.now_ms(), max(0, self._clocks_ms()))

    def stamp_ms(self) -> int:
        """What a leader stamps on a command. It stands still at what the ledger holds until more
        than half of all voters are known, this one included: a clock that is wrong and alone must
        not move ledger time, which never goes back."""
        return self.now_ms() if 2 * self._known() > self.voters else self._held_ms

    def told(self, clocks_ms: int, realtime_ns: int) -> None:
        """The leader has told what the voters' clocks say, not before this node's wall clock
        showed `realtime_ns`: the offset that follows errs by the time of the answer's way. Ledger
        time itself would not do: where a wrong clock has once pushed it ahead, every right one
        would look late for as long, and nobody could lead."""
        offset = realtime_ns // _NS_PER_MS - clocks_ms
        self._told = (offset, self._clock.boottime_ns())

    def own_offset_ms(self) -> int:
        """How far this node's wall clock is ahead of the federation's time, as far as it knows: of
        the median of the clocks that it has heard itself when they are enough to tell, else of
        what its leader has told; 0 when it cannot know."""
        if self._known() >= _ENOUGH_CLOCKS:
            return self._own_base() - self._median()
        if self._told is not None and self._told[1] >= self._fresh_after():
            return self._told[0]
        return 0

    def _clocks_ms(self) -> int:
        return min(self._boot_ms() + self._median(), MAX_INTEGER)

    def _known(self) -> int:
        return 1 + len(self._fresh_bases())

    def _median(self) -> int:
        bases = sorted([self._own_base(), *self._fresh_bases()])
        return bases[(len(bases) - 1) // 2]

    def _own_base(self) -> int:
        return self._clock.realtime_ns() // _NS_PER_MS - self._boot_ms()

    def _fresh_bases(self) -> list[int]:
        fresh_after = self._fresh_after()
        known = list(self._bases.values())  # at once: metrics are read by another thread
        return [base for base, at in known if at >= fresh_after]

    def _fresh_after(self) -> int:
        return self._clock.boottime_ns() - _STALE_NS

    def _boot_ms(self) -> int:
        return self._clock.boottime_ns() // _NS_PER_MS
