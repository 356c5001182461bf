"""The streams between nodes: gRPC over mutual TLS, one stream a direction.

Owns dialling, framing, acknowledgements of frames, limits, and the question who a peer is: whoever
its certificate says, issued by *its own* domain's authority, and only while it is a member. Does
not own what messages mean. Nothing is retried here: a link that stalls is dropped, the replica is
told, and Raft sends again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Protocol

import grpc
import structlog
from grpc import aio

from quorate.consensus.limits import (
    MAX_FRAME_BYTES,
    MAX_FRAME_MESSAGES,
    MAX_PEER_MESSAGE_BYTES,
    MAX_QUEUED_BYTES,
    MAX_QUEUED_MESSAGES,
)
from quorate.v1 import peer_pb2 as pb
from quorate.v1 import peer_pb2_grpc

PROTOCOL_VERSION: Final = 1
_ACK_PERIOD_S: Final = 0.1
"""A receiver acknowledges frames this often at most."""
_IDLE_FRAME_S: Final = 0.5
"""A sender that has nothing to say sends an empty frame this often, so that a dead link shows."""
_LINK_TIMEOUT_S: Final = 1.5
"""A frame that is not acknowledged for this long ends its link."""
_REDIAL_S: Final = 0.25
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
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Peer:
    """Another member, and how to reach it.

    address: host:port to dial. server_name: the DNS name in its certificate.
    ca_certificate: PEM of its own domain's authority; no other may vouch for it.
    """

    node_id: str
    address: str
    server_name: str
    ca_certificate: bytes


@dataclass(frozen=True, slots=True)
class LocalIdentity:
    """This node's certificate chain and key, PEM, and the federation that it belongs to."""

    node_id: str
    certificate: bytes
    private_key: bytes
    genesis_hash: bytes


class Handler(Protocol):
    """What the transport tells the node. All calls come from the event loop."""

    async def messages(self, peer: str, messages: Iterable[pb.PeerMessage]) -> None:
        """Takes in messages, in the peer's order; waits while the node is behind."""
        ...

    def connected(self, peer: str) -> None: ...

    def disconnected(self, peer: str) -> None: ...


class _Rejected(Exception):  # noqa: N818 - not an error of this node
    """A stream that is not admitted, and what its dialler is told."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class PeerServicer(peer_pb2_grpc.PeerServiceServicer):
    """The receiving side: admits members' streams, hands on their messages, acknowledges frames.

    is_issued_by: (leaf PEM, authority PEM) -> bool, the check of a certificate's direct issuer.
    """

    def __init__(
        self,
        identity: LocalIdentity,
        members: Callable[[], dict[str, Peer]],
        handler: Handler,
        is_issued_by: Callable[[bytes, bytes], bool],
    ) -> None:
        self._identity = identity
        self._members = members
        self._handler = handler
        self._is_issued_by = is_issued_by
        self._streams: dict[str, asyncio.Task[Any]] = {}

    async def Exchange(  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.ExchangeRequest],
        context: Any,  # the library's own stubs differ from release to release
    ) -> AsyncIterator[pb.ExchangeResponse]:
        try:
            peer = self._authenticate(context)
            self._check_hello(peer, await anext(request_iterator, None))
        except _Rejected as rejected:
            log.warning("peer.rejected", peer=context.peer(), reason=str(rejected))
            await context.abort(rejected.code, str(rejected))
        await self._replace_older_stream(peer)
        received = _Received()
        reader = asyncio.create_task(self._read(peer, request_iterator, received))
        self._streams[peer] = reader
        try:
            yield pb.ExchangeResponse(received_frame=0)
            while not reader.done():
                if await received.wait_for_news(reader):
                    yield pb.ExchangeResponse(received_frame=received.frame)
            if reader.cancelled():
                raise _Rejected(grpc.StatusCode.ABORTED, "a newer stream has taken its place")
            await reader
        except _Rejected as rejected:
            log.warning("peer.rejected", peer=peer, reason=str(rejected))
            await context.abort(rejected.code, str(rejected))
        finally:
            reader.cancel()
            await asyncio.wait([reader])
            if self._streams.get(peer) is reader:
                del self._streams[peer]

    async def _replace_older_stream(self, peer: str) -> None:
        """A member has one stream to this node: a new one ends the one before, whose messages
        could otherwise arrive behind newer ones. While it waits, yet another may come in."""
        while (older := self._streams.pop(peer, None)) is not None:
            older.cancel()
            await asyncio.wait([older])

    async def _read(
        self, peer: str, frames: AsyncIterator[pb.ExchangeRequest], received: _Received
    ) -> None:
        async for frame in frames:
            if len(frame.messages) > MAX_FRAME_MESSAGES or frame.HasField("hello"):
                raise _Rejected(grpc.StatusCode.INVALID_ARGUMENT, "a frame beyond the limits")
            if frame.frame != received.frame + 1:
                raise _Rejected(grpc.StatusCode.INVALID_ARGUMENT, "a frame out of order")
            await self._handler.messages(peer, frame.messages)
            received.count()

    def _authenticate(self, context: Any) -> str:
        """Who dials: the SPIFFE ID of a certificate that the member's own domain has issued."""
        auth = context.auth_context()
        ids, leaves = auth.get("peer_spiffe_id", ()), auth.get("x509_pem_cert", ())
        if len(ids) != 1 or len(leaves) != 1:
            raise _Rejected(
                grpc.StatusCode.UNAUTHENTICATED, "the certificate names no single SPIFFE ID"
            )
        node_id = str(ids[0], "utf-8", "replace")
        member = self._members().get(node_id)
        if member is None or node_id == self._identity.node_id:
            raise _Rejected(grpc.StatusCode.PERMISSION_DENIED, f"{node_id} is not a member")
        if not self._is_issued_by(leaves[0], member.ca_certificate):
            raise _Rejected(
                grpc.StatusCode.PERMISSION_DENIED,
                f"the certificate for {node_id} was not issued by its own domain",
            )
        return node_id

    def _check_hello(self, peer: str, frame: pb.ExchangeRequest | None) -> None:
        if frame is None or not frame.HasField("hello"):
            raise _Rejected(grpc.StatusCode.INVALID_ARGUMENT, "the first frame must be a hello")
        hello = frame.hello
        if hello.sender != peer:
            raise _Rejected(grpc.StatusCode.PERMISSION_DENIED, "the hello names another node")
        if hello.receiver != self._identity.node_id:
            raise _Rejected(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"this is {self._identity.node_id}, not {hello.receiver[:255]}",
            )
        if hello.genesis_hash != self._identity.genesis_hash:
            raise _Rejected(
                grpc.StatusCode.FAILED_PRECONDITION, "another federation: the genesis differs"
            )
        if hello.protocol_version != PROTOCOL_VERSION:
            raise _Rejected(grpc.StatusCode.FAILED_PRECONDITION, "another protocol version")


class _Received:
    """How many frames a stream has delivered, and whether that is news."""

    def __init__(self) -> None:
        self.frame = 0
        self._told = 0
        self._news = asyncio.Event()

    def count(self) -> None:
        self.frame += 1
        self._news.set()

    async def wait_for_news(self, reader: asyncio.Task[None]) -> bool:
        """Waits for frames, then a little for more of them. False when the stream has ended."""
        news = asyncio.create_task(self._news.wait())
        try:
            await asyncio.wait([news, reader], return_when=asyncio.FIRST_COMPLETED)
            if not self._news.is_set():
                return False
            await asyncio.wait([reader], timeout=_ACK_PERIOD_S)
        finally:
            news.cancel()
        self._news.clear()
        is_news, self._told = self.frame > self._told, self.frame
        return is_news


class Link:
    """The sending side towards one peer: a bounded queue, and a task that keeps a stream open."""

    def __init__(self, identity: LocalIdentity, peer: Peer, handler: Handler) -> None:
        self.peer = peer
        self._identity = identity
        self._handler = handler
        self._queue: deque[pb.PeerMessage] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._is_up = False
        self._overflowed = False
        self._last_problem = ""

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
            problem = await self._connect_once()
            if problem != self._last_problem:
                log.info("peer.link_down", peer=self.peer.node_id, problem=problem)
                self._last_problem = problem
            await asyncio.sleep(_REDIAL_S)

    async def _connect_once(self) -> str:
        """One stream, from dialling to its end; returns why it ended."""
        credentials = grpc.ssl_channel_credentials(
            self.peer.ca_certificate, self._identity.private_key, self._identity.certificate
        )
        options = [*_CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", self.peer.server_name)]
        channel = aio.secure_channel(self.peer.address, credentials, options=options)
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
        async with asyncio.timeout(_DIAL_TIMEOUT_S):
            await call.write(pb.ExchangeRequest(hello=self._hello()))
            if await call.read() == _EOF:
                return _CLOSED
        self._queue.clear()
        self._queued_bytes, self._overflowed, self._is_up = 0, False, True
        self._last_problem = ""
        log.info("peer.link_up", peer=self.peer.node_id)
        self._handler.connected(self.peer.node_id)
        acked = _Acked()
        # The reader first: it is told why a stream has ended, the writer only that it has.
        tasks = [
            asyncio.create_task(self._read_acks(call, acked)),
            asyncio.create_task(self._write(call, acked)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._is_up = False
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._queue.clear()
            self._handler.disconnected(self.peer.node_id)
        return _reason(tasks)

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
        while (response := await call.read()) != _EOF:
            acked.received(response.received_frame)
        return _CLOSED

    def _hello(self) -> pb.PeerHello:
        return pb.PeerHello(
            sender=self._identity.node_id,
            receiver=self.peer.node_id,
            genesis_hash=self._identity.genesis_hash,
            protocol_version=PROTOCOL_VERSION,
        )


class _Acked:
    """Which frames of a stream are on their way, and since when."""

    def __init__(self) -> None:
        self._inflight: deque[tuple[int, float]] = deque()

    def sent(self, frame: int, now: float) -> None:
        self._inflight.append((frame, now))

    def received(self, frame: int) -> None:
        while self._inflight and self._inflight[0][0] <= frame:
            self._inflight.popleft()

    def overdue(self, now: float) -> bool:
        return bool(self._inflight) and now - self._inflight[0][1] > _LINK_TIMEOUT_S


def _reason(tasks: Iterable[asyncio.Task[str]]) -> str:
    """Why a conversation is over, from its ended tasks. Raises what is no end of a stream.

    A task that counts as cancelled tells nothing: the library also reports the end of one call as
    the cancellation of whoever uses it, and taking that for our own would end the link for good.
    """
    reasons = []
    for task in tasks:
        if task.cancelled():
            continue
        error = task.exception()
        if error is None:
            reasons.append(task.result())
        elif isinstance(error, TimeoutError | aio.AioRpcError | asyncio.InvalidStateError):
            reasons.append(_problem(error))
        else:
            raise error
    return reasons[0] if reasons else "the stream was cancelled"


def _problem(error: TimeoutError | aio.AioRpcError | asyncio.InvalidStateError) -> str:
    if isinstance(error, aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    # InvalidStateError is the library's word for using a call that has ended meanwhile.
    return "no answer in time" if isinstance(error, TimeoutError) else "the stream had ended"


class Transport:
    """All links of a node, and the server for those of its peers."""

    def __init__(
        self,
        identity: LocalIdentity,
        peers: Iterable[Peer],
        handler: Handler,
        is_issued_by: Callable[[bytes, bytes], bool],
    ) -> None:
        self._identity = identity
        self._peers = {peer.node_id: peer for peer in peers}
        self._links = {peer.node_id: Link(identity, peer, handler) for peer in self._peers.values()}
        self._servicer = PeerServicer(identity, lambda: self._peers, handler, is_issued_by)
        self._tasks: list[asyncio.Task[None]] = []
        self._server: aio.Server | None = None
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self, listen_address: str) -> int:
        """Serves and starts to dial; returns the port, 0 without peers. Raises OSError when it
        cannot listen."""
        if not self._peers:
            return 0  # a federation of one
        roots = b"\n".join(peer.ca_certificate for peer in self._peers.values())
        credentials = grpc.ssl_server_credentials(
            [(self._identity.private_key, self._identity.certificate)],
            root_certificates=roots,
            require_client_auth=True,
        )
        self._server = aio.server(
            options=[
                ("grpc.max_receive_message_length", MAX_PEER_MESSAGE_BYTES),
                ("grpc.max_concurrent_streams", 16),
                ("grpc.so_reuseport", 0),
            ]
        )
        peer_pb2_grpc.add_PeerServiceServicer_to_server(self._servicer, self._server)
        try:
            port = self._server.add_secure_port(listen_address, credentials)
        except RuntimeError as error:
            raise OSError(f"cannot listen for peers on {listen_address}") from error
        await self._server.start()
        self._dial()
        return port

    def _dial(self) -> None:
        self._tasks = [asyncio.create_task(link.run()) for link in self._links.values()]
        for task in self._tasks:
            task.add_done_callback(self._link_ended)

    def _link_ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._failed.done():
            self._failed.set_exception(error)

    async def failure(self) -> NoReturn:
        """Waits until a link fails by a fault of the program, and raises it: a node that has lost a
        link for good must not go on as if it were whole."""
        await asyncio.shield(self._failed)
        raise AssertionError("only an exception ends the wait")

    def send(self, peer: str, messages: Iterable[pb.PeerMessage]) -> None:
        self._links[peer].send(messages)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._server is not None:
            await self._server.stop(grace=0.2)


__all__ = ["Handler", "Link", "LocalIdentity", "Peer", "PeerServicer", "Transport"]
