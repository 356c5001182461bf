"""What nodes say to each other is not compressed on its way: hazard 17 costs no time here."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from tests.integration.transport.stage import Member, Stack, start

from quorate.v1 import peer_pb2 as pb

SIZE_BYTES = 100_000


class Counter:
    """Stands between two nodes, passes everything on, and counts what the one that dials says."""

    def __init__(self, to_port: int) -> None:
        self._to_port = to_port
        self.said_bytes = 0

    async def serve(self, stack: Stack) -> int:
        server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        stack.callback(server.close)
        return int(server.sockets[0].getsockname()[1])

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_there, to_there = await asyncio.open_connection("127.0.0.1", self._to_port)

        async def said() -> None:
            while part := await reader.read(65_536):
                self.said_bytes += len(part)
                to_there.write(part)
                await to_there.drain()

        async def answered() -> None:
            while part := await from_there.read(65_536):
                writer.write(part)
                await writer.drain()

        both = [asyncio.ensure_future(said()), asyncio.ensure_future(answered())]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for each in both:
            each.cancel()
        await asyncio.wait(both)
        writer.close()
        to_there.close()


async def test_what_leaves_is_as_long_as_what_is_said(tasks: Stack, a: Member, b: Member) -> None:
    counter = Counter(b.port)
    port = await counter.serve(tasks)
    await start(tasks, b, a)
    from_a = await start(tasks, a, replace(b, port=port))
    await a.handler.until(lambda: a.handler.is_linked(b))
    before = counter.said_bytes
    message = pb.PeerMessage(propose=pb.Propose(payload=bytes(SIZE_BYTES)))
    from_a.send(b.node_id, [message])
    await b.handler.until(lambda: bool(b.handler.received))
    assert counter.said_bytes - before >= SIZE_BYTES
