"""grpc.aio channels under leases: calls are made only with a permit, and are cancelled with it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
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
from tests.unit.client.test_watch import stay_open

from quorate.client import AsyncLeasePool, DeniedError, Reason
from quorate.client.interceptors import (
    EXEMPT,
    AsyncCallDeniedError,
    AsyncLeaseClientInterceptors,
    by_method,
)
from quorate.client.interceptors.aio_calls import LeasedUnaryStreamCall, LeaseOfCall

PERMISSION_DENIED = grpc.StatusCode.PERMISSION_DENIED


@pytest.fixture
async def pool(world: World) -> AsyncIterator[AsyncLeasePool]:
    async with aio_pool(world) as made:
        yield made
        await eventually(lambda: is_at_rest(made))


class Service:
    """Echoes what it is sent; `hold` has it send the first response, if it streams, and wait."""

    def __init__(self) -> None:
        self.metadata: list[dict[str, Any]] = []
        self.received: list[bytes] = []
        self.is_held = False
        self.is_within = asyncio.Event()
        self.was_cancelled = asyncio.Event()

    async def _work(self, context: Any) -> None:
        self.metadata.append(dict(context.invocation_metadata()))
        self.is_within.set()
        if self.is_held:
            try:
                await asyncio.Event().wait()
            finally:
                self.was_cancelled.set()

    async def unary(self, request: bytes, context: Any) -> bytes:
        self.received.append(request)
        await self._work(context)
        return request

    async def down(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield request
        await self._work(context)
        yield request

    async def up(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        async for request in requests:
            self.received.append(request)
            if self.is_held:
                await self._work(context)
        await self._work(context)
        return b"".join(self.received)

    async def both(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request
            if self.is_held:
                await self._work(context)
        await self._work(context)


@asynccontextmanager
async def leased(
    pool: AsyncLeasePool, service: Service, rule: Any = always, before: Any = (), after: Any = ()
) -> AsyncIterator[Any]:
    """A channel to the service under leases."""
    behaviours = {name: getattr(service, name.lower()) for name in KINDS}
    interceptors = [*before, *AsyncLeaseClientInterceptors(pool, rule), *after]
    async with aio_serving(behaviours) as address, aio_channel(address, interceptors) as channel:
        yield channel


async def requests() -> AsyncIterator[bytes]:
    for each in (b"a", b"b"):
        yield each


def begin(channel: Any, name: str, **settings: Any) -> Any:
    return method(channel, name)(b"a" if name in ("Unary", "Down") else requests(), **settings)


def begin_writing(channel: Any, name: str) -> Any:
    return method(channel, name)()


async def responses(call: Any) -> list[bytes]:
    if hasattr(call, "__aiter__"):
        return [response async for response in call]
    return [await call]


EXPECTED = {"Unary": [b"a"], "Down": [b"a", b"a"], "Up": [b"ab"], "Both": [b"a", b"b"]}


# -- permitted and denied --------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
async def test_a_call_is_made_under_a_lease(world: World, pool: AsyncLeasePool, name: str) -> None:
    one_lease(world)
    service = Service()
    async with leased(pool, service) as to:
        call = begin(to, name, metadata=(("own", "1"),))
        assert await responses(call) == EXPECTED[name]
        assert await call.code() is grpc.StatusCode.OK
        assert call.done()
        assert not call.cancelled()
        assert await call.initial_metadata() is not None
    (metadata,) = service.metadata
    assert metadata.keys() - {"user-agent"} == {"own", "quorate-lease"}
    assert metadata["quorate-lease"] == "lease-7"


@pytest.mark.parametrize("name", ["Up", "Both"])
async def test_a_caller_may_write_its_requests(
    world: World, pool: AsyncLeasePool, name: str
) -> None:
    one_lease(world)
    service = Service()
    async with leased(pool, service) as to:
        call = begin_writing(to, name)
        await call.write(b"a")
        await call.write(b"b")
        if name == "Both":
            assert await call.read() == b"a"
            assert acts(pool), "the act lasts as long as the call"
            assert await call.read() == b"b"
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
        else:
            await call.done_writing()
            assert await call == b"ab"


@pytest.mark.parametrize("name", KINDS)
async def test_a_denied_call_is_not_made(world: World, pool: AsyncLeasePool, name: str) -> None:
    no_lease(world)
    service = Service()
    async with leased(pool, service) as to:
        call = begin(to, name)
        with pytest.raises(AsyncCallDeniedError) as error:
            await responses(call)
        assert await call.code() is PERMISSION_DENIED
        assert await call.details() == "denied: NO_GRANT (bank.example/payroll)"
    assert error.value.code() is PERMISSION_DENIED
    assert isinstance(error.value, grpc.aio.AioRpcError)
    assert isinstance(error.value, DeniedError)
    assert error.value.reason is Reason.NO_GRANT
    assert info_of(error.value).reason == "NO_GRANT"
    assert not service.metadata


@pytest.mark.parametrize("name", KINDS)
async def test_what_no_rule_knows_is_denied(pool: AsyncLeasePool, name: str) -> None:
    service = Service()
    async with leased(pool, service, by_method({"/bank.Inbox/Other": ACT})) as to:
        with pytest.raises(AsyncCallDeniedError, match="NO_RULE"):
            await responses(begin(to, name))
    assert not service.metadata


async def test_a_rule_that_fails_denies(
    pool: AsyncLeasePool, caplog: pytest.LogCaptureFixture
) -> None:
    service, seen = Service(), []

    def rule(call: Any) -> Any:
        seen.append(call)
        raise ZeroDivisionError

    async with leased(pool, service, rule) as to:
        with pytest.raises(AsyncCallDeniedError) as error:
            await begin(to, "Unary", metadata=(("own", "1"),))
    assert error.value.code() is grpc.StatusCode.INTERNAL
    assert "ZeroDivisionError" in caplog.text
    assert seen == [(f"/{SERVICE}/Unary", (("own", "1"),))]
    assert not service.metadata


@pytest.mark.parametrize("name", KINDS)
async def test_what_is_exempt_is_left_alone(world: World, pool: AsyncLeasePool, name: str) -> None:
    service = Service()
    async with leased(pool, service, by_method({f"/{SERVICE}/*": EXEMPT})) as to:
        assert await responses(begin(to, name)) == EXPECTED[name]
    assert service.metadata[0].keys() == {"user-agent"}
    assert not world.node.requests


# -- interrupted -----------------------------------------------------------------------------------


@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("name", KINDS)
async def test_a_call_is_cancelled_when_its_lease_is_interrupted(
    world: World, pool: AsyncLeasePool, name: str, writes: bool
) -> None:
    revoked, service = one_lease(world), Service()
    service.is_held = True
    async with leased(pool, service) as to:
        if writes and name in ("Up", "Both"):
            call = begin_writing(to, name)
            await call.write(b"a")
        else:
            call = begin(to, name)
        if name in ("Down", "Both"):
            assert await call.read() == b"a"
        await service.is_within.wait()
        assert acts(pool)
        assert world.node.acknowledged.empty()
        revoked.set()
        with pytest.raises(AsyncCallDeniedError) as error:
            await (call.read() if name in ("Down", "Both") else call)
        await service.was_cancelled.wait()
        told = await asyncio.to_thread(world.node.acknowledged.get, timeout=10)
        assert told == ("lease-7", 30)
        assert await call.code() is PERMISSION_DENIED
        assert await call.details() == "denied: GRANT_REVOKED (bank.example/g1)"
        assert await call.trailing_metadata() == error.value.trailing_metadata()
        assert call.done()
        if writes and name in ("Up", "Both"):
            with pytest.raises(asyncio.InvalidStateError):
                await call.write(b"b")
    assert error.value.code() is PERMISSION_DENIED
    assert error.value.reason is Reason.GRANT_REVOKED
    assert dict(info_of(error.value).metadata) == {"thing": "bank.example/g1", "lease": "lease-7"}


class Slow(grpc.aio.UnaryUnaryClientInterceptor):
    """An interceptor that takes its time before it makes the call."""

    def __init__(self) -> None:
        self.is_within = asyncio.Event()
        self.may_go_on = asyncio.Event()

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self.is_within.set()
        await self.may_go_on.wait()
        return await continuation(details, request)


async def test_a_call_that_has_not_begun_when_its_lease_is_interrupted_is_not_made(
    world: World, pool: AsyncLeasePool
) -> None:
    revoked, service, slow = one_lease(world), Service(), Slow()
    async with leased(pool, service, after=[slow]) as to:
        call = begin(to, "Unary")
        await slow.is_within.wait()
        revoked.set()
        (held,) = pool._gate._keeping._upkeep._held.values()
        await eventually(lambda: held.covering is None)
        assert acts(pool), "what comes after the interceptor is part of the act"
        slow.may_go_on.set()
        with pytest.raises(AsyncCallDeniedError):
            await call
        await asyncio.to_thread(world.node.acknowledged.get, timeout=10)
    assert not service.metadata


class Answering(grpc.aio.UnaryUnaryClientInterceptor):
    """An interceptor that needs no server."""

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return b"answered"


async def test_a_call_that_another_interceptor_answers_is_over(
    world: World, pool: AsyncLeasePool
) -> None:
    one_lease(world)
    async with leased(pool, Service(), after=[Answering()]) as to:
        assert await begin(to, "Unary") == b"answered"


class Failing(grpc.aio.UnaryUnaryClientInterceptor):
    """An interceptor with a fault."""

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        raise ZeroDivisionError


async def test_a_call_that_does_not_begin_is_over(world: World, pool: AsyncLeasePool) -> None:
    one_lease(world)
    async with leased(pool, Service(), after=[Failing()]) as to:
        with pytest.raises(ZeroDivisionError):
            await begin(to, "Unary")


# -- how calls end by themselves -------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
async def test_who_cancels_the_call_cancels_it(
    world: World, pool: AsyncLeasePool, name: str
) -> None:
    one_lease(world)
    service = Service()
    service.is_held = True
    async with leased(pool, service) as to:
        call = begin(to, name)
        await service.is_within.wait()
        assert call.cancel()
        await service.was_cancelled.wait()
        with pytest.raises(asyncio.CancelledError):
            await responses(call)
        assert call.cancelled()
        assert await call.code() is grpc.StatusCode.CANCELLED
        await eventually(lambda: is_at_rest(pool))


@pytest.mark.parametrize("name", KINDS)
async def test_who_cancels_the_task_cancels_the_call(
    world: World, pool: AsyncLeasePool, name: str
) -> None:
    one_lease(world)
    service, is_waiting = Service(), asyncio.Event()
    service.is_held = True

    async def wait() -> None:
        call = begin(to, name)
        if name in ("Down", "Both"):
            assert await call.read() == b"a"
        is_waiting.set()
        await (call.read() if name in ("Down", "Both") else call)

    async with leased(pool, service) as to:
        task = asyncio.create_task(wait())
        await is_waiting.wait()
        await service.is_within.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await service.was_cancelled.wait()
        await eventually(lambda: is_at_rest(pool))


class Waiting:
    """A call that leaves its caller's cancellation be, as grpc's do for a moment at the start."""

    is_cancelled = False

    def cancel(self) -> bool:
        self.is_cancelled = True
        return True

    async def read(self) -> bytes:
        await asyncio.Event().wait()
        return b"never"

    def add_done_callback(self, _callback: Any) -> None: ...


async def test_who_cancels_the_task_cancels_the_call_at_any_moment(
    world: World, pool: AsyncLeasePool
) -> None:
    one_lease(world)
    lease, waiting = LeaseOfCall(pool, ACT), Waiting()
    await lease.id()
    task = asyncio.create_task(LeasedUnaryStreamCall(waiting, lease).read())
    await asyncio.sleep(0)  # it waits
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert waiting.is_cancelled
    lease.end()


async def test_a_call_that_is_cancelled_before_there_is_a_lease_is_not_made(
    world: World, pool: AsyncLeasePool
) -> None:
    service, asked = Service(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def late(_request: Any, context: Any) -> Any:
        loop.call_soon_threadsafe(asked.set)
        list(stay_open(context))
        return granted()

    world.node.then("Acquire", late)
    async with leased(pool, service) as to:
        call = begin(to, "Unary")
        await asked.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await eventually(lambda: is_at_rest(pool))
    assert not service.metadata


@pytest.mark.parametrize("name", ["Down", "Both"])
@pytest.mark.parametrize("style", ["iterated", "read", "untouched"])
async def test_a_stream_that_nobody_keeps_is_over(
    world: World, pool: AsyncLeasePool, name: str, style: str
) -> None:
    one_lease(world)
    service = Service()
    service.is_held = True
    async with leased(pool, service) as to:
        call = begin(to, name)
        if style == "iterated":
            async for response in call:
                assert response == b"a"
                break
        elif style == "read":
            assert await call.read() == b"a"
        await service.is_within.wait()
        assert acts(pool)
        del call
        gc.collect()
        await service.was_cancelled.wait()
        await eventually(lambda: is_at_rest(pool))


async def test_a_deadline_is_kept(world: World, pool: AsyncLeasePool) -> None:
    one_lease(world)
    service = Service()
    service.is_held = True
    async with leased(pool, service) as to:
        call = begin(to, "Unary", timeout=0.5)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert not isinstance(error.value, DeniedError)


async def test_a_deadline_is_kept_while_there_is_no_lease(
    world: World, pool: AsyncLeasePool
) -> None:
    service = Service()
    world.node.then("Acquire", lambda _request, context: list(stay_open(context)) or granted())
    async with leased(pool, service) as to:
        call = begin(to, "Unary", timeout=0.2)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert not service.metadata


async def test_what_the_service_answers_is_the_answer(world: World, pool: AsyncLeasePool) -> None:
    one_lease(world)
    async with leased(pool, Service()) as to:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await to.unary_unary(f"/{SERVICE}/Other")(b"a")
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_who_asks_to_be_told_of_the_end_is_told(world: World, pool: AsyncLeasePool) -> None:
    revoked, service = one_lease(world), Service()
    service.is_held = True
    told: list[Any] = []
    async with leased(pool, service) as to:
        call = begin(to, "Unary")
        await service.is_within.wait()
        call.add_done_callback(told.append)
        revoked.set()
        with pytest.raises(AsyncCallDeniedError):
            await call
    assert told == [call]
