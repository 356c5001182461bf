"""The gate for asyncio: the same answers, and a block that is cancelled when it must stop."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import pytest
from tests.servers import stop
from tests.unit.client.conftest import ACTION, EXECUTOR, RESOURCE, World, granted, permit
from tests.unit.client.test_hold import answers, quiet
from tests.unit.client.test_lease import released
from tests.unit.client.test_watch import notice, stay_open

from quorate.client import (
    AsyncGate,
    AsyncLease,
    ClientReason,
    Denied,
    DeniedError,
    Reason,
    Released,
    WatchEvent,
    WatchNotice,
)
from quorate.v1 import decision_pb2, lease_pb2


@pytest.fixture
async def gate(world: World) -> AsyncIterator[AsyncGate]:
    channel = grpc.aio.insecure_channel(
        f"127.0.0.1:{world.port}",
        options=(("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)),
    )
    async with AsyncGate(channel, executor=EXECUTOR, clock=world.clock) as made:
        yield made


async def obtain(world: World, gate: AsyncGate) -> AsyncLease:
    world.node.then("Acquire", granted())
    lease = await gate.acquire(ACTION, RESOURCE)
    assert isinstance(lease, AsyncLease)
    return lease


async def eventually(holds: Callable[[], Any]) -> Any:
    for _ in range(1_000):
        found = holds()
        if found:
            return found
        await asyncio.sleep(0.01)
    pytest.fail("never")


def deny(reason: Any = decision_pb2.REASON_GRANT_REVOKED) -> lease_pb2.CheckResponse:
    return lease_pb2.CheckResponse(verdict=decision_pb2.VERDICT_DENY, reason=reason)


def interrupted_when(go_on: threading.Event) -> Callable[[Any, Any], Iterator[Any]]:
    def stream(_request: Any, context: Any) -> Iterator[Any]:
        yield notice(lease_pb2.WATCH_EVENT_ACTIVE)
        go_on.wait(10)
        yield notice(
            lease_pb2.WATCH_EVENT_INTERRUPTED,
            reason=decision_pb2.REASON_GRANT_REVOKED,
            position=decision_pb2.LedgerPosition(size=30),
        )
        yield from stay_open(context)

    return stream


async def test_a_cached_permit_answers_until_its_last_moment(world: World, gate: AsyncGate) -> None:
    lease = await obtain(world, gate)
    assert lease.cached() is None
    world.node.then("Check", permit(ttl_ms=800), deny())
    assert (await lease.require()).fence == 7
    world.clock.advance(799.999)
    assert lease.cached() == await lease.check()
    world.clock.advance(0.001)
    assert lease.cached() is None
    assert await lease.check() == Denied(Reason.GRANT_REVOKED)
    assert len(world.node.requests["Check"]) == 2


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (permit(verdict=77), ClientReason.UNSPECIFIED_VERDICT),
        (permit(ttl_ms=0), ClientReason.MALFORMED_ANSWER),
        (grpc.StatusCode.UNAVAILABLE, ClientReason.UNREACHABLE),
        (grpc.StatusCode.PERMISSION_DENIED, ClientReason.NOT_ACCEPTED),
        (grpc.StatusCode.INTERNAL, ClientReason.NODE_FAILED),
        (deny(), Reason.GRANT_REVOKED),
    ],
)
async def test_only_a_whole_permit_permits(
    world: World, gate: AsyncGate, answer: Any, reason: Reason | ClientReason
) -> None:
    lease = await obtain(world, gate)
    world.node.then("Check", answer)
    denied = await lease.check()
    assert isinstance(denied, Denied)
    assert denied.reason is reason
    with pytest.raises(DeniedError):
        await lease.require()


async def test_an_unknown_outcome_is_asked_for_again_with_the_same_id(
    world: World, gate: AsyncGate
) -> None:
    world.node.then("Acquire", lease_pb2.AcquireResponse(unknown=True), granted())
    assert isinstance(await gate.acquire(ACTION, RESOURCE), AsyncLease)
    ids = [request.request_id for request in world.node.requests["Acquire"]]
    assert len(ids) == 2
    assert len(set(ids)) == 1


async def test_a_lease_is_renewed_and_given_back(world: World, gate: AsyncGate) -> None:
    lease = await obtain(world, gate)
    world.node.then("Renew", granted(lease_pb2.RenewResponse, expires_at_ms=2_000))
    renewed = await lease.renew()
    assert isinstance(renewed, AsyncLease)
    assert renewed.expires_at_ms == 2_000
    world.node.then("Renew", granted(lease_pb2.RenewResponse, fence=8))
    other = await lease.renew()
    assert isinstance(other, Denied)
    assert other.reason is ClientReason.MALFORMED_ANSWER
    world.node.then("Release", released())
    assert await lease.release() == Released("lease-7", 12)


async def test_the_block_is_cancelled_when_the_lease_is_interrupted(
    world: World, gate: AsyncGate
) -> None:
    go_on = threading.Event()
    world.node.then("Watch", interrupted_when(go_on))
    lease = await obtain(world, gate)
    world.node.then("Check", permit())
    ended = False
    with pytest.raises(DeniedError) as error:
        async with lease.hold():
            assert lease.slot.kept_until_ns(), "at hand, and handed to nobody"
            go_on.set()
            try:
                await asyncio.sleep(60)
            finally:
                with pytest.raises(queue.Empty):  # the act goes on
                    await asyncio.to_thread(world.node.acknowledged.get, timeout=0.3)
                ended = True
    assert ended
    assert not gate._keeping._upkeep._held, "it is held no more"
    assert error.value.reason is Reason.GRANT_REVOKED
    assert lease.slot.cached() is None
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling(), "the task itself goes on"
    await asyncio.sleep(0)


async def test_an_interruption_is_acknowledged_when_the_block_has_ended(
    world: World, gate: AsyncGate
) -> None:
    go_on = threading.Event()
    world.node.then("Watch", interrupted_when(go_on))
    lease = await obtain(world, gate)
    world.node.then("Check", permit())
    with pytest.raises(DeniedError):
        async with lease.hold():
            go_on.set()
            await asyncio.sleep(60)
    told = await asyncio.to_thread(world.node.acknowledged.get, timeout=10)
    assert told == ("lease-7", 30)


async def test_with_everything_lost_the_block_ends_with_its_permit(
    world: World, gate: AsyncGate
) -> None:
    lease = await obtain(world, gate)
    world.node.then("Check", permit(ttl_ms=800))
    with pytest.raises(DeniedError) as error:
        async with lease.hold():
            await asyncio.to_thread(stop, world.server)
            world.clock.advance(799)
            await asyncio.sleep(0.3)
            world.clock.advance(1)
            await asyncio.sleep(60)
    assert error.value.reason in (ClientReason.UNREACHABLE, ClientReason.NODE_FAILED)


async def test_a_permit_is_renewed_before_it_is_over(world: World, gate: AsyncGate) -> None:
    quiet(world)
    lease = await obtain(world, gate)
    world.node.then("Check", permit(ttl_ms=800))
    answers(world, permit(ttl_ms=800))
    async with lease.hold():
        first_end_ns = lease.slot.kept_until_ns()
        world.clock.advance(400)
        await eventually(lambda: lease.slot.kept_until_ns() > first_end_ns)
        assert lease.cached()
    assert len(world.node.requests["Check"]) == 1


async def test_who_cancels_the_task_cancels_it(world: World, gate: AsyncGate) -> None:
    quiet(world)
    lease = await obtain(world, gate)
    world.node.then("Check", permit())
    within = asyncio.Event()

    async def work() -> None:
        async with lease.hold():
            within.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await within.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_the_block_raises_is_what_is_raised(world: World, gate: AsyncGate) -> None:
    quiet(world)
    world.node.then("Acquire", granted())
    world.node.then("Check", permit())
    world.node.then("Release", released())
    with pytest.raises(ZeroDivisionError):
        async with gate.lease(ACTION, RESOURCE):
            _ = 1 / 0
    assert len(world.node.requests["Release"]) == 1


async def test_the_block_is_not_entered_without_a_permit(world: World, gate: AsyncGate) -> None:
    world.node.then("Acquire", granted())
    world.node.then("Check", deny())
    world.node.then("Release", released())
    with pytest.raises(DeniedError):
        async with gate.lease(ACTION, RESOURCE):
            pytest.fail("entered")
    assert len(world.node.requests["Release"]) == 1


async def test_an_act_is_denied_without_a_permit(world: World, gate: AsyncGate) -> None:
    lease = await obtain(world, gate)
    world.node.then("Check", permit(), deny())
    async with lease.act() as first:
        assert first.fence == 7
    world.clock.advance(1_000)
    with pytest.raises(DeniedError):
        async with lease.act():
            pytest.fail("entered")


async def test_a_closed_gate_ends_what_it_holds(world: World, gate: AsyncGate) -> None:
    quiet(world)
    lease = await obtain(world, gate)
    world.node.then("Check", permit())
    with pytest.raises(DeniedError) as error:
        async with lease.hold():
            await gate.close()
            await asyncio.sleep(60)
    assert error.value.reason is ClientReason.CLOSED
    assert await lease.check() == Denied(ClientReason.CLOSED, "lease-7")
    answer = await gate.acquire(ACTION, RESOURCE)
    assert isinstance(answer, Denied)
    assert answer.reason is ClientReason.CLOSED


async def test_closing_the_gate_denies_a_check_that_waits(world: World, gate: AsyncGate) -> None:
    lease = await obtain(world, gate)
    asked = threading.Event()

    def never(_request: Any, context: Any) -> Any:
        asked.set()
        list(stay_open(context))
        return permit()

    world.node.then("Check", never)
    check = asyncio.create_task(lease.check())
    await eventually(asked.is_set)
    await gate.close()
    denied = await check
    assert isinstance(denied, Denied)
    assert denied.reason is ClientReason.CLOSED


async def test_a_fault_of_the_library_stops_who_relies_on_it(
    world: World, gate: AsyncGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet(world)
    lease = await obtain(world, gate)
    world.node.then("Check", permit())
    with pytest.raises(DeniedError) as error:
        async with lease.hold():
            monkeypatch.setattr(gate._keeping._upkeep, "lapse", lambda: 1 / 0)
            await asyncio.sleep(60)
    assert error.value.reason is ClientReason.CLIENT_FAILED
    world.node.then("Check", permit())
    with pytest.raises(DeniedError) as later:
        async with lease.hold():
            pytest.fail("entered")
    assert later.value.reason is ClientReason.CLIENT_FAILED


async def test_keeping_that_is_cancelled_stops_who_relies_on_it(
    world: World, gate: AsyncGate
) -> None:
    quiet(world)
    lease = await obtain(world, gate)
    world.node.then("Check", permit())
    with pytest.raises(DeniedError) as error:
        async with lease.hold():
            for task in list(gate._keeping._tasks):
                task.cancel()
            await asyncio.sleep(60)
    assert error.value.reason is ClientReason.CLIENT_FAILED


async def test_a_block_that_wandered_into_another_task_fails_at_its_end(
    world: World, gate: AsyncGate
) -> None:
    go_on = threading.Event()
    world.node.then("Watch", interrupted_when(go_on))
    lease = await obtain(world, gate)
    world.node.then("Check", permit())
    block = lease.hold()
    await asyncio.create_task(block.__aenter__())
    go_on.set()
    await eventually(lambda: not lease.slot.kept_until_ns())
    await eventually(lambda: not gate._keeping._upkeep.has_news)
    with pytest.raises(DeniedError):
        await block.__aexit__(None, None, None)


async def test_a_gate_that_is_closed_by_its_holder_is_closed_whole(
    world: World, gate: AsyncGate
) -> None:
    quiet(world)
    lease = await obtain(world, gate)
    world.node.then("Check", permit())
    with pytest.raises(DeniedError):
        async with lease.hold():
            await gate.close()
    state = gate._channel.get_state()
    assert state is grpc.ChannelConnectivity.SHUTDOWN


async def test_who_gives_up_waiting_for_a_notice_can_come_again(
    world: World, gate: AsyncGate
) -> None:
    go_on = threading.Event()
    world.node.then("Watch", interrupted_when(go_on))
    watch = gate.watch([await obtain(world, gate)])
    assert (await anext(watch)).event is WatchEvent.ACTIVE
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await anext(watch)
    go_on.set()
    assert (await anext(watch)).event is WatchEvent.INTERRUPTED
    watch.close()


async def test_no_notice_is_lost_with_who_gives_up_just_as_it_comes(
    world: World, gate: AsyncGate
) -> None:
    world.node.then("Watch", interrupted_when(threading.Event()))
    watch = gate.watch([await obtain(world, gate)])
    assert (await anext(watch)).event is WatchEvent.ACTIVE
    waiting = asyncio.ensure_future(anext(watch))
    for _ in range(3):
        await asyncio.sleep(0)
    told = WatchNotice("lease-7", WatchEvent.INTERRUPTED, Reason.GRANT_REVOKED)
    watch._notices.put_nowait(told)
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(10):
        assert await anext(watch) == told
    watch.close()


async def test_a_watch_hears_what_happens(world: World, gate: AsyncGate) -> None:
    go_on = threading.Event()
    go_on.set()

    def breaks(_request: Any, context: Any) -> Iterator[Any]:
        yield notice(lease_pb2.WATCH_EVENT_RESTORED)
        context.abort(grpc.StatusCode.UNAVAILABLE, "scripted")

    world.node.then("Watch", breaks, interrupted_when(go_on))
    lease = await obtain(world, gate)
    watch = gate.watch([lease])
    events = [(await anext(watch)).event for _ in range(4)]
    assert events == [
        WatchEvent.RESTORED,
        WatchEvent.AUTHORITY_LOST,
        WatchEvent.ACTIVE,
        WatchEvent.INTERRUPTED,
    ]
    told = await asyncio.to_thread(world.node.acknowledged.get, timeout=10)
    assert told == ("lease-7", 30)
    watch.close()
    assert [each async for each in watch] == []
