"""Pre-vote, leader stickiness and hand-over: one replica among peers that the test plays."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

import pytest

from quorate.consensus import RaftSettings, Replica
from quorate.consensus.configuration import CONFIGURATION, Configuration
from quorate.consensus.elections import Elections
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
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from quorate.testing.raft_disk import MemoryLogStore

SETTINGS = RaftSettings()
Kind = TypeVar("Kind", bound=Message)
Sent = list[tuple[str, Message]]


class Node:
    """A replica `a` with its disk, its clock and, if it is on probation, its token."""

    def __init__(self, *peers: str, configuration: Configuration | None = None) -> None:
        self.now = 100.0
        self.token = ""
        self.store = MemoryLogStore()
        self.replica = Replica(
            node_id="a",
            initial=configuration or Configuration(tuple(sorted(("a", *peers)))),
            settings=SETTINGS,
            store=self.store,
            apply=lambda index, payload: self.store.turn.ledger.append((index, payload)),
            stamp=lambda payload: payload,
            clock=lambda: self.now,
            wall_clock_ms=lambda: 0,
            chance=random.Random(1),  # noqa: S311
            probation=lambda: self.token,
        )
        for peer in self.replica.peer_ids:
            self.replica.connected(peer)

    def turn(self, *received: tuple[str, Message], after_s: float = 0.0) -> Sent:
        self.now += after_s
        for peer, message in received:
            self.replica.receive(peer, message)
        self.replica.tick()
        self.store.commit()
        return self.replica.take_outbox()

    def ask(self) -> Sent:
        """Its patience with a leader that it does not hear ends."""
        return self.turn(after_s=2 * SETTINGS.election_max_s)

    def would(self, *peers: str, term: int | None = None, granted: bool = True) -> Sent:
        """Answers of `peers` to its pre-vote requests."""
        asked = self.replica.term
        answer = PreVoteReply(asked if term is None else term, granted, asked)
        return self.turn(*((peer, answer) for peer in peers))

    def lead(self) -> int:
        self.ask()
        self.would(*self.replica.peer_ids)
        term = self.replica.term
        self.turn(*((peer, VoteReply(term, True, term)) for peer in self.replica.peer_ids))
        assert self.replica.is_leader
        return term

    def acknowledge(self, *peers: str, index: int) -> Sent:
        term = self.replica.term
        answer = AppendReply(term, term, True, index, 0, index, 0)
        return self.turn(*((peer, answer) for peer in peers))


def of(kind: type[Kind], sent: Sent) -> list[tuple[str, Kind]]:
    return [(peer, message) for peer, message in sent if isinstance(message, kind)]


def heartbeat(term: int) -> AppendRequest:
    return AppendRequest(term, 1, 0, 1, ())


# -- asking --------------------------------------------------------------------------------------


def test_nobody_campaigns_before_a_majority_would_vote() -> None:
    node = Node("b", "c", "d", "e")
    asked = node.ask()
    assert of(PreVoteRequest, asked) == [(peer, PreVoteRequest(0, 1, 0)) for peer in "bcde"]
    node.would("b")
    assert (node.replica.term, node.replica.role) == (0, "follower")
    assert node.store.meta.term == 0
    sent = node.would("d")
    assert [peer for peer, _ in of(VoteRequest, sent)] == ["b", "c", "d", "e"]
    assert (node.replica.term, node.store.meta.voted_for) == (1, "a")


def test_a_round_without_a_majority_is_tried_again_and_changes_nothing() -> None:
    node = Node("b", "c")
    rounds = 0
    for _ in range(100):
        node.now = max(node.now, node.replica.next_timer()) + 0.001
        rounds += bool(of(PreVoteRequest, node.turn()))
    assert rounds > 50
    assert node.now < 100 + 60, "it is tried again sooner than after an election timeout"
    assert (node.replica.term, node.store.meta.term) == (0, 0)


def test_a_pre_vote_counts_once_however_often_it_arrives() -> None:
    node = Node("b", "c", "d", "e")
    node.ask()
    for _ in range(5):
        node.would("b")
    assert node.replica.term == 0
    node.would("c")
    assert node.replica.term == 1


def test_answers_of_two_rounds_are_answers_of_one_term() -> None:
    """A majority that is slower than the rounds are is a majority all the same, but not of the
    same answers."""
    node = Node("b", "c", "d", "e")
    node.ask()
    node.would("b")
    node.turn(after_s=5 * SETTINGS.heartbeat_s)
    node.would("c")
    assert node.replica.term == 0, "what was said in the round before is forgotten"
    node.would("b")
    assert node.replica.term == 1


@pytest.mark.parametrize("peer", ["x", "l"])
def test_who_does_not_vote_is_not_asked_and_not_counted(peer: str) -> None:
    node = Node(configuration=Configuration(("a", "b", "c"), ("l",)))
    node.replica.connected("x")
    assert {name for name, _ in of(PreVoteRequest, node.ask())} == {"b", "c"}
    node.would(peer)
    assert node.replica.term == 0
    asked = {name for name, _ in of(VoteRequest, node.would("b"))}
    assert asked == {"b", "c"}
    term = node.replica.term
    node.turn((peer, VoteReply(term, True, term)))
    assert node.replica.role == "candidate"


def test_a_refusal_does_not_count_and_a_later_term_is_followed() -> None:
    node = Node("b", "c")
    node.ask()
    node.would("b", "c", granted=False)
    assert node.replica.role == "follower"
    node.would("b", term=7, granted=False)
    assert node.replica.term == 7
    [(_, request), _] = of(PreVoteRequest, node.ask())
    assert request.term == 7


def test_an_answer_to_an_earlier_term_does_not_count() -> None:
    node = Node("b", "c")
    node.ask()
    node.turn(("c", VoteRequest(3, 1, 0)))
    assert node.replica.term == 3
    node.turn(("b", PreVoteReply(0, True, 0)))
    assert (node.replica.term, node.replica.role) == (3, "follower")


def test_answers_that_come_when_a_leader_is_heard_come_too_late() -> None:
    node = Node("b", "c")
    node.ask()
    node.turn(("c", heartbeat(0)))
    node.would("b")
    assert node.replica.leader == "c"
    assert node.replica.term == 0
    node.turn(after_s=SETTINGS.election_min_s)
    node.would("b")
    assert node.replica.term == 0, "what was said before the leader spoke is void for good"


def test_a_candidate_that_does_not_win_asks_again_before_its_next_candidacy() -> None:
    node = Node("b", "c", "d", "e")
    node.ask()
    node.would("b", "c")
    assert (node.replica.role, node.replica.term) == ("candidate", 1)
    for _ in range(20):
        node.turn(after_s=SETTINGS.election_max_s)
    assert node.replica.term == 1
    node.would("b", "c")
    assert node.replica.term == 2


def test_a_voter_alone_asks_nobody() -> None:
    node = Node()
    node.ask()
    assert (node.replica.is_leader, node.replica.term) == (True, 1)


# -- answering -----------------------------------------------------------------------------------


def answer(node: Node, request: PreVoteRequest, peer: str = "c") -> PreVoteReply:
    [(to, reply)] = of(PreVoteReply, node.turn((peer, request)))
    assert to == peer
    return reply


def test_a_pre_vote_is_no_vote() -> None:
    node = Node("b", "c")
    for peer in ("b", "c", "b"):
        assert answer(node, PreVoteRequest(0, 1, 0), peer) == PreVoteReply(0, True, 0)
    assert node.store.meta.voted_for is None
    assert node.store.meta.term == 0


def test_a_pre_vote_request_moves_no_term_and_no_timer() -> None:
    node = Node("b", "c")
    due = node.replica.next_timer()
    assert answer(node, PreVoteRequest(40, 1, 0)) == PreVoteReply(0, True, 40)
    assert node.replica.term == 0
    assert node.replica.next_timer() == due


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        (PreVoteRequest(3, 3, 3), True),
        (PreVoteRequest(3, 2, 3), False),
        (PreVoteRequest(3, 9, 2), False),
        (PreVoteRequest(2, 3, 3), False),
        (PreVoteRequest(4, 4, 3), True),
    ],
)
def test_it_would_vote_for_a_newer_log_in_a_term_that_is_none_of_the_past(
    asked: PreVoteRequest, granted: bool
) -> None:
    node = Node("b", "c")
    entries = (Entry(2, 3, b"\x01"), Entry(3, 3, b"\x00x"))
    node.turn(("b", AppendRequest(3, 1, 0, 1, entries)))
    node.now += SETTINGS.election_min_s
    assert answer(node, asked) == PreVoteReply(3, granted, asked.term)


def test_who_hears_a_leader_would_vote_for_nobody() -> None:
    node = Node("b", "c")
    node.turn(("b", heartbeat(2)))
    node.now += 0.99 * SETTINGS.election_min_s
    assert not answer(node, PreVoteRequest(9, 9, 9)).granted
    node.now += 0.02 * SETTINGS.election_min_s
    assert answer(node, PreVoteRequest(9, 9, 9)).granted


def test_a_leader_would_vote_for_nobody() -> None:
    node = Node("b", "c")
    node.lead()
    assert not answer(node, PreVoteRequest(9, 9, 9)).granted
    assert node.replica.is_leader


def test_on_probation_it_neither_votes_nor_would_nor_asks() -> None:
    node = Node("b", "c")
    node.token = "token"
    assert not of(PreVoteRequest, node.ask())
    assert not answer(node, PreVoteRequest(5, 9, 5)).granted
    [(_, reply)] = of(VoteReply, node.turn(("c", VoteRequest(5, 9, 5))))
    assert (reply.granted, node.replica.term) == (False, 5)
    assert node.store.meta.voted_for is None
    [(_, ack)] = of(AppendReply, node.turn(("b", heartbeat(5))))
    assert (ack.success, ack.probation) == (True, "token")
    node.turn(("b", TimeoutNow(5)))
    assert node.replica.role == "follower"


def test_who_was_readmitted_says_so_as_long_as_the_configuration_does() -> None:
    """So no answer of before it forgot is taken for one of after."""
    node = Node("b", "c", configuration=Configuration(("b", "c"), ("a",), (("a", "token"),)))
    node.token = "another token"
    [(_, ack)] = of(AppendReply, node.turn(("b", heartbeat(5))))
    assert (ack.probation, ack.readmitted) == ("another token", False)
    node.token = ""
    [(_, ack)] = of(AppendReply, node.turn(("b", heartbeat(5))))
    assert (ack.probation, ack.readmitted) == ("token", True)
    node = Node("b", "c")
    [(_, ack)] = of(AppendReply, node.turn(("b", heartbeat(5))))
    assert (ack.probation, ack.readmitted) == ("", False)


# -- stickiness ----------------------------------------------------------------------------------


def test_who_hears_a_leader_is_not_talked_into_a_newer_term() -> None:
    node = Node("b", "c")
    node.turn(("b", heartbeat(2)))
    [(peer, reply)] = of(VoteReply, node.turn(("c", VoteRequest(9, 9, 9))))
    assert (peer, reply) == ("c", VoteReply(2, False, 9))
    assert (node.replica.term, node.replica.leader, node.store.meta.term) == (2, "b", 2)


def test_a_leader_is_not_talked_out_of_its_term() -> None:
    node = Node("b", "c")
    term = node.lead()
    node.turn(("c", VoteRequest(term + 5, 9, 9)))
    assert (node.replica.is_leader, node.replica.term) == (True, term)


def test_a_leader_that_has_handed_over_is_no_reason_to_refuse() -> None:
    node = Node("b", "c")
    node.turn(("b", heartbeat(2)))
    [(_, reply)] = of(VoteReply, node.turn(("c", VoteRequest(3, 9, 2, transfer=True))))
    assert reply == VoteReply(3, True, 3)
    assert node.store.meta.voted_for == "c"


def test_an_old_log_gets_no_vote_by_saying_that_it_was_called() -> None:
    node = Node("b", "c")
    node.turn(("b", AppendRequest(2, 1, 0, 1, (Entry(2, 2, b"\x01"),))))
    [(_, reply)] = of(VoteReply, node.turn(("c", VoteRequest(3, 1, 0, transfer=True))))
    assert not reply.granted


def test_patience_ends_with_the_shortest_election_timeout() -> None:
    node = Node("b", "c")
    node.turn(("b", heartbeat(2)))
    node.now += 1.01 * SETTINGS.election_min_s
    [(_, reply)] = of(VoteReply, node.turn(("c", VoteRequest(3, 9, 2))))
    assert reply.granted


# -- handing over --------------------------------------------------------------------------------


def leading(*peers: str) -> Node:
    node = Node(*(peers or ("b", "c")))
    node.lead()
    node.acknowledge(*node.replica.peer_ids, index=2)
    return node


def test_the_heir_is_told_when_it_has_everything() -> None:
    node = leading()
    node.replica.propose(b"k", b"v")
    node.turn()
    assert node.replica.hand_over("b")
    assert not of(TimeoutNow, node.turn()), "it lacks an entry"
    assert not of(TimeoutNow, node.acknowledge("c", index=3))
    term = node.replica.term
    assert of(TimeoutNow, node.acknowledge("b", index=3)) == [("b", TimeoutNow(term))]
    assert not of(TimeoutNow, node.turn()), "once is enough for a while"
    again = node.turn(after_s=1.01 * SETTINGS.heartbeat_s)
    assert of(TimeoutNow, again) == [("b", TimeoutNow(term))], "the first may be lost"


def test_without_a_name_the_nearest_that_answers_is_the_heir() -> None:
    node = leading("b", "c", "d")
    node.replica.propose(b"k", b"v")
    node.turn()
    node.acknowledge("c", index=3)
    node.replica.disconnected("d")
    assert node.replica.hand_over()
    assert [peer for peer, _ in of(TimeoutNow, node.turn())] == ["c"]


def test_meanwhile_nothing_new_is_taken_and_nothing_is_lost() -> None:
    node = leading()
    node.replica.hand_over("b")
    node.replica.propose(b"own", b"own")
    refused = node.turn(("c", Propose(b"k", b"v")))
    assert of(ProposeReply, refused) == [("c", ProposeReply(b"k", Refusal.BUSY))]
    assert node.store.last_index == 2
    for _ in range(2):
        node.now += 0.51 * SETTINGS.election_min_s
        node.acknowledge("b", "c", index=2)
    node.turn()
    assert [command for _, command in node.store.entries[2:]] == [b"\x00own"]


def test_it_is_given_up_after_an_election_timeout() -> None:
    node = leading()
    node.replica.hand_over("b")
    told = 0
    for _ in range(10):
        node.now += SETTINGS.election_min_s / 5
        told += len(of(TimeoutNow, node.acknowledge("b", "c", index=2)))
    assert 0 < told <= 5
    assert node.replica.is_leader
    assert node.replica.propose(b"k", b"v")
    node.turn()
    assert node.store.last_index == 3


@pytest.mark.parametrize("heir", ["a", "x", "l", "d"])
def test_only_a_voter_that_can_be_reached_can_be_the_heir(heir: str) -> None:
    node = Node(configuration=Configuration(("a", "b", "d"), ("l",)))
    node.lead()
    node.replica.disconnected("d")
    assert not node.replica.hand_over(heir)
    assert node.replica.hand_over("b")


def test_a_follower_has_nothing_to_hand_over() -> None:
    node = Node("b", "c")
    node.turn(("b", heartbeat(1)))
    assert not node.replica.hand_over("c")
    assert not node.replica.hand_over()


def test_the_heir_campaigns_at_once_and_says_why() -> None:
    node = Node("b", "c")
    node.turn(("b", heartbeat(4)))
    sent = node.turn(("b", TimeoutNow(4)))
    assert of(VoteRequest, sent) == [
        (peer, VoteRequest(5, 1, 0, transfer=True)) for peer in ("b", "c")
    ]
    assert not of(PreVoteRequest, sent)


def test_an_heir_that_does_not_win_asks_like_everybody_the_next_time() -> None:
    node = Node("b", "c", "d", "e")
    node.turn(("b", heartbeat(4)))
    node.turn(("b", TimeoutNow(4)))
    assert node.replica.term == 5
    assert not of(VoteRequest, node.ask())
    [(_, request), *_] = of(VoteRequest, node.would("c", "d"))
    assert request == VoteRequest(6, 1, 0, transfer=False)


@pytest.mark.parametrize(("peer", "term"), [("c", 4), ("b", 3), ("x", 4)])
def test_only_the_leader_of_its_term_can_call_it(peer: str, term: int) -> None:
    node = Node("b", "c")
    node.turn(("b", heartbeat(4)))
    assert not of(VoteRequest, node.turn((peer, TimeoutNow(term))))
    assert (node.replica.term, node.replica.role) == (4, "follower")


def test_a_learner_is_not_called() -> None:
    node = Node("b", "c")
    learner = Configuration(("b", "c"), ("a",))
    entry = Entry(2, 4, CONFIGURATION + learner.encode())
    node.turn(("b", AppendRequest(4, 1, 0, 1, (entry,))))
    assert node.replica.voters == ("b", "c")
    assert not of(VoteRequest, node.turn(("b", TimeoutNow(4))))
    assert not of(PreVoteRequest, node.ask())


# -- the rules by themselves -----------------------------------------------------------------------


class Log:
    def first_index(self) -> int:
        return 5

    def last_index(self) -> int:
        return 9

    def term_at(self, index: int) -> int | None:
        return 2 if 5 <= index <= 9 else None


def elections(now: Callable[[], float] = lambda: 0.0) -> Elections:
    return Elections(now, SETTINGS, random.Random(0))  # noqa: S311


def test_a_round_asks_with_the_end_of_the_log() -> None:
    assert elections().ask(7, Log()) == PreVoteRequest(7, 9, 2)


def test_rounds_are_spread_so_that_rivals_do_not_stay_in_step() -> None:
    waits = {elections().ask_again_s() for _ in range(1)} | {
        Elections(lambda: 0.0, SETTINGS, random.Random(seed)).ask_again_s()  # noqa: S311
        for seed in range(50)
    }
    assert len(waits) > 40
    assert min(waits) >= 2 * SETTINGS.heartbeat_s
    assert max(waits) <= 4 * SETTINGS.heartbeat_s < SETTINGS.election_min_s


def test_a_majority_is_taken_in_once() -> None:
    found = elections()
    found.ask(7, Log())
    assert found.on_reply("b", PreVoteReply(7, True, 7), 7, ["b", "c"])
    found.over()
    assert not found.on_reply("c", PreVoteReply(7, True, 7), 7, ["b", "c"])
    assert not found.is_called
