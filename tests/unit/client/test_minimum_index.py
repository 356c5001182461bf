"""At least as fresh as a write: a check may say which entry its answer must know of."""

from __future__ import annotations

import queue
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from tests.unit.client.conftest import ACTION, EXECUTOR, RESOURCE, World, granted, permit
from tests.unit.client.services import OPTIONS
from tests.unit.client.test_watch import notice, stay_open

from quorate.client import AsyncGate, AsyncLease, ClientReason, Denied, DeniedError, Permit, Reason
from quorate.v1 import decision_pb2, lease_pb2


def at(size: int, **changes: Any) -> lease_pb2.CheckResponse:
    """A permit that was decided on a ledger of so many entries."""
    return permit(position=decision_pb2.LedgerPosition(size=size, ledger_time_ms=5), **changes)


def denial(reason: Any, size: int) -> lease_pb2.CheckResponse:
    return lease_pb2.CheckResponse(
        verdict=decision_pb2.VERDICT_DENY,
        reason=reason,
        thing="x",
        position=decision_pb2.LedgerPosition(size=size),
    )


BEHIND = denial(decision_pb2.REASON_BEHIND, 9)


def asked(world: World) -> list[int]:
    return [request.minimum_index for request in world.node.requests["Check"]]


def test_a_kept_permit_answers_if_it_knows_of_the_entry(world: World) -> None:
    lease = world.lease()
    world.node.then("Check", at(9), at(12))
    kept = lease.check()
    for index in (1, 8):
        assert lease.check(minimum_index=index) is kept
        assert lease.require(minimum_index=index) is kept
        assert world.gate.check(lease, minimum_index=index) is kept
        with lease.act(minimum_index=index) as known:
            assert known is kept
    assert asked(world) == [0]
    world.clock.advance(1)
    fresh = lease.check(minimum_index=9)
    assert isinstance(fresh, Permit)
    assert fresh.ledger_size == 12
    assert asked(world) == [0, 9]
    assert lease.check() is lease.check(minimum_index=11) is fresh, "it is kept"


def test_an_act_and_whoever_requires_ask_for_what_is_fresh_enough(world: World) -> None:
    lease = world.lease()
    world.node.then("Check", at(9), at(11), at(12))
    assert lease.check()
    world.clock.advance(1)
    with lease.act(minimum_index=10) as known:
        assert known.ledger_size == 11
    world.clock.advance(1)
    assert lease.require(minimum_index=11).ledger_size == 12
    assert asked(world) == [0, 10, 11]


def test_a_node_that_is_behind_denies_and_takes_nothing_from_others(world: World) -> None:
    """It has said nothing of the lease."""
    lease = world.lease()
    world.node.then("Check", at(9), BEHIND, BEHIND)
    kept = lease.check()
    answer = lease.check(minimum_index=20)
    assert isinstance(answer, Denied)
    assert (answer.reason, answer.ledger_size) == (Reason.BEHIND, 9)
    with pytest.raises(DeniedError), lease.act(minimum_index=20):
        pytest.fail("entered")
    assert lease.check() is kept


def test_any_other_denial_takes_the_permit_away(world: World) -> None:
    lease = world.lease()
    world.node.then("Check", at(9), denial(decision_pb2.REASON_GRANT_REVOKED, 21))
    assert lease.check()
    answer = lease.check(minimum_index=20)
    assert answer == Denied(Reason.GRANT_REVOKED, "x", ledger_size=21)
    assert lease.slot.cached() is None


def test_a_permit_on_an_older_ledger_than_was_asked_for_is_none(world: World) -> None:
    """A node that does not know the field, or does not keep to it."""
    lease = world.lease()
    world.node.then("Check", at(20))
    answer = lease.check(minimum_index=20)
    assert isinstance(answer, Denied)
    assert answer.reason is ClientReason.MALFORMED_ANSWER
    assert lease.slot.cached() is None


@pytest.mark.parametrize("index", [-1, 2**64])
def test_what_is_no_index_is_an_invalid_request(world: World, index: Any) -> None:
    lease = world.lease()
    world.node.then("Check", at(9))
    assert lease.check()
    answer = lease.check(minimum_index=index)
    assert isinstance(answer, Denied)
    assert answer.reason is ClientReason.INVALID_REQUEST
    assert asked(world) == [0]


def test_a_denial_says_the_ledger_that_it_is_true_at(world: World) -> None:
    refusal = decision_pb2.Outcome(reason=decision_pb2.REASON_NO_GRANT, ledger_index=30)
    world.node.then(
        "Acquire",
        lease_pb2.AcquireResponse(
            verdict=decision_pb2.VERDICT_DENY, reason=refusal.reason, thing="x", outcome=refusal
        ),
        lease_pb2.AcquireResponse(
            verdict=decision_pb2.VERDICT_DENY, reason=decision_pb2.REASON_INQUORATE
        ),
    )
    assert world.gate.acquire(ACTION, RESOURCE) == Denied(
        Reason.NO_GRANT,
        "x",
        request_id=world.node.requests["Acquire"][0].request_id,
        ledger_size=31,
    )
    asked_of_nobody = world.gate.acquire(ACTION, RESOURCE)
    assert isinstance(asked_of_nobody, Denied)
    assert asked_of_nobody.ledger_size == 0


def test_a_holder_is_told_the_ledger_that_its_lease_was_interrupted_at(world: World) -> None:
    lease = world.lease()

    def stream(_request: Any, context: Any) -> Any:
        yield notice(
            lease_pb2.WATCH_EVENT_INTERRUPTED,
            reason=decision_pb2.REASON_GRANT_REVOKED,
            position=decision_pb2.LedgerPosition(size=30),
        )
        yield from stay_open(context)

    world.node.then("Watch", stream)
    world.node.then("Check", permit())
    told: queue.Queue[Permit | Denied] = queue.Queue()
    with lease.hold(told.put):
        news = told.get(timeout=10)
    assert isinstance(news, Denied)
    assert (news.reason, news.ledger_size) == (Reason.GRANT_REVOKED, 30)


# -- asyncio ---------------------------------------------------------------------------------------


@pytest.fixture
async def gate(world: World) -> AsyncIterator[AsyncGate]:
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{world.port}", options=OPTIONS)
    async with AsyncGate(channel, executor=EXECUTOR, clock=world.clock) as made:
        yield made


async def test_tasks_do_the_same(world: World, gate: AsyncGate) -> None:
    world.node.then("Acquire", granted())
    lease = await gate.acquire(ACTION, RESOURCE)
    assert isinstance(lease, AsyncLease)
    world.node.then("Check", at(9), at(12), at(14), at(16), BEHIND)
    kept = await gate.check(lease)
    assert isinstance(kept, Permit)
    assert await gate.check(lease) is kept is await lease.check(minimum_index=8)
    async with lease.act(minimum_index=8) as known:
        assert known is kept
    sizes = []
    for index in (9, 12, 14):
        world.clock.advance(1)
        answer = await gate.check(lease, minimum_index=index)
        assert isinstance(answer, Permit)
        sizes.append(answer.ledger_size)
    assert sizes == [12, 14, 16]
    with pytest.raises(DeniedError) as error:
        await lease.require(minimum_index=20)
    assert error.value.reason is Reason.BEHIND
    assert lease.cached() is answer
    assert asked(world) == [0, 9, 12, 14, 20]
