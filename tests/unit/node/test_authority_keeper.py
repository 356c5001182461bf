"""One node in the authority protocol: the keeper between its peers, its Raft and its word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pytest

from quorate.consensus import PeerError
from quorate.core.limits import MAX_INTEGER
from quorate.core.outcome import Reason
from quorate.lease.authority import Ask, FederationTime, Grant
from quorate.lease.confirm import Confirm, ConfirmReply
from quorate.lease.word import AuthorityRecord, AuthorityWord
from quorate.node.authority_keeper import AuthorityKeeper, AuthorityTerms
from quorate.node.authority_wire import AuthorityMessage, EnforcedReport, EnforcedWatermark
from quorate.testing.clock import FakeClock

MS = 1_000_000
PERIOD_MS = 1_000
BOOT_ID = b"0123456789abcdef"
TIME = FederationTime(1, 1)
TERMS = AuthorityTerms(period_ms=PERIOD_MS, max_permit_ttl_ms=500, rho_ppm=10_000)


@dataclass
class Raft:
    is_leader: bool = False
    term: int = 3
    commit_index: int = 10
    last_index: int = 12
    commits_own_term: bool = True
    leader: str | None = "b"
    voters: Sequence[str] = ("a", "b", "c")
    members: Sequence[str] = ("a", "b", "c")
    committed_members: Sequence[str] = ("a", "b", "c")


class Node:
    """A keeper with what belongs to it."""

    def __init__(self, word: AuthorityWord, peers: tuple[str, ...] = ("b", "c")) -> None:
        self.clock = FakeClock()
        self.word = word
        everybody = ("a", *peers)
        self.raft = Raft(voters=everybody, members=everybody, committed_members=everybody)
        self.peers = peers
        self.start()

    def start(self) -> None:
        self.keeper = AuthorityKeeper(
            node_id="a",
            peers=self.peers,
            terms=TERMS,
            clock=self.clock,
            boot_id=BOOT_ID,
            word=self.word,
            federation_time=lambda: FederationTime(77, 70),
        )

    def lead(self, term: int = 3) -> None:
        self.raft.is_leader, self.raft.leader, self.raft.term = True, "a", term

    def turn(
        self, *received: tuple[str, AuthorityMessage], applied: int = 10, enforced: int = 10
    ) -> list[tuple[str, AuthorityMessage]]:
        for peer, message in received:
            self.keeper.receive(peer, message, self.raft)
        self.keeper.tick(self.raft, applied, enforced)
        self.keeper.publish(applied)
        return self.keeper.take_outbox()

    def record(self) -> AuthorityRecord:
        record = self.word.read()
        assert record is not None
        return record


@pytest.fixture
def word() -> Iterator[AuthorityWord]:
    word = AuthorityWord.create()
    yield word
    word.close()


@pytest.fixture
def node(word: AuthorityWord) -> Node:
    return Node(word)


def _ask(sent: list[tuple[str, AuthorityMessage]]) -> Ask:
    (ask,) = [message for _, message in sent if isinstance(message, Ask)]
    return ask


# -- holding authority --------------------------------------------------------------------------


def test_a_node_that_starts_takes_the_authority_of_the_one_before_away(node: Node):
    node.turn(("b", Grant(_ask(node.turn()).seq, 3, 10, TIME, PERIOD_MS)))
    assert node.record().deadline_ns > 0
    node.start()
    assert node.record().reason is Reason.INQUORATE
    assert node.keeper.remaining_ms() == 0


def test_a_follower_asks_its_leader_and_publishes_from_when_it_asked(node: Node):
    asked = node.clock.boottime_ns(), node.clock.realtime_ns()
    sent = node.turn()
    ask = _ask(sent)
    assert ("b", Ask(ask.seq, 10, 10)) in sent
    node.clock.advance_ms(40)
    node.turn(("b", Grant(ask.seq, 3, 10, FederationTime(1234, 1200), PERIOD_MS)))
    assert node.record() == AuthorityRecord(
        boot_id=BOOT_ID,
        deadline_ns=asked[0] + PERIOD_MS * MS,
        granted_at_boottime_ns=asked[0],
        granted_at_realtime_ns=asked[1],
        term=3,
        index=10,
        ledger_time_ms=1234,
        max_permit_ttl_ms=500,
        rho_ppm=10_000,
    )
    assert node.keeper.remaining_ms() == PERIOD_MS - 40
    node.clock.advance_ms(PERIOD_MS)
    assert node.keeper.remaining_ms() == 0


def test_nothing_is_published_for_a_state_that_is_not_durable_yet(node: Node):
    ask = _ask(node.turn())
    node.turn(("b", Grant(ask.seq, 3, 12, TIME, PERIOD_MS)), applied=11)
    assert node.record().reason is Reason.INQUORATE
    node.turn(applied=12)
    assert node.record().index == 12


@pytest.mark.parametrize("impossible_ms", [-1, MAX_INTEGER + 1])
@pytest.mark.parametrize("which", ["ledger_ms", "clocks_ms"])
def test_a_grant_with_an_impossible_time_is_dropped(node: Node, which: str, impossible_ms: int):
    ask = _ask(node.turn())
    time = replace(TIME, **{which: impossible_ms})
    node.turn(("b", Grant(ask.seq, 3, 10, time, PERIOD_MS)))
    assert node.record().reason is Reason.INQUORATE


def test_a_grant_for_the_process_before_gives_the_one_after_nothing(node: Node):
    """Both ask for the first time; their leader was stopped between confirming and granting."""
    before = _ask(node.turn())
    node.start()
    node.clock.advance_ms(10 * PERIOD_MS)
    assert _ask(node.turn()).seq != before.seq
    node.turn(("b", Grant(before.seq, 3, 10, TIME, PERIOD_MS)))
    assert node.record().reason is Reason.INQUORATE


def test_authority_is_given_up_at_once_and_only_a_new_ask_brings_it_back(node: Node):
    first = _ask(node.turn())
    node.turn(("b", Grant(first.seq, 3, 10, TIME, PERIOD_MS)))
    node.clock.advance_ms(PERIOD_MS // 5)
    second = _ask(node.turn())
    node.keeper.surrender(Reason.STORAGE_FULL)
    assert node.record().reason is Reason.STORAGE_FULL
    assert node.keeper.take_outbox() == []
    third = _ask(node.turn(("b", Grant(second.seq, 3, 10, TIME, PERIOD_MS))))
    assert node.record().reason is Reason.STORAGE_FULL
    node.turn(("b", Grant(third.seq, 3, 10, TIME, PERIOD_MS)))
    assert node.record().reason is None


def test_a_voter_confirms_its_leader_alone(node: Node):
    sent = node.turn(("b", Confirm(3, 4)), ("c", Confirm(3, 9)), ("b", Confirm(2, 5)))
    replies = [(peer, m) for peer, m in sent if isinstance(m, ConfirmReply)]
    assert replies == [("b", ConfirmReply(3, 4))]


# -- granting it ---------------------------------------------------------------------------------


def test_a_leader_grants_to_its_members_and_to_itself_by_the_same_round(node: Node):
    node.lead()
    asked_ns = node.clock.boottime_ns()
    sent = node.turn(("b", Ask(5, 9, 9)))
    assert not any(isinstance(message, Grant) for _, message in sent)
    (confirm,) = {message for _, message in sent if isinstance(message, Confirm)}
    node.clock.advance_ms(20)
    sent = node.turn(("c", ConfirmReply(3, confirm.round)))
    assert ("b", Grant(5, 3, 10, FederationTime(77, 70), PERIOD_MS)) in sent
    assert node.record().granted_at_boottime_ns == asked_ns


def test_nothing_is_granted_to_members_of_a_change_that_is_not_committed(node: Node):
    """The next leader may not know of the change, nor wait for them before it calls a revocation
    enforced."""
    node.lead()
    node.raft.members = ("a", "b", "c", "d")

    def granted(seq: int) -> set[str]:
        node.turn()  # knows the configuration
        sent = node.turn(("d", Ask(seq, 9, 9)), ("b", Ask(seq, 9, 9)))
        (asked,) = {message.round for _, message in sent if isinstance(message, Confirm)}
        sent = node.turn(("c", ConfirmReply(3, asked)))
        return {peer for peer, message in sent if isinstance(message, Grant)}

    assert granted(5) == {"b"}
    node.raft.committed_members = node.raft.members
    assert granted(6) == {"b", "d"}


def test_a_federation_of_one_grants_itself(word: AuthorityWord):
    node = Node(word, peers=())
    node.lead()
    assert node.turn() == []
    assert node.record().deadline_ns == node.clock.boottime_ns() + PERIOD_MS * MS


def test_a_deposed_leader_grants_nothing(node: Node):
    node.lead()
    sent = node.turn(("b", Ask(5, 9, 9)))
    (confirm,) = {message for _, message in sent if isinstance(message, Confirm)}
    node.raft = Raft(term=4)
    sent = node.turn(("c", ConfirmReply(3, confirm.round)))
    assert not any(isinstance(message, Grant) for _, message in sent)


# -- enforcement ---------------------------------------------------------------------------------


def test_reports_go_to_the_leader_once_a_change(node: Node):
    def reports(**state: int) -> list[tuple[str, AuthorityMessage]]:
        return [(p, m) for p, m in node.turn(**state) if isinstance(m, EnforcedReport)]

    assert reports(enforced=9) == [("b", EnforcedReport(9))]
    assert reports(enforced=9) == []
    assert reports(enforced=10) == [("b", EnforcedReport(10))]
    node.raft.leader = "c"
    assert reports(enforced=10) == [("c", EnforcedReport(10))]
    node.keeper.connected("c")
    assert reports(enforced=10) == [("c", EnforcedReport(10))]


def test_the_leader_tells_what_all_have_enforced(node: Node):
    node.lead()
    node.turn(enforced=10)
    assert node.keeper.watermark == 0
    sent = node.turn(("b", EnforcedReport(10)), ("c", Ask(1, 9, 9)))
    assert node.keeper.watermark == 9
    told = [(p, m) for p, m in sent if isinstance(m, EnforcedWatermark)]
    assert told == [("b", EnforcedWatermark(9)), ("c", EnforcedWatermark(9))]
    assert not any(isinstance(m, EnforcedWatermark) for _, m in node.turn())


def test_the_leaders_own_report_counts_in_the_turn_in_which_it_is_made(word: AuthorityWord):
    """Not a timer later: in a federation of one nothing else would come."""
    node = Node(word, peers=())
    node.lead()
    node.turn(enforced=10)
    assert node.keeper.watermark == 10


def test_a_report_of_more_than_is_committed_counts_as_what_is(node: Node):
    """As far as the leader knows: it may have begun only now, and know less than is committed."""
    node.lead()
    node.turn(("b", EnforcedReport(12, 12)), ("c", EnforcedReport(12, 12)))
    node.raft.commit_index = 12
    node.keeper.tick(node.raft, 12, 12, 12)
    assert (node.keeper.watermark, node.keeper.drained) == (10, 10)


@pytest.mark.parametrize(
    "message",
    [
        EnforcedReport(13),
        EnforcedReport(2**60),
        EnforcedReport(9, 13),
        Ask(1, 13, 9),
        Ask(1, 9, 13),
        Ask(1, 9, 9, 13),
    ],
    ids=str,
)
def test_who_claims_more_than_the_leader_s_log_has_is_granted_and_believed_nothing(
    node: Node, message: AuthorityMessage
):
    """Its state is another federation's, or a forger's: it must not permit on that."""
    node.lead()
    with pytest.raises(PeerError, match="says that it has applied"):
        node.turn(("b", message))
    sent = node.turn(("c", ConfirmReply(3, 1)), ("c", ConfirmReply(3, 2)))
    assert not [m for peer, m in sent if peer == "b" and isinstance(m, Grant)]
    assert node.keeper.enforced_by("b") == 0


def test_a_follower_learns_the_watermark_from_its_leader(node: Node):
    node.turn(("c", EnforcedWatermark(8)))
    assert node.keeper.watermark == 0
    node.turn(("b", EnforcedWatermark(7)), ("b", EnforcedWatermark(6)))
    assert node.keeper.watermark == 7


def test_a_watermark_beyond_what_is_committed_is_believed_no_further_than_that(node: Node):
    """A leader that errs once must not make every later revocation seem to hold."""
    node.turn(("b", EnforcedWatermark(2**64 - 1)))
    assert node.keeper.watermark == node.raft.commit_index
    before = node.raft.commit_index
    node.raft.term += 1
    node.raft.commit_index += 50
    node.turn()
    assert node.keeper.watermark == before, "the word of an earlier leadership is void"


def test_the_watermark_is_told_again_with_each_grant(node: Node):
    """A member that has started again must learn it, though nothing else changes."""
    node.lead()
    reports = ("b", EnforcedReport(10)), ("c", EnforcedReport(10))
    node.turn(*reports)
    sent = node.turn(("b", Ask(1, 10, 10)))
    number = max(m.round for _, m in sent if isinstance(m, Confirm))
    sent = node.turn(("c", ConfirmReply(3, number)))
    assert [m for p, m in sent if p == "b"] == [
        Grant(1, 3, 10, FederationTime(77, 70), PERIOD_MS),
        EnforcedWatermark(10),
    ]


def test_a_new_link_is_told_the_watermark_by_the_leader(node: Node):
    node.keeper.connected("b")
    assert node.keeper.take_outbox() == []
    node.lead()
    node.turn(("b", EnforcedReport(10)), ("c", EnforcedReport(10)))
    node.keeper.connected("b")
    assert node.keeper.take_outbox() == [("b", EnforcedWatermark(10))]


def test_a_member_that_is_silent_holds_the_watermark_until_it_has_lapsed(node: Node):
    node.lead()
    node.turn(("b", EnforcedReport(10)))
    node.clock.advance_ms(PERIOD_MS * 101 // 100 - 1)
    node.turn()
    assert node.keeper.watermark == 0
    node.clock.advance_ms(1)
    node.turn()
    assert node.keeper.watermark == 10


def test_a_new_leader_waits_for_what_the_ones_before_have_granted(node: Node):
    node.lead()
    node.turn(("b", EnforcedReport(10)))
    node.raft = Raft(term=4)
    node.turn()
    node.clock.advance_ms(10 * PERIOD_MS)
    node.lead(term=5)
    node.turn()
    assert node.keeper.watermark == 0


def test_a_leadership_that_ended_unseen_still_counts_as_ended(node: Node):
    """Deposed and elected again between two turns: another leader may have granted meanwhile."""
    node.lead()
    node.turn(("b", EnforcedReport(10)))
    node.clock.advance_ms(10 * PERIOD_MS)
    node.lead(term=5)
    node.raft.commits_own_term = False
    node.turn()
    assert node.keeper.watermark == 0
    node.raft.commits_own_term = True
    node.turn()
    assert node.keeper.watermark == 0
    node.clock.advance_ms(PERIOD_MS * 101 // 100)
    node.turn()
    assert node.keeper.watermark == 10


def test_a_new_leader_counts_from_when_it_has_applied_what_may_say_how_long(node: Node):
    """The leaders before it may have granted by an `L` that stands in what is left to apply."""
    node.lead()
    node.turn(("b", EnforcedReport(10)), applied=9)
    node.clock.advance_ms(10 * PERIOD_MS)
    node.turn(applied=9)
    assert node.keeper.watermark == 0
    node.keeper.follow(TERMS, replace(TERMS, period_ms=5 * PERIOD_MS))
    node.turn(applied=10)
    node.clock.advance_ms(5 * PERIOD_MS)
    node.turn()
    assert node.keeper.watermark == 0
    node.clock.advance_ms(5 * PERIOD_MS // 100)
    node.turn()
    assert node.keeper.watermark == 10


@pytest.mark.parametrize(("own", "leaders"), [(400, PERIOD_MS), (PERIOD_MS, 400), (400, 400)])
def test_of_two_periods_the_shorter_one_counts(node: Node, own: int, leaders: int):
    """Each may have applied a change that the other has not."""
    terms = replace(TERMS, period_ms=own)
    node.keeper.follow(terms, terms)
    asked = node.clock.boottime_ns()
    ask = _ask(node.turn())
    node.turn(("b", Grant(ask.seq, 3, 10, TIME, leaders)))
    assert node.record().deadline_ns == asked + 400 * MS
    assert node.keeper.remaining_ms() == 400


def _published(node: Node) -> AuthorityRecord:
    ask = _ask(node.turn())
    node.turn(("b", Grant(ask.seq, 3, 10, TIME, PERIOD_MS)))
    return node.record()


@pytest.mark.parametrize("ago_ms", [0, 300, 500])
def test_a_shorter_period_counts_from_here_for_what_was_published_before(node: Node, ago_ms: int):
    """The ask was as long ago as the longer one allowed: by that, nobody is to be denied. The next
    ask is due as early as the shorter one needs."""
    before = _published(node)
    node.clock.advance_ms(ago_ms)
    here = node.clock.boottime_ns()
    node.keeper.follow(replace(TERMS, period_ms=400, max_permit_ttl_ms=100), TERMS)
    after = node.record()
    assert after.deadline_ns == here + 400 * MS < before.deadline_ns
    assert after.max_permit_ttl_ms == 100
    assert (after.index, after.term) == (before.index, before.term)
    assert node.keeper.remaining_ms() == 400
    assert node.keeper.next_timer_ns(node.raft) <= here + 80 * MS


def test_a_grant_that_was_asked_for_before_a_shorter_period_takes_nothing_away(node: Node):
    _published(node)
    node.clock.advance_ms(200)
    asked = _ask(node.turn())
    node.clock.advance_ms(300)
    node.keeper.follow(replace(TERMS, period_ms=100, max_permit_ttl_ms=50), TERMS)
    held = node.record()
    assert held.deadline_ns == node.clock.boottime_ns() + 100 * MS
    node.turn(("b", Grant(asked.seq, 3, 10, TIME, PERIOD_MS)))
    assert node.record().deadline_ns == held.deadline_ns
    assert node.record().granted_at_boottime_ns > held.granted_at_boottime_ns
    node.clock.advance_ms(20)
    node.turn(("b", Grant(_ask(node.turn()).seq, 3, 10, TIME, 100)))
    assert node.record().deadline_ns == node.clock.boottime_ns() + 100 * MS


def test_what_was_published_lasts_no_longer_by_other_parameters(node: Node):
    before = _published(node)
    node.clock.advance_ms(900)
    node.keeper.follow(replace(TERMS, period_ms=400), TERMS)
    assert node.record() == before
    longer = replace(TERMS, period_ms=4 * PERIOD_MS, max_permit_ttl_ms=50, rho_ppm=20_000)
    node.keeper.follow(longer, longer)
    after = node.record()
    assert after.deadline_ns == before.deadline_ns
    assert (after.max_permit_ttl_ms, after.rho_ppm) == (50, 20_000)


def test_what_was_surrendered_does_not_come_back_with_other_parameters(node: Node):
    _published(node)
    node.keeper.surrender(Reason.STORAGE_FULL)
    given_up = node.record()
    node.keeper.follow(replace(TERMS, period_ms=400), TERMS)
    assert node.record() == given_up
    assert given_up.reason is Reason.STORAGE_FULL


def test_a_leader_grants_for_what_is_in_force_and_counts_what_ever_was(node: Node):
    node.lead()
    node.keeper.follow(replace(TERMS, period_ms=200), TERMS)
    sent = node.turn(("b", Ask(5, 10, 10)), ("b", EnforcedReport(10)))
    confirm = next(message for _, message in sent if isinstance(message, Confirm))
    sent = node.turn(("b", ConfirmReply(3, confirm.round)))
    assert ("b", Grant(5, 3, 10, FederationTime(77, 70), 200)) in sent
    node.clock.advance_ms(PERIOD_MS)
    node.turn()
    assert node.keeper.watermark == 0, "what the leader before granted may last for L as it was"
    node.clock.advance_ms(PERIOD_MS // 100)
    node.turn()
    assert node.keeper.watermark == 10


def test_before_a_commit_of_its_own_a_leader_tells_nothing(node: Node):
    node.lead()
    node.raft.commits_own_term = False
    node.turn(("b", EnforcedReport(10)), ("c", EnforcedReport(10)))
    assert node.keeper.watermark == 0


def test_what_each_member_has_enforced_can_be_seen(node: Node):
    node.lead()
    node.turn(("b", EnforcedReport(8)), enforced=9)
    assert [node.keeper.enforced_by(member) for member in "abc"] == [9, 8, 0]


# -- timers --------------------------------------------------------------------------------------


def test_without_a_leader_no_turn_is_due(node: Node):
    node.raft.leader = None
    assert node.keeper.next_timer_ns(node.raft) is None


def test_a_turn_is_due_for_the_next_ask_and_for_a_leader_to_retry(node: Node):
    node.turn()
    now = node.clock.boottime_ns()
    assert node.keeper.next_timer_ns(node.raft) == now + PERIOD_MS * MS // 5
    node.lead()
    node.turn()
    assert node.keeper.next_timer_ns(node.raft) == now + 100 * MS


def test_a_new_leader_waits_for_a_retired_member_that_it_was_not_told_of_when_it_started(
    word: AuthorityWord,
):
    """The state names it no more, the configuration still does: it may hold authority yet."""
    node = Node(word, peers=())
    node.raft.members = node.raft.committed_members = ("a", "c")
    node.keeper.retire(["c"])
    node.lead()
    node.turn()
    assert node.keeper.watermark == 0
    node.turn(("c", EnforcedReport(9)))
    assert node.keeper.watermark == 9
    node.clock.advance_ms(PERIOD_MS + 10)
    node.turn()
    assert node.keeper.watermark == 10


# -- what is drained -------------------------------------------------------------------------------


def test_what_is_drained_is_reported_and_told_beside_what_is_enforced(node: Node):
    node.keeper.tick(node.raft, 10, 10, 8)
    sent = node.keeper.take_outbox()
    assert ("b", EnforcedReport(10, 8)) in sent
    assert _ask(sent).drained_index == 8
    node.lead()
    node.keeper.tick(node.raft, 10, 10, 9)
    node.turn(("b", EnforcedReport(10, 7)), ("c", Ask(1, 10, 10, 9)))
    assert (node.keeper.watermark, node.keeper.drained) == (10, 7)
    sent = node.turn(("b", EnforcedReport(10, 9)))
    assert ("c", EnforcedWatermark(10, 9)) in sent
    assert (node.keeper.watermark, node.keeper.drained) == (10, 9)


def test_a_follower_learns_what_is_drained_from_its_leader_of_now(node: Node):
    node.turn(("b", EnforcedWatermark(9, 8)), ("c", EnforcedWatermark(10, 10)))
    assert (node.keeper.watermark, node.keeper.drained) == (9, 8)
    node.raft.term = 4
    node.turn(("b", EnforcedWatermark(5, 10)))
    assert (node.keeper.watermark, node.keeper.drained) == (9, 10), "neither ever falls"


def test_edges_that_say_nothing_are_waited_for_as_long_as_a_permit_lives(word: AuthorityWord):
    node = Node(word, peers=())
    node.lead()
    node.turn()
    assert (node.keeper.watermark, node.keeper.drained) == (10, 0)
    node.clock.advance_ms(TERMS.max_permit_ttl_ms + 10)
    node.turn()
    assert node.keeper.drained == 10


def test_a_member_that_has_lapsed_holds_no_permit_either(node: Node):
    node.lead()
    node.keeper.tick(node.raft, 10, 10, 10)
    node.turn(("b", EnforcedReport(10, 10)))
    node.clock.advance_ms(PERIOD_MS + 10)
    node.turn()
    assert (node.keeper.watermark, node.keeper.drained) == (10, 0), "its executors' clocks"
    node.clock.advance_ms(PERIOD_MS * 2 // 100)
    node.turn()
    assert node.keeper.drained == 10


def test_a_member_goes_when_no_executor_can_hold_a_permit_of_it(node: Node):
    """What is drained is counted over the members: it would be forgotten too early."""
    node.lead()
    node.turn()
    node.clock.advance_ms(PERIOD_MS + 10)
    node.turn()
    assert not node.keeper.has_lapsed("b")
    node.clock.advance_ms(PERIOD_MS * 2 // 100)
    assert node.keeper.has_lapsed("b")


def test_no_more_is_drained_than_this_node_knows_to_be_committed(node: Node):
    node.turn(("b", EnforcedWatermark(2**60, 2**60)))
    assert (node.keeper.watermark, node.keeper.drained) == (10, 10)
