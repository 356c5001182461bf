"""What watchers of leases are told: notices, the queue of each watcher, and the course of a lease.

Owns what a notice says, how many a watcher may leave unread, and which notices the entries of the
ledger call for. Who watches what is `quorate.api.watch`'s.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from quorate.api.errors import NotReadyError, TooManyError
from quorate.core.effects import Effect
from quorate.core.outcome import Deny, Reason
from quorate.core.records import Kind, Lease
from quorate.lease.check import Checked, CheckQuery, Position

_AUTHORITY_REASONS: Final = frozenset(
    {Reason.INQUORATE, Reason.CLOCK_STEP, Reason.STORAGE_FULL, Reason.QUARANTINED}
)


class Event(Enum):
    ACTIVE = "ACTIVE"
    INTERRUPTED = "INTERRUPTED"
    AUTHORITY_LOST = "AUTHORITY_LOST"
    RESTORED = "RESTORED"


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing that happened to one lease; `denial` is set when it is not good."""

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
        self._overflowed = False
        self._closed = False
        self._failed: BaseException | None = None

    def offer(self, notice: Notice) -> None:
        """Queues a notice; one too many gives up the queue and the call."""
        if len(self._queue) >= self._limit:
            self._overflowed = True
            self._queue.clear()
        if not self._overflowed:
            self._queue.append(notice)
        self._wake.set()

    def stopped_hearing(self, hearing: asyncio.Task[None]) -> None:
        """The caller says no more. When that is because what it said last was wrong, or could not
        be done, `next` raises why."""
        if not hearing.cancelled() and (error := hearing.exception()) is not None:
            self._failed = error
            self._wake.set()

    def close(self) -> None:
        """The process stops serving."""
        self._closed = True
        self._wake.set()

    async def next(self) -> Notice:
        """Raises TooManyError for a watcher that was too slow, NotReadyError when serving ends, and
        what `stopped_hearing` found."""
        while True:
            if self._failed is not None:
                raise self._failed
            if self._overflowed:
                raise TooManyError(
                    f"more than {self._limit} notices were not read; watch again",
                    limit="MAX_QUEUED_NOTICES",
                )
            if self._queue:
                return self._queue.popleft()
            if self._closed:
                raise NotReadyError("the node is stopping")
            self._wake.clear()
            await self._wake.wait()


def notice_of(query: CheckQuery, event: Event, denial: Deny | None, at: Position) -> Notice:
    return Notice(query.lease_id, event, denial, at)


class Course:
    """How one lease came to stand as it does: which of the things that it relies on are stopped.

    is_good: as it was told last, or evaluated. lease: None while there is none, or it is another's.
    """

    def __init__(self, stopped: set[str], *, is_good: bool, lease: Lease | None = None) -> None:
        self.stopped = stopped
        self.lease = lease
        self.is_good = is_good
        self._restored: Notice | None = None

    def settle(self, *, is_good: bool) -> None:
        """The lease was evaluated."""
        self.is_good, self._restored = is_good, None

    def take(self, query: CheckQuery, effect: Effect) -> Iterator[Notice]:
        """What to tell of an entry's effect. That a lease is good again is told only when another
        entry stops it: else it is for whoever evaluates it, because time may have ended it."""
        if self.lease is not None and effect.spares(self.lease):
            return
        at = Position(effect.index + 1, effect.ledger_time)
        if effect.reason is None:
            was_stopped = bool(self.stopped)
            self.stopped.discard(effect.thing)
            if was_stopped and not self.stopped and not self.is_good:
                self._restored = notice_of(query, Event.RESTORED, None, at)
            return
        self.stopped.add(effect.thing)
        if self._restored is not None:
            yield self._restored
            self._restored, self.is_good = None, True
        if self.is_good:
            denial = Deny(effect.reason, effect.thing.partition(":")[2])
            yield notice_of(query, Event.INTERRUPTED, denial, at)
            self.is_good = False


def replay(
    query: CheckQuery, things: Iterable[str], missed: Iterable[Effect], lease: Lease | None = None
) -> Iterator[Notice]:
    """What a watcher would have been told of this lease, had it watched meanwhile."""
    own = set(things)
    effects = [effect for effect in missed if effect.thing in own]
    first = {effect.thing: effect for effect in reversed(effects)}
    # What an entry let go on was stopped before; of what it stopped, the other is assumed.
    stopped = {thing for thing, effect in first.items() if _lets_go_on(effect)}
    course = Course(stopped, is_good=not stopped, lease=lease)
    for effect in effects:
        yield from course.take(query, effect)


def _lets_go_on(effect: Effect) -> bool:
    return effect.reason is None and not effect.thing.startswith(f"{Kind.LEASE}:")


def first(query: CheckQuery, checked: Checked) -> Notice:
    decision = checked.decision
    if isinstance(decision, Deny):
        return notice_of(query, Event.INTERRUPTED, decision, checked.at)
    return notice_of(query, Event.ACTIVE, None, checked.at)


def change(query: CheckQuery, before: Checked, now: Checked) -> Notice | None:
    """What to tell whoever was told `before`; None when nothing has changed."""
    decision = now.decision
    if not isinstance(decision, Deny):
        if not isinstance(before.decision, Deny):
            return None
        return notice_of(query, Event.RESTORED, None, now.at)
    if decision == before.decision:
        return None
    event = Event.AUTHORITY_LOST if lacks_authority(now) else Event.INTERRUPTED
    return notice_of(query, event, decision, now.at)


def lacks_authority(checked: Checked) -> bool:
    """Whether it is the node that denies, whatever the lease."""
    return isinstance(checked.decision, Deny) and checked.decision.reason in _AUTHORITY_REASONS
