"""As much of Raft as the authority protocol stands on, small enough to be obviously right.

Owns terms, votes, logs and commits of simulated voters, with the guarantees of Raft (election
safety, log matching, leader completeness) and none of its manners: anybody may campaign at any
time, a deposed leader goes on believing until it hears otherwise, and whole logs are sent. Chance
makes trouble, not timers. `quorate.testing.raft` tests the real consensus; here it is the ground
under the thing that is tested.
"""

from __future__ import annotations

from dataclasses import dataclass

Log = tuple[int, ...]
"""The terms of the entries; entry i is at position i - 1. Index and term name an entry."""


@dataclass(frozen=True, slots=True)
class VoteRequest:
    term: int
    log: Log


@dataclass(frozen=True, slots=True)
class Vote:
    term: int


@dataclass(frozen=True, slots=True)
class Append:
    term: int
    log: Log
    commit_index: int


@dataclass(frozen=True, slots=True)
class Appended:
    term: int
    match_index: int


@dataclass(frozen=True, slots=True)
class Newer:
    """The receiver's term is an older one than this."""

    term: int


RaftMessage = VoteRequest | Vote | Append | Appended | Newer


@dataclass(frozen=True, slots=True)
class Disk:
    """What of a voter outlives its process."""

    term: int = 0
    voted_for: str | None = None
    log: Log = ()
    applied_index: int = 0


class Voter:
    """One voter; satisfies `quorate.lease.confirm.Leadership`."""

    def __init__(self, node_id: str, peers: tuple[str, ...], disk: Disk) -> None:
        self.node_id = node_id
        self._peers = peers
        self._majority = (len(peers) + 1) // 2 + 1
        self.term = disk.term
        self._voted_for = disk.voted_for
        self.log = disk.log
        self.applied_index = disk.applied_index
        self.commit_index = disk.applied_index
        self.leader: str | None = None
        self.is_leader = False
        self._votes: set[str] = set()
        self._match: dict[str, int] = {}
        self.outbox: list[tuple[str, RaftMessage]] = []

    @property
    def last_index(self) -> int:
        return len(self.log)

    @property
    def voters(self) -> tuple[str, ...]:
        return (self.node_id, *self._peers)

    @property
    def members(self) -> tuple[str, ...]:
        return self.voters

    @property
    def committed_members(self) -> tuple[str, ...]:
        return self.voters

    @property
    def commits_own_term(self) -> bool:
        return self.commit_index > 0 and self.log[self.commit_index - 1] == self.term

    def disk(self) -> Disk:
        return Disk(self.term, self._voted_for, self.log, self.applied_index)

    # -- what chance tells it to do ----------------------------------------------------------

    def campaign(self) -> None:
        self._follow(self.term + 1, None)
        self._voted_for = self.node_id
        self._votes = {self.node_id}
        self._tell_all(VoteRequest(self.term, self.log))
        self._count_votes()

    def append(self) -> None:
        """A command, when this voter believes that it leads."""
        if self.is_leader:
            self.log = (*self.log, self.term)
            self._count_acknowledgements()

    def heartbeat(self) -> None:
        if self.is_leader:
            self._tell_all(Append(self.term, self.log, self.commit_index))

    def apply(self, at_most: int) -> None:
        self.applied_index = min(self.commit_index, self.applied_index + at_most)

    # -- messages ----------------------------------------------------------------------------

    def receive(self, peer: str, message: RaftMessage) -> None:
        if message.term > self.term:
            self._follow(message.term, None)
        if message.term < self.term:
            if not isinstance(message, Newer):
                self.outbox.append((peer, Newer(self.term)))
            return
        match message:
            case VoteRequest():
                theirs, ours = (message.log[-1:], len(message.log)), (self.log[-1:], len(self.log))
                if self._voted_for in (None, peer) and theirs >= ours:
                    self._voted_for = peer
                    self.outbox.append((peer, Vote(self.term)))
            case Vote():
                self._votes.add(peer)
                self._count_votes()
            case Append():
                self._on_append(peer, message)
            case Appended():
                self._match[peer] = max(self._match.get(peer, 0), message.match_index)
                self._count_acknowledgements()
            case Newer():
                pass

    def _on_append(self, leader: str, request: Append) -> None:
        assert not self.is_leader, "one leader a term"
        self.leader = leader
        known = len(request.log)
        if self.log[:known] != request.log:  # else it has all of it: perhaps more, from later
            assert self.log[: self.commit_index] == request.log[: self.commit_index]
            self.log = request.log
        self.commit_index = max(self.commit_index, min(request.commit_index, known))
        self.outbox.append((leader, Appended(self.term, known)))

    def _follow(self, term: int, leader: str | None) -> None:
        self.term, self._voted_for, self.leader = term, None, leader
        self.is_leader = False
        self._votes, self._match = set(), {}

    def _count_votes(self) -> None:
        candidate = not self.is_leader and self._voted_for == self.node_id and self.leader is None
        if candidate and len(self._votes) >= self._majority:
            self.is_leader, self.leader = True, self.node_id
            self.append()
            self.heartbeat()

    def _count_acknowledgements(self) -> None:
        if not self.is_leader:
            return
        matches = sorted([len(self.log), *self._match.values()], reverse=True)
        if len(matches) < self._majority:
            return
        replicated = matches[self._majority - 1]
        if replicated > self.commit_index and self.log[replicated - 1] == self.term:
            self.commit_index = replicated

    def _tell_all(self, message: RaftMessage) -> None:
        self.outbox.extend((peer, message) for peer in self._peers)
