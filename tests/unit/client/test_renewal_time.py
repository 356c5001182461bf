"""When a held lease is renewed does not depend on what this machine's wall clock shows: the life of
a lease is the ledger's, and it counts from when the lease was asked for, on the boot clock."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.client.conftest import ACTION, MS, RESOURCE, granted, permit
from tests.unit.client.test_upkeep import TTL_MS, Scene

from quorate.client.calls import Ask, Steps
from quorate.client.clock import MAX_CLOCK_DRIFT_MS
from quorate.client.facts import LeaseFacts
from quorate.client.slot import PermitSlot
from quorate.v1 import decision_pb2, lease_pb2

LEDGER_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
WRONG_BY_MS = [-HOUR_MS, -5_000, 0, 5_000, HOUR_MS]


class Ledger:
    """Ledger time goes as the boot clock does, whatever the wall clock shows."""

    def __init__(self, scene: Scene, *, wrong_by_ms: int = 0, life_ms: int = 10_000) -> None:
        self.scene, self.life_ms = scene, life_ms
        self.began_ns = scene.clock.boot_ns
        self.jumped_ms = 0
        self.acquired_at_ms = LEDGER_MS
        scene.clock.wall_ns = (LEDGER_MS + wrong_by_ms) * MS

    def now_ms(self) -> int:
        return LEDGER_MS + self.jumped_ms + (self.scene.clock.boot_ns - self.began_ns) // MS

    def answer(self, kind: Any, *, duplicate: bool = False, life_ms: int = 0) -> Any:
        made = granted(
            kind,
            acquired_at_ms=self.acquired_at_ms,
            expires_at_ms=(self.acquired_at_ms if duplicate else self.now_ms())
            + (life_ms or self.life_ms),
        )
        made.outcome.duplicate = duplicate
        return made

    def permit(self, time_ms: int = LEDGER_MS) -> lease_pb2.CheckResponse:
        """On a ledger whose last entry is of that time: the acquisition's, on a quiet one."""
        at = decision_pb2.LedgerPosition(size=9, ledger_time_ms=time_ms)
        return permit(ttl_ms=TTL_MS, position=at)

    def take(self, steps: Steps[Any], *answers: Any, after_ms: int = 0) -> LeaseFacts:
        """The lease that is obtained by these answers, each of which takes so long."""
        said, answer = iter(answers), None
        with pytest.raises(StopIteration) as end:
            while True:
                step, answer = steps.send(answer), None
                if isinstance(step, Ask):
                    self.scene.clock.advance(after_ms)
                    answer = next(said)
        lease = end.value.value
        assert isinstance(lease, LeaseFacts), lease
        return lease

    def acquire(self, *, request_id: str = "", after_ms: int = 0, **answer: Any) -> LeaseFacts:
        steps = self.scene.calls.acquire(ACTION, RESOURCE, 0, request_id, 60_000)
        said = self.answer(lease_pb2.AcquireResponse, **answer)
        return self.take(steps, said, after_ms=after_ms)

    def renew(self, lease: LeaseFacts, ttl_ms: int = 0, **answer: Any) -> LeaseFacts:
        steps = self.scene.calls.renew(lease, ttl_ms, 60_000)
        return self.take(steps, self.answer(lease_pb2.RenewResponse, **answer))

    def hold(self, lease: LeaseFacts, time_ms: int = LEDGER_MS) -> None:
        slot = self.scene.slots.setdefault(lease.id, PermitSlot(self.scene.clock))
        question = self.scene.calls.question(lease, slot)
        first: Any = self.scene.calls.answered(question, self.permit(time_ms), is_handed=False)
        assert first
        assert self.scene.upkeep.hold(
            lease, slot, first, question.epoch, lambda _: None, renew=True
        )

    def due_after(self, *, time_ms: int = LEDGER_MS, most_ms: int = 20_000) -> int:
        """How long until the renewal is due, in steps, while permits come."""
        passed = 0
        while not self.scene.upkeep.has_due_renewals:
            assert passed < most_ms, "it is not renewed"
            self.scene.clock.advance(50)
            passed += 50
            asked = self.scene.asked()
            self.scene.answer(asked, *[self.permit(time_ms)] * len(asked))
        return passed


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.mark.parametrize("wrong_by_ms", WRONG_BY_MS)
def test_a_wall_clock_that_is_wrong_moves_no_renewal(scene: Scene, wrong_by_ms: int) -> None:
    ledger = Ledger(scene, wrong_by_ms=wrong_by_ms)
    ledger.hold(ledger.acquire())
    assert ledger.due_after() == 6_700
    [held] = scene.upkeep.due_renewals()
    scene.upkeep.renewed(held, ledger.renew(held.lease))
    assert ledger.due_after() == 6_700


def test_a_lease_counts_from_when_it_was_asked_for(scene: Scene) -> None:
    ledger = Ledger(scene)
    lease = ledger.acquire(after_ms=4_000)
    ledger.hold(lease)
    assert ledger.due_after() == 4_000, "two thirds of the 6 s that are left"


def test_who_holds_a_lease_late_renews_it_by_the_life_that_is_left(scene: Scene) -> None:
    ledger = Ledger(scene)
    lease = ledger.acquire()
    scene.clock.advance(7_000)
    ledger.hold(lease)
    assert ledger.due_after() == 2_000


def test_a_request_that_was_sent_twice_counts_from_the_first(scene: Scene) -> None:
    ledger = Ledger(scene)
    steps = scene.calls.acquire(ACTION, RESOURCE, 0, "", 60_000)
    unknown = lease_pb2.AcquireResponse(unknown=True)
    said = ledger.answer(lease_pb2.AcquireResponse, duplicate=True)
    ledger.hold(ledger.take(steps, unknown, said, after_ms=2_000))
    assert ledger.due_after() == 4_000


def test_a_lease_of_which_nobody_knows_how_old_it_is_is_renewed_soon_and_once(
    scene: Scene,
) -> None:
    """The same request, made again by its id: it may have been granted at any time."""
    ledger = Ledger(scene)
    scene.clock.advance(8_000)
    ledger.hold(ledger.acquire(request_id="once", duplicate=True))
    assert ledger.due_after() <= 700
    [held] = scene.upkeep.due_renewals()
    scene.upkeep.renewed(held, ledger.renew(held.lease))
    assert ledger.due_after() == 6_700


@pytest.mark.parametrize("ttl_ms", [3_000, 60_000])
def test_a_lease_that_its_holder_has_renewed_ends_when_the_ledger_says(
    scene: Scene, ttl_ms: int
) -> None:
    """For as long as was wished for, or as the grant allows: which of them, the answer shows."""
    ledger = Ledger(scene)
    lease = ledger.acquire()
    scene.clock.advance(6_000)
    ledger.hold(ledger.renew(lease, ttl_ms, life_ms=min(ttl_ms, 10_000)))
    assert ledger.due_after() == min(ttl_ms, 10_000) * 2 // 3 // 50 * 50 + 50 * (ttl_ms != 3_000)


def test_ledger_time_that_jumps_ahead_brings_the_renewal_forward(scene: Scene) -> None:
    ledger = Ledger(scene, life_ms=600_000)
    ledger.hold(ledger.acquire())
    scene.clock.advance(1_000)
    assert not scene.upkeep.has_due_renewals
    ledger.jumped_ms = 500_000
    scene.answer(scene.asked(), ledger.permit(ledger.now_ms()))
    assert scene.upkeep.has_due_renewals


def test_ledger_time_that_goes_as_it_should_moves_nothing(scene: Scene) -> None:
    """Each permit says the time of an entry of just before."""
    ledger = Ledger(scene)
    ledger.hold(ledger.acquire())
    passed = 0
    while not scene.upkeep.has_due_renewals:
        scene.clock.advance(50)
        passed += 50
        asked = scene.asked()
        scene.answer(asked, *[ledger.permit(ledger.now_ms() + MAX_CLOCK_DRIFT_MS)] * len(asked))
    assert passed == 6_700


def test_a_renewal_that_was_denied_is_not_brought_forward_by_every_permit(scene: Scene) -> None:
    ledger = Ledger(scene, life_ms=60_000)
    ledger.hold(ledger.acquire())
    ledger.due_after(most_ms=60_000)
    [held] = scene.upkeep.due_renewals()
    scene.upkeep.renewed(
        held, scene.calls.unanswered(scene.calls.question(held.lease, held.slot), ValueError())
    )
    assert ledger.due_after(time_ms=ledger.now_ms()) == 5_000


def test_a_node_that_does_not_say_when_the_lease_was_acquired_says_what_time_it_is(
    scene: Scene,
) -> None:
    ledger = Ledger(scene, wrong_by_ms=-HOUR_MS)
    ledger.acquired_at_ms = 0
    ledger.hold(ledger.acquire(), ledger.now_ms())
    assert ledger.due_after() == 6_700
