"""One TCP connection passed on, under the command of its link.

Owns the moving of bytes between two sockets: at once, later, or not at all. Knows nothing of nodes
(see `quorate.chaos.links`) and nothing of what it carries: TLS goes through it end to end.

All of it runs in one event loop, and whether a byte may pass is asked in the same step that hands
it to the kernel. Therefore a link that is cut lets no byte through from that very moment on, not
even one of a chunk that is half sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

CHUNK_BYTES: Final = 64 * 1024
MAX_CHUNKS_IN_FLIGHT: Final = 64
"""How much a relay holds for each direction before the sender feels the pressure."""

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close() sends RST


class Way(Enum):
    """A direction of one connection; the dialler is the node that opened it."""

    FORWARD = auto()  # from the dialler
    BACKWARD = auto()  # to the dialler


@dataclass
class Rules:
    """What a link does to its bytes. Changed in the event loop only; `changed` wakes the waiting.

    held: the ways on which nothing passes. refusing: connections are reset at once.
    """

    held: frozenset[Way] = frozenset()
    refusing: bool = False
    delay_ms: float = 0.0
    bytes_passed: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def passage(self, way: Way) -> None:
        """Waits until bytes may pass this way."""
        if way not in self.held:
            return
        async with self.changed:
            await self.changed.wait_for(lambda: way not in self.held)

    async def all_ways(self) -> None:
        """Waits until the link is wholly open: no handshake gets through half a link."""
        while self.held:
            for way in Way:
                await self.passage(way)


class Relay:
    """One accepted connection, and the one that it is passed on to."""

    def __init__(self, dialler: socket.socket, target: tuple[str, int], rules: Rules) -> None:
        self._dialler = dialler
        self._target = target
        self._far: socket.socket | None = None
        self._rules = rules
        self.suffered = bool(rules.held)
        """True once a cut has held this connection: healing resets it unless told otherwise."""

    async def run(self) -> None:
        """Passes bytes until both ends are done, or this task is cancelled."""
        try:
            await self._rules.all_ways()
            self._far = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            self._far.setblocking(False)
            await asyncio.get_running_loop().sock_connect(self._far, self._target)
            for end in (self._dialler, self._far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(self._dialler, self._far, Way.FORWARD))
                group.create_task(self._pump(self._far, self._dialler, Way.BACKWARD))
        except (OSError, ExceptionGroup) as error:
            _only_os_errors(error)
            self._reset_ends()
        finally:
            self._close()

    def _reset_ends(self) -> None:
        for end in (self._dialler, self._far):
            if end is not None:
                with contextlib.suppress(OSError):  # the other side may have gone already
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)

    def _close(self) -> None:
        current = asyncio.current_task()
        if current is not None and current.cancelling():
            self._reset_ends()
        self._dialler.close()
        if self._far is not None:
            self._far.close()

    async def _pump(self, source: socket.socket, sink: socket.socket, way: Way) -> None:
        loop = asyncio.get_running_loop()
        line: asyncio.Queue[tuple[float, bytes | OSError]] = asyncio.Queue(MAX_CHUNKS_IN_FLIGHT)

        async def read() -> None:
            while True:
                chunk: bytes | OSError
                try:
                    chunk = await loop.sock_recv(source, CHUNK_BYTES)
                except OSError as error:
                    # The end of a connection travels in line too: a cut hides a death as well.
                    chunk = error
                await line.put((loop.time() + self._rules.delay_ms / 1_000, chunk))
                if not chunk or isinstance(chunk, OSError):
                    return

        async def write() -> None:
            while True:
                due, chunk = await line.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                if isinstance(chunk, OSError):
                    await self._rules.passage(way)
                    raise chunk
                if not chunk:
                    await self._rules.passage(way)
                    sink.shutdown(socket.SHUT_WR)
                    return
                await self._send(sink, memoryview(chunk), way)

        async with asyncio.TaskGroup() as group:
            group.create_task(read())
            group.create_task(write())

    async def _send(self, sink: socket.socket, left: memoryview, way: Way) -> None:
        while left:
            await self._rules.passage(way)
            # No step of the loop lies between the passage's last look and this send.
            assert way not in self._rules.held
            try:
                sent = sink.send(left)
            except BlockingIOError:
                await _writable(sink)
                continue
            self._rules.bytes_passed += sent
            left = left[sent:]


async def _writable(sink: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(sink, wake)
    try:
        await ready
    finally:
        loop.remove_writer(sink)


def _only_os_errors(error: OSError | ExceptionGroup[Exception]) -> None:
    """A connection that breaks is what this module is for; anything else is a fault of ours."""
    if isinstance(error, ExceptionGroup):
        _, rest = error.split(OSError)
        if rest is not None:
            raise rest
