"""Acquiring, renewing, releasing: what is unknown is said to be unknown."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from tests.unit.client.conftest import ACTION, RESOURCE, World, granted, permit

from quorate.client import ClientReason, Denied, DeniedError, Lease, Reason, Released, SystemClock
from quorate.v1 import decision_pb2, lease_pb2

DENY = decision_pb2.VERDICT_DENY


def refused(answer: Lease | Released | Denied) -> Denied:
    assert isinstance(answer, Denied)
    return answer


def request_ids(world: World, method: str = "Acquire") -> list[str]:
    return [request.request_id for request in world.node.requests[method]]


def released() -> lease_pb2.ReleaseResponse:
    return lease_pb2.ReleaseResponse(
        verdict=decision_pb2.VERDICT_PERMIT,
        outcome=decision_pb2.Outcome(accepted=True, ledger_index=12),
    )


def test_a_granted_lease_is_what_the_ledger_holds(world: World) -> None:
    lease = world.lease()
    assert (lease.id, lease.fence, lease.grant) == ("lease-7", 7, "bank.example/g1")
    assert (lease.action, lease.resource) == (ACTION, RESOURCE)


def test_a_denial_with_an_outcome_is_final_and_is_not_repeated(world: World) -> None:
    world.node.then(
        "Acquire",
        lease_pb2.AcquireResponse(
            verdict=DENY,
            reason=decision_pb2.REASON_NO_TRUST,
            thing="freight.example",
            outcome=decision_pb2.Outcome(accepted=False, reason=decision_pb2.REASON_NO_TRUST),
        ),
    )
    answer = refused(world.gate.acquire(ACTION, RESOURCE))
    assert (answer.reason, answer.thing) == (Reason.NO_TRUST, "freight.example")
    assert not answer.unknown
    assert len(request_ids(world)) == 1


def test_a_denial_without_asking_the_ledger_is_known_when_nothing_was_sent_before(
    world: World,
) -> None:
    world.node.then(
        "Acquire",
        lease_pb2.AcquireResponse(verdict=DENY, reason=decision_pb2.REASON_INQUORATE),
    )
    answer = refused(world.gate.acquire(ACTION, RESOURCE))
    assert answer.reason is Reason.INQUORATE
    assert not answer.unknown


def test_an_unknown_outcome_is_asked_for_again_with_the_same_id(world: World) -> None:
    world.node.then(
        "Acquire",
        lease_pb2.AcquireResponse(unknown=True),
        grpc.StatusCode.UNAVAILABLE,
        # Denied without the ledger: says nothing of the first attempt, so it settles nothing.
        lease_pb2.AcquireResponse(verdict=DENY, reason=decision_pb2.REASON_INQUORATE),
        granted(),
    )
    assert isinstance(world.gate.acquire(ACTION, RESOURCE), Lease)
    ids = request_ids(world)
    assert len(ids) == 4
    assert len(set(ids)) == 1
    assert ids[0]


def test_what_stays_unknown_says_so_and_can_be_settled_later(world: World) -> None:
    def unknown(_request: Any, _context: Any) -> lease_pb2.AcquireResponse:
        world.clock.advance(600)
        return lease_pb2.AcquireResponse(unknown=True)

    world.node.then("Acquire", unknown, unknown)
    answer = refused(world.gate.acquire(ACTION, RESOURCE, timeout_ms=1_000))
    assert answer.reason is ClientReason.OUTCOME_UNKNOWN
    assert answer.unknown
    world.node.then("Acquire", granted())
    assert isinstance(world.gate.acquire(ACTION, RESOURCE, request_id=answer.request_id), Lease)
    assert len(set(request_ids(world))) == 1


def test_a_denial_after_an_unknown_attempt_stays_unknown_at_the_deadline(world: World) -> None:
    def inquorate(_request: Any, _context: Any) -> lease_pb2.AcquireResponse:
        world.clock.advance(10_000)
        return lease_pb2.AcquireResponse(verdict=DENY, reason=decision_pb2.REASON_INQUORATE)

    world.node.then("Acquire", lease_pb2.AcquireResponse(unknown=True), inquorate)
    answer = refused(world.gate.acquire(ACTION, RESOURCE))
    assert answer.reason is Reason.INQUORATE
    assert answer.unknown


def test_a_refusal_after_an_unknown_attempt_does_not_settle_it(world: World) -> None:
    def refused_now(_request: Any, context: grpc.ServicerContext) -> None:
        world.clock.advance(10_000)
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "scripted")

    world.node.then("Acquire", lease_pb2.AcquireResponse(unknown=True), refused_now)
    answer = refused(world.gate.acquire(ACTION, RESOURCE))
    assert answer.reason is ClientReason.NOT_ACCEPTED
    assert answer.unknown


def test_two_requests_have_two_ids(world: World) -> None:
    world.node.then("Acquire", granted(), granted())
    world.gate.acquire(ACTION, RESOURCE)
    world.gate.acquire(ACTION, RESOURCE)
    assert len(set(request_ids(world))) == 2


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, ClientReason.INVALID_REQUEST),
        (grpc.StatusCode.PERMISSION_DENIED, ClientReason.NOT_ACCEPTED),
    ],
)
def test_a_request_that_was_never_taken_is_not_repeated(
    world: World, code: grpc.StatusCode, reason: ClientReason
) -> None:
    world.node.then("Acquire", code)
    answer = refused(world.gate.acquire(ACTION, RESOURCE))
    assert answer.reason is reason
    assert not answer.unknown
    assert len(request_ids(world)) == 1


def test_an_unreachable_node_is_a_denial_that_admits_what_it_does_not_know(world: World) -> None:
    world.server.stop(None).wait()
    gate = world.open_gate(SystemClock())
    answer = refused(gate.acquire(ACTION, RESOURCE, timeout_ms=200))
    assert answer.reason is ClientReason.UNREACHABLE
    assert answer.unknown
    gate.close()


@pytest.mark.parametrize(
    "answer",
    [
        granted(executor="spiffe://bank.example/agent/other"),
        granted(action="payments.read"),
        granted(resource="//bank.example/accounts/other"),
        granted(id=""),
        granted(fence=0),
        lease_pb2.AcquireResponse(
            verdict=decision_pb2.VERDICT_PERMIT,
            outcome=decision_pb2.Outcome(accepted=True),
        ),
    ],
)
def test_another_lease_than_was_asked_for_is_a_denial(
    world: World, answer: lease_pb2.AcquireResponse
) -> None:
    world.node.then("Acquire", answer)
    assert refused(world.gate.acquire(ACTION, RESOURCE)).reason is ClientReason.MALFORMED_ANSWER


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (lease_pb2.AcquireResponse(), ClientReason.UNSPECIFIED_VERDICT),
        (
            lease_pb2.AcquireResponse(verdict=decision_pb2.VERDICT_PERMIT),
            ClientReason.MALFORMED_ANSWER,
        ),
        (
            lease_pb2.AcquireResponse(
                verdict=decision_pb2.VERDICT_PERMIT,
                lease=granted().lease,
                outcome=decision_pb2.Outcome(accepted=False),
            ),
            ClientReason.MALFORMED_ANSWER,
        ),
    ],
)
def test_a_broken_answer_is_never_a_lease(
    world: World, broken: lease_pb2.AcquireResponse, reason: ClientReason
) -> None:
    def last(_request: Any, _context: Any) -> lease_pb2.AcquireResponse:
        world.clock.advance(10_000)
        return broken

    world.node.then("Acquire", last)
    answer = refused(world.gate.acquire(ACTION, RESOURCE))
    assert answer.reason is reason
    assert answer.unknown


def test_renewing_gives_the_same_lease_with_a_later_expiry(world: World) -> None:
    lease = world.lease()
    world.node.then("Renew", granted(lease_pb2.RenewResponse, expires_at_ms=9_000))
    renewed = lease.renew(5_000)
    assert isinstance(renewed, Lease)
    assert (renewed.id, renewed.fence, renewed.expires_at_ms) == ("lease-7", 7, 9_000)
    assert renewed.slot is lease.slot
    [request] = world.node.requests["Renew"]
    assert (request.lease_id, request.ttl_ms) == ("lease-7", 5_000)


def test_renewing_into_another_lease_is_a_denial(world: World) -> None:
    lease = world.lease()
    world.node.then("Renew", granted(lease_pb2.RenewResponse, fence=8))
    assert refused(lease.renew()).reason is ClientReason.MALFORMED_ANSWER


def test_releasing_drops_the_permit_before_the_node_is_asked(world: World) -> None:
    lease = world.lease()
    world.node.then("Check", permit())
    assert lease.check()

    def answer(_request: Any, _context: Any) -> lease_pb2.ReleaseResponse:
        assert lease.slot.cached() is None
        return released()

    world.node.then("Release", answer)
    assert lease.release() == Released("lease-7", 12)


def test_the_block_holds_the_lease_and_gives_it_back(world: World) -> None:
    world.node.then("Acquire", granted())
    world.node.then("Release", released())
    world.node.then("Check", permit())
    with world.gate.lease(ACTION, RESOURCE, 1_000) as lease:
        assert lease.require()
        assert not world.node.requests["Release"]
    assert len(world.node.requests["Release"]) == 1
    assert world.node.requests["Acquire"][0].ttl_ms == 1_000


def test_the_block_gives_the_lease_back_when_the_work_fails(world: World) -> None:
    world.node.then("Acquire", granted())
    world.node.then("Release", released())
    world.node.then("Check", permit())
    with pytest.raises(ZeroDivisionError), world.gate.lease(ACTION, RESOURCE):
        _ = 1 / 0
    assert len(world.node.requests["Release"]) == 1


def test_the_block_is_not_entered_without_a_permit_and_the_lease_goes_back(world: World) -> None:
    world.node.then("Acquire", granted())
    world.node.then("Release", released())
    world.node.then("Check", lease_pb2.CheckResponse(
        verdict=DENY, reason=decision_pb2.REASON_INQUORATE
    ))  # fmt: skip
    with pytest.raises(DeniedError) as error, world.gate.lease(ACTION, RESOURCE):
        pytest.fail("entered")
    assert error.value.reason is Reason.INQUORATE
    assert len(world.node.requests["Release"]) == 1


def test_the_block_is_not_entered_without_a_lease(world: World) -> None:
    world.node.then("Acquire", grpc.StatusCode.PERMISSION_DENIED)
    with pytest.raises(DeniedError), world.gate.lease(ACTION, RESOURCE):
        pytest.fail("entered")
    assert not world.node.requests["Release"]
