"""Channels for threads, under leases: calls are made only with a permit, and cancelled with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from tests.unit.client.conftest import World
from tests.unit.client.services import (
    ACT,
    KINDS,
    OPTIONS,
    SERVICE,
    acts,
    always,
    info_of,
    is_at_rest,
    method,
    no_lease,
    one_lease,
    serving,
)
from tests.unit.client.test_hold import eventually

from quorate.client import DeniedError, LeasePool, Reason
from quorate.client.interceptors import EXEMPT, CallDeniedError, LeaseChannel, by_method
from quorate.client.interceptors.calls import LeasedCall

PERMISSION_DENIED = grpc.StatusCode.PERMISSION_DENIED
ALONE = (grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1)
WAIT_S = 10.0


@pytest.fixture
def pool(world: World) -> Iterator[LeasePool]:
    with LeasePool(world.gate) as made:
        yield made
        eventually(lambda: is_at_rest(made))


class Service:
    """Echoes what it is sent; when it is held, it sends the first response, if it streams, and
    waits until its call is over."""

    def __init__(self) -> None:
        self.metadata: list[dict[str, Any]] = []
        self.received: list[bytes] = []
        self.is_held = False
        self.is_within = threading.Event()
        self.was_cancelled = threading.Event()

    def _work(self, context: Any) -> None:
        self.metadata.append(dict(context.invocation_metadata()))
        if self.is_held:
            is_over = context.add_callback(self.was_cancelled.set)
            self.is_within.set()
            assert not is_over or self.was_cancelled.wait(WAIT_S)

    def unary(self, request: bytes, context: Any) -> bytes:
        self._work(context)
        return request

    def down(self, request: bytes, context: Any) -> Iterator[bytes]:
        yield request
        self._work(context)
        yield request

    def up(self, requests: Iterator[bytes], context: Any) -> bytes:
        if self.is_held:
            self.received.append(next(requests))
        else:
            self.received.extend(requests)
        self._work(context)
        return b"".join(self.received)

    def both(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        if self.is_held:
            yield next(requests)
        else:
            yield from requests
        self._work(context)


@contextmanager
def leased(
    pool: LeasePool, service: Service, rule: Any = always, options: Any = OPTIONS
) -> Iterator[Any]:
    """A channel to the service under leases."""
    behaviours = {name: getattr(service, name.lower()) for name in KINDS}
    with (
        serving(behaviours) as address,
        LeaseChannel(grpc.insecure_channel(address, options=options), pool, rule) as channel,
    ):
        yield channel


def requests(name: str) -> Any:
    return b"a" if name in ("Unary", "Down") else iter([b"a", b"b"])


def begin(channel: Any, name: str, **settings: Any) -> Any:
    """The call; of unary responses, a future."""
    make = method(channel, name)
    return (make if name in ("Down", "Both") else make.future)(requests(name), **settings)


def responses(call: Any, name: str) -> list[bytes]:
    return list(call) if name in ("Down", "Both") else [call.result()]


EXPECTED = {"Unary": [b"a"], "Down": [b"a", b"a"], "Up": [b"ab"], "Both": [b"a", b"b"]}


# -- permitted and denied --------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_a_call_is_made_under_a_lease(world: World, pool: LeasePool, name: str) -> None:
    one_lease(world)
    service = Service()
    with leased(pool, service) as to:
        call = begin(to, name, metadata=(("own", "1"),))
        assert responses(call, name) == EXPECTED[name]
        assert call.code() is grpc.StatusCode.OK
        assert call.details() == ""
        assert (call.done(), call.running(), call.cancelled()) == (True, False, False)
        if name in ("Unary", "Up"):
            assert call.exception() is None
    (metadata,) = service.metadata
    assert metadata.keys() - {"user-agent"} == {"own", "quorate-lease"}
    assert metadata["quorate-lease"] == "lease-7"


@pytest.mark.parametrize("name", KINDS)
def test_a_call_that_has_ended_is_over_for_who_keeps_it(
    world: World, pool: LeasePool, name: str
) -> None:
    one_lease(world)
    with leased(pool, Service()) as to:
        call = begin(to, name)
        if name in ("Down", "Both"):
            assert [next(call), next(call)] == EXPECTED[name]
            with pytest.raises(StopIteration):
                next(call)
        eventually(call.done)
        eventually(lambda: is_at_rest(pool))


@pytest.mark.parametrize("name", ["Unary", "Up"])
def test_a_caller_may_wait(world: World, pool: LeasePool, name: str) -> None:
    one_lease(world)
    with leased(pool, Service()) as to:
        assert method(to, name)(requests(name)) == EXPECTED[name][0]
        response, call = method(to, name).with_call(requests(name), 5.0, (("own", "1"),))
        assert response
        assert call.code() is grpc.StatusCode.OK
        named = "request" if name == "Unary" else "request_iterator"
        assert method(to, name)(**{named: requests(name)})


@pytest.mark.parametrize("name", KINDS)
def test_a_denied_call_is_not_made(world: World, pool: LeasePool, name: str) -> None:
    no_lease(world)
    service = Service()
    with leased(pool, service) as to:
        call = begin(to, name)
        with pytest.raises(CallDeniedError) as error:
            responses(call, name)
    assert call.code() is error.value.code() is PERMISSION_DENIED
    assert call.details() == "denied: NO_GRANT (bank.example/payroll)"
    assert isinstance(error.value, grpc.RpcError)
    assert isinstance(error.value, DeniedError)
    assert error.value.reason is Reason.NO_GRANT
    assert info_of(error.value).reason == "NO_GRANT"
    assert not service.metadata


@pytest.mark.parametrize("name", ["Unary", "Up"])
def test_who_waits_for_a_denied_call_is_told(world: World, pool: LeasePool, name: str) -> None:
    no_lease(world)
    service = Service()
    with leased(pool, service) as to, pytest.raises(CallDeniedError):
        method(to, name)(requests(name))
    assert not service.metadata


@pytest.mark.parametrize("name", KINDS)
def test_what_no_rule_knows_is_denied(pool: LeasePool, name: str) -> None:
    service = Service()
    rule = by_method({"/bank.Inbox/Other": ACT})
    with leased(pool, service, rule) as to, pytest.raises(CallDeniedError, match="NO_RULE"):
        responses(begin(to, name), name)
    assert not service.metadata


def test_a_rule_that_fails_denies(pool: LeasePool, caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    seen: list[Any] = []

    def rule(call: Any) -> Any:
        seen.append(call)
        raise ZeroDivisionError

    with leased(pool, service, rule) as to, pytest.raises(CallDeniedError) as error:
        begin(to, "Unary", metadata=(("own", "1"),)).result()
    assert error.value.code() is grpc.StatusCode.INTERNAL
    assert "ZeroDivisionError" in caplog.text
    assert seen == [(f"/{SERVICE}/Unary", (("own", "1"),))]
    assert not service.metadata


@pytest.mark.parametrize("name", KINDS)
def test_what_is_exempt_is_left_alone(world: World, pool: LeasePool, name: str) -> None:
    service = Service()
    with leased(pool, service, by_method({f"/{SERVICE}/*": EXEMPT})) as to:
        assert responses(begin(to, name), name) == EXPECTED[name]
    assert service.metadata[0].keys() == {"user-agent"}
    assert not world.node.requests


# -- interrupted -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "style"),
    [
        ("Unary", "future"),
        ("Unary", "waited for"),
        ("Down", "read"),
        ("Up", "future"),
        ("Up", "waited for"),
        ("Both", "read"),
    ],
)
def test_a_call_is_cancelled_when_its_lease_is_interrupted(
    world: World, pool: LeasePool, name: str, style: str
) -> None:
    revoked, service = one_lease(world), Service()
    service.is_held = True
    calls: SimpleQueue[Any] = SimpleQueue()

    def make() -> Any:
        if style == "waited for":
            return method(to, name)(requests(name))
        call = begin(to, name)
        calls.put(call)
        return responses(call, name)

    with leased(pool, service) as to, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(make)
        assert service.is_within.wait(WAIT_S)
        assert acts(pool)
        assert world.node.acknowledged.empty()
        revoked.set()
        with pytest.raises(CallDeniedError) as error:
            waiting.result(WAIT_S)
        assert service.was_cancelled.wait(WAIT_S)
        assert world.node.acknowledged.get(timeout=WAIT_S) == ("lease-7", 30)
    assert error.value.code() is PERMISSION_DENIED
    assert error.value.reason is Reason.GRANT_REVOKED
    assert dict(info_of(error.value).metadata) == {"thing": "bank.example/g1", "lease": "lease-7"}
    if style != "waited for":
        call = calls.get()
        assert call.code() is PERMISSION_DENIED
        assert call.details() == "denied: GRANT_REVOKED (bank.example/g1)"
        assert call.trailing_metadata() == error.value.trailing_metadata()
        assert isinstance(call.exception(), CallDeniedError)
        assert not call.cancelled()


class Inner(grpc.UnaryUnaryClientInterceptor):
    """An interceptor of the channel that calls are made on."""

    def __init__(self, do: Callable[[], None]) -> None:
        self._do = do

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        self._do()
        return continuation(details, request)


@contextmanager
def leased_over(pool: LeasePool, service: Service, do: Callable[[], None]) -> Iterator[Any]:
    """A channel under leases over one with an interceptor."""
    with serving({"Unary": service.unary}) as address:
        inner = grpc.intercept_channel(grpc.insecure_channel(address, options=OPTIONS), Inner(do))
        with LeaseChannel(inner, pool, always) as channel:
            yield channel


def test_a_lease_that_is_interrupted_while_the_call_begins_ends_it(
    world: World, pool: LeasePool
) -> None:
    revoked, service = one_lease(world), Service()
    service.is_held = True

    def interrupted() -> None:
        revoked.set()
        (held,) = pool._gate._keeping._upkeep._held.values()
        eventually(lambda: held.covering is None)
        pool._gate._keeping._upkeep.tell()
        assert acts(pool), "what comes after is part of the act"

    with leased_over(pool, service, interrupted) as to, pytest.raises(CallDeniedError):
        method(to, "Unary")(b"a")
    assert world.node.acknowledged.get(timeout=WAIT_S) == ("lease-7", 30)


def test_a_call_that_does_not_begin_is_over(world: World, pool: LeasePool) -> None:
    one_lease(world)
    service = Service()

    def fails() -> None:
        raise ZeroDivisionError

    with leased_over(pool, service, fails) as to:
        with pytest.raises(ZeroDivisionError):
            method(to, "Unary")(b"a")
        eventually(lambda: is_at_rest(pool))
        with pytest.raises(TypeError):
            method(to, "Unary")(b"a", colour="blue")
        assert is_at_rest(pool)
    assert not service.metadata


# -- how calls end by themselves -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"), [*((name, OPTIONS) for name in KINDS), ("Down", (*OPTIONS, ALONE))]
)
def test_who_cancels_the_call_cancels_it(
    world: World, pool: LeasePool, name: str, options: Any
) -> None:
    one_lease(world)
    service = Service()
    service.is_held = True
    with leased(pool, service, options=options) as to:
        call = begin(to, name)
        if name in ("Down", "Both"):
            assert next(call) == b"a"
        assert service.is_within.wait(WAIT_S)
        assert call.is_active()
        assert call.cancel()
        if options is not OPTIONS:
            assert is_at_rest(pool), "though no thread of grpc's hears of the end"
        assert service.was_cancelled.wait(WAIT_S)
        with pytest.raises((grpc.FutureCancelledError, grpc.RpcError)) as error:
            responses(call, name)
        assert not isinstance(error.value, DeniedError)
        with pytest.raises(grpc.FutureCancelledError):
            call.exception()
        assert call.cancelled()
        assert call.code() is grpc.StatusCode.CANCELLED
        eventually(lambda: is_at_rest(pool))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("threads", ["many", "one"])
def test_a_call_that_nobody_keeps_is_over(
    world: World, pool: LeasePool, name: str, threads: str
) -> None:
    """threads: of grpc's own; with one, nobody hears of the end of a call but who reads it."""
    one_lease(world)
    service = Service()
    service.is_held = True
    options = (*OPTIONS, ALONE) if threads == "one" else OPTIONS
    with leased(pool, service, options=options) as to:
        call = begin(to, name)
        assert service.is_within.wait(WAIT_S)
        assert acts(pool)
        del call
        assert service.was_cancelled.wait(WAIT_S)
        eventually(lambda: is_at_rest(pool))


def test_a_stream_without_threads_is_over_at_its_end(world: World, pool: LeasePool) -> None:
    one_lease(world)
    with leased(pool, Service(), options=(*OPTIONS, ALONE)) as to:
        call = begin(to, "Down")
        assert list(call) == [b"a", b"a"]
        assert is_at_rest(pool)


def test_a_stream_without_threads_is_over_when_its_lease_is_interrupted(
    world: World, pool: LeasePool
) -> None:
    revoked, service = one_lease(world), Service()
    service.is_held = True
    with leased(pool, service, options=(*OPTIONS, ALONE)) as to:
        call = begin(to, "Down")
        assert next(call) == b"a"
        assert service.is_within.wait(WAIT_S)
        revoked.set()
        assert service.was_cancelled.wait(WAIT_S)
        with pytest.raises(CallDeniedError):
            next(call)
        assert is_at_rest(pool)


def test_a_wait_that_is_broken_off_cancels_the_call(
    world: World, pool: LeasePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_lease(world)
    service = Service()
    service.is_held = True

    def broken_off(_call: LeasedCall, _timeout: float | None = None) -> Any:
        assert service.is_within.wait(WAIT_S)
        raise InterruptedError

    monkeypatch.setattr(LeasedCall, "result", broken_off)
    with leased(pool, service) as to:
        with pytest.raises(InterruptedError) as error:
            method(to, "Unary")(b"a")
        assert error.traceback, "which keeps the call"
        assert service.was_cancelled.wait(WAIT_S)
        eventually(lambda: is_at_rest(pool))


def test_a_call_that_is_broken_off_as_it_begins_is_over(
    world: World, pool: LeasePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_lease(world)
    service = Service()
    service.is_held = True

    def broken_off(_call: LeasedCall, *_of: Any) -> None:
        assert service.is_within.wait(WAIT_S)
        raise InterruptedError

    monkeypatch.setattr(LeasedCall, "__init__", broken_off)
    monkeypatch.setattr(LeasedCall, "__del__", lambda _call: None)
    with leased(pool, service) as to:
        with pytest.raises(InterruptedError):
            begin(to, "Unary")
        assert service.was_cancelled.wait(WAIT_S)
        eventually(lambda: is_at_rest(pool))


def test_a_deadline_is_kept(world: World, pool: LeasePool) -> None:
    one_lease(world)
    service = Service()
    service.is_held = True
    with leased(pool, service) as to, pytest.raises(grpc.RpcError) as error:
        method(to, "Unary")(b"a", timeout=0.5)
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert not isinstance(error.value, DeniedError)


def test_the_time_that_a_lease_takes_is_the_calls(
    world: World, pool: LeasePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_lease(world)
    service = Service()
    clock = SimpleNamespace(monotonic=iter([100.0, 160.0]).__next__)
    monkeypatch.setattr("quorate.client.interceptors.client.time", clock)
    with leased(pool, service) as to, pytest.raises(grpc.RpcError) as error:
        method(to, "Unary")(b"a", timeout=60)
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert str(error.value) == "no lease within the time of the call"
    assert is_at_rest(pool)
    assert not service.metadata


def test_who_waits_for_a_future_may_give_up(world: World, pool: LeasePool) -> None:
    revoked, service = one_lease(world), Service()
    service.is_held = True
    with leased(pool, service) as to:
        call = begin(to, "Unary")
        told: SimpleQueue[Any] = SimpleQueue()
        call.add_done_callback(told.put)
        assert service.is_within.wait(WAIT_S)
        with pytest.raises(grpc.FutureTimeoutError):
            call.result(timeout=0)
        assert acts(pool), "the call goes on"
        revoked.set()
        assert told.get(timeout=WAIT_S) is call
        with pytest.raises(CallDeniedError):
            call.result()


def test_what_the_service_answers_is_the_answer(world: World, pool: LeasePool) -> None:
    one_lease(world)
    with leased(pool, Service()) as to, pytest.raises(grpc.RpcError) as error:
        to.unary_unary(f"/{SERVICE}/Other")(b"a")
    assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
