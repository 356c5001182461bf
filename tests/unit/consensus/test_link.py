"""A link that breaks is dialled again, in whatever way the library reports the break."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import pytest
from grpc import aio

from quorate.consensus.link import Link
from quorate.consensus.transport import LocalIdentity, Peer, Transport
from quorate.v1 import peer_pb2 as pb

PEER = Peer("spiffe://b.example/node/1", "127.0.0.1:1", "1.node.b.example", b"")
ME = LocalIdentity("spiffe://a.example/node/1", b"", b"", b"\x00" * 32)


class Handler:
    def __init__(self) -> None:
        self.seen: list[str] = []
        self.up = asyncio.Event()

    async def messages(self, peer, messages) -> None:
        raise AssertionError("a link only sends")

    def connected(self, peer: str) -> None:
        self.seen.append("connected")
        self.up.set()

    def disconnected(self, peer: str) -> None:
        self.seen.append("disconnected")


class Call:
    """A stream that greets, and then does what the test says."""

    def __init__(
        self, read: Callable[[], Awaitable[object]], write: Callable[[], Awaitable[None]]
    ) -> None:
        self._read, self._write = read, write
        self.reads = self.writes = 0

    async def read(self) -> object:
        self.reads += 1
        return pb.ExchangeResponse() if self.reads == 1 else await self._read()

    async def write(self, _request: object) -> None:
        self.writes += 1
        if self.writes > 1:
            await self._write()


def broken() -> aio.AioRpcError:
    return aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, aio.Metadata(), aio.Metadata(), "gone")


async def never() -> None:
    await asyncio.Event().wait()


def raises(error: BaseException) -> Callable[[], Awaitable[None]]:
    async def act() -> None:
        raise error

    return act


async def eof() -> object:
    return aio.EOF


CASES = {
    "the status is read": (raises(broken()), never, "UNAVAILABLE: gone"),
    "the end is read": (eof, never, "the peer closed the stream"),
    "a write meets the ended call": (
        never,
        raises(asyncio.InvalidStateError("RPC already finished.")),
        "the stream had ended",
    ),
    "a write meets the ended call and the status is read": (
        raises(broken()),
        raises(asyncio.InvalidStateError("RPC already finished.")),
        "UNAVAILABLE: gone",
    ),
    "a write takes too long": (never, raises(TimeoutError()), "no answer in time"),
    "a write takes too long, and the read is cancelled by that": (
        raises(asyncio.CancelledError()),
        raises(TimeoutError()),
        "no answer in time",
    ),
    "the library cancels both": (
        raises(asyncio.CancelledError()),
        raises(asyncio.CancelledError()),
        "the stream was cancelled",
    ),
}


@pytest.mark.parametrize(("read", "write", "reason"), CASES.values(), ids=CASES.keys())
async def test_every_end_of_a_stream_is_a_reason_to_dial_again(read, write, reason):
    handler = Handler()
    link = Link(ME, PEER, handler)
    conversation = asyncio.create_task(link._converse(Call(read, write)))
    await handler.up.wait()
    link.send([pb.PeerMessage()])
    assert await asyncio.wait_for(conversation, 5) == reason
    assert handler.seen == ["connected", "disconnected"]


async def test_a_fault_of_the_program_ends_the_link_loudly():
    handler = Handler()
    link = Link(ME, PEER, handler)
    with pytest.raises(ZeroDivisionError):
        await link._converse(Call(raises(ZeroDivisionError()), never))


async def test_the_transport_tells_of_a_link_that_failed(monkeypatch):
    async def fail(_self: Link) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Link, "run", fail)
    transport = Transport(ME, [PEER], Handler(), lambda _leaf, _ca: False)
    failing = asyncio.create_task(transport.failure())
    transport._dial()
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(failing, 5)
    await transport.stop()


async def test_a_transport_that_is_stopped_reports_no_failure(monkeypatch):
    async def run(_self: Link) -> None:
        await never()

    monkeypatch.setattr(Link, "run", run)
    transport = Transport(ME, [PEER], Handler(), lambda _leaf, _ca: False)
    failing = asyncio.create_task(transport.failure())
    transport._dial()
    await transport.stop()
    assert not failing.done()
    failing.cancel()
