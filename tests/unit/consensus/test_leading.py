"""Who may lead: a replica whose node says no votes and follows, and leaves leading to others."""

from __future__ import annotations

import random

from quorate.consensus import RaftSettings, Replica
from quorate.consensus.configuration import Configuration
from quorate.consensus.messages import (
    AppendReply,
    PreVoteReply,
    PreVoteRequest,
    VoteReply,
    VoteRequest,
)
from quorate.testing.raft_disk import MemoryLogStore


class Node:
    def __init__(self) -> None:
        self.now = 100.0
        self.may_lead = True
        self.settings = RaftSettings()
        self.store = MemoryLogStore()
        self.replica = Replica(
            node_id="a",
            initial=Configuration(("a", "b", "c")),
            settings=self.settings,
            store=self.store,
            apply=lambda _index, _payload: None,
            stamp=lambda payload: payload,
            clock=lambda: self.now,
            wall_clock_ms=lambda: 0,
            chance=random.Random(1),  # noqa: S311
            may_lead=lambda: self.may_lead,
        )
        self.replica.connected("b")

    def turn(self, after_s: float = 0.0) -> list[object]:
        self.now += after_s
        self.replica.tick()
        self.store.commit()
        return [message for _, message in self.replica.take_outbox()]

    def become_leader(self) -> None:
        self.turn(after_s=1.1)
        self.replica.receive("b", PreVoteReply(0, True, 0))
        self.turn()
        self.replica.receive("b", VoteReply(term=1, granted=True, voted_term=1))
        self.turn()
        assert self.replica.is_leader


def test_it_does_not_campaign():
    node = Node()
    node.may_lead = False
    for _ in range(50):
        assert not any(isinstance(message, PreVoteRequest) for message in node.turn(after_s=0.4))
    assert (node.replica.role, node.replica.term) == ("follower", 0)
    node.may_lead = True
    sent = [message for _ in range(4) for message in node.turn(after_s=0.4)]
    assert any(isinstance(message, PreVoteRequest) for message in sent)


def test_it_still_votes():
    node = Node()
    node.may_lead = False
    node.replica.receive("b", VoteRequest(term=3, last_log_index=1, last_log_term=0))
    assert VoteReply(term=3, granted=True, voted_term=3) in node.turn()


def test_a_leader_that_may_not_lead_any_more_steps_down_at_its_next_turn():
    node = Node()
    node.become_leader()
    node.may_lead = False
    node.turn()
    assert not node.replica.is_leader
    assert node.replica.leader is None
    assert not node.replica.propose(b"k", b"p") or not node.replica.forget(b"k"), "nothing is taken"


def test_a_leader_takes_nobody_for_present_that_has_not_answered_it():
    """Whoever decides that so many are there, because a leadership has just begun, may give up the
    voter that the others cannot do without."""
    node = Node()
    node.become_leader()
    assert not node.replica.is_responsive("b"), "it has voted, and said nothing since"
    node.replica.receive("b", AppendReply(1, 1, True, 2, 0, 1, 0))
    assert node.replica.is_responsive("b")
    node.turn(after_s=node.settings.election_min_s)
    assert not node.replica.is_responsive("b")
