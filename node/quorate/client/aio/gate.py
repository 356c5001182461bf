"""The gate between an executor and its acts, for asyncio.

Owns the calls to the node of the executor's own organisation: the steps of `Calls`, awaited. Holds
no state of the federation. For one loop, and not across a fork.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self

import grpc

from quorate.client import proving, wire
from quorate.client.aio.keeping import AsyncKeeping
from quorate.client.aio.leases import AsyncLease
from quorate.client.aio.watch import AsyncWatch
from quorate.client.calls import Ask, Calls, ResultT, Steps
from quorate.client.clock import Clock, SystemClock
from quorate.client.config import ClientConfig, load_config
from quorate.client.decisions import (
    Attested,
    Challenge,
    Delegated,
    Denied,
    DeniedError,
    Part,
    Permit,
    Recalled,
    Released,
    Reported,
)
from quorate.client.facts import LeaseFacts
from quorate.client.lineage import under
from quorate.client.slot import PermitSlot
from quorate.client.telling import Story
from quorate.client.upkeep import Holder, Told, telling
from quorate.client.watching import WatchTalk
from quorate.core.limits import DEFAULT_MAX_PERMIT_TTL_MS, DEFAULT_PROPOSAL_TIMEOUT_MS
from quorate.v1 import lease_pb2_grpc

_NONE: Final[Mapping[str, str]] = MappingProxyType({})


class AsyncGate:
    """One executor's way to ask its node, for the tasks of one loop. To be made where it runs.

    max_permit_ttl_ms: as for `Gate`.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        executor: str = "",
        clock: Clock | None = None,
        max_permit_ttl_ms: int = DEFAULT_MAX_PERMIT_TTL_MS,
        new_request_id: Callable[[], str] | None = None,
    ) -> None:
        self._channel = channel
        self._stub: Any = lease_pb2_grpc.LeaseServiceStub(channel)
        self._closed = asyncio.Event()
        self._slots: weakref.WeakValueDictionary[str, PermitSlot] = weakref.WeakValueDictionary()
        self._stories: weakref.WeakValueDictionary[str, Story[asyncio.Lock]] = (
            weakref.WeakValueDictionary()
        )
        self._calls = Calls(
            clock or SystemClock(),
            executor=executor,
            is_closed=self._closed.is_set,
            max_permit_ttl_ms=max_permit_ttl_ms,
            new_request_id=new_request_id,
        )
        self._keeping = AsyncKeeping(self._calls, self._stub, self._closed, self._renew)

    @classmethod
    def open(
        cls,
        config: ClientConfig | Path,
        *,
        max_permit_ttl_ms: int = DEFAULT_MAX_PERMIT_TTL_MS,
    ) -> Self:
        """A gate from what `quorate executor issue` made. Raises ConfigurationError."""
        known = load_config(config) if isinstance(config, Path) else config
        return cls(
            wire.open_aio_channel(known),
            executor=known.spiffe_id,
            max_permit_ttl_ms=max_permit_ttl_ms,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends every call and watch. Everything is denied from here on."""
        self._closed.set()
        for slot in list(self._slots.values()):
            slot.close()
        try:
            await self._keeping.close()  # cancels whoever holds a lease: the caller, perhaps
        finally:
            await self._channel.close()

    @property
    def clock(self) -> Clock:
        """By which the life of permits is counted."""
        return self._calls.clock

    # -- leases ------------------------------------------------------------------------------

    async def acquire(
        self,
        action: str,
        resource: str,
        ttl_ms: int = 0,
        *,
        parents: Sequence[str] | None = None,
        context: Mapping[str, str] | None = None,
        request_id: str = "",
        timeout_ms: int = DEFAULT_PROPOSAL_TIMEOUT_MS,
    ) -> AsyncLease | Denied:
        """Asks for a lease, as `Gate.acquire` does."""
        granted = await self._take(
            self._calls.acquire(
                action,
                resource,
                ttl_ms,
                request_id,
                timeout_ms,
                parents=parents,
                context=context,
            )
        )
        return granted if isinstance(granted, Denied) else self._lease(granted)

    async def check(
        self, lease: AsyncLease, *, minimum_index: int | None = None
    ) -> Permit | Denied:
        """May this lease be acted on now? The same as `lease.check()`."""
        return await lease.check(minimum_index=minimum_index)

    async def ask(
        self, lease: AsyncLease, *, is_handed: bool, minimum_index: int = 0
    ) -> Permit | Denied:
        """Asks the node, whatever is cached. is_handed: false within `lease.act`, which knows when
        the permit is used no more."""
        return await self._take(
            self._calls.check(lease, lease.slot, is_handed=is_handed, minimum_index=minimum_index)
        )

    async def renew(
        self,
        lease: AsyncLease,
        ttl_ms: int = 0,
        *,
        timeout_ms: int = DEFAULT_PROPOSAL_TIMEOUT_MS,
    ) -> AsyncLease | Denied:
        """Extends a lease. A denial leaves it as it was."""
        renewed = await self._take(self._calls.renew(lease, ttl_ms, timeout_ms))
        return renewed if isinstance(renewed, Denied) else self._lease(renewed)

    async def release(
        self, lease: AsyncLease, *, timeout_ms: int = DEFAULT_PROPOSAL_TIMEOUT_MS
    ) -> Released | Denied:
        """Gives a lease back. The cached permit goes first, whatever the node answers; and what was
        had meanwhile goes after."""
        lease.slot.drop()
        index = await self._take(self._calls.release(lease, timeout_ms))
        lease.slot.drop()
        return index if isinstance(index, Denied) else Released(lease.id, index)

    async def delegate(
        self,
        grant: str,
        to: str,
        part: Part,
        *,
        request_id: str = "",
        timeout_ms: int = DEFAULT_PROPOSAL_TIMEOUT_MS,
    ) -> Delegated | Denied:
        """Passes a part of a grant on, as `Gate.delegate` does."""
        return await self._take(self._calls.delegate(grant, to, part, request_id, timeout_ms))

    async def recall(
        self, grant: str, *, timeout_ms: int = DEFAULT_PROPOSAL_TIMEOUT_MS
    ) -> Recalled | Denied:
        """Takes back what was passed on, as `Gate.recall` does."""
        return await self._take(self._calls.recall(grant, timeout_ms))

    async def challenge(
        self, *, timeout_ms: int = DEFAULT_PROPOSAL_TIMEOUT_MS
    ) -> Challenge | Denied:
        """Asks to be asked: what this executor proves has to quote the answer."""
        return await self._take(proving.challenge(self._calls, timeout_ms))

    async def attest(
        self,
        reference: str,
        challenge: Challenge,
        evidence: Mapping[str, object],
        *,
        timeout_ms: int = DEFAULT_PROPOSAL_TIMEOUT_MS,
    ) -> Attested | Denied:
        """Proves what a reference of the own domain asks for. evidence: JSON, of the reference's
        kind. What is proved and does not equal the reference suspends this executor."""
        steps = proving.attest(self._calls, reference, challenge.text, evidence, timeout_ms)
        return await self._take(steps)

    async def report_drift(self, *, timeout_ms: int = DEFAULT_PROPOSAL_TIMEOUT_MS) -> int | Denied:
        """Says that this executor is not what it was, which suspends it. Returns the index of the
        ledger's entry."""
        return await self._take(proving.report_drift(self._calls, timeout_ms))

    @asynccontextmanager
    async def hold(self, lease: AsyncLease, *, renew: bool = True) -> AsyncIterator[None]:
        """Holds a lease for the length of a block: a permit is always at hand, asked for ahead of
        the end of the one before; the lease is watched, and renewed in time unless told otherwise.
        Raises DeniedError when there is no permit to begin with.

        The block is cancelled, and raises DeniedError, when work under the lease is to stop: at
        once when the node says so; at the latest, with everything lost, when the last permit is
        over. The block is one act: a revocation counts as drained when the block has ended. One
        that catches the cancellation and goes on cannot be stopped.
        """
        with ExitStack() as held, ExitStack() as act:
            # The act ends first: while the lease is watched, that can be acknowledged.
            act.enter_context(lease.slot.acting())
            stop = _Stop()
            holding = await self.keep(lease, stop.told, renew=renew)
            held.callback(holding.close)
            with stop:
                yield

    async def event(
        self,
        lease: AsyncLease,
        kind: str,
        attributes: Mapping[str, str] = _NONE,
        *,
        timeout_ms: int = DEFAULT_PROPOSAL_TIMEOUT_MS,
    ) -> Reported | Denied:
        """Says what became of the work under a lease (`quorate.core.lineage.EventType`). Durable on
        the node when it returns, with or without a quorum; what comes together goes together.

        A denial that is `unknown` may have been taken in. attributes: text by name, the holder's
        own; they are in the ledger for all to see.
        """
        event, story = self._calls.event(kind, attributes), lease.story
        if isinstance(event, Denied):
            return event
        saying = story.add(event)
        try:
            async with story.lock:
                while saying.result is None:
                    await self._take(self._calls.report(lease, story, timeout_ms))
        except BaseException:
            story.withdraw(saying)
            raise
        return saying.result

    async def keep(
        self, lease: AsyncLease, on_change: Told | None = None, *, renew: bool = True
    ) -> Holding:
        """Holds a lease until that is closed, without a block to be cancelled. Raises DeniedError
        when there is no permit to begin with.

        on_change: called with a `Denied` when work under the lease is to stop, and with a `Permit`
        when it may go on; as for `Gate.hold`.
        """
        tell, holder = telling(on_change), None
        while holder is None:  # interrupted while it was asked for
            permit, epoch = await self._take(self._calls.first_permit(lease, lease.slot))
            holder = self._keeping.hold(lease, lease.slot, permit, epoch, tell, renew=renew)
        return Holding(self._keeping, holder)

    @asynccontextmanager
    async def lease(
        self,
        action: str,
        resource: str,
        ttl_ms: int = 0,
        *,
        renew: bool = True,
        parents: Sequence[str] | None = None,
        context: Mapping[str, str] | None = None,
    ) -> AsyncIterator[AsyncLease]:
        """A lease for the length of a block, held as by `hold`; raises DeniedError when there is
        none, or no more.

        What the block does comes from it: leases that are acquired there have it as their parent.
        It is released at the end. If that fails it lapses by itself, at its expiry.
        """
        held = await self.acquire(action, resource, ttl_ms, parents=parents, context=context)
        if isinstance(held, Denied):
            raise DeniedError(held)
        try:
            async with self.hold(held, renew=renew):
                with under(held.id):
                    yield held
        finally:
            await self.release(held)

    def watch(self, leases: Sequence[AsyncLease]) -> AsyncWatch:
        """An iterator over what happens to these leases; drops their permits when they stop."""
        assert leases
        slots = {lease.id: lease.slot for lease in leases}
        return AsyncWatch(self._stub, WatchTalk(self._calls.session, slots), self._closed)

    # -- inside ------------------------------------------------------------------------------

    async def _take(self, steps: Steps[ResultT]) -> ResultT:
        """Takes the steps one after the other, and waits at each."""
        try:
            step = next(steps)
            while True:
                if isinstance(step, Ask):
                    step = steps.send(await self._answer(step))
                else:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(step.seconds):
                            await self._closed.wait()
                    step = next(steps)
        except StopIteration as end:
            result: ResultT = end.value
            return result

    async def _answer(self, step: Ask) -> object:
        task = asyncio.current_task()
        try:
            return await getattr(self._stub, step.method)(step.request, timeout=step.timeout_s)
        except wire.FAILURES as error:
            return error
        except asyncio.CancelledError:
            # Closing the gate cancels its calls, and nobody's task.
            if not self._closed.is_set() or (task is not None and task.cancelling()):
                raise
            return grpc.aio.UsageError("the gate is closed")

    async def _renew(self, lease: LeaseFacts) -> LeaseFacts | Denied:
        timeout_ms = DEFAULT_PROPOSAL_TIMEOUT_MS
        return await self._take(self._calls.renew(lease, lease.ttl_ms, timeout_ms))

    def _lease(self, facts: LeaseFacts) -> AsyncLease:
        """With the one slot that the gate has for this lease, however often it is acquired."""
        slot = self._slots.get(facts.id)
        if slot is None:
            slot = self._slots[facts.id] = PermitSlot(self._calls.clock)
        story = self._stories.get(facts.id)
        if story is None:
            story = self._stories[facts.id] = Story(asyncio.Lock())
        return AsyncLease(**facts.facts(), keeper=self, slot=slot, story=story)


class Holding:
    """A lease that is held until this is closed."""

    def __init__(self, keeping: AsyncKeeping, holder: Holder) -> None:
        self._keeping = keeping
        self._holder = holder

    def close(self) -> None:
        """The lease is held no more; its holder is told nothing."""
        self._keeping.let_go(self._holder)


class _Stop:
    """Cancels the block that it is entered for when it is told to, and raises DeniedError out of
    it. (After `asyncio.timeout`.)"""

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._denied: Denied | None = None
        self._is_over = False

    def told(self, news: Permit | Denied) -> None:
        if isinstance(news, Denied) and self._denied is None and not self._is_over:
            self._denied = news
            self._task.cancel()

    def __enter__(self) -> None:
        """Nothing to do: the lease was good a moment ago."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over = True
        if self._denied is None:
            return
        if asyncio.current_task() is not self._task:  # the block has wandered: it was not stopped
            raise DeniedError(self._denied) from error
        if self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise DeniedError(self._denied) from error
