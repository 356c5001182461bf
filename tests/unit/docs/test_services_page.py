"""The page on services: the code that it shows runs, under leases, and is ended with them."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import Int64Value, StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.unit.client.conftest import World, granted, permit
from tests.unit.client.services import OPTIONS, aio_pool
from tests.unit.client.test_aio import eventually
from tests.unit.client.test_lease import released
from tests.unit.client.test_watch import stay_open

from quorate.client.interceptors import AsyncCallDeniedError
from quorate.v1 import decision_pb2, lease_pb2

PAGE = "docs/services.md"
INBOX = "//bank.example/books/inbox"
OUTBOX = "//freight.example/outbox"


def run(block: str) -> dict[str, Any]:
    shown: dict[str, Any] = {"__name__": "shown"}
    exec(compile(block, PAGE, "exec"), shown)  # noqa: S102 - the page's own code
    return shown


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


@pytest.fixture
async def pool(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    monkeypatch.setenv("no_grpc_proxy", "127.0.0.1")  # the page's channel is an ordinary one
    world.node.then("Release", *[released()] * 3)
    async with aio_pool(world) as made:
        yield made


def lease(
    world: World, action: str, resource: str, fence: int, parents: Sequence[str] = ()
) -> None:
    facts = {"id": lease_id(fence), "action": action, "resource": resource, "fence": fence}
    facts |= {"parents": parents}
    world.node.then("Acquire", granted(**facts))
    world.node.then("Check", permit(fence=fence))


def lease_id(fence: int) -> str:
    return str(fence) * 32


def interrupted_when(revoked: threading.Event, *lease_ids: str) -> Any:
    def stream(_request: Any, context: Any) -> Iterator[Any]:
        if context.add_callback(revoked.set):
            revoked.wait()
        for lease_id in lease_ids:
            yield lease_pb2.WatchResponse(
                lease_id=lease_id,
                event=lease_pb2.WATCH_EVENT_INTERRUPTED,
                reason=decision_pb2.REASON_GRANT_REVOKED,
                thing="bank.example/g1",
            )
        yield from stay_open(context)

    return stream


async def test_the_service_that_is_shown_serves_under_leases(
    pages: dict[str, Any], world: World, pool: Any
) -> None:
    service, client = (run(block) for block in pages[PAGE].blocks("python")[:2])
    revoked = threading.Event()
    world.node.then("Watch", interrupted_when(revoked, lease_id(7)))
    serving = service["server"](pool)
    port = serving.add_insecure_port("127.0.0.1:0")
    await serving.start()
    address = f"127.0.0.1:{port}"
    try:
        async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
            healthy = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest()
            )
            assert healthy.status == health_pb2.HealthCheckResponse.SERVING
            assert not world.node.requests, "it needs no lease"

            follow = channel.unary_stream(
                "/bank.Inbox/Follow", Int64Value.SerializeToString, StringValue.FromString
            )
            lease(world, "records.read", INBOX, 7)
            stream = follow(Int64Value())
            lease(world, "records.send", OUTBOX, 8)
            lease(world, "records.receive", INBOX, 9, [lease_id(8)])
            await eventually(lambda: pool._held)  # in this order, for the script has it
            assert await client["hand_in"](pool, address, "a record") == 1
            assert (await stream.read()).value == "9 a record"
            revoked.set()
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await stream.read()
            assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED
            assert f"`{error.value.details()}`" in pages[PAGE].prose
            assert await client["hand_in"](pool, address, "another") == 2
    finally:
        await serving.stop(None)


async def test_the_client_that_is_shown_makes_no_call_without_a_lease(
    pages: dict[str, Any], world: World, pool: Any
) -> None:
    client = run(pages[PAGE].blocks("python")[1])
    reason = decision_pb2.REASON_NO_GRANT
    world.node.then(
        "Acquire",
        lease_pb2.AcquireResponse(
            verdict=decision_pb2.VERDICT_DENY,
            reason=reason,
            outcome=decision_pb2.Outcome(accepted=False, reason=reason),
        ),
    )
    with pytest.raises(AsyncCallDeniedError, match="NO_GRANT"):
        await client["hand_in"](pool, "127.0.0.1:1", "a record")
