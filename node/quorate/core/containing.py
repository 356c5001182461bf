"""The commands by which domains contain an executor or a lease, and end that.

Owns who may. A domain contains its own executors, and leases: those that its executors hold, and
those on its resources, for it bears the risk. To contain narrows, and needs nobody's consent; only
who has contained ends it, as far as it has brought it about. What being contained means is
`quorate.core.containment`'s.
"""

from __future__ import annotations

from dataclasses import replace

from quorate.core import state
from quorate.core.bodies import ContainExecutor, LiftContainment
from quorate.core.containment import containers
from quorate.core.governing import may_widen
from quorate.core.limits import MAX_CONTAINMENTS_PER_DOMAIN
from quorate.core.outcome import Deny, Reason
from quorate.core.records import Containment
from quorate.core.turn import Done, Turn, Verdict


def contain(turn: Turn, body: ContainExecutor) -> Verdict:
    """Also of what is revoked or over: what came from it need not be."""
    thing, domain = _found(turn, body), turn.domain.id
    if isinstance(thing, Deny):
        return thing
    before = turn.view.containment(thing)
    by = before.by if before is not None else ()
    if domain in by:
        return Deny(Reason.ILLEGAL_TRANSITION, thing)
    if turn.view.containment_count(domain) >= MAX_CONTAINMENTS_PER_DOMAIN:
        return Deny(Reason.LIMIT_EXCEEDED, domain)
    since = before.since if before is not None else turn.seq
    after = Containment(thing, tuple(sorted((*by, domain))), since, turn.seq)
    state.save_containment(turn.store, after, before)
    return _done(turn, after)


def lift_containment(turn: Turn, body: LiftContainment) -> Verdict:
    """What another domain has contained, too, stays so until that one ends it."""
    thing, domain = _found(turn, body), turn.domain.id
    if isinstance(thing, Deny):
        return thing
    refusal = may_widen(turn)
    if refusal is not None:
        return refusal
    before = turn.view.containment(thing)
    if before is None or domain not in before.by:
        return Deny(Reason.ILLEGAL_TRANSITION, thing)
    left = tuple(each for each in before.by if each != domain)
    after = replace(before, by=left, changed=turn.seq)
    state.save_containment(turn.store, after, before)
    return _done(turn, after)


def _found(turn: Turn, body: ContainExecutor | LiftContainment) -> str | Deny:
    """What is meant, if the domain may contain it."""
    lease = turn.view.lease(body.lease) if body.lease else None
    if body.lease and lease is None:
        return Deny(Reason.NOT_FOUND, body.lease)
    thing = body.lease or body.executor
    if turn.domain.id not in containers(thing, lease):
        return Deny(Reason.NOT_AUTHORIZED, thing)
    if lease is None and turn.view.executor(thing) is None:
        return Deny(Reason.NOT_FOUND, thing)
    return thing


def _done(turn: Turn, after: Containment) -> Done:
    """The entry says who wants it contained from then on, so that whoever follows the ledger knows
    whether that has changed anything for a lease."""
    done = {"type": turn.command.verb, "thing": after.thing, "by": list(after.by)}
    return Done(after.thing, {"id": after.thing, "executed": done})
