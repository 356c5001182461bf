"""A member that says well-formed but false things: refused, at worst believed within Raft's own
limits, and never the end of a healthy replica."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.consensus import PeerError, RaftSettings, Replica
from quorate.consensus.configuration import CONFIGURATION, Configuration
from quorate.consensus.limits import MAX_TERM, MAX_TERM_STEP
from quorate.consensus.messages import (
    AppendReply,
    AppendRequest,
    Entry,
    Message,
    PreVoteReply,
    PreVoteRequest,
    Propose,
    ProposeReply,
    Refusal,
    SnapshotChunk,
    SnapshotOffer,
    SnapshotPull,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from quorate.consensus.wire import decode, encode
from quorate.testing.raft_disk import MemoryLogStore

PEERS = ("b", "c")
COMMANDS = st.sampled_from(
    [
        *(b"\0x", b"\1", b"\7z", b"\2", b"\2nonsense"),
        *(
            CONFIGURATION + Configuration(voters).encode()
            for voters in (("a",), ("a", "b"), ("b", "c"), ("a", "b", "c", "d"), ("d", "e"))
        ),
    ]
)
SPREAD = st.one_of(st.integers(0, 8), st.sampled_from([2**24, 2**33, 2**53, 2**62, 2**63 - 1]))


class Node:
    def __init__(self) -> None:
        self.now = 100.0
        self.store = MemoryLogStore()
        self.replica = Replica(
            node_id="a",
            initial=Configuration(("a", *PEERS)),
            settings=RaftSettings(),
            store=self.store,
            apply=lambda _index, _payload: None,
            stamp=lambda payload: payload,
            clock=lambda: self.now,
            wall_clock_ms=lambda: 0,
            chance=random.Random(1),  # noqa: S311
        )
        for peer in PEERS:
            self.replica.connected(peer)

    def turn(self, after_s: float = 0.0) -> list[tuple[str, Message]]:
        self.now += after_s
        self.replica.tick()
        self.store.commit()
        return self.replica.take_outbox()

    def receive(self, peer: str, message: Message) -> None:
        try:
            self.replica.receive(peer, message)
        except PeerError:
            return

    def lead(self) -> None:
        self.turn(after_s=1.1)
        self.replica.receive("b", PreVoteReply(self.replica.term, True, self.replica.term))
        self.turn()
        vote = VoteReply(term=self.replica.term, granted=True, voted_term=self.replica.term)
        self.replica.receive("b", vote)
        self.turn()
        assert self.replica.is_leader


@st.composite
def messages(draw: st.DrawFn) -> Message:
    kind = draw(st.integers(0, 7))
    terms = st.one_of(st.integers(0, 3), SPREAD)
    if kind == 0:
        return VoteRequest(draw(terms), draw(SPREAD), draw(terms))
    if kind == 1:
        return VoteReply(draw(terms), draw(st.booleans()), draw(terms))
    if kind == 2:
        previous, term = draw(SPREAD), draw(terms)
        entries = tuple(
            Entry(previous + 1 + n, term, draw(COMMANDS)) for n in range(draw(st.integers(0, 3)))
        )
        return AppendRequest(draw(terms), previous, term, draw(SPREAD), entries)
    if kind == 3:
        return _election(draw, terms)
    if kind == 4:
        return _snapshot(draw, terms)
    if kind == 5:
        return draw(st.sampled_from([Propose(b"k", b"p"), ProposeReply(b"k", Refusal.BUSY)]))
    return AppendReply(
        draw(terms), draw(terms), draw(st.booleans()), draw(SPREAD), draw(SPREAD), draw(SPREAD), 0
    )


def _election(draw: st.DrawFn, terms: st.SearchStrategy[int]) -> Message:
    asked = PreVoteRequest(draw(terms), draw(SPREAD), draw(terms))
    answer = PreVoteReply(draw(terms), draw(st.booleans()), draw(terms))
    return draw(st.sampled_from([asked, answer, TimeoutNow(draw(terms))]))


def _snapshot(draw: st.DrawFn, terms: st.SearchStrategy[int]) -> Message:
    term, index, size = draw(terms), draw(SPREAD), draw(SPREAD)
    lowest = min(term, draw(terms))
    offer = SnapshotOffer(term, index, lowest, draw(COMMANDS), size, "note", 3, b"digest")
    pull = SnapshotPull(term, index, draw(st.booleans()), b"key", size)
    chunk = SnapshotChunk(term, index, False, b"key", size, ((b"keys", b"value"),), (), False)
    return draw(st.sampled_from([offer, pull, chunk]))


STEPS = st.lists(
    st.tuples(st.sampled_from(PEERS), messages(), st.sampled_from([0.0, 0.11, 1.1])), max_size=12
)


@settings(max_examples=300, deadline=None)
@given(steps=STEPS, leads=st.booleans())
def test_no_message_of_a_member_ends_a_healthy_replica(
    steps: list[tuple[str, Message, float]], leads: bool
) -> None:
    node = Node()
    if leads:
        node.lead()
    for peer, message, after_s in steps:
        node.receive(peer, message)
        for _, said in node.turn(after_s):
            assert decode(encode(said)) == said, "what it says, its peers can read"


def test_a_term_that_no_elections_can_have_led_to_is_not_followed() -> None:
    node = Node()
    for term in (2**63 - 1, MAX_TERM + 1):
        node.receive("b", VoteRequest(term, 5, 5))
        assert node.replica.term == 0
    node.receive("b", VoteRequest(1000, 5, 5))
    assert node.replica.term == 1000, "a node that was away for long is still let back in"
    for _ in range(1000):
        node.receive("b", VoteRequest(MAX_TERM, 5, 5))
    assert node.replica.term <= 1000 + MAX_TERM_STEP, "one that lies takes terms slowly"


def test_a_leader_believes_no_refusal_of_what_it_never_sent() -> None:
    node = Node()
    node.lead()
    term = node.replica.term
    node.receive("b", AppendReply(term, term, True, 2, 0, 1, 0))
    node.turn()
    node.receive("b", AppendReply(term, term, False, 0, 2**62, 2**62, 0))
    sent = node.turn(after_s=0.11)
    assert [m.prev_log_index for p, m in sent if p == "b" and isinstance(m, AppendRequest)] == [2]
