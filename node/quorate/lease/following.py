"""How an edge follows the ledger of its own node, entry by entry.

Owns how far it has come, what the entries since then did to leases, and up to which Raft index
everything is drained at this edge (`outstanding`). One snapshot after the other is handed in, all
by one thread that makes the checks as well: so a check never decides on an older state than was
followed. Sans-I/O.
"""

from __future__ import annotations

from collections import deque
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from quorate.core.effects import Effect, effect_of
from quorate.core.state import StateView
from quorate.lease.check import Position, SnapshotReader
from quorate.lease.outstanding import Holder, OutstandingPermits

MAX_FOLLOWED: Final = 256
"""Entries that are read in one step."""
MAX_BEHIND: Final = 16_384
"""Whoever lacks more entries than this reads none of them, and looks at everything anew."""
_MAX_MARKS: Final = 4_096
_PPM: Final = 1_000_000
_NS_PER_MS: Final = 1_000_000


class FollowedSnapshot(SnapshotReader, Protocol):
    """The part of a storage snapshot that is read here."""

    def ledger_entries(self, first: int, limit: int) -> list[bytes]: ...


class FollowedSource(Protocol):
    """Where snapshots come from: the node's environment."""

    def read(self) -> AbstractContextManager[FollowedSnapshot]: ...


@dataclass(frozen=True, slots=True)
class Followed:
    """One step. effects: in the order of the ledger. has_more: another step goes further.
    is_blind: there were entries that nobody has read."""

    effects: tuple[Effect, ...] = ()
    has_more: bool = False
    is_blind: bool = False


class EdgeLedger:
    """One edge's place in the ledger, from its start on."""

    def __init__(self) -> None:
        self.at = Position(0, 0)
        """The entries that were followed, and the newest ledger time that is known of them."""
        self.permits = OutstandingPermits()
        self.has_begun = False
        self._silent_until_ns = 0
        self._rho_ppm = 0
        self._marks: deque[tuple[int, int]] = deque()
        self._drained = 0

    @property
    def size(self) -> int:
        """How many entries were followed."""
        return self.at.ledger_size

    def follow(self, snapshot: FollowedSnapshot, now_ns: int, until: int | None = None) -> Followed:
        """Reads on in a snapshot that is not older than the one before. until: no further than to
        so many entries; but whoever begins, or lacks too many, is at the snapshot's end at once.

        Raises MalformedError and StorageError for a ledger that cannot be read.
        """
        if not self.has_begun:
            self._begin(snapshot, now_ns)
            return Followed(is_blind=True)
        behind = snapshot.ledger_size - self.size
        assert behind >= 0, "no snapshot is older than the one before"
        if behind > MAX_BEHIND:
            self.permits.stopped_all(self.size)
            self._reach(snapshot.ledger_size, snapshot)
            return Followed(is_blind=True)
        end = snapshot.ledger_size if until is None else min(until, snapshot.ledger_size)
        entries = snapshot.ledger_entries(self.size, min(MAX_FOLLOWED, max(0, end - self.size)))
        effects = []
        for index, entry in enumerate(entries, start=self.size):
            effect = effect_of(index, entry)
            if effect is not None:
                effects.append(effect)
                # Also permits that it spares: their lives are short.
                if effect.reason is not None or effect.may_stop:
                    self.permits.stopped(effect.thing, index)
        if effects:
            self.at = Position(self.size, effects[-1].ledger_time)
        self._reach(self.size + len(entries), snapshot)
        return Followed(tuple(effects), has_more=self.size < end)

    def permitted(
        self,
        holder: Holder,
        things: tuple[str, ...],
        ledger_size: int,
        ttl_ms: int,
        now_ns: int,
    ) -> None:
        """This edge has permitted something, on a ledger of this size. The executor counts the
        permit's life on its own clock, from before `now_ns`."""
        lasts_ns = ttl_ms * _NS_PER_MS
        # The executor's clock against this one, and this one against the leader's, who counts too.
        expires_ns = now_ns + lasts_ns + -(-lasts_ns * 2 * self._rho_ppm // _PPM)
        self.permits.given(holder, things, ledger_size, expires_ns, now_ns)

    def drained_index(self, now_ns: int) -> int:
        """The Raft index up to which everything is drained here. Never falls."""
        if not self.has_begun or now_ns < self._silent_until_ns:
            return 0
        size = self.permits.drained_size(self.size, now_ns)
        while self._marks and self._marks[0][0] <= size:
            self._drained = max(self._drained, self._marks.popleft()[1])
        return self._drained

    def next_ns(self, now_ns: int) -> int | None:
        """When `drained_index` can next grow by time alone; None: it waits for nothing."""
        if now_ns < self._silent_until_ns:
            return self._silent_until_ns
        return self.permits.next_ns()

    def _begin(self, snapshot: FollowedSnapshot, now_ns: int) -> None:
        """The edge before this one may have given permits until a moment ago."""
        self._reach(snapshot.ledger_size, snapshot)
        bounding = StateView(snapshot.state).federation_record().bounding
        lasts_ns = bounding.max_permit_ttl_ms * _NS_PER_MS
        self._silent_until_ns = now_ns + lasts_ns + -(-lasts_ns * 2 * self._rho_ppm // _PPM)
        self.has_begun = True

    def _reach(self, size: int, snapshot: FollowedSnapshot) -> None:
        if size < snapshot.ledger_size:
            self.at = Position(size, self.at.ledger_time_ms)
            return
        view = StateView(snapshot.state)
        self.at = Position(size, view.ledger_time())
        self._rho_ppm = view.federation_record().bounding.rho_ppm
        if self._marks and self._marks[-1][0] == size:
            self._marks.pop()  # entries of the log that are none of the ledger
        self._marks.append((size, snapshot.applied_index))
        if len(self._marks) > _MAX_MARKS:
            # Somebody holds everything back. One left out makes the report smaller, never too
            # large, because the one before stands in.
            self._marks = deque([*list(self._marks)[:-1:2], self._marks[-1]])
