"""Hearing at once when a lease stops being good.

Owns the stream of notices, its reconnection, and the dropping of cached permits when a notice says
stop or the stream breaks. Notices can only take permits away: a restored lease is asked for anew,
so a lost or late notice costs speed and never safety.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from queue import SimpleQueue
from typing import Final, Protocol, Self

import grpc

from quorate.client import wire
from quorate.client.decisions import AnyReason, ClientReason
from quorate.client.leases import Lease
from quorate.core.limits import MAX_LEASES_PER_WATCH
from quorate.v1 import decision_pb2, lease_pb2, lease_pb2_grpc

_FIRST_PAUSE_MS: Final = 50
_LONGEST_PAUSE_MS: Final = 1_000


class WatchEvent(StrEnum):
    """What happened to a lease."""

    ACTIVE = "ACTIVE"  # the first report: it is good
    INTERRUPTED = "INTERRUPTED"  # no longer good, and the reason
    AUTHORITY_LOST = "AUTHORITY_LOST"  # the node denies everything, or cannot be heard
    RESTORED = "RESTORED"  # good again


_GOOD: Final = frozenset({WatchEvent.ACTIVE, WatchEvent.RESTORED})
_EVENT_OF_WIRE: Final = {
    lease_pb2.WATCH_EVENT_ACTIVE: WatchEvent.ACTIVE,
    lease_pb2.WATCH_EVENT_INTERRUPTED: WatchEvent.INTERRUPTED,
    lease_pb2.WATCH_EVENT_AUTHORITY_LOST: WatchEvent.AUTHORITY_LOST,
    lease_pb2.WATCH_EVENT_RESTORED: WatchEvent.RESTORED,
}


@dataclass(frozen=True, slots=True)
class WatchNotice:
    """One thing that happened to one lease. `reason` is set when it is not good."""

    lease_id: str
    event: WatchEvent
    reason: AnyReason | None
    thing: str = ""
    ledger_size: int = 0


class _Cancellable(Protocol):
    def cancel(self) -> object: ...


class Watch:
    """An iterator of notices that ends when it, or its gate, is closed. For one thread.

    A broken stream is told as AUTHORITY_LOST for every lease, once, and opened again.
    """

    def __init__(
        self,
        stub: lease_pb2_grpc.LeaseServiceStub,
        leases: Sequence[Lease],
        gate_closed: threading.Event,
        session: str,
    ) -> None:
        """session: as it stands in the gate's checks."""
        assert 0 < len(leases) <= MAX_LEASES_PER_WATCH
        self._stub = stub
        self._leases = {lease.id: lease for lease in leases}
        self._gate_closed = gate_closed
        self._session = session
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._call: _Cancellable | None = None
        self._notices = self._run()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> WatchNotice:
        return next(self._notices)

    def close(self) -> None:
        """Ends the iteration, from any thread."""
        self._closed.set()
        with self._lock:
            if self._call is not None:
                self._call.cancel()

    def _over(self) -> bool:
        return self._closed.is_set() or self._gate_closed.is_set()

    def _run(self) -> Iterator[WatchNotice]:
        pause_ms = _FIRST_PAUSE_MS
        told_lost = False
        while not self._over():
            reason: AnyReason = ClientReason.UNREACHABLE
            try:
                for notice in self._stream():
                    yield notice
                    told_lost = False
                    pause_ms = _FIRST_PAUSE_MS
            except grpc.RpcError as error:
                reason = wire.denial_of_error(error).reason
            except ValueError:  # how the library says that the channel is closed
                return
            for lease in self._leases.values():
                lease.slot.drop()
            if self._over():
                return
            if not told_lost:
                told_lost = True
                for lease in self._leases.values():
                    yield WatchNotice(lease.id, WatchEvent.AUTHORITY_LOST, reason)
            self._closed.wait(pause_ms / 1_000)
            pause_ms = min(2 * pause_ms, _LONGEST_PAUSE_MS)

    def _stream(self) -> Iterator[WatchNotice]:
        first = lease_pb2.WatchRequest(lease_ids=list(self._leases), session=self._session)
        requests: SimpleQueue[lease_pb2.WatchRequest | None] = SimpleQueue()
        requests.put(first)
        call = self._stub.Watch(iter(requests.get, None))
        cancellable: _Cancellable = call
        with self._lock:
            self._call = cancellable
        if self._over():  # closed while the call was being made
            cancellable.cancel()
        try:
            for answer in call:
                lease = self._leases.get(answer.lease_id)
                if lease is not None:
                    yield self._notice(lease, answer, requests)
        finally:
            requests.put(None)  # the thread that sends ends

    @staticmethod
    def _notice(
        lease: Lease,
        answer: lease_pb2.WatchResponse,
        requests: SimpleQueue[lease_pb2.WatchRequest | None],
    ) -> WatchNotice:
        event = _EVENT_OF_WIRE.get(answer.event)
        reason: AnyReason | None = None
        if event is None:  # unspecified, or of a newer node: taken as the worst
            event, reason = WatchEvent.AUTHORITY_LOST, ClientReason.MALFORMED_ANSWER
        elif answer.reason != decision_pb2.REASON_UNSPECIFIED:
            reason = wire.reason_of(answer.reason)
        if event not in _GOOD:
            unused = lease_pb2.Acknowledgement(lease_id=lease.id, size=answer.position.size)
            lease.slot.interrupted(
                lambda: requests.put(lease_pb2.WatchRequest(acknowledgements=[unused]))
            )
        return WatchNotice(lease.id, event, reason, answer.thing, answer.position.size)
