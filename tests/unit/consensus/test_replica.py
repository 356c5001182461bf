"""One replica among peers that the test plays: timers, proposals, and the order of a turn."""

from __future__ import annotations

import random

import pytest

from quorate.consensus import PeerError, RaftSettings, Replica, SafetyViolationError
from quorate.consensus.configuration import COMMAND, Configuration
from quorate.consensus.limits import (
    MAX_COMMAND_BYTES,
    MAX_PENDING_BYTES,
    MAX_PENDING_PROPOSALS,
    MAX_QUEUED_APPENDS,
)
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
    VoteReply,
    VoteRequest,
)
from quorate.testing.raft_disk import MemoryLogStore

SETTINGS = RaftSettings()


class Node:
    """A replica `a`, its disk and its clock. `turn` does a whole turn and returns what it says."""

    def __init__(
        self, *peers: str, store: MemoryLogStore | None = None, voters: tuple[str, ...] = ()
    ) -> None:
        self.now = 100.0
        self.store = store or MemoryLogStore()
        self.applied: list[tuple[int, bytes]] = []
        self.replica = Replica(
            node_id="a",
            initial=Configuration(voters or tuple(sorted(("a", *peers)))),
            settings=SETTINGS,
            store=self.store,
            apply=lambda index, payload: self.applied.append((index, payload)),
            stamp=lambda payload: b"@" + payload,
            clock=lambda: self.now,
            wall_clock_ms=lambda: 1234,
            chance=random.Random(1),  # noqa: S311
        )

    def turn(
        self, *received: tuple[str, Message], after_s: float = 0.0
    ) -> list[tuple[str, Message]]:
        self.now += after_s
        for peer, message in received:
            self.replica.receive(peer, message)
        self.replica.tick()
        self.store.commit()
        return self.replica.take_outbox()

    def campaign(self) -> int:
        """Lets the election time pass; returns the term of the candidacy."""
        asked = self.turn(after_s=2 * SETTINGS.election_max_s)
        assert any(isinstance(message, PreVoteRequest) for _, message in asked)
        term = self.replica.term
        sent = self.turn(
            *((peer, PreVoteReply(term, True, term)) for peer in self.replica.peer_ids)
        )
        assert any(isinstance(message, VoteRequest) for _, message in sent)
        return self.replica.term

    def lead(self) -> int:
        for peer in self.replica.peer_ids:
            self.replica.connected(peer)
        term = self.campaign()
        self.turn(*((peer, VoteReply(term, True, term)) for peer in self.replica.peer_ids))
        assert self.replica.is_leader
        return term

    def log(self) -> list[tuple[int, bytes]]:
        return self.store.entries


def heartbeat(term: int, prev: int = 1, prev_term: int = 0, commit: int = 1) -> AppendRequest:
    return AppendRequest(term, prev, prev_term, commit, ())


# -- timers --------------------------------------------------------------------------------------


def test_a_node_that_is_cut_off_neither_campaigns_nor_spins() -> None:
    node = Node("b", "c")
    for _ in range(50):
        node.now = max(node.now, node.replica.next_timer()) + 0.001
        assert node.turn() == []
        assert node.replica.next_timer() > node.now, "the loop would spin"
    assert (node.replica.term, node.replica.role) == (0, "follower")


def test_a_node_whose_first_link_comes_up_waits_before_it_campaigns() -> None:
    """It has heard nobody because it could not; there may well be a leader."""
    node = Node("b", "c")
    node.now += 60
    node.replica.connected("b")
    assert node.turn(after_s=0.9 * SETTINGS.election_min_s) == []
    assert node.replica.role == "follower"
    asked = node.turn(after_s=SETTINGS.election_max_s)
    assert any(isinstance(message, PreVoteRequest) for _, message in asked)


def test_a_refused_proposal_without_a_leader_does_not_spin() -> None:
    node = Node("b", "c")
    node.replica.connected("b")
    node.replica.propose(b"key", b"payload")
    node.turn(("b", heartbeat(1)))
    node.turn(
        ("b", ProposeReply(b"key", Refusal.BUSY)), ("c", AppendReply(2, 1, False, 0, 1, 1, 0))
    )
    assert node.replica.leader is None
    node.turn(after_s=2 * SETTINGS.heartbeat_s)
    assert node.replica.next_timer() > node.now


# -- leading -------------------------------------------------------------------------------------


def test_a_leader_outlives_the_loss_of_a_link_that_has_shown_nothing_yet() -> None:
    node = Node("b", "c")
    node.lead()
    node.replica.disconnected("b")
    node.replica.connected("b")
    sent = node.turn(after_s=2 * SETTINGS.heartbeat_s)
    to_b = [m for peer, m in sent if peer == "b" and isinstance(m, AppendRequest)]
    assert [message.prev_log_index for message in to_b] == [1]


def test_a_leader_outlives_a_senseless_hint() -> None:
    node = Node("b", "c")
    term = node.lead()
    for _ in range(3):
        refusal = AppendReply(term, term, False, 0, 0, 1, 0)
        with pytest.raises(PeerError):
            node.turn(("b", refusal), after_s=SETTINGS.heartbeat_s)
    assert node.turn(("c", AppendReply(term, term, True, 2, 0, 2, 0)))
    assert node.replica.commit_index == 2


def test_an_acknowledgement_of_what_was_never_sent_accuses_the_peer() -> None:
    node = Node("b", "c")
    term = node.lead()
    with pytest.raises(PeerError):
        node.turn(("b", AppendReply(term, term, True, 99, 0, 1, 0)))
    assert node.replica.match_index("b") == 0


def test_hazard_4_an_acknowledgement_of_an_older_leadership_is_not_counted() -> None:
    node = Node("b", "c")
    node.lead()
    node.turn(("c", VoteReply(5, False, 1)))  # a later term: deposed
    assert not node.replica.is_leader
    node.replica.propose(b"key", b"payload")
    node.lead()
    node.turn()
    node.turn(
        ("b", AppendReply(1, 1, True, 3, 0, 2, 0)), ("b", AppendReply(6, 1, True, 3, 0, 2, 0))
    )
    assert node.replica.match_index("b") == 0
    assert node.replica.commit_index == 1


def test_hazard_7_an_entry_counts_and_leaves_only_when_its_turn_is_durable() -> None:
    node = Node("b", "c")
    term = node.lead()
    node.turn(("b", AppendReply(term, term, True, 2, 0, 2, 0)))
    node.replica.propose(b"key", b"payload")
    node.replica.tick()
    assert len(node.log()) == 2
    assert node.replica.commit_index == 2
    node.store.commit()
    sent = [m for peer, m in node.replica.take_outbox() if peer == "b"]
    assert any(isinstance(m, AppendRequest) and m.entries[-1].index == 3 for m in sent)
    assert node.log()[2] == (term, b"\x00@payload")


def test_hazard_7_a_leader_alone_applies_in_the_transaction_that_logs() -> None:
    node = Node()
    node.turn(after_s=2 * SETTINGS.election_max_s)
    assert node.replica.is_leader
    node.replica.propose(b"key", b"payload")
    while not node.applied:
        assert node.turn() == []
    assert node.applied == [(3, b"@payload")]
    assert node.store.meta.applied == 3
    assert not node.replica.has_more


def test_hazard_14_an_old_leader_is_answered_and_steps_down() -> None:
    node = Node("b", "c")
    node.turn(("b", heartbeat(7)))
    [(peer, reply)] = node.turn(("c", heartbeat(3)))
    assert peer == "c"
    assert isinstance(reply, AppendReply)
    assert (reply.term, reply.success) == (7, False)

    leader = Node("b", "c")
    term = leader.lead()
    leader.turn(("c", AppendReply(7, term, False, 0, 1, 1, 0)))
    assert (leader.replica.is_leader, leader.replica.term) == (False, 7)


def test_hazard_14_a_leader_without_a_quorum_steps_down_within_one_election_timeout() -> None:
    node = Node("b", "c")
    node.lead()
    for peer in ("b", "c"):  # the links look up for as long as they like
        node.replica.connected(peer)
    elected = node.now
    while node.replica.is_leader:
        assert node.now - elected <= SETTINGS.election_min_s + 2 * SETTINGS.heartbeat_s
        node.turn(after_s=SETTINGS.heartbeat_s / 2)
    assert node.replica.leader is None


def test_who_does_not_vote_forgets_a_leader_that_it_does_not_hear() -> None:
    """A learner, or a node that has no link: it goes on asking nobody that may be gone."""
    learner = Node("b", "c", voters=("b", "c"))
    learner.replica.connected("b")
    lonely = following()
    for peer in ("b", "c"):
        lonely.replica.disconnected(peer)
    for node in (learner, lonely):
        node.turn(("b", heartbeat(2)))
        assert node.replica.leader == "b"
        node.turn(after_s=0.9 * SETTINGS.election_min_s)
        assert node.replica.leader == "b"
        node.turn(after_s=SETTINGS.election_max_s)
        assert node.replica.leader is None
        assert node.replica.next_timer() > node.now
        node.turn(("b", heartbeat(2)))
        assert node.replica.leader == "b"


def test_two_leaders_in_a_term_are_told_apart() -> None:
    node = Node("b", "c")
    node.turn(("b", heartbeat(3)))
    with pytest.raises(PeerError, match="leads term 3"):
        node.replica.receive("c", heartbeat(3))


# -- votes ---------------------------------------------------------------------------------------


def test_hazard_15_a_vote_counts_once_however_often_it_arrives() -> None:
    node = Node("b", "c", "d", "e")
    for peer in node.replica.peer_ids:
        node.replica.connected(peer)
    term = node.campaign()
    for _ in range(5):
        node.turn(("b", VoteReply(term, True, term)))
    assert node.replica.role == "candidate"
    node.turn(("c", VoteReply(term, True, term)))
    assert node.replica.is_leader


def test_a_vote_for_an_older_candidacy_does_not_count() -> None:
    node = Node("b", "c")
    node.replica.connected("b")
    first = node.campaign()
    second = node.campaign()
    node.turn(("b", VoteReply(second, True, first)))
    assert node.replica.role == "candidate"


def test_hazard_6_a_vote_survives_a_restart() -> None:
    node = Node("b", "c")
    [(_, reply)] = node.turn(("b", VoteRequest(4, 1, 0)))
    assert reply == VoteReply(4, True, 4)
    again = Node("b", "c", store=node.store)
    [(_, refused)] = again.turn(("c", VoteRequest(4, 9, 3)))
    assert refused == VoteReply(4, False, 4)
    [(_, repeated)] = again.turn(("b", VoteRequest(4, 1, 0)))
    assert repeated == VoteReply(4, True, 4)


def test_a_void_turn_leaves_no_vote_behind() -> None:
    node = Node("b", "c")
    node.replica.receive("b", VoteRequest(4, 1, 0))
    node.store.abort()
    again = Node("b", "c", store=node.store)
    [(_, reply)] = again.turn(("c", VoteRequest(4, 1, 0)))
    assert reply == VoteReply(4, True, 4)


# -- following -----------------------------------------------------------------------------------


def append(term: int, prev: int, prev_term: int, *terms: int, commit: int = 1) -> AppendRequest:
    entries = tuple(
        Entry(prev + 1 + offset, entry_term, b"\x00%d" % (prev + 1 + offset))
        for offset, entry_term in enumerate(terms)
    )
    return AppendRequest(term, prev, prev_term, commit, entries)


def test_hazard_2_a_late_append_erases_nothing() -> None:
    node = Node("b", "c")
    node.turn(("b", append(1, 1, 0, 1, 1, 1)))
    [(_, reply)] = node.turn(("b", append(1, 1, 0, 1)))
    assert isinstance(reply, AppendReply)
    assert (reply.success, reply.match_index) == (True, 2)
    assert len(node.log()) == 4


def test_hazard_3_a_heartbeat_does_not_commit_an_unverified_tail() -> None:
    node = Node("b", "c")
    node.turn(("b", append(1, 1, 0, 1, 1, 1)))  # a tail of a leader that is gone
    node.turn(("c", append(2, 2, 1, commit=4)))  # the new one has verified index 2 only
    assert node.replica.commit_index == 2
    assert node.applied == [(2, b"2")]


def test_hazard_3_a_refused_append_commits_nothing() -> None:
    node = Node("b", "c")
    node.turn(("b", append(1, 1, 0, 1, 1, 1)))
    node.turn(("c", append(3, 4, 2, commit=4)))
    assert node.replica.commit_index == 1


def test_hazard_9_a_state_ahead_of_its_log_stops_the_node() -> None:
    store = MemoryLogStore()
    Node("b", "c", store=store).turn()
    store.turn.set_applied(50)
    with pytest.raises(SafetyViolationError, match="ahead of the log"):
        Node("b", "c", store=store)


def test_hazard_9_a_restart_keeps_log_state_and_commit() -> None:
    node = Node("b", "c")
    node.turn(("b", append(1, 1, 0, 1, 1, 1, commit=3)))
    again = Node("b", "c", store=node.store)
    assert again.log() == node.log()
    assert (again.replica.commit_index, again.replica.applied_index) == (3, 3)
    assert again.replica.term == 1


def test_hazard_11_what_is_applied_is_applied_once() -> None:
    node = Node("b", "c")
    node.turn(("b", append(1, 1, 0, 1, 1, commit=3)))
    node.turn(("b", append(1, 1, 0, 1, 1, commit=3)))
    assert node.applied == [(2, b"2"), (3, b"3")]


@pytest.mark.parametrize("is_cached", [True, False])
def test_a_turn_applies_a_bounded_number_of_bytes(is_cached: bool) -> None:
    """A node that catches up answers in between: what is applied by a turn is 4 MiB at most."""
    node, payload = following(), bytes(16 * 1024)
    entries = tuple(Entry(index, 1, COMMAND + payload) for index in range(2, 302))
    node.turn(("b", AppendRequest(1, 1, 0, 1, entries)))
    if not is_cached:
        node = Node("b", "c", store=node.store)
    node.turn(("b", heartbeat(1, 301, 1, commit=301)))
    done = [len(node.applied)]
    while len(node.applied) < len(entries):
        node.turn()
        done.append(len(node.applied) - sum(done))
        assert done[-1] > 0
    assert max(done) * len(payload) <= 4 * 1024 * 1024
    assert len(done) == 2, "and no less than it can"


def test_who_is_no_voter_counts_for_nothing() -> None:
    """Whom the transport admits may be a member that this replica does not know yet."""
    node = Node("b", "c")
    for peer in ("b", "c", "x"):
        node.replica.connected(peer)
    node.turn(after_s=2 * SETTINGS.election_max_s)
    node.turn(("x", PreVoteReply(0, True, 0)))
    assert node.replica.term == 0
    term = node.campaign()
    node.turn(("x", VoteReply(term, True, term)))
    assert not node.replica.is_leader
    node.turn(("b", VoteReply(term, True, term)))
    node.turn(("x", AppendReply(term, term, True, 2, 0, 2, 0)))
    assert (node.replica.is_leader, node.replica.commit_index) == (True, 1)
    with pytest.raises(PeerError, match="not a member"):
        node.replica.receive("x", Propose(b"key", b"payload"))


# -- proposals -----------------------------------------------------------------------------------


def proposes(sent: list[tuple[str, Message]]) -> list[bytes]:
    return [message.key for _, message in sent if isinstance(message, Propose)]


def following(*, peers: tuple[str, ...] = ("b", "c")) -> Node:
    node = Node(*peers)
    for peer in peers:
        node.replica.connected(peer)
    node.turn(("b", heartbeat(1)))
    return node


def test_a_follower_forwards_once_to_a_leader() -> None:
    node = following()
    node.replica.propose(b"k", b"payload")
    assert proposes(node.turn()) == [b"k"]
    assert proposes(node.turn()) == []


def test_a_proposal_is_sent_again_when_the_leader_or_the_link_changes() -> None:
    node = following()
    node.replica.propose(b"k", b"payload")
    assert proposes(node.turn()) == [b"k"]
    node.replica.disconnected("b")
    assert proposes(node.turn()) == []
    node.replica.connected("b")
    assert proposes(node.turn()) == [b"k"]
    assert proposes(node.turn(("c", heartbeat(2)))) == [b"k"]


def test_a_refused_proposal_is_tried_again_a_little_later() -> None:
    node = following()
    node.replica.propose(b"k", b"payload")
    node.turn()
    assert proposes(node.turn(("b", ProposeReply(b"k", Refusal.BUSY)))) == []
    assert node.replica.next_timer() <= node.now + SETTINGS.heartbeat_s
    assert proposes(node.turn(after_s=1.01 * SETTINGS.heartbeat_s)) == [b"k"]


def test_a_proposal_that_is_refused_over_and_over_is_sent_again_once() -> None:
    """By a network that repeats messages, or a leader that does: else each answer would call for
    another question, without end."""
    node = following()
    node.replica.propose(b"k", b"payload")
    node.turn()
    for number in range(200):
        refusal = ProposeReply(b"k", Refusal.NOT_LEADER)
        assert proposes(node.turn(("b", refusal), ("c", refusal))) == []
        assert len(node.replica._refused) == 1, number
        node.now += 0.001 * SETTINGS.heartbeat_s
    assert proposes(node.turn(after_s=SETTINGS.heartbeat_s)) == [b"k"]
    assert proposes(node.turn(after_s=SETTINGS.heartbeat_s)) == []
    node.turn(("b", ProposeReply(b"k", Refusal.BUSY)))
    node.replica.forget(b"k")
    assert not node.replica._refused


def behind() -> Node:
    """A follower whose leader `n` came later than its log reaches."""
    node = Node("b", "c")
    node.replica.connected("n")
    node.turn(("n", AppendRequest(3, 50, 2, 50, ())))
    assert (node.replica.leader, "n" in node.replica.peer_ids) == ("n", False)
    return node


def test_a_refusal_of_a_leader_that_it_does_not_know_as_a_member_is_heard() -> None:
    node = behind()
    node.replica.propose(b"k", b"payload")
    assert proposes(node.turn()) == [b"k"]
    node.turn(("n", ProposeReply(b"k", Refusal.BUSY)))
    assert proposes(node.turn(after_s=1.01 * SETTINGS.heartbeat_s)) == [b"k"]


def test_over_a_new_link_to_such_a_leader_everything_is_sent_again() -> None:
    node = behind()
    node.replica.propose(b"k", b"payload")
    assert proposes(node.turn()) == [b"k"]
    node.replica.disconnected("n")
    node.replica.connected("n")
    assert proposes(node.turn()) == [b"k"]


def test_hazard_12_what_was_never_sent_is_known_not_to_be_executed() -> None:
    node = Node("b", "c")
    node.replica.propose(b"k", b"payload")
    node.turn()
    assert node.replica.forget(b"k") is False
    node.replica.connected("b")
    assert proposes(node.turn(("b", heartbeat(1)))) == []

    node.replica.propose(b"k2", b"payload")
    node.turn()
    assert node.replica.forget(b"k2") is True, "it may be in a log: nobody can promise"


def test_a_node_without_a_leader_forgets_what_its_callers_forgot() -> None:
    node = Node("b", "c")
    for number in range(3 * MAX_PENDING_PROPOSALS):
        key = b"%d" % number
        assert node.replica.propose(key, b"payload")
        node.replica.forget(key)
    assert not node.replica._unsent


def test_proposals_are_bounded_in_number() -> None:
    node = Node("b", "c")
    for number in range(MAX_PENDING_PROPOSALS):
        assert node.replica.propose(b"%d" % number, b"p")
    assert not node.replica.propose(b"more", b"p")
    assert node.replica.propose(b"0", b"p"), "one that is already taken is not refused"
    node.replica.forget(b"0")
    assert node.replica.propose(b"more", b"p")


def test_proposals_are_bounded_in_bytes_below_what_a_link_queues() -> None:
    """Otherwise forwarding them would overflow the link, again whenever it comes up."""
    node = Node("b", "c")
    payload = bytes(MAX_COMMAND_BYTES - 17)
    taken = 0
    while node.replica.propose(b"%d" % taken, payload):
        taken += 1
    assert MAX_PENDING_BYTES - len(payload) < taken * len(payload) <= MAX_PENDING_BYTES
    node.replica.forget(b"0")
    assert node.replica.propose(b"again", payload)


def test_a_leader_that_is_full_says_busy_and_another_says_not_leader() -> None:
    node = Node("b", "c")
    node.lead()
    for number in range(MAX_QUEUED_APPENDS):
        node.replica.receive("b", Propose(b"%d" % number, b"p"))
    node.replica.receive("b", Propose(b"more", b"p"))
    node.replica.receive("c", Propose(b"another", b"p"))
    sent = node.turn()
    assert ("b", ProposeReply(b"more", Refusal.BUSY)) in sent
    assert not any(isinstance(each, ProposeReply) for to, each in sent if to == "c")
    follower = following()
    assert follower.turn(("c", Propose(b"k", b"p"))) == [
        ("c", ProposeReply(b"k", Refusal.NOT_LEADER))
    ]
