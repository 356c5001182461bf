"""A watch for threads: an iterator of notices over one stream after the other.

Owns the stream and its reconnection.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Protocol, Self

import grpc

from quorate.client import wire
from quorate.client.watching import (
    Pauses,
    WatchNotice,
    WatchTalk,
)
from quorate.v1 import lease_pb2, lease_pb2_grpc


class _Cancellable(Protocol):
    def cancel(self) -> object: ...


class Watch:
    """An iterator of notices that ends when it, or its gate, is closed. For one thread.

    A broken stream is told as AUTHORITY_LOST for every lease, once, and opened again; then what
    happened meanwhile is told.
    """

    def __init__(
        self,
        stub: lease_pb2_grpc.LeaseServiceStub,
        talk: WatchTalk,
        gate_closed: threading.Event,
    ) -> None:
        self._stub = stub
        self._talk = talk
        self._gate_closed = gate_closed
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
        pauses = Pauses()
        while not self._over():
            ended: Exception | None = None
            requests: SimpleQueue[lease_pb2.WatchRequest | None] = SimpleQueue()
            if not self._talk.begin(requests.put):
                return
            pauses.begin()
            try:
                yield from self._stream(requests)
            except wire.FAILURES as error:
                ended = error
            finally:  # also when nobody listens any more
                lost = self._talk.broken(ended)
            if self._over() or not isinstance(ended, (grpc.RpcError, type(None))):
                return
            yield from lost
            self._closed.wait(pauses.after_end_s())

    def _stream(
        self, requests: SimpleQueue[lease_pb2.WatchRequest | None]
    ) -> Iterator[WatchNotice]:
        call = self._stub.Watch(iter(requests.get, None))
        cancellable: _Cancellable = call
        with self._lock:
            self._call = cancellable
        if self._over():  # closed while the call was being made
            cancellable.cancel()
        try:
            for answer in call:
                notice = self._talk.heard(answer)
                if notice is not None:
                    yield notice
        finally:
            requests.put(None)  # the thread that sends ends
