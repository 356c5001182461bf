"""Who holds changes up: counted by the leader, told on demand, shown and never relied on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.unit.node.test_authority_keeper import PERIOD_MS, Node

from quorate.consensus import PeerError
from quorate.lease.authority import Ask
from quorate.lease.confirm import Confirm, ConfirmReply
from quorate.lease.word import AuthorityWord
from quorate.node.authority_wire import (
    AuthorityMessage,
    EnforcedReport,
    OpenAsk,
    OpenMember,
    OpenReply,
)
from quorate.node.open_members import ANSWER_EVERY_MS, ASK_EVERY_MS, KNOWN_FOR_MS

Sent = list[tuple[str, AuthorityMessage]]


@pytest.fixture
def word() -> Iterator[AuthorityWord]:
    word = AuthorityWord.create()
    yield word
    word.close()


@pytest.fixture
def node(word: AuthorityWord) -> Node:
    return Node(word)


def replies(sent: Sent) -> Sent:
    return [(peer, message) for peer, message in sent if isinstance(message, OpenReply)]


def names(node: Node) -> list[str] | None:
    members = node.keeper.open_members(node.raft)
    return None if members is None else [each.node_id for each in members]


# -- the leader ----------------------------------------------------------------------------------


def test_the_leader_counts_who_has_not_enforced_or_drained_everything(node: Node):
    node.lead()
    node.keeper.tick(node.raft, 10, 10, 10)
    node.turn(("b", EnforcedReport(10, 7)), ("c", EnforcedReport(8, 8)))
    assert node.keeper.open_members(node.raft) == [
        OpenMember("b", 10, 7),
        OpenMember("c", 8, 8),
    ]
    node.turn(("b", EnforcedReport(10, 10)), ("c", EnforcedReport(10, 10)))
    assert names(node) == []


def test_a_member_that_has_lapsed_holds_nothing_up(node: Node):
    node.lead()
    node.keeper.tick(node.raft, 10, 10, 10)
    node.turn(("b", EnforcedReport(10, 10)))
    assert node.keeper.open_members(node.raft) == [OpenMember("c", 0, 0)]
    node.clock.advance_ms(PERIOD_MS * 101 // 100)
    assert node.keeper.open_members(node.raft) == [OpenMember("c", 10, 0)], "its executors' clocks"
    node.clock.advance_ms(PERIOD_MS * 2 // 100)
    assert names(node) == []


def test_who_is_granted_authority_for_an_older_state_is_open_again(node: Node):
    """The grant that waits for its majority is for what was committed when it was asked for."""
    node.lead()
    node.keeper.tick(node.raft, 10, 10, 10)
    node.turn(("b", EnforcedReport(10, 10)), ("c", EnforcedReport(9, 9)))
    node.clock.advance_ms(2 * PERIOD_MS)
    assert names(node) == []
    sent = node.turn(("c", Ask(1, 9, 9, 9)))
    node.raft.commit_index = node.raft.last_index = 12
    node.keeper.tick(node.raft, 12, 12, 12)
    assert OpenMember("c", 10, 10) in (node.keeper.open_members(node.raft) or ())
    asked = max(message.round for _, message in sent if isinstance(message, Confirm))
    node.turn(("b", ConfirmReply(3, asked)))
    assert OpenMember("c", 9, 9) in (node.keeper.open_members(node.raft) or ())


def test_the_leader_answers_who_asks(node: Node):
    node.lead()
    node.keeper.tick(node.raft, 10, 10, 10)
    node.turn(("b", EnforcedReport(10, 10)))
    sent = node.turn(("b", OpenAsk()))
    assert replies(sent) == [("b", OpenReply(3, (OpenMember("c", 0, 0),)))]


def test_who_asks_too_often_gets_no_more_answers(node: Node):
    node.lead()
    node.turn()
    sent = node.turn(*[("b", OpenAsk())] * 1_000, ("c", OpenAsk()))
    assert [peer for peer, _ in replies(sent)] == ["b", "c"]
    node.clock.advance_ms(ANSWER_EVERY_MS - 1)
    assert replies(node.turn(("b", OpenAsk()))) == []
    node.clock.advance_ms(1)
    assert len(replies(node.turn(("b", OpenAsk())))) == 1


def test_strangers_followers_and_leaders_that_cannot_know_answer_nothing(node: Node):
    assert replies(node.turn(("b", OpenAsk()))) == []
    node.lead()
    node.raft.commits_own_term = False
    node.clock.advance_ms(ANSWER_EVERY_MS)
    assert replies(node.turn(("b", OpenAsk()))) == []
    assert names(node) is None
    node.raft.commits_own_term = True
    node.turn()
    node.clock.advance_ms(ANSWER_EVERY_MS)
    assert replies(node.turn(("x", OpenAsk()))) == []
    assert len(replies(node.turn(("b", OpenAsk())))) == 1


# -- who asks ------------------------------------------------------------------------------------


def asks(node: Node) -> int:
    node.keeper.ask_open(node.raft)
    return sum(message == OpenAsk() for _, message in node.keeper.take_outbox())


def test_nothing_is_asked_when_nobody_waits(node: Node):
    sent = []
    for _ in range(50):
        sent += node.turn()
        node.clock.advance_ms(ASK_EVERY_MS)
    assert not any(isinstance(message, OpenAsk | OpenReply) for _, message in sent)


def test_the_leader_of_now_is_asked_now_and_then(node: Node):
    node.turn()
    assert [asks(node) for _ in range(5)] == [1, 0, 0, 0, 0]
    node.clock.advance_ms(ASK_EVERY_MS - 1)
    assert asks(node) == 0
    node.clock.advance_ms(1)
    assert asks(node) == 1
    node.raft.leader, node.raft.term = "c", 4
    assert node.keeper.ask_open(node.raft)
    assert node.keeper.take_outbox() == [("c", OpenAsk())]
    node.clock.advance_ms(ASK_EVERY_MS)
    node.raft.leader = None
    assert asks(node) == 0
    node.lead(5)
    assert asks(node) == 0, "the leader counts by itself"


def test_what_the_leader_says_is_shown_as_long_as_it_is_new(node: Node):
    assert names(node) is None
    node.keeper.ask_open(node.raft)
    node.turn(("b", OpenReply(3, (OpenMember("c", 9, 8),))))
    assert node.keeper.open_members(node.raft) == (OpenMember("c", 9, 8),)
    node.clock.advance_ms(KNOWN_FOR_MS - 1)
    assert names(node) == ["c"]
    node.clock.advance_ms(1)
    assert names(node) is None


@pytest.mark.parametrize(
    ("peer", "reply"),
    [
        ("c", OpenReply(3, (OpenMember("c", 1, 1),))),
        ("b", OpenReply(2, (OpenMember("c", 1, 1),))),
        ("b", OpenReply(4, (OpenMember("c", 1, 1),))),
    ],
    ids=["another node", "an older term", "a later term"],
)
def test_only_the_leader_of_now_is_believed(node: Node, peer: str, reply: OpenReply):
    node.keeper.ask_open(node.raft)
    node.turn((peer, reply))
    assert names(node) is None


def test_a_late_answer_of_an_earlier_term_takes_nothing_away(node: Node):
    node.keeper.ask_open(node.raft)
    node.turn(
        ("b", OpenReply(3, (OpenMember("c", 1, 1),))), ("b", OpenReply(2, (OpenMember("a", 1, 1),)))
    )
    assert names(node) == ["c"]


def test_what_was_not_asked_for_is_not_kept(node: Node):
    node.turn(("b", OpenReply(3, (OpenMember("c", 1, 1),))))
    assert names(node) is None


def test_the_answer_of_a_leader_ends_with_its_term(node: Node):
    node.keeper.ask_open(node.raft)
    node.turn(("b", OpenReply(3, (OpenMember("c", 1, 1),))))
    node.raft.term = 4
    assert names(node) is None


@pytest.mark.parametrize(
    "members",
    [
        (OpenMember("c", 1, 1), OpenMember("c", 2, 2)),
        tuple(OpenMember(f"n{number}", 1, 1) for number in range(73)),
        (OpenMember("c", 1, 2),),
    ],
    ids=["twice", "more than there can be", "drained before enforced"],
)
def test_an_answer_that_no_leader_gives_is_refused(node: Node, members: tuple[OpenMember, ...]):
    node.keeper.ask_open(node.raft)
    with pytest.raises(PeerError):
        node.turn(("b", OpenReply(3, members)))
    assert names(node) is None


def test_members_that_are_not_known_are_left_out(node: Node):
    node.keeper.ask_open(node.raft)
    node.turn(("b", OpenReply(3, (OpenMember("c", 1, 1), OpenMember("nobody", 1, 1)))))
    assert names(node) == ["c"]


def test_no_answer_moves_a_level(node: Node):
    node.keeper.ask_open(node.raft)
    node.turn(("b", OpenReply(3, (OpenMember("a", 10, 10), OpenMember("c", 10, 10)))))
    node.turn(("b", OpenReply(3, ())))
    assert (node.keeper.watermark, node.keeper.drained) == (0, 0)
