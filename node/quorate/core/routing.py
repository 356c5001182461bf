"""Which way trust leads from the domain that owns a resource to an executor's.

Owns the choice of a route and whether one still holds. A route is a chain of trust edges, each from
the domain that the one before leads to; all of them cover the act. One edge is enough. More are a
route if every edge but the last lets its trust be passed on by as many as follow it (`max_depth`,
as the path length constraint of RFC 5280, section 4.2.1.9), and every domain between is active: it
vouches for the next. Of several, the shortest is taken, then the first by the ids of its edges: the
same on every node.
"""

from __future__ import annotations

from collections.abc import Iterator
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


class Routes:
    """The ways of trust for one act, at one state. Whatever is asked for, the edges between any two
    domains are looked at once."""

    def __init__(self, view: StateView, action: str, resource: str) -> None:
        self._view = view
        self._act = action, resource
        self._active: list[str] | None = None
        self._edges: dict[tuple[str, str], _Edges] = {}
        self._deepest: dict[tuple[str, str], int] = {}
        self._found: dict[tuple[str, str], _Edges] = {}

    def find(self, owner: str, trustee: str) -> _Edges:
        """The edges that lead from `owner` to `trustee`, another domain; or none. Those from the
        one to the other are looked at first."""
        if (owner, trustee) not in self._found:
            direct = next(self._letting(owner, trustee), None)
            found = (direct,) if direct is not None else self._find_longer(owner, trustee)
            self._found[owner, trustee] = found
        return self._found[owner, trustee]

    def tried(self, truster: str, trustee: str) -> Iterator[tuple[TrustEdge, Deny | None]]:
        """Each open edge from the one to the other, in the order in which they are tried, and why
        it does not do."""
        for edge in islice(self._view.trust_between(truster, trustee), MAX_EDGES_PER_PAIR):
            yield edge, None if _lets(edge, *self._act) else Deny(Reason.NO_TRUST, edge.id)

    def _letting(self, truster: str, trustee: str) -> Iterator[TrustEdge]:
        return (edge for edge, failure in self.tried(truster, trustee) if failure is None)

    def _find_longer(self, owner: str, trustee: str) -> _Edges:
        """From the end: who comes to the trustee with one edge, with two, and so on. How many
        follow an edge is all that its depth is compared with, so that the way that led to it does
        not matter."""
        layers: list[set[str]] = [{trustee}]
        for following in range(MAX_DEPTH + 1):
            reached = {each for each in self._domains() if self._leads(each, following, layers[-1])}
            if owner in reached:
                break
            if reached <= layers[-1]:  # whoever comes to them later comes there now
                return ()
            layers.append(reached)
        else:
            return ()
        route: list[TrustEdge] = []
        for following in range(len(layers) - 1, -1, -1):
            at = route[-1].trustee if route else owner
            onward = [
                edge
                for end in layers[following] - {at}
                for edge in self._edges_to(at, end)
                if edge.max_depth >= following
            ]
            route.append(min(onward, key=lambda edge: edge.id))
        return tuple(route)

    def _leads(self, truster: str, following: int, ends: set[str]) -> bool:
        """Whether an edge leads from there to one of the ends, and lets so many follow it."""
        return any(
            self._edges_to(truster, end) and self._deepest[truster, end] >= following
            for end in ends
            if end != truster
        )

    def _edges_to(self, truster: str, end: str) -> _Edges:
        if (truster, end) not in self._edges:
            edges = tuple(self._letting(truster, end))
            self._edges[truster, end] = edges
            self._deepest[truster, end] = max((edge.max_depth for edge in edges), default=0)
        return self._edges[truster, end]

    def _domains(self) -> list[str]:
        if self._active is None:
            domains = self._view.domains()
            self._active = [each.id for each in domains if each.status is Status.ACTIVE]
        return self._active


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
