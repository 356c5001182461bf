"""A revocation that says how far it has come, over TLS: one message a change, and how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace

import grpc
import grpc.aio
import pytest
from tests.integration.edge.test_governance import DOMAIN, EXECUTOR, refused, suspend

from quorate.api.governance import GovernanceService
from quorate.api.ports import Level, OpenNode, Progress, Reach
from quorate.api.servers import CoreServers
from quorate.lease.bounds import Bound
from quorate.telemetry import Metrics
from quorate.v1 import governance_pb2, governance_pb2_grpc

DRAINED = governance_pb2.WAIT_LEVEL_DRAINED


@pytest.fixture
def governance(
    servers: CoreServers, dial: Callable[..., grpc.aio.Channel], pki
) -> governance_pb2_grpc.GovernanceServiceAsyncStub:
    return governance_pb2_grpc.GovernanceServiceStub(dial(servers.public.port, pki.operator))


async def test_progress_names_who_is_open_and_ends_as_revoke_would(
    core, governance, monkeypatch
) -> None:
    measured: list[str] = []
    monkeypatch.setattr(Metrics, "narrowed", lambda _self, name, _ms: measured.append(name))
    core.bound = Bound(0, 0)
    core.steps = [
        Progress(
            Reach(Level.COMMITTED, Bound(2_000, 1_900)),
            (
                OpenNode("spiffe://a.example/node/1", Level.ENFORCED, 1_900),
                OpenNode("spiffe://b.example/node/1", Level.DRAINED, 2_000),
            ),
        ),
        Progress(Reach(Level.ENFORCED, Bound(700, 0))),
    ]
    envelope = suspend(core)
    request = governance_pb2.RevokeRequest(envelope=envelope, wait=DRAINED)
    told = [each async for each in governance.RevokeWithProgress(request)]
    assert [each.is_last for each in told] == [False, False, True]
    assert [each.so_far.reached for each in told] == [1, 2, 3]
    assert [each.so_far.bound_ms for each in told] == [2_000, 700, 0]
    assert [each.so_far.nodes_bound_ms for each in told] == [1_900, 0, 0]
    assert [[(n.node_id, n.lacks, n.within_ms) for n in each.open] for each in told] == [
        [
            ("spiffe://a.example/node/1", governance_pb2.WAIT_LEVEL_ENFORCED, 1_900),
            ("spiffe://b.example/node/1", DRAINED, 2_000),
        ],
        [],
        [],
    ]
    assert measured == ["drained"]
    core.steps = []
    again = await governance.Revoke(request)
    again.outcome.duplicate = False
    assert told[-1].so_far == again


async def test_progress_ends_when_the_time_is_up(core, governance) -> None:
    core.level = Level.COMMITTED
    core.bound = Bound(60, 20)
    request = governance_pb2.RevokeRequest(envelope=suspend(core), wait=DRAINED)
    [last] = [each async for each in governance.RevokeWithProgress(request)]
    assert last.is_last
    assert (last.so_far.reached, last.so_far.bound_ms) == (governance_pb2.WAIT_LEVEL_COMMITTED, 60)


@pytest.mark.parametrize("fate", ["unknown", "refuse", "denied"])
async def test_progress_of_what_was_not_accepted_is_one_message(core, governance, fate) -> None:
    core.fate = fate
    gone = core.federation.command(
        DOMAIN, "executor.revoke", {"executor": f"spiffe://{DOMAIN}/agent/nobody"}
    )
    [last] = [
        each
        async for each in governance.RevokeWithProgress(governance_pb2.RevokeRequest(envelope=gone))
    ]
    assert last.is_last
    assert not last.so_far.outcome.accepted
    assert not last.so_far.HasField("bound_ms")
    assert core.waits == []


async def test_who_goes_away_changes_nothing_about_the_command(core, governance) -> None:
    core.fate = "wait"
    core.steps = [Progress(Reach(Level.COMMITTED, Bound(2_000, 2_000)))]
    call = governance.RevokeWithProgress(
        governance_pb2.RevokeRequest(envelope=suspend(core), wait=DRAINED)
    )
    first = await call.read()
    assert first.so_far.outcome.accepted
    call.cancel()
    async with asyncio.timeout(5):
        await core.cancelled.wait()
    answer = await governance.GetOutcome(
        governance_pb2.GetOutcomeRequest(command_id=first.so_far.command_id)
    )
    assert answer.outcome.accepted


async def test_progress_that_is_given_up_between_two_messages_is_given_up_below(core) -> None:
    anybody = SimpleNamespace(member=lambda _context: None)
    service = GovernanceService(core, anybody, Metrics())  # type: ignore[arg-type]
    core.steps = [Progress(Reach(Level.COMMITTED, Bound(2_000, 2_000)))] * 2
    request = governance_pb2.RevokeRequest(envelope=suspend(core), wait=DRAINED)
    told = service.RevokeWithProgress(request, None)
    await anext(told)
    await told.aclose()
    assert core.cancelled.is_set()


async def test_progress_is_refused_what_revoke_is(core, governance) -> None:
    core.fate = "fail"
    widening = core.federation.command(DOMAIN, "executor.reinstate", {"executor": EXECUTOR})
    for envelope in (b"", b"{}", widening):
        call = governance.RevokeWithProgress(governance_pb2.RevokeRequest(envelope=envelope))
        error = await refused(call.read())
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
