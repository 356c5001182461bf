"""One check of a lease for the command line, and what its answer is worth when it has come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from quorate.cli.connection import Connection
from quorate.cli.submit import reason_name
from quorate.client import ClientReason, Denied, Permit, Reading, SystemClock
from quorate.v1 import decision_pb2, lease_pb2

_NS_PER_MS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Checked:
    """permit: good when it had come. reason, thing: else why there is none."""

    permit: Permit | None
    reason: str
    thing: str
    ledger_size: int
    remaining_ms: float
    round_trip_ms: float


def ask_once(connection: Connection, request: lease_pb2.CheckRequest, timeout_ms: int) -> Checked:
    """Raises what `Connection.ask` does."""
    clock = SystemClock()
    sent = Reading.of(clock)
    answer = connection.ask(connection.leases.Check, request, timeout_ms)
    arrived = Reading.of(clock)
    reason, thing, permit = reason_name(answer.reason), answer.thing, None
    if answer.verdict == decision_pb2.VERDICT_PERMIT and not reason:
        judged = _judged(request, answer, sent, arrived)
        if isinstance(judged, Denied):
            reason, thing = str(judged.reason), request.lease_id
        else:
            permit = judged
    return Checked(
        permit=permit,
        reason=reason,
        thing=thing,
        ledger_size=answer.position.size,
        remaining_ms=permit.remaining_ms(arrived) if permit is not None else 0.0,
        round_trip_ms=(arrived.boottime_ns - sent.boottime_ns) / _NS_PER_MS,
    )


def _judged(
    request: lease_pb2.CheckRequest,
    answer: lease_pb2.CheckResponse,
    sent: Reading,
    arrived: Reading,
) -> Permit | Denied:
    """The life of a permit counts from when it was asked for; one that was delayed, or whose
    machine slept meanwhile, is over on arrival."""
    permit = Permit(
        lease_id=request.lease_id,
        fence=answer.fence,
        sent=sent,
        expires_at_ns=sent.boottime_ns + max(answer.ttl_ms, 0) * _NS_PER_MS,
        ledger_size=answer.position.size,
        ledger_time_ms=answer.position.ledger_time_ms,
    )
    if request.minimum_index and not permit.holds(request.minimum_index):
        return Denied(ClientReason.MALFORMED_ANSWER)  # of a node that does not know the wish
    return permit.judge(arrived)
