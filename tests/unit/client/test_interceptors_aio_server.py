"""grpc.aio servers under leases: handlers run only with a permit, and are cancelled with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from tests.unit.client.aio_handlers import (
    STYLES,
    begin,
    knock,
    never,
    refused,
    responses,
    unary,
)
from tests.unit.client.conftest import World, granted
from tests.unit.client.services import (
    ACT,
    KINDS,
    SERVICE,
    acts,
    aio_channel,
    aio_pool,
    aio_serving,
    always,
    info_of,
    is_at_rest,
    method,
    no_lease,
    one_lease,
)
from tests.unit.client.test_aio import eventually
from tests.unit.client.test_lease import released

from quorate.client import AsyncLeasePool, ClientReason, Denied, DeniedError, Reason
from quorate.client.interceptors import EXEMPT, AsyncLeaseServerInterceptor, by_method

PERMISSION_DENIED = grpc.StatusCode.PERMISSION_DENIED


@pytest.fixture
async def pool(world: World) -> AsyncIterator[AsyncLeasePool]:
    async with aio_pool(world) as made:
        yield made
        await eventually(lambda: is_at_rest(made))


# -- permitted and denied --------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "behaviour", "expected"), STYLES)
async def test_a_handler_runs_under_a_permit(
    world: World, pool: AsyncLeasePool, name: str, behaviour: Any, expected: list[bytes]
) -> None:
    one_lease(world)
    interceptor = AsyncLeaseServerInterceptor(pool, always)
    async with aio_serving({name: behaviour}, interceptor) as address, aio_channel(address) as to:
        for _ in range(2):
            assert await responses(begin(to, name)) == expected
    assert len(world.node.requests["Acquire"]) == len(world.node.requests["Check"]) == 1
    assert is_at_rest(pool)


@pytest.mark.parametrize("name", KINDS)
async def test_a_denied_handler_does_not_run(world: World, pool: AsyncLeasePool, name: str) -> None:
    no_lease(world)
    called: list[str] = []
    interceptor = AsyncLeaseServerInterceptor(pool, always)
    async with aio_serving(never(called), interceptor) as address, aio_channel(address) as to:
        error = await refused(knock(to, name))
    assert error.details() == "denied: NO_GRANT (bank.example/payroll)"
    info = info_of(error)
    assert (info.reason, info.domain) == ("NO_GRANT", "quorate")
    assert dict(info.metadata) == {"thing": "bank.example/payroll"}
    assert called == []


async def test_an_unreachable_node_is_a_denial_and_is_not_described(
    world: World, pool: AsyncLeasePool
) -> None:
    called: list[str] = []
    world.node.then("Acquire", granted())
    world.node.then("Check", grpc.StatusCode.UNAVAILABLE)
    world.node.then("Release", released())
    interceptor = AsyncLeaseServerInterceptor(pool, always)
    async with aio_serving(never(called), interceptor) as address, aio_channel(address) as to:
        error = await refused(begin(to, "Unary"))
    assert error.details() == "denied: UNREACHABLE (lease-7)"
    assert info_of(error).reason == "UNREACHABLE"
    assert "scripted" not in str(info_of(error)), "what the node's machine said is not passed on"
    assert called == []


@pytest.mark.parametrize("name", KINDS)
async def test_what_no_rule_knows_is_denied(pool: AsyncLeasePool, name: str) -> None:
    called: list[str] = []
    interceptor = AsyncLeaseServerInterceptor(pool, by_method({"/bank.Inbox/Other": ACT}))
    async with aio_serving(never(called), interceptor) as address, aio_channel(address) as to:
        error = await refused(knock(to, name))
    assert error.details() == "denied: NO_RULE"
    assert called == []


async def test_a_rule_that_fails_denies(
    pool: AsyncLeasePool, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[str] = []

    def rule(details: grpc.HandlerCallDetails) -> Any:
        raise ZeroDivisionError(details.method)

    interceptor = AsyncLeaseServerInterceptor(pool, rule)
    async with aio_serving(never(called), interceptor) as address, aio_channel(address) as to:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await begin(to, "Unary")
    assert error.value.code() is grpc.StatusCode.INTERNAL
    assert info_of(error.value).reason == "NO_RULE"
    assert "ZeroDivisionError" in caplog.text
    assert called == []


async def test_a_rule_sees_method_and_metadata(world: World, pool: AsyncLeasePool) -> None:
    seen: list[Any] = []

    def rule(details: grpc.HandlerCallDetails) -> Any:
        seen.append((details.method, dict(details.invocation_metadata)["book"]))
        return ACT

    one_lease(world)
    interceptor = AsyncLeaseServerInterceptor(pool, rule)
    async with aio_serving({"Unary": unary}, interceptor) as address, aio_channel(address) as to:
        assert await begin(to, "Unary", metadata=(("book", "inbox"),)) == b"a7"
    assert seen == [(f"/{SERVICE}/Unary", "inbox")]


@pytest.mark.parametrize(("name", "behaviour", "expected"), STYLES)
async def test_what_is_exempt_needs_no_lease(
    world: World, pool: AsyncLeasePool, name: str, behaviour: Any, expected: list[bytes]
) -> None:
    interceptor = AsyncLeaseServerInterceptor(pool, by_method({f"/{SERVICE}/*": EXEMPT}))
    async with aio_serving({name: behaviour}, interceptor) as address, aio_channel(address) as to:
        got = await responses(begin(to, name))
    assert got == [each.replace(b"7", b"0") for each in expected]
    assert not world.node.requests


def plain(_request: Any, _context: Any) -> Any:
    pytest.fail("called")


def generator(_request: Any, _context: Any) -> Any:
    yield pytest.fail("called")


async def asynchronous_generator(_request: Any, _context: Any) -> Any:
    yield pytest.fail("called")


@pytest.mark.parametrize(
    ("name", "behaviour"),
    [("Unary", plain), ("Up", plain), ("Down", generator), ("Unary", asynchronous_generator)],
)
async def test_what_cannot_be_cancelled_is_not_run(
    world: World, pool: AsyncLeasePool, name: str, behaviour: Any
) -> None:
    interceptor = AsyncLeaseServerInterceptor(pool, always)
    async with aio_serving({name: behaviour}, interceptor) as address, aio_channel(address) as to:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await responses(knock(to, name))
    assert error.value.code() is grpc.StatusCode.INTERNAL
    assert "neither a coroutine function" in (error.value.details() or "")
    assert not world.node.requests


async def test_what_there_is_not_is_not_asked_for(world: World, pool: AsyncLeasePool) -> None:
    interceptor = AsyncLeaseServerInterceptor(pool, always)
    async with aio_serving({"Unary": unary}, interceptor) as address, aio_channel(address) as to:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await responses(begin(to, "Down"))
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert not world.node.requests


# -- interrupted -----------------------------------------------------------------------------------


class Work:
    """Handlers of every style that work for ever, and take a while to end when they must."""

    def __init__(self) -> None:
        self.is_within = asyncio.Event()
        self.is_ending = asyncio.Event()
        self.may_end = asyncio.Event()
        self.has_ended = False

    async def _end(self) -> None:
        self.is_ending.set()
        async with asyncio.timeout(10):
            await self.may_end.wait()
        self.has_ended = True

    async def _work(self) -> None:
        self.is_within.set()
        try:
            await asyncio.Event().wait()
        finally:
            await self._end()

    async def unary(self, _request: Any, _context: Any) -> bytes:
        await self._work()
        return b"never"

    async def down(self, request: Any, _context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        await self._work()
        yield b"never"

    async def down_written(self, _request: Any, context: Any) -> None:
        await context.write(b"first")
        await self._work()
        await context.write(b"never")

    async def up(self, requests: AsyncIterator[bytes], _context: Any) -> bytes:
        async for _ in requests:
            await self._work()
        return b"never"

    async def up_waiting(self, requests: AsyncIterator[bytes], _context: Any) -> bytes:
        """For a request that does not come."""
        self.is_within.set()
        try:
            async for _ in requests:
                pass
        finally:
            await self._end()
        return b"never"

    async def both(self, requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request
            await self._work()

    async def both_written(self, requests: AsyncIterator[bytes], context: Any) -> None:
        async for request in requests:
            await context.write(request)
            await self._work()

    async def suspended(self, _request: Any, _context: Any) -> AsyncIterator[bytes]:
        """Where a generator mostly is: at a message that nobody takes."""
        self.is_within.set()
        try:
            while True:
                yield bytes(1_000_000)
        finally:
            await self._end()


async def endless() -> AsyncIterator[bytes]:
    yield b"first"
    await asyncio.Event().wait()


STOPPED = [
    ("Unary", Work.unary, []),
    ("Down", Work.down, [b"first"]),
    ("Down", Work.down_written, [b"first"]),
    ("Up", Work.up, []),
    ("Up", Work.up_waiting, []),
    ("Both", Work.both, [b"first"]),
    ("Both", Work.both_written, [b"first"]),
]


@pytest.mark.parametrize(("name", "behaviour", "first"), STOPPED)
async def test_a_handler_is_cancelled_when_its_lease_is_interrupted(
    world: World, pool: AsyncLeasePool, name: str, behaviour: Callable[..., Any], first: list[bytes]
) -> None:
    revoked, work = one_lease(world), Work()
    interceptor = AsyncLeaseServerInterceptor(pool, always)
    behaviours = {name: getattr(work, behaviour.__name__)}
    async with aio_serving(behaviours, interceptor) as address, aio_channel(address) as to:
        call = method(to, name)(b"a" if name in ("Unary", "Down") else endless())
        assert [await call.read() for _ in first] == first
        await work.is_within.wait()
        revoked.set()
        await work.is_ending.wait()
        assert acts(pool), "the act goes on until the handler has ended"
        assert world.node.acknowledged.empty()
        work.may_end.set()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await (call.read() if first else call)
        assert work.has_ended
        told = await asyncio.to_thread(world.node.acknowledged.get, timeout=10)
    assert told == ("lease-7", 30)
    assert error.value.code() is PERMISSION_DENIED
    assert error.value.details() == "denied: GRANT_REVOKED (bank.example/g1)"
    info = info_of(error.value)
    assert info.reason == "GRANT_REVOKED"
    assert dict(info.metadata) == {"thing": "bank.example/g1", "lease": "lease-7"}


async def test_a_generator_ends_before_its_lease_where_it_stands(
    world: World, pool: AsyncLeasePool
) -> None:
    revoked, work = one_lease(world), Work()
    interceptor = AsyncLeaseServerInterceptor(pool, always)
    serving = aio_serving({"Down": work.suspended}, interceptor)
    async with serving as address, aio_channel(address) as to:
        call = method(to, "Down")(b"a")
        await work.is_within.wait()
        revoked.set()
        await work.is_ending.wait()
        assert acts(pool)
        assert world.node.acknowledged.empty()
        work.may_end.set()
        await asyncio.to_thread(world.node.acknowledged.get, timeout=10)
        assert work.has_ended
        await refused(call)


async def test_all_that_run_under_a_lease_end_with_it(world: World, pool: AsyncLeasePool) -> None:
    revoked, works = one_lease(world), [Work() for _ in range(3)]
    left = list(works)

    async def handler(request: bytes, context: Any) -> bytes:
        return await left.pop().unary(request, context)

    interceptor = AsyncLeaseServerInterceptor(pool, always)
    async with aio_serving({"Unary": handler}, interceptor) as address, aio_channel(address) as to:
        calls = [begin(to, "Unary") for _ in works]
        for work in works:
            await work.is_within.wait()
            work.may_end.set()
        revoked.set()
        for call in calls:
            await refused(call)
    assert all(work.has_ended for work in works)


async def test_a_closed_pool_ends_what_runs(world: World, pool: AsyncLeasePool) -> None:
    one_lease(world)
    work = Work()
    work.may_end.set()
    interceptor = AsyncLeaseServerInterceptor(pool, always)
    serving = aio_serving({"Unary": work.unary}, interceptor)
    async with serving as address, aio_channel(address) as to:
        call = begin(to, "Unary")
        await work.is_within.wait()
        await pool._gate.close()
        assert info_of(await refused(call)).reason == ClientReason.CLOSED
        assert info_of(await refused(begin(to, "Unary"))).reason == ClientReason.CLOSED


# -- what handlers and clients do by themselves ----------------------------------------------------


async def test_who_cancels_the_call_ends_the_act(world: World, pool: AsyncLeasePool) -> None:
    one_lease(world)
    work = Work()
    work.may_end.set()
    interceptor = AsyncLeaseServerInterceptor(pool, always)
    serving = aio_serving({"Down": work.down}, interceptor)
    async with serving as address, aio_channel(address) as to:
        call = begin(to, "Down")
        assert await call.read() == b"first"
        await work.is_within.wait()
        call.cancel()
        await eventually(lambda: work.has_ended and is_at_rest(pool))


async def test_a_deadline_ends_the_act(world: World, pool: AsyncLeasePool) -> None:
    one_lease(world)
    work = Work()
    work.may_end.set()
    interceptor = AsyncLeaseServerInterceptor(pool, always)
    serving = aio_serving({"Unary": work.unary}, interceptor)
    async with serving as address, aio_channel(address) as to:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await begin(to, "Unary", timeout=0.5)
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await eventually(lambda: work.has_ended is work.is_within.is_set() and is_at_rest(pool))


async def test_the_context_is_grpcs(world: World, pool: AsyncLeasePool) -> None:
    one_lease(world)

    async def handler(request: bytes, context: Any) -> AsyncIterator[bytes]:
        await context.send_initial_metadata((("early", "1"),))
        context.set_trailing_metadata((("late", "2"),))
        yield dict(context.invocation_metadata())["given"].encode()

    interceptor = AsyncLeaseServerInterceptor(pool, always)
    async with aio_serving({"Down": handler}, interceptor) as address, aio_channel(address) as to:
        call = begin(to, "Down", metadata=(("given", "0"),))
        assert await responses(call) == [b"0"]
        assert dict(await call.initial_metadata())["early"] == "1"
        assert dict(await call.trailing_metadata())["late"] == "2"


async def test_a_handler_ends_its_rpc_as_it_likes(world: World, pool: AsyncLeasePool) -> None:
    one_lease(world)

    async def aborts(_request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such record")
        raise AssertionError

    async def fails(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        raise ZeroDivisionError

    interceptor = AsyncLeaseServerInterceptor(pool, always)
    behaviours = {"Unary": aborts, "Down": fails}
    async with aio_serving(behaviours, interceptor) as address, aio_channel(address) as to:
        for name, code in (
            ("Unary", grpc.StatusCode.NOT_FOUND),
            ("Down", grpc.StatusCode.UNKNOWN),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await responses(begin(to, name))
            assert error.value.code() is code


async def test_a_handler_that_is_interrupted_as_it_aborts_has_ended_its_rpc(
    world: World, pool: AsyncLeasePool, caplog: pytest.LogCaptureFixture
) -> None:
    one_lease(world)

    async def handler(_request: bytes, context: Any) -> bytes:
        holders = pool._gate._keeping._upkeep._held["lease-7"].holders
        loop = asyncio.get_running_loop()
        loop.call_soon(holders[-1].tell, Denied(Reason.GRANT_REVOKED))
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such record")
        raise AssertionError

    interceptor = AsyncLeaseServerInterceptor(pool, always)
    async with aio_serving({"Unary": handler}, interceptor) as address, aio_channel(address) as to:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await begin(to, "Unary", timeout=10)
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
    assert "Unexpected" not in caplog.text


async def test_a_denial_within_a_handler_is_one_of_the_rpc(
    world: World, pool: AsyncLeasePool
) -> None:
    one_lease(world)

    async def handler(_request: bytes, _context: Any) -> bytes:
        raise DeniedError(Denied(Reason.NO_TRUST, "freight.example"))

    interceptor = AsyncLeaseServerInterceptor(pool, always)
    async with aio_serving({"Unary": handler}, interceptor) as address, aio_channel(address) as to:
        error = await refused(begin(to, "Unary"))
    assert error.details() == "denied: NO_TRUST (freight.example)"
