"""What executors say of their work, and what edges deny, on its way to the node's core."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from quorate.api.core_link import core_socket
from quorate.api.denials import MAX_PER_REQUEST
from quorate.api.ports import Denied, Reported
from quorate.core.limits import (
    MAX_ATTRIBUTE_CHARS,
    MAX_ATTRIBUTES,
    MAX_PARENTS,
    MAX_RECORDS_PER_COMMAND,
)
from quorate.core.lineage import EventType
from quorate.core.outcome import Deny, Reason
from quorate.v1 import core_pb2, core_pb2_grpc, decision_pb2, lease_pb2, lease_pb2_grpc

DOMAIN = "bank.example"
EXECUTOR = f"spiffe://{DOMAIN}/agent/payments"
OTHER = f"spiffe://{DOMAIN}/agent/other"
ACTION = "payments.transfer"
RESOURCE = f"//{DOMAIN}/accounts/payroll"
LEASE = "5" * 32
HEAD = "ab" * 32
PERMIT = decision_pb2.VERDICT_PERMIT
DENY = decision_pb2.VERDICT_DENY
Dial = Callable[..., grpc.aio.Channel]


@pytest.fixture
def lease(edge, dial: Dial, pki) -> lease_pb2_grpc.LeaseServiceAsyncStub:
    return lease_pb2_grpc.LeaseServiceStub(dial(edge.port, pki.executor))


@pytest.fixture
async def inner(servers, directory):
    """The core process's own service, as an edge reaches it."""
    credentials = grpc.local_channel_credentials(grpc.LocalConnectionType.UDS)
    address = f"unix:{core_socket(directory)}"
    async with grpc.aio.secure_channel(address, credentials) as channel:
        yield core_pb2_grpc.CoreServiceStub(channel)


def event(kind: str = "started", **attributes: str) -> lease_pb2.Event:
    return lease_pb2.Event(type=kind, attributes=attributes)


def report(*events: lease_pb2.Event, **changes) -> lease_pb2.ReportRequest:
    fields = {"lease_id": LEASE, "events": events or [event()]}
    return lease_pb2.ReportRequest(**(fields | changes))


async def violations(call) -> list[str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, caught.value
    status = rpc_status.from_call(caught.value)
    bad = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad)
    return [item.field for item in bad.field_violations]


# -- Report --------------------------------------------------------------------------------------


async def test_a_report_is_handed_on_in_the_name_of_who_calls(edge, lease) -> None:
    """With or without authority: what was done was done."""
    answer = await lease.Report(report(event(), event("verified", check="ok"), after=HEAD))
    with edge.core.read() as snapshot:
        assert answer.position.size == snapshot.ledger_size
    assert (answer.verdict, answer.head, answer.stage) == (PERMIT, HEAD, "started")
    assert answer.reason == decision_pb2.REASON_UNSPECIFIED
    events = [(EventType.STARTED, {}), (EventType.VERIFIED, {"check": "ok"})]
    assert edge.core.reported == [(EXECUTOR, LEASE, events, HEAD)]


async def test_another_caller_is_another_executor(edge, dial, pki) -> None:
    stub = lease_pb2_grpc.LeaseServiceStub(dial(edge.port, pki.other))
    await stub.Report(report())
    assert [told[0] for told in edge.core.reported] == [OTHER]


async def test_to_follow_nothing_is_not_to_follow_anything(edge, lease) -> None:
    await lease.Report(report())
    await lease.Report(report(after=""))
    assert [told[3] for told in edge.core.reported] == [None, ""]


@pytest.mark.parametrize(
    ("found", "head"),
    [
        (Deny(Reason.OUT_OF_ORDER, HEAD), HEAD),
        (Deny(Reason.OUT_OF_ORDER, ""), ""),
        (Deny(Reason.ILLEGAL_TRANSITION, "contained"), ""),
        (Deny(Reason.UNKNOWN_LEASE, LEASE), ""),
        (Deny(Reason.STORAGE_FULL), ""),
        (Deny(Reason.LIMIT_EXCEEDED, "outbox"), ""),
    ],
)
async def test_a_refusal_is_an_answer(edge, lease, found: Deny, head: str) -> None:
    edge.core.answer = found
    answer = await lease.Report(report())
    assert answer.verdict == DENY
    assert decision_pb2.Reason.Name(answer.reason) == f"REASON_{found.reason.value}"
    assert (answer.thing, answer.head, answer.stage) == (found.thing, head, "")
    assert answer.position.size > 0
    assert ("denied", "Report", found.reason) in edge.metrics.counted


async def test_nobody_is_told_that_a_core_which_is_gone_has_it(edge, lease, servers) -> None:
    await servers.local.stop(0)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await lease.Report(report(), timeout=0.5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_core_that_dies_with_a_report_leaves_it_open(edge, lease, servers) -> None:
    edge.core.fate = "hang"
    call = asyncio.ensure_future(lease.Report(report(), timeout=10))
    await edge.core.hanging.wait()
    await servers.local.stop(0)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_core_that_fails_tells_nothing_of_it(edge, lease) -> None:
    edge.core.fate = "fail"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await lease.Report(report())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "42" not in str(caught.value.details())


MANY = {f"n{number}": "" for number in range(MAX_ATTRIBUTES + 1)}
WIDE = {f"n{number}": "x" * 250 for number in range(5)}
ODD = [
    (report(lease_id=""), ["lease_id"]),
    (report(lease_id="A" * 32), ["lease_id"]),
    (report(after="ab"), ["after"]),
    (report(after="AB" * 32), ["after"]),
    (lease_pb2.ReportRequest(lease_id=LEASE), ["events"]),
    (report(*[event()] * (MAX_RECORDS_PER_COMMAND + 1)), ["events"]),
    (report(event("")), ["events[0].type"]),
    (report(event(), event("authorized")), ["events[1].type"]),
    (report(event(Odd="")), ["events[0].attributes.Odd"]),
    (report(event(a="x" * (MAX_ATTRIBUTE_CHARS + 1))), ["events[0].attributes.a"]),
    (report(event(**MANY)), ["events[0].attributes"]),
    (report(event(), event(**WIDE)), ["events[1].attributes"]),
    (
        report(event("odd", B=""), event(**MANY), lease_id="x", after="x"),
        ["lease_id", "after", "events[0].type", "events[0].attributes.B", "events[1].attributes"],
    ),
]


@pytest.mark.parametrize(("request_", "fields"), ODD)
async def test_what_has_another_form_is_refused_by_its_fields(
    edge, lease, request_: lease_pb2.ReportRequest, fields: list[str]
) -> None:
    assert await violations(lease.Report(request_)) == fields
    assert edge.core.reported == []


@pytest.mark.parametrize(("request_", "fields"), ODD)
async def test_the_core_looks_for_itself(
    core, inner, request_: lease_pb2.ReportRequest, fields: list[str]
) -> None:
    told = core_pb2.ReportEventsRequest(executor=EXECUTOR, report=request_)
    assert await violations(inner.ReportEvents(told)) == fields
    told.executor = "payments"
    assert await violations(inner.ReportEvents(told)) == ["executor"]
    assert core.reported == []


async def test_the_longest_report_is_taken(edge, lease) -> None:
    wide = {f"{number:02}": "x" * 254 for number in range(4)}
    edge.core.answer = Reported(HEAD, "completed")
    most = [event("reported", **wide)] * MAX_RECORDS_PER_COMMAND
    answer = await lease.Report(report(*most))
    assert (answer.verdict, answer.stage) == (PERMIT, "completed")


# -- parents ---------------------------------------------------------------------------------------


async def test_a_lease_tells_where_its_work_came_from(edge, lease) -> None:
    parents = sorted(edge.lease() for _ in range(2))
    edge.grant()
    wish = lease_pb2.AcquireRequest(
        action=ACTION, resource=RESOURCE, parents=[*reversed(parents), parents[0]]
    )
    granted = await lease.Acquire(wish)
    assert granted.verdict == PERMIT
    assert list(granted.lease.parents) == parents, "in order, each once"
    assert granted.lease.stage == "authorized"


async def test_work_does_not_come_from_nowhere(edge, lease) -> None:
    edge.grant()
    wish = lease_pb2.AcquireRequest(action=ACTION, resource=RESOURCE, parents=[LEASE])
    answer = await lease.Acquire(wish)
    assert (answer.verdict, answer.reason) == (DENY, decision_pb2.REASON_BROKEN_LINEAGE)
    assert answer.thing == LEASE


async def test_parents_have_a_form(edge, lease) -> None:
    edge.grant()
    for parents, fields in (
        (["x"], ["parents[0]"]),
        ([LEASE, ""], ["parents[1]"]),
        ([LEASE] * (MAX_PARENTS + 1), ["parents"]),
    ):
        wish = lease_pb2.AcquireRequest(action=ACTION, resource=RESOURCE, parents=parents)
        assert await violations(lease.Acquire(wish)) == fields
    assert edge.core.proposed == []


# -- context ---------------------------------------------------------------------------------------


async def test_a_lease_tells_what_was_said_of_it(edge, lease) -> None:
    edge.grant()
    wish = lease_pb2.AcquireRequest(
        action=ACTION, resource=RESOURCE, context=["ticket=OPS=1", "note="]
    )
    granted = await lease.Acquire(wish)
    assert granted.verdict == PERMIT
    assert list(granted.lease.context) == ["note=", "ticket=OPS=1"], "in the ledger's order"


async def test_a_context_has_a_form(edge, lease) -> None:
    edge.grant()
    for context in (
        ["x"],
        ["A=1"],
        ["a=1", "a=2"],
        [f"n{number}=" for number in range(17)],
        [f"n{number}={'x' * 200}" for number in range(6)],
    ):
        wish = lease_pb2.AcquireRequest(action=ACTION, resource=RESOURCE, context=context)
        assert await violations(lease.Acquire(wish)) == ["context"]
    assert edge.core.proposed == []


# -- denials ---------------------------------------------------------------------------------------


async def test_what_an_edge_denies_by_itself_is_handed_on(edge, lease) -> None:
    check = lease_pb2.CheckRequest(lease_id=LEASE)
    await lease.Check(check)
    await lease.CheckBatch(lease_pb2.CheckBatchRequest(checks=[check, check]))
    await lease.Acquire(lease_pb2.AcquireRequest(action=ACTION, resource=RESOURCE))
    await lease.Renew(lease_pb2.RenewRequest(lease_id=LEASE))
    edge.core.fate = "unknown"
    await lease.Release(lease_pb2.ReleaseRequest(lease_id=LEASE))
    edge.word.clear(Reason.STORAGE_FULL)
    await lease.Check(check)
    await edge.journal.flush()
    inquorate = Reason.INQUORATE
    assert edge.core.denied == [
        Denied(EXECUTOR, "Check", LEASE, inquorate, 1),
        Denied(EXECUTOR, "CheckBatch", LEASE, inquorate, 2),
        Denied(EXECUTOR, "Acquire", "", inquorate, 1),
        Denied(EXECUTOR, "Renew", LEASE, inquorate, 1),
        Denied(EXECUTOR, "Release", LEASE, inquorate, 1),
        Denied(EXECUTOR, "Check", LEASE, Reason.STORAGE_FULL, 1),
    ]


async def test_what_the_ledger_denies_is_the_ledger_s(edge, lease) -> None:
    edge.grant()
    await lease.Check(lease_pb2.CheckRequest(lease_id=LEASE))
    await lease.Acquire(lease_pb2.AcquireRequest(action=ACTION, resource=f"//{DOMAIN}/vault"))
    await edge.journal.flush()
    assert edge.core.denied == []


async def test_denials_wait_for_a_core_that_can_write(edge, lease) -> None:
    edge.core.keeps = False
    for _ in range(2):
        await lease.Check(lease_pb2.CheckRequest(lease_id=LEASE))
        await edge.journal.flush()
    assert edge.core.denied == []
    edge.core.keeps = True
    await edge.journal.flush()
    assert edge.core.denied == [Denied(EXECUTOR, "Check", LEASE, Reason.INQUORATE, 2)]


async def test_denials_wait_for_a_core_that_is_gone(edge, lease, servers) -> None:
    await lease.Check(lease_pb2.CheckRequest(lease_id=LEASE))
    await servers.local.stop(0)
    await edge.journal.flush()
    assert sum(edge.journal._counts.values()) == 1


GOOD = core_pb2.Denials(
    executor=EXECUTOR,
    method="Check",
    lease_id=LEASE,
    reason=decision_pb2.REASON_INQUORATE,
    count=1,
)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"executor": "payments"}, "executor"),
        ({"lease_id": "x"}, "lease_id"),
        ({"method": "Watch"}, "method"),
        ({"method": ""}, "method"),
        ({"reason": decision_pb2.REASON_NO_GRANT}, "reason"),
        ({"reason": decision_pb2.REASON_UNSPECIFIED}, "reason"),
        ({"reason": 9_999}, "reason"),
        ({"count": 0}, "count"),
        ({"count": 2**60}, "count"),
    ],
)
async def test_denials_have_a_form(core, inner, changes: dict[str, object], field: str) -> None:
    odd = core_pb2.Denials()
    odd.CopyFrom(GOOD)
    for name, value in changes.items():
        setattr(odd, name, value)
    request = core_pb2.ReportDenialsRequest(denials=[GOOD, odd])
    assert await violations(inner.ReportDenials(request)) == [f"denials[1].{field}"]
    assert core.denied == []


async def test_a_report_of_denials_has_a_limit(core, inner) -> None:
    most = [GOOD] * MAX_PER_REQUEST
    await inner.ReportDenials(core_pb2.ReportDenialsRequest(denials=most))
    assert len(core.denied) == MAX_PER_REQUEST
    more = core_pb2.ReportDenialsRequest(denials=[*most, GOOD])
    assert await violations(inner.ReportDenials(more)) == ["denials"]
    anonymous = core_pb2.Denials(method="Check", reason=decision_pb2.REASON_INTERNAL, count=7)
    await inner.ReportDenials(core_pb2.ReportDenialsRequest(denials=[anonymous]))
    assert core.denied[-1] == Denied("", "Check", "", Reason.INTERNAL, 7)
