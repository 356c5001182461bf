"""Waiting until a change holds as widely as somebody wishes, and telling how far it has come.

Owns the callers who wait for a level, what each of them is promised meanwhile, and how often they
hear of it. The levels are the core's (`authority_keeper`), the promises `quorate.lease.bounds`'.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Final

from quorate.api.ports import Level, OpenNode, Progress, Reach
from quorate.lease.bounds import Bounds, Known
from quorate.lease.clock import Clock
from quorate.node.node_core import NodeCore
from quorate.node.open_members import ASK_EVERY_MS
from quorate.node.waiting import Bell, WatermarkWaiters

PACE_S: Final = ASK_EVERY_MS / 1_000
"""Between two messages to one caller, and between two questions to the leader for it."""


class _Change:
    """One entry of the ledger that somebody waits for, and what is known of it here."""

    def __init__(self, ledger_index: int, committed_ns: int) -> None:
        self.ledger_index = ledger_index
        self.committed_ns = committed_ns
        self.index: int | None = None
        """The Raft index that is waited for."""
        self.enforced_ns: int | None = None
        self.level = Level.COMMITTED

    @property
    def known(self) -> Known:
        return Known(self.committed_ns, self.enforced_ns, self.level is Level.DRAINED)


class Reaching:
    """Those who wait at one node. The core's observer tells it what has moved."""

    def __init__(self, core: NodeCore, clock: Clock, send: Callable[[], None]) -> None:
        """send: has the core's messages sent soon."""
        self._core = core
        self._clock = clock
        self._send = send
        self._grown = Bell()
        self._enforced = WatermarkWaiters()
        self._drained = WatermarkWaiters()

    @property
    def _bounds(self) -> Bounds:
        """By the largest parameters that were ever in force: what rests on former ones counts."""
        terms = self._core.bounding
        return Bounds(terms.authority_period_ms, terms.max_permit_ttl_ms, terms.rho_ppm)

    def grown(self) -> None:
        """The ledger has new entries."""
        self._grown.ring()

    def reached(self, watermark: int, drained: int) -> None:
        """The Raft indexes up to which everything is enforced, and drained."""
        self._enforced.reached(watermark)
        self._drained.reached(drained)

    async def until_beyond(self, ledger_size: int) -> None:
        """Waits until the ledger has more entries than this."""
        await self.until(lambda: self._core.ledger_size > ledger_size)

    async def until(self, is_true: Callable[[], bool]) -> None:
        """Returns when this is true, which it becomes with an entry of the ledger."""
        await self._grown.wait_until(is_true)

    async def wait_for(self, ledger_index: int, level: Level, timeout_ms: int) -> Reach:
        """See `Core.wait_for`."""
        change = self._change(ledger_index)
        await self._follow(change, level, timeout_ms)
        return self._reach(change)

    async def progress(
        self, ledger_index: int, level: Level, timeout_ms: int
    ) -> AsyncGenerator[Progress, None]:
        """See `Core.progress`."""
        change = self._change(ledger_index)
        following = asyncio.create_task(self._follow(change, level, timeout_ms))
        told: object = None
        try:
            await asyncio.sleep(0)  # what holds already needs no message of its own
            while not following.done():
                if self._core.keeper.ask_open(self._core.replica):
                    self._send()
                now = Progress(self._reach(change), self._open(change, level))
                state = now.reach.level, [(each.node_id, each.lacks) for each in now.open]
                if state != told:
                    told = state
                    yield now
                await asyncio.wait([following], timeout=PACE_S)
            following.result()
            yield Progress(self._reach(change), is_last=True)
        finally:
            following.cancel()

    def _change(self, ledger_index: int) -> _Change:
        # Its outcome was told, and only what is committed has one: so it is known from here on at
        # the latest. Not from when it was asked for, nor from when another node has learned of it.
        return _Change(ledger_index, self._clock.boottime_ns())

    async def _follow(self, change: _Change, level: Level, timeout_ms: int) -> None:
        """Until the level is reached, or the time is up; `change` says which."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_ms / 1000):
                await self.until_beyond(change.ledger_index)
                # The state that is applied by now holds the entry; waiting for all of it is the
                # safe side of knowing exactly which index made it.
                index = change.index = self._core.durable_applied
                if level <= Level.COMMITTED:
                    return
                if self._core.keeper.watermark < index:
                    await self._enforced.add(index)
                change.enforced_ns = self._clock.boottime_ns()
                change.level = Level.ENFORCED
                if level <= Level.ENFORCED:
                    return
                if self._core.keeper.drained < index:
                    await self._drained.add(index)
                change.level = Level.DRAINED

    def _reach(self, change: _Change) -> Reach:
        bound = self._bounds.left(change.known, self._clock.boottime_ns())
        return Reach(change.level, bound)

    def _open(self, change: _Change, level: Level) -> tuple[OpenNode, ...]:
        """Who holds the change up, as far as anybody here knows. Until when at the latest is not a
        matter of what was said: it is what is promised."""
        members = self._core.keeper.open_members(self._core.replica)
        if change.index is None or members is None:
            return ()
        bound = self._bounds.left(change.known, self._clock.boottime_ns())
        found = []
        for member in members:
            if member.enforced_index < change.index and change.level < Level.ENFORCED:
                found.append(OpenNode(member.node_id, Level.ENFORCED, bound.nodes_ms))
            elif member.drained_index < change.index and level is Level.DRAINED:
                found.append(OpenNode(member.node_id, Level.DRAINED, bound.everybody_ms))
        return tuple(sorted(found, key=lambda each: each.node_id))
