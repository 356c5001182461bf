"""The receiving side of the streams between nodes.

Owns the question who a peer is: whoever its certificate says, issued by *its own* domain's
authority, and only while it is a member; and the limits and acknowledgements of frames. Does not
own what messages mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import grpc
import structlog

from quorate.consensus.limits import MAX_FRAME_MESSAGES
from quorate.consensus.peers import PROTOCOL_VERSION, Handler, LocalIdentity, Peer
from quorate.v1 import peer_pb2 as pb
from quorate.v1 import peer_pb2_grpc

_ACK_PERIOD_S: Final = 0.1
"""Frames are acknowledged this often at most."""
_HELLO_TIMEOUT_S: Final = 2.0
"""Who has dialled says so within this time, or is dropped."""

log = structlog.get_logger(__name__)


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
        self._streams: dict[str, asyncio.Task[None]] = {}
        self._readers: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    async def Exchange(  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.ExchangeRequest],
        context: Any,  # the library's own stubs differ from release to release
    ) -> AsyncIterator[pb.ExchangeResponse]:
        try:
            peer = self._authenticate(context)
            self._check_hello(peer, await _first(request_iterator))
        except _Rejected as rejected:
            log.warning("peer.rejected", peer=context.peer(), reason=str(rejected))
            await context.abort(rejected.code, str(rejected))
        await self._replace_older_stream(peer)
        received = _Received()
        reader = asyncio.create_task(self._read(peer, request_iterator, received))
        self._readers.add(reader)
        reader.add_done_callback(self._readers.discard)
        self._streams[peer] = reader
        try:
            yield pb.ExchangeResponse(received_frame=0)
            while not reader.done():
                if await received.wait_for_news(reader):
                    yield pb.ExchangeResponse(received_frame=received.frame)
            if reader.cancelled() and self._is_stopping:
                return
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

    async def stop(self) -> None:
        """Ends every stream in good order, before the server is stopped: what the library cancels
        it reports as a fault."""
        self._is_stopping = True
        while self._readers:
            for reader in self._readers:
                reader.cancel()
            await asyncio.wait(self._readers)

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


async def _first(frames: AsyncIterator[pb.ExchangeRequest]) -> pb.ExchangeRequest | None:
    try:
        async with asyncio.timeout(_HELLO_TIMEOUT_S):
            return await anext(frames, None)
    except TimeoutError:
        raise _Rejected(grpc.StatusCode.DEADLINE_EXCEEDED, "no hello in time") from None
