"""Watching leases: who is told what, when a lease stops or resumes being good.

Owns the watchers of one edge process, their bounded queues, and when each watched lease is looked
at again: when an entry of the ledger names something that it relies on, when the node's authority
comes or goes (also when the core process is dead or hung, by the deadline alone), and when the
lease itself expires. What a lease *is* at a moment is the check path's; a notice is a hint to stop,
and never a permit.

The ledger is followed entry by entry (`quorate.lease.following`), so that a lease which was stopped
and let go on between two looks is told of as both; and so that a watch can be taken up again from
where another one ended. Whatever is told is told at the hub's own place in the ledger: an
evaluation may be of a newer state, and then the entries up to it are followed, and told, before it
is. Movements that come while leases are being looked at are taken together.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final, NoReturn

from sortedcontainers import SortedList

from quorate.api.courses import Replay, Watched
from quorate.api.errors import NotReadyError, ServiceError, TooManyError
from quorate.api.notices import Notice, Watcher, first
from quorate.api.tracking import LEASES_PER_TURN, Track
from quorate.core.effects import Effect
from quorate.core.limits import MAX_LEASES_PER_WATCH
from quorate.core.outcome import Deny, Reason
from quorate.lease.check import NOWHERE, Checked, CheckQuery, LeaseChecker
from quorate.lease.clock import Clock
from quorate.lease.following import FollowedSource
from quorate.lease.outstanding import Holder
from quorate.lease.word import AuthorityRecord
from quorate.telemetry import Metrics

MAX_WATCHERS: Final = 4_096
"""Watch calls that one edge process serves at once."""
MAX_WATCHERS_PER_EXECUTOR: Final = 64
MAX_QUEUED_NOTICES: Final = 1_024
"""Of one watcher; whoever lets more pile up is cut off, and asks again."""
POLL_MS: Final = 25
"""How often the authority word is looked at while somebody watches: nobody tells an edge that the
word was cleared before its deadline, or written again."""
FORGET_MS: Final = 1_000
"""How often permits that are over are let go of, also while nothing else happens: they are counted
for whoever looks at the metrics."""

assert MAX_QUEUED_NOTICES >= MAX_LEASES_PER_WATCH, "the first notices fit"

_NS_PER_S: Final = 1_000_000_000


class WatchHub:
    """The watchers of one process, and its place in the ledger. `run` must be running for notices
    after the first, and for `drained` to grow."""

    def __init__(
        self,
        checker: LeaseChecker,
        source: Callable[[], FollowedSource | None],
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        """source: the node's store; None while there is none."""
        self._track = Track(source, clock, self._lost_track)
        self.ledger = self._track.ledger
        self._leases = self._track.leases
        self._checker = checker
        self._source = source
        self._clock = clock
        self._metrics = metrics
        self._expiries: SortedList[tuple[int, str, str]] = SortedList()
        self._watchers: set[Watcher] = set()
        self._calls: dict[str, int] = {}
        self._closed = False
        self._stirred = asyncio.Event()
        self._moved = True
        self._rested_s = 0.0
        self._drained = 0
        self._drained_more = asyncio.Event()
        self._authority: AuthorityRecord | Deny = Deny(Reason.INQUORATE)
        # What was decided under another authority than the hub last saw: authority came or went in
        # between, or the state is behind the word. Asked again at the next look, until they agree.
        self._unsettled: set[CheckQuery] = set()

    # -- watchers -----------------------------------------------------------------------------

    @asynccontextmanager
    async def watch(
        self,
        executor: str,
        lease_ids: Sequence[str],
        *,
        after_size: int = 0,
        session: str = "",
    ) -> AsyncIterator[Watcher]:
        """A watcher whose queue begins with how each of the (different) leases stands now; before
        that, if `after_size` is not 0, with what happened since the ledger had so many entries.

        Raises TooManyError when too many watch, NotReadyError when the process is stopping, and
        OutOfRangeError when the ledger's entries since then are too many, or are not here yet.
        """
        self._admit(executor)
        watcher = Watcher(executor, session, MAX_QUEUED_NOTICES)
        self._watchers.add(watcher)
        try:
            await self.add(watcher, lease_ids, after_size)
            self._stirred.set()  # there may be an earlier moment to wake up at
            yield watcher
        finally:
            self.forget(watcher, [query.lease_id for query in watcher.queries])
            self._watchers.discard(watcher)
            self._dismiss(executor)

    async def add(self, watcher: Watcher, lease_ids: Sequence[str], after_size: int = 0) -> None:
        """The watcher watches these leases as well; as `watch` otherwise."""
        queries = [CheckQuery(lease_id, watcher.executor) for lease_id in lease_ids]
        fresh = [query for query in queries if query not in watcher.queries]
        if len(watcher.queries) + len(fresh) > MAX_LEASES_PER_WATCH:
            raise TooManyError(
                f"more than {MAX_LEASES_PER_WATCH} leases in one Watch call",
                limit="MAX_LEASES_PER_WATCH",
            )
        await watcher.room_for(len(queries))
        await self._track.ask_ahead(queries)
        await self._track.catch_up()
        missed = await self._track.missed(after_size, watcher.executor) if after_size else []
        # From here to the end nothing else runs: nothing is told twice, and nothing is missed.
        watcher.queries.update(fresh)
        missed += self._track.begin(queries)
        answers, followed = self._check(queries)
        missed += followed
        told: list[Notice] = []
        replay = Replay(missed, watcher.room - len(queries)) if after_size else None
        for query, checked in zip(queries, answers, strict=True):
            watched = self._leases[query]
            self._settle(watched, checked)  # tells those who watch it already
            told += replay.of(watched) if replay else ()
            watched.watchers.add(watcher)
        told.sort(key=lambda notice: notice.at.ledger_size)
        for notice in (*told, *map(first, queries, answers)):
            watcher.offer(notice)
        self._stirred.set()

    def forget(self, watcher: Watcher, lease_ids: Iterable[str]) -> None:
        """The watcher watches these leases no more."""
        for lease_id in list(lease_ids):
            query = CheckQuery(lease_id, watcher.executor)
            watcher.queries.discard(query)
            watched = self._leases.get(query)
            if watched is None:
                continue
            watched.watchers.discard(watcher)
            if not watched.watchers:
                self._await_expiry(watched, 0)
                self._unsettled.discard(query)
                self._track.end(watched)

    def acknowledge(self, watcher: Watcher, lease_id: str, ledger_size: int) -> None:
        """Its process uses no permit for this lease that was decided on a smaller ledger. Of what
        the ledger does not hold yet nobody can say that."""
        source = self._source()
        if source is None:
            return
        with source.read() as snapshot:
            known = min(ledger_size, snapshot.ledger_size)
        holder = Holder(lease_id, watcher.executor, watcher.session)
        self.ledger.permits.acknowledged(holder, known)
        self._stirred.set()  # `run` tells what is drained, once for many of them

    async def followed(self, ledger_index: int, within_s: float) -> None:
        """Returns when the entry at this index was followed, or when the time is up."""
        await self._track.followed(ledger_index, within_s)

    def moved(self) -> None:
        """The node's state has moved on."""
        self._moved = True
        self._stirred.set()

    def close(self) -> None:
        """Ends every watcher, and admits no more."""
        self._closed = True
        for watcher in self._watchers:
            watcher.end(NotReadyError("the node is stopping"))

    def _lost_track(self, missed: ServiceError) -> None:
        """There are entries that those who watch are not told of: they begin again, or go on."""
        for watcher in self._watchers:
            if watcher.queries:
                watcher.end(missed)

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

    def _wait_s(self) -> float:
        """Until when nothing needs to be looked at, unless something stirs."""
        now_ns = self._clock.boottime_ns()
        due = [now_ns + FORGET_MS * 1_000_000]
        if self._leases:
            due.append(now_ns + POLL_MS * 1_000_000)
            if isinstance(self._authority, AuthorityRecord):
                due.append(self._authority.deadline_ns)
        if self._expiries:
            due.append(self._expiries[0][0])
        drained_ns = self.ledger.next_ns(now_ns)
        if drained_ns is not None:
            due.append(drained_ns)
        wait_s = max(0, min(due) - now_ns) / _NS_PER_S
        if self._has_news:
            wait_s = min(wait_s, max(0.0, self._rested_s - _loop_s()))
        return wait_s

    @property
    def _has_news(self) -> bool:
        return self._moved or self._track.has_news

    async def _look(self) -> None:
        """Follows the ledger, and looks again at what its entries name, or at all that is watched
        if authority came or went; else at what has expired, and what was not settled."""
        before, self._authority = self._authority, self._checker.authority()
        is_all = _denial(before) != _denial(self._authority)
        started_s = _loop_s()
        has_news = self._has_news and started_s >= self._rested_s
        queries: list[CheckQuery] = []
        if has_news:
            self._moved = False
            await self._track.catch_up()
            queries += [*self._track.touched, *self._track.unread]
            self._track.touched.clear()
        self._tell_drained()
        queries += [*self._unsettled, *self._expired()]
        if is_all:
            queries = list(self._leases)
        queries = list(dict.fromkeys(queries))
        for start in range(0, len(queries), LEASES_PER_TURN):
            if start:
                await asyncio.sleep(0)
                if _denial(self._checker.authority()) != _denial(self._authority):
                    # To begin again at once: the rest would hear of it too late.
                    self._unsettled.update(query for query in queries if query in self._leases)
                    return
            self._evaluate(queries[start : start + LEASES_PER_TURN])
        if has_news:
            # However often the ledger moves, watching takes at most half of the process.
            ended_s = _loop_s()
            self._rested_s = ended_s + (ended_s - started_s)

    # -- evaluating ---------------------------------------------------------------------------

    def _check(self, queries: Sequence[CheckQuery]) -> tuple[list[Checked], list[Effect]]:
        """How leases stand, once all that led to it is told; and what was followed for that."""
        answers = self._checker.check_all(queries)
        followed = self._track.go_to(max((each.at.ledger_size for each in answers), default=0))
        # A denial without a look at the state is true of what was told until now.
        at = self.ledger.at
        return [replace(each, at=at) if each.at == NOWHERE else each for each in answers], followed

    def _expired(self) -> list[CheckQuery]:
        now_ns = self._clock.boottime_ns()
        due = self._expiries.irange(maximum=(now_ns + 1, "", ""), inclusive=(True, False))
        return [CheckQuery(lease_id, executor) for _, lease_id, executor in due]

    def _evaluate(self, queries: Sequence[CheckQuery]) -> None:
        # Some may have lost their last watcher while this look was letting others in.
        queries = [query for query in queries if query in self._leases]
        self._track.see_again(queries)
        answers, _ = self._check(queries)
        for query, checked in zip(queries, answers, strict=True):
            self._settle(self._leases[query], checked)

    def _settle(self, watched: Watched, checked: Checked) -> None:
        """Takes in how a lease stands, and tells its watchers if that is news."""
        watched.settle(checked)
        self._track.touched.pop(watched.query, None)
        self._await_expiry(watched, checked.expires_ns)
        if watched.lost == _denial(self._authority):
            self._unsettled.discard(watched.query)
        else:
            self._unsettled.add(watched.query)

    def _await_expiry(self, watched: Watched, expires_ns: int) -> None:
        query = watched.query
        if watched.expires_ns:
            self._expiries.remove((watched.expires_ns, query.lease_id, query.executor))
        if expires_ns:
            self._expiries.add((expires_ns, query.lease_id, query.executor))
        watched.expires_ns = expires_ns

    # -- what is drained -----------------------------------------------------------------------

    async def drained_beyond(self, told: int) -> int:
        """The Raft index up to which everything is drained at this edge, once it is larger than
        `told`."""
        while self._drained <= told:
            self._drained_more.clear()
            await self._drained_more.wait()
        return self._drained

    def _tell_drained(self) -> None:
        drained = self.ledger.drained_index(self._clock.boottime_ns())
        if drained > self._drained:
            self._drained = drained
            self._drained_more.set()


def _denial(authority: AuthorityRecord | Deny) -> Deny | None:
    return authority if isinstance(authority, Deny) else None


def _loop_s() -> float:
    return asyncio.get_running_loop().time()
