"""Our replica with the same face as `bare.Bare`: one node `a` among peers that the test plays.

What the two have in common is told once and played on both; a message says the same thing in the
words of each. Where the bare engine's has no word for something (the term that a reply answers), it
is left out there.
"""

from __future__ import annotations

import random
from typing import Any

from quorate.consensus import RaftSettings, Replica
from quorate.consensus.configuration import Configuration
from quorate.consensus.messages import (
    AppendReply,
    AppendRequest,
    Entry,
    Message,
    PreVoteReply,
    SnapshotOffer,
    VoteReply,
    VoteRequest,
)
from quorate.testing.raft_disk import MemoryLogStore


class Ours:
    """One replica, its disk in memory, and its clock in the test's hands."""

    settings = RaftSettings()

    def __init__(self, peers: str = "bcde") -> None:
        self.now = 1000.0
        self.peers = peers
        self.store = MemoryLogStore()
        self.values: list[Any] = []
        self._sent: list[tuple[str, Message]] = []
        self.start()

    def start(self) -> None:
        """Builds the replica anew from what the disk holds."""
        self.store.abort()
        self.replica = Replica(
            node_id="a",
            initial=Configuration(tuple(sorted(("a", *self.peers)))),
            settings=self.settings,
            store=self.store,
            apply=lambda _index, payload: self.values.append(payload),
            stamp=lambda payload: payload,
            clock=lambda: self.now,
            wall_clock_ms=lambda: 0,
            chance=random.Random(1),  # noqa: S311
        )
        for peer in self.peers:
            self.replica.connected(peer)

    def tick(self, after_s: float = 0.0) -> list[tuple[str, Message]]:
        """A whole turn, durable at its end; returns what was said since the last call."""
        self.now += after_s
        self._turn()
        taken, self._sent = self._sent, []
        return taken

    def _turn(self) -> None:
        self.replica.tick()
        self.store.commit()
        self._sent += self.replica.take_outbox()

    def receive(self, peer: str, message: Message) -> None:
        self.replica.receive(peer, message)
        self._turn()

    # -- what peers say ----------------------------------------------------------------------

    def append(
        self,
        peer: str,
        term: int,
        prev: int,
        prev_term: int,
        *entries: tuple[bytes, int, int],
        commit_index: int = 1,
    ) -> None:
        given = tuple(Entry(index, entry_term, data) for data, index, entry_term in entries)
        self.receive(peer, AppendRequest(term, prev, prev_term, commit_index, given))

    def acknowledge(self, peer: str, index: int, *, of_term: int | None = None) -> None:
        term = self.replica.term
        self.receive(peer, AppendReply(term, of_term or term, True, index, 0, index, 0))

    def refuse(self, peer: str, prev: int, hint: int) -> None:
        term = self.replica.term
        self.receive(peer, AppendReply(term, term, False, 0, hint, prev, 0))

    def grant(self, peer: str) -> None:
        """A vote for what `a` asks."""
        term = self.replica.term
        if self.replica.role == "candidate":
            self.receive(peer, VoteReply(term, True, term))
        else:
            self.receive(peer, PreVoteReply(term, True, term))

    def ask_vote(self, peer: str, term: int) -> None:
        self.receive(peer, VoteRequest(term, self.last_index, self.log[-1][2]))

    def snapshot_to_come(self, peer: str, term: int, commit_index: int) -> None:
        """The leader `peer` has compacted what `a` lacks, and offers a snapshot."""
        configuration = self.replica.configuration.encode()
        offer = SnapshotOffer(term, commit_index, term, configuration, 0, "", 0, b"")
        self.receive(peer, offer)

    # -- what `a` does -----------------------------------------------------------------------

    def campaign(self) -> None:
        """The election time passes; a majority would vote."""
        self.tick(after_s=2 * self.settings.election_max_s)
        for peer in self.peers:
            if self.replica.role != "candidate":
                self.grant(peer)

    def lead(self) -> int:
        """Wins the next term; returns it."""
        self.campaign()
        for peer in self.peers:
            if not self.is_leader:
                self.grant(peer)
        assert self.is_leader
        return self.replica.term

    def remove(self, peer: str) -> bool:
        """Removes a member, as a leader; returns whether that was taken."""
        taken = self.replica.change_configuration(self.replica.configuration.without(peer))
        self._turn()
        return taken

    def put(self, value: str) -> None:
        self.replica.propose(value.encode(), value.encode())
        self._turn()

    # -- what is seen of it ------------------------------------------------------------------

    @property
    def log(self) -> list[tuple[bytes, int, int]]:
        """(command, index, term), oldest first."""
        entries = enumerate(self.store.entries, start=1)
        return [(data, index, term) for index, (term, data) in entries]

    @property
    def last_index(self) -> int:
        return len(self.store.entries)

    @property
    def commit_index(self) -> int:
        return self.replica.commit_index

    @property
    def is_leader(self) -> bool:
        return self.replica.is_leader

    def known_of(self, peer: str) -> int:
        """Up to where this leader believes `peer` to hold its log."""
        return self.replica.match_index(peer)

    def sends_next_behind(self, peer: str) -> int:
        """The index behind which the next request to `peer` begins."""
        sent = self.tick(after_s=2 * self.settings.heartbeat_s)
        to_peer = [m for name, m in sent if name == peer and isinstance(m, AppendRequest)]
        return to_peer[0].prev_log_index
