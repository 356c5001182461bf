"""What is held has a permit at hand, or its holder is told: no later than the last permit ends."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.client.conftest import ACTION, EXECUTOR, MS, RESOURCE, FakeClock, permit

from quorate.client.calls import Calls, Question
from quorate.client.decisions import ClientReason, Denied, DeniedError, Permit
from quorate.client.facts import LeaseFacts
from quorate.client.slot import PermitSlot
from quorate.client.upkeep import Holder, Upkeep
from quorate.client.watching import WatchEvent, WatchNotice
from quorate.core.limits import MAX_CHECKS_PER_BATCH
from quorate.core.outcome import Reason
from quorate.v1 import decision_pb2, lease_pb2

TTL_MS = 800


class Unanswered(grpc.RpcError):
    """A call that failed on the way."""


def deny(reason: Any = decision_pb2.REASON_GRANT_REVOKED) -> lease_pb2.CheckResponse:
    return lease_pb2.CheckResponse(verdict=decision_pb2.VERDICT_DENY, reason=reason)


class Scene:
    """Held leases, a clock, and a test in the place of the node."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.calls = Calls(
            self.clock, executor=EXECUTOR, is_closed=lambda: False, max_permit_ttl_ms=1_000
        )
        self.upkeep = Upkeep(self.calls)
        self.told: list[tuple[str, Permit | Denied]] = []
        self.slots: dict[str, PermitSlot] = {}

    def lease(self, name: str = "lease-7", *, life_ms: int = 60_000) -> LeaseFacts:
        expires_at_ms = self.clock.wall_ns // MS + life_ms
        until_ns = self.clock.boot_ns + life_ms * MS
        said = (name, EXECUTOR, ACTION, RESOURCE, 7, expires_at_ms, "g", "", 0, ())
        return LeaseFacts(*said, life_ms=max(0, life_ms), until_ns=until_ns)

    def hold(self, name: str = "lease-7", *, renew: bool = False, **lease: int) -> Holder:
        slot = self.slots.setdefault(name, PermitSlot(self.clock))
        facts = self.lease(name, **lease)
        question = self.calls.question(facts, slot)
        first = self.calls.answered(question, permit(ttl_ms=TTL_MS), is_handed=False)
        assert isinstance(first, Permit)
        tell = lambda news: self.told.append((name, news))  # noqa: E731
        found = self.upkeep.hold(facts, slot, first, question.epoch, tell, renew=renew)
        assert found is not None
        return found[0]

    def asked(self) -> list[Question]:
        """What leaves now."""
        return [question for batch in self.upkeep.due() for question in batch]

    def answer(self, questions: list[Question], *answers: lease_pb2.CheckResponse) -> None:
        self.upkeep.answered(questions, lease_pb2.CheckBatchResponse(results=answers))

    def fail(self, questions: list[Question]) -> None:
        self.upkeep.failed(questions, Unanswered())

    def heard(self, event: WatchEvent, reason: Reason | ClientReason | None = None) -> None:
        if event not in (WatchEvent.ACTIVE, WatchEvent.RESTORED):
            for slot in self.slots.values():
                slot.drop()
        is_silence = isinstance(reason, ClientReason)
        self.upkeep.heard(
            [WatchNotice(name, event, reason, "x", is_silence=is_silence) for name in self.slots]
        )

    def news(self) -> list[Permit | Denied]:
        """What holders were told since the last time."""
        self.upkeep.lapse()
        self.upkeep.tell()
        told, self.told = self.told, []
        return [news for _, news in told]


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_the_next_permit_is_asked_for_at_half_of_the_life_of_the_one_before(scene: Scene) -> None:
    scene.hold()
    assert not scene.asked()
    scene.clock.advance(TTL_MS / 2 - 0.001)
    assert not scene.asked()
    scene.clock.advance(0.001)
    [question] = scene.asked()
    assert not scene.asked(), "one question at a time"
    scene.answer([question], permit(ttl_ms=TTL_MS))
    scene.clock.advance(TTL_MS / 2 - 1)
    assert not scene.asked()
    assert scene.slots["lease-7"].cached(), "the new permit is at hand beyond the end of the first"
    assert scene.news() == []


def test_nobody_is_told_to_stop_because_a_call_failed_until_the_permit_is_over(
    scene: Scene,
) -> None:
    scene.hold()
    scene.clock.advance(TTL_MS / 2)
    while (left := scene.clock.boot_ns - 1_000_000 * MS) < TTL_MS * MS:
        scene.fail(scene.asked())
        assert scene.news() == []
        scene.clock.advance(min(5, TTL_MS - left / MS))
    assert [news.reason for news in scene.news() if isinstance(news, Denied)] == [
        ClientReason.NODE_FAILED
    ]
    assert scene.news() == [], "it is told once"


def test_a_denial_is_told_at_once_and_what_is_good_again_too(scene: Scene) -> None:
    scene.hold()
    scene.clock.advance(TTL_MS / 2)
    scene.answer(scene.asked(), deny())
    assert scene.news() == [Denied(Reason.GRANT_REVOKED)]
    assert scene.slots["lease-7"].cached() is None
    scene.clock.advance(1_000)
    scene.answer(scene.asked(), permit())
    [again] = scene.news()
    assert isinstance(again, Permit)


def test_an_interruption_is_told_at_once(scene: Scene) -> None:
    scene.hold()
    scene.heard(WatchEvent.INTERRUPTED, Reason.EXECUTOR_SUSPENDED)
    assert scene.news() == [Denied(Reason.EXECUTOR_SUSPENDED, "x")]


def test_what_is_restored_is_asked_for_at_once(scene: Scene) -> None:
    scene.hold()
    scene.heard(WatchEvent.AUTHORITY_LOST, Reason.INQUORATE)
    assert scene.news() == [Denied(Reason.INQUORATE, "x")]
    scene.heard(WatchEvent.RESTORED)
    scene.answer(scene.asked(), permit())
    assert [bool(news) for news in scene.news()] == [True]


def test_a_stream_that_broke_is_no_reason_to_stop_but_to_ask(scene: Scene) -> None:
    scene.hold()
    scene.clock.advance(10)
    scene.heard(WatchEvent.AUTHORITY_LOST, ClientReason.UNREACHABLE)
    assert scene.news() == []
    assert scene.slots["lease-7"].cached() is None, "nothing new begins under the permit"
    scene.answer(scene.asked(), permit())
    assert scene.news() == []
    assert scene.slots["lease-7"].cached()


def test_a_permit_that_was_asked_for_before_an_interruption_restores_nothing(
    scene: Scene,
) -> None:
    scene.hold()
    scene.clock.advance(TTL_MS / 2)
    questions = scene.asked()
    scene.heard(WatchEvent.INTERRUPTED, Reason.GRANT_REVOKED)
    scene.answer(questions, permit())
    assert scene.news() == [Denied(Reason.GRANT_REVOKED, "x")]
    assert scene.asked(), "it is asked again, after the interruption"


def test_a_permit_that_is_taken_away_as_it_comes_lets_nobody_go_on(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread reads the answers, another the notices: between two steps of the one, the other
    tells the holder to stop."""
    scene.hold()
    scene.clock.advance(TTL_MS / 2)
    asked, judged = scene.asked(), scene.calls.batch_answered

    def interrupted(*answered: Any) -> list[Permit | Denied]:
        answers = judged(*answered)
        scene.heard(WatchEvent.INTERRUPTED, Reason.EXECUTOR_SUSPENDED)
        return answers

    with monkeypatch.context() as racing:
        racing.setattr(scene.calls, "batch_answered", interrupted)
        scene.answer(asked, permit())
    assert scene.news() == [Denied(Reason.EXECUTOR_SUSPENDED, "x")]
    assert scene.asked(), "at once: it may be good again"


def test_clocks_that_moved_apart_end_what_a_permit_covers(scene: Scene) -> None:
    scene.hold()
    scene.clock.wall_ns += 101 * MS
    assert [bool(news) for news in scene.news()] == [False]


def test_answers_that_are_not_as_many_as_the_questions_answer_none_of_them(scene: Scene) -> None:
    scene.hold("a")
    scene.hold("b")
    scene.clock.advance(TTL_MS / 2)
    scene.answer(scene.asked(), permit())
    assert {news.reason for news in scene.news() if isinstance(news, Denied)} == {
        ClientReason.MALFORMED_ANSWER
    }


def test_whatever_the_node_says_that_is_no_permit_is_told_at_once(scene: Scene) -> None:
    for answer in (deny(7777), permit(verdict=77), permit(fence=8), permit(ttl_ms=0)):
        again = Scene()
        again.hold()
        again.clock.advance(TTL_MS / 2)
        again.answer(again.asked(), answer)
        assert [bool(news) for news in again.news()] == [False], answer
    scene.hold()
    scene.heard(WatchEvent.INTERRUPTED)  # without a reason
    assert [bool(news) for news in scene.news()] == [False]


def test_what_is_kept_no_more_is_not_said_to_be_good(scene: Scene) -> None:
    scene.hold()
    scene.clock.advance(TTL_MS / 2)
    asked = scene.asked()
    scene.upkeep.abandon(ClientReason.CLIENT_FAILED)
    scene.answer(asked, permit())
    [news] = scene.news()
    assert isinstance(news, Denied)
    assert news.reason is ClientReason.CLIENT_FAILED
    scene.clock.advance(60_000)
    assert not scene.asked()
    with pytest.raises(DeniedError):
        scene.hold()


def test_a_permit_of_before_an_interruption_holds_nothing(scene: Scene) -> None:
    slot = PermitSlot(scene.clock)
    question = scene.calls.question(scene.lease(), slot)
    first = scene.calls.answered(question, permit(), is_handed=False)
    assert isinstance(first, Permit)
    slot.drop()
    found = scene.upkeep.hold(
        scene.lease(), slot, first, question.epoch, lambda _news: None, renew=False
    )
    assert found is None
    assert scene.upkeep.wait_s() is None


def test_an_answer_to_who_has_let_go_says_nothing_to_who_holds_it_now(scene: Scene) -> None:
    holder = scene.hold()
    scene.clock.advance(TTL_MS / 2)
    late = scene.asked()
    assert scene.upkeep.let_go(holder)
    scene.hold()
    scene.fail(late)
    scene.answer(late, deny())
    assert scene.news() == []


def test_what_is_denied_is_not_renewed(scene: Scene) -> None:
    scene.hold(renew=True, life_ms=12_000)
    scene.heard(WatchEvent.INTERRUPTED, Reason.GRANT_REVOKED)
    scene.clock.advance(3_600_000)
    assert not scene.upkeep.due_renewals()


def test_a_lease_that_is_held_late_is_renewed_by_the_life_that_it_was_given_then(
    scene: Scene,
) -> None:
    scene.hold(renew=True, life_ms=3_000)
    scene.clock.advance(2_000)
    scene.answer(scene.asked(), permit())
    [held] = scene.upkeep.due_renewals()
    scene.upkeep.renewed(held, scene.lease(life_ms=60_000))
    scene.clock.advance(2_000)
    scene.answer(scene.asked(), permit())
    assert not scene.upkeep.due_renewals()


def test_a_clock_that_stepped_is_the_reason_that_is_told(scene: Scene) -> None:
    scene.hold()
    scene.clock.wall_ns += 101 * MS
    [news] = scene.news()
    assert isinstance(news, Denied)
    assert news.reason is ClientReason.CLOCK_STEP


def test_one_denial_in_a_batch_leaves_the_others_alone(scene: Scene) -> None:
    scene.hold("a")
    scene.hold("b")
    scene.clock.advance(TTL_MS / 2)
    a, b = scene.asked()
    scene.answer([a, b], deny(), permit())
    assert scene.news() == [Denied(Reason.GRANT_REVOKED)]
    assert scene.slots["b"].cached()


def test_no_batch_is_larger_than_the_node_takes(scene: Scene) -> None:
    for number in range(MAX_CHECKS_PER_BATCH + 1):
        scene.hold(f"lease-{number}")
    scene.clock.advance(TTL_MS / 2)
    assert [len(batch) for batch in scene.upkeep.due()] == [MAX_CHECKS_PER_BATCH, 1]


def test_who_lets_go_is_told_nothing_more(scene: Scene) -> None:
    first, second = scene.hold(), scene.hold()
    scene.heard(WatchEvent.INTERRUPTED, Reason.GRANT_REVOKED)
    assert not scene.upkeep.let_go(first)
    assert len(scene.news()) == 1
    assert scene.upkeep.let_go(second)
    assert not scene.upkeep.let_go(second)
    scene.clock.advance(10_000)
    assert not scene.asked()
    assert scene.news() == []
    assert scene.upkeep.wait_s() is None


def test_a_second_holder_is_told_like_the_first(scene: Scene) -> None:
    scene.hold()
    scene.heard(WatchEvent.INTERRUPTED, Reason.GRANT_REVOKED)
    assert len(scene.news()) == 1
    scene.hold()  # with a permit of its own: the lease is good again, which is news to the first
    assert [bool(news) for news in scene.news()] == [True]
    scene.heard(WatchEvent.INTERRUPTED, Reason.GRANT_REVOKED)
    assert [bool(news) for news in scene.news()] == [False, False]


def test_a_lease_is_renewed_with_a_third_of_its_life_left(scene: Scene) -> None:
    scene.hold(renew=True, life_ms=60_000)
    scene.clock.advance(39_999)
    assert not scene.upkeep.has_due_renewals
    scene.clock.advance(1)
    assert scene.upkeep.has_due_renewals
    [held] = scene.upkeep.due_renewals()
    assert not scene.upkeep.due_renewals(), "one renewal at a time"
    scene.upkeep.renewed(held, scene.lease())
    scene.clock.advance(39_999)
    assert not scene.upkeep.due_renewals()
    scene.clock.advance(1)
    assert scene.upkeep.due_renewals() == [held]


def test_a_renewal_that_failed_is_tried_again_later_and_stops_nobody(scene: Scene) -> None:
    scene.hold(renew=True, life_ms=60_000)
    scene.clock.advance(40_000)
    [held] = scene.upkeep.due_renewals()
    scene.answer(scene.asked(), permit())
    scene.upkeep.renewed(held, Denied(ClientReason.LATE, unknown=True))
    assert not scene.upkeep.due_renewals()
    scene.clock.advance(5_000)
    assert scene.upkeep.due_renewals() == [held]


def test_a_lease_that_should_be_over_makes_no_storm_of_renewals(scene: Scene) -> None:
    scene.hold(renew=True, life_ms=-3_600_000)
    scene.clock.advance(500)
    assert not scene.upkeep.due_renewals()


def test_the_wait_is_bounded_while_something_is_held(scene: Scene) -> None:
    assert scene.upkeep.wait_s() is None
    scene.hold()
    assert scene.upkeep.wait_s() == pytest.approx(0.1)
    scene.clock.advance(TTL_MS / 2 - 10)
    assert scene.upkeep.wait_s() == pytest.approx(0.01)


Steps = st.lists(
    st.tuples(
        st.sampled_from(["permit", "deny", "fail", "stay", "interrupted", "broke", "restored"]),
        st.integers(0, 500),
    ),
    max_size=30,
)


@given(steps=Steps)
def test_who_was_not_told_to_stop_is_covered_by_a_permit(steps: list[tuple[str, int]]) -> None:
    """Whatever happens: after each look, a holder that believes that it may go on has had a permit
    whose life, counted from its sending, is not over."""
    scene = Scene()
    scene.hold()
    last_end_ns = scene.clock.boot_ns + TTL_MS * MS
    may_go_on = True
    waiting: list[Question] = []
    for what, after_ms in steps:
        scene.clock.advance(after_ms)
        waiting += scene.asked()
        if what == "permit" and waiting:
            scene.answer(waiting, *[permit(ttl_ms=TTL_MS)] * len(waiting))
            if scene.slots["lease-7"].kept_until_ns():
                last_end_ns = max(last_end_ns, scene.slots["lease-7"].kept_until_ns())
            waiting = []
        elif what == "deny" and waiting:
            scene.answer(waiting, *[deny()] * len(waiting))
            waiting = []
        elif what == "fail":
            scene.fail(waiting)
            waiting = []
        elif what == "interrupted":
            scene.heard(WatchEvent.INTERRUPTED, Reason.GRANT_REVOKED)
        elif what == "broke":
            scene.heard(WatchEvent.AUTHORITY_LOST, ClientReason.UNREACHABLE)
        elif what == "restored":
            scene.heard(WatchEvent.RESTORED)
        for news in scene.news():
            assert bool(news) != may_go_on, "told only what is news"
            may_go_on = bool(news)
        if may_go_on:
            assert scene.clock.boot_ns < last_end_ns
        if what == "interrupted":
            assert not may_go_on
