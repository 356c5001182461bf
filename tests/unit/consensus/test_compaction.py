"""Logs that begin later than at their first entry: journal, followers and rules, case by case."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from quorate.consensus import PeerError, RaftSettings, Replica, SafetyViolationError
from quorate.consensus.configuration import CONFIGURATION, Configuration
from quorate.consensus.followers import Followers, Leading
from quorate.consensus.journal import Journal
from quorate.consensus.limits import COMPACTION_STEP, MAX_COMPACTED_PER_TURN
from quorate.consensus.messages import (
    AppendReply,
    AppendRequest,
    Entry,
    Message,
    PreVoteReply,
    SnapshotChunk,
    SnapshotOffer,
    SnapshotPull,
    VoteReply,
)
from quorate.consensus.rules import Accepted, Conflict, Progress, fit_append
from quorate.testing.raft_disk import MemoryLogStore

THREE = Configuration(("a", "b", "c"))
BASE = 10


class Log:
    """Terms of the entries from `base` on."""

    def __init__(self, base: int, *terms: int) -> None:
        self.base, self.terms = base, terms

    def first_index(self) -> int:
        return self.base

    def last_index(self) -> int:
        return self.base + len(self.terms) - 1

    def term_at(self, index: int) -> int | None:
        within = self.base <= index <= self.last_index()
        return self.terms[index - self.base] if within else None


LOG = Log(BASE, 2, 2, 3, 3)
"""Entries 10 to 13; the last is 13."""


def request(prev: int, prev_term: int, *terms: int, term: int = 9) -> AppendRequest:
    entries = tuple(Entry(prev + 1 + at, each, b"\x00x") for at, each in enumerate(terms))
    return AppendRequest(term, prev, prev_term, 1, entries)


# -- the rules -----------------------------------------------------------------------------------


@pytest.mark.parametrize("commit", [10, 11, 13])
def test_a_late_request_from_before_the_base_changes_nothing(commit: int) -> None:
    for prev, terms in ((1, ()), (1, (1, 1)), (7, (2,)), (8, (2,)), (3, (1, 1, 1, 1, 2, 2))):
        before = request(prev, 1, *terms)
        fit = fit_append(before, log=LOG, commit_index=commit)
        assert fit == Accepted(BASE, None, ()), "no less than what is committed here"


def test_what_reaches_the_base_exactly_is_verified_by_it() -> None:
    assert fit_append(request(7, 1, 1, 2, 2), log=LOG, commit_index=10) == Accepted(10, None, ())
    with pytest.raises(PeerError, match="committed entry 10"):
        fit_append(request(7, 1, 1, 2, 3), log=LOG, commit_index=10)


def test_what_reaches_beyond_the_base_is_taken_from_there() -> None:
    fit = fit_append(request(7, 1, 1, 2, 2, 2, 3, 3, 3), log=LOG, commit_index=10)
    assert isinstance(fit, Accepted)
    assert (fit.match_index, fit.truncate_from) == (14, None)
    assert [entry.index for entry in fit.append] == [14]


def test_a_conflict_behind_the_base_truncates_behind_the_base() -> None:
    fit = fit_append(request(8, 2, 2, 2, 4), log=LOG, commit_index=10)
    assert isinstance(fit, Accepted)
    assert (fit.match_index, fit.truncate_from) == (11, 11)
    assert [(entry.index, entry.term) for entry in fit.append] == [(11, 4)]


def test_a_conflict_with_what_is_committed_behind_the_base_accuses_the_leader() -> None:
    with pytest.raises(PeerError, match="committed entry 11"):
        fit_append(request(8, 2, 2, 2, 4), log=LOG, commit_index=11)


@pytest.mark.parametrize(
    ("prev", "prev_term", "hint"), [(11, 7, 11), (12, 7, 12), (13, 2, 12), (20, 3, 14)]
)
def test_a_hint_never_leads_to_the_base_or_before_it(prev: int, prev_term: int, hint: int) -> None:
    assert fit_append(request(prev, prev_term), log=LOG, commit_index=10) == Conflict(hint)


@pytest.mark.parametrize(("prev", "prev_term"), [(10, 7), (10, 1), (11, 7), (12, 2)])
def test_a_leader_whose_log_contradicts_what_is_committed_is_accused(
    prev: int, prev_term: int
) -> None:
    """A refusal would let it look further back, without end and without a word."""
    with pytest.raises(PeerError, match=f"committed entry {prev}"):
        fit_append(request(prev, prev_term), log=LOG, commit_index=12)


def test_a_log_of_its_base_alone() -> None:
    alone = Log(BASE, 2)
    assert fit_append(request(10, 2, 3), log=alone, commit_index=10) == Accepted(
        11, None, request(10, 2, 3).entries
    )
    assert fit_append(request(12, 3), log=alone, commit_index=10) == Conflict(11)
    assert fit_append(request(9, 2, 2, 3), log=alone, commit_index=10) == Accepted(
        11, None, request(10, 2, 3).entries
    )


# -- the journal ---------------------------------------------------------------------------------


def journal(last: int, *, configurations: Sequence[int] = ()) -> tuple[Journal, MemoryLogStore]:
    """Entries 1 to `last`, their terms their tens, all of it applied and durable."""
    store = MemoryLogStore()
    store.turn.log_append(1, 0, CONFIGURATION + THREE.encode())
    store.turn.put_configuration(1, THREE.encode())
    made = Journal(store)
    for index in range(2, last + 1):
        kind = CONFIGURATION + THREE.encode() if index in configurations else b"\x00%d" % index
        made.add(kind, index, index // 10)
    store.turn.set_applied(last)
    store.commit()
    return made, store


def shown(log: Journal) -> list[tuple[int, int | None]]:
    return [(index, log.term_at(index)) for index in range(log.first_index(), log.last_index() + 1)]


def test_a_compacted_journal_reads_as_before_from_its_base_on() -> None:
    log, store = journal(40)
    before = shown(log)
    log.compact(25)
    assert (log.first_index(), log.last_index(), len(log)) == (25, 40, 16)
    assert (log[0][1], log[-1][1:]) == (25, (40, 4))
    assert shown(log) == before[24:]
    assert (log.term_at(24), log.term_at(41)) == (None, None)
    assert log.slice(24, 5, 1 << 20) == []
    assert [each[1] for each in log.slice(25, 3, 1 << 20)] == [25, 26, 27]
    store.commit()
    assert shown(Journal(store)) == before[24:]


def test_compaction_that_is_not_durable_never_was() -> None:
    log, store = journal(40)
    log.compact(25)
    store.abort()
    assert shown(Journal(store)) == shown(journal(40)[0])


def test_compaction_does_not_go_back() -> None:
    log, _ = journal(40)
    log.compact(25)
    log.compact(7)
    assert log.first_index() == 25


def test_the_last_entry_stays() -> None:
    log, _ = journal(40)
    log.compact(99)
    assert (log.first_index(), log.last_index(), log.term_at(40)) == (40, 40, 4)
    log.add(b"\x00", 41, 5)
    assert shown(log) == [(40, 4), (41, 5)]


def test_a_turn_removes_a_bounded_number() -> None:
    log, _ = journal(MAX_COMPACTED_PER_TURN + 50)
    log.compact(MAX_COMPACTED_PER_TURN + 40)
    assert log.first_index() == 1 + MAX_COMPACTED_PER_TURN
    log.compact(MAX_COMPACTED_PER_TURN + 40)
    assert log.first_index() == MAX_COMPACTED_PER_TURN + 40


def test_truncation_ends_behind_the_base() -> None:
    log, store = journal(40)
    log.compact(25)
    log.truncate_from(26)
    assert shown(log) == [(25, 2)]
    assert store.turn.log_last() == (25, 2)
    with pytest.raises(AssertionError, match="never in doubt"):
        log.truncate_from(25)


def test_truncation_of_what_is_not_cached_any_more() -> None:
    _, store = journal(40)
    log = Journal(store)
    log.compact(25)
    log.truncate_from(33)
    assert shown(log)[-1] == (32, 3)
    log.add(b"\x00", 33, 8)
    assert shown(log)[-2:] == [(32, 3), (33, 8)]


def test_configurations_outlive_the_entries_that_brought_them() -> None:
    log, store = journal(40, configurations=(5, 30))
    log.compact(25)
    assert [index for index, _ in store.turn.configurations()] == [1, 5, 30]
    log.settle_configurations(29)
    assert [index for index, _ in store.turn.configurations()] == [5, 30]
    log.truncate_from(30)
    assert log.configuration_index == 5
    assert Journal(store).configuration_index == 5


# -- the followers -------------------------------------------------------------------------------


class Leader:
    """A leader's followers `b` and `c`, over a log from 25 to 40."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, Message]] = []
        self.can_offer = True
        self.journal, _ = journal(40)
        self.journal.compact(25)
        self.followers = Followers(self.journal, self._send, self._offer)
        self.followers.begin(("b", "c"))

    def _send(self, peer: str, message: Message) -> None:
        self.sent.append((peer, message))

    def _offer(self, peer: str, term: int) -> SnapshotOffer | None:
        offer = SnapshotOffer(term, 39, 3, THREE.encode(), 5, "", 0, b"")
        return offer if self.can_offer else None

    def heartbeat(self) -> list[Message]:
        """What `b` is told."""
        self.sent.clear()
        self.followers.heartbeat(Leading(5, 40), ["b"])
        return [message for _, message in self.sent]

    def refuse(self, prev: int, hint: int) -> None:
        self.followers.acknowledged("b", AppendReply(5, 5, False, 0, hint, prev, 0))

    def accept(self, index: int) -> None:
        self.followers.acknowledged("b", AppendReply(5, 5, True, index, 0, index, 0))


@pytest.mark.parametrize("hint", [2, 24, 25])
def test_who_needs_what_is_gone_is_offered_a_snapshot(hint: int) -> None:
    leader = Leader()
    leader.heartbeat()
    leader.refuse(prev=40, hint=hint)
    for _ in range(3):
        assert [type(message) for message in leader.heartbeat()] == [SnapshotOffer]
    leader.sent.clear()
    leader.followers.spread(Leading(5, 40), ["b"])
    leader.followers.send_more(Leading(5, 40))
    assert leader.sent == [], "between heartbeats it is told nothing"


def test_who_needs_what_follows_the_base_is_sent_it() -> None:
    leader = Leader()
    leader.heartbeat()
    leader.refuse(prev=40, hint=26)
    [probe] = leader.heartbeat()
    assert isinstance(probe, AppendRequest)
    assert (probe.prev_log_index, probe.prev_log_term) == (25, 2)
    assert [entry.index for entry in probe.entries] == list(range(26, 41))


def test_while_there_is_no_snapshot_for_it_it_is_told_nothing_that_it_cannot_use() -> None:
    leader = Leader()
    leader.heartbeat()
    leader.refuse(prev=40, hint=2)
    leader.can_offer = False
    assert leader.heartbeat() == []
    leader.can_offer = True
    assert len(leader.heartbeat()) == 1


def test_an_installed_snapshot_is_an_acknowledgement() -> None:
    leader = Leader()
    leader.heartbeat()
    leader.refuse(prev=40, hint=2)
    leader.heartbeat()
    leader.accept(39)
    assert leader.followers.match_index("b") == 39
    leader.sent.clear()
    leader.followers.send_more(Leading(5, 40))
    [(_, append)] = leader.sent
    assert isinstance(append, AppendRequest)
    assert (append.prev_log_index, [entry.index for entry in append.entries]) == (39, [40])


def test_a_follower_that_the_log_leaves_behind_while_it_is_served_is_offered_a_snapshot() -> None:
    leader = Leader()
    leader.heartbeat()
    leader.refuse(prev=40, hint=28)
    leader.heartbeat()
    leader.journal.compact(35)
    assert [type(message) for message in leader.heartbeat()] == [SnapshotOffer]


def test_a_lost_link_leads_back_to_what_is_known_and_then_to_a_snapshot() -> None:
    leader = Leader()
    leader.heartbeat()
    leader.refuse(prev=40, hint=28)
    leader.heartbeat()
    leader.accept(30)
    leader.journal.compact(35)
    leader.followers.link_changed("b")
    assert [type(message) for message in leader.heartbeat()] == [SnapshotOffer]


def test_a_peer_that_is_on_probation_for_the_first_time_is_known_for_nothing() -> None:
    leader = Leader()
    leader.heartbeat()
    leader.accept(40)
    refusal = AppendReply(5, 5, False, 0, 2, 40, 0, "token")
    leader.followers.acknowledged("b", refusal)
    assert leader.followers.match_index("b") == 0
    leader.heartbeat()
    leader.followers.acknowledged("b", refusal)
    assert [type(message) for message in leader.heartbeat()] == [SnapshotOffer]
    leader.followers.acknowledged("b", AppendReply(5, 5, True, 39, 0, 39, 0, "token"))
    assert leader.followers.match_index("b") == 39, "known once, it is not forgotten again"


def test_a_refusal_of_a_probe_at_the_base_leads_before_it() -> None:
    """Whose log ends before the base says so, and no request is built that cannot be."""
    progress = Progress(26)
    assert progress.acknowledged(AppendReply(5, 5, False, 0, 12, 25, 0))
    assert progress.next_index == 12


# -- a replica -----------------------------------------------------------------------------------


class Node:
    def __init__(self, store: MemoryLogStore | None = None, *, tail: int = 3) -> None:
        self.now = 100.0
        self.store = store or MemoryLogStore()
        self.settings = RaftSettings(log_tail_entries=tail)
        self.replica = Replica(
            node_id="a",
            initial=THREE,
            settings=self.settings,
            store=self.store,
            apply=lambda index, payload: self.store.turn.ledger.append((index, payload)),
            stamp=lambda payload: payload,
            clock=lambda: self.now,
            wall_clock_ms=lambda: 0,
            chance=random.Random(1),  # noqa: S311
            offer=lambda _peer, term: SnapshotOffer(term, 9, 1, THREE.encode(), 0, "", 0, b""),
        )
        for peer in "bc":
            self.replica.connected(peer)

    def turn(
        self, *received: tuple[str, Message], floor: int = 1 << 30
    ) -> list[tuple[str, Message]]:
        for peer, message in received:
            self.replica.receive(peer, message)
        self.replica.tick()
        self.replica.compact(floor)
        self.store.commit()
        return self.replica.take_outbox()

    def follow(self, count: int, *, commit: int, floor: int = 1 << 30) -> None:
        """Takes entries 2 to `count` of term 1."""
        entries = tuple(Entry(index, 1, b"\x00x") for index in range(2, count + 1))
        self.turn(("b", AppendRequest(1, 1, 0, commit, entries)), floor=floor)

    def reply_to(self, request: AppendRequest | SnapshotOffer) -> AppendReply:
        [(_, reply)] = self.turn(("b", request))
        assert isinstance(reply, AppendReply)
        return reply


def test_only_what_is_applied_goes_and_the_tail_stays() -> None:
    node = Node()
    node.follow(30, commit=20)
    assert (node.store.base, node.store.last_index, node.replica.applied_index) == (17, 30, 20)


def test_the_floor_stays() -> None:
    node = Node()
    node.follow(30, commit=20, floor=12)
    assert node.store.base == 12
    node.turn(floor=5)
    assert node.store.base == 12


def test_a_long_tail_is_compacted_in_steps() -> None:
    node = Node(tail=400)
    node.follow(500, commit=400 + COMPACTION_STEP)
    assert node.store.base == 1
    entries = tuple(Entry(index, 1, b"\x00x") for index in range(501, 700))
    node.turn(("b", AppendRequest(1, 500, 1, 400 + COMPACTION_STEP + 1, entries)))
    assert node.store.base == 1 + COMPACTION_STEP


def test_requests_from_before_the_base_are_answered_with_the_base() -> None:
    node = Node()
    node.follow(30, commit=20)
    late = tuple(Entry(index, 1, b"\x00x") for index in range(2, 9))
    reply = node.reply_to(AppendRequest(1, 1, 0, 8, late))
    assert (reply.success, reply.match_index, reply.prev_log_index) == (True, 17, 1)
    assert (node.store.base, node.store.last_index, node.replica.commit_index) == (17, 30, 20)


def test_a_restart_goes_on_where_the_log_begins() -> None:
    node = Node()
    node.follow(30, commit=20)
    again = Node(node.store)
    assert (again.replica.commit_index, again.replica.applied_index) == (20, 20)
    reply = again.reply_to(AppendRequest(1, 30, 1, 25, ()))
    assert (reply.success, again.replica.commit_index, len(again.store.ledger)) == (True, 25, 24)


def test_a_log_that_begins_behind_its_state_stops_the_node() -> None:
    node = Node()
    node.follow(30, commit=20)
    node.store.turn.log_drop_below(25, 100)
    with pytest.raises(SafetyViolationError, match="begins behind"):
        Node(node.store)


def offer(index: int, index_term: int, term: int = 1) -> SnapshotOffer:
    return SnapshotOffer(term, index, index_term, THREE.encode(), 0, "", 0, b"")


def test_an_offer_of_what_is_held_is_answered_at_once() -> None:
    node = Node()
    node.follow(30, commit=20)
    for index in (5, 17, 20, 28):
        reply = node.reply_to(offer(index, 1))
        assert (reply.success, reply.prev_log_index) == (True, index)
        assert reply.match_index == max(node.store.base, index)


@pytest.mark.parametrize(("index", "term"), [(28, 2), (31, 1), (400, 2)])
def test_an_offer_of_what_is_not_held_is_left_to_the_node(index: int, term: int) -> None:
    node = Node()
    node.follow(30, commit=20)
    assert node.turn(("b", offer(index, term, term=2))) == []
    assert node.replica.leader == "b"
    assert not node.replica.holds(index, term)


def test_an_offer_is_a_sign_of_life_and_one_of_an_older_term_is_answered() -> None:
    node = Node()
    node.turn(("b", offer(400, 2, term=2)))
    for _ in range(30):
        node.now += 0.4
        assert node.turn(("b", offer(400, 2, term=2))) == []
    assert node.replica.role == "follower"
    [(peer, reply)] = node.turn(("c", offer(400, 1, term=1)))
    assert peer == "c"
    assert isinstance(reply, AppendReply)
    assert (reply.term, reply.success, node.replica.leader) == (2, False, "b")


def test_parts_of_a_snapshot_are_signs_of_life() -> None:
    node = Node()
    node.turn(("b", offer(400, 2, term=2)))
    chunk = SnapshotChunk(2, 400, False, b"", 0, (), (), is_last=False)
    for _ in range(30):
        node.now += 0.4
        assert node.turn(("b", chunk)) == []
    assert node.replica.leader == "b"
    node.now += 1.1
    assert node.turn(("c", chunk)) != [], "of the leader's only"


def test_who_pulls_a_snapshot_is_heard_by_the_leader() -> None:
    node = Node()
    node.now += 2.1
    node.turn()
    node.turn(("b", PreVoteReply(0, True, 0)))
    node.turn(("b", VoteReply(1, True, 1)))
    assert node.replica.is_leader
    for _ in range(30):
        node.now += 0.4
        node.turn(("b", SnapshotPull(1, 9, False, b"", 0)))
        assert node.replica.is_leader
    for _ in range(3):
        node.now += 0.3
        node.turn(("x", SnapshotPull(1, 9, False, b"", 0)))
    assert not node.replica.is_leader
