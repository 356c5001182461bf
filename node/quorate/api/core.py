"""CoreService: what the edge processes of a node ask of its core process, over a unix socket.

Owns how an executor's wish becomes a lease command: the body, and the nonce that makes a repeat
harmless. The caller is trusted to have authenticated the executor: the socket lies in the node's
private directory.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator
from typing import Any, Final

from quorate.api import convert
from quorate.api.convert import REASON_TO_WIRE
from quorate.api.denials import MAX_PER_REQUEST
from quorate.api.errors import NotReadyError
from quorate.api.ports import Core, Denied, Proposed
from quorate.api.proving import attestation, read_evidence
from quorate.api.validate import (
    Violations,
    check_report,
    conditions_of,
    context,
    delegation,
    in_order,
    parents,
    request_id_and_ttl,
)
from quorate.core import ids
from quorate.core.limits import (
    DEFAULT_PROPOSAL_TIMEOUT_MS,
    MAX_INTEGER,
    MAX_PROPOSAL_TIMEOUT_MS,
)
from quorate.core.lineage import METHODS, REASONS_OF_THE_NODE, EventType
from quorate.telemetry import Metrics
from quorate.v1 import core_pb2, core_pb2_grpc, lease_pb2

_REASONS: Final = {REASON_TO_WIRE[each]: each for each in REASONS_OF_THE_NODE}
_KIND: Final = {
    core_pb2.LEASE_ACT_ACQUIRE: "lease.acquire",
    core_pb2.LEASE_ACT_RENEW: "lease.renew",
    core_pb2.LEASE_ACT_RELEASE: "lease.release",
    core_pb2.LEASE_ACT_DELEGATE: "grant.delegate",
    core_pb2.LEASE_ACT_RECALL: "grant.recall",
    core_pb2.LEASE_ACT_CHALLENGE: "attestation.challenge",
    core_pb2.LEASE_ACT_ATTEST: "attestation.report",
    core_pb2.LEASE_ACT_DRIFT: "attestation.drift",
}


class CoreService(core_pb2_grpc.CoreServiceServicer):
    """Served by the core process to the edges of the same node."""

    def __init__(self, core: Core, metrics: Metrics) -> None:
        self._core = core
        self._metrics = metrics

    async def ProposeLease(  # noqa: N802 - the contract's name
        self, request: core_pb2.ProposeLeaseRequest, context: Any
    ) -> core_pb2.ProposeLeaseResponse:
        _check(request)
        kind = _KIND[request.act]
        timeout_ms = request.timeout_ms or DEFAULT_PROPOSAL_TIMEOUT_MS
        proposed = await self._core.propose_lease(
            kind,
            _body(request),
            lease_nonce(kind, request.executor, request.request_id),
            timeout_ms,
        )
        count_proposal(self._metrics, kind, proposed)
        return core_pb2.ProposeLeaseResponse(
            unknown=proposed.unknown,
            outcome=convert.optional_outcome_to_wire(proposed.outcome),
            reason=convert.reason_to_wire(proposed.refused),
            thing=proposed.thing,
        )

    async def ReportEvents(  # noqa: N802
        self, request: core_pb2.ReportEventsRequest, context: Any
    ) -> core_pb2.ReportEventsResponse:
        found = Violations()
        found.text("executor", request.executor, ids.check_executor)
        found.raise_any()
        report = request.report
        check_report(report)
        reported = await self._core.report(
            request.executor,
            report.lease_id,
            [(EventType(event.type), dict(event.attributes)) for event in report.events],
            report.after if report.HasField("after") else None,
        )
        with self._core.read() as snapshot:
            position = convert.position(snapshot)
        report_response = convert.reported_to_wire(reported, position)
        return core_pb2.ReportEventsResponse(report=report_response)

    async def ReportDenials(  # noqa: N802
        self, request: core_pb2.ReportDenialsRequest, context: Any
    ) -> core_pb2.ReportDenialsResponse:
        found = Violations()
        found.length("denials", len(request.denials), 0, MAX_PER_REQUEST, "kinds")
        denials = [
            _denied(found, f"denials[{index}]", each)
            for index, each in enumerate(request.denials[:MAX_PER_REQUEST])
        ]
        found.raise_any()
        if not await self._core.report_denials([each for each in denials if each is not None]):
            raise NotReadyError("the node cannot write")
        return core_pb2.ReportDenialsResponse()

    async def Follow(  # noqa: N802
        self, requests: AsyncIterator[core_pb2.FollowRequest], context: Any
    ) -> AsyncIterator[core_pb2.FollowResponse]:
        hearing = asyncio.create_task(self._hear(requests))
        try:
            async for _ in self._core.follow():
                if hearing.done():
                    hearing.result()  # raises what was wrong with a report
                with self._core.read() as snapshot:
                    answer = core_pb2.FollowResponse(position=convert.position(snapshot))
                yield answer
        finally:
            hearing.cancel()
            await asyncio.wait([hearing])

    async def _hear(self, requests: AsyncIterator[core_pb2.FollowRequest]) -> None:
        async for request in requests:
            found = Violations()
            found.within("slot", request.slot, 0, self._core.edges - 1)
            found.raise_any()
            self._core.edge_drained(request.slot, request.drained_index)


def lease_nonce(kind: str, executor: str, request_id: str) -> str:
    """The nonce of a lease command: the same for a repeated request of the same executor, and
    never that of another executor's or another act's. Without a request id, one never used."""
    if not request_id:
        return secrets.token_hex(32)
    # None of the three can hold a zero byte, so no two triples make the same text.
    return hashlib.sha256(f"{kind}\x00{executor}\x00{request_id}".encode("ascii")).hexdigest()


def count_proposal(metrics: Metrics, kind: str, proposed: Proposed) -> None:
    if proposed.outcome is not None:
        metrics.proposed(kind, "accepted" if proposed.outcome.accepted else "denied")
    else:
        metrics.proposed(kind, "unknown" if proposed.unknown else "refused")


def _check(request: core_pb2.ProposeLeaseRequest) -> None:
    found = Violations()
    found.enum("act", request.act, tuple(_KIND))
    found.text("executor", request.executor, ids.check_executor)
    match request.act:
        case core_pb2.LEASE_ACT_ACQUIRE:
            found.text("action", request.action, ids.check_action)
            found.text("resource", request.resource, ids.check_resource)
            parents(found, request.parents)
            context(found, request.context)
        case core_pb2.LEASE_ACT_DELEGATE:
            delegation(found, request.delegation)
        case core_pb2.LEASE_ACT_RECALL:
            found.text("grant", request.grant, ids.check_grant_id)
        case core_pb2.LEASE_ACT_ATTEST:
            attestation(found, request.attestation, "attestation.")
        case core_pb2.LEASE_ACT_CHALLENGE | core_pb2.LEASE_ACT_DRIFT:
            pass  # whose it is is all that it says
        case _:
            found.text("lease_id", request.lease_id, ids.check_lease_id)
    request_id_and_ttl(found, request.request_id, request.ttl_ms)
    found.within("timeout_ms", request.timeout_ms, 0, MAX_PROPOSAL_TIMEOUT_MS)
    found.raise_any()


def _denied(found: Violations, path: str, item: core_pb2.Denials) -> Denied | None:
    found.optional_text(f"{path}.executor", item.executor, ids.check_executor)
    found.optional_text(f"{path}.lease_id", item.lease_id, ids.check_lease_id)
    found.within(f"{path}.count", item.count, 1, MAX_INTEGER)
    if item.method not in METHODS:
        found.add(f"{path}.method", "is no method of the lease service")
    reason = _REASONS.get(item.reason)
    if reason is None:
        found.add(f"{path}.reason", "is no reason of a node's own")
        return None
    return Denied(item.executor, item.method, item.lease_id, reason, item.count)


def _body(request: core_pb2.ProposeLeaseRequest) -> dict[str, object]:
    if request.act == core_pb2.LEASE_ACT_ACQUIRE:
        return {
            "executor": request.executor,
            "action": request.action,
            "resource": request.resource,
            "ttl_ms": request.ttl_ms,
            **({"parents": sorted(set(request.parents))} if request.parents else {}),
            **({"context": in_order(request.context)} if request.context else {}),
        }
    if request.act == core_pb2.LEASE_ACT_DELEGATE:
        return delegation_body(request.executor, request.delegation)
    if request.act == core_pb2.LEASE_ACT_RECALL:
        return {"executor": request.executor, "grant": request.grant}
    if request.act == core_pb2.LEASE_ACT_ATTEST:
        return attestation_body(request.executor, request.attestation)
    if request.act in {core_pb2.LEASE_ACT_CHALLENGE, core_pb2.LEASE_ACT_DRIFT}:
        return {"executor": request.executor}
    body: dict[str, object] = {"lease": request.lease_id, "executor": request.executor}
    if request.act == core_pb2.LEASE_ACT_RENEW:
        body["ttl_ms"] = request.ttl_ms
    return body


def attestation_body(executor: str, wish: lease_pb2.AttestRequest) -> dict[str, object]:
    """The body of the command that says this proof."""
    return {
        "executor": executor,
        "reference": wish.reference,
        "challenge": wish.challenge,
        "evidence": read_evidence(wish.evidence),
    }


def delegation_body(executor: str, wish: lease_pb2.DelegateRequest) -> dict[str, object]:
    """The body of the command that says this wish."""
    asked = [each.to_json() for each in conditions_of(wish.conditions)]
    return {
        "executor": executor,
        "grant": wish.grant,
        "to": wish.to,
        "actions": list(wish.actions),
        "resources": list(wish.resources),
        "not_after": wish.not_after_ms,
        "max_lease_ttl_ms": wish.max_lease_ttl_ms,
        "max_uses": wish.max_uses,
        "max_concurrent": wish.max_concurrent,
        **({"max_depth": wish.max_depth} if wish.max_depth else {}),
        **({"conditions": asked} if asked else {}),
    }
