"""A service with a method of each kind, and what a test needs of leases around it."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator
from concurrent import futures
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from tests.servers import stop
from tests.unit.client.conftest import ACTION, EXECUTOR, RESOURCE, World, granted, permit
from tests.unit.client.test_lease import released
from tests.unit.client.test_watch import notice, stay_open

from quorate.client import AsyncGate, AsyncLeasePool, LeasePool, current_permit
from quorate.client.interceptors import Act
from quorate.v1 import decision_pb2, lease_pb2

SERVICE = "bank.Inbox"
KINDS = {
    "Unary": grpc.unary_unary_rpc_method_handler,
    "Down": grpc.unary_stream_rpc_method_handler,
    "Up": grpc.stream_unary_rpc_method_handler,
    "Both": grpc.stream_stream_rpc_method_handler,
}
MAKES = {
    "Unary": "unary_unary",
    "Down": "unary_stream",
    "Up": "stream_unary",
    "Both": "stream_stream",
}
ACT = Act(ACTION, RESOURCE)
OPTIONS = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))


def always(_call: Any) -> Act:
    """The rule of a service that does one thing."""
    return ACT


def handlers(behaviours: dict[str, Any]) -> Any:
    made = {name: KINDS[name](behaviour) for name, behaviour in behaviours.items()}
    return grpc.method_handlers_generic_handler(SERVICE, made)


def method(channel: Any, name: str) -> Any:
    return getattr(channel, MAKES[name])(f"/{SERVICE}/{name}")


# -- leases ----------------------------------------------------------------------------------------


def one_lease(world: World) -> threading.Event:
    """One lease, which is revoked when the event is set."""
    revoked = threading.Event()

    def stream(_request: Any, context: Any) -> Iterator[Any]:
        if context.add_callback(revoked.set):
            revoked.wait()
        yield notice(
            lease_pb2.WATCH_EVENT_INTERRUPTED,
            reason=decision_pb2.REASON_GRANT_REVOKED,
            thing="bank.example/g1",
            position=decision_pb2.LedgerPosition(size=30),
        )
        yield from stay_open(context)

    world.node.then("Watch", stream)
    world.node.then("Acquire", granted())
    world.node.then("Check", permit())
    world.node.then("Release", released())
    return revoked


def no_lease(world: World) -> None:
    reason = decision_pb2.REASON_NO_GRANT
    world.node.then(
        "Acquire",
        lease_pb2.AcquireResponse(
            verdict=decision_pb2.VERDICT_DENY,
            reason=reason,
            thing="bank.example/payroll",
            outcome=decision_pb2.Outcome(accepted=False, reason=reason),
        ),
    )


def revoked_check() -> lease_pb2.CheckResponse:
    return lease_pb2.CheckResponse(
        verdict=decision_pb2.VERDICT_DENY, reason=decision_pb2.REASON_GRANT_REVOKED
    )


def acts(pool: AsyncLeasePool | LeasePool) -> int:
    """How many go on under the pool's leases."""
    return sum(held.slot._acts.total() for held in pool._gate._keeping._upkeep._held.values())


def is_at_rest(pool: AsyncLeasePool | LeasePool) -> bool:
    """Nobody but the pool holds its leases, nobody uses them, no act goes on."""
    held = pool._gate._keeping._upkeep._held.values()
    places = pool._places._places.values()
    return (
        all(len(each.holders) == 1 for each in held)
        and not acts(pool)
        and not any(place.users for place in places)
    )


@asynccontextmanager
async def aio_pool(world: World) -> AsyncIterator[AsyncLeasePool]:
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{world.port}", options=OPTIONS)
    async with (
        AsyncGate(channel, executor=EXECUTOR, clock=world.clock) as gate,
        AsyncLeasePool(gate) as pool,
    ):
        yield pool


# -- servers and channels --------------------------------------------------------------------------


@asynccontextmanager
async def aio_serving(behaviours: dict[str, Any], *interceptors: Any) -> AsyncIterator[str]:
    """The address of a grpc.aio server."""
    server = grpc.aio.server(interceptors=interceptors, options=OPTIONS)
    server.add_generic_rpc_handlers((handlers(behaviours),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@contextmanager
def serving(behaviours: dict[str, Any], *interceptors: Any) -> Iterator[str]:
    """The address of a grpc.server."""
    with futures.ThreadPoolExecutor(max_workers=8) as threads:
        server = grpc.server(threads, interceptors=interceptors, options=OPTIONS)
        server.add_generic_rpc_handlers((handlers(behaviours),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            stop(server)


@asynccontextmanager
async def aio_channel(address: str, interceptors: Any = None) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(
        address, options=OPTIONS, interceptors=interceptors
    ) as channel:
        yield channel


def fence() -> int:
    """Of the permit that the running act goes by; 0 outside of any."""
    known = current_permit()
    return 0 if known is None else known.fence


def info_of(error: Any) -> error_details_pb2.ErrorInfo:
    """The details of a denial, as any client reads them."""
    status = rpc_status.from_call(error)
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info
