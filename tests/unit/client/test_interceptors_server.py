"""Servers with threads, under leases: an RPC is over with its lease, its handler soon after."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from tests.unit.client.conftest import World, granted, permit
from tests.unit.client.services import (
    ACT,
    KINDS,
    OPTIONS,
    SERVICE,
    acts,
    always,
    fence,
    info_of,
    is_at_rest,
    method,
    no_lease,
    one_lease,
    revoked_check,
    serving,
)
from tests.unit.client.test_hold import eventually
from tests.unit.client.test_lease import released

from quorate.client import ClientReason, Denied, DeniedError, LeasePool, Reason
from quorate.client.interceptors import EXEMPT, LeaseServerInterceptor, by_method

CANCELLED = grpc.StatusCode.CANCELLED
PERMISSION_DENIED = grpc.StatusCode.PERMISSION_DENIED
WAIT_S = 10.0


@pytest.fixture
def pool(world: World) -> Iterator[LeasePool]:
    with LeasePool(world.gate) as made:
        yield made
        eventually(lambda: is_at_rest(made))


@contextlib.contextmanager
def served(pool: LeasePool, behaviours: dict[str, Any], rule: Any = always) -> Iterator[Any]:
    """A channel to a server under leases."""
    with (
        serving(behaviours, LeaseServerInterceptor(pool, rule)) as address,
        grpc.insecure_channel(address, options=OPTIONS) as channel,
    ):
        yield channel


def begin(channel: Any, name: str, **settings: Any) -> Any:
    """The call; of unary responses, a future."""
    request = b"a" if name in ("Unary", "Down") else iter([b"a", b"b"])
    make = method(channel, name)
    return (make if name in ("Down", "Both") else make.future)(request, **settings)


def responses(call: Any, name: str) -> list[bytes]:
    return list(call) if name in ("Down", "Both") else [call.result()]


def refused(call: Any, name: str, code: grpc.StatusCode = PERMISSION_DENIED) -> Any:
    with pytest.raises(grpc.RpcError) as error:
        responses(call, name)
    assert error.value.code() is code, error.value
    return error.value


# -- handlers of every kind; each answers with the fence that it goes by ---------------------------


def unary(request: bytes, _context: Any) -> bytes:
    return request + b"%d" % fence()


def down(request: bytes, _context: Any) -> Iterator[bytes]:
    for _ in range(2):
        yield request + b"%d" % fence()


def down_listed(request: bytes, _context: Any) -> Iterator[bytes]:
    return iter([request + b"%d" % fence()] * 2)


def up(requests: Iterator[bytes], _context: Any) -> bytes:
    return b"".join(requests) + b"%d" % fence()


def both(requests: Iterator[bytes], _context: Any) -> Iterator[bytes]:
    for request in requests:
        yield request + b"%d" % fence()


STYLES = [
    ("Unary", unary, [b"a7"]),
    ("Down", down, [b"a7", b"a7"]),
    ("Down", down_listed, [b"a7", b"a7"]),
    ("Up", up, [b"ab7"]),
    ("Both", both, [b"a7", b"b7"]),
]


def never(called: list[str]) -> dict[str, Any]:
    def handler(_request: Any, _context: Any) -> bytes:
        called.append("called")
        return b""

    return dict.fromkeys(KINDS, handler)


@pytest.mark.parametrize(("name", "behaviour", "expected"), STYLES)
def test_a_handler_runs_under_a_permit(
    world: World, pool: LeasePool, name: str, behaviour: Any, expected: list[bytes]
) -> None:
    one_lease(world)
    with served(pool, {name: behaviour}) as to:
        for _ in range(2):
            assert responses(begin(to, name), name) == expected
    assert len(world.node.requests["Acquire"]) == len(world.node.requests["Check"]) == 1


@pytest.mark.parametrize("name", KINDS)
def test_a_denied_handler_does_not_run(world: World, pool: LeasePool, name: str) -> None:
    no_lease(world)
    called: list[str] = []
    with served(pool, never(called)) as to:
        error = refused(begin(to, name), name)
    assert error.details() == "denied: NO_GRANT (bank.example/payroll)"
    assert info_of(error).reason == "NO_GRANT"
    assert called == []


def test_an_unreachable_node_is_a_denial(world: World, pool: LeasePool) -> None:
    called: list[str] = []
    world.node.then("Acquire", granted())
    world.node.then("Check", grpc.StatusCode.UNAVAILABLE)
    world.node.then("Release", released())
    with served(pool, never(called)) as to:
        error = refused(begin(to, "Unary"), "Unary")
    assert error.details() == "denied: UNREACHABLE (lease-7)"
    assert called == []


@pytest.mark.parametrize("name", KINDS)
def test_what_no_rule_knows_is_denied(pool: LeasePool, name: str) -> None:
    called: list[str] = []
    with served(pool, never(called), by_method({"/bank.Inbox/Other": ACT})) as to:
        assert refused(begin(to, name), name).details() == "denied: NO_RULE"
    assert called == []


def test_a_rule_that_fails_denies(pool: LeasePool, caplog: pytest.LogCaptureFixture) -> None:
    called: list[str] = []

    def rule(details: grpc.HandlerCallDetails) -> Any:
        raise ZeroDivisionError(details.method)

    with served(pool, never(called), rule) as to:
        error = refused(begin(to, "Unary"), "Unary", grpc.StatusCode.INTERNAL)
    assert info_of(error).reason == "NO_RULE"
    assert "ZeroDivisionError" in caplog.text
    assert called == []


@pytest.mark.parametrize(("name", "behaviour", "expected"), STYLES)
def test_what_is_exempt_needs_no_lease(
    world: World, pool: LeasePool, name: str, behaviour: Any, expected: list[bytes]
) -> None:
    with served(pool, {name: behaviour}, by_method({f"/{SERVICE}/*": EXEMPT})) as to:
        got = responses(begin(to, name), name)
    assert got == [each.replace(b"7", b"0") for each in expected]
    assert not world.node.requests


async def coroutine(_request: Any, _context: Any) -> bytes:
    pytest.fail("called")


def non_blocking(_request: Any, _context: Any, _send: Any = None) -> None:
    pytest.fail("called")


non_blocking.experimental_non_blocking = True  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "behaviour"), [("Unary", coroutine), ("Down", non_blocking)])
def test_what_cannot_be_governed_is_not_run(
    world: World, pool: LeasePool, name: str, behaviour: Any
) -> None:
    with served(pool, {name: behaviour}) as to:
        error = refused(begin(to, name), name, grpc.StatusCode.INTERNAL)
    assert error.details().startswith("denied: the handler ")
    assert not world.node.requests


def test_what_there_is_not_is_not_asked_for(world: World, pool: LeasePool) -> None:
    with served(pool, {"Unary": unary}) as to:
        refused(begin(to, "Down"), "Down", grpc.StatusCode.UNIMPLEMENTED)
    assert not world.node.requests


def test_a_handler_keeps_its_own_threads(world: World, pool: LeasePool) -> None:
    one_lease(world)

    def handler(_request: bytes, _context: Any) -> bytes:
        return threading.current_thread().name.encode()

    with ThreadPoolExecutor(1, thread_name_prefix="own") as threads:
        handler.experimental_thread_pool = threads  # type: ignore[attr-defined]
        with served(pool, {"Unary": handler}) as to:
            assert begin(to, "Unary").result().startswith(b"own")


# -- interrupted -----------------------------------------------------------------------------------


class Work:
    """Handlers that work until they are let go, whatever happens; then they send, or receive."""

    def __init__(self) -> None:
        self.is_within = threading.Event()
        self.may_go_on = threading.Event()
        self.raised: SimpleQueue[BaseException] = SimpleQueue()
        self.has_ended = threading.Event()

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.raised.put(error)
            raise
        finally:
            self.has_ended.set()

    def _work(self) -> None:
        self.is_within.set()
        assert self.may_go_on.wait(WAIT_S)

    def unary(self, _request: bytes, _context: Any) -> bytes:
        with self._noting():
            self._work()
            return b"never"

    def down(self, _request: bytes, _context: Any) -> Iterator[bytes]:
        with self._noting():
            yield b"first"
            self._work()
            yield b"never"
            pytest.fail("went on")

    def up(self, requests: Iterator[bytes], _context: Any) -> bytes:
        with self._noting():
            next(requests)
            self._work()
            next(requests)
            pytest.fail("went on")

    def both(self, requests: Iterator[bytes], _context: Any) -> Iterator[bytes]:
        with self._noting():
            for request in requests:
                yield request
                self._work()


@pytest.mark.parametrize(
    ("name", "behaviour", "raised"),
    [
        ("Unary", Work.unary, None),
        ("Down", Work.down, GeneratorExit),
        ("Up", Work.up, DeniedError),
        ("Both", Work.both, DeniedError),
    ],
)
def test_an_rpc_ends_with_its_lease_and_its_handler_soon_after(
    world: World, pool: LeasePool, name: str, behaviour: Callable[..., Any], raised: Any
) -> None:
    revoked, work = one_lease(world), Work()
    with served(pool, {name: getattr(work, behaviour.__name__)}) as to:
        call = begin(to, name)
        assert work.is_within.wait(WAIT_S)
        if name in ("Down", "Both"):
            next(call)
        revoked.set()
        refused(call, name, CANCELLED)  # though the handler still works
        assert not work.has_ended.is_set()
        assert acts(pool), "the act goes on until the handler has ended"
        assert world.node.acknowledged.empty()
        work.may_go_on.set()
        assert world.node.acknowledged.get(timeout=WAIT_S) == ("lease-7", 30)
        assert work.has_ended.is_set()
    if raised is None:
        assert work.raised.empty()
    else:
        assert isinstance(work.raised.get(timeout=WAIT_S), raised)


def test_a_handler_that_waits_for_a_request_is_denied_at_once(
    world: World, pool: LeasePool
) -> None:
    revoked, within, client_ends = one_lease(world), threading.Event(), threading.Event()
    raised: SimpleQueue[BaseException] = SimpleQueue()

    def handler(requests: Iterator[bytes], _context: Any) -> bytes:
        within.set()
        try:
            for _ in requests:
                pytest.fail("none was sent")
        except DeniedError as error:
            raised.put(error)
            raise
        pytest.fail("the stream looked whole")

    def requests() -> Iterator[bytes]:
        client_ends.wait(WAIT_S)
        yield from ()

    with served(pool, {"Up": handler}) as to:
        call = method(to, "Up").future(requests())
        assert within.wait(WAIT_S)
        revoked.set()
        error = raised.get(timeout=WAIT_S)
        assert isinstance(error, DeniedError)
        assert error.reason is Reason.GRANT_REVOKED
        refused(call, "Up", CANCELLED)
        client_ends.set()
        assert world.node.acknowledged.get(timeout=WAIT_S) == ("lease-7", 30)


def test_a_message_that_nobody_takes_does_not_keep_the_handler(
    world: World, pool: LeasePool
) -> None:
    revoked, within, ended = one_lease(world), threading.Event(), threading.Event()

    def handler(_request: bytes, _context: Any) -> Iterator[bytes]:
        within.set()
        try:
            while True:
                yield bytes(1_000_000)
        finally:
            assert acts(pool), "the act goes on until the handler has ended"
            ended.set()

    with served(pool, {"Down": handler}) as to:
        call = begin(to, "Down")
        assert within.wait(WAIT_S)
        revoked.set()
        assert world.node.acknowledged.get(timeout=WAIT_S) == ("lease-7", 30)
        assert ended.is_set()
        refused(call, "Down", CANCELLED)


@pytest.mark.parametrize("at", ["first", "end"])
def test_no_message_leaves_without_a_permit_and_no_stream_that_was_cut_looks_whole(
    world: World, pool: LeasePool, at: str
) -> None:
    """Where the check finds it first, before anybody is told."""
    one_lease(world)
    world.node.then("Check", revoked_check())

    def handler(_request: bytes, _context: Any) -> Iterator[bytes]:
        (held,) = pool._gate._keeping._upkeep._held.values()
        if at == "end":
            yield b"first"
        held.slot.drop()
        if at == "first":
            yield b"never"

    with served(pool, {"Down": handler}) as to:
        call, got = begin(to, "Down"), list[bytes]()
        with pytest.raises(grpc.RpcError) as raised:
            got.extend(call)
        error: Any = raised.value
    assert got == ([b"first"] if at == "end" else [])
    assert error.code() is PERMISSION_DENIED
    assert error.details() == "denied: GRANT_REVOKED"
    assert dict(info_of(error).metadata) == {"lease": "lease-7"}


def test_no_request_comes_in_without_a_permit(world: World, pool: LeasePool) -> None:
    one_lease(world)
    world.node.then("Check", revoked_check())
    got: list[bytes] = []

    def handler(requests: Iterator[bytes], _context: Any) -> bytes:
        (held,) = pool._gate._keeping._upkeep._held.values()
        held.slot.drop()
        got.extend(requests)
        return b"never"

    with served(pool, {"Up": handler}) as to:
        assert refused(begin(to, "Up"), "Up").details() == "denied: GRANT_REVOKED"
    assert got == []


@pytest.mark.parametrize("name", ["Up", "Both"])
def test_who_takes_no_notice_of_a_denial_gets_no_other_request_and_no_response_out(
    world: World, pool: LeasePool, name: str
) -> None:
    """Also when a permit comes after it: the stream would have a gap."""
    one_lease(world)
    world.node.then("Check", revoked_check(), permit())
    got: list[bytes] = []

    def all_of(requests: Iterator[bytes]) -> bytes:
        (held,) = pool._gate._keeping._upkeep._held.values()
        held.slot.drop()
        for _ in range(2):
            with contextlib.suppress(DeniedError):
                got.append(next(requests))
        return b"never"

    def up(requests: Iterator[bytes], _context: Any) -> bytes:
        return all_of(requests)

    def both(requests: Iterator[bytes], _context: Any) -> Iterator[bytes]:
        yield all_of(requests)

    with served(pool, {"Up": up, "Both": both}) as to:
        assert refused(begin(to, name), name).details() == "denied: GRANT_REVOKED"
    assert got == []


def test_a_closed_gate_ends_what_runs(world: World, pool: LeasePool) -> None:
    one_lease(world)
    work = Work()
    with served(pool, {"Unary": work.unary}) as to:
        call = begin(to, "Unary")
        assert work.is_within.wait(WAIT_S)
        pool._gate.close()
        refused(call, "Unary", CANCELLED)
        work.may_go_on.set()
        error = refused(begin(to, "Unary"), "Unary")
    assert info_of(error).reason == ClientReason.CLOSED


# -- what handlers and clients do by themselves ----------------------------------------------------


@pytest.mark.parametrize("name", ["Down", "Unary"])
def test_who_cancels_the_call_ends_the_act(world: World, pool: LeasePool, name: str) -> None:
    one_lease(world)
    work = Work()
    with served(pool, {name: getattr(work, name.lower())}) as to:
        call = begin(to, name)
        assert work.is_within.wait(WAIT_S)
        call.cancel()
        work.may_go_on.set()
        assert work.has_ended.wait(WAIT_S)
        eventually(lambda: is_at_rest(pool))


def test_a_deadline_ends_the_act(world: World, pool: LeasePool) -> None:
    one_lease(world)
    work = Work()
    with served(pool, {"Down": work.down}) as to:
        refused(begin(to, "Down", timeout=0.5), "Down", grpc.StatusCode.DEADLINE_EXCEEDED)
        work.may_go_on.set()
        assert work.has_ended.wait(WAIT_S) or not work.is_within.is_set()
        eventually(lambda: is_at_rest(pool))


class Contexts(grpc.ServerInterceptor):
    """Keeps the contexts of RPCs that come in."""

    def __init__(self) -> None:
        self.seen: list[grpc.ServicerContext] = []

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = continuation(handler_call_details)

        def noting(request: Any, context: grpc.ServicerContext) -> Any:
            self.seen.append(context)
            return handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(noting)


def test_a_handler_does_not_run_for_a_call_that_is_over(world: World, pool: LeasePool) -> None:
    asked, go_on = threading.Event(), threading.Event()
    called: list[str] = []
    contexts = Contexts()

    def late(_request: Any, _context: Any) -> Any:
        asked.set()
        assert go_on.wait(WAIT_S)
        return granted()

    world.node.then("Acquire", late)
    world.node.then("Check", permit())
    world.node.then("Release", released())
    interceptors = contexts, LeaseServerInterceptor(pool, always)
    with (
        serving(never(called), *interceptors) as address,
        grpc.insecure_channel(address, options=OPTIONS) as to,
    ):
        call = begin(to, "Unary")
        assert asked.wait(WAIT_S)
        call.cancel()
        eventually(lambda: not contexts.seen[0].is_active())
        go_on.set()
    assert len(world.node.requests["Check"]) == 1, "there was a lease"
    assert called == []


def test_a_handler_ends_its_rpc_as_it_likes(world: World, pool: LeasePool) -> None:
    one_lease(world)

    def aborts(_request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.NOT_FOUND, "no such record")

    def fails(_request: bytes, _context: Any) -> Iterator[bytes]:
        yield b"first"
        raise ZeroDivisionError

    with served(pool, {"Unary": aborts, "Down": fails}) as to:
        refused(begin(to, "Unary"), "Unary", grpc.StatusCode.NOT_FOUND)
        refused(begin(to, "Down"), "Down", grpc.StatusCode.UNKNOWN)


def test_a_denial_within_a_handler_is_one_of_the_rpc(world: World, pool: LeasePool) -> None:
    one_lease(world)

    def handler(_request: bytes, _context: Any) -> bytes:
        raise DeniedError(Denied(Reason.NO_TRUST, "freight.example"))

    with served(pool, {"Unary": handler}) as to:
        error = refused(begin(to, "Unary"), "Unary")
    assert error.details() == "denied: NO_TRUST (freight.example)"
