"""The receiving side of the streams between nodes.

Owns the question who a peer is: whoever its certificate says, issued by an authority of *its own*
domain, and only while that domain is known and the node is not retired; and the limits and
acknowledgements of frames. The node need not be known, for this one may lag behind, but then has to
show its domain's order to add it. Does not own what messages mean, nor whom this node dials.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Container, Coroutine
from dataclasses import dataclass
from typing import Any, Final

import grpc
import structlog

from quorate.consensus import tasks
from quorate.consensus.limits import MAX_FRAME_MESSAGES
from quorate.consensus.peers import PROTOCOL_VERSION, Directory, Handler, LocalIdentity
from quorate.core import ids
from quorate.core.errors import MalformedError
from quorate.v1 import peer_pb2 as pb
from quorate.v1 import peer_pb2_grpc

_ACK_PERIOD_S: Final = 0.1
"""Frames are acknowledged this often at most."""
_HELLO_TIMEOUT_S: Final = 2.0
"""Who has dialled says so within this time, or is dropped."""
_MAX_GREETING_OF_DOMAIN: Final = 16
"""Streams of one domain's nodes that have not said their hello yet: with one certificate, nobody
keeps the other domains from dialling."""

log = structlog.get_logger(__name__)


class _Rejected(Exception):  # noqa: N818 - not an error of this node
    """A stream that is not let in, or no longer, and what its dialler is told."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


_Ending = tuple[grpc.StatusCode, str]
_CANCELLED: Final[_Ending] = grpc.StatusCode.ABORTED, "the stream was cancelled"
_REPLACED: Final[_Ending] = grpc.StatusCode.ABORTED, "a newer stream has taken its place"
_GONE: Final[_Ending] = grpc.StatusCode.PERMISSION_DENIED, "no longer a peer of this node"
_CLOSED: Final[_Ending] = grpc.StatusCode.UNAVAILABLE, "this node takes no streams now"


@dataclass(eq=False, slots=True)
class _Stream:
    """A stream that was let in. leaf: its peer's certificate. authorities: the CAs that could vouch
    for it then. ending: why this node has ended it."""

    peer: str
    leaf: bytes
    authorities: tuple[bytes, ...]
    reader: asyncio.Task[None]
    ending: _Ending = _CANCELLED


class PeerServicer(peer_pb2_grpc.PeerServiceServicer):
    """The receiving side: admits peers' streams, hands on their messages, acknowledges frames."""

    def __init__(
        self,
        identity: LocalIdentity,
        directory: Directory,
        handler: Handler,
        is_issued_by: Callable[[bytes, bytes], bool],
        *,
        met: Callable[[str, str, tuple[bytes, ...]], bool],
        parted: Callable[[str], None],
    ) -> None:
        """is_issued_by: (leaf PEM, authority PEM) -> bool, whether it is the direct issuer.
        met: (peer, its address or "", its authorities) -> whether it may have a stream; told just
        before a stream is let in. parted: told when that stream is over.
        """
        self._identity = identity
        self._directory = directory
        self._handler = handler
        self._is_issued_by = is_issued_by
        self._met = met
        self._parted = parted
        self._streams: dict[str, _Stream] = {}
        self._greeting_of: Counter[str] = Counter()
        self._readers: set[asyncio.Task[None]] = set()
        self._is_open = True

    async def Exchange(  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.ExchangeRequest],
        context: Any,  # the library's own stubs differ from release to release
    ) -> AsyncIterator[pb.ExchangeResponse]:
        received = _Received()
        try:
            peer, leaf = self._identify(context)
            self._vouching(peer, leaf)  # before anything that it says is listened to
            hello = self._check_hello(peer, await self._greeting(peer, request_iterator))
            await self._end_older(peer)
            reading = self._read(peer, request_iterator, received)
            stream = self._admit(peer, leaf, hello.address, reading)
        except _Rejected as rejected:
            log.warning("peer.rejected", peer=context.peer(), reason=str(rejected))
            await context.abort(rejected.code, str(rejected))
        try:
            yield pb.ExchangeResponse(received_frame=0)
            while not stream.reader.done():
                if await received.wait_for_news(stream.reader):
                    yield pb.ExchangeResponse(received_frame=received.frame)
            await self._finish(stream, context)
        finally:
            self._remove(stream)
            await tasks.end([stream.reader])

    async def _finish(self, stream: _Stream, context: Any) -> None:
        """Tells the dialler why its stream is over, unless it has closed it itself."""
        if stream.reader.cancelled():
            code, reason = stream.ending
            log.info("peer.stream_ended", peer=stream.peer, reason=reason)
            await context.abort(code, reason)
        try:
            await stream.reader
        except _Rejected as rejected:
            log.warning("peer.rejected", peer=stream.peer, reason=str(rejected))
            await context.abort(rejected.code, str(rejected))

    def recheck(self, gone: Container[str]) -> None:
        """What the directory says may have changed: ends the streams of those that are gone, and of
        those that no authority of their domain of now vouches for."""
        for stream in list(self._streams.values()):
            if stream.peer in gone or not self._is_vouched_for(stream):
                self._end(stream, _GONE)

    def _is_vouched_for(self, stream: _Stream) -> bool:
        now = self._directory.authorities_of(stream.peer)
        return now == stream.authorities or any(
            self._is_issued_by(stream.leaf, each) for each in now
        )

    def open(self) -> None:
        """Streams may come in from now on."""
        self._is_open = True

    async def close(self) -> None:
        """Ends every stream in good order, before the server is stopped: what the library cancels
        it reports as a fault. None comes in from now on."""
        self._is_open = False
        for stream in list(self._streams.values()):
            self._end(stream, _CLOSED)
        await tasks.ended(list(self._readers))

    # -- the streams that are let in ---------------------------------------------------------

    def _admit(
        self, peer: str, leaf: bytes, address: str, reading: Coroutine[Any, Any, None]
    ) -> _Stream:
        """Lets a stream in. Who vouches for its peer is asked again: an update may have come since.
        Nothing is waited for between that and the stream's entry here, where updates find it."""
        try:
            authorities = self._vouching(peer, leaf)
            if not self._is_open:
                raise _Rejected(*_CLOSED)
            if not self._met(peer, address, authorities):
                raise _Rejected(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"{peer} is not known here yet, and too many others are not either",
                )
        except _Rejected:
            reading.close()
            raise
        reader = asyncio.create_task(reading)
        self._readers.add(reader)
        reader.add_done_callback(self._readers.discard)
        self._streams[peer] = stream = _Stream(peer, leaf, authorities, reader)
        return stream

    def _end(self, stream: _Stream, why: _Ending) -> None:
        """Ends a stream: from here on, nothing of it is handed on."""
        stream.ending = why
        stream.reader.cancel()
        self._remove(stream)

    def _remove(self, stream: _Stream) -> None:
        if self._streams.get(stream.peer) is stream:
            del self._streams[stream.peer]
            self._parted(stream.peer)

    async def _end_older(self, peer: str) -> None:
        """A peer has one stream to this node: a new one ends the one before, whose messages
        could otherwise arrive behind newer ones. While it waits, yet another may come in."""
        while (older := self._streams.get(peer)) is not None:
            self._end(older, _REPLACED)
            await asyncio.wait([older.reader])

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

    # -- who dials ---------------------------------------------------------------------------

    def _identify(self, context: Any) -> tuple[str, bytes]:
        """Whom the dialler's certificate names, and the certificate, PEM."""
        auth = context.auth_context()
        names, leaves = auth.get("peer_spiffe_id", ()), auth.get("x509_pem_cert", ())
        if len(names) != 1 or len(leaves) != 1:
            raise _Rejected(
                grpc.StatusCode.UNAUTHENTICATED, "the certificate names no single SPIFFE ID"
            )
        node_id, leaf = str(names[0], "utf-8", "replace"), bytes(leaves[0])
        try:
            ids.check_node(node_id)
        except MalformedError:
            raise _Rejected(
                grpc.StatusCode.PERMISSION_DENIED, f"{node_id[:255]} is no node's id"
            ) from None
        return node_id, leaf

    def _vouching(self, node_id: str, leaf: bytes) -> tuple[bytes, ...]:
        """The authorities that may vouch for a node: its own domain's, one of which has issued this
        leaf."""
        authorities = self._directory.authorities_of(node_id)
        if not authorities or node_id == self._identity.node_id:
            raise _Rejected(
                grpc.StatusCode.PERMISSION_DENIED, f"{node_id} can be no peer of this node"
            )
        if not any(self._is_issued_by(leaf, each) for each in authorities):
            raise _Rejected(
                grpc.StatusCode.PERMISSION_DENIED,
                f"the certificate for {node_id} was not issued by its own domain",
            )
        return authorities

    async def _greeting(
        self, peer: str, frames: AsyncIterator[pb.ExchangeRequest]
    ) -> pb.ExchangeRequest | None:
        """The first frame, for which there is only so much room and time."""
        domain = ids.SpiffeId.parse(peer).trust_domain
        if self._greeting_of[domain] >= _MAX_GREETING_OF_DOMAIN:
            raise _Rejected(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"too many streams of {domain} without a hello"
            )
        self._greeting_of[domain] += 1
        try:
            return await _first(frames)
        finally:
            self._greeting_of[domain] -= 1

    def _check_hello(self, peer: str, frame: pb.ExchangeRequest | None) -> pb.PeerHello:
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
        if hello.address:
            try:
                ids.check_address(hello.address)
            except MalformedError:
                raise _Rejected(
                    grpc.StatusCode.INVALID_ARGUMENT, "the hello's address is none"
                ) from None
        if not self._directory.belongs(peer, hello.order):
            raise _Rejected(
                grpc.StatusCode.PERMISSION_DENIED,
                f"{peer} is not known here, and shows no order of its domain to add it",
            )
        return hello


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
