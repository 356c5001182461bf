"""What is contained: an executor or a lease, and with it whatever came from it, of any domain.

Owns what a lease came from (its ancestry), and the look at whether something of that is contained.
Nothing is enumerated downwards: a lease says all its ancestors, and the executors that they rest
on, so that one record stops all that is below it, at once. Who contains and ends that is
`quorate.core.containing`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from quorate.core import protocol
from quorate.core.errors import StorageDamagedError
from quorate.core.ids import SpiffeId, resource_owner
from quorate.core.limits import MAX_ANCESTOR_EXECUTORS, MAX_ANCESTORS
from quorate.core.outcome import Deny, Reason
from quorate.core.records import Lease
from quorate.core.state import StateView


@dataclass(frozen=True, slots=True)
class Ancestry:
    """leases: all that work came from, all the way back. executors: those that they rest on: their
    own, and whoever passed on what they are uses of. Both ascend."""

    leases: tuple[str, ...]
    executors: tuple[str, ...]


def ancestry_of(find: Callable[[str], Lease | None], parents: Sequence[str]) -> Ancestry | Deny:
    """What work comes from that comes from these leases; or that it is too much, with the first of
    them that makes it so. Looks at no more than MAX_ANCESTORS + 1 leases.

    find: a lease by its id. Raises StorageDamagedError for one that is not there, and what `find`
    raises.
    """
    leases: set[str] = set()
    executors: set[str] = set()
    for parent in parents:
        left = [parent]
        while left:
            ident = left.pop()
            if ident in leases:
                continue
            lease = find(ident)
            if lease is None:
                raise StorageDamagedError(f"a lease came from {ident}, which is not there")
            leases.update((ident, *lease.ancestors))
            executors.update((*lease.executors, *lease.ancestor_executors))
            if not lease.is_listed:
                left += lease.parents
            if len(leases) > MAX_ANCESTORS or len(executors) > MAX_ANCESTOR_EXECUTORS:
                return Deny(Reason.LIMIT_EXCEEDED, parent)
    return Ancestry(tuple(sorted(leases)), tuple(sorted(executors)))


def listed(view: StateView, lease: Lease) -> Lease:
    """The lease with all that it came from, also one of version 1, which did not say it; as it is
    when that is too much, and then it is denied. Raises StorageError."""
    if lease.is_listed:
        return lease
    found = ancestry_of(view.lease, lease.parents)
    if isinstance(found, Deny):
        return lease
    return replace(lease, ancestors=found.leases, ancestor_executors=found.executors)


def why_contained(view: StateView, lease: Lease) -> Deny | None:
    """Whether the lease, or something that it came from or rests on, is contained: None, or what.
    Raises StorageError."""
    if not lease.is_listed and view.federation_record().protocol >= protocol.SECOND:
        lease = listed(view, lease)
        if not lease.is_listed:
            return Deny(Reason.BROKEN_LINEAGE, lease.id)
    if not view.containment_count():
        return None
    for thing in containable(lease):
        if view.containment(thing) is not None:
            return Deny(Reason.CONTAINED, thing)
    return None


def executor_contained(view: StateView, executor: str) -> Deny | None:
    """Whether an executor itself is contained. Raises StorageError."""
    if view.containment_count() and view.containment(executor) is not None:
        return Deny(Reason.CONTAINED, executor)
    return None


def containable(lease: Lease) -> Iterator[str]:
    """What contains a lease when it is contained itself, what is nearest first. For one that says
    what it came from (`listed`)."""
    yield lease.id
    yield from lease.executors
    yield from lease.ancestors
    yield from lease.ancestor_executors


def containers(thing: str, lease: Lease | None) -> frozenset[str]:
    """The domains that may contain it. lease: that of this id; None: it is an executor."""
    if lease is None:
        return frozenset({SpiffeId.parse(thing).trust_domain})
    home = SpiffeId.parse(lease.executor).trust_domain
    return frozenset({home, resource_owner(lease.resource)})
