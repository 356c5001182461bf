"""Who waits for what: outcomes of proposals, and levels that a change has to reach.

Owns futures, nothing else: the core loop resolves them, and only with what is durable.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Final

from quorate.core.outcome import Outcome

_TIDY_FROM: Final = 64
"""Fewer waits than this are not looked through for those that were given up."""


class OutcomeWaiters:
    """Callers that wait until an envelope has been executed, by its proposal key."""

    def __init__(self) -> None:
        self._futures: dict[bytes, list[asyncio.Future[Outcome | None]]] = {}

    def add(self, key: bytes) -> asyncio.Future[Outcome | None]:
        future: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
        self._futures.setdefault(key, []).append(future)
        return future

    def remove(self, key: bytes, future: asyncio.Future[Outcome | None]) -> bool:
        """The caller waits no longer. Returns whether nobody else waits for the same."""
        futures = self._futures.get(key, [])
        if future in futures:
            futures.remove(future)
        if not futures:
            self._futures.pop(key, None)
        return not futures

    def executed(self, key: bytes, outcome: Outcome) -> None:
        for future in self._futures.pop(key, []):
            if not future.done():
                future.set_result(outcome)

    def release_all(self) -> None:
        """Ends every wait without an outcome: this node can no longer learn it in time."""
        for futures in self._futures.values():
            for future in futures:
                if not future.done():
                    future.set_result(None)
        self._futures.clear()


class WatermarkWaiters:
    """Callers that wait until a number that only grows has reached theirs."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, asyncio.Future[bool]]] = []
        self._order = 0
        self._tidy_at = _TIDY_FROM

    def __len__(self) -> int:
        """How many waits are kept: those that go on, and not many more that were given up."""
        return len(self._heap)

    def add(self, index: int) -> asyncio.Future[bool]:
        """True when it was reached; False when it will not be."""
        if len(self._heap) >= self._tidy_at:
            # While nothing is reached, callers give up and come again for as long as it lasts.
            self._heap = [wait for wait in self._heap if not wait[2].done()]
            heapq.heapify(self._heap)
            self._tidy_at = max(_TIDY_FROM, 2 * len(self._heap))
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._order += 1
        heapq.heappush(self._heap, (index, self._order, future))
        return future

    def reached(self, index: int) -> None:
        while self._heap and (self._heap[0][0] <= index or self._heap[0][2].done()):
            _, _, future = heapq.heappop(self._heap)
            if not future.done():
                future.set_result(True)

    def release_all(self) -> None:
        """Ends every wait: what is waited for does not come about."""
        heap, self._heap = self._heap, []
        for _, _, future in heap:
            if not future.done():
                future.set_result(False)


class Bell:
    """Wakes those who follow a value; each gets the newest, however many it has missed."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def ring(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def wait_until(self, is_true: Callable[[], bool]) -> None:
        while not is_true():
            await self._changed.wait()
