"""Deciding: may this executor do this to that resource?

Owns the order of the questions (docs/reasons.md explains each answer) and nothing else: it changes
nothing, and reads no clock. Each question is a function of its own, so that
`quorate.core.explaining` asks the very same. The first failure ends it. The cost does not grow with
the ledger: at most MAX_EDGES_PER_PAIR edges between any two domains, and
MAX_GRANTS_PER_EXECUTOR_AND_ISSUER grants are looked at.

`decide` and `check_lease` never raise: a state that cannot be understood permits nothing. What
`apply` uses is `choose_route` and `review`, which let StorageError pass: a node whose state is
damaged must stop, and not record a decision that the others do not make.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from quorate.core import ids
from quorate.core.attestation import why_unattested
from quorate.core.cedar import Subject
from quorate.core.containment import executor_contained, why_contained
from quorate.core.delegation import (
    NOTHING,
    Backing,
    Backings,
    grant_ended,
    known_executor,
    why_spent,
    why_unbacked,
    why_unmet,
)
from quorate.core.errors import MalformedError, StorageError
from quorate.core.limits import (
    MAX_GRANTS_PER_EXECUTOR_AND_ISSUER,
)
from quorate.core.outcome import Decision, Deny, Lapse, Permit, Reason
from quorate.core.patterns import covers
from quorate.core.policies import Deciders, subject_of, why_forbidden
from quorate.core.records import (
    Domain,
    Executor,
    Federation,
    Grant,
    Kind,
    Lease,
    LeaseStatus,
    TrustEdge,
)
from quorate.core.routing import Routes, active_domain, split_id, why_broken
from quorate.core.state import StateView

_NEAREST_FIRST: Final = (
    Reason.CONDITION_UNMET,
    Reason.CONCURRENCY_LIMIT,
    Reason.USES_EXHAUSTED,
    Reason.GRANT_EXPIRED,
    Reason.GRANT_SUSPENDED,
    Reason.GRANT_REVOKED,
    Reason.NO_TRUST,
    Reason.CONTAINED,
    Reason.EXECUTOR_SUSPENDED,
    Reason.DOMAIN_SUSPENDED,
    Reason.EXECUTOR_REVOKED,
    Reason.DOMAIN_REVOKED,
)
"""Of several grants that cover a request and fail, the one that failed last is what to tell of: it
is the nearest to a permit, and the most likely to be what the asker means."""


@dataclass(frozen=True, slots=True)
class DecisionRequest:
    executor: str
    action: str
    resource: str
    context: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Route:
    """What a permit rests on. edges: how trust leads to the executor's domain; none within one.
    backing: what the grant rests on, if it was passed on."""

    executor: Executor
    owner: str
    edges: tuple[TrustEdge, ...]
    grant: Grant
    backing: Backing = NOTHING

    @property
    def depends_on(self) -> tuple[str, ...]:
        """`<kind>:<id>` of everything that must stay active."""
        behind = self.backing
        things: tuple[Executor | TrustEdge | Grant, ...] = (self.executor, *self.edges, self.grant)
        things += (*behind.executors, *behind.edges, *behind.grants)
        between = (edge.trustee for edge in self.edges)
        domains = (self.executor.domain, self.owner, *between, *behind.domains)
        named = [f"{Kind.DOMAIN}:{domain}" for domain in domains]
        named += [f"{thing.kind}:{thing.id}" for thing in things]
        return tuple(dict.fromkeys(named))


def decide(view: StateView, request: DecisionRequest, ledger_time: int) -> Decision:
    """Whether the act would be permitted as a new lease, at this state and ledger time (ms)."""
    try:
        route = choose_route(view, request, ledger_time)
    except StorageError:
        return Deny(Reason.INTERNAL)
    return route if isinstance(route, Deny) else Permit(route.depends_on)


def check_lease(  # noqa: PLR0917  # who, on what, when: in the order of a check request
    view: StateView,
    lease_id: str,
    executor: str,
    action: str,
    resource: str,
    ledger_time: int,
) -> tuple[Decision, Lease | None]:
    """Whether `executor` may act on its lease at this ledger time (ms).

    action, resource: when not empty, they must be the lease's own. The lease comes with the
    decision whenever it exists and is the asker's.
    """
    try:
        lease = held_lease(view, lease_id, executor)
        if isinstance(lease, Deny):
            return lease, None
        other = other_act(lease, action, resource)
        if other is not None:
            return other, lease
        found = reviewed(view, lease, ledger_time)
        if isinstance(found, Deny):
            return found, lease
        return Permit(lease.depends_on, found), lease
    except StorageError:
        return Deny(Reason.INTERNAL), None


def choose_route(view: StateView, request: DecisionRequest, ledger_time: int) -> Route | Deny:
    """The route that a new lease takes: the first by id that permits, the same on every node.

    Raises StorageError.
    """
    actor = active_actor(view, request.executor, ledger_time)
    if isinstance(actor, Deny):
        return actor
    executor, home = actor.executor, actor.home
    refusal = executor_contained(view, executor.id)
    if refusal is not None:
        return refusal
    owner = active_owner(view, request.resource)
    if isinstance(owner, Deny):
        return owner
    federation = view.federation_record()
    refusal = frozen(federation, owner, request.action) or odd_action(request.action)
    if refusal is not None:
        return refusal
    routes = Routes(view, request.action, request.resource)
    edges: tuple[TrustEdge, ...] = ()
    if owner.domain != executor.domain:
        edges = routes.find(owner.domain, executor.domain)
        if not edges:
            return Deny(Reason.NO_TRUST, owner.domain)
    backings = Backings(view, routes, ledger_time, request.context)
    grant = _find_grant(view, request, owner.domain, ledger_time, backings)
    if isinstance(grant, Deny):
        return grant
    behind = backings.of(grant)
    assert not isinstance(behind, Deny), "such a grant is passed over"
    route = Route(executor, owner.domain, edges, grant, behind)
    deciders = Deciders(federation, owner, home)
    return why_forbidden(view, deciders, lambda: subject_of_route(route, request)) or route


def subject_of_route(route: Route, request: DecisionRequest) -> Subject:
    """What policies are asked about a lease that there may be."""
    return Subject(
        executor=request.executor,
        action=request.action,
        resource=request.resource,
        grant=route.grant.id,
        home=route.executor.domain,
        owner=route.owner,
        delegations=len(route.backing.grants),
        hops=len(route.edges),
        context=request.context,
    )


def held_lease(view: StateView, lease_id: str, executor: str) -> Lease | Deny:
    """The lease, if it is the executor's. Raises StorageError."""
    lease = view.lease(lease_id)
    if lease is None:
        return Deny(Reason.UNKNOWN_LEASE, lease_id)
    if lease.executor != executor:
        return Deny(Reason.NOT_LEASE_HOLDER, lease_id)
    return lease


def other_act(lease: Lease, action: str, resource: str) -> Deny | None:
    """Whether a check is of another act than the lease's; empty: of the lease's own."""
    if action not in ("", lease.action) or resource not in ("", lease.resource):
        return Deny(Reason.LEASE_SCOPE, lease.id)
    return None


def review(view: StateView, lease: Lease, ledger_time: int) -> Deny | None:
    """Whether a lease still holds: None, or why not. Raises StorageError.

    The same questions as for a new lease, on the lease's own route and grant: another that would do
    as well does not save it, because what was revoked was what it relies on. How often the grant
    was used is no longer a question: this lease is one of those uses. Nor are its conditions: they
    do not change, and the lease's context does not.
    """
    found = reviewed(view, lease, ledger_time)
    return found if isinstance(found, Deny) else None


def reviewed(view: StateView, lease: Lease, ledger_time: int) -> Deny | Lapse | None:
    """As `review`; and if it holds, when what its executor has proved will count no more."""
    over = lease_over(lease, ledger_time)
    if over is not None:
        return over
    actor = active_actor(view, lease.executor, ledger_time)
    if isinstance(actor, Deny):
        return actor
    executor, home = actor.executor, actor.home
    contained = why_contained(view, lease)
    if contained is not None:
        return contained
    owner = active_owner(view, lease.resource)
    if isinstance(owner, Deny):
        return owner
    federation = view.federation_record()
    broken = frozen(federation, owner, lease.action)
    broken = broken or why_broken(view, lease, owner.domain, executor.domain)
    if broken is not None:
        return broken
    grant = grant_of_lease(view, lease, owner.domain, ledger_time)
    if isinstance(grant, Deny):
        return grant
    unbacked = why_unbacked(view, lease) if grant.parent else None
    if unbacked is not None:
        return unbacked
    deciders = Deciders(federation, owner, home)
    return why_forbidden(view, deciders, lambda: subject_of(lease)) or actor.lapse


def lease_over(lease: Lease, ledger_time: int) -> Deny | None:
    """Whether a lease has ended by itself: None, or how."""
    if lease.status is not LeaseStatus.ACTIVE:
        return Deny(Reason.LEASE_RELEASED, lease.id)
    if lease.expired(ledger_time):
        return Deny(Reason.LEASE_EXPIRED, lease.id)
    return None


@dataclass(frozen=True, slots=True)
class Actor:
    """An executor that may act, with its domain. lapse: when what it has proved counts no more."""

    executor: Executor
    home: Domain
    lapse: Lapse | None


def active_executor(view: StateView, executor_id: str, ledger_time: int) -> Executor | Deny:
    """The executor, if it and its domain are active, and it has proved what it has to."""
    actor = active_actor(view, executor_id, ledger_time)
    return actor if isinstance(actor, Deny) else actor.executor


def active_actor(view: StateView, executor_id: str, ledger_time: int) -> Actor | Deny:
    """The same, with what else is known of it."""
    executor = known_executor(view, executor_id)
    if isinstance(executor, Deny):
        return executor
    domain = active_domain(view, executor.domain)
    if isinstance(domain, Deny):
        return domain
    found = why_unattested(view, executor, domain, ledger_time)
    return found if isinstance(found, Deny) else Actor(executor, domain, found)


def active_owner(view: StateView, resource: str) -> Domain | Deny:
    """The domain that owns the resource, if it is active."""
    try:
        owner = ids.resource_owner(resource)
    except MalformedError:
        return Deny(Reason.UNKNOWN_DOMAIN, resource)
    return active_domain(view, owner)


def frozen(federation: Federation, owner: Domain, action: str) -> Deny | None:
    """Whether the federation, or the owner, has frozen this action on the owner's resources.
    Neither speaks for the other: both must let it through."""
    for item in (federation, owner):
        if item.frozen is not None and not item.frozen.lets(action):
            return Deny(Reason.FROZEN, item.id)
    return None


def odd_action(action: str) -> Deny | None:
    """The pattern * means any action; it is none itself."""
    try:
        ids.check_action(action)
    except MalformedError:
        return Deny(Reason.NO_GRANT, action)
    return None


def tried_grants(
    view: StateView, request: DecisionRequest, issuer: str, ledger_time: int, backings: Backings
) -> Iterator[tuple[Grant, Deny | None]]:
    """Each grant, in the order in which they are tried, and why it does not do: NO_GRANT when it is
    for something else. The first that does is taken. What others have passed on comes after what
    the issuer has issued, the oldest first: nobody is made to act on another's grant who has one of
    its own, or on a later one."""
    passed_on: list[Grant] = []
    for spent in (False, True):
        grants = view.grants_for(request.executor, issuer, spent=spent)
        later: list[Grant] = []
        for grant in islice(grants, MAX_GRANTS_PER_EXECUTOR_AND_ISSUER):
            if grant.parent:
                later.append(grant)
            else:
                yield grant, _why_useless(view, request, grant, ledger_time)
        passed_on += sorted(later, key=lambda grant: (grant.made, grant.id))
    for grant in passed_on:
        failure = _why_useless(view, request, grant, ledger_time)
        behind = NOTHING if failure is not None else backings.of(grant)
        yield grant, behind if isinstance(behind, Deny) else failure


def nearest(failures: Iterable[Deny], issuer: str) -> Deny:
    """What to tell of the grants that do not do."""
    of_this_act = [each for each in failures if each.reason is not Reason.NO_GRANT]
    if not of_this_act:
        return Deny(Reason.NO_GRANT, issuer)
    return min(of_this_act, key=lambda failure: _NEAREST_FIRST.index(failure.reason))


def grant_of_lease(view: StateView, lease: Lease, issuer: str, ledger_time: int) -> Grant | Deny:
    """The grant that the lease is one use of, if it still covers it."""
    grant = view.grant(*split_id(lease.grant))
    if grant is None or grant.executor != lease.executor or grant.issuer != issuer:
        return Deny(Reason.NO_GRANT, lease.grant)
    if not covers(grant.actions, grant.resources, lease.action, lease.resource):
        return Deny(Reason.NO_GRANT, grant.id)
    return grant_ended(grant, ledger_time) or grant


def _find_grant(
    view: StateView, request: DecisionRequest, issuer: str, ledger_time: int, backings: Backings
) -> Grant | Deny:
    failures: list[Deny] = []
    for grant, failure in tried_grants(view, request, issuer, ledger_time, backings):
        if failure is None:
            return grant
        failures.append(failure)
    return nearest(failures, issuer)


def _why_useless(
    view: StateView, request: DecisionRequest, grant: Grant, ledger_time: int
) -> Deny | None:
    """Why a grant, by itself, gives no lease for this now."""
    if not covers(grant.actions, grant.resources, request.action, request.resource):
        return Deny(Reason.NO_GRANT, grant.id)
    return why_spent(view, grant, ledger_time) or why_unmet(grant, request.context)
