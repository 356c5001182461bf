"""A watch for asyncio: an iterator of notices over one stream after the other.

Owns the stream and its reconnection, in a task of its own, so that whoever waits for a notice may
give up waiting and come again; what is said on the stream is `WatchTalk`'s.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Self

import grpc

from quorate.client import wire
from quorate.client.watching import Pauses, WatchNotice, WatchTalk
from quorate.v1 import lease_pb2

_WAITING = 16
"""Notices that wait for their reader before no more is read from the stream."""


class AsyncWatch:
    """An iterator of notices that ends when it, or its gate, is closed. For the tasks of one loop.

    A broken stream is told as AUTHORITY_LOST for every lease, once, and opened again; then what
    happened meanwhile is told. The stream
    is opened by the first wait for a notice.
    """

    def __init__(self, stub: Any, talk: WatchTalk, gate_closed: asyncio.Event) -> None:
        self._stub = stub
        self._talk = talk
        self._gate_closed = gate_closed
        self._closed = asyncio.Event()
        self._call: Any = None
        self._notices: asyncio.Queue[WatchNotice] = asyncio.Queue(_WAITING)
        self._running: asyncio.Task[None] | None = None
        self._taken: asyncio.Task[WatchNotice] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WatchNotice:
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        if self._taken is None:
            self._taken = asyncio.create_task(self._notices.get())
        # It stays when the wait is given up: what it takes is for whoever waits next.
        ends: list[asyncio.Task[Any]] = [self._taken, self._running]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if self._taken.done():
            taken, self._taken = self._taken, None
            return taken.result()
        self._taken.cancel()
        self._taken = None
        with suppress(asyncio.CancelledError):
            self._running.result()  # raises what was wrong with this library
        raise StopAsyncIteration

    def close(self) -> None:
        """Ends the iteration, from any task of the loop."""
        self._closed.set()
        if self._call is not None:
            self._call.cancel()
        if self._running is not None:
            self._running.cancel()

    def _over(self) -> bool:
        return self._closed.is_set() or self._gate_closed.is_set()

    async def _run(self) -> None:
        pauses = Pauses()
        while not self._over():
            ended: Exception | None = None
            requests: asyncio.Queue[lease_pb2.WatchRequest | None] = asyncio.Queue()
            if not self._talk.begin(requests.put_nowait):
                return
            pauses.begin()
            try:
                await self._read(requests)
            except wire.FAILURES as error:
                ended = error
            except asyncio.CancelledError:
                if not self._gate_closed.is_set():
                    raise
            finally:
                lost = self._talk.broken(ended)
            if self._over() or not isinstance(ended, (grpc.RpcError, type(None))):
                return
            for notice in lost:
                await self._notices.put(notice)
            with suppress(TimeoutError):
                async with asyncio.timeout(pauses.after_end_s()):
                    await self._closed.wait()

    async def _read(self, requests: asyncio.Queue[lease_pb2.WatchRequest | None]) -> None:
        async def said() -> Any:
            while (request := await requests.get()) is not None:
                yield request

        self._call = self._stub.Watch(said())
        try:
            async for answer in self._call:
                notice = self._talk.heard(answer)
                if notice is not None:
                    await self._notices.put(notice)
        finally:
            requests.put_nowait(None)
            self._call.cancel()
