"""What one turn builds for one peer is bounded, whatever that peer says in it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.consensus import PeerError, RaftSettings, Replica, followers
from quorate.consensus.configuration import CONFIGURATION, Configuration
from quorate.consensus.limits import MAX_INFLIGHT_APPENDS
from quorate.consensus.messages import (
    AppendReply,
    AppendRequest,
    Message,
    PreVoteReply,
    VoteReply,
)
from quorate.testing.raft_disk import MemoryLogStore

COMMAND_BYTES = 100
BATCH_BYTES = 1000
ENTRIES = 400
"""More than two windows of batches."""
MOST_BYTES = MAX_INFLIGHT_APPENDS * BATCH_BYTES


class Leader:
    """`a`, which leads `b` and `c`, with a log that `c` has acknowledged and `b` says things of."""

    def __init__(self) -> None:
        self.now = 100.0
        self.store = MemoryLogStore()
        initial = Configuration(("a", "b", "c"))
        self.store.turn.log_append(1, 0, CONFIGURATION + initial.encode())
        self.store.turn.put_configuration(1, initial.encode())
        self.store.turn.set_applied(1)
        for index in range(2, ENTRIES + 1):
            self.store.turn.log_append(index, 1, bytes(COMMAND_BYTES))
        self.store.commit()
        self.replica = Replica(
            node_id="a",
            initial=initial,
            settings=RaftSettings(),
            store=self.store,
            apply=lambda _index, _payload: None,
            stamp=lambda payload: payload,
            clock=lambda: self.now,
            wall_clock_ms=lambda: 0,
            chance=random.Random(1),  # noqa: S311
        )
        for peer in "bc":
            self.replica.connected(peer)
        self.now += 1.1
        self.turn()
        self.turn(PreVoteReply(1, True, 1))
        self.turn(VoteReply(2, True, 2))
        assert self.replica.is_leader
        self.turn(self.answer(True, self.last, self.last), peer="c")
        assert self.replica.commit_index == self.last

    @property
    def last(self) -> int:
        return self.store.last_index

    @staticmethod
    def answer(success: bool, match: int, prev: int, hint: int = 0, token: str = "") -> AppendReply:
        return AppendReply(2, 2, success, match, hint, prev, 0, token)

    def turn(self, *said: Message, peer: str = "b", after_s: float = 0.0) -> list[AppendRequest]:
        """A turn in which `peer` says so much; what it is sent."""
        self.now += after_s
        for message in said:
            try:
                self.replica.receive(peer, message)
            except PeerError:
                continue
        self.replica.tick()
        self.store.commit()
        sent = self.replica.take_outbox()
        return [m for name, m in sent if name == peer and isinstance(m, AppendRequest)]


def size(appends: list[AppendRequest]) -> int:
    return sum(len(entry.command) for append in appends for entry in append.entries)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followers, "MAX_APPEND_BYTES", BATCH_BYTES)


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("token", ["", "t"])
def test_any_number_of_refusals_is_answered_once(token: str) -> None:
    """Each leads the leader one entry back, so that each is one that it has to heed."""
    leader = Leader()
    places = range(leader.last, leader.last - ENTRIES // 2, -1)
    [append] = leader.turn(*(leader.answer(False, 0, at, at, token) for at in places))
    assert 0 < size([append]) <= BATCH_BYTES


@pytest.mark.usefixtures("small_batches")
def test_any_number_of_tokens_is_answered_once() -> None:
    """With each, all that was known of the peer is forgotten, and asked for anew."""
    leader = Leader()
    tokens = [f"{number:032x}" for number in range(1, ENTRIES)]
    [append] = leader.turn(*(leader.answer(False, 0, leader.last, 2, each) for each in tokens))
    assert 0 < size([append]) <= BATCH_BYTES


@pytest.mark.usefixtures("small_batches")
def test_acknowledgements_open_the_window_once_a_turn() -> None:
    leader = Leader()
    leader.turn(*(leader.answer(False, 0, leader.last - n, 2) for n in range(3)))
    sent = leader.turn(*(leader.answer(True, n, n) for n in range(2, 50)))
    assert len(sent) == MAX_INFLIGHT_APPENDS
    assert 0.9 * MOST_BYTES < size(sent) <= MOST_BYTES
    assert [append.prev_log_index for append in sent[:1]] == [49]


INDEXES = st.integers(1, ENTRIES + 3)
ANSWERS = st.builds(
    Leader.answer,
    st.booleans(),
    INDEXES,
    INDEXES,
    INDEXES,
    st.sampled_from(["", "", "", "t", "u"]),
)


@st.composite
def trains(draw: st.DrawFn) -> list[AppendReply]:
    """Answers that go together: each of the one before's successor or predecessor."""
    first, step = draw(INDEXES), draw(st.sampled_from([-1, 1]))
    success, token = draw(st.booleans()), draw(st.sampled_from(["", "", "t"]))
    places = range(first, max(1, min(ENTRIES + 3, first + step * draw(st.integers(1, 40)))), step)
    return [Leader.answer(success, at, at, at, token) for at in places]


TURNS = st.lists(
    st.tuples(
        st.one_of(trains(), st.lists(ANSWERS, max_size=12)), st.sampled_from([0.0, 0.0, 0.11])
    ),
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(turns=TURNS)
def test_no_turn_builds_more_for_a_peer_than_its_window(
    turns: list[tuple[list[AppendReply], float]],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(followers, "MAX_APPEND_BYTES", BATCH_BYTES)
        leader = Leader()
        for answers, after_s in turns:
            sent = leader.turn(*answers, after_s=after_s)
            assert size(sent) <= MOST_BYTES
            assert len(sent) <= MAX_INFLIGHT_APPENDS + 2, "a heartbeat, and a new commit index"
