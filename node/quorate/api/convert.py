"""Between the core's values and the wire's messages.

Owns the mapping, both ways, and nothing else. What comes from the wire is checked, even between the
processes of one node: a value that this version does not know is an error, never a permit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from quorate.api.notices import Event, Notice
from quorate.api.ports import MemberStatus, Reported
from quorate.core import codec
from quorate.core.errors import MalformedError
from quorate.core.limits import MAX_ENTRY_BYTES
from quorate.core.outcome import Deny, Outcome, Reason
from quorate.core.state import Lease, StateView
from quorate.lease.check import Checked, Position
from quorate.storage import Snapshot
from quorate.v1 import decision_pb2, lease_pb2, node_pb2

REASON_TO_WIRE: Final = {
    reason: decision_pb2.Reason.Value(f"REASON_{reason.value}") for reason in Reason
}
_REASON_OF_WIRE: Final = {number: reason for reason, number in REASON_TO_WIRE.items()}


def reason_to_wire(reason: Reason | None) -> decision_pb2.Reason.ValueType:
    return decision_pb2.REASON_UNSPECIFIED if reason is None else REASON_TO_WIRE[reason]


def reason_of_wire(number: decision_pb2.Reason.ValueType) -> Reason | None:
    """None for REASON_UNSPECIFIED. Raises MalformedError for a number that no reason has."""
    if number == decision_pb2.REASON_UNSPECIFIED:
        return None
    reason = _REASON_OF_WIRE.get(number)
    if reason is None:
        raise MalformedError(f"no reason has the number {number}", field="reason")
    return reason


def outcome_to_wire(outcome: Outcome) -> decision_pb2.Outcome:
    return decision_pb2.Outcome(
        accepted=outcome.accepted,
        reason=reason_to_wire(outcome.reason),
        thing=outcome.thing,
        ledger_index=outcome.index,
        command_id=outcome.command_id,
        duplicate=outcome.duplicate,
        result=codec.encode(dict(outcome.result)).decode("utf-8"),
    )


def optional_outcome_to_wire(outcome: Outcome | None) -> decision_pb2.Outcome | None:
    return None if outcome is None else outcome_to_wire(outcome)


def outcome_of_wire(message: decision_pb2.Outcome) -> Outcome:
    """Raises MalformedError."""
    reason = reason_of_wire(message.reason)
    if message.accepted == (reason is not None):
        raise MalformedError("an outcome is accepted, or has a reason", field="outcome")
    result = codec.decode(message.result.encode("utf-8"), MAX_ENTRY_BYTES)
    if not isinstance(result, dict):
        raise MalformedError("must be an object", field="outcome.result")
    return Outcome(
        accepted=message.accepted,
        reason=reason,
        thing=message.thing,
        index=message.ledger_index,
        command_id=message.command_id,
        duplicate=message.duplicate,
        result=result,
    )


def lease_of_result(result: Mapping[str, object]) -> lease_pb2.Lease:
    """The lease that an accepted lease command resulted in. Raises MalformedError."""
    lease = Lease.from_json(result)
    return lease_pb2.Lease(
        id=lease.id,
        executor=lease.executor,
        action=lease.action,
        resource=lease.resource,
        fence=lease.fence,
        expires_at_ms=lease.expires_at,
        grant=lease.grant,
        trust_edge=lease.trust_edge,
        passed_on=lease.passed_on,
        parents=lease.parents,
        context=lease.context,
        stage=lease.stage.value,
        acquired_at_ms=lease.acquired_at,
    )


def position(snapshot: Snapshot) -> decision_pb2.LedgerPosition:
    """Where the ledger stands in this snapshot."""
    return decision_pb2.LedgerPosition(
        size=snapshot.ledger_size, ledger_time_ms=StateView(snapshot.state).ledger_time()
    )


def position_to_wire(at: Position) -> decision_pb2.LedgerPosition:
    return decision_pb2.LedgerPosition(size=at.ledger_size, ledger_time_ms=at.ledger_time_ms)


def member_to_wire(member: MemberStatus) -> node_pb2.Member:
    return node_pb2.Member(
        node_id=member.node_id,
        domain=member.domain,
        peer_address=member.peer_address,
        connected=member.connected,
        match_index=member.match_index,
        enforced_index=member.enforced_index,
        role=member.role,
        status=member.status,
        raft_role=member.raft_role,
        protocol=member.protocol,
    )


def checked_to_wire(checked: Checked) -> lease_pb2.CheckResponse:
    where = position_to_wire(checked.at)
    decision = checked.decision
    if isinstance(decision, Deny):
        return lease_pb2.CheckResponse(
            verdict=decision_pb2.VERDICT_DENY,
            reason=REASON_TO_WIRE[decision.reason],
            thing=decision.thing,
            position=where,
        )
    return lease_pb2.CheckResponse(
        verdict=decision_pb2.VERDICT_PERMIT,
        ttl_ms=checked.ttl_ms,
        fence=checked.fence,
        position=where,
    )


def reported_to_wire(
    reported: Reported | Deny, position: decision_pb2.LedgerPosition
) -> lease_pb2.ReportResponse:
    if isinstance(reported, Deny):
        return lease_pb2.ReportResponse(
            position=position,
            verdict=decision_pb2.VERDICT_DENY,
            reason=REASON_TO_WIRE[reported.reason],
            thing=reported.thing,
            head=reported.thing if reported.reason is Reason.OUT_OF_ORDER else "",
        )
    return lease_pb2.ReportResponse(
        position=position,
        verdict=decision_pb2.VERDICT_PERMIT,
        head=reported.head,
        stage=reported.stage,
    )


_EVENT_TO_WIRE: Final = {
    event: lease_pb2.WatchEvent.Value(f"WATCH_EVENT_{event.value}") for event in Event
}


def notice_to_wire(notice: Notice) -> lease_pb2.WatchResponse:
    return lease_pb2.WatchResponse(
        lease_id=notice.lease_id,
        event=_EVENT_TO_WIRE[notice.event],
        reason=reason_to_wire(notice.denial.reason if notice.denial else None),
        thing=notice.denial.thing if notice.denial else "",
        position=position_to_wire(notice.at),
    )
