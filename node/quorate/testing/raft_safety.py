"""Raft's invariants, checked after every durable turn and on every message.

Owns the checks: Raft paper, Figure 3; thesis, chapter 4, for clusters whose members change; and
what this project adds: persist before send, no commit without a durable quorum, logs that begin
later than at their first entry. Does not own the simulated world (`raft`, `raft_members`) nor what
is tried in it (`raft_runs`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from quorate.consensus.configuration import CONFIGURATION, Configuration
from quorate.consensus.messages import (
    AppendReply,
    AppendRequest,
    Message,
    SnapshotOffer,
    VoteReply,
    VoteRequest,
)
from quorate.testing.raft import Host
from quorate.testing.raft_disk import Image, MemoryLogStore

_REGULAR = b"\x00"


class ViolationError(AssertionError):
    """One of Raft's promises was broken."""


def require(holds: bool, promise: str, *details: object) -> None:
    if not holds:
        raise ViolationError(f"{promise}: {' '.join(map(str, details))}")


@dataclass
class _Seen:
    """What a host has shown so far. `held`: up to here its disk holds the committed log."""

    term: int = 0
    applied: int = 0
    commit: int = 0
    ledger: int = 0
    held: int = 0


@dataclass
class SafetyChecker:
    """Looks on (`quorate.testing.raft.Watcher`) and raises ViolationError.

    committed: (term, command) by index, from 1 on: the log that nobody may ever contradict.
    committed_in: the term of the leader that committed it. ledger: what it says to apply.
    """

    hosts: dict[str, Host] = field(default_factory=dict)
    seen: dict[str, _Seen] = field(default_factory=dict)
    leaders: dict[int, str] = field(default_factory=dict)
    votes: dict[tuple[str, int], str] = field(default_factory=dict)
    entries: dict[tuple[int, int], tuple[bytes, int]] = field(default_factory=dict)
    committed: list[tuple[int, bytes]] = field(default_factory=list)
    committed_in: list[int] = field(default_factory=list)
    ledger: list[tuple[int, bytes]] = field(default_factory=list)
    applied: int = 0
    """Of the ledger, how much somebody has applied."""
    forgotten: dict[str, Image] = field(default_factory=dict)
    """What the disk of a host held before it went back."""

    @property
    def elections(self) -> int:
        """How many candidates won."""
        return len(self.leaders)

    def started(self, host: Host) -> None:
        self.hosts[host.node_id] = host
        if not self.committed:  # the first entry is everybody's from the start
            self.committed, self.committed_in = host.store.turn.entries[:1], [0]
        seen = self.seen.setdefault(host.node_id, _Seen())
        require(host.store.meta.applied >= seen.applied, "applied entries survive", host.node_id)
        require(host.store.meta.term >= seen.term, "terms survive", host.node_id)
        seen.commit = host.live.commit_index

    def went_back(self, host: Host, before: Image) -> None:
        """What the host showed before, it may have forgotten."""
        if not before.meta.probation:  # on probation it has promised nothing since
            self.forgotten[host.node_id] = before
        self.seen[host.node_id] = _Seen()
        self.votes = {key: vote for key, vote in self.votes.items() if key[0] != host.node_id}

    def turn_durable(self, host: Host, unchanged: int, _applied: int) -> None:
        seen, store = self.seen[host.node_id], host.store
        self._check_term_and_vote(host, seen)
        self._check_log(host, unchanged)
        self._check_kept(host, seen, unchanged)
        self._check_leader(host)
        self._check_commit(host, seen, unchanged)
        self._check_base(host, seen)
        self._check_held(host, seen)
        self._check_ledger(host, seen)
        require(
            store.members[0][0] <= store.meta.applied,
            "the configuration of the applied state is kept",
            host.node_id,
            store.meta.applied,
        )

    def _check_term_and_vote(self, host: Host, seen: _Seen) -> None:
        meta = host.store.meta
        require(meta.term >= seen.term, "terms never fall", host.node_id, meta.term)
        require(meta.term == host.live.term, "the term is durable", host.node_id, meta)
        seen.term = meta.term
        if meta.voted_for is not None:
            self._count_vote(host.node_id, meta.term, meta.voted_for)

    def _count_vote(self, voter: str, term: int, candidate: str) -> None:
        first = self.votes.setdefault((voter, term), candidate)
        require(first == candidate, "one vote a term", voter, term, first, candidate)

    def _check_log(self, host: Host, unchanged: int) -> None:
        """Log matching, by induction: an (index, term) has one command and one predecessor."""
        store = host.store
        for index in range(max(unchanged, store.base) + 1, store.last_index + 1):
            term, command = _entry(store, index)
            before, _ = _entry(store, index - 1)
            first = self.entries.setdefault((index, term), (command, before))
            require(first == (command, before), "log matching", host.node_id, index, term)
            if command[:1] == CONFIGURATION:
                self._check_configuration(host, index, command[1:])

    def _check_configuration(self, host: Host, index: int, data: bytes) -> None:
        kept = [each for each in host.store.members if each[0] <= index]
        if not kept:
            return  # it came with a later one, and both are committed
        require(kept[-1] == (index, data), "configurations lie beside the log", host.node_id)
        if len(kept) > 1:
            before, after = Configuration.decode(kept[-2][1]), Configuration.decode(data)
            require(before.is_one_step_to(after), "one voter at a time", host.node_id, index)

    def _check_base(self, host: Host, seen: _Seen) -> None:
        """A log begins with its first entry, or with a committed one that is applied."""
        base, term = host.store.base, host.store.entries[0][0]
        require(base <= host.store.meta.applied, "only what is applied is compacted", host.node_id)
        require(base <= len(self.committed), "a log begins with what is committed", host.node_id)
        require(
            term == self.committed[base - 1][0], "a log begins as it was", host.node_id, base, term
        )
        seen.held = max(seen.held, base)

    def _check_leader(self, host: Host) -> None:
        if not host.live.is_leader:
            return
        term = host.live.term
        if term not in self.leaders:
            for index in range(host.store.base + 1, len(self.committed) + 1):
                require(
                    self.committed_in[index - 1] >= term
                    or host.store.entry(index) == self.committed[index - 1],
                    "leader completeness",
                    host.node_id,
                    f"term {term}, index {index}",
                )
        first = self.leaders.setdefault(term, host.node_id)
        require(first == host.node_id, "election safety", term, first, host.node_id)

    def _check_commit(self, host: Host, seen: _Seen, unchanged: int) -> None:
        commit = host.live.commit_index
        require(commit >= seen.commit, "commits never fall", host.node_id, commit)
        require(commit <= host.store.last_index, "commits are in the log", host.node_id, commit)
        seen.commit = commit
        while len(self.committed) < commit:
            index = len(self.committed) + 1
            entry = _entry_before(host.store, index)
            self._check_quorum(host, index, entry, unchanged)
            self.committed.append(entry)
            self.committed_in.append(host.live.term)
            if entry[1][:1] == _REGULAR:
                self.ledger.append((index, entry[1][1:]))

    def _check_quorum(
        self, host: Host, index: int, entry: tuple[int, bytes], unchanged: int
    ) -> None:
        """Who commits first is a leader, by the configuration that was in force in its turn: one
        that it has made itself comes after its commits."""
        members = host.store.members
        is_new = members[-1][0] > unchanged and host.live.is_leader and len(members) > 1
        voters = Configuration.decode(members[-2 if is_new else -1][1]).voters
        holders = [
            voter
            for voter in voters
            if voter in self.hosts and self._holds(self.hosts[voter], index, entry)
        ]
        require(
            len(holders) * 2 > len(voters),
            "a commit is on the disks of a quorum",
            host.node_id,
            f"index {index} on {holders} of {voters}",
        )

    def _holds(self, host: Host, index: int, entry: tuple[int, bytes]) -> bool:
        """Who is on probation counts for nothing but what it promised before: as it votes for
        nobody meanwhile, that stands until a majority without it has readmitted it."""
        disk: Image | MemoryLogStore = host.store
        if host.store.meta.probation:
            disk = self.forgotten[host.node_id]
        return disk.base > index or disk.entry(index) == entry

    def _check_kept(self, host: Host, seen: _Seen, unchanged: int) -> None:
        for index in range(max(unchanged, host.store.base) + 1, seen.held + 1):
            require(
                host.store.entry(index) == self.committed[index - 1],
                "what is committed stays on the disks that held it",
                host.node_id,
                index,
            )

    def _check_held(self, host: Host, seen: _Seen) -> None:
        store = host.store
        end = min(store.last_index, len(self.committed))
        while seen.held < end and store.entry(seen.held + 1) == self.committed[seen.held]:
            seen.held += 1
        require(seen.held >= seen.commit, "one committed log", host.node_id, seen.held + 1)

    def _check_ledger(self, host: Host, seen: _Seen) -> None:
        """State machine safety: everybody applies the same, in order, leaves nothing out, and
        keeps it."""
        store, ledger = host.store, host.store.ledger
        require(len(ledger) >= seen.ledger, "what is applied stays", host.node_id)
        require(
            ledger[seen.ledger :] == self.ledger[seen.ledger : len(ledger)],
            "state machine safety",
            host.node_id,
            f"{seen.ledger}..{len(ledger)}",
        )
        seen.ledger = len(ledger)
        self.applied = max(self.applied, seen.ledger)
        applied = store.meta.applied
        require(applied >= seen.applied, "applied never falls", host.node_id)
        require(applied <= host.live.commit_index, "applied after committed", host.node_id)
        is_whole = seen.ledger == len(self.ledger) or self.ledger[seen.ledger][0] > applied
        require(is_whole, "all that is committed is applied", host.node_id, applied)
        seen.applied = applied

    def sent(self, host: Host, peer: str, message: Message) -> None:
        """Persist, then send: what a message says is on the disk that it speaks for."""
        meta, last_index = host.store.meta, host.store.last_index
        match message:
            case VoteReply(granted=True, voted_term=term):
                self._count_vote(host.node_id, term, peer)
                durable = meta.term > term or (meta.term == term and meta.voted_for == peer)
                require(durable, "a vote is durable before it is sent", host.node_id, term)
            case VoteRequest(term=term):
                durable = meta.term > term or meta.voted_for == host.node_id
                require(meta.term >= term and durable, "a candidacy is durable", host.node_id)
            case AppendReply(success=True, request_term=term, match_index=match):
                durable = meta.term > term or (meta.term == term and last_index >= match)
                require(durable, "an acknowledged entry is durable", host.node_id, match)
            case AppendRequest(term=term, entries=entries) if meta.term == term and entries:
                require(
                    last_index >= entries[-1].index, "a sent entry is durable", host.node_id, term
                )
            case SnapshotOffer(index=index):
                require(index <= meta.applied, "an offered state is durable", host.node_id, index)


def _entry(store: MemoryLogStore, index: int) -> tuple[int, bytes]:
    entry = store.entry(index)
    assert entry is not None, f"the log has no entry {index}"
    return entry


def _entry_before(store: MemoryLogStore, index: int) -> tuple[int, bytes]:
    """The entry at `index`, also when the last commit compacted it."""
    if index >= store.base:
        return _entry(store, index)
    return store.dropped[index - store.base]
