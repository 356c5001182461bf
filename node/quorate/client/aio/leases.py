"""A lease as its holder has it, for asyncio.

Owns the handle. Asks nothing itself: what its slot does not answer goes to the gate that made it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Protocol

from quorate.client.decisions import Denied, DeniedError, Permit, Released, Reported
from quorate.client.facts import LeaseFacts
from quorate.client.slot import PermitSlot
from quorate.client.telling import Story

_NONE: Final[Mapping[str, str]] = MappingProxyType({})


class AsyncLeaseKeeper(Protocol):
    """What a lease needs of its gate."""

    async def ask(
        self, lease: AsyncLease, *, is_handed: bool, minimum_index: int = ...
    ) -> Permit | Denied: ...

    def hold(
        self, lease: AsyncLease, *, renew: bool = True
    ) -> AbstractAsyncContextManager[None]: ...

    async def event(
        self, lease: AsyncLease, kind: str, attributes: Mapping[str, str] = ...
    ) -> Reported | Denied: ...

    async def renew(self, lease: AsyncLease, ttl_ms: int = 0) -> AsyncLease | Denied: ...

    async def release(self, lease: AsyncLease) -> Released | Denied: ...


@dataclass(frozen=True, slots=True)
class AsyncLease(LeaseFacts):
    """The right to ask for permits for one action on one resource. It is no permit itself."""

    keeper: AsyncLeaseKeeper = field(repr=False, compare=False)
    slot: PermitSlot = field(repr=False, compare=False)
    story: Story[asyncio.Lock] = field(repr=False, compare=False)

    def cached(self) -> Permit | None:
        """A permit that is good at this moment, without asking; None: ask. While the lease is held
        there nearly always is one."""
        return self.slot.cached()

    async def check(self, *, minimum_index: int | None = None) -> Permit | Denied:
        """May the act go ahead now? A permit that is still good answers without asking; else the
        node is asked, and its permit counts from just before the question left. minimum_index: as
        for `Lease.check`."""
        if minimum_index is not None:
            kept = self.slot.cached_of(minimum_index)
            return kept or await self.keeper.ask(self, is_handed=True, minimum_index=minimum_index)
        return self.slot.cached() or await self.keeper.ask(self, is_handed=True)

    async def require(self, *, minimum_index: int | None = None) -> Permit:
        """A permit, to be had before each act. Raises DeniedError when there is none."""
        answer = await self.check(minimum_index=minimum_index)
        if isinstance(answer, Denied):
            raise DeniedError(answer)
        return answer

    @asynccontextmanager
    async def act(self, *, minimum_index: int | None = None) -> AsyncIterator[Permit]:
        """A permit for the act that is the block, and for nothing else. Raises DeniedError when
        there is none. Stops nothing: a block that takes long belongs into `hold`. minimum_index:
        as for `check`."""
        with self.slot.acting():
            answer = self.slot.cached_for_act(minimum_index or 0) or await self.keeper.ask(
                self, is_handed=False, minimum_index=minimum_index or 0
            )
            if isinstance(answer, Denied):
                raise DeniedError(answer)
            yield answer

    def hold(self, *, renew: bool = True) -> AbstractAsyncContextManager[None]:
        """Holds the lease for the length of a block, which is cancelled when it is interrupted: see
        `AsyncGate.hold`."""
        return self.keeper.hold(self, renew=renew)

    async def event(self, kind: str, attributes: Mapping[str, str] = _NONE) -> Reported | Denied:
        """Says what became of the work under the lease: see `AsyncGate.event`."""
        return await self.keeper.event(self, kind, attributes)

    async def renew(self, ttl_ms: int = 0) -> AsyncLease | Denied:
        """The same lease with a later expiry."""
        return await self.keeper.renew(self, ttl_ms)

    async def release(self) -> Released | Denied:
        """Gives the lease back."""
        return await self.keeper.release(self)
