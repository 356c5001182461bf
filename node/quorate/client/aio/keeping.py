"""Keeping held leases, with asyncio: the checks, renewals and watches that `Upkeep` asks for.

Owns the tasks of one gate. They begin with the first lease that is held.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

from quorate.client import wire
from quorate.client.aio.watch import AsyncWatch
from quorate.client.calls import Calls, Question
from quorate.client.decisions import ClientReason, Denied, Permit
from quorate.client.facts import LeaseFacts
from quorate.client.slot import PermitSlot
from quorate.client.upkeep import Held, Holder, Told, Upkeep
from quorate.client.watching import WatchTalk
from quorate.v1 import lease_pb2

_log: Final = logging.getLogger("quorate.client")


class AsyncKeeping:
    """The leases that one gate holds. For one loop; holders are told from within it."""

    def __init__(
        self,
        calls: Calls,
        stub: Any,
        closed: asyncio.Event,
        renew: Callable[[LeaseFacts], Awaitable[LeaseFacts | Denied]],
    ) -> None:
        self._calls = calls
        self._stub = stub
        self._closed = closed
        self._renew = renew
        self._upkeep = Upkeep(calls)
        self._stirred = asyncio.Event()
        self._watches: list[tuple[WatchTalk, AsyncWatch]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._has_begun = False

    def hold(
        self,
        lease: LeaseFacts,
        slot: PermitSlot,
        permit: Permit,
        epoch: int,
        tell: Told,
        *,
        renew: bool,
    ) -> Holder | None:
        """As `Upkeep.hold`, and watches the lease."""
        found = self._upkeep.hold(lease, slot, permit, epoch, tell, renew=renew)
        if found is None:
            return None
        holder, is_first = found
        if not self._has_begun:
            self._has_begun = True
            self._start(self._ask())
        if is_first:
            self._watch(lease.id, slot)
        # Not told from within the task that holds it: that one is to be cancelled while it waits.
        self._stirred.set()
        return holder

    def let_go(self, holder: Holder) -> None:
        """As `Upkeep.let_go`; a lease that nobody holds is watched no more."""
        if not self._upkeep.let_go(holder):
            return
        for talk, _ in self._watches:
            talk.forget(holder.lease_id)

    async def close(self) -> None:
        """Ends the tasks; `closed` is set already."""
        self._upkeep.abandon(ClientReason.CLOSED)
        self._upkeep.tell()
        for _, watch in self._watches:
            watch.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _watch(self, lease_id: str, slot: PermitSlot) -> None:
        if any(talk.add(lease_id, slot) for talk, _ in self._watches):
            return
        talk = WatchTalk(self._calls.session, {lease_id: slot})
        watch = AsyncWatch(self._stub, talk, self._closed)
        self._watches.append((talk, watch))
        self._start(self._hear(talk, watch))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._closed.is_set():
            return
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None:
            _log.error("keeping leases failed", exc_info=error)
            self._upkeep.abandon(ClientReason.CLIENT_FAILED, type(error).__name__)
            self._upkeep.tell()

    def _stir(self) -> None:
        """Tells what is new, and has what is due looked at again."""
        self._upkeep.tell()
        self._stirred.set()

    # -- the tasks ---------------------------------------------------------------------------

    async def _ask(self) -> None:
        while not self._closed.is_set():
            self._stirred.clear()
            for questions in self._upkeep.due():
                self._start(self._send(questions))
            for held in self._upkeep.due_renewals():
                self._start(self._renew_one(held))
            self._upkeep.lapse()
            self._upkeep.tell()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._upkeep.wait_s()):
                    await self._stirred.wait()

    async def _send(self, questions: list[Question]) -> None:
        request = lease_pb2.CheckBatchRequest(
            checks=[self._calls.check_request(question.lease) for question in questions]
        )
        try:
            timeout_s = self._calls.max_permit_ttl_ms / 1_000
            answer = await self._stub.CheckBatch(request, timeout=timeout_s)
        except wire.FAILURES as error:
            self._upkeep.failed(questions, error)
        else:
            self._upkeep.answered(questions, answer)
        self._stir()

    async def _renew_one(self, held: Held) -> None:
        self._upkeep.renewed(held, await self._renew(held.lease))
        self._stir()

    async def _hear(self, talk: WatchTalk, watch: AsyncWatch) -> None:
        async for notice in watch:
            self._upkeep.heard([notice])
            self._stir()
        self._watches.remove((talk, watch))  # closed, or nothing left to watch
