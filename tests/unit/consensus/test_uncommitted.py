"""How much of a leader's log may wait for its followers: a burst waits in its own queue instead."""

from __future__ import annotations

from tests.unit.consensus.test_replica import SETTINGS, Node, append

from quorate.consensus.limits import (
    MAX_APPENDS_PER_TURN,
    MAX_COMMAND_BYTES,
    MAX_QUEUED_APPENDS,
    MAX_UNCOMMITTED_APPENDS,
)
from quorate.consensus.messages import AppendReply, AppendRequest, Message, Propose

ROUND = MAX_COMMAND_BYTES // 256
"""How many short commands a source has taken before it is another's turn."""


class Leader(Node):
    """Leads `b` and `c`, and has committed the entry that its term begins with."""

    def __init__(self) -> None:
        super().__init__("b", "c")
        self.term = self.lead()
        self.said: list[tuple[str, Message]] = []
        self.go_on(after_s=2 * SETTINGS.heartbeat_s)
        self.answer()
        self.answer()
        assert self.uncommitted == 0

    def go_on(self, after_s: float = 0.0) -> None:
        self.said += self.turn(after_s=after_s)

    def answer(self, peer: str = "b") -> None:
        """What it has sent to one of them is acknowledged, in one turn."""
        sent = [each for to, each in self.said if to == peer and isinstance(each, AppendRequest)]
        self.said = []
        for each in sent:
            held = each.prev_log_index + len(each.entries)
            reply = AppendReply(self.term, self.term, True, held, 0, each.prev_log_index, 0)
            self.replica.receive(peer, reply)
        self.go_on()

    @property
    def uncommitted(self) -> int:
        return self.replica.last_index - self.replica.commit_index

    def burst(self, peer: str, count: int) -> None:
        for number in range(count):
            key = b"%s%05d" % (peer.encode(), number)
            self.replica.receive(peer, Propose(key, key))

    def order(self) -> list[bytes]:
        """The proposals in its log."""
        return [command[2:] for _, command in self.log() if command[:2] == b"\x00@"]


def test_a_leader_whose_followers_do_not_answer_takes_no_more_than_a_bounded_tail() -> None:
    leader = Leader()
    leader.burst("b", MAX_QUEUED_APPENDS)
    leader.burst("c", MAX_QUEUED_APPENDS)
    for _ in range(10):
        leader.go_on()
    assert leader.uncommitted == MAX_UNCOMMITTED_APPENDS
    assert not leader.replica.has_more, "it would spin"
    assert leader.replica.next_timer() > leader.now


def test_one_entry_of_room_is_room_for_one() -> None:
    leader = Leader()
    leader.burst("b", MAX_UNCOMMITTED_APPENDS - 1)
    leader.go_on()
    leader.go_on()
    assert leader.uncommitted == MAX_UNCOMMITTED_APPENDS - 1
    leader.burst("b", MAX_QUEUED_APPENDS)
    leader.go_on()
    leader.go_on()
    assert leader.uncommitted == MAX_UNCOMMITTED_APPENDS


def test_what_is_committed_makes_room_in_the_same_turn() -> None:
    """Nothing but the followers' answers is needed for all to get through."""
    leader = Leader()
    leader.burst("b", MAX_QUEUED_APPENDS)
    leader.burst("c", MAX_QUEUED_APPENDS)
    leader.go_on()
    leader.go_on()
    turns = 0
    while leader.replica.last_index < 2 + 2 * MAX_QUEUED_APPENDS:
        before = leader.replica.last_index
        leader.answer()
        assert leader.replica.last_index == before + MAX_APPENDS_PER_TURN
        assert any(isinstance(each, AppendRequest) and each.entries for _, each in leader.said)
        turns += 1
    assert turns == 2 * MAX_QUEUED_APPENDS // MAX_APPENDS_PER_TURN - 2
    leader.answer()
    assert leader.uncommitted == 0
    leader.go_on()
    assert len(leader.applied) == 2 * MAX_QUEUED_APPENDS


def test_one_turns_worth_is_written_while_another_is_acknowledged() -> None:
    """A log that took nothing before all of it is committed would stand still half of the time."""
    leader = Leader()
    leader.burst("b", MAX_QUEUED_APPENDS)
    leader.burst("c", MAX_QUEUED_APPENDS)
    leader.go_on()
    first = leader.said
    leader.said = []
    leader.go_on()
    second, leader.said = leader.said, first
    leader.answer()
    assert leader.uncommitted == 2 * MAX_APPENDS_PER_TURN
    leader.said = second + leader.said
    leader.answer()
    assert leader.replica.last_index > 2 + 3 * MAX_APPENDS_PER_TURN


def test_who_comes_late_waits_for_a_tail_and_a_round_and_not_for_a_burst() -> None:
    leader = Leader()
    leader.burst("b", MAX_QUEUED_APPENDS)
    leader.go_on()
    leader.burst("b", MAX_QUEUED_APPENDS // 2)
    for _ in range(3):
        leader.go_on()
    leader.replica.receive("c", Propose(b"late", b"late"))
    leader.answer()
    assert leader.order().index(b"late") <= MAX_UNCOMMITTED_APPENDS + ROUND


def test_a_change_of_members_is_not_held_back() -> None:
    leader = Leader()
    leader.burst("b", MAX_QUEUED_APPENDS)
    for _ in range(3):
        leader.go_on()
    before = leader.replica.last_index
    assert leader.uncommitted >= MAX_UNCOMMITTED_APPENDS
    wanted = leader.replica.configuration.with_learner("d")
    assert leader.replica.change_configuration(wanted)
    leader.go_on()
    assert leader.replica.last_index == before + 1
    leader.answer()
    leader.answer()
    assert leader.replica.is_settled


def test_a_new_leader_begins_its_term_behind_any_tail() -> None:
    """What others have left uncommitted is committed with its first entry, and by nothing else."""
    node = Node("b", "c")
    tail = MAX_UNCOMMITTED_APPENDS + 5
    half = tail // 2
    node.turn(("b", append(1, 1, 0, *[1] * half)))
    node.turn(("b", append(1, 1 + half, 1, *[1] * half)))
    node.turn(("b", append(1, 1 + 2 * half, 1, *[1] * (tail - 2 * half))))
    term = node.lead()
    assert node.replica.last_index == 1 + tail + 1
    node.replica.propose(b"key", b"payload")
    node.turn()
    assert node.replica.last_index == 1 + tail + 1
    assert not node.replica.has_more
    last = node.replica.last_index
    sent = node.turn(
        ("b", AppendReply(term, term, True, 1 + tail, 0, 1 + tail, 0)),
        after_s=2 * SETTINGS.heartbeat_s,
    )
    [request] = [m for to, m in sent if to == "b" and isinstance(m, AppendRequest) and m.entries]
    node.turn(("b", AppendReply(term, term, True, last, 0, request.prev_log_index, 0)))
    assert node.replica.commit_index == last
    assert node.replica.last_index == last + 1, "what was proposed comes with the same turn"


def test_a_leader_alone_gets_through_a_burst_by_itself() -> None:
    node = Node()
    node.turn(after_s=2 * SETTINGS.election_max_s)
    for number in range(MAX_QUEUED_APPENDS):
        assert node.replica.propose(b"%d" % number, b"p")
    turns = 0
    while node.replica.has_more or not turns:
        node.turn()
        turns += 1
        assert turns < 20
    assert len(node.applied) == MAX_QUEUED_APPENDS
