"""Watching leases: who is told what, when a lease stops or resumes being good.

Owns the watchers of one edge process, their bounded queues, and when each watched lease is looked
at again: when the node's state has moved, when the node's authority comes or goes (also when the
core process is dead or hung, by the deadline alone), and when the lease itself expires. What a
lease *is* at a moment is the check path's; a notice is a hint to stop, and never a permit.

One evaluation per lease and movement, however many watch it; movements that come while leases are
being evaluated are taken together.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NoReturn

from sortedcontainers import SortedList

from quorate.api.errors import NotReadyError, TooManyError
from quorate.core.limits import MAX_LEASES_PER_WATCH
from quorate.core.outcome import Deny, Reason
from quorate.lease.check import Checked, CheckQuery, LeaseChecker, Position
from quorate.lease.clock import Clock
from quorate.lease.word import AuthorityRecord
from quorate.telemetry import Metrics

MAX_WATCHERS: Final = 4_096
"""Watch calls that one edge process serves at once."""
MAX_WATCHERS_PER_EXECUTOR: Final = 64
MAX_QUEUED_NOTICES: Final = 1_024
"""Of one watcher; whoever lets more pile up is cut off, and asks again."""
LEASES_PER_TURN: Final = 64
"""Evaluated without letting the process's other calls in between."""
POLL_MS: Final = 25
"""How often the authority word is looked at while somebody watches: nobody tells an edge that the
word was cleared before its deadline, or written again."""

assert MAX_QUEUED_NOTICES >= MAX_LEASES_PER_WATCH, "the first notices fit"

_NS_PER_S: Final = 1_000_000_000
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
    """One thing that happened to one lease; `reason` is set when it is not good."""

    lease_id: str
    event: Event
    reason: Reason | None
    thing: str
    at: Position


class Watcher:
    """One Watch call's bounded queue."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._queue: deque[Notice] = deque()
        self._wake = asyncio.Event()
        self._overflowed = False
        self._closed = False

    def offer(self, notice: Notice) -> None:
        """Queues a notice; one too many gives up the queue and the call."""
        if len(self._queue) >= self._limit:
            self._overflowed = True
            self._queue.clear()
        if not self._overflowed:
            self._queue.append(notice)
        self._wake.set()

    def close(self) -> None:
        """The process stops serving."""
        self._closed = True
        self._wake.set()

    async def next(self) -> Notice:
        """Raises TooManyError for a watcher that was too slow, NotReadyError when serving ends."""
        while True:
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


@dataclass(slots=True, eq=False)
class _Watched:
    """One lease of one executor, with all who watch it.

    last: what they were told last. expires_ns: the boot time of its expiry that is being waited
    for, as it stands in the hub's list of expiries; 0 when it does not.
    """

    query: CheckQuery
    last: Checked
    watchers: set[Watcher] = field(default_factory=set)
    expires_ns: int = 0


class WatchHub:
    """The watchers of one process. `run` must be running for notices after the first."""

    def __init__(self, checker: LeaseChecker, clock: Clock, metrics: Metrics) -> None:
        self._checker = checker
        self._clock = clock
        self._metrics = metrics
        self._watched: dict[CheckQuery, _Watched] = {}
        self._expiries: SortedList[tuple[int, str, str]] = SortedList()
        self._watchers: set[Watcher] = set()
        self._calls: dict[str, int] = {}
        self._closed = False
        self._stirred = asyncio.Event()
        self._moved = False
        self._rested_s = 0.0
        self._authority: AuthorityRecord | Deny = Deny(Reason.INQUORATE)
        # What was decided under another authority than the hub last saw: authority came or went in
        # between, or the state is behind the word. Asked again at the next look, until they agree.
        self._unsettled: set[CheckQuery] = set()

    # -- watchers -----------------------------------------------------------------------------

    @contextmanager
    def watch(self, executor: str, lease_ids: Sequence[str]) -> Iterator[Watcher]:
        """A watcher whose queue begins with how each of the (different) leases stands now.

        Raises TooManyError when too many watch, NotReadyError when the process is stopping.
        """
        self._admit(executor)
        watcher = Watcher(MAX_QUEUED_NOTICES)
        self._watchers.add(watcher)
        queries = [CheckQuery(lease_id, executor) for lease_id in lease_ids]
        try:
            for query, checked in zip(queries, self._checker.check_all(queries), strict=True):
                watched = self._watched.setdefault(query, _Watched(query, checked))
                self._settle(watched, checked)  # tells those who watch it already
                watched.watchers.add(watcher)
                watcher.offer(_first(query, checked))
            self._stirred.set()  # there may be an earlier moment to wake up at
            yield watcher
        finally:
            for query in queries:
                self._leave(query, watcher)
            self._watchers.discard(watcher)
            self._dismiss(executor)

    def moved(self) -> None:
        """The node's state has moved on: every watched lease is looked at again."""
        self._moved = True
        self._stirred.set()

    def close(self) -> None:
        """Ends every watcher, and admits no more."""
        self._closed = True
        for watcher in self._watchers:
            watcher.close()

    def _admit(self, executor: str) -> None:
        if self._closed:
            raise NotReadyError("the node is stopping")
        if len(self._watchers) >= MAX_WATCHERS:
            raise TooManyError("this node serves no more watchers", limit="MAX_WATCHERS")
        calls = self._calls.get(executor, 0)
        if calls >= MAX_WATCHERS_PER_EXECUTOR:
            raise TooManyError(
                f"more than {MAX_WATCHERS_PER_EXECUTOR} Watch calls at once",
                limit="MAX_WATCHERS_PER_EXECUTOR",
            )
        self._calls[executor] = calls + 1
        self._metrics.watchers_changed(+1)

    def _dismiss(self, executor: str) -> None:
        self._calls[executor] -= 1
        if not self._calls[executor]:
            del self._calls[executor]
        self._metrics.watchers_changed(-1)

    def _leave(self, query: CheckQuery, watcher: Watcher) -> None:
        watched = self._watched.get(query)
        if watched is None:
            return
        watched.watchers.discard(watcher)
        if not watched.watchers:
            self._await_expiry(watched, 0)
            self._unsettled.discard(query)
            del self._watched[query]

    # -- looking again ------------------------------------------------------------------------

    async def run(self) -> NoReturn:
        """Looks again at what is watched, whenever there is cause; until cancelled."""
        while True:
            await self._wait()
            await self._look()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._wait_s()):
                await self._stirred.wait()
        except TimeoutError:
            pass
        self._stirred.clear()

    def _wait_s(self) -> float | None:
        """Until when nothing needs to be looked at, unless something stirs; None: for ever."""
        if not self._watched:
            return None
        now_ns = self._clock.boottime_ns()
        due_ns = now_ns + POLL_MS * 1_000_000
        if isinstance(self._authority, AuthorityRecord):
            due_ns = min(due_ns, self._authority.deadline_ns)
        if self._expiries:
            due_ns = min(due_ns, self._expiries[0][0])
        wait_s = max(0, due_ns - now_ns) / _NS_PER_S
        if self._moved:
            wait_s = min(wait_s, max(0.0, self._rested_s - _loop_s()))
        return wait_s

    async def _look(self) -> None:
        """Evaluates all that is watched if the state moved or authority came or went; else what
        has expired, and what was not settled."""
        before, self._authority = self._authority, self._checker.authority()
        moved = self._moved and _loop_s() >= self._rested_s
        if moved or _denial(before) != _denial(self._authority):
            queries: Sequence[CheckQuery] = list(self._watched)
        else:
            queries = [*self._unsettled, *self._expired()]
        if moved:
            self._moved = False
        started_s = _loop_s()
        for start in range(0, len(queries), LEASES_PER_TURN):
            if start:
                await asyncio.sleep(0)
                if _denial(self._checker.authority()) != _denial(self._authority):
                    self._moved = self._moved or moved
                    return  # to begin again at once: the rest would hear of it too late
            self._evaluate(queries[start : start + LEASES_PER_TURN])
        if moved:
            # However often the ledger moves, watching takes at most half of the process.
            ended_s = _loop_s()
            self._rested_s = ended_s + (ended_s - started_s)

    def _expired(self) -> list[CheckQuery]:
        now_ns = self._clock.boottime_ns()
        due = self._expiries.irange(maximum=(now_ns + 1, "", ""), inclusive=(True, False))
        return [CheckQuery(lease_id, executor) for _, lease_id, executor in due]

    def _evaluate(self, queries: Sequence[CheckQuery]) -> None:
        # Some may have lost their last watcher while this look was letting others in.
        queries = [query for query in queries if query in self._watched]
        for query, checked in zip(queries, self._checker.check_all(queries), strict=True):
            self._settle(self._watched[query], checked)

    def _settle(self, watched: _Watched, checked: Checked) -> None:
        """Takes in how a lease stands, and tells its watchers if that is news."""
        notice = _change(watched.query, watched.last, checked)
        watched.last = checked
        self._await_expiry(watched, checked.expires_ns)
        denial = checked.decision if _lacks_authority(checked) else None
        if denial == _denial(self._authority):
            self._unsettled.discard(watched.query)
        else:
            self._unsettled.add(watched.query)
        if notice is not None:
            for watcher in watched.watchers:
                watcher.offer(notice)

    def _await_expiry(self, watched: _Watched, expires_ns: int) -> None:
        query = watched.query
        if watched.expires_ns:
            self._expiries.remove((watched.expires_ns, query.lease_id, query.executor))
        if expires_ns:
            self._expiries.add((expires_ns, query.lease_id, query.executor))
        watched.expires_ns = expires_ns


def _first(query: CheckQuery, checked: Checked) -> Notice:
    decision = checked.decision
    if isinstance(decision, Deny):
        return Notice(
            query.lease_id, Event.INTERRUPTED, decision.reason, decision.thing, checked.at
        )
    return Notice(query.lease_id, Event.ACTIVE, None, "", checked.at)


def _change(query: CheckQuery, before: Checked, now: Checked) -> Notice | None:
    """What to tell whoever was told `before`; None when nothing has changed."""
    decision = now.decision
    if not isinstance(decision, Deny):
        if not isinstance(before.decision, Deny):
            return None
        return Notice(query.lease_id, Event.RESTORED, None, "", now.at)
    if decision == before.decision:
        return None
    event = Event.AUTHORITY_LOST if _lacks_authority(now) else Event.INTERRUPTED
    return Notice(query.lease_id, event, decision.reason, decision.thing, now.at)


def _lacks_authority(checked: Checked) -> bool:
    """Whether it is the node that denies, whatever the lease."""
    return isinstance(checked.decision, Deny) and checked.decision.reason in _AUTHORITY_REASONS


def _denial(authority: AuthorityRecord | Deny) -> Deny | None:
    return authority if isinstance(authority, Deny) else None


def _loop_s() -> float:
    return asyncio.get_running_loop().time()
