"""Where work comes from crosses processes by itself: over gRPC, over HTTP, in both directions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from tests.unit.client.conftest import ACTION, World, granted
from tests.unit.client.services import (
    OPTIONS,
    acts,
    aio_channel,
    aio_pool,
    aio_serving,
    always,
    info_of,
    method,
    one_lease,
    serving,
)
from tests.unit.client.test_aio import eventually
from tests.unit.client.test_asgi import Exchange, rule

from quorate.client import (
    AsyncGate,
    ClientReason,
    Denied,
    LeasePool,
    coming_from,
    current_lineage,
    traces,
)
from quorate.client.asgi import LeaseMiddleware
from quorate.client.interceptors import (
    EXEMPT,
    AsyncLeaseClientInterceptors,
    AsyncLeaseServerInterceptor,
    LeaseChannel,
    LeaseServerInterceptor,
)
from quorate.client.lineage import HEADER, carried, outgoing
from quorate.client.pooling import Key, Places

ONE, OTHER = "1" * 32, "2" * 32
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SAID = ((HEADER, ONE), ("traceparent", TRACE))


def dialled(address: str) -> grpc.Channel:
    return grpc.insecure_channel(address, options=OPTIONS)


@pytest.fixture
def parented(world: World) -> World:
    """Its one lease is granted with ONE as its parent."""
    one_lease(world)
    world.node.script["Acquire"][0] = granted(parents=[ONE])
    return world


class Seen:
    """What a handler knew of where its work comes from, and what it would say to others."""

    def __init__(self) -> None:
        self.lineage: list[tuple[str, ...]] = []
        self.says: list[dict[str, str]] = []

    def look(self) -> bytes:
        self.lineage.append(current_lineage())
        self.says.append(outgoing())
        return b""

    def unary(self, _request: Any, _context: Any) -> bytes:
        return self.look()

    def down(self, _request: Any, _context: Any) -> Iterator[bytes]:
        yield self.look()

    async def aio_unary(self, _request: Any, _context: Any) -> bytes:
        return self.look()

    async def aio_down(self, _request: Any, _context: Any) -> AsyncIterator[bytes]:
        yield self.look()

    def check(self, world: World) -> None:
        assert list(world.node.requests["Acquire"][0].parents) == [ONE]
        assert self.lineage == [("lease-7",)]
        assert self.says[0][HEADER] == "lease-7"
        assert self.says[0]["traceparent"] == TRACE
        assert current_lineage() == ()


@pytest.mark.parametrize("name", ["Unary", "Down"])
def test_a_handler_of_a_thread_comes_from_its_caller(parented: World, name: str) -> None:
    seen = Seen()
    behaviours = {"Unary": seen.unary, "Down": seen.down}
    with LeasePool(parented.gate) as pool:
        interceptor = LeaseServerInterceptor(pool, always)
        with serving(behaviours, interceptor) as address, dialled(address) as channel:
            answer = method(channel, name)(b"", metadata=SAID)
            assert [answer] if name == "Unary" else list(answer)
    seen.check(parented)


@pytest.mark.parametrize("name", ["Unary", "Down"])
async def test_a_handler_of_a_task_comes_from_its_caller(parented: World, name: str) -> None:
    seen = Seen()
    behaviours = {"Unary": seen.aio_unary, "Down": seen.aio_down}
    async with aio_pool(parented) as pool:
        interceptor = AsyncLeaseServerInterceptor(pool, always)
        async with aio_serving(behaviours, interceptor) as address, aio_channel(address) as channel:
            call = method(channel, name)(b"", metadata=SAID)
            if name == "Unary":
                await call
            else:
                assert [each async for each in call] == [b""]
        await eventually(lambda: not acts(pool))
    seen.check(parented)


async def test_an_http_request_comes_from_its_caller(parented: World) -> None:
    seen = Seen()

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        seen.look()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    gates: list[AsyncGate] = []

    def open_gate() -> AsyncGate:
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{parented.port}")
        gates.append(AsyncGate(channel, clock=parented.clock))
        return gates[0]

    exchange = Exchange(LeaseMiddleware(app, open_gate, rule), "/pay")
    exchange.scope["headers"] = [(name.encode(), value.encode()) for name, value in SAID]
    assert (await exchange.run()).status == 204
    await gates[0].close()
    seen.check(parented)


async def test_an_http_request_with_an_odd_lineage_is_denied() -> None:
    async def app(*_: Any) -> None:
        raise AssertionError("it was run")

    def open_gate() -> AsyncGate:
        raise AssertionError("a lease was wanted")

    exchange = Exchange(LeaseMiddleware(app, open_gate, rule), "/pay")
    exchange.scope["headers"] = [(b"Quorate-Lease", b"no lease")]
    assert (await exchange.run()).status == 403
    assert exchange.problem["reason"] == "INVALID_REQUEST"
    assert exchange.problem["thing"] == HEADER


def test_a_call_with_an_odd_lineage_is_refused(world: World) -> None:
    seen = Seen()
    with LeasePool(world.gate) as pool:
        interceptor = LeaseServerInterceptor(pool, always)
        with (
            serving({"Unary": seen.unary}, interceptor) as address,
            dialled(address) as channel,
            pytest.raises(grpc.RpcError) as caught,
        ):
            method(channel, "Unary")(b"", metadata=((HEADER, ONE), (HEADER, "x")))
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert info_of(error).reason == ClientReason.INVALID_REQUEST
    assert not seen.lineage
    assert not world.node.requests["Acquire"]


async def test_a_call_to_a_task_with_an_odd_lineage_is_refused(world: World) -> None:
    seen = Seen()
    async with aio_pool(world) as pool:
        interceptor = AsyncLeaseServerInterceptor(pool, always)
        behaviours = {"Unary": seen.aio_unary}
        async with aio_serving(behaviours, interceptor) as address, aio_channel(address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await method(channel, "Unary")(b"", metadata=((HEADER, "x"),))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not seen.lineage


def test_whoever_is_not_believed_makes_no_parents(world: World) -> None:
    one_lease(world)
    seen = Seen()
    with LeasePool(world.gate) as pool:
        interceptor = LeaseServerInterceptor(pool, always, takes_lineage=False)
        with serving({"Unary": seen.unary}, interceptor) as address, dialled(address) as channel:
            method(channel, "Unary")(b"", metadata=((HEADER, "whatever it is"),))
    assert not world.node.requests["Acquire"][0].parents
    assert seen.lineage == [("lease-7",)]


# -- calls to others -------------------------------------------------------------------------------


class Received:
    """The metadata of the calls that came in."""

    def __init__(self) -> None:
        self.metadata: list[dict[str, Any]] = []

    def unary(self, _request: Any, context: Any) -> bytes:
        self.metadata.append(dict(context.invocation_metadata()))
        return b""

    async def aio_unary(self, _request: Any, context: Any) -> bytes:
        return self.unary(_request, context)


def test_a_call_says_under_which_lease_it_is_made_and_that_has_its_parent(parented: World) -> None:
    received = Received()
    with (
        serving({"Unary": received.unary}) as address,
        LeasePool(parented.gate) as pool,
        dialled(address) as plain,
        coming_from(ONE),
    ):
        channel = LeaseChannel(plain, pool, always)
        method(channel, "Unary")(b"", metadata=(("mine", "1"),))
    assert received.metadata[0][HEADER] == "lease-7"
    assert received.metadata[0]["mine"] == "1"
    assert list(parented.node.requests["Acquire"][0].parents) == [ONE]


def test_a_call_without_a_lease_of_its_own_passes_on_what_is_known(world: World) -> None:
    received = Received()
    with (
        serving({"Unary": received.unary}) as address,
        LeasePool(world.gate) as pool,
        dialled(address) as plain,
    ):
        channel = LeaseChannel(plain, pool, lambda _: EXEMPT)
        with coming_from(OTHER, ONE):
            method(channel, "Unary")(b"")
            method(channel, "Unary")(b"", metadata=((HEADER, OTHER),))
        method(channel, "Unary")(b"")
    assert [each.get(HEADER) for each in received.metadata] == [f"{ONE},{OTHER}", OTHER, None]


def test_names_of_other_traces_fit_the_metadata_of_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def inject(headers: dict[str, str]) -> None:
        headers["X-Amzn-Trace-Id"] = "Root=1-2-3"

    monkeypatch.setattr(traces, "inject", inject)
    received = Received()
    with serving({"Unary": received.unary}) as address, dialled(address) as channel:
        method(channel, "Unary")(b"", metadata=carried(()))
    assert received.metadata[0]["x-amzn-trace-id"] == "Root=1-2-3"


async def test_tasks_do_the_same(parented: World) -> None:
    received = Received()
    async with aio_serving({"Unary": received.aio_unary}) as address, aio_pool(parented) as pool:
        rules: list[Any] = [always, lambda _: EXEMPT]
        for each in rules:
            interceptors = AsyncLeaseClientInterceptors(pool, each)
            async with aio_channel(address, interceptors) as channel:
                with coming_from(ONE):
                    await method(channel, "Unary")(b"")
        await eventually(lambda: not acts(pool))
    assert [each[HEADER] for each in received.metadata] == ["lease-7", ONE]
    assert list(parented.node.requests["Acquire"][0].parents) == [ONE]


# -- the room that callers can take ----------------------------------------------------------------


def places(world: World, most: int) -> Places[Any, Any]:
    return Places(world.clock, most, object)


def test_callers_lineages_take_half_of_a_pool_at_most(world: World) -> None:
    pool = places(world, 4)
    own = [pool.enter(Key(ACTION, f"own-{n}")) for n in range(2)]
    assert not any(isinstance(place, Denied) for place, _ in own)
    for n in range(2):
        assert not isinstance(pool.enter(Key(ACTION, "x", (f"{n:032x}",)))[0], Denied)
    third, idle = pool.enter(Key(ACTION, "x", (OTHER,)))
    assert isinstance(third, Denied)
    assert (third.reason, idle) == (ClientReason.POOL_FULL, None)


def test_callers_lineages_take_room_from_each_other(world: World) -> None:
    pool = places(world, 4)
    own, _ = pool.enter(Key(ACTION, "own"))
    assert not isinstance(own, Denied)
    pool.leave(own)  # idle for longest
    gone = []
    for n in range(5):
        place, idle = pool.enter(Key(ACTION, "x", (f"{n:032x}",)))
        assert not isinstance(place, Denied)
        pool.leave(place)
        gone += [] if idle is None else [idle.key.parents]
    assert gone == [(f"{n:032x}",) for n in range(3)]
    assert pool.enter(Key(ACTION, "own"))[0] is own


def test_what_comes_from_nobody_may_take_any_room(world: World) -> None:
    pool = places(world, 2)
    place, _ = pool.enter(Key(ACTION, "x", (ONE,)))
    assert not isinstance(place, Denied)
    pool.leave(place)
    pool.enter(Key(ACTION, "a"))
    _, idle = pool.enter(Key(ACTION, "b"))
    assert idle is place
