"""How far a change holds: on one node, for its report, and everywhere, as the leader sees it.

Owns the watermark: the highest Raft index such that no node of the federation decides on an older
state from here on. A node counts by its own report, or because its authority has certainly lapsed.
Once true of an index it stays true, so that the watermark may be told to anybody at any time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import Final

_STEPS_PER_PERIOD: Final = 64


class Enforcement:
    """Reports and grants of all members, as this leader knows them. Times are its boot clock's."""

    def __init__(self, members: Iterable[str], period_ms: int, rho_ppm: int) -> None:
        self._reported = dict.fromkeys(members, 0)
        period_ns = period_ms * 1_000_000
        self._lapse_ns = period_ns + -(-period_ns * rho_ppm // 1_000_000)
        self._granted_ns: dict[str, int] = {}
        self._since_ns: int | None = None
        self._watermark = 0

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
        """This node has committed the first entry of its leadership. It knows no grants of the
        leaders before it; the last of them can only have been confirmed earlier."""
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
        """The watermark now; 0 before the leadership has begun. Never falls.

        A member whose authority has lapsed can only come back with a state of at least the read
        index that was noted for it: the commit index of now, or what is pending for it already.
        """
        if self._since_ns is None:
            return self._watermark
        lowest = commit_index
        for member, reported in self._reported.items():
            reached = reported
            if self.has_lapsed(member, now_ns):
                pending = pending_read_index(member)
                reached = max(reported, commit_index if pending is None else pending)
            lowest = min(lowest, reached)
        self._watermark = max(self._watermark, lowest)
        return self._watermark


class OwnReaders:
    """Up to where this node enforces, for its report: also when a reader never ends.

    An edge reads the authority word before it opens its snapshot, and permits before the deadline
    that it read. So a snapshot that is older than the state of boot time t was opened under a word
    from before t, asked for before t: from `t + L` on nothing can be permitted on it, however long
    a stopped edge holds it.
    """

    def __init__(self, period_ms: int) -> None:
        self._period_ns = period_ms * 1_000_000
        self._held: deque[tuple[int, int]] = deque()
        self._outlived = 0

    def enforced(self, now_ns: int, applied_index: int, oldest_in_use: int) -> int:
        """`applied_index`: durable at `now_ns`, this node's boot time. `oldest_in_use`: of its
        state and all snapshots that are open."""
        while self._held and now_ns - self._held[0][0] >= self._period_ns:
            self._outlived = self._held.popleft()[1]
        # Bounded: what became durable within one step counts as of its end.
        step_ns = self._period_ns // _STEPS_PER_PERIOD
        if not self._held or now_ns - self._held[-1][0] >= step_ns:
            self._held.append((now_ns, applied_index))
        return max(self._outlived, oldest_in_use)
