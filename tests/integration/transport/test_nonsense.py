"""What is no message of the protocol, on a stream that was let in: it ends that stream, or link,
and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from grpc import aio
from tests.integration.transport.stage import (
    TIMEOUT_S,
    Member,
    Stack,
    Stranger,
    end_of,
    frame,
    hello,
    numbered,
    start,
)

from quorate.consensus import link as linking
from quorate.consensus.transport import Transport
from quorate.v1 import peer_pb2 as pb

NONSENSE = b"\xff\xff\xff"
SERVICE = "quorate.v1.PeerService"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The library writes a stack for each frame that it cannot read."""
    library = logging.getLogger("grpc")
    before = library.level
    library.setLevel(logging.CRITICAL)
    yield
    library.setLevel(before)


@contextlib.asynccontextmanager
async def answering(member: Member, dialler: Member, *answers: bytes) -> AsyncIterator[list[float]]:
    """A server in the place of `member` that answers every stream with these bytes. Yields when
    each stream came in."""
    dialled: list[float] = []

    async def exchange(_requests: Any, _context: Any) -> AsyncIterator[bytes]:
        dialled.append(asyncio.get_running_loop().time())
        for answer in answers:
            yield answer
        await asyncio.Event().wait()

    handler = grpc.stream_stream_rpc_method_handler(exchange)
    credentials = grpc.ssl_server_credentials(
        [(member.tls.private_key, member.tls.certificate)], dialler.ca.certificate, True
    )
    server = aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {"Exchange": handler}),)
    )
    server.add_secure_port(member.address, credentials)
    await server.start()
    try:
        yield dialled
    finally:
        await server.stop(0)


async def outlives(transport: Transport, dialled: list[float], times: int = 3) -> None:
    """The node goes on, and dials again and again."""
    failing = asyncio.create_task(transport.failure())
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while len(dialled) < times:
                assert not failing.done(), failing.exception()
                await asyncio.sleep(0.01)
        assert not failing.done()
    finally:
        failing.cancel()


GREETING = pb.ExchangeResponse(received_frame=0).SerializeToString()
UNSENT = pb.ExchangeResponse(received_frame=10**6).SerializeToString()


@pytest.mark.parametrize(
    "answers",
    [(NONSENSE,), (GREETING, NONSENSE), (UNSENT,), (GREETING, UNSENT)],
    ids=["no greeting", "no acknowledgement", "greets for frames", "acknowledges the unsent"],
)
async def test_a_peer_that_answers_with_nonsense_ends_its_link(
    tasks: Stack, a: Member, b: Member, c: Member, answers: tuple[bytes, ...]
) -> None:
    async with answering(b, a, *answers) as dialled:
        from_a = await start(tasks, a, b, c)
        await start(tasks, c, a)
        await outlives(from_a, dialled)
        assert not answers[1:] or (b.node_id, False) in a.handler.links
        await c.handler.until(lambda: c.handler.is_linked(a))
        from_a.send(c.node_id, numbered(1))
        await c.handler.until(lambda: c.handler.rounds(a.node_id) == [1])


async def test_a_node_that_is_not_known_here_ends_no_more_than_its_link(
    tasks: Stack, a: Member, b: Member
) -> None:
    """It need only dial to be dialled back."""
    a.book.know(b)  # its domain, and the order to add it
    async with answering(b, a, NONSENSE) as dialled:
        from_a = await start(tasks, a)
        async with Stranger(b.tls, a).stream() as call:
            await call.write(hello(b, a))
            assert await call.read() != aio.EOF
            await outlives(from_a, dialled)


async def test_who_answers_with_nonsense_is_dialled_again_more_rarely(
    tasks: Stack, a: Member, b: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linking, "_REDIAL_S", 0)
    monkeypatch.setattr(linking, "_REFUSED_REDIAL_S", 0.5)
    async with answering(b, a, GREETING, NONSENSE) as dialled:
        await outlives(await start(tasks, a, b), dialled)
        assert dialled[2] - dialled[0] > 0.9


@pytest.mark.parametrize("before", [(), ("hello",), ("hello", "frame")], ids=len)
async def test_a_frame_that_cannot_be_read_ends_its_stream(
    tasks: Stack, a: Member, b: Member, before: tuple[str, ...]
) -> None:
    from_b = await start(tasks, b, a)
    failing = asyncio.create_task(from_b.failure())
    said = {"hello": hello(a, b), "frame": frame(1, 5)}
    async with Stranger(a.tls, b).stream() as call:
        raw: Any = call._request_serializer
        assert raw is not None
        call._request_serializer = lambda request: (
            request if isinstance(request, bytes) else raw(request)
        )
        for name in before:
            await call.write(said[name])
        await call.write(NONSENSE)
        code, _ = await end_of(call)
        assert code is not grpc.StatusCode.OK
    await asyncio.sleep(0.1)
    assert not failing.done()
    failing.cancel()
    assert b.handler.rounds(a.node_id) == [5] * ("frame" in before)
    async with Stranger(a.tls, b).stream() as call:  # and there is room for another
        await call.write(hello(a, b))
        await call.write(frame(1, 6))
        await b.handler.until(lambda: 6 in b.handler.rounds(a.node_id))
