"""Leases that are kept between acts, for asyncio.

Owns the leases of one pool: acquired when they are first needed, held, given back when the pool is
closed or when others need the room.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Final, Self

from quorate.client.aio.gate import AsyncGate, Holding
from quorate.client.aio.leases import AsyncLease
from quorate.client.decisions import ClientReason, Denied, DeniedError
from quorate.client.pool import GIVE_BACK_MS
from quorate.client.pooling import MOST_LEASES, Place, Places, key_of

_CLOSED: Final = "the pool was closed"

_Place = Place[AsyncLease, asyncio.Lock]


class AsyncLeasePool:
    """One lease for each action, resource, lineage and context, for the tasks of one loop.

    ttl_ms: the wished life of each lease; 0: the longest that its grant allows. Leases are renewed.
    most: leases at once.
    """

    def __init__(self, gate: AsyncGate, *, ttl_ms: int = 0, most: int = MOST_LEASES) -> None:
        self._gate = gate
        self._ttl_ms = ttl_ms
        self._places: Places[AsyncLease, asyncio.Lock] = Places(gate.clock, most, asyncio.Lock)
        self._held: dict[_Place, Holding] = {}
        self._is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @asynccontextmanager
    async def lease(
        self, action: str, resource: str, context: Mapping[str, str] | None = None
    ) -> AsyncIterator[AsyncLease]:
        """The pool's lease for this, for the length of a block. It is no permit, and stops nothing:
        an act under it is `async with lease.hold():`, or `lease.act()`. Raises DeniedError when
        there is none. context: as for `LeasePool.lease`.

        A lease that is over is acquired anew, for another grant may be there. A denied request is
        not repeated for DENIAL_KEPT_MS.
        """
        if self._is_closed:
            raise DeniedError(Denied(ClientReason.CLOSED, resource, _CLOSED))
        place, idle = self._places.enter(key_of(action, resource, context))
        if isinstance(place, Denied):
            raise DeniedError(place)
        try:
            if idle is not None:
                await self._give_back(idle)
            async with place.lock:
                lease = await self._obtain(place)
            yield lease
        finally:
            self._places.leave(place)

    async def close(self) -> None:
        """Gives all leases back, as far as that takes no longer than GIVE_BACK_MS in all; what is
        left lapses. Nothing more begins under the pool."""
        self._is_closed = True
        with suppress(TimeoutError):
            async with asyncio.timeout(GIVE_BACK_MS / 1_000):
                await asyncio.gather(*(self._give_back(each) for each in self._places.clear()))

    async def _obtain(self, place: _Place) -> AsyncLease:
        if self._is_closed:
            raise DeniedError(Denied(ClientReason.CLOSED, place.key.resource, _CLOSED))
        if place.lease is not None and not place.is_over:
            return place.lease
        self._let_go(place)
        known = self._places.denial(place)
        if known is not None:
            raise DeniedError(known)
        lease = await self._gate.acquire(
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
        place.news = None
        try:
            holding = await self._gate.keep(lease, place.told)
        except BaseException as error:
            if isinstance(error, DeniedError):
                self._places.refused(place, error.denied)
            # A task that is cancelled gives its lease back like any other.
            await asyncio.shield(self._gate.release(lease, timeout_ms=GIVE_BACK_MS))
            raise
        place.lease = lease
        self._held[place] = holding
        if self._is_closed:  # while the lease was asked for
            self._let_go(place)
            await self._gate.release(lease, timeout_ms=GIVE_BACK_MS)
            raise DeniedError(Denied(ClientReason.CLOSED, place.key.resource, _CLOSED))
        return lease

    def _let_go(self, place: _Place) -> AsyncLease | None:
        """Holds what the place has no more."""
        lease, place.lease = place.lease, None
        holding = self._held.pop(place, None)
        if holding is not None:
            holding.close()
        return lease

    async def _give_back(self, place: _Place) -> None:
        """Nobody uses the place any more, or nobody is to."""
        async with place.lock:
            lease = self._let_go(place)
            if lease is not None:
                await self._gate.release(lease, timeout_ms=GIVE_BACK_MS)
