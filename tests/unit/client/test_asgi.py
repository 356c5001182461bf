"""A request of an ASGI application runs under its lease, and ends with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from tests.unit.client.conftest import ACTION, EXECUTOR, RESOURCE, World, granted, permit
from tests.unit.client.services import revoked_check
from tests.unit.client.test_hold import quiet
from tests.unit.client.test_lease import released
from tests.unit.client.test_pool import deny, interrupted_when

from quorate.client import AsyncGate, DeniedError, Reason, current_permit
from quorate.client.asgi import App, LeaseMiddleware, Message, Receive, Scope, Send
from quorate.client.governed import EXEMPT, Act, Exempt


def rule(scope: Scope) -> Act | Exempt | None:
    match scope.get("path"):
        case "/pay" | "/stream" | "/socket":
            return Act(ACTION, RESOURCE)
        case "/health":
            return EXEMPT
        case "/broken":
            raise ZeroDivisionError
        case _:
            return None


class Exchange:
    """One request, as its server has it."""

    def __init__(self, app: App, path: str, kind: str = "http") -> None:
        self._app = app
        self.scope: Scope = {"type": kind, "path": path, "method": "GET", "headers": []}
        self.sent: list[Message] = []
        self.received: asyncio.Queue[Message] = asyncio.Queue()
        first = "websocket.connect" if kind == "websocket" else "http.request"
        self.received.put_nowait({"type": first, "body": b""})

    async def _send(self, message: Message) -> None:
        self.sent.append(message)

    async def run(self) -> Exchange:
        await self._app(self.scope, self.received.get, self._send)
        return self

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def problem(self) -> dict[str, Any]:
        headers = dict(self.sent[0]["headers"])
        assert headers[b"content-type"] == b"application/problem+json"
        body = self.sent[1]["body"]
        assert headers[b"content-length"] == str(len(body)).encode()
        problem: dict[str, Any] = json.loads(body)
        return problem


class Service:
    """An application that a test looks into."""

    def __init__(self) -> None:
        self.fences: list[int] = []
        self.calls = 0
        self.within = asyncio.Event()
        self.ended = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.calls += 1
        good = current_permit()
        if good is not None:
            self.fences.append(good.fence)
        try:
            if scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.accept"})
                self.within.set()
                await receive()
                return
            await send({"type": "http.response.start", "status": 200, "headers": []})
            if scope["path"] == "/stream":
                await send({"type": "http.response.body", "body": b"1", "more_body": True})
                self.within.set()
                await receive()
                await receive()
            await send({"type": "http.response.body", "body": b"done"})
        finally:
            self.ended.set()


@pytest.fixture
async def service() -> Service:
    return Service()


@pytest.fixture
async def gates() -> list[AsyncGate]:
    """Those that were opened."""
    return []


@pytest.fixture
async def app(
    world: World, service: Service, gates: list[AsyncGate]
) -> AsyncIterator[LeaseMiddleware]:
    def open_gate() -> AsyncGate:
        channel = grpc.aio.insecure_channel(
            f"127.0.0.1:{world.port}",
            options=(("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)),
        )
        gates.append(AsyncGate(channel, executor=EXECUTOR, clock=world.clock))
        return gates[-1]

    made = LeaseMiddleware(service, open_gate, rule)
    yield made
    await made._close()


async def test_a_request_runs_under_its_lease(
    world: World, app: LeaseMiddleware, service: Service
) -> None:
    quiet(world)
    world.node.then("Acquire", granted())
    world.node.then("Check", permit())
    world.node.then("Release", released())
    for _ in range(2):
        assert (await Exchange(app, "/pay").run()).status == 200
    assert service.fences == [7, 7]
    assert len(world.node.requests["Acquire"]) == 1


async def test_a_denied_request_never_reaches_the_application(
    world: World, app: LeaseMiddleware, service: Service
) -> None:
    world.node.then("Acquire", deny())
    exchange = await Exchange(app, "/pay").run()
    assert exchange.status == 403
    assert exchange.problem["reason"] == Reason.NO_GRANT
    assert exchange.problem["status"] == 403
    assert not service.calls


@pytest.mark.parametrize("path", ["/unknown", "/broken"])
async def test_what_no_rule_knows_is_denied(
    world: World, app: LeaseMiddleware, service: Service, path: str
) -> None:
    exchange = await Exchange(app, path).run()
    assert (exchange.status, exchange.problem["reason"]) == (403, "NO_RULE")
    assert not service.calls
    assert not world.node.requests["Acquire"]


async def test_an_unreachable_node_is_a_denial_like_any_other(
    world: World, app: LeaseMiddleware, service: Service
) -> None:
    world.node.then("Acquire", granted())
    world.node.then("Check", grpc.StatusCode.UNAVAILABLE)
    world.node.then("Release", released())
    exchange = await Exchange(app, "/pay").run()
    assert (exchange.status, exchange.problem["reason"]) == (403, "UNREACHABLE")
    assert not service.calls


async def test_who_is_denied_is_not_told_what_is_for_people_of_this_program(
    world: World, app: LeaseMiddleware
) -> None:
    world.node.then("Acquire", granted())
    world.node.then("Check", grpc.StatusCode.UNAVAILABLE)
    world.node.then("Release", released())
    exchange = await Exchange(app, "/pay").run()
    assert exchange.problem["detail"] == "denied: UNREACHABLE (lease-7)"


async def test_what_is_exempt_needs_no_lease(
    world: World, app: LeaseMiddleware, service: Service
) -> None:
    assert (await Exchange(app, "/health").run()).status == 200
    assert service.fences == []
    assert not world.node.requests["Acquire"]


async def test_a_stream_is_broken_off_when_its_lease_is_interrupted(
    world: World, app: LeaseMiddleware, service: Service
) -> None:
    revoked = threading.Event()
    world.node.then("Watch", interrupted_when(revoked))
    world.node.then("Acquire", granted())
    world.node.then("Check", permit())
    world.node.then("Release", released())
    exchange = Exchange(app, "/stream")
    request = asyncio.create_task(exchange.run())
    await service.within.wait()
    revoked.set()
    with pytest.raises(DeniedError) as error:
        await request
    assert error.value.reason is Reason.GRANT_REVOKED
    assert service.ended.is_set()
    assert [message["type"] for message in exchange.sent] == [
        "http.response.start",
        "http.response.body",
    ], "nothing says that the answer is whole"


def revoked_later(world: World) -> threading.Event:
    """The lease is revoked when it is set."""
    revoked = threading.Event()
    world.node.then("Watch", interrupted_when(revoked))
    world.node.then("Acquire", granted())
    world.node.then("Check", permit(), *[revoked_check()] * 2, permit())
    world.node.then("Release", released())
    return revoked


@pytest.mark.parametrize("heeds", [True, False])
async def test_an_application_that_goes_on_when_cancelled_has_no_more_to_say(
    world: World, app: LeaseMiddleware, heeds: bool
) -> None:
    """Not even when it takes no notice of the denial, nor when a permit comes after it."""
    revoked, within = revoked_later(world), asyncio.Event()

    async def goes_on(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"1", "more_body": True})
        within.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        for _ in range(5):
            with contextlib.nullcontext() if heeds else contextlib.suppress(DeniedError):
                await send({"type": "http.response.body", "body": b"never"})

    app._app = goes_on
    exchange = Exchange(app, "/stream")
    request = asyncio.create_task(exchange.run())
    await within.wait()
    revoked.set()
    with pytest.raises(DeniedError) as error:
        await request
    assert error.value.reason is Reason.GRANT_REVOKED
    assert [message.get("body") for message in exchange.sent] == [None, b"1"]


async def test_an_application_that_goes_on_before_it_has_answered_is_answered_for(
    world: World, app: LeaseMiddleware
) -> None:
    revoked, within = revoked_later(world), asyncio.Event()

    async def goes_on(_scope: Scope, _receive: Receive, send: Send) -> None:
        within.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    app._app = goes_on
    exchange = Exchange(app, "/pay")
    request = asyncio.create_task(exchange.run())
    await within.wait()
    revoked.set()
    await request
    assert (exchange.status, exchange.problem["reason"]) == (403, "GRANT_REVOKED")


async def test_an_answer_whose_beginning_was_on_its_way_is_no_other_answer(
    world: World, app: LeaseMiddleware
) -> None:
    revoked, within = revoked_later(world), asyncio.Event()
    exchange = Exchange(app, "/pay")

    async def send(message: Message) -> None:
        exchange.sent.append(message)
        within.set()
        await asyncio.sleep(60)

    exchange._send = send  # type: ignore[method-assign]
    request = asyncio.create_task(exchange.run())
    await within.wait()
    revoked.set()
    with pytest.raises(DeniedError):
        await request
    assert [message["status"] for message in exchange.sent] == [200]


async def test_a_websocket_is_refused_without_a_lease(
    world: World, app: LeaseMiddleware, service: Service
) -> None:
    world.node.then("Acquire", deny())
    exchange = await Exchange(app, "/socket", "websocket").run()
    assert exchange.sent == [{"type": "websocket.close", "code": 1008, "reason": "NO_GRANT"}]
    assert not service.calls


async def test_a_websocket_that_was_not_accepted_yet_is_refused_when_it_must_stop(
    world: World, app: LeaseMiddleware
) -> None:
    revoked, within = threading.Event(), asyncio.Event()
    world.node.then("Watch", interrupted_when(revoked))
    world.node.then("Acquire", granted())
    world.node.then("Check", permit())
    world.node.then("Release", released())

    async def hesitates(_scope: Scope, receive: Receive, _send: Send) -> None:
        await receive()
        within.set()
        await asyncio.sleep(60)

    app._app = hesitates
    exchange = Exchange(app, "/socket", "websocket")
    socket = asyncio.create_task(exchange.run())
    await within.wait()
    revoked.set()
    await socket
    assert [message["type"] for message in exchange.sent] == ["websocket.close"]


async def test_an_application_without_a_lifespan_is_served(
    world: World, app: LeaseMiddleware
) -> None:
    quiet(world)
    world.node.then("Acquire", granted())
    world.node.then("Check", permit())
    world.node.then("Release", released())
    whole = app._app

    async def no_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await whole(scope, receive, send)

    app._app = no_lifespan
    life = Exchange(app, "", "lifespan")
    life.scope = {"type": "lifespan"}
    await life.run()
    assert (await Exchange(app, "/pay").run()).status == 200


async def test_a_websocket_is_closed_when_its_lease_is_interrupted(
    world: World, app: LeaseMiddleware, service: Service
) -> None:
    revoked = threading.Event()
    world.node.then("Watch", interrupted_when(revoked))
    world.node.then("Acquire", granted())
    world.node.then("Check", permit())
    world.node.then("Release", released())
    exchange = Exchange(app, "/socket", "websocket")
    socket = asyncio.create_task(exchange.run())
    await service.within.wait()
    revoked.set()
    await socket
    assert exchange.sent[-1] == {
        "type": "websocket.close",
        "code": 1008,
        "reason": "GRANT_REVOKED",
    }


async def test_a_request_that_waits_and_has_said_nothing_is_answered_with_the_denial(
    world: World, app: LeaseMiddleware
) -> None:
    revoked, within = threading.Event(), asyncio.Event()
    world.node.then("Watch", interrupted_when(revoked))
    world.node.then("Acquire", granted())
    world.node.then("Check", permit())
    world.node.then("Release", released())

    async def waits(_scope: Scope, _receive: Receive, _send: Send) -> None:
        within.set()
        await asyncio.sleep(60)

    app._app = waits
    exchange = Exchange(app, "/pay")
    request = asyncio.create_task(exchange.run())
    await within.wait()
    revoked.set()
    await request
    assert (exchange.status, exchange.problem["reason"]) == (403, "GRANT_REVOKED")


async def test_leases_go_back_when_the_server_ends(
    world: World, app: LeaseMiddleware, gates: list[AsyncGate]
) -> None:
    quiet(world)
    world.node.then("Acquire", granted())
    world.node.then("Check", permit())
    world.node.then("Release", released())
    life = Exchange(app, "", "lifespan")
    life.scope = {"type": "lifespan"}
    life.received = asyncio.Queue()
    released_by_then: list[int] = []

    async def send(message: Message) -> None:
        life.sent.append(message)
        released_by_then.append(len(world.node.requests["Release"]))

    life._send = send  # type: ignore[method-assign]
    server = asyncio.create_task(life.run())
    life.received.put_nowait({"type": "lifespan.startup"})
    assert (await Exchange(app, "/pay").run()).status == 200
    life.received.put_nowait({"type": "lifespan.shutdown"})
    await server
    late = await Exchange(app, "/pay").run()
    assert (late.status, late.problem["reason"]) == (403, "CLOSED")
    assert [message["type"] for message in life.sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    assert released_by_then == [0, 1]
    [gate] = gates
    assert gate._closed.is_set()


async def test_a_type_of_request_that_is_not_known_is_not_passed_on(
    app: LeaseMiddleware, service: Service
) -> None:
    with pytest.raises(ValueError, match="no type"):
        await Exchange(app, "/health", "webtransport").run()
    assert not service.calls
