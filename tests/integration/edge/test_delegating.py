"""LeaseService over TLS: executors pass on what they were granted, and take it back."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest
from tests.integration.edge.test_lease_service import (
    ACTION,
    DENY,
    DOMAIN,
    EXECUTOR,
    PERMIT,
    acquire,
    violations,
)

from quorate.core.limits import MAX_DEPTH
from quorate.testing.builders import CREATED_MS, grant_body
from quorate.v1 import decision_pb2, lease_pb2, lease_pb2_grpc

OTHER = f"spiffe://{DOMAIN}/agent/other"
ROOT = f"{DOMAIN}/deep"
BOOKS = f"//{DOMAIN}/books/*"


@pytest.fixture
def lease(edge, dial, pki) -> lease_pb2_grpc.LeaseServiceAsyncStub:
    """Of the executor with a grant that may be passed on; the other one is registered."""
    edge.core.run(DOMAIN, "executor.register", {"executor": OTHER})
    edge.core.run(DOMAIN, "grant.issue", grant_body("deep", EXECUTOR, [BOOKS], max_depth=1))
    edge.grant()
    return lease_pb2_grpc.LeaseServiceStub(dial(edge.port, pki.executor))


@pytest.fixture
def other(edge, dial, pki) -> lease_pb2_grpc.LeaseServiceAsyncStub:
    return lease_pb2_grpc.LeaseServiceStub(dial(edge.port, pki.other))


def wish(**changes) -> lease_pb2.DelegateRequest:
    fields = {
        "grant": ROOT,
        "to": OTHER,
        "actions": [ACTION],
        "resources": [BOOKS],
        "not_after_ms": CREATED_MS + 3_600_000,
        "max_lease_ttl_ms": 60_000,
        "request_id": "d-1",
    }
    return lease_pb2.DelegateRequest(**(fields | changes))


async def test_a_grant_is_passed_on_used_and_taken_back(edge, lease, other) -> None:
    made = await lease.Delegate(wish())
    assert (made.verdict, made.reason, made.unknown) == (PERMIT, 0, False)
    assert made.grant == made.outcome.thing
    granted = await other.Acquire(acquire(resource=f"//{DOMAIN}/books/1"))
    assert (granted.verdict, granted.lease.grant) == (PERMIT, made.grant)
    edge.grant()
    check = lease_pb2.CheckRequest(lease_id=granted.lease.id)
    assert (await other.Check(check)).verdict == PERMIT
    recall = lease_pb2.RecallRequest(grant=made.grant, request_id="r-1")
    assert (await other.Recall(recall)).reason == decision_pb2.REASON_NOT_AUTHORIZED
    recalled = await lease.Recall(recall)
    assert (recalled.verdict, recalled.outcome.thing) == (PERMIT, made.grant)
    edge.grant()
    denied = await other.Check(check)
    assert (denied.verdict, denied.reason) == (DENY, decision_pb2.REASON_GRANT_REVOKED)


async def test_what_is_passed_on_asks_for_what_it_was_said_to(edge, lease, other) -> None:
    """In whatever order it was said."""
    zone = lease_pb2.Condition(name="zone", values=["us", "eu"])
    ticket = lease_pb2.Condition(name="ticket", values=["OPS-*"])
    made = await lease.Delegate(wish(conditions=[zone, ticket]))
    assert made.verdict == PERMIT
    book = f"//{DOMAIN}/books/1"
    denied = await other.Acquire(acquire(resource=book, context=["zone=eu"], request_id="a-1"))
    assert denied.reason == decision_pb2.REASON_CONDITION_UNMET
    assert denied.thing == f"{made.grant}/ticket"
    said = ["zone=eu", "ticket=OPS-7"]
    granted = await other.Acquire(acquire(resource=book, context=said, request_id="a-2"))
    assert (granted.verdict, granted.lease.grant) == (PERMIT, made.grant)


async def test_the_longest_that_may_be_said_fits_a_command(lease) -> None:
    """Also where each character takes two on the way."""
    text = '"' * 250
    conditions = [
        lease_pb2.Condition(name=f"n{place}", values=[text[1:] + str(place)]) for place in range(4)
    ]
    books = [f"//{DOMAIN}/books/{place:02}{'x' * 150}" for place in range(32)]
    answer = await lease.Delegate(wish(conditions=conditions, resources=books))
    assert answer.verdict == PERMIT
    more = [each + "x" * 70 for each in books]
    assert await violations(lease.Delegate(wish(conditions=conditions, resources=more))) == [
        "resources"
    ]


async def test_a_repeated_request_passes_on_once(lease) -> None:
    first, again = [await lease.Delegate(wish()) for _ in range(2)]
    assert (first.grant, again.outcome.duplicate) == (again.grant, True)
    assert (await lease.Delegate(wish(request_id="d-2"))).grant != first.grant


async def test_what_widens_is_denied_with_its_entry(edge, lease) -> None:
    answer = await lease.Delegate(wish(resources=[f"//{DOMAIN}/*"]))
    assert (answer.verdict, answer.reason) == (DENY, decision_pb2.REASON_WIDENS)
    assert (answer.thing, answer.grant) == (f"//{DOMAIN}/*", "")
    assert not answer.outcome.accepted
    assert ("denied", "Delegate", "WIDENS") in edge.metrics.counted


async def test_without_authority_nothing_is_passed_on_and_all_can_be_taken_back(
    edge, lease
) -> None:
    made = await lease.Delegate(wish())
    edge.word.clear(None)
    denied = await lease.Delegate(wish(request_id="d-2"))
    assert (denied.verdict, denied.unknown) == (DENY, False)
    assert not denied.HasField("outcome")
    recalled = await lease.Recall(lease_pb2.RecallRequest(grant=made.grant))
    assert recalled.verdict == PERMIT


async def test_an_unknown_outcome_is_a_denial_that_says_so(edge, lease) -> None:
    edge.core.fate = "unknown"
    for answer in (
        await lease.Delegate(wish()),
        await lease.Recall(lease_pb2.RecallRequest(grant=ROOT)),
    ):
        assert (answer.verdict, answer.unknown) == (DENY, True)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"grant": "deep"}, "grant"),
        ({"to": "nobody"}, "to"),
        ({"actions": []}, "actions"),
        ({"actions": ["a"] * 33}, "actions"),
        ({"actions": ["a", "a"]}, "actions"),
        ({"resources": ["books"]}, "resources[0]"),
        ({"not_after_ms": -1}, "not_after_ms"),
        ({"max_lease_ttl_ms": 0}, "max_lease_ttl_ms"),
        ({"max_uses": 2**60}, "max_uses"),
        ({"max_concurrent": 1_001}, "max_concurrent"),
        ({"max_depth": MAX_DEPTH + 1}, "max_depth"),
        ({"request_id": "x" * 65}, "request_id"),
        ({"conditions": [{"name": "Ticket", "values": ["a"]}]}, "conditions"),
        ({"conditions": [{"name": "ticket", "values": []}]}, "conditions"),
        ({"conditions": [{"name": "ticket", "values": [""]}]}, "conditions"),
        ({"conditions": [{"name": "ticket", "values": ["a", "a"]}]}, "conditions"),
        ({"conditions": [{"name": "ticket", "values": ["a*b"]}]}, "conditions"),
        ({"conditions": [{"name": "ticket", "values": ["a"]}] * 2}, "conditions"),
        ({"conditions": [{"name": f"n{n}", "values": ["a"]} for n in range(9)]}, "conditions"),
        ({"conditions": [{"name": "n", "values": [str(n) for n in range(33)]}]}, "conditions"),
        ({"conditions": [{"name": "n", "values": ["x" * 257]}]}, "conditions"),
        ({"resources": [f"//{DOMAIN}/{n}{'x' * 250}" for n in range(32)]}, "resources[0]"),
        (
            {
                "resources": [f"//{DOMAIN}/{n:02}{'x' * 220}" for n in range(32)],
                "actions": [f"a{n:02}{'b' * 50}" for n in range(32)],
            },
            "resources",
        ),
    ],
)
async def test_an_odd_request_is_refused_field_by_field(edge, lease, changes, field) -> None:
    before = list(edge.core.proposed)
    assert field in await violations(lease.Delegate(wish(**changes)))
    assert edge.core.proposed == before


async def test_an_odd_recall_is_refused(lease) -> None:
    assert await violations(lease.Recall(lease_pb2.RecallRequest(grant="x"))) == ["grant"]


async def test_a_stranger_passes_nothing_on(edge, dial, foreign) -> None:
    stub = lease_pb2_grpc.LeaseServiceStub(dial(edge.port, foreign.executor))
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.Delegate(wish())
