"""The commands by which executors pass grants on, through their nodes, and take them back.

Owns what a delegated grant may be: no more, in any respect, than the one that it is made of. What
it rests on when it is used is `quorate.core.delegation`'s. Whoever has issued the first grant of a
chain governs every grant of it; each executor takes back what it has passed on itself.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

from quorate.core import ids, state
from quorate.core.bodies import DelegateGrant, RecallGrant
from quorate.core.containment import executor_contained
from quorate.core.decision import active_executor
from quorate.core.delegation import chain_of, grant_ended
from quorate.core.limits import (
    MAX_DELEGATED_GRANTS_PER_EXECUTOR_AND_ISSUER,
    MAX_DELEGATIONS_PER_GRANT,
    MAX_GRANTS_FROM_ONE_DELEGATOR,
    MAX_GRANTS_PER_EXECUTOR_AND_ISSUER,
)
from quorate.core.outcome import Deny, Reason
from quorate.core.patterns import scope_outside
from quorate.core.records import Executor, Grant
from quorate.core.routing import split_id
from quorate.core.status import Act, Status, follow
from quorate.core.turn import Done, Turn, Verdict


def delegate_grant(turn: Turn, body: DelegateGrant) -> Verdict:
    parent = _held_grant(turn, body.executor, body.grant)
    if isinstance(parent, Deny):
        return parent
    delegator = active_executor(turn.view, body.executor, turn.ledger_time)
    if isinstance(delegator, Deny):
        return delegator
    contained = executor_contained(turn.view, delegator.id)
    if contained is not None:
        return contained
    for each in (parent, *chain_of(turn.view, parent)):
        ended = grant_ended(each, turn.ledger_time)
        if ended is not None:
            return ended
    to = turn.view.executor(body.to)
    if to is None:
        return Deny(Reason.UNKNOWN_EXECUTOR, body.to)
    if to.status is Status.REVOKED:
        return Deny(Reason.EXECUTOR_REVOKED, to.id)
    grant = Grant(
        issuer=parent.issuer,
        grant=ids.delegation_name(turn.command.origin, turn.command.command_id),
        executor=to.id,
        actions=body.actions,
        resources=body.resources,
        not_after=body.not_after,
        max_lease_ttl_ms=body.max_lease_ttl_ms,
        max_uses=body.max_uses,
        max_concurrent=body.max_concurrent,
        uses=0,
        status=Status.ACTIVE,
        changed=turn.seq,
        parent=parent.id,
        made=turn.seq,
        max_depth=body.max_depth,
        conditions=body.conditions,
    )
    refusal = _what_widens(grant, parent) or _may_be_made(turn, grant, parent, to)
    if refusal is not None:
        return refusal
    counted = replace(parent, delegations=parent.delegations + 1)
    state.save_grant(turn.store, counted, turn.ledger_time)
    state.save_grant(turn.store, grant, turn.ledger_time)
    return Done(grant.id, grant.to_json())


def recall_grant(turn: Turn, body: RecallGrant) -> Verdict:
    """Final, as every revocation. It needs nothing to be good any more: to narrow is always
    possible."""
    grant = turn.view.grant(*split_id(body.grant))
    if grant is None:
        return Deny(Reason.NOT_FOUND, body.grant)
    if not grant.parent:
        return Deny(Reason.NOT_AUTHORIZED, grant.id)
    parent = _held_grant(turn, body.executor, grant.parent)
    if isinstance(parent, Deny):
        return parent
    status = follow(grant.status, Act.REVOKE)
    if isinstance(status, Reason):
        return Deny(status, grant.id)
    changed = replace(grant, status=status, changed=turn.seq)
    state.save_grant(turn.store, changed, turn.ledger_time)
    return Done.named(grant.id)


def _held_grant(turn: Turn, executor: str, ident: str) -> Grant | Deny:
    """A grant to this executor, which is of the domain that asks."""
    if ids.SpiffeId.parse(executor).trust_domain != turn.domain.id:
        return Deny(Reason.NOT_AUTHORIZED, executor)
    grant = turn.view.grant(*split_id(ident))
    if grant is None:
        return Deny(Reason.NOT_FOUND, ident)
    return grant if grant.executor == executor else Deny(Reason.NOT_AUTHORIZED, ident)


def _what_widens(grant: Grant, parent: Grant) -> Deny | None:
    """Whether the one is for more than the other: None, or the first respect in which it is.
    Conditions are no such respect: those of all grants of a chain have to be met."""
    outside = scope_outside(grant, parent)
    if outside is not None:
        return Deny(Reason.WIDENS, outside)
    if grant.max_depth >= parent.max_depth:
        return Deny(Reason.WIDENS, "max_depth")
    for name in ("not_after", "max_lease_ttl_ms"):
        if getattr(grant, name) > getattr(parent, name):
            return Deny(Reason.WIDENS, name)
    for name in ("max_uses", "max_concurrent"):  # 0: no limit of its own
        most, wished = getattr(parent, name), getattr(grant, name)
        if most and not 1 <= wished <= most:
            return Deny(Reason.WIDENS, name)
    return None


def _may_be_made(turn: Turn, grant: Grant, parent: Grant, to: Executor) -> Deny | None:
    if to.id == parent.executor:
        return Deny(Reason.NOT_AUTHORIZED, to.id)
    if grant.expired(turn.ledger_time):
        return Deny(Reason.GRANT_EXPIRED, grant.id)
    if turn.view.grant(grant.issuer, grant.grant) is not None:
        return Deny(Reason.ALREADY_EXISTS, grant.id)
    if parent.delegations >= MAX_DELEGATIONS_PER_GRANT or not _has_room(
        turn, grant, parent.executor
    ):
        return Deny(Reason.LIMIT_EXCEEDED, parent.id)
    return None


def _has_room(turn: Turn, grant: Grant, delegator: str) -> bool:
    """Whether one more grant keeps the limits. What was passed on fills a part only of the room of
    an executor, and what one executor has passed on a part of that: whoever owns the resources must
    be able to grant, and others to pass on, whatever one does. What is over is filed away first,
    and what comes from a grant that is over does not count."""
    most = MAX_GRANTS_PER_EXECUTOR_AND_ISSUER
    live = list(islice(turn.view.grants_for(grant.executor, grant.issuer), most))
    for each in live:
        if each.expired(turn.ledger_time):
            state.save_grant(turn.store, each, turn.ledger_time)
    live = [each for each in live if not each.expired(turn.ledger_time)]
    passed_on = [each for each in live if each.parent]
    if len(passed_on) >= MAX_GRANTS_FROM_ONE_DELEGATOR:
        passed_on = [each for each in passed_on if not _is_over(turn, each)]
    own = [each for each in passed_on if _delegator(turn, each) == delegator]
    return (
        len(live) < most
        and len(passed_on) < MAX_DELEGATED_GRANTS_PER_EXECUTOR_AND_ISSUER
        and len(own) < MAX_GRANTS_FROM_ONE_DELEGATOR
    )


def _is_over(turn: Turn, grant: Grant) -> bool:
    """Whether something behind it is, for good."""
    return any(
        each.status is Status.REVOKED or each.exhausted or each.expired(turn.ledger_time)
        for each in chain_of(turn.view, grant)
    )


def _delegator(turn: Turn, grant: Grant) -> str:
    return chain_of(turn.view, grant)[0].executor
