"""The commands of nodes, for their executors: acquiring, renewing and releasing leases.

Owns what they change. Whether a lease is due is decided by `quorate.core.decision`, at the very
state that the lease is written to: a revocation that commits first wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from quorate.core import ids, protocol, state
from quorate.core.bodies import AcquireLease, ReleaseLease, RenewLease
from quorate.core.containment import Ancestry, ancestry_of
from quorate.core.decision import DecisionRequest, choose_route, held_lease, review
from quorate.core.entries import POLICY_VERSION
from quorate.core.limits import LEASES_DROPPED_PER_ACQUIRE, MAX_LEASE_TTL_MS
from quorate.core.outcome import Deny, Reason
from quorate.core.records import Grant, Lease, LeaseStatus
from quorate.core.state import StateView
from quorate.core.turn import Done, Turn, Verdict


def acquire_lease(turn: Turn, body: AcquireLease) -> Verdict:
    if not _is_own(turn, body.executor):
        return Deny(Reason.NOT_AUTHORIZED, body.executor)
    request = DecisionRequest(body.executor, body.action, body.resource, body.context)
    route = choose_route(turn.view, request, turn.ledger_time)
    if isinstance(route, Deny):
        return route
    broken = broken_parent(turn.view, body.parents, turn.ledger_time)
    if broken is not None:
        return broken
    ancestry = _ancestry(turn, body.parents)
    if isinstance(ancestry, Deny):
        return ancestry
    lease = Lease(
        lease=ids.lease_id(turn.command.origin, turn.command.command_id),
        executor=body.executor,
        action=body.action,
        resource=body.resource,
        grant=route.grant.id,
        trust_edge=route.edges[0].id if route.edges else "",
        fence=turn.view.federation().fence_base + turn.seq,
        acquired_at=turn.ledger_time,
        expires_at=_expiry(turn, route.grant, body.ttl_ms),
        status=LeaseStatus.ACTIVE,
        depends_on=route.depends_on,
        policy_version=POLICY_VERSION,
        changed=turn.seq,
        parents=body.parents,
        passed_on=tuple(edge.id for edge in route.edges[1:]),
        ancestors=ancestry.leases,
        ancestor_executors=ancestry.executors,
        context=body.context,
    )
    before = turn.view.lease(lease.id)
    if before is not None:
        # Its command was executed so long ago that the ledger forgot its nonce.
        same = _asked(before) == _asked(lease)
        in_force = before.status is LeaseStatus.ACTIVE and not before.expired(turn.ledger_time)
        if same and in_force:
            return Done(before.id, before.to_json())
        return Deny(Reason.ALREADY_EXISTS, lease.id)
    for grant in (route.grant, *route.backing.grants):
        used = replace(grant, uses=grant.uses + 1)
        state.save_grant(turn.store, used, turn.ledger_time)
        state.drop_expired_leases(turn.store, used, turn.ledger_time, LEASES_DROPPED_PER_ACQUIRE)
    state.save_lease(turn.store, lease, None)
    return Done(lease.id, lease.to_json())


def renew_lease(turn: Turn, body: RenewLease) -> Verdict:
    lease = _own_lease(turn, body.lease, body.executor)
    if isinstance(lease, Deny):
        return lease
    refusal = review(turn.view, lease, turn.ledger_time)
    if refusal is not None:
        return refusal
    issuer, _, name = lease.grant.partition("/")
    grant = turn.view.grant(issuer, name)
    assert grant is not None, "review denies a lease without a grant"
    renewed = replace(lease, expires_at=_expiry(turn, grant, body.ttl_ms), changed=turn.seq)
    state.save_lease(turn.store, renewed, lease)
    return Done(lease.id, renewed.to_json())


def release_lease(turn: Turn, body: ReleaseLease) -> Verdict:
    """Whoever holds a lease may give it back, whatever became of the things it relied on."""
    lease = _own_lease(turn, body.lease, body.executor)
    if isinstance(lease, Deny):
        return lease
    if lease.status is not LeaseStatus.ACTIVE:
        return Deny(Reason.LEASE_RELEASED, lease.id)
    if lease.expired(turn.ledger_time):
        return Deny(Reason.LEASE_EXPIRED, lease.id)
    released = replace(lease, status=LeaseStatus.RELEASED, changed=turn.seq)
    state.save_lease(turn.store, released, lease)
    return Done(lease.id, released.to_json())


def broken_parent(view: StateView, parents: Sequence[str], ledger_time: int) -> Deny | None:
    """Work comes from work that is under way: each parent holds now. It need not go on to; but what
    is contained stops what came from it, too, and is told as that. Raises StorageError."""
    for parent in parents:
        failure = parent_failure(view, parent, ledger_time)[1]
        if failure is not None:
            return broken_by(parent, failure)
    return None


def broken_by(parent: str, failure: Deny) -> Deny:
    """What a parent that does not hold means for work that is said to come from it."""
    is_contained = failure.reason is Reason.CONTAINED
    return failure if is_contained else Deny(Reason.BROKEN_LINEAGE, parent)


def parent_failure(
    view: StateView, parent: str, ledger_time: int
) -> tuple[Lease | None, Deny | None]:
    """A lease that work is said to come from, and why it does not hold. Raises StorageError."""
    lease = view.lease(parent)
    if lease is None:
        return None, Deny(Reason.UNKNOWN_LEASE, parent)
    return lease, review(view, lease, ledger_time)


def _ancestry(turn: Turn, parents: Sequence[str]) -> Ancestry | Deny:
    """What a new lease says that it came from. The first version says its parents alone."""
    if turn.view.federation_record().protocol < protocol.SECOND:
        return Ancestry((), ())
    return ancestry_of(turn.view.lease, parents)


def _asked(lease: Lease) -> tuple[object, ...]:
    """What of a lease its executor has asked for."""
    return lease.executor, lease.action, lease.resource, lease.parents, lease.context


def _is_own(turn: Turn, executor: str) -> bool:
    """Whether the executor belongs to the domain of the node that asks for it."""
    return ids.SpiffeId.parse(executor).trust_domain == turn.domain.id


def _own_lease(turn: Turn, lease_id: str, executor: str) -> Lease | Deny:
    if not _is_own(turn, executor):
        return Deny(Reason.NOT_AUTHORIZED, executor)
    return held_lease(turn.view, lease_id, executor)


def _expiry(turn: Turn, grant: Grant, wished_ttl_ms: int) -> int:
    """Later than now: the grant has not ended."""
    return expiry(turn.ledger_time, grant, wished_ttl_ms)


def expiry(ledger_time: int, grant: Grant, wished_ttl_ms: int) -> int:
    """Ledger time at which a lease under `grant` ends that is given, or renewed, at `ledger_time`.
    wished_ttl_ms: 0: as long as the grant allows."""
    longest = min(grant.max_lease_ttl_ms, MAX_LEASE_TTL_MS)
    ttl_ms = min(wished_ttl_ms or longest, longest)
    return min(ledger_time + ttl_ms, grant.not_after)
