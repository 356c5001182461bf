"""What watchers of leases are told: notices, and the queue of each watcher.

Owns what a notice says, and how many a watcher may leave unread. Which notices the entries of the
ledger call for is `quorate.api.courses`', who watches what `quorate.api.watch`'s.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from enum import Enum

from quorate.api.errors import ServiceError, TooManyError
from quorate.core.outcome import Decision, Deny
from quorate.lease.check import Checked, CheckQuery, Position


class Event(Enum):
    ACTIVE = "ACTIVE"
    INTERRUPTED = "INTERRUPTED"
    AUTHORITY_LOST = "AUTHORITY_LOST"
    RESTORED = "RESTORED"


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing that happened to one lease; `denial` is set when it is not good.

    at: of all that the ledger did to the lease until it had so many entries, its watcher was told
    before. So a watch that goes on from there loses nothing; and in the notices of one watcher it
    never falls.
    """

    lease_id: str
    event: Event
    denial: Deny | None
    at: Position


class Watcher:
    """One Watch call: whose it is, what it watches, and its bounded queue.

    session: which process of the executor this is; empty: it does not say, and cannot acknowledge.
    """

    def __init__(self, executor: str, session: str, limit: int) -> None:
        self.executor = executor
        self.session = session
        self.queries: set[CheckQuery] = set()
        self._limit = limit
        self._queue: deque[Notice] = deque()
        self._wake = asyncio.Event()
        self._taken = asyncio.Event()
        self._overflowed = False
        self._ending: ServiceError | None = None
        self._failed: BaseException | None = None

    def offer(self, notice: Notice) -> None:
        """Queues a notice; one too many gives up the queue and the call."""
        if len(self._queue) >= self._limit:
            self._overflowed = True
            self._queue.clear()
            self._taken.set()
        if not self.is_ending:
            self._queue.append(notice)
        self._wake.set()

    @property
    def room(self) -> int:
        """How many notices more it may leave unread."""
        return self._limit - len(self._queue)

    async def room_for(self, count: int) -> None:
        """Returns when so many notices more would fit, or when none is wanted any more."""
        while self.room < count and not self.is_ending:
            self._taken.clear()
            await self._taken.wait()

    @property
    def is_ending(self) -> bool:
        """Nothing is queued any more."""
        return self._overflowed or self._ending is not None

    def stopped_hearing(self, hearing: asyncio.Task[None]) -> None:
        """The caller says no more. When that is because what it said last was wrong, or could not
        be done, `next` raises why."""
        if not hearing.cancelled() and (error := hearing.exception()) is not None:
            self._failed = error
            self._wake.set()

    def end(self, error: ServiceError) -> None:
        """Nothing more is told: `next` raises this, once what was queued is told."""
        self._ending = self._ending or error
        self._taken.set()
        self._wake.set()

    async def next(self) -> Notice:
        """Raises TooManyError for a watcher that was too slow, and what `end` was called with or
        `stopped_hearing` found."""
        while True:
            if self._failed is not None:
                raise self._failed
            if self._overflowed:
                raise TooManyError(
                    f"more than {self._limit} notices were not read; watch again",
                    limit="MAX_QUEUED_NOTICES",
                )
            if self._queue:
                self._taken.set()
                return self._queue.popleft()
            if self._ending is not None:
                raise self._ending
            self._wake.clear()
            await self._wake.wait()


def notice_of(query: CheckQuery, event: Event, denial: Deny | None, at: Position) -> Notice:
    return Notice(query.lease_id, event, denial, at)


def first(query: CheckQuery, checked: Checked) -> Notice:
    decision = checked.decision
    if isinstance(decision, Deny):
        return notice_of(query, Event.INTERRUPTED, decision, checked.at)
    return notice_of(query, Event.ACTIVE, None, checked.at)


def change(query: CheckQuery, before: Decision | None, now: Checked) -> Notice | None:
    """What to tell whoever was told `before`, if anything; None when nothing has changed."""
    decision = now.decision
    if not isinstance(decision, Deny):
        if not isinstance(before, Deny):
            return None
        return notice_of(query, Event.RESTORED, None, now.at)
    if decision == before:
        return None
    event = Event.AUTHORITY_LOST if now.is_of_node else Event.INTERRUPTED
    return notice_of(query, event, decision, now.at)
