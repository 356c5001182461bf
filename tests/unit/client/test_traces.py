"""The trace of a request is continued, and nothing of the application's own is put aside for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from tests.unit.client.conftest import World
from tests.unit.client.services import (
    OPTIONS,
    acts,
    aio_channel,
    aio_pool,
    aio_serving,
    always,
    method,
    one_lease,
    serving,
)
from tests.unit.client.test_aio import eventually
from tests.unit.client.test_asgi import Exchange, rule

from quorate.client import AsyncGate, LeasePool
from quorate.client.asgi import LeaseMiddleware
from quorate.client.interceptors import AsyncLeaseServerInterceptor, LeaseServerInterceptor
from quorate.client.lineage import arriving, outgoing

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID = "b7ad6b7169203331"
SAID = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "baggage": "said=by-the-caller"}
ODD = [
    {},
    {"traceparent": "nonsense"},
    {"traceparent": f"00-{'0' * 32}-{PARENT_ID}-01"},
    {"traceparent": f"{SAID['traceparent']},{SAID['traceparent']}"},
    {"baggage": "said=by-the-caller"},
]

TRACER = TracerProvider().get_tracer("the application's")


class Seen:
    """What the work of a request knew of its trace."""

    def __init__(self) -> None:
        self.spans: list[trace.Span] = []
        self.baggage: list[dict[str, object]] = []
        self.says: list[dict[str, str]] = []

    def look(self) -> bytes:
        self.spans.append(trace.get_current_span())
        self.baggage.append(dict(baggage.get_all()))
        self.says.append(outgoing())
        return b""

    def unary(self, _request: Any, _context: Any) -> bytes:
        return self.look()

    async def aio_unary(self, _request: Any, _context: Any) -> bytes:
        return self.look()

    async def app(self, _scope: Any, _receive: Any, send: Any) -> None:
        self.look()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})


@contextmanager
def with_baggage() -> Iterator[None]:
    token = context.attach(baggage.set_baggage("own", "the-application's"))
    try:
        yield
    finally:
        context.detach(token)


@pytest.fixture
def seen() -> Seen:
    return Seen()


# -- what arrives ----------------------------------------------------------------------------------


def test_a_request_continues_the_trace_of_its_caller(seen: Seen) -> None:
    with with_baggage(), arriving(SAID).entered():
        seen.look()
    [span] = seen.spans
    found = span.get_span_context()
    assert (found.trace_id, found.span_id) == (int(TRACE_ID, 16), int(PARENT_ID, 16))
    assert seen.baggage == [{"own": "the-application's", "said": "by-the-caller"}]
    assert trace.get_current_span() is trace.INVALID_SPAN
    assert not baggage.get_all()


@pytest.mark.parametrize("headers", ODD)
def test_a_request_without_a_trace_leaves_the_context_as_it_is(
    headers: dict[str, str],
) -> None:
    with with_baggage():
        before = context.get_current()
        with arriving(headers).entered():
            assert context.get_current() is before


@pytest.mark.parametrize("headers", [SAID, *ODD])
def test_a_span_of_the_applications_own_stays(seen: Seen, headers: dict[str, str]) -> None:
    """That it has made of the request: its instrumentation has read the same headers."""
    with (
        with_baggage(),
        TRACER.start_as_current_span("server") as span,
        arriving(headers).entered(),
    ):
        seen.look()
    assert seen.spans == [span]
    assert seen.baggage == [{"own": "the-application's"}]
    assert f"{span.get_span_context().span_id:016x}" in seen.says[0]["traceparent"]


def test_a_span_that_is_not_sampled_stays_too() -> None:
    tracer = TracerProvider(sampler=ALWAYS_OFF).get_tracer("the application's")
    with tracer.start_as_current_span("server") as span:
        assert not span.is_recording()
        with arriving(SAID).entered():
            assert trace.get_current_span() is span


def test_a_span_that_has_ended_is_nobodys_parent(seen: Seen) -> None:
    """A task has the context of whoever began it: of the server's start, perhaps."""
    span = TRACER.start_span("start")
    with trace.use_span(span):
        span.end()
        with arriving(SAID).entered():
            seen.look()
    assert seen.spans[0].get_span_context().span_id == int(PARENT_ID, 16)


def test_the_trace_of_a_nearer_caller_wins(seen: Seen) -> None:
    other = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    with arriving(other).entered(), arriving(SAID).entered():
        seen.look()
    assert seen.spans[0].get_span_context().trace_id == int(TRACE_ID, 16)


# -- by gRPC and HTTP, with instrumentation around -------------------------------------------------


def spanned(behaviour: Callable[..., Any], spans: list[trace.Span]) -> Callable[..., Any]:
    """A handler as an instrumentation wraps it."""

    def run(request: Any, about: Any) -> Any:
        with with_baggage(), TRACER.start_as_current_span("server") as span:
            spans.append(span)
            return behaviour(request, about)

    return run


class Instrumented(grpc.ServerInterceptor):
    """Around everything after it."""

    def __init__(self, spans: list[trace.Span]) -> None:
        self.spans = spans

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = continuation(details)
        return handler._replace(unary_unary=spanned(handler.unary_unary, self.spans))


class AioInstrumented(grpc.aio.ServerInterceptor):
    def __init__(self, spans: list[trace.Span]) -> None:
        self.spans = spans

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = await continuation(details)

        async def run(request: Any, about: Any) -> Any:
            with with_baggage(), TRACER.start_as_current_span("server") as span:
                self.spans.append(span)
                return await handler.unary_unary(request, about)

        return grpc.unary_unary_rpc_method_handler(run)


def check_instrumented(seen: Seen, spans: list[trace.Span], times: int) -> None:
    assert seen.spans == spans
    assert len(spans) == times
    assert seen.baggage == [{"own": "the-application's"}] * times


METADATA: list[Any] = [tuple(SAID.items()), ()]


def test_a_handler_of_a_thread_stays_within_the_span_around_it(world: World, seen: Seen) -> None:
    one_lease(world)
    spans: list[trace.Span] = []
    with LeasePool(world.gate) as pool:
        interceptors = Instrumented(spans), LeaseServerInterceptor(pool, always)
        with (
            serving({"Unary": seen.unary}, *interceptors) as address,
            grpc.insecure_channel(address, options=OPTIONS) as channel,
        ):
            for metadata in METADATA:
                method(channel, "Unary")(b"", metadata=metadata)
    check_instrumented(seen, spans, 2)


async def test_a_handler_of_a_task_stays_within_the_span_around_it(
    world: World, seen: Seen
) -> None:
    one_lease(world)
    spans: list[trace.Span] = []
    async with aio_pool(world) as pool:
        interceptors = AioInstrumented(spans), AsyncLeaseServerInterceptor(pool, always)
        behaviours = {"Unary": seen.aio_unary}
        async with (
            aio_serving(behaviours, *interceptors) as address,
            aio_channel(address) as channel,
        ):
            for metadata in METADATA:
                await method(channel, "Unary")(b"", metadata=metadata)
        await eventually(lambda: not acts(pool))
    check_instrumented(seen, spans, 2)


async def test_an_http_request_stays_within_the_span_around_it(world: World, seen: Seen) -> None:
    one_lease(world)
    spans: list[trace.Span] = []
    gates: list[AsyncGate] = []

    def open_gate() -> AsyncGate:
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{world.port}")
        gates.append(AsyncGate(channel, clock=world.clock))
        return gates[0]

    leased = LeaseMiddleware(seen.app, open_gate, rule)

    async def instrumented(scope: Any, receive: Any, send: Any) -> None:
        with with_baggage(), TRACER.start_as_current_span("server") as span:
            spans.append(span)
            await leased(scope, receive, send)

    for metadata in METADATA:
        exchange = Exchange(instrumented, "/pay")
        exchange.scope["headers"] = [(name.encode(), said.encode()) for name, said in metadata]
        assert (await exchange.run()).status == 204
    await gates[0].close()
    check_instrumented(seen, spans, 2)
