"""A link that breaks is dialled again, in whatever way the library reports the break."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import grpc
import pytest
from grpc import aio

from quorate.consensus import link as linking
from quorate.consensus.link import Link
from quorate.consensus.links import Links
from quorate.consensus.peers import LocalIdentity, Peer
from quorate.v1 import peer_pb2 as pb

PEER = Peer("spiffe://b.example/node/1", "127.0.0.1:1", "1.node.b.example", (b"",))
ME = LocalIdentity("spiffe://a.example/node/1", b"", b"", b"\x00" * 32)


class Book:
    """As much of a `Directory` as a link needs."""

    def own_address(self) -> str:
        return ""

    def own_order(self) -> bytes:
        return b""


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


def says(*responses: object) -> Callable[[], Awaitable[object]]:
    """These, and then nothing."""
    left = list(responses)

    async def act() -> object:
        await asyncio.sleep(0)
        return left.pop(0) if left else await never()

    return act


CASES = {
    "the status is read": (raises(broken()), never, "UNAVAILABLE: gone"),
    "the end is read": (eof, never, "the peer closed the stream"),
    "an acknowledgement is no message": (  # which is how the library says so
        says(None),
        never,
        "an acknowledgement that cannot be read",
    ),
    "what was never sent is acknowledged": (
        says(pb.ExchangeResponse(received_frame=99)),
        never,
        "an acknowledgement of what was never sent",
    ),
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
    link = Link(ME, PEER, handler, Book())
    conversation = asyncio.create_task(link._converse(Call(read, write)))
    await handler.up.wait()
    link.send([pb.PeerMessage()])
    assert await asyncio.wait_for(conversation, 5) == reason
    assert handler.seen == ["connected", "disconnected"]


@pytest.mark.parametrize(
    ("greeting", "reason"),
    [
        (None, "an acknowledgement that cannot be read"),
        (pb.ExchangeResponse(received_frame=1), "an acknowledgement of what was never sent"),
        (aio.EOF, "the peer closed the stream"),
    ],
)
async def test_a_greeting_that_is_none_is_no_link(greeting, reason):
    class Rude(Call):
        async def read(self) -> object:
            return greeting

    handler = Handler()
    link = Link(ME, PEER, handler, Book())
    assert await link._converse(Rude(never, never)) == reason
    assert handler.seen == []


@pytest.mark.parametrize(
    ("count", "size_bytes"), [(16_385, 1), (17, 1024 * 1024 - 64)], ids=["messages", "bytes"]
)
async def test_a_queue_beyond_its_limit_ends_the_link_and_takes_no_more(count, size_bytes):
    """A peer that reads nothing costs this node so much memory, and no more."""
    handler = Handler()
    link = Link(ME, PEER, handler, Book())
    conversation = asyncio.create_task(link._converse(Call(never, never)))
    await handler.up.wait()
    message = pb.PeerMessage()
    message.propose.payload = bytes(size_bytes)
    link.send([message] * (count - 1))
    assert not link._overflowed
    link.send([message])
    assert link._overflowed
    link.send([message] * count)
    assert len(link._queue) == count
    assert await asyncio.wait_for(conversation, 5) == "the peer is too slow: its queue is full"
    assert handler.seen == ["connected", "disconnected"]


async def test_acknowledgements_of_what_was_sent_end_nothing():
    """Of the newest frame, of an older one, and of the same again."""
    handler = Handler()
    link = Link(ME, PEER, handler, Book())
    read = asyncio.Event()
    frames = [2, 1, 2]

    async def acknowledge() -> object:
        while call.writes < 3:  # noqa: ASYNC110
            await asyncio.sleep(0)  # nobody is told
        if not frames:
            read.set()
            await never()
        return pb.ExchangeResponse(received_frame=frames.pop(0))

    async def write() -> None:
        await asyncio.sleep(0)

    call = Call(acknowledge, write)
    conversation = asyncio.create_task(link._converse(call))
    await handler.up.wait()
    for number in (2, 3):
        link.send([pb.PeerMessage()])
        while call.writes < number:  # noqa: ASYNC110
            await asyncio.sleep(0)  # nobody is told
    await asyncio.wait_for(read.wait(), 5)
    assert not conversation.done()
    conversation.cancel()
    with pytest.raises(asyncio.CancelledError):
        await conversation


async def test_a_fault_of_the_program_ends_the_link_loudly():
    handler = Handler()
    link = Link(ME, PEER, handler, Book())
    with pytest.raises(ZeroDivisionError):
        await link._converse(Call(raises(ZeroDivisionError()), never))


def links(ended: list[asyncio.Task[None]]) -> Links:
    made = Links(lambda peer: Link(ME, peer, Handler(), Book()), ended.append)
    made.name([PEER])
    made.dial()
    return made


async def test_a_link_that_failed_is_told_of(monkeypatch):
    async def fail(_self: Link) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Link, "run", fail)
    ended: list[asyncio.Task[None]] = []
    made = links(ended)
    await asyncio.wait(list(made._tasks))
    await made.stop()
    assert [type(task.exception()) for task in ended] == [ZeroDivisionError]


async def test_links_that_are_stopped_report_no_failure(monkeypatch):
    async def run(_self: Link) -> None:
        await never()

    monkeypatch.setattr(Link, "run", run)
    ended: list[asyncio.Task[None]] = []
    made = links(ended)
    await asyncio.sleep(0)
    await made.stop()
    await asyncio.sleep(0)
    assert [task.cancelled() for task in ended] == [True]


async def test_the_library_cancels_a_link_that_nobody_else_has_cancelled(monkeypatch):
    """It must be dialled again: nobody would notice that its task is over."""
    monkeypatch.setattr(linking, "_REDIAL_S", 0)
    dialled = []

    async def cancelled_by_the_library(self: Link) -> str:
        dialled.append(self.peer)
        if len(dialled) < 3:
            raise asyncio.CancelledError
        again.set()
        await never()
        return ""

    again = asyncio.Event()
    monkeypatch.setattr(Link, "_connect_once", cancelled_by_the_library)
    ended: list[asyncio.Task[None]] = []
    made = links(ended)
    await asyncio.wait_for(again.wait(), 5)
    await made.stop()
    assert [task.cancelled() for task in ended] == [True]


async def test_what_follows_an_end_waits_for_it_though_it_is_cancelled():
    """The node hears that a link is down, whatever else ends meanwhile."""
    handler = Handler()
    link = Link(ME, PEER, handler, Book())
    letting_go = asyncio.Event()

    async def slow_to_end() -> object:
        try:
            await never()
        finally:
            await letting_go.wait()
        return aio.EOF

    conversation = asyncio.create_task(link._converse(Call(slow_to_end, raises(broken()))))
    await handler.up.wait()
    link.send([pb.PeerMessage()])  # the write fails; the read takes its time
    while link._is_up:  # noqa: ASYNC110
        await asyncio.sleep(0)  # nobody is told yet
    conversation.cancel()
    await asyncio.sleep(0)
    assert handler.seen == ["connected"]
    letting_go.set()
    with pytest.raises(asyncio.CancelledError):
        await conversation
    assert handler.seen == ["connected", "disconnected"]


async def test_a_peer_that_moves_is_dialled_anew_when_its_old_link_is_over(monkeypatch):
    """The node must hear that the one is down before it hears that the other is up."""
    told = []
    letting_go = asyncio.Event()

    async def run(self: Link) -> None:
        told.append(("begins", self.peer.address))
        try:
            await never()
        finally:
            await letting_go.wait()
            told.append(("over", self.peer.address))

    monkeypatch.setattr(Link, "run", run)
    made = links([])
    await asyncio.sleep(0)
    for address in ("127.0.0.1:2", "127.0.0.1:3"):
        made.name([replace(PEER, address=address)])
        await asyncio.sleep(0)
    assert told == [("begins", "127.0.0.1:1")]
    letting_go.set()
    async with asyncio.timeout(5):
        while len(told) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0)  # nobody is told
    await made.stop()
    assert told == [
        ("begins", "127.0.0.1:1"),
        ("over", "127.0.0.1:1"),
        ("begins", "127.0.0.1:3"),
        ("over", "127.0.0.1:3"),
    ]


async def test_a_host_that_is_called_like_a_scheme_is_a_host(monkeypatch):
    """`unix:7401` is a fine address; the library would take it for a socket in the file system."""
    targets = []

    def dial(target: str, *_args: object, **_options: object) -> None:
        targets.append(target)
        raise TimeoutError

    monkeypatch.setattr(aio, "secure_channel", dial)
    monkeypatch.setattr(linking, "_REDIAL_S", 0)
    link = Link(ME, replace(PEER, address="unix:7401"), Handler(), Book())
    with pytest.raises(TimeoutError):
        await link._connect_once()
    assert targets == ["dns:///unix:7401"]
