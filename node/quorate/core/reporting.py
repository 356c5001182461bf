"""The command by which a node reports: what its executors say of their work, what it had to deny.

Owns what `lineage.append` changes: the head of the node's chain, and the stage of the leases that
the events are about. A record that does not fit is refused by itself, and stands in the entry: what
comes after it in the chain is not held up by it.
"""

from __future__ import annotations

from dataclasses import replace

from quorate.core import ids, state
from quorate.core.bodies import AppendLineage
from quorate.core.decision import held_lease
from quorate.core.limits import MAX_EVENTS_PER_LEASE
from quorate.core.lineage import Denials, Event, Record, chained, encoded, next_stage
from quorate.core.outcome import Deny, Reason
from quorate.core.turn import Done, Turn, Verdict


def append_lineage(turn: Turn, body: AppendLineage) -> Verdict:
    """Its result names the records that were refused, by their place in the command."""
    node = turn.command.issuer
    head = turn.view.lineage_head(node)
    if body.after != head:
        return Deny(Reason.OUT_OF_ORDER, head)
    refused: dict[str, object] = {}
    for place, record in enumerate(body.records):
        reason = _take(turn, record)
        if reason is not None:
            refused[str(place)] = reason.value
    head = chained(head, [encoded(record) for record in body.records])
    state.save_lineage_head(turn.store, node, head)
    return Done(node, {"id": node, "head": head, "refused": refused})


def _take(turn: Turn, record: Record) -> Reason | None:
    """Why one record is refused; None: it is the ledger's now."""
    executor = record.executor
    if executor and ids.SpiffeId.parse(executor).trust_domain != turn.domain.id:
        return Reason.NOT_AUTHORIZED
    match record:
        case Denials():
            return None  # that it stands in the entry is all
        case Event():
            return _advance(turn, record)


def _advance(turn: Turn, event: Event) -> Reason | None:
    lease = held_lease(turn.view, event.lease, event.executor)
    if isinstance(lease, Deny):
        return lease.reason
    stage = next_stage(lease.stage, event.type)
    if stage is None:
        return Reason.ILLEGAL_TRANSITION
    if lease.events >= MAX_EVENTS_PER_LEASE:
        return Reason.LIMIT_EXCEEDED
    head = chained(lease.lineage, [event.said])
    advanced = replace(lease, stage=stage, events=lease.events + 1, lineage=head)
    state.save_lineage(turn.store, advanced)
    return None
