"""Which way trust leads from the domain that owns a resource to an executor's.

Owns the choice of a route and whether one still holds. A route is a chain of trust edges, each from
the domain that the one before leads to; all of them cover the act. One edge is enough. More are a
route if every edge but the last lets its trust be passed on by as many as follow it (`max_depth`,
as the path length constraint of RFC 5280, section 4.2.1.9), and every domain between is active: it
vouches for the next. Of several, the shortest is taken, then the first by the ids of its edges: the
same on every node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from quorate.core.limits import MAX_DEPTH, MAX_EDGES_PER_PAIR
from quorate.core.outcome import Deny, Reason
from quorate.core.patterns import covers
from quorate.core.records import Domain, Lease, TrustEdge
from quorate.core.state import StateView
from quorate.core.status import Status

_REASONS: Final = {
    Status.SUSPENDED: Reason.DOMAIN_SUSPENDED,
    Status.REVOKED: Reason.DOMAIN_REVOKED,
}

_Edges = tuple[TrustEdge, ...]


def active_domain(view: StateView, domain_id: str) -> Domain | Deny:
    """The domain, if it is active. Raises StorageError, as the others."""
    domain = view.domain(domain_id)
    if domain is None:
        return Deny(Reason.UNKNOWN_DOMAIN, domain_id)
    if domain.status is not Status.ACTIVE:
        return Deny(_REASONS[domain.status], domain.id)
    return domain


def find_route(view: StateView, owner: str, trustee: str, action: str, resource: str) -> _Edges:
    """The edges that lead from `owner` to `trustee`, another domain, for this act; or none.

    Looks at the edges between any two domains once, and at those from the one to the other first.
    """

    def between(truster: str, to: str) -> Iterator[TrustEdge]:
        tried = tried_edges(view, truster, to, action, resource)
        return (edge for edge, failure in tried if failure is None)

    direct = next(between(owner, trustee), None)
    return (direct,) if direct is not None else _find_longer(view, owner, trustee, between)


def tried_edges(
    view: StateView, truster: str, trustee: str, action: str, resource: str
) -> Iterator[tuple[TrustEdge, Deny | None]]:
    """Each open edge from the one to the other, in the order in which they are tried, and why it
    does not do."""
    for edge in islice(view.trust_between(truster, trustee), MAX_EDGES_PER_PAIR):
        does = _lets(edge, action, resource)
        yield edge, None if does else Deny(Reason.NO_TRUST, edge.id)


def _find_longer(
    view: StateView,
    owner: str,
    trustee: str,
    between: Callable[[str, str], Iterator[TrustEdge]],
) -> _Edges:
    """From the end: who comes to the trustee with one edge, with two, and so on. How many follow an
    edge is all that its depth is compared with, so that the way that led to it does not matter."""
    active = [domain.id for domain in view.domains() if domain.status is Status.ACTIVE]
    edges: dict[tuple[str, str], _Edges] = {}

    def onward(truster: str, following: int, ends: set[str]) -> list[TrustEdge]:
        found: list[TrustEdge] = []
        for end in sorted(ends - {truster}):
            if (truster, end) not in edges:
                edges[truster, end] = tuple(between(truster, end))
            found += [edge for edge in edges[truster, end] if edge.max_depth >= following]
        return found

    layers: list[set[str]] = [{trustee}]
    for following in range(MAX_DEPTH + 1):
        reached = {each for each in active if onward(each, following, layers[-1])}
        if owner in reached:
            break
        layers.append(reached)
    else:
        return ()
    route: list[TrustEdge] = []
    for following in range(len(layers) - 1, -1, -1):
        at = route[-1].trustee if route else owner
        route.append(min(onward(at, following, layers[following]), key=lambda edge: edge.id))
    return tuple(route)


def why_broken(view: StateView, lease: Lease, owner: str, trustee: str) -> Deny | None:
    """Whether the lease's own route still leads from `owner` to `trustee`: None, or why not."""
    at = owner
    for place, ident in enumerate(lease.edges, 1):
        following = len(lease.edges) - place
        edge = view.trust_edge(*split_id(ident))
        if edge is None or edge.truster != at or edge.max_depth < following:
            return Deny(Reason.NO_TRUST, ident)
        if edge.status is not Status.ACTIVE or not _lets(edge, lease.action, lease.resource):
            return Deny(Reason.NO_TRUST, ident)
        at = edge.trustee
        between = active_domain(view, at) if following else None
        if isinstance(between, Deny):
            return between
    return None if at == trustee else Deny(Reason.NO_TRUST, lease.trust_edge or owner)


def split_id(record_id: str) -> tuple[str, str]:
    """The domain and the name of an edge's or a grant's id."""
    domain, _, name = record_id.partition("/")
    return domain, name


def _lets(edge: TrustEdge, action: str, resource: str) -> bool:
    return edge.status is Status.ACTIVE and covers(edge.actions, edge.resources, action, resource)
