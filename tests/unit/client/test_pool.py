"""A pool keeps leases between acts, and gives them back; what is governed runs under one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from tests.unit.client.conftest import ACTION, EXECUTOR, RESOURCE, World, granted, permit
from tests.unit.client.test_hold import eventually, quiet
from tests.unit.client.test_lease import released
from tests.unit.client.test_watch import notice, stay_open

from quorate.client import (
    AsyncGate,
    AsyncLeasePool,
    ClientReason,
    DeniedError,
    LeasePool,
    Reason,
    current_permit,
    governed,
)
from quorate.client.pooling import DENIAL_KEPT_MS, MOST_LEASES, Key, Places
from quorate.v1 import decision_pb2, lease_pb2


def lease_for(resource: str, fence: int) -> Any:
    return granted(id=f"lease-{fence}", resource=resource, fence=fence)


def deny(reason: Any = decision_pb2.REASON_NO_GRANT) -> lease_pb2.AcquireResponse:
    return lease_pb2.AcquireResponse(
        verdict=decision_pb2.VERDICT_DENY,
        reason=reason,
        outcome=decision_pb2.Outcome(accepted=False, reason=reason),
    )


def interrupted_when(
    go_on: threading.Event, reason: Any = decision_pb2.REASON_GRANT_REVOKED
) -> Callable[[Any, Any], Iterator[Any]]:
    def stream(_request: Any, context: Any) -> Iterator[Any]:
        go_on.wait(10)
        yield notice(lease_pb2.WATCH_EVENT_INTERRUPTED, reason=reason)
        yield from stay_open(context)

    return stream


@pytest.fixture
def pool(world: World) -> Iterator[LeasePool]:
    with LeasePool(world.gate) as made:
        yield made


def test_one_lease_serves_act_after_act(world: World, pool: LeasePool) -> None:
    quiet(world)
    world.node.then("Acquire", granted())
    world.node.then("Check", permit())
    world.node.then("Release", released())
    for _ in range(3):
        with pool.lease(ACTION, RESOURCE) as lease, lease.act() as good:
            assert good.fence == 7
    assert len(world.node.requests["Acquire"]) == len(world.node.requests["Check"]) == 1
    pool.close()
    assert len(world.node.requests["Release"]) == 1
    with pytest.raises(DeniedError) as error, pool.lease(ACTION, RESOURCE):
        pytest.fail("entered")
    assert error.value.reason is ClientReason.CLOSED


def told_lease(fence: int, *context: str) -> Any:
    return granted(id=f"lease-{fence}", fence=fence, context=context)


def test_work_of_which_something_else_is_said_has_another_lease(
    world: World, pool: LeasePool
) -> None:
    quiet(world)
    world.node.then("Acquire", told_lease(7, "ticket=OPS-1"), told_lease(8, "ticket=OPS-2"))
    world.node.then("Acquire", told_lease(9))
    world.node.then("Check", *(permit(fence=7 + n) for n in range(3)))
    world.node.then("Release", *[released()] * 3)
    found = []
    for context in ({"ticket": "OPS-1"}, {"ticket": "OPS-2"}, {"ticket": "OPS-1"}, None, {}):
        with pool.lease(ACTION, RESOURCE, context) as lease:
            found.append(lease.id)
    assert found == ["lease-7", "lease-8", "lease-7", "lease-9", "lease-9"]
    said = [list(each.context) for each in world.node.requests["Acquire"]]
    assert said == [["ticket=OPS-1"], ["ticket=OPS-2"], []]


def test_what_is_governed_says_what_it_is_about(world: World, pool: LeasePool) -> None:
    quiet(world)
    world.node.then("Acquire", told_lease(7, "ticket=OPS-1", "zone=eu"))
    world.node.then("Check", permit())
    world.node.then("Release", released())

    @governed(pool, ACTION, RESOURCE, context=lambda ticket: {"zone": "eu", "ticket": ticket})
    def work(ticket: str) -> str:
        return ticket

    assert work("OPS-1") == "OPS-1"
    (asked,) = world.node.requests["Acquire"]
    assert list(asked.context) == ["ticket=OPS-1", "zone=eu"]


@pytest.mark.parametrize("context", [{"a=b": "c"}, {"a": "\udc00"}])
def test_a_context_that_cannot_be_said_is_denied(
    world: World, pool: LeasePool, context: Any
) -> None:
    with pytest.raises(DeniedError) as error, pool.lease(ACTION, RESOURCE, context):
        pytest.fail("entered")
    assert error.value.reason is ClientReason.INVALID_REQUEST
    assert "Acquire" not in world.node.requests


def test_threads_that_come_together_share_one_lease(world: World, pool: LeasePool) -> None:
    quiet(world)
    world.node.then("Acquire", granted())
    world.node.then("Check", permit())
    world.node.then("Release", released())
    together = threading.Barrier(4)

    def act() -> str:
        together.wait(10)
        with pool.lease(ACTION, RESOURCE) as lease:
            return lease.id

    with ThreadPoolExecutor(4) as threads:
        found = [future.result() for future in [threads.submit(act) for _ in range(4)]]
    assert found == ["lease-7"] * 4
    assert len(world.node.requests["Acquire"]) == 1


def test_a_denied_request_is_not_repeated_at_once(world: World, pool: LeasePool) -> None:
    world.node.then("Acquire", deny(), deny(decision_pb2.REASON_NO_TRUST))
    for _ in range(3):
        with pytest.raises(DeniedError) as error, pool.lease(ACTION, RESOURCE):
            pytest.fail("entered")
        assert error.value.reason is Reason.NO_GRANT
    assert len(world.node.requests["Acquire"]) == 1
    world.clock.advance(DENIAL_KEPT_MS)
    with pytest.raises(DeniedError) as error, pool.lease(ACTION, RESOURCE):
        pytest.fail("entered")
    assert error.value.reason is Reason.NO_TRUST


def test_a_lease_that_is_over_is_acquired_anew(world: World, pool: LeasePool) -> None:
    revoked = threading.Event()
    world.node.then("Watch", interrupted_when(revoked))
    world.node.then("Acquire", granted(), lease_for(RESOURCE, 9))
    world.node.then("Check", permit(), permit(fence=9))
    world.node.then("Release", released())
    with pool.lease(ACTION, RESOURCE) as lease:
        assert lease.fence == 7
    revoked.set()
    place = pool._places.enter(Key(ACTION, RESOURCE))[0]
    eventually(lambda: place.is_over)  # type: ignore[union-attr]
    with pool.lease(ACTION, RESOURCE) as lease:
        assert lease.fence == 9


def test_a_lease_that_may_be_good_again_is_kept(world: World, pool: LeasePool) -> None:
    suspended = threading.Event()
    world.node.then("Watch", interrupted_when(suspended, decision_pb2.REASON_GRANT_SUSPENDED))
    denial = lease_pb2.CheckResponse(
        verdict=decision_pb2.VERDICT_DENY, reason=decision_pb2.REASON_GRANT_SUSPENDED
    )
    world.node.then("Acquire", granted())
    world.node.then("Check", permit(), denial)
    world.node.then("Release", released())
    with pool.lease(ACTION, RESOURCE) as lease:
        suspended.set()
        eventually(lambda: lease.slot.cached() is None)
    with pytest.raises(DeniedError) as error, pool.lease(ACTION, RESOURCE) as lease, lease.act():
        pytest.fail("entered")
    assert error.value.reason is Reason.GRANT_SUSPENDED
    assert len(world.node.requests["Acquire"]) == 1


def test_a_lease_without_a_permit_goes_back(world: World, pool: LeasePool) -> None:
    world.node.then("Acquire", granted())
    world.node.then("Check", grpc.StatusCode.UNAVAILABLE)
    world.node.then("Release", released())
    for _ in range(3):  # and nothing is asked for again at once
        with pytest.raises(DeniedError), pool.lease(ACTION, RESOURCE):
            pytest.fail("entered")
    assert len(world.node.requests["Release"]) == len(world.node.requests["Acquire"]) == 1


def test_a_request_whose_outcome_is_not_known_is_repeated_as_the_same(
    world: World, pool: LeasePool
) -> None:
    quiet(world)

    def unknown(_request: Any, _context: Any) -> lease_pb2.AcquireResponse:
        world.clock.advance(10_000)
        return lease_pb2.AcquireResponse(unknown=True)

    world.node.then("Acquire", unknown, granted())
    world.node.then("Check", permit())
    world.node.then("Release", released())
    with pytest.raises(DeniedError), pool.lease(ACTION, RESOURCE):
        pytest.fail("entered")
    world.clock.advance(DENIAL_KEPT_MS)
    with pool.lease(ACTION, RESOURCE) as lease:
        assert lease.fence == 7
    first, second = world.node.requests["Acquire"]
    assert first.request_id == second.request_id


def test_the_lease_that_was_idle_for_longest_makes_room(world: World) -> None:
    quiet(world)
    names = [f"{RESOURCE}/{number}" for number in range(3)]
    world.node.then("Acquire", *(lease_for(name, 7 + n) for n, name in enumerate(names)))
    world.node.then("Check", *(permit(fence=7 + n) for n in range(3)))
    world.node.then("Release", *[released()] * 3)
    with LeasePool(world.gate, most=2) as pool:
        for name in names[:2]:
            with pool.lease(ACTION, name):
                pass
        with pool.lease(ACTION, names[0]), pool.lease(ACTION, names[2]):
            assert [r.lease_id for r in world.node.requests["Release"]] == ["lease-8"]
            with pytest.raises(DeniedError) as error, pool.lease(ACTION, names[1]):
                pytest.fail("entered")
            assert error.value.reason is ClientReason.POOL_FULL
    assert len(world.node.requests["Release"]) == 3


def test_there_is_a_limit_if_nobody_sets_one(world: World) -> None:
    places: Places[Any, None] = Places(world.clock, MOST_LEASES, lambda: None)
    for number in range(MOST_LEASES):
        assert not isinstance(places.enter(Key(ACTION, str(number)))[0], type(None))
    refused, idle = places.enter(Key(ACTION, "one more"))
    assert not refused
    assert idle is None


# -- governed --------------------------------------------------------------------------------------


def test_a_governed_function_runs_under_a_permit(world: World, pool: LeasePool) -> None:
    quiet(world)
    world.node.then("Acquire", granted())
    world.node.then("Check", permit())
    world.node.then("Release", released())

    @governed(pool, ACTION, RESOURCE)
    def pay(amount: int) -> tuple[int, int]:
        known = current_permit()
        assert known is not None
        return amount, known.fence

    assert pay(3) == (3, 7)
    assert pay.__name__ == "pay"
    assert current_permit() is None


def test_a_governed_function_is_not_called_without_one(world: World, pool: LeasePool) -> None:
    called: list[str] = []
    world.node.then("Acquire", deny())

    @governed(pool, ACTION, lambda book: f"//bank.example/{book}")
    def write(book: str) -> None:
        called.append(book)

    with pytest.raises(DeniedError) as error:
        write("ledger")
    assert error.value.reason is Reason.NO_GRANT
    assert not called
    assert world.node.requests["Acquire"][0].resource == "//bank.example/ledger"


def test_work_that_is_still_to_be_done_is_not_given_back(world: World, pool: LeasePool) -> None:
    quiet(world)
    world.node.then("Acquire", granted())
    world.node.then("Check", permit())
    world.node.then("Release", released())

    async def later() -> None:
        pytest.fail("ran after the act")

    for work in (later, lambda: (pytest.fail("ran") for _ in range(1))):
        with pytest.raises(TypeError, match="still to be done"):
            governed(pool, ACTION, RESOURCE)(lambda work=work: work())()


def test_what_cannot_be_governed_is_refused(pool: LeasePool) -> None:
    def generator() -> Iterator[int]:
        yield 1

    async def coroutine() -> None: ...

    with pytest.raises(TypeError, match="generator"):
        governed(pool, ACTION, RESOURCE)(generator)
    with pytest.raises(TypeError, match="AsyncLeasePool"):
        governed(pool, ACTION, RESOURCE)(coroutine)


# -- asyncio ---------------------------------------------------------------------------------------


@pytest.fixture
async def aio_pool(world: World) -> AsyncIterator[AsyncLeasePool]:
    channel = grpc.aio.insecure_channel(
        f"127.0.0.1:{world.port}",
        options=(("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)),
    )
    async with (
        AsyncGate(channel, executor=EXECUTOR, clock=world.clock) as gate,
        AsyncLeasePool(gate) as made,
    ):
        yield made


async def test_tasks_that_come_together_share_one_lease(
    world: World, aio_pool: AsyncLeasePool
) -> None:
    quiet(world)
    world.node.then("Acquire", granted())
    world.node.then("Check", permit())
    world.node.then("Release", released())

    async def act() -> str:
        async with aio_pool.lease(ACTION, RESOURCE) as lease, lease.act():
            return lease.id

    assert await asyncio.gather(*(act() for _ in range(4))) == ["lease-7"] * 4
    assert len(world.node.requests["Acquire"]) == 1
    await aio_pool.close()
    assert len(world.node.requests["Release"]) == 1
    with pytest.raises(DeniedError):
        await act()


async def test_a_governed_coroutine_is_cancelled_when_it_must_stop(
    world: World, aio_pool: AsyncLeasePool
) -> None:
    revoked, within = threading.Event(), asyncio.Event()
    world.node.then("Watch", interrupted_when(revoked))
    world.node.then("Acquire", granted())
    world.node.then("Check", permit())
    world.node.then("Release", released())

    @governed(aio_pool, ACTION, RESOURCE)
    async def work() -> None:
        assert current_permit() is not None
        within.set()
        await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await within.wait()
    revoked.set()
    with pytest.raises(DeniedError) as error:
        await task
    assert error.value.reason is Reason.GRANT_REVOKED


async def test_a_coroutine_does_not_give_back_work_that_is_still_to_be_done(
    world: World, aio_pool: AsyncLeasePool
) -> None:
    quiet(world)
    world.node.then("Acquire", granted())
    world.node.then("Check", permit())
    world.node.then("Release", released())

    async def later() -> None:
        pytest.fail("ran after the act")

    async def items() -> AsyncIterator[int]:
        yield pytest.fail("ran after the act")

    async def in_a_task() -> Any:
        return asyncio.create_task(later())

    async def coroutine() -> Any:
        return later()

    async def generator() -> Any:
        return items()

    for work in (in_a_task, coroutine, generator):
        with pytest.raises(TypeError, match="still to be done"):
            await governed(aio_pool, ACTION, RESOURCE)(work)()
    await asyncio.sleep(0)  # the task's turn


async def test_a_denied_request_for_a_coroutine_is_not_repeated_at_once(
    world: World, aio_pool: AsyncLeasePool
) -> None:
    world.node.then("Acquire", deny(), granted())
    for _ in range(2):
        with pytest.raises(DeniedError):
            async with aio_pool.lease(ACTION, RESOURCE):
                pytest.fail("entered")
    assert len(world.node.requests["Acquire"]) == 1


async def test_a_task_that_is_cancelled_while_it_is_given_a_lease_gives_it_back(
    world: World, aio_pool: AsyncLeasePool
) -> None:
    asked = threading.Event()

    def never(_request: Any, context: Any) -> Any:
        asked.set()
        list(stay_open(context))
        return permit()

    world.node.then("Acquire", granted())
    world.node.then("Check", never)
    world.node.then("Release", released())

    async def act() -> None:
        async with aio_pool.lease(ACTION, RESOURCE):
            pytest.fail("entered")

    task = asyncio.create_task(act())
    assert await asyncio.to_thread(asked.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(world.node.requests["Release"]) == 1


async def test_an_asynchronous_pool_has_its_limit_too(world: World) -> None:
    quiet(world)
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{world.port}")
    world.node.then("Acquire", granted(), lease_for(RESOURCE + "/b", 8))
    world.node.then("Check", permit(), permit(fence=8))
    world.node.then("Release", released(), released())
    async with AsyncGate(channel, executor=EXECUTOR, clock=world.clock) as gate:
        pool = AsyncLeasePool(gate, most=1)
        async with pool.lease(ACTION, RESOURCE):
            with pytest.raises(DeniedError) as error:
                async with pool.lease(ACTION, RESOURCE + "/b"):
                    pytest.fail("entered")
            assert error.value.reason is ClientReason.POOL_FULL
        async with pool.lease(ACTION, RESOURCE + "/b") as lease:
            assert lease.fence == 8
        assert [r.lease_id for r in world.node.requests["Release"]] == ["lease-7"]
        await pool.close()


async def test_a_plain_function_needs_a_pool_for_threads(aio_pool: AsyncLeasePool) -> None:
    with pytest.raises(TypeError, match="no coroutine function"):
        governed(aio_pool, ACTION, RESOURCE)(lambda: None)
