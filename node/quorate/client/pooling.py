"""Leases that are kept between acts: which there are, which are used, and which are over.

Owns the bookkeeping of a pool, without any input or output. A lease costs an entry of the ledger;
an act under a lease that is held costs a comparison. So a program that does the same thing again
and again keeps the lease, and gives the one back that was idle for longest when there are many.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar

from quorate.client.clock import Clock
from quorate.client.decisions import ClientReason, Denied, Permit
from quorate.client.facts import NS_PER_MS, LeaseFacts
from quorate.client.lineage import current_lineage
from quorate.core.outcome import Reason

MOST_LEASES: Final = 256
"""In one pool; who needs more at once is denied."""
DENIAL_KEPT_MS: Final = 1_000
"""For so long a denied request for a lease is not repeated: each is an entry of the ledger."""

IS_OVER: Final = frozenset(
    {
        Reason.UNKNOWN_LEASE,
        Reason.NOT_LEASE_HOLDER,
        Reason.LEASE_EXPIRED,
        Reason.LEASE_RELEASED,
        Reason.GRANT_REVOKED,
        Reason.GRANT_EXPIRED,
        Reason.NO_TRUST,
        Reason.NO_GRANT,
        Reason.EXECUTOR_REVOKED,
        Reason.DOMAIN_REVOKED,
    }
)
"""A lease that is denied for one of these is not good again; another might be granted."""

LeaseT = TypeVar("LeaseT", bound=LeaseFacts)
LockT = TypeVar("LockT")


class Key(NamedTuple):
    """What a pooled lease is for."""

    action: str
    resource: str
    parents: tuple[str, ...] = ()
    context: tuple[tuple[str, str], ...] = ()


def key_of(action: str, resource: str, context: Mapping[str, str] | None) -> Key:
    """What the running work needs a lease for."""
    said = tuple(sorted((context or {}).items()))
    return Key(action, resource, current_lineage(), said)


@dataclass(eq=False, slots=True)
class Place(Generic[LeaseT, LockT]):
    """Where the pool has its lease for one key.

    lock: of whoever asks for the lease, or gives it back. users: acts that go on, or wait for it.
    news: why the held lease is denied. denied, denied_until_ns: the last request for a lease, when
    that was denied. request_id: of it, when its outcome is not known: it is repeated as the same.
    """

    key: Key
    lock: LockT
    lease: LeaseT | None = None
    users: int = 0
    news: Denied | None = None
    denied: Denied | None = None
    denied_until_ns: int = 0
    request_id: str = ""

    def told(self, news: Permit | Denied) -> None:
        self.news = news if isinstance(news, Denied) else None

    @property
    def is_over(self) -> bool:
        """Whether its lease will not be good again."""
        return self.news is not None and self.news.reason in IS_OVER


class Places(Generic[LeaseT, LockT]):
    """The places of one pool, the one that was used last at the end. Not safe for several threads:
    whoever has it locks."""

    def __init__(self, clock: Clock, most: int, new_lock: Callable[[], LockT]) -> None:
        assert most > 0
        self._clock = clock
        self._new_lock = new_lock
        self._most = most
        self._most_with_parents = -(-most // 2)
        self._places: OrderedDict[Key, Place[LeaseT, LockT]] = OrderedDict()

    def enter(self, key: Key) -> tuple[Place[LeaseT, LockT] | Denied, Place[LeaseT, LockT] | None]:
        """The place for this key, with one more user, or why there is none; and a place that had to
        make room, whose lease is to be given back."""
        place = self._places.get(key)
        idle = None
        if place is None:
            if (rivals := self._rivals(key)) is not None:
                idle = next((each for each in rivals if not each.users), None)
                if idle is None:
                    detail = f"{len(rivals)} leases are in use at once"
                    return Denied(ClientReason.POOL_FULL, key.resource, detail), None
                del self._places[idle.key]
            place = self._places[key] = Place(key, self._new_lock())
        place.users += 1
        self._places.move_to_end(key)
        return place, idle

    def _rivals(self, key: Key) -> list[Place[LeaseT, LockT]] | None:
        """The places of which one has to make room for this key; None: there is room. What parents
        there are is for callers to say: they get no more than half of it."""
        places = list(self._places.values())
        if key.parents:
            alike = [each for each in places if each.key.parents]
            if len(alike) >= self._most_with_parents:
                return alike
        return places if len(places) >= self._most else None

    def leave(self, place: Place[LeaseT, LockT]) -> None:
        place.users -= 1

    def denial(self, place: Place[LeaseT, LockT]) -> Denied | None:
        """The denial that is not asked for again yet."""
        if place.denied is not None and self._clock.boottime_ns() < place.denied_until_ns:
            return place.denied
        return None

    def refused(self, place: Place[LeaseT, LockT], denied: Denied) -> None:
        place.denied = denied
        place.request_id = denied.request_id if denied.unknown else ""
        place.denied_until_ns = self._clock.boottime_ns() + DENIAL_KEPT_MS * NS_PER_MS

    def clear(self) -> list[Place[LeaseT, LockT]]:
        """All places that there were."""
        places = list(self._places.values())
        self._places.clear()
        return places
