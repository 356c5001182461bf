"""The sending side of the streams between nodes: a link to one peer.

Owns dialling, the queue of what is to be sent, framing, and the notice that a link has stalled.
Nothing is retried: a link that stalls is dropped, the node is told, and Raft sends again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable
from typing import Any, Final

import grpc
import structlog
from grpc import aio

from quorate.consensus import tasks
from quorate.consensus.limits import (
    MAX_FRAME_BYTES,
    MAX_FRAME_MESSAGES,
    MAX_PEER_MESSAGE_BYTES,
    MAX_QUEUED_BYTES,
    MAX_QUEUED_MESSAGES,
)
from quorate.consensus.peers import PROTOCOL_VERSION, Directory, Handler, LocalIdentity, Peer
from quorate.v1 import peer_pb2 as pb
from quorate.v1 import peer_pb2_grpc

_IDLE_FRAME_S: Final = 0.5
"""A sender that has nothing to say sends an empty frame this often, so that a dead link shows."""
_LINK_TIMEOUT_S: Final = 1.5
"""A frame that is not acknowledged for this long ends its link."""
_REDIAL_S: Final = 0.25
_REFUSED_REDIAL_S: Final = 2.0
"""A peer that has said no, or nonsense, is asked again more rarely."""
_DIAL_TIMEOUT_S: Final = 2.0

_CHANNEL_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_PEER_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_PEER_MESSAGE_BYTES),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
)

_EOF: Final[object] = aio.EOF
_CLOSED: Final = "the peer closed the stream"
_CANCELLED: Final = "the stream was cancelled"
_UNREADABLE: Final = "an acknowledgement that cannot be read"
_UNSENT: Final = "an acknowledgement of what was never sent"
_REFUSED: Final = (
    grpc.StatusCode.PERMISSION_DENIED.name,
    grpc.StatusCode.FAILED_PRECONDITION.name,
    _UNREADABLE,
    _UNSENT,
)
log = structlog.get_logger(__name__)


class Link:
    """The sending side towards one peer: a bounded queue, and a task that keeps a stream open."""

    def __init__(
        self,
        identity: LocalIdentity,
        peer: Peer,
        handler: Handler,
        directory: Directory,
    ) -> None:
        self.peer = peer
        self._identity = identity
        self._handler = handler
        self._directory = directory
        self._queue: deque[pb.PeerMessage] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._is_up = False
        self._overflowed = False
        self._last_problem = ""

    def renew(self, identity: LocalIdentity) -> None:
        """Dials with another certificate from now on; a stream that is open goes on."""
        self._identity = identity

    def send(self, messages: Iterable[pb.PeerMessage]) -> None:
        """Queues messages while the link is up; without a link they are dropped. A queue beyond
        its limit ends the link, and until it has ended takes nothing more."""
        if not self._is_up or self._overflowed:
            return
        for message in messages:
            self._queue.append(message)
            self._queued_bytes += message.ByteSize()
        if self._queued_bytes > MAX_QUEUED_BYTES or len(self._queue) > MAX_QUEUED_MESSAGES:
            self._overflowed = True
        self._wake.set()

    async def run(self) -> None:
        """Keeps dialling until cancelled."""
        while True:
            try:
                problem = await self._connect_once()
            except asyncio.CancelledError:
                if _is_cancelled():
                    raise
                problem = _CANCELLED
            if problem != self._last_problem:
                log.info("peer.link_down", peer=self.peer.node_id, problem=problem)
                self._last_problem = problem
            is_refused = problem.startswith(_REFUSED)
            await asyncio.sleep(_REFUSED_REDIAL_S if is_refused else _REDIAL_S)

    async def _connect_once(self) -> str:
        """One stream, from dialling to its end; returns why it ended."""
        credentials = grpc.ssl_channel_credentials(
            b"\n".join(self.peer.authorities),
            self._identity.private_key,
            self._identity.certificate,
        )
        options = [*_CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", self.peer.server_name)]
        # With its scheme: a host may be called like one (`unix`), and would be taken for it.
        target = f"dns:///{self.peer.address}"
        channel = aio.secure_channel(target, credentials, options=options)
        try:
            stub: Any = peer_pb2_grpc.PeerServiceStub(channel)
            call = stub.Exchange()
            try:
                return await self._converse(call)
            finally:
                call.cancel()
        except (TimeoutError, aio.AioRpcError, asyncio.InvalidStateError) as error:
            return _problem(error)
        finally:
            await channel.close(None)

    async def _converse(self, call: Any) -> str:
        acked = _Acked()
        async with asyncio.timeout(_DIAL_TIMEOUT_S):
            await call.write(pb.ExchangeRequest(hello=self._hello()))
            if problem := acked.received(await call.read()):
                return problem
        self._queue.clear()
        self._queued_bytes, self._overflowed, self._is_up = 0, False, True
        self._last_problem = ""
        log.info("peer.link_up", peer=self.peer.node_id)
        self._handler.connected(self.peer.node_id)
        # The reader first: it is told why a stream has ended, the writer only that it has.
        both = [
            asyncio.create_task(self._read_acks(call, acked)),
            asyncio.create_task(self._write(call, acked)),
        ]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._is_up = False
            try:
                await tasks.end(both)
            finally:
                self._queue.clear()
                self._handler.disconnected(self.peer.node_id)
        return _reason(both)

    async def _write(self, call: Any, acked: _Acked) -> str:
        loop = asyncio.get_running_loop()
        frame = 0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_IDLE_FRAME_S):
                    await self._wake.wait()
            self._wake.clear()
            while True:
                if self._overflowed:
                    return "the peer is too slow: its queue is full"
                if acked.overdue(loop.time()):
                    return "frames are not acknowledged"
                frame += 1
                acked.sent(frame, loop.time())
                async with asyncio.timeout(_LINK_TIMEOUT_S):
                    await call.write(pb.ExchangeRequest(frame=frame, messages=self._next_batch()))
                if not self._queue:
                    break

    def _next_batch(self) -> list[pb.PeerMessage]:
        batch: list[pb.PeerMessage] = []
        size = 0
        while self._queue and len(batch) < MAX_FRAME_MESSAGES:
            size += self._queue[0].ByteSize()
            if batch and size > MAX_FRAME_BYTES:
                break
            batch.append(self._queue.popleft())
            self._queued_bytes -= batch[-1].ByteSize()
        return batch

    @staticmethod
    async def _read_acks(call: Any, acked: _Acked) -> str:
        while not (problem := acked.received(await call.read())):
            pass
        return problem

    def _hello(self) -> pb.PeerHello:
        return pb.PeerHello(
            sender=self._identity.node_id,
            receiver=self.peer.node_id,
            genesis_hash=self._identity.genesis_hash,
            protocol_version=PROTOCOL_VERSION,
            address=self._directory.own_address(),
            order=self._directory.own_order(),
        )


class _Acked:
    """Which frames of a stream are on their way, and since when."""

    def __init__(self) -> None:
        self._inflight: deque[tuple[int, float]] = deque()
        self._newest = 0

    def sent(self, frame: int, now: float) -> None:
        self._inflight.append((frame, now))
        self._newest = frame

    def received(self, response: Any) -> str:
        """Takes in what the peer has answered; returns why that ends the stream, or nothing."""
        if response == _EOF:
            return _CLOSED
        if response is None:  # the library's word for bytes that are no message
            return _UNREADABLE
        frame = int(response.received_frame)
        if frame > self._newest:
            return _UNSENT
        while self._inflight and self._inflight[0][0] <= frame:
            self._inflight.popleft()
        return ""

    def overdue(self, now: float) -> bool:
        return bool(self._inflight) and now - self._inflight[0][1] > _LINK_TIMEOUT_S


def _is_cancelled() -> bool:
    """Whether somebody has cancelled the running task: the library cancels the users of a call
    when that ends, which is no reason for a link to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _reason(ended: Iterable[asyncio.Task[str]]) -> str:
    """Why a conversation is over, from its ended tasks. Raises what is no end of a stream.

    A task that counts as cancelled tells nothing: the library also reports the end of one call as
    the cancellation of whoever uses it, and taking that for our own would end the link for good.
    """
    reasons = []
    for task in ended:
        if task.cancelled():
            continue
        error = task.exception()
        if error is None:
            reasons.append(task.result())
        elif isinstance(error, TimeoutError | aio.AioRpcError | asyncio.InvalidStateError):
            reasons.append(_problem(error))
        else:
            raise error
    return reasons[0] if reasons else _CANCELLED


def _problem(error: TimeoutError | aio.AioRpcError | asyncio.InvalidStateError) -> str:
    if isinstance(error, aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    # InvalidStateError is the library's word for using a call that has ended meanwhile.
    return "no answer in time" if isinstance(error, TimeoutError) else "the stream had ended"
