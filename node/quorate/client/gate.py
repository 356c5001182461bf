"""The gate between an executor and its acts, for threads.

Owns the calls to the node of the executor's own organisation: the steps of `Calls`, taken with a
blocking channel. Holds no state of the federation. Not to be used across a fork: open a gate in
each process.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Self

import grpc

from quorate.client import proving, wire
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
from quorate.client.keeping import Keeping
from quorate.client.leases import Lease, OnChange
from quorate.client.lineage import under
from quorate.client.slot import PermitSlot
from quorate.client.telling import Story
from quorate.client.upkeep import telling
from quorate.client.watch import Watch
from quorate.client.watching import WatchNotice, WatchTalk
from quorate.core.limits import DEFAULT_MAX_PERMIT_TTL_MS, DEFAULT_PROPOSAL_TIMEOUT_MS
from quorate.v1 import lease_pb2_grpc

_NONE: Final[Mapping[str, str]] = MappingProxyType({})
_log: Final = logging.getLogger("quorate.client")


class Gate:
    """One executor's way to ask its node. Safe to use from several threads.

    max_permit_ttl_ms: the federation's parameter; no permit is used longer than this from the
        moment at which it was asked for, whatever the node says, and no check waits longer.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        *,
        executor: str = "",
        clock: Clock | None = None,
        max_permit_ttl_ms: int = DEFAULT_MAX_PERMIT_TTL_MS,
        new_request_id: Callable[[], str] | None = None,
    ) -> None:
        self._channel = channel
        self._stub = lease_pb2_grpc.LeaseServiceStub(channel)
        self._closed = threading.Event()
        self._lock = threading.RLock()
        self._slots: weakref.WeakValueDictionary[str, PermitSlot] = weakref.WeakValueDictionary()
        self._stories: weakref.WeakValueDictionary[str, Story[threading.Lock]] = (
            weakref.WeakValueDictionary()
        )
        self._calls = Calls(
            clock or SystemClock(),
            executor=executor,
            is_closed=self._closed.is_set,
            max_permit_ttl_ms=max_permit_ttl_ms,
            new_request_id=new_request_id,
        )
        self._keeping = Keeping(self._calls, self._stub, self._closed, self._renew)

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
            wire.open_channel(known),
            executor=known.spiffe_id,
            max_permit_ttl_ms=max_permit_ttl_ms,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends every call and watch. Everything is denied from here on."""
        self._closed.set()
        with self._lock:
            slots = list(self._slots.values())
        for slot in slots:
            slot.close()
        self._keeping.close()
        self._channel.close()

    @property
    def clock(self) -> Clock:
        """By which the life of permits is counted."""
        return self._calls.clock

    # -- leases ------------------------------------------------------------------------------

    def acquire(
        self,
        action: str,
        resource: str,
        ttl_ms: int = 0,
        *,
        parents: Sequence[str] | None = None,
        context: Mapping[str, str] | None = None,
        request_id: str = "",
        timeout_ms: int = DEFAULT_PROPOSAL_TIMEOUT_MS,
    ) -> Lease | Denied:
        """Asks for a lease; `ttl_ms` 0 means the longest that the grant allows. What `context` says
        of the work, by name, is for the conditions of grants and for policies to ask about, and
        stays with the lease.

        While the outcome is unknown the request is repeated with the same id until `timeout_ms`
        are over. If it is unknown even then the denial says so, and carries the `request_id` with
        which to ask again.
        """
        granted = self._take(
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

    def check(self, lease: Lease, *, minimum_index: int | None = None) -> Permit | Denied:
        """May this lease be acted on now? The same as `lease.check()`."""
        return lease.check(minimum_index=minimum_index)

    def ask(self, lease: Lease, *, is_handed: bool, minimum_index: int = 0) -> Permit | Denied:
        """Asks the node, whatever is cached. is_handed: false within `lease.act`, which knows when
        the permit is used no more."""
        return self._take(
            self._calls.check(lease, lease.slot, is_handed=is_handed, minimum_index=minimum_index)
        )

    def renew(
        self, lease: Lease, ttl_ms: int = 0, *, timeout_ms: int = DEFAULT_PROPOSAL_TIMEOUT_MS
    ) -> Lease | Denied:
        """Extends a lease. A denial leaves it as it was."""
        renewed = self._take(self._calls.renew(lease, ttl_ms, timeout_ms))
        return renewed if isinstance(renewed, Denied) else self._lease(renewed)

    def release(
        self, lease: Lease, *, timeout_ms: int = DEFAULT_PROPOSAL_TIMEOUT_MS
    ) -> Released | Denied:
        """Gives a lease back. The cached permit goes first, whatever the node answers; and what was
        had meanwhile goes after."""
        lease.slot.drop()
        index = self._take(self._calls.release(lease, timeout_ms))
        lease.slot.drop()
        return index if isinstance(index, Denied) else Released(lease.id, index)

    def delegate(
        self,
        grant: str,
        to: str,
        part: Part,
        *,
        request_id: str = "",
        timeout_ms: int = DEFAULT_PROPOSAL_TIMEOUT_MS,
    ) -> Delegated | Denied:
        """Passes a part of a grant to this executor (`lease.grant`) on to another one. A denial
        whose outcome is unknown carries the `request_id` with which to ask again."""
        return self._take(self._calls.delegate(grant, to, part, request_id, timeout_ms))

    def recall(
        self, grant: str, *, timeout_ms: int = DEFAULT_PROPOSAL_TIMEOUT_MS
    ) -> Recalled | Denied:
        """Takes back what was passed on, for good, and all that was made of it."""
        return self._take(self._calls.recall(grant, timeout_ms))

    def challenge(self, *, timeout_ms: int = DEFAULT_PROPOSAL_TIMEOUT_MS) -> Challenge | Denied:
        """Asks to be asked: what this executor proves has to quote the answer."""
        return self._take(proving.challenge(self._calls, timeout_ms))

    def attest(
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
        return self._take(steps)

    def report_drift(self, *, timeout_ms: int = DEFAULT_PROPOSAL_TIMEOUT_MS) -> int | Denied:
        """Says that this executor is not what it was, which suspends it. Returns the index of the
        ledger's entry."""
        return self._take(proving.report_drift(self._calls, timeout_ms))

    @contextmanager
    def hold(
        self, lease: Lease, on_change: OnChange | None = None, *, renew: bool = True
    ) -> Iterator[None]:
        """Holds a lease for the length of a block: a permit is always at hand, asked for ahead of
        the end of the one before; the lease is watched, and renewed in time unless told otherwise.
        Raises DeniedError when there is no permit to begin with.

        on_change: called, from a thread of the gate's, with a `Denied` when work under the lease is
        to stop, and with a `Permit` when it may go on. It is called at once when the node says so;
        at the latest, with everything lost, when the last permit is over. It must not block. The
        block itself is no act: what must have ended before a revocation counts as drained belongs
        into `lease.act`.
        """
        tell, holder = telling(on_change), None
        while holder is None:  # interrupted while it was asked for
            permit, epoch = self._take(self._calls.first_permit(lease, lease.slot))
            holder = self._keeping.hold(lease, lease.slot, permit, epoch, tell, renew=renew)
        try:
            yield
        finally:
            self._keeping.let_go(holder)

    @contextmanager
    def lease(
        self,
        action: str,
        resource: str,
        ttl_ms: int = 0,
        *,
        on_change: OnChange | None = None,
        renew: bool = True,
        parents: Sequence[str] | None = None,
        context: Mapping[str, str] | None = None,
    ) -> Iterator[Lease]:
        """A lease for the length of a block, held as by `hold`; raises DeniedError when there is
        none.

        What the block does comes from it: leases that are acquired there have it as their parent.
        It is released at the end. If that fails it lapses by itself, at its expiry.
        """
        held = self.acquire(action, resource, ttl_ms, parents=parents, context=context)
        if isinstance(held, Denied):
            raise DeniedError(held)
        try:
            with self.hold(held, on_change, renew=renew), under(held.id):
                yield held
        finally:
            self.release(held)

    def event(
        self,
        lease: Lease,
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
            with story.lock:
                while saying.result is None:
                    self._take(self._calls.report(lease, story, timeout_ms))
        except BaseException:
            story.withdraw(saying)
            raise
        return saying.result

    # -- watching ----------------------------------------------------------------------------

    def watch(self, leases: Sequence[Lease]) -> Watch:
        """An iterator over what happens to these leases; drops their permits when they stop."""
        assert leases
        slots = {lease.id: lease.slot for lease in leases}
        return Watch(self._stub, WatchTalk(self._calls.session, slots), self._closed)

    def on_change(self, leases: Sequence[Lease], tell: Callable[[WatchNotice], None]) -> Watch:
        """Calls `tell` from a thread of its own for each notice, until the watch is closed."""
        watch = self.watch(leases)

        def run() -> None:
            for notice in watch:
                try:
                    tell(notice)
                except BaseException:  # noqa: BLE001 - another's program: the watch goes on
                    _log.exception("a watcher failed for lease %s", notice.lease_id)

        threading.Thread(target=run, name="quorate-watch", daemon=True).start()
        return watch

    # -- inside ------------------------------------------------------------------------------

    def _take(self, steps: Steps[ResultT]) -> ResultT:
        """Takes the steps one after the other, and waits at each."""
        try:
            step = next(steps)
            while True:
                if isinstance(step, Ask):
                    step = steps.send(self._answer(step))
                else:
                    self._closed.wait(step.seconds)
                    step = next(steps)
        except StopIteration as end:
            result: ResultT = end.value
            return result

    def _answer(self, step: Ask) -> object:
        call: Callable[..., object] = getattr(self._stub, step.method)
        try:
            return call(step.request, timeout=step.timeout_s)
        except wire.FAILURES as error:
            return error

    def _renew(self, lease: LeaseFacts) -> LeaseFacts | Denied:
        return self._take(self._calls.renew(lease, lease.ttl_ms, DEFAULT_PROPOSAL_TIMEOUT_MS))

    def _lease(self, facts: LeaseFacts) -> Lease:
        """With the one slot that the gate has for this lease, however often it is acquired."""
        with self._lock:
            slot = self._slots.get(facts.id)
            if slot is None:
                slot = self._slots[facts.id] = PermitSlot(self._calls.clock)
            story = self._stories.get(facts.id)
            if story is None:
                story = self._stories[facts.id] = Story(threading.Lock())
        return Lease(**facts.facts(), keeper=self, slot=slot, story=story)
