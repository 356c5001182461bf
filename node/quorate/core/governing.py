"""The commands of domains: executors, trust edges, grants, the domain itself and its resources.

Owns what each may change and when. A domain governs its own things only, alone and at once: to
narrow needs nobody's consent. A domain that is not active may narrow, and may not widen. Its nodes
are in `quorate.core.membership`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import islice

from quorate.core import protocol, state
from quorate.core.acts import ReinstateExecutor
from quorate.core.attestation import unproved
from quorate.core.bodies import (
    CloseTrust,
    FreezeResources,
    GovernDomain,
    GovernExecutor,
    GovernGrant,
    IssueGrant,
    NarrowTrust,
    OpenTrust,
    RegisterExecutor,
    ThawResources,
)
from quorate.core.frozen import Freeze
from quorate.core.ids import SpiffeId
from quorate.core.limits import (
    MAX_EDGES_PER_PAIR,
    MAX_EXECUTORS_PER_DOMAIN,
    MAX_GRANTS_PER_EXECUTOR_AND_ISSUER,
)
from quorate.core.outcome import Deny, Reason
from quorate.core.patterns import pattern_owner, scope_outside
from quorate.core.records import Domain, Executor, Grant, Node, TrustEdge
from quorate.core.status import Act, Status, follow
from quorate.core.turn import Done, Turn, Verdict


def register_executor(turn: Turn, body: RegisterExecutor) -> Verdict:
    if not _owns_executor(turn, body.executor):
        return Deny(Reason.NOT_AUTHORIZED, body.executor)
    refusal = may_widen(turn) or is_new(turn.view.executor(body.executor))
    if refusal is not None:
        return refusal
    count = turn.view.executor_count(turn.domain.id)
    if count >= MAX_EXECUTORS_PER_DOMAIN:
        return Deny(Reason.LIMIT_EXCEEDED, turn.domain.id)
    executor = Executor(body.executor, turn.domain.id, Status.ACTIVE, turn.seq)
    state.save_executor(turn.store, executor)
    state.count_executor(turn.store, turn.domain.id, count + 1)
    return Done.named(executor.id)


def govern_executor(turn: Turn, body: GovernExecutor) -> Verdict:
    if not _owns_executor(turn, body.executor):
        return Deny(Reason.NOT_AUTHORIZED, body.executor)
    executor = turn.view.executor(body.executor)
    if executor is None:
        return Deny(Reason.NOT_FOUND, body.executor)
    # That it is suspended for what it has proved keeps its domain from nothing: one that wants no
    # ballot to reinstate it suspends it, too.
    is_first_word = bool(executor.suspended_for) and not executor.suspended_by_domain
    before = Status.ACTIVE if is_first_word and body.act is Act.SUSPEND else executor.status
    status = _next_status(turn, replace(executor, status=before), body.act)
    if isinstance(status, Deny):
        return status
    if body.act is Act.REINSTATE:
        refusal = unproved(turn.view, executor, turn.domain, turn.ledger_time)
        if refusal is not None:
            return refusal
    if status is Status.SUSPENDED:
        is_both = bool(executor.suspended_for)
        changed = replace(executor, status=status, suspended_by_domain=is_both, changed=turn.seq)
    else:
        changed = _no_more_suspended(executor, status, turn.seq)
    state.save_executor(turn.store, changed)
    return Done.named(executor.id)


def reinstate_by_ballot(turn: Turn, act: ReinstateExecutor) -> Verdict:
    """Ends what an executor was suspended for by what it has proved, or said: as its own domain
    could, with the same new proofs. What the domain has said of it, or of itself, stays so."""
    executor = turn.view.executor(act.executor)
    if executor is None:
        return Deny(Reason.UNKNOWN_EXECUTOR, act.executor)
    home = turn.view.domain(executor.domain)
    if home is None:
        return Deny(Reason.UNKNOWN_DOMAIN, executor.domain)
    status = follow(executor.status, Act.REINSTATE)
    if isinstance(status, Reason):
        return Deny(status, executor.id)
    if not executor.suspended_for or executor.suspended_by_domain:
        return Deny(Reason.NOT_AUTHORIZED, executor.id)
    refusal = _inactive(home) or unproved(turn.view, executor, home, turn.ledger_time)
    if refusal is not None:
        return refusal
    state.save_executor(turn.store, _no_more_suspended(executor, status, turn.seq))
    return Done.named(executor.id)


def _no_more_suspended(executor: Executor, status: Status, seq: int) -> Executor:
    return replace(
        executor,
        status=status,
        changed=seq,
        suspended_for="",
        suspended_by_domain=False,
        failed_at=0,
    )


def open_trust(turn: Turn, body: OpenTrust) -> Verdict:
    """An edge for the resources of others permits nothing by itself: it passes on what they let the
    truster pass on."""
    truster = turn.domain.id
    passes_on = turn.view.federation().protocol >= protocol.SECOND
    may_name = passes_on or _owns_resources(turn, body.resources)
    if not may_name or body.trustee == truster:
        return Deny(Reason.NOT_AUTHORIZED, f"{truster}/{body.edge}")
    refusal = may_widen(turn) or is_new(turn.view.trust_edge(truster, body.edge))
    if refusal is not None:
        return refusal
    trustee = turn.view.domain(body.trustee)
    if trustee is None:
        return Deny(Reason.UNKNOWN_DOMAIN, body.trustee)
    if trustee.status is Status.REVOKED:
        return Deny(Reason.DOMAIN_REVOKED, trustee.id)
    edge = TrustEdge(
        truster=truster,
        edge=body.edge,
        trustee=body.trustee,
        actions=body.actions,
        resources=body.resources,
        status=Status.ACTIVE,
        changed=turn.seq,
        max_depth=body.max_depth,
    )
    if _reached(turn.view.trust_between(truster, body.trustee), MAX_EDGES_PER_PAIR):
        return Deny(Reason.LIMIT_EXCEEDED, edge.id)
    state.save_edge(turn.store, edge)
    return Done.named(edge.id)


def narrow_trust(turn: Turn, body: NarrowTrust) -> Verdict:
    """Leaves something out of what the edge is for. That can never grow again: whoever wants more
    opens another, and a lease that was left out stays denied."""
    edge = turn.view.trust_edge(turn.domain.id, body.edge)
    if edge is None:
        return Deny(Reason.NOT_FOUND, f"{turn.domain.id}/{body.edge}")
    if edge.status is Status.REVOKED:
        return Deny(Reason.FINAL, edge.id)
    outside = scope_outside(body, edge)
    if outside is not None:
        return Deny(Reason.WIDENS, outside)
    if scope_outside(edge, body) is None:  # as for whatever else is so already
        return Deny(Reason.ILLEGAL_TRANSITION, edge.id)
    narrowed = replace(edge, actions=body.actions, resources=body.resources, changed=turn.seq)
    state.save_edge(turn.store, narrowed)
    return Done.named(edge.id)


def close_trust(turn: Turn, body: CloseTrust) -> Verdict:
    edge = turn.view.trust_edge(turn.domain.id, body.edge)
    if edge is None:
        return Deny(Reason.NOT_FOUND, f"{turn.domain.id}/{body.edge}")
    status = _next_status(turn, edge, Act.REVOKE)
    if isinstance(status, Deny):
        return status
    state.save_edge(turn.store, replace(edge, status=status, changed=turn.seq))
    return Done.named(edge.id)


def issue_grant(turn: Turn, body: IssueGrant) -> Verdict:
    issuer = turn.domain.id
    if not _owns_resources(turn, body.resources):
        return Deny(Reason.NOT_AUTHORIZED, f"{issuer}/{body.grant}")
    refusal = may_widen(turn) or is_new(turn.view.grant(issuer, body.grant))
    if refusal is not None:
        return refusal
    executor = turn.view.executor(body.executor)
    if executor is None:
        return Deny(Reason.UNKNOWN_EXECUTOR, body.executor)
    if executor.status is Status.REVOKED:
        return Deny(Reason.EXECUTOR_REVOKED, executor.id)
    grant = Grant(
        issuer=issuer,
        grant=body.grant,
        executor=executor.id,
        actions=body.actions,
        resources=body.resources,
        not_after=body.not_after,
        max_lease_ttl_ms=body.max_lease_ttl_ms,
        max_uses=body.max_uses,
        max_concurrent=body.max_concurrent,
        uses=0,
        status=Status.ACTIVE,
        changed=turn.seq,
        max_depth=body.max_depth,
        conditions=body.conditions,
    )
    if grant.expired(turn.ledger_time):
        return Deny(Reason.GRANT_EXPIRED, grant.id)
    if not _has_room(turn, executor):
        return Deny(Reason.LIMIT_EXCEEDED, grant.id)
    state.save_grant(turn.store, grant, turn.ledger_time)
    return Done.named(grant.id)


def govern_grant(turn: Turn, body: GovernGrant) -> Verdict:
    grant = turn.view.grant(turn.domain.id, body.grant)
    if grant is None:
        return Deny(Reason.NOT_FOUND, f"{turn.domain.id}/{body.grant}")
    status = _next_status(turn, grant, body.act)
    if isinstance(status, Deny):
        return status
    changed = replace(grant, status=status, changed=turn.seq)
    state.save_grant(turn.store, changed, turn.ledger_time)
    return Done.named(grant.id)


def freeze_resources(turn: Turn, body: FreezeResources) -> Verdict:
    domain = turn.domain
    if domain.frozen is not None:
        return Deny(Reason.ILLEGAL_TRANSITION, domain.id)
    frozen = Freeze(body.actions, turn.seq)
    state.save_domain(turn.store, replace(domain, frozen=frozen))
    return Done(domain.id, executed(turn.command.verb, domain.id, frozen))


def thaw_resources(turn: Turn, _body: ThawResources) -> Verdict:
    """What the federation has frozen stays so."""
    domain = turn.domain
    refusal = may_widen(turn)
    if refusal is not None:
        return refusal
    if domain.frozen is None:
        return Deny(Reason.ILLEGAL_TRANSITION, domain.id)
    state.save_domain(turn.store, replace(domain, frozen=None))
    return Done(domain.id, executed(turn.command.verb, domain.id, domain.frozen))


def executed(verb: str, thing: str, frozen: Freeze) -> dict[str, object]:
    """What the entry of a freeze or a thaw says of itself: also what was let through all along, so
    that whoever follows the ledger knows for which leases it changes nothing."""
    done = {"type": verb, "thing": thing, "actions": list(frozen.actions)}
    return {"id": thing, "executed": done}


def govern_domain(turn: Turn, body: GovernDomain) -> Verdict:
    domain = turn.domain
    if body.domain != domain.id:
        return Deny(Reason.NOT_AUTHORIZED, body.domain)
    status = follow(domain.status, body.act)
    if isinstance(status, Reason):
        return Deny(status, domain.id)
    # What another has suspended, only that other may reinstate.
    if body.act is Act.REINSTATE and domain.suspended_by != domain.id:
        return Deny(Reason.NOT_AUTHORIZED, domain.id)
    suspended_by = domain.id if status is Status.SUSPENDED else ""
    changed = replace(domain, status=status, suspended_by=suspended_by, changed=turn.seq)
    state.save_domain(turn.store, changed)
    return Done.named(domain.id)


def _owns_executor(turn: Turn, executor: str) -> bool:
    return SpiffeId.parse(executor).trust_domain == turn.domain.id


def _owns_resources(turn: Turn, resources: Iterable[str]) -> bool:
    return all(pattern_owner(pattern) == turn.domain.id for pattern in resources)


def may_widen(turn: Turn) -> Deny | None:
    """Whether the domain may do what widens; what narrows, it may always do."""
    return _inactive(turn.domain)


def _inactive(domain: Domain) -> Deny | None:
    if domain.status is Status.ACTIVE:
        return None
    revoked = domain.status is Status.REVOKED
    reason = Reason.DOMAIN_REVOKED if revoked else Reason.DOMAIN_SUSPENDED
    return Deny(reason, domain.id)


def is_new(existing: Node | Executor | TrustEdge | Grant | None) -> Deny | None:
    """Whether an id may be given to something new."""
    if existing is None:
        return None
    final = existing.status is Status.REVOKED
    return Deny(Reason.FINAL if final else Reason.ALREADY_EXISTS, existing.id)


def _next_status(turn: Turn, thing: Executor | TrustEdge | Grant, act: Act) -> Status | Deny:
    if act is Act.REINSTATE:
        refusal = may_widen(turn)
        if refusal is not None:
            return refusal
    status = follow(thing.status, act)
    return Deny(status, thing.id) if isinstance(status, Reason) else status


def _has_room(turn: Turn, executor: Executor) -> bool:
    """Whether one more grant keeps the limit. Those that expired meanwhile are filed away first;
    only when it matters, because it costs a look at each."""
    limit = MAX_GRANTS_PER_EXECUTOR_AND_ISSUER
    grants = list(islice(turn.view.grants_for(executor.id, turn.domain.id), limit))
    if len(grants) < limit:
        return True
    for grant in grants:
        state.save_grant(turn.store, grant, turn.ledger_time)
    return not _reached(turn.view.grants_for(executor.id, turn.domain.id), limit)


def _reached(items: Iterable[object], limit: int) -> bool:
    return sum(1 for _ in islice(items, limit)) >= limit
