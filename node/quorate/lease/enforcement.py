"""How far a change holds everywhere: the leader's view of what every node has enforced.

Owns the watermark: the highest Raft index such that no node of the federation decides on an older
state from here on. A node counts by its own report, or because its authority has certainly lapsed.
Once true of an index it stays true, so that the watermark may be told to anybody at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable


class Enforcement:
    """Reports and grants of all members, as this leader knows them. Times are its boot clock's."""

    def __init__(self, members: Iterable[str], period_ms: int, rho_ppm: int) -> None:
        self._reported = dict.fromkeys(members, 0)
        period_ns = period_ms * 1_000_000
        self._lapse_ns = period_ns + -(-period_ns * rho_ppm // 1_000_000)
        self._granted_ns: dict[str, int] = {}
        self._since_ns: int | None = None
        self._watermark = 0

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
            last_ns = max(self._since_ns, self._granted_ns.get(member, 0))
            reached = reported
            if now_ns - last_ns >= self._lapse_ns:
                pending = pending_read_index(member)
                reached = max(reported, commit_index if pending is None else pending)
            lowest = min(lowest, reached)
        self._watermark = max(self._watermark, lowest)
        return self._watermark
