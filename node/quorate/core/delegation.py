"""Grants that an executor has passed on: the chain behind one, and what all of it rests on.

Owns how far a chain goes and whether it holds. A delegated grant is for no more than the one that
it was made of (`quorate.core.delegating`), and is worth nothing without it: every grant of the
chain, every executor that passed it on, their domains, and the trust that leads to those have to be
good.
A lease says all of them in its `depends_on`, so that what ends one of them ends the lease.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from quorate.core.conditions import first_unmet
from quorate.core.containment import executor_contained
from quorate.core.errors import StorageDamagedError
from quorate.core.limits import MAX_CONCURRENT_LEASES, MAX_DEPTH
from quorate.core.outcome import Deny, Reason
from quorate.core.patterns import covers
from quorate.core.records import Executor, Grant, Kind, Lease, TrustEdge
from quorate.core.routing import Routes, active_domain, split_id
from quorate.core.state import StateView
from quorate.core.status import Status

_EXECUTOR_REASONS: Final = {
    Status.SUSPENDED: Reason.EXECUTOR_SUSPENDED,
    Status.REVOKED: Reason.EXECUTOR_REVOKED,
}
_GRANT_REASONS: Final = {
    Status.SUSPENDED: Reason.GRANT_SUSPENDED,
    Status.REVOKED: Reason.GRANT_REVOKED,
}


@dataclass(frozen=True, slots=True)
class Backing:
    """What a delegated grant rests on beside itself. grants: those before it, the first one last.
    executors: who passed it on, in the same order. edges: by which trust leads to their domains."""

    grants: tuple[Grant, ...] = ()
    executors: tuple[Executor, ...] = ()
    edges: tuple[TrustEdge, ...] = ()

    @property
    def domains(self) -> tuple[str, ...]:
        homes = (executor.domain for executor in self.executors)
        return (*homes, *(edge.trustee for edge in self.edges))


NOTHING: Final = Backing()
"""Of a grant that its issuer has issued to the executor itself."""


def chain_of(view: StateView, grant: Grant) -> tuple[Grant, ...]:
    """The grants before this one, the nearest first. Raises StorageError."""
    chain: list[Grant] = []
    while grant.parent:
        grant = _parent(view, grant, len(chain))
        chain.append(grant)
    return tuple(chain)


class Backings:
    """What delegated grants rest on for one act, at one state and ledger time. However many grants
    are tried, each grant behind them, and the trust in each organisation, is looked at once.

    context: what the executor says of the act; it has to be what every grant of a chain asks for.
    """

    def __init__(
        self, view: StateView, routes: Routes, ledger_time: int, context: Sequence[str]
    ) -> None:
        self._view = view
        self._routes = routes
        self._ledger_time = ledger_time
        self._context = context
        self._known: dict[str, Backing | Deny] = {}

    def of(self, grant: Grant, links: int = 0) -> Backing | Deny:
        """What the grant rests on, or why that does not hold. Raises StorageError."""
        if not grant.parent:
            return NOTHING
        if grant.parent not in self._known:
            parent = _parent(self._view, grant, links)
            self._known[grant.parent] = self._through(parent, links + 1)
        return self._known[grant.parent]

    def _through(self, parent: Grant, links: int) -> Backing | Deny:
        """As it is for every grant that was made of `parent`."""
        failure = why_spent(self._view, parent, self._ledger_time)
        failure = failure or why_unmet(parent, self._context)
        if failure is not None:
            return failure
        executor = known_executor(self._view, parent.executor)
        if isinstance(executor, Deny):
            return executor
        home = active_domain(self._view, executor.domain)
        if isinstance(home, Deny):
            return home
        contained = executor_contained(self._view, executor.id)
        if contained is not None:
            return contained
        behind = self.of(parent, links)
        if isinstance(behind, Deny):
            return behind
        route = self._routes.find(parent.issuer, home.id) if home.id != parent.issuer else ()
        if not route and home.id != parent.issuer:
            return Deny(Reason.NO_TRUST, home.id)
        edges = {edge.id: edge for edge in (*route, *behind.edges)}
        return Backing(
            (parent, *behind.grants), (executor, *behind.executors), tuple(edges.values())
        )


def _parent(view: StateView, grant: Grant, links: int) -> Grant:
    parent = view.grant(*split_id(grant.parent))
    if parent is None or links >= MAX_DEPTH:
        raise StorageDamagedError(f"the grant {grant.id} comes from nowhere")
    return parent


def why_unbacked(view: StateView, lease: Lease) -> Deny | None:
    """Whether everything beyond the lease's own executor, route and grant is good: None, or why
    not. That none of it outlives the lease was settled when it was given. Raises StorageError."""
    for thing in lease.depends_on:
        kind, _, ident = thing.partition(":")
        failure: Deny | object = None
        match kind:
            case Kind.DOMAIN:
                failure = active_domain(view, ident)
            case Kind.EXECUTOR:
                failure = known_executor(view, ident)
            case Kind.TRUST:
                failure = _open_edge(view, ident, lease)
            case Kind.GRANT:
                failure = _active_grant(view, ident)
        if isinstance(failure, Deny):
            return failure
    return None


def known_executor(view: StateView, executor_id: str) -> Executor | Deny:
    """The executor, if it is active, whatever its domain is. Raises StorageError."""
    executor = view.executor(executor_id)
    if executor is None:
        return Deny(Reason.UNKNOWN_EXECUTOR, executor_id)
    if executor.status is not Status.ACTIVE:
        return Deny(_EXECUTOR_REASONS[executor.status], executor.id)
    return executor


def grant_ended(grant: Grant, ledger_time: int) -> Deny | None:
    """Whether a grant, by itself, permits nothing any more: None, or why."""
    if grant.status is not Status.ACTIVE:
        return Deny(_GRANT_REASONS[grant.status], grant.id)
    if grant.expired(ledger_time):
        return Deny(Reason.GRANT_EXPIRED, grant.id)
    return None


def why_spent(view: StateView, grant: Grant, ledger_time: int) -> Deny | None:
    """Whether a grant, by itself, gives no lease now: None, or why."""
    ended = grant_ended(grant, ledger_time)
    if ended is not None:
        return ended
    if grant.exhausted:
        return Deny(Reason.USES_EXHAUSTED, grant.id)
    most = grant.max_concurrent or MAX_CONCURRENT_LEASES
    if view.is_lease_limit_reached(grant, ledger_time, most):
        return Deny(Reason.CONCURRENCY_LIMIT, grant.id)
    return None


def why_unmet(grant: Grant, context: Sequence[str]) -> Deny | None:
    """Whether a context meets what a grant, by itself, asks of it: None, or the condition that it
    does not, as `<grant>/<name>`."""
    unmet = first_unmet(grant.conditions, context)
    return None if unmet is None else Deny(Reason.CONDITION_UNMET, f"{grant.id}/{unmet.name}")


def _active_grant(view: StateView, ident: str) -> Deny | None:
    grant = view.grant(*split_id(ident))
    return Deny(Reason.NO_GRANT, ident) if grant is None else grant_ended(grant, -1)


def _open_edge(view: StateView, ident: str, lease: Lease) -> Deny | None:
    edge = view.trust_edge(*split_id(ident))
    is_open = edge is not None and edge.status is Status.ACTIVE
    if edge is None or not is_open:
        return Deny(Reason.NO_TRUST, ident)
    is_covered = covers(edge.actions, edge.resources, lease.action, lease.resource)
    return None if is_covered else Deny(Reason.NO_TRUST, ident)
