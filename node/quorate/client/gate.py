"""The gate between an executor and its acts.

Owns the calls to the node of the executor's own organisation, and the rule that only a permit
permits: unreachable, late, malformed, unspecified and unknown are all denials, with a reason.
Holds no state of the federation. Not to be used across a fork: open a gate in each process.
"""

from __future__ import annotations

import secrets
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import grpc

from quorate.client import wire
from quorate.client.clock import Clock, SystemClock
from quorate.client.config import ClientConfig, load_config
from quorate.client.decisions import ClientReason, Denied, DeniedError, Permit, Released
from quorate.client.leases import Lease, PermitSlot
from quorate.client.watch import Watch, WatchNotice
from quorate.core.limits import DEFAULT_MAX_PERMIT_TTL_MS, DEFAULT_PROPOSAL_TIMEOUT_MS
from quorate.v1 import lease_pb2, lease_pb2_grpc

_NS_PER_MS: Final = 1_000_000
_FIRST_PAUSE_MS: Final = 25
_LONGEST_PAUSE_MS: Final = 400


_AnswerT = TypeVar(
    "_AnswerT",
    lease_pb2.AcquireResponse,
    lease_pb2.RenewResponse,
    lease_pb2.ReleaseResponse,
)


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
        new_request_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        assert max_permit_ttl_ms > 0
        self._channel = channel
        self._stub = lease_pb2_grpc.LeaseServiceStub(channel)
        self._executor = executor
        self._clock = clock or SystemClock()
        self._max_permit_ttl_ms = max_permit_ttl_ms
        self._new_request_id = new_request_id
        self._closed = threading.Event()
        self._session = secrets.token_hex(16)

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
        self._channel.close()

    # -- leases ------------------------------------------------------------------------------

    def acquire(
        self,
        action: str,
        resource: str,
        ttl_ms: int = 0,
        *,
        request_id: str = "",
        timeout_ms: int = DEFAULT_PROPOSAL_TIMEOUT_MS,
    ) -> Lease | Denied:
        """Asks for a lease; `ttl_ms` 0 means the longest that the grant allows.

        While the outcome is unknown the request is repeated with the same id until `timeout_ms`
        are over. If it is unknown even then the denial says so, and carries the `request_id` with
        which to ask again.
        """
        request = lease_pb2.AcquireRequest(
            action=action,
            resource=resource,
            ttl_ms=ttl_ms,
            request_id=request_id or self._new_request_id(),
        )
        answer = self._until_settled(self._stub.Acquire, request, request.request_id, timeout_ms)
        if isinstance(answer, Denied):
            return answer
        granted = self._lease(answer.lease, PermitSlot(self._clock))
        if granted is None or (granted.action, granted.resource) != (action, resource):
            return Denied(
                ClientReason.MALFORMED_ANSWER,
                answer.lease.id,
                "granted, but not the lease that was asked for",
                unknown=True,
                request_id=request.request_id,
            )
        return granted

    def check(self, lease: Lease, *, for_act: bool = False) -> Permit | Denied:
        """May this lease be acted on now?

        A permit that is still good answers without asking. Otherwise the node is asked, and its
        permit counts from just before the question left. for_act: it is used within an act that
        the lease knows of (`Lease.act`), and nowhere else.
        """
        if self._closed.is_set():
            return Denied(ClientReason.CLOSED, lease.id)
        return lease.slot.current(for_act=for_act) or self._ask(lease, for_act=for_act)

    def renew(
        self, lease: Lease, ttl_ms: int = 0, *, timeout_ms: int = DEFAULT_PROPOSAL_TIMEOUT_MS
    ) -> Lease | Denied:
        """Extends a lease. A denial leaves it as it was."""
        request = lease_pb2.RenewRequest(
            lease_id=lease.id, ttl_ms=ttl_ms, request_id=self._new_request_id()
        )
        answer = self._until_settled(self._stub.Renew, request, request.request_id, timeout_ms)
        if isinstance(answer, Denied):
            return answer
        renewed = self._lease(answer.lease, lease.slot)
        if renewed is None or replace(renewed, expires_at_ms=lease.expires_at_ms) != lease:
            return Denied(
                ClientReason.MALFORMED_ANSWER, lease.id, "renewed, but not the lease in question"
            )
        return renewed

    def release(
        self, lease: Lease, *, timeout_ms: int = DEFAULT_PROPOSAL_TIMEOUT_MS
    ) -> Released | Denied:
        """Gives a lease back. The cached permit goes first, whatever the node answers."""
        lease.slot.drop()
        request = lease_pb2.ReleaseRequest(lease_id=lease.id, request_id=self._new_request_id())
        answer = self._until_settled(self._stub.Release, request, request.request_id, timeout_ms)
        if isinstance(answer, Denied):
            return answer
        return Released(lease.id, answer.outcome.ledger_index)

    @contextmanager
    def lease(self, action: str, resource: str, ttl_ms: int = 0) -> Iterator[Lease]:
        """A lease for the length of a block; raises DeniedError when there is none.

        It is released at the end. If that fails it lapses by itself, at its expiry.
        """
        held = self.acquire(action, resource, ttl_ms)
        if isinstance(held, Denied):
            raise DeniedError(held)
        try:
            yield held
        finally:
            self.release(held)

    # -- watching ----------------------------------------------------------------------------

    def watch(self, leases: Sequence[Lease]) -> Watch:
        """An iterator over what happens to these leases; drops their permits when they stop."""
        return Watch(self._stub, leases, self._closed, self._session)

    def on_change(self, leases: Sequence[Lease], tell: Callable[[WatchNotice], None]) -> Watch:
        """Calls `tell` from a thread of its own for each notice, until the watch is closed."""
        watch = self.watch(leases)

        def run() -> None:
            for notice in watch:
                tell(notice)

        threading.Thread(target=run, name="quorate-watch", daemon=True).start()
        return watch

    # -- inside ------------------------------------------------------------------------------

    def _ask(self, lease: Lease, *, for_act: bool) -> Permit | Denied:
        request = lease_pb2.CheckRequest(
            lease_id=lease.id,
            action=lease.action,
            resource=lease.resource,
            session=self._session,
        )
        epoch = lease.slot.epoch
        sent = self._clock.read()
        try:
            answer = self._stub.Check(request, timeout=self._max_permit_ttl_ms / 1_000)
        except grpc.RpcError as error:
            return replace(self._failed(error), thing=lease.id, unknown=False)
        except ValueError:  # how the library says that the channel is closed
            return Denied(ClientReason.CLOSED, lease.id)
        denied = wire.denial_of_verdict(answer.verdict, answer.reason, answer.thing)
        if denied is not None:
            lease.slot.drop()
            return denied
        if answer.ttl_ms <= 0 or answer.fence != lease.fence:
            return Denied(
                ClientReason.MALFORMED_ANSWER,
                lease.id,
                f"a permit with ttl_ms {answer.ttl_ms} and fence {answer.fence}",
            )
        ttl_ms = min(answer.ttl_ms, self._max_permit_ttl_ms)
        permit = Permit(
            lease_id=lease.id,
            fence=answer.fence,
            sent=sent,
            expires_at_ns=sent.boottime_ns + ttl_ms * _NS_PER_MS,
            judged_at_ns=sent.boottime_ns,
            ledger_size=answer.position.size,
            ledger_time_ms=answer.position.ledger_time_ms,
        )
        return lease.slot.offer(permit, epoch, for_act=for_act)

    def _until_settled(
        self,
        call: Callable[..., _AnswerT],
        request: object,
        request_id: str,
        timeout_ms: int,
    ) -> _AnswerT | Denied:
        """The settled answer to a command: a permit's message, or the denial.

        Once an attempt may have entered the log, only an answer that carries the ledger's outcome
        settles it: a later "denied without asking the ledger" says nothing about the earlier one.
        """
        deadline_ns = self._clock.read().boottime_ns + timeout_ms * _NS_PER_MS
        pause_ms = _FIRST_PAUSE_MS
        maybe_executed = False
        last = Denied(ClientReason.LATE)
        while not self._closed.is_set():
            left_ns = deadline_ns - self._clock.read().boottime_ns
            if left_ns <= 0:
                break
            try:
                answer = call(request, timeout=left_ns / 1e9)
            except grpc.RpcError as error:
                last = self._failed(error)
                maybe_executed = maybe_executed or last.unknown
                if not maybe_executed:
                    break
            except ValueError:  # how the library says that the channel is closed
                break
            else:
                settled = _settled(answer, maybe_executed)
                if not isinstance(settled, Denied):
                    return settled
                last = settled
                if not settled.unknown:
                    return replace(settled, request_id=request_id)
                maybe_executed = True
            self._closed.wait(pause_ms / 1_000)
            pause_ms = min(2 * pause_ms, _LONGEST_PAUSE_MS)
        if self._closed.is_set():
            last = Denied(ClientReason.CLOSED)
        return replace(last, unknown=maybe_executed, request_id=request_id)

    def _failed(self, error: grpc.RpcError) -> Denied:
        denied = wire.denial_of_error(error)
        return replace(denied, reason=ClientReason.CLOSED) if self._closed.is_set() else denied

    def _lease(self, granted: lease_pb2.Lease, slot: PermitSlot) -> Lease | None:
        """The handle for a granted lease; None when it is nobody's, or another executor's."""
        if not granted.id or granted.fence <= 0:
            return None
        if self._executor and granted.executor != self._executor:
            return None
        return Lease(
            id=granted.id,
            executor=granted.executor,
            action=granted.action,
            resource=granted.resource,
            fence=granted.fence,
            expires_at_ms=granted.expires_at_ms,
            grant=granted.grant,
            trust_edge=granted.trust_edge,
            keeper=self,
            slot=slot,
        )


def _settled(answer: _AnswerT, maybe_executed: bool) -> _AnswerT | Denied:
    """The answer when it is granted; else the denial, `unknown` as long as it settles nothing."""
    if answer.unknown:
        return Denied(ClientReason.OUTCOME_UNKNOWN, answer.thing, unknown=True)
    denied = wire.denial_of_verdict(answer.verdict, answer.reason, answer.thing)
    if denied is None and answer.HasField("outcome") and answer.outcome.accepted:
        return answer
    if denied is None:
        denied = Denied(ClientReason.MALFORMED_ANSWER, answer.thing, "granted without an outcome")
    if denied.reason in (ClientReason.MALFORMED_ANSWER, ClientReason.UNSPECIFIED_VERDICT):
        return replace(denied, unknown=True)
    return replace(denied, unknown=maybe_executed and not answer.HasField("outcome"))
