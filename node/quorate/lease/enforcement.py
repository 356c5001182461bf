"""How far a change holds: on one node, for its report, and everywhere, as the leader sees it.

Owns the two watermarks: the highest Raft index such that no node of the federation decides on an
older state from here on (enforced), and that no executor uses a permit which was decided before
(drained). A node counts by its own report, or because its authority has certainly lapsed. Once true
of an index they stay true, so that they may be told to anybody at any time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Final

from quorate.lease.bounds import stretched_ns

_STEPS_PER_PERIOD: Final = 64


class Enforcement:
    """Reports and grants of all members, as this leader knows them. Times are its boot clock's."""

    def __init__(self, members: Iterable[str], period_ms: int, rho_ppm: int) -> None:
        self._reported = dict.fromkeys(members, 0)
        self._lapse_ns = stretched_ns(period_ms * 1_000_000, rho_ppm)
        self._granted_ns: dict[str, int] = {}
        self._since_ns: int | None = None
        self._watermark = 0

    def follow(self, period_ms: int, rho_ppm: int) -> None:
        """The largest of these that were ever in force are larger now: a lapse takes longer."""
        self._lapse_ns = stretched_ns(period_ms * 1_000_000, rho_ppm)

    def reconfigure(self, members: Collection[str]) -> None:
        """Others can hold authority than before. Who is new has reported nothing; who is gone must
        have lapsed."""
        self._reported = {member: self._reported.get(member, 0) for member in members}

    def has_lapsed(self, member: str, now_ns: int) -> bool:
        """Whether nothing that was ever granted to `member` can still hold, nor will come again
        unless it is granted anew. Before the leadership has begun nobody can tell."""
        if self._since_ns is None:
            return False
        return now_ns - max(self._since_ns, self._granted_ns.get(member, 0)) >= self._lapse_ns

    def begin(self, now_ns: int) -> None:
        """This node has committed the first entry of its leadership, and applied it. It knows no
        grants of the leaders before it; the last of them can only have been confirmed earlier, and
        none was for longer than what this node knows of by now: what a leader had applied is
        committed, and so before that entry."""
        self._since_ns = now_ns
        self._granted_ns.clear()

    def end(self) -> None:
        """This node leads no longer."""
        self._since_ns = None

    def granted(self, member: str, now_ns: int) -> None:
        """Authority was granted to `member`: call it when the grant is made, not later."""
        self._granted_ns[member] = now_ns

    def reported(self, member: str, index: int) -> None:
        """`member` says that none of its readers uses a state older than `index`."""
        if member in self._reported:
            self._reported[member] = max(self._reported[member], index)

    def of_member(self, member: str) -> int:
        return self._reported.get(member, 0)

    def watermark(
        self, now_ns: int, commit_index: int, pending_read_index: Callable[[str], int | None]
    ) -> int:
        """The watermark now; 0 before the leadership has begun. Never falls."""
        if self._since_ns is None:
            return self._watermark
        reached = self.by_member(now_ns, commit_index, pending_read_index)
        self._watermark = max(self._watermark, min([commit_index, *reached.values()]))
        return self._watermark

    def by_member(
        self, now_ns: int, commit_index: int, pending_read_index: Callable[[str], int | None]
    ) -> dict[str, int]:
        """How far each member is, by its report or because it has lapsed.

        A member whose authority has lapsed can only come back with a state of at least the read
        index that was noted for it: the commit index of now, or what is pending for it already.
        """
        reached = {}
        for member, reported in self._reported.items():
            reached[member] = reported
            if self.has_lapsed(member, now_ns):
                pending = pending_read_index(member)
                reached[member] = max(reported, commit_index if pending is None else pending)
        return reached


class OwnReaders:
    """Up to where this node enforces, for its report: also when a reader never ends.

    An edge reads the authority word before it opens its snapshot, and permits before the deadline
    that it read. So a snapshot that is older than the state of boot time t was opened under a word
    from before t, asked for before t: from `t + L` on nothing can be permitted on it, however long
    a stopped edge holds it. `L`: the longest that was ever in force at t.
    """

    def __init__(self, period_ms: int) -> None:
        self._applied = _Before(period_ms * 1_000_000)

    def follow(self, period_ms: int) -> None:
        self._applied.while_ns = period_ms * 1_000_000

    def enforced(self, now_ns: int, applied_index: int, oldest_in_use: int) -> int:
        """`applied_index`: durable at `now_ns`, this node's boot time. `oldest_in_use`: of its
        state and all snapshots that are open."""
        return max(self._applied.reached(now_ns, applied_index), oldest_in_use)


class OwnPermits:
    """Up to where no executor uses a permit that this node decided before: as its edges say, and
    also when they say nothing.

    From when an index is enforced here, nothing is decided on an older state. An executor uses what
    was decided before for no longer than `max_permit_ttl_ms`, on its own clock: the longest that
    was ever in force.
    """

    def __init__(self, max_permit_ttl_ms: int, rho_ppm: int) -> None:
        self._enforced = _Before(stretched_ns(max_permit_ttl_ms * 1_000_000, 2 * rho_ppm))

    def follow(self, max_permit_ttl_ms: int, rho_ppm: int) -> None:
        self._enforced.while_ns = stretched_ns(max_permit_ttl_ms * 1_000_000, 2 * rho_ppm)

    def drained(self, now_ns: int, enforced_index: int, edges_index: int) -> int:
        """`enforced_index`: this node's at `now_ns`. `edges_index`: what all its edges say."""
        outlived = self._enforced.reached(now_ns, enforced_index)
        return min(enforced_index, max(outlived, edges_index))


class EdgeReports:
    """What the edges of one node say is drained, each in a slot of its own.

    What was said of an index stays true, also when the edge has ended: whoever follows it in its
    slot says nothing until no permit of its forerunner can be in use.
    """

    def __init__(self, slots: int) -> None:
        assert slots > 0
        self._reported = [0] * slots

    @property
    def slots(self) -> int:
        return len(self._reported)

    @property
    def drained(self) -> int:
        """The Raft index up to which everything is drained at all of them."""
        return min(self._reported)

    def reported(self, slot: int, index: int) -> bool:
        """Takes in a report; returns whether that makes a difference."""
        before = self.drained
        self._reported[slot] = max(self._reported[slot], index)
        return self.drained != before


class _Before:
    """What an index that only grows was a while ago. The while may become longer."""

    def __init__(self, while_ns: int) -> None:
        self.while_ns = while_ns
        self._held: deque[tuple[int, int]] = deque()
        self._reached = 0

    def reached(self, now_ns: int, index: int) -> int:
        """`index`: of now. Returns one that was reached `while_ns` ago."""
        while self._held and now_ns - self._held[0][0] >= self.while_ns:
            self._reached = self._held.popleft()[1]
        # Bounded: what was reached within one step counts as of its end.
        step_ns = self.while_ns // _STEPS_PER_PERIOD
        if not self._held or now_ns - self._held[-1][0] >= step_ns:
            self._held.append((now_ns, index))
        return self._reached
