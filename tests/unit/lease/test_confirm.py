"""The leader's side: a grant follows a majority's confirmations since the ask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from quorate.lease.authority import Ask, FederationTime, Grant
from quorate.lease.confirm import Confirm, ConfirmReply, ConfirmRounds, confirms

TIME = FederationTime(99, 90)

MS = 1_000_000


@dataclass
class Raft:
    is_leader: bool = True
    term: int = 3
    commit_index: int = 10
    last_index: int = 12
    commits_own_term: bool = True
    leader: str | None = "a"
    voters: Sequence[str] = ("a", "b", "c")
    members: Sequence[str] = ("a", "b", "c")
    committed_members: Sequence[str] = ("a", "b", "c")


@pytest.fixture
def raft() -> Raft:
    return Raft()


@pytest.fixture
def rounds() -> ConfirmRounds:
    return ConfirmRounds("a", ["b", "c"])


def _ask(seq: int) -> Ask:
    return Ask(seq, 0, 0)


# -- the voter ------------------------------------------------------------------------------------


def test_a_voter_confirms_the_leader_that_it_knows_in_the_term_that_it_is_in():
    raft = Raft(is_leader=False)
    assert confirms("a", Confirm(3, 8), raft) == ConfirmReply(3, 8)


@pytest.mark.parametrize(
    ("sender", "term", "leader"),
    [
        pytest.param("a", 2, "a", id="older term"),
        pytest.param("a", 4, "a", id="later term"),
        pytest.param("b", 3, "a", id="another leader"),
        pytest.param("a", 3, None, id="no leader known"),
    ],
)
def test_a_voter_confirms_nobody_else(sender: str, term: int, leader: str | None):
    assert confirms(sender, Confirm(term, 8), Raft(is_leader=False, leader=leader)) is None


# -- the leader -----------------------------------------------------------------------------------


def test_an_ask_is_granted_after_a_majority_confirmed(rounds: ConfirmRounds, raft: Raft):
    rounds.on_ask("c", _ask(7))
    assert rounds.start_round(raft, 0) == [("b", Confirm(3, 1)), ("c", Confirm(3, 1))]
    assert rounds.grants(raft, TIME, 1_000) == []
    rounds.on_reply("b", ConfirmReply(3, 1))
    assert rounds.grants(raft, TIME, 1_000) == [("c", Grant(7, 3, 10, TIME, 1_000))]
    assert rounds.grants(raft, TIME, 1_000) == [], "once"


def test_a_single_node_confirms_itself(raft: Raft):
    rounds = ConfirmRounds("a", [])
    rounds.on_ask("a", _ask(1))
    assert rounds.start_round(raft, 0) == []
    assert rounds.grants(raft, TIME, 1_000) == [("a", Grant(1, 3, 10, TIME, 1_000))]


@pytest.mark.parametrize(("peers", "needed"), [(1, 1), (2, 1), (3, 2), (4, 2), (8, 4)])
def test_a_majority_is_more_than_half_the_leader_included(raft: Raft, peers: int, needed: int):
    names = [f"p{i}" for i in range(peers)]
    rounds = ConfirmRounds("a", names)
    rounds.on_ask("a", _ask(1))
    rounds.start_round(raft, 0)
    answered = 0
    for name in names:
        answered += 1
        rounds.on_reply(name, ConfirmReply(3, 1))
        rounds.on_reply(name, ConfirmReply(3, 1))  # twice is once
        if rounds.grants(raft, TIME, 1_000):
            break
    assert answered == needed


def test_confirmations_from_before_the_ask_do_not_count(rounds: ConfirmRounds, raft: Raft):
    rounds.on_ask("b", _ask(1))
    rounds.start_round(raft, 0)
    rounds.on_ask("c", _ask(2))
    assert rounds.start_round(raft, 0)[0] == ("b", Confirm(3, 2))
    rounds.on_reply("b", ConfirmReply(3, 1))
    assert [grant.seq for _, grant in rounds.grants(raft, TIME, 1_000)] == [1]
    rounds.on_reply("c", ConfirmReply(3, 2))
    assert [grant.seq for _, grant in rounds.grants(raft, TIME, 1_000)] == [2]


def test_a_later_round_closes_the_earlier_ones(rounds: ConfirmRounds, raft: Raft):
    for seq in (1, 2):
        rounds.on_ask("b", _ask(seq))
        rounds.start_round(raft, 0)
    rounds.on_reply("c", ConfirmReply(3, 2))
    rounds.on_reply("c", ConfirmReply(3, 1))  # late
    assert [grant.seq for _, grant in rounds.grants(raft, TIME, 1_000)] == [1, 2]


def test_one_round_serves_all_that_wait(rounds: ConfirmRounds, raft: Raft):
    for node in "abc":
        rounds.on_ask(node, _ask(5))
    assert len(rounds.start_round(raft, 0)) == 2
    rounds.on_reply("b", ConfirmReply(3, 1))
    assert [node for node, _ in rounds.grants(raft, TIME, 1_000)] == ["a", "b", "c"]


def test_the_read_index_is_noted_when_the_round_begins(rounds: ConfirmRounds, raft: Raft):
    rounds.on_ask("b", _ask(1))
    rounds.start_round(raft, 0)
    raft.commit_index = 12
    assert rounds.pending_read_index("b") == 10
    assert rounds.pending_read_index("c") is None
    rounds.on_reply("b", ConfirmReply(3, 1))
    assert rounds.grants(raft, TIME, 1_000)[0][1].read_index == 10
    assert rounds.pending_read_index("b") is None


def test_the_lowest_pending_read_index_counts(rounds: ConfirmRounds, raft: Raft):
    for index in (10, 12):
        raft.commit_index = index
        rounds.on_ask("b", _ask(index))
        rounds.start_round(raft, 0)
    assert rounds.pending_read_index("b") == 10


def test_before_a_commit_of_its_own_a_leader_grants_nothing(rounds: ConfirmRounds, raft: Raft):
    raft.commits_own_term = False
    rounds.on_ask("b", _ask(1))
    assert rounds.start_round(raft, 0) == []
    rounds.on_reply("b", ConfirmReply(3, 0))
    assert rounds.grants(raft, TIME, 1_000) == []
    raft.commits_own_term, raft.commit_index = True, 11
    assert rounds.start_round(raft, 0)
    rounds.on_reply("b", ConfirmReply(3, 1))
    assert [grant for _, grant in rounds.grants(raft, TIME, 1_000)] == [
        Grant(1, 3, 11, TIME, 1_000)
    ]


@pytest.mark.parametrize(
    ("peer", "term", "number"),
    [
        pytest.param("b", 2, 1, id="of an older term"),
        pytest.param("b", 4, 1, id="of a later term"),
        pytest.param("b", 3, 2, id="for a round that never was"),
        pytest.param("x", 3, 1, id="of no voter"),
        pytest.param("a", 3, 1, id="of the leader itself"),
    ],
)
def test_a_reply_that_proves_nothing_is_void(
    rounds: ConfirmRounds, raft: Raft, peer: str, term: int, number: int
):
    rounds.on_ask("b", _ask(1))
    rounds.start_round(raft, 0)
    rounds.on_reply(peer, ConfirmReply(term, number))
    assert rounds.grants(raft, TIME, 1_000) == []


def test_a_round_does_not_outlive_the_leadership(rounds: ConfirmRounds, raft: Raft):
    rounds.on_ask("b", _ask(1))
    rounds.start_round(raft, 0)
    rounds.on_reply("b", ConfirmReply(3, 1))
    raft.is_leader = False
    assert rounds.grants(raft, TIME, 1_000) == []
    assert rounds.start_round(raft, 0) == []
    raft.is_leader, raft.term = True, 5
    assert rounds.start_round(raft, 10**12) == []
    assert rounds.grants(raft, TIME, 1_000) == []


def test_a_round_does_not_outlive_its_term_even_unseen(rounds: ConfirmRounds, raft: Raft):
    """Deposed and elected again between two turns."""
    rounds.on_ask("b", _ask(1))
    rounds.start_round(raft, 0)
    rounds.on_reply("b", ConfirmReply(3, 1))
    raft.term = 5
    assert rounds.grants(raft, TIME, 1_000) == []
    rounds.on_ask("c", _ask(2))
    sent = rounds.start_round(raft, 0)
    assert rounds.grants(raft, TIME, 1_000) == [], "confirmations of the older term are gone"
    rounds.on_reply("b", ConfirmReply(5, sent[0][1].round))
    assert rounds.grants(raft, TIME, 1_000) == [("c", Grant(2, 5, 10, TIME, 1_000))]


def test_asks_that_reach_a_follower_are_dropped(rounds: ConfirmRounds, raft: Raft):
    raft.is_leader = False
    rounds.on_ask("b", _ask(1))
    rounds.start_round(raft, 0)
    raft.is_leader = True
    assert rounds.start_round(raft, 0) == []


def test_confirms_are_sent_again_while_somebody_waits(rounds: ConfirmRounds, raft: Raft):
    rounds.on_ask("b", _ask(1))
    rounds.start_round(raft, 0)
    assert rounds.start_round(raft, 99 * MS) == []
    assert rounds.start_round(raft, 100 * MS) == [("b", Confirm(3, 1)), ("c", Confirm(3, 1))]
    rounds.on_reply("b", ConfirmReply(3, 1))
    rounds.grants(raft, TIME, 1_000)
    assert rounds.start_round(raft, 10**12) == []


def test_asks_of_one_node_take_bounded_memory_and_leave_the_others_alone(
    rounds: ConfirmRounds, raft: Raft
):
    rounds.on_ask("c", _ask(1))
    for seq in range(100):
        rounds.on_ask("b", _ask(seq))
    rounds.start_round(raft, 0)
    for seq in range(100, 200):
        rounds.on_ask("b", _ask(seq))
        rounds.start_round(raft, 0)
    rounds.on_reply("b", ConfirmReply(3, 101))
    granted = rounds.grants(raft, TIME, 1_000)
    assert [grant.seq for node, grant in granted if node == "b"] == [196, 197, 198, 199]
    assert [grant.seq for node, grant in granted if node == "c"] == [1]


# -- how long they take ---------------------------------------------------------------------------


def test_a_round_takes_from_its_start_to_its_majority(rounds: ConfirmRounds, raft: Raft):
    rounds.on_ask("c", _ask(7))
    rounds.start_round(raft, 5 * MS)
    assert rounds.take_durations_ns(9 * MS) == []
    rounds.on_reply("b", ConfirmReply(3, 1))
    assert rounds.take_durations_ns(12 * MS) == [7 * MS]
    assert rounds.take_durations_ns(13 * MS) == [], "once"


def test_a_late_answer_closes_all_rounds_before_it(rounds: ConfirmRounds, raft: Raft):
    for number in range(3):
        rounds.on_ask("c", _ask(number))
        rounds.start_round(raft, number * MS)
    rounds.on_reply("b", ConfirmReply(3, 2))
    assert rounds.take_durations_ns(10 * MS) == [10 * MS, 9 * MS]


def test_the_rounds_of_an_ended_leadership_are_not_measured(rounds: ConfirmRounds, raft: Raft):
    rounds.on_ask("c", _ask(7))
    rounds.start_round(raft, 0)
    raft.term = 5
    rounds.on_ask("c", _ask(8))
    rounds.start_round(raft, 30 * MS)
    rounds.on_reply("b", ConfirmReply(5, 2))
    assert rounds.take_durations_ns(31 * MS) == [1 * MS]


def test_without_a_majority_the_measuring_is_bounded(rounds: ConfirmRounds, raft: Raft):
    for number in range(1_000):
        rounds.on_ask("c", _ask(number))
        rounds.start_round(raft, number * MS)
    rounds.on_reply("b", ConfirmReply(3, 1_000))
    assert len(rounds.take_durations_ns(1_000 * MS)) == 64
