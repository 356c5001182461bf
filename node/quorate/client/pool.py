"""Leases that are kept between acts, for threads.

Owns the leases of one pool: acquired when they are first needed, held, given back when the pool is
closed or when others need the room.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Final, Self

from quorate.client.decisions import ClientReason, Denied, DeniedError
from quorate.client.facts import NS_PER_MS
from quorate.client.gate import Gate
from quorate.client.leases import Lease
from quorate.client.pooling import MOST_LEASES, Place, Places, key_of

GIVE_BACK_MS: Final = 1_000
"""How long a lease that is given back is waited for; after that it lapses by itself."""
_CLOSED: Final = "the pool was closed"

_Place = Place[Lease, threading.Lock]


class LeasePool:
    """One lease for each action, resource, lineage and context. Safe to use from several threads.

    ttl_ms: the wished life of each lease; 0: the longest that its grant allows. Leases are renewed.
    most: leases at once.
    """

    def __init__(self, gate: Gate, *, ttl_ms: int = 0, most: int = MOST_LEASES) -> None:
        self._gate = gate
        self._ttl_ms = ttl_ms
        self._clock = gate.clock
        self._lock = threading.Lock()
        self._places: Places[Lease, threading.Lock] = Places(self._clock, most, threading.Lock)
        self._held: dict[_Place, ExitStack] = {}
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def lease(
        self, action: str, resource: str, context: Mapping[str, str] | None = None
    ) -> Iterator[Lease]:
        """The pool's lease for this, for the length of a block. It is no permit: an act under it is
        `with lease.act():`. Raises DeniedError when there is none. context: as for `Gate.acquire`;
        work of which something else is said has another lease.

        A lease that is over is acquired anew, for another grant may be there. A denied request is
        not repeated for DENIAL_KEPT_MS.
        """
        with self._lock:
            if self._is_closed:
                raise DeniedError(Denied(ClientReason.CLOSED, resource, _CLOSED))
            place, idle = self._places.enter(key_of(action, resource, context))
        if isinstance(place, Denied):
            raise DeniedError(place)
        try:
            if idle is not None:
                self._give_back(idle)
            with place.lock:
                lease = self._obtain(place)
            yield lease
        finally:
            with self._lock:
                self._places.leave(place)

    def close(self) -> None:
        """Gives all leases back, as far as that takes no longer than GIVE_BACK_MS in all; what is
        left lapses. Nothing more begins under the pool."""
        with self._lock:
            self._is_closed = True
            places = self._places.clear()
        # One after the other; what there is no time for lapses by itself.
        end_ns = self._clock.boottime_ns() + GIVE_BACK_MS * NS_PER_MS
        for place in places:
            left_ms = (end_ns - self._clock.boottime_ns()) // NS_PER_MS
            self._give_back(place, max(0, left_ms))

    def _obtain(self, place: _Place) -> Lease:
        if self._is_closed:
            raise DeniedError(Denied(ClientReason.CLOSED, place.key.resource, _CLOSED))
        if place.lease is not None and not place.is_over:
            return place.lease
        self._let_go(place)
        known = self._places.denial(place)
        if known is not None:
            raise DeniedError(known)
        lease = self._gate.acquire(
            place.key.action,
            place.key.resource,
            self._ttl_ms,
            request_id=place.request_id,
            parents=place.key.parents,
            context=dict(place.key.context),
        )
        place.request_id = ""
        if isinstance(lease, Denied):
            self._places.refused(place, lease)
            raise DeniedError(lease)
        hold, place.news = ExitStack(), None
        try:
            hold.enter_context(self._gate.hold(lease, place.told))
        except BaseException as error:
            if isinstance(error, DeniedError):
                self._places.refused(place, error.denied)
            self._gate.release(lease, timeout_ms=GIVE_BACK_MS)
            raise
        place.lease = lease
        self._held[place] = hold
        if self._is_closed:  # while the lease was asked for
            self._let_go(place)
            self._gate.release(lease, timeout_ms=GIVE_BACK_MS)
            raise DeniedError(Denied(ClientReason.CLOSED, place.key.resource, _CLOSED))
        return lease

    def _let_go(self, place: _Place) -> Lease | None:
        """Holds what the place has no more; its lock is taken."""
        lease, place.lease = place.lease, None
        hold = self._held.pop(place, None)
        if hold is not None:
            hold.close()
        return lease

    def _give_back(self, place: _Place, within_ms: int = GIVE_BACK_MS) -> None:
        """Nobody uses the place any more, or nobody is to."""
        if not place.lock.acquire(timeout=within_ms / 1_000):
            return  # its lease is being asked for: it lapses
        try:
            lease = self._let_go(place)
            if lease is not None:
                self._gate.release(lease, timeout_ms=within_ms)
        finally:
            place.lock.release()
