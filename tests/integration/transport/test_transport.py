"""Two nodes and strangers, over real sockets and real certificates on the loopback."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

import grpc
import pytest
from grpc import aio
from tests.integration.transport.stage import (
    TIMEOUT_S,
    Member,
    Stack,
    Stranger,
    forge,
    frame,
    hello,
    made,
    numbered,
    start,
)

from quorate.consensus import link as linking
from quorate.consensus import servicer
from quorate.consensus.limits import MAX_FRAME_BYTES, MAX_FRAME_MESSAGES, MAX_PEER_MESSAGE_BYTES
from quorate.node.certificates import KeyPair, issue_executor, issue_operator
from quorate.v1 import peer_pb2 as pb

# -- two members ---------------------------------------------------------------------------------


async def test_messages_arrive_in_order_both_ways(tasks: Stack, a: Member, b: Member) -> None:
    from_a, from_b = await start(tasks, a, b), await start(tasks, b, a)
    await a.handler.until(lambda: a.handler.links == [(b.node_id, True)])
    await b.handler.until(lambda: b.handler.links == [(a.node_id, True)])
    for first in range(0, 3000, 100):
        from_a.send(b.node_id, numbered(*range(first, first + 100)))
        from_b.send(a.node_id, numbered(*range(first, first + 50)))
    await b.handler.until(lambda: len(b.handler.received) == 3000)
    await a.handler.until(lambda: len(a.handler.received) == 1500)
    assert b.handler.rounds(a.node_id) == list(range(3000))
    assert a.handler.rounds(b.node_id) == sorted(a.handler.rounds(b.node_id))


async def test_without_a_link_messages_are_dropped(tasks: Stack, a: Member, b: Member) -> None:
    from_a = await start(tasks, a, b)
    from_a.send(b.node_id, numbered(1))
    await start(tasks, b, a)
    await a.handler.until(lambda: (b.node_id, True) in a.handler.links)
    from_a.send(b.node_id, numbered(2))
    await b.handler.until(lambda: bool(b.handler.received))
    assert b.handler.rounds(a.node_id) == [2]


async def test_a_member_that_comes_back_is_dialled_again(
    tasks: Stack, a: Member, b: Member
) -> None:
    from_a = await start(tasks, a, b)
    first = await start(tasks, b, a)
    await a.handler.until(lambda: a.handler.links == [(b.node_id, True)])
    await first.stop()
    await a.handler.until(lambda: a.handler.links[1:] == [(b.node_id, False)])
    await start(tasks, b, a)
    await a.handler.until(lambda: a.handler.links[2:] == [(b.node_id, True)])
    from_a.send(b.node_id, numbered(7))
    await b.handler.until(lambda: b.handler.rounds(a.node_id) == [7])


async def test_a_member_that_takes_nothing_in_is_dropped(
    tasks: Stack, a: Member, b: Member
) -> None:
    """It keeps the connection, and answers at the level of HTTP/2; it is stuck all the same."""
    from_a = await start(tasks, a, b)
    await start(tasks, b, a)
    await a.handler.until(lambda: (b.node_id, True) in a.handler.links)
    b.handler.open.clear()
    loop = asyncio.get_running_loop()
    began = loop.time()
    from_a.send(b.node_id, numbered(1))
    await a.handler.until(lambda: (b.node_id, False) in a.handler.links)
    assert loop.time() - began < 5 * linking._LINK_TIMEOUT_S
    b.handler.open.set()
    await a.handler.until(lambda: a.handler.links[-1] == (b.node_id, True))


async def test_a_slow_member_costs_bounded_memory(
    tasks: Stack, a: Member, b: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it does not take in queues up to a limit; then the link is dropped, with the queue."""
    monkeypatch.setattr(linking, "MAX_QUEUED_MESSAGES", 500)
    monkeypatch.setattr(linking, "_LINK_TIMEOUT_S", 60)  # it is the queue that ends the link
    from_a = await start(tasks, a, b)
    await start(tasks, b, a)
    await a.handler.until(lambda: (b.node_id, True) in a.handler.links)
    b.handler.open.clear()
    link = from_a._links._links[b.node_id]
    sent = 0
    async with asyncio.timeout(TIMEOUT_S):
        while (b.node_id, False) not in a.handler.links:
            from_a.send(b.node_id, numbered(*range(100)))
            sent += 100
            assert len(link._queue) <= 500 + 100
            await asyncio.sleep(0)
    await a.handler.until(lambda: (b.node_id, False) in a.handler.links)
    assert not link._queue
    assert sent > 500
    b.handler.open.set()


async def test_what_a_node_does_not_take_in_stays_with_its_sender(
    tasks: Stack, a: Member, b: Member
) -> None:
    """While a node is behind, its peer's stream is not read: what waits here is bounded."""
    await start(tasks, b, a)
    b.handler.open.clear()
    filling = pb.PeerMessage(propose=pb.Propose(payload=bytes(MAX_FRAME_BYTES)))
    async with Stranger(a.tls, b).stream() as call:
        await call.write(hello(a, b))
        await call.read()
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 200:
                async with asyncio.timeout(1):
                    await call.write(pb.ExchangeRequest(frame=sent + 1, messages=[filling]))
                sent += 1
        assert sent < 32, f"{sent} frames of a megabyte have left the sender"
        assert b.handler.waiting == 1
    b.handler.open.set()


# -- who is let in -------------------------------------------------------------------------------


async def refused(
    stack: Stack, to: Member, members: list[Member], tls: KeyPair, *frames: pb.ExchangeRequest
) -> tuple[grpc.StatusCode, str]:
    await start(stack, to, *members)
    answer = await Stranger(tls, to).refusal(*frames)
    assert to.handler.received == []
    return answer


async def test_an_executor_of_a_member_is_refused(tasks: Stack, a: Member, b: Member) -> None:
    """Its domain vouches for it, but it is no node."""
    executor = issue_executor(a.ca, "spiffe://a.example/agent/payments")
    said = hello(a, b, sender="spiffe://a.example/agent/payments")
    code, why = await refused(tasks, b, [a], executor, said)
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "is no node's id" in why


async def test_an_operator_of_a_member_is_refused(tasks: Stack, a: Member, b: Member) -> None:
    operator = issue_operator(a.ca, "spiffe://a.example/operator/admin")
    said = hello(a, b, sender="spiffe://a.example/operator/admin")
    code, why = await refused(tasks, b, [a], operator, said)
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "is no node's id" in why


async def test_a_node_does_not_let_itself_in(tasks: Stack, a: Member, b: Member) -> None:
    code, why = await refused(tasks, b, [a], b.tls, hello(b, b))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "can be no peer of this node" in why


async def test_an_authority_that_nobody_knows_is_refused(
    tasks: Stack, a: Member, b: Member, c: Member
) -> None:
    code, _ = await refused(tasks, b, [a], c.tls, hello(c, b))
    assert code is grpc.StatusCode.UNAVAILABLE, "TLS itself says no"


async def test_a_member_cannot_name_another_members_node(
    tasks: Stack, a: Member, b: Member, c: Member
) -> None:
    """Both authorities are in the bundle that TLS accepts; each vouches for its own domain only."""
    forged = forge(c.ca, a.node_id)
    code, why = await refused(tasks, b, [a, c], forged, hello(a, b))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "not issued by its own domain" in why


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"sender": "spiffe://c.example/node/1"}, ("PERMISSION_DENIED", "names another node")),
        ({"receiver": "spiffe://c.example/node/1"}, ("FAILED_PRECONDITION", "this is")),
        ({"receiver": "x" * 5000}, ("FAILED_PRECONDITION", "this is")),
        ({"genesis_hash": b"\x02" * 32}, ("FAILED_PRECONDITION", "another federation")),
        ({"genesis_hash": b""}, ("FAILED_PRECONDITION", "another federation")),
        ({"protocol_version": 99}, ("FAILED_PRECONDITION", "another protocol version")),
        ({"address": "a.example"}, ("INVALID_ARGUMENT", "the hello's address is none")),
        ({"address": "unix:/run/x"}, ("INVALID_ARGUMENT", "the hello's address is none")),
        ({"address": "127.0.0.1:0"}, ("INVALID_ARGUMENT", "the hello's address is none")),
        ({"address": "x" * 5000}, ("INVALID_ARGUMENT", "the hello's address is none")),
    ],
)
async def test_a_hello_that_does_not_fit_is_refused(
    tasks: Stack, a: Member, b: Member, changes: dict[str, Any], answer: tuple[str, str]
) -> None:
    code, why = await refused(tasks, b, [a], a.tls, hello(a, b, **changes))
    assert code.name == answer[0]
    assert answer[1] in why


async def test_another_federation_is_no_peer(tasks: Stack, a: Member, b: Member) -> None:
    await start(tasks, b, a)
    await start(tasks, a, b, genesis_hash=b"\x09" * 32)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(4 * linking._REDIAL_S):
            await a.handler.until(lambda: bool(a.handler.links))


async def test_a_dialler_does_not_talk_to_another_node(
    tasks: Stack, a: Member, b: Member, c: Member
) -> None:
    """Somebody else answers at the address: his certificate is not b's."""
    await start(tasks, c, a)
    mistaken = replace(b, port=c.port)
    await start(tasks, a, mistaken)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(4 * linking._REDIAL_S):
            await a.handler.until(lambda: bool(a.handler.links))
    assert c.handler.received == []


# -- what is let in ------------------------------------------------------------------------------


async def test_frames_before_a_hello_are_refused(tasks: Stack, a: Member, b: Member) -> None:
    code, why = await refused(tasks, b, [a], a.tls, frame(1, 1))
    assert (code, why) == (grpc.StatusCode.INVALID_ARGUMENT, "the first frame must be a hello")


@pytest.mark.parametrize(
    "bad",
    [
        frame(2, 1),
        frame(0, 1),
        pb.ExchangeRequest(messages=numbered(1)),
        pb.ExchangeRequest(frame=1, hello=pb.PeerHello(), messages=numbered(1)),
        pb.ExchangeRequest(frame=1, messages=numbered(*[1] * (MAX_FRAME_MESSAGES + 1))),
    ],
    ids=["skips", "goes back", "no number", "second hello", "too many messages"],
)
async def test_a_frame_that_breaks_the_rules_ends_the_stream(
    tasks: Stack, a: Member, b: Member, bad: pb.ExchangeRequest
) -> None:
    code, _ = await refused(tasks, b, [a], a.tls, hello(a, b), bad)
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_frame_that_comes_twice_ends_the_stream(tasks: Stack, a: Member, b: Member) -> None:
    await start(tasks, b, a)
    code, _ = await Stranger(a.tls, b).refusal(hello(a, b), frame(1, 5), frame(1, 5))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert b.handler.rounds(a.node_id) == [5]


async def test_a_frame_beyond_the_size_limit_is_refused(tasks: Stack, a: Member, b: Member) -> None:
    assert MAX_PEER_MESSAGE_BYTES > MAX_FRAME_BYTES
    huge = pb.PeerMessage(propose=pb.Propose(payload=bytes(MAX_PEER_MESSAGE_BYTES)))
    bad = pb.ExchangeRequest(frame=1, messages=[huge])
    code, _ = await refused(tasks, b, [a], a.tls, hello(a, b), bad)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    "garbage", [b"", b"\x00" * 4096, b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01"]
)
async def test_garbage_on_the_port_harms_nobody(
    tasks: Stack, a: Member, b: Member, garbage: bytes
) -> None:
    from_a = await start(tasks, a, b)
    await start(tasks, b, a)
    reader, writer = await asyncio.open_connection("127.0.0.1", b.port)
    writer.write(garbage)
    writer.write_eof()
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(TIMEOUT_S):
            await reader.read()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    await a.handler.until(lambda: (b.node_id, True) in a.handler.links)
    from_a.send(b.node_id, numbered(3))
    await b.handler.until(lambda: b.handler.rounds(a.node_id) == [3])


async def test_who_dials_and_says_nothing_is_dropped(
    tasks: Stack, monkeypatch: pytest.MonkeyPatch, a: Member, b: Member
) -> None:
    monkeypatch.setattr(servicer, "_HELLO_TIMEOUT_S", 0.1)
    await start(tasks, b, a)
    async with Stranger(a.tls, b).stream() as silent, asyncio.timeout(TIMEOUT_S):
        with contextlib.suppress(aio.AioRpcError):
            await silent.read()
        assert await silent.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_second_stream_of_a_member_ends_the_first(
    tasks: Stack, a: Member, b: Member
) -> None:
    await start(tasks, b, a)
    stranger = Stranger(a.tls, b)
    async with stranger.stream() as first, stranger.stream() as second:
        await first.write(hello(a, b))
        await first.read()
        await first.write(frame(1, 1))
        await b.handler.until(lambda: b.handler.rounds(a.node_id) == [1])
        await second.write(hello(a, b))
        await second.read()
        await second.write(frame(1, 3))
        await b.handler.until(lambda: 3 in b.handler.rounds(a.node_id))
        async with asyncio.timeout(TIMEOUT_S):
            with contextlib.suppress(aio.AioRpcError):
                while await first.read() != aio.EOF:
                    pass
            code, why = await first.code(), await first.details()
        assert code is grpc.StatusCode.ABORTED
        assert "a newer stream" in why


async def test_of_many_streams_at_once_one_is_left(tasks: Stack, a: Member, b: Member) -> None:
    """Whatever the order in which they are let in, only one may deliver."""
    receiver = await start(tasks, b, a)
    stranger = Stranger(a.tls, b)
    async with contextlib.AsyncExitStack() as streams:
        calls = [await streams.enter_async_context(stranger.stream()) for _ in range(6)]
        b.handler.open.clear()
        for call in calls:
            await call.write(hello(a, b))
            await call.write(frame(1, 1))
        for call in calls:
            with contextlib.suppress(aio.AioRpcError):
                await call.read()
        readers = [
            task
            for task in asyncio.all_tasks()
            if "_read" in getattr(task.get_coro(), "__qualname__", "")
            and "PeerServicer" in getattr(task.get_coro(), "__qualname__", "")
        ]
        assert len(readers) == 1
        admitted = receiver._servicer._streams.values()
        assert [stream.reader for stream in admitted] == readers
        b.handler.open.set()


# -- starting and stopping -----------------------------------------------------------------------


async def test_a_port_that_is_taken_is_an_error_of_the_operating_system(
    tasks: Stack, a: Member, b: Member
) -> None:
    await start(tasks, b, a)
    second = made(b, a)
    with pytest.raises(OSError, match="cannot listen for peers"):
        await second.start(b.address)
    await second.stop()


async def test_stopping_tells_that_the_links_are_gone(tasks: Stack, a: Member, b: Member) -> None:
    from_a = await start(tasks, a, b)
    await start(tasks, b, a)
    await a.handler.until(lambda: (b.node_id, True) in a.handler.links)
    await from_a.stop()
    assert a.handler.links[-1] == (b.node_id, False)
    from_a.send(b.node_id, numbered(1))
