"""A watch for asyncio: an iterator of notices over one stream after the other.

Owns the stream and its reconnection; what is said on it is `WatchTalk`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Self

import grpc

from quorate.client import wire
from quorate.client.watching import (
    FIRST_PAUSE_MS,
    LONGEST_PAUSE_MS,
    WatchNotice,
    WatchTalk,
    reason_of_end,
)
from quorate.v1 import lease_pb2


class AsyncWatch:
    """An iterator of notices that ends when it, or its gate, is closed. For one task.

    A broken stream is told as AUTHORITY_LOST for every lease, once, and opened again.
    """

    def __init__(self, stub: Any, talk: WatchTalk, gate_closed: asyncio.Event) -> None:
        self._stub = stub
        self._talk = talk
        self._gate_closed = gate_closed
        self._closed = asyncio.Event()
        self._call: Any = None
        self._notices = self._run()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WatchNotice:
        return await anext(self._notices)

    def close(self) -> None:
        """Ends the iteration, from any task of the loop."""
        self._closed.set()
        if self._call is not None:
            self._call.cancel()

    def _over(self) -> bool:
        return self._closed.is_set() or self._gate_closed.is_set()

    async def _run(self) -> AsyncIterator[WatchNotice]:
        pause_ms = FIRST_PAUSE_MS
        while not self._over():
            ended: Exception | None = None
            requests: asyncio.Queue[lease_pb2.WatchRequest | None] = asyncio.Queue()
            if not self._talk.begin(requests.put_nowait):
                return
            try:
                async for notice in self._stream(requests):
                    yield notice
                    pause_ms = FIRST_PAUSE_MS
            except wire.FAILURES as error:
                ended = error
            except asyncio.CancelledError:
                if not self._over() or _is_being_cancelled():
                    raise
            lost = self._talk.broken(reason_of_end(ended))
            if self._over() or not isinstance(ended, (grpc.RpcError, type(None))):
                return
            for notice in lost:
                yield notice
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_ms / 1_000):
                    await self._closed.wait()
            pause_ms = min(2 * pause_ms, LONGEST_PAUSE_MS)

    async def _stream(
        self, requests: asyncio.Queue[lease_pb2.WatchRequest | None]
    ) -> AsyncIterator[WatchNotice]:
        async def said() -> AsyncIterator[lease_pb2.WatchRequest]:
            while (request := await requests.get()) is not None:
                yield request

        self._call = self._stub.Watch(said())
        try:
            async for answer in self._call:
                notice = self._talk.heard(answer)
                if notice is not None:
                    yield notice
        finally:
            requests.put_nowait(None)
            self._call.cancel()


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
