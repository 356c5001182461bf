"""Watching leases: who is told what, when a lease stops or resumes being good.

Owns the watchers of one edge process, their bounded queues, and when each watched lease is looked
at again: when an entry of the ledger names something that it relies on, when the node's authority
comes or goes (also when the core process is dead or hung, by the deadline alone), and when the
lease itself expires. What a lease *is* at a moment is the check path's; a notice is a hint to stop,
and never a permit.

The ledger is followed entry by entry (`quorate.lease.following`), so that a lease which was stopped
and let go on between two looks is told of as both; and so that a watch can be taken up again from
where another one ended. Movements that come while leases are being looked at are taken together.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, NoReturn

from sortedcontainers import SortedList

from quorate.api.errors import (
    NotReadyError,
    OutOfRangeError,
    TooManyError,
    Violation,
)
from quorate.api.notices import Course, Notice, Watcher, change, first, lacks_authority, replay
from quorate.core.effects import Effect, effect_of, is_stopped, things_of
from quorate.core.limits import MAX_LEASES_PER_WATCH
from quorate.core.outcome import Deny, Permit, Reason
from quorate.core.state import StateView
from quorate.lease.check import Checked, CheckQuery, LeaseChecker
from quorate.lease.clock import Clock
from quorate.lease.following import MAX_BEHIND, MAX_FOLLOWED, EdgeLedger, FollowedSource
from quorate.lease.outstanding import Holder
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


@dataclass(slots=True, eq=False)
class _Watched:
    """One lease of one executor, with all who watch it.

    last: what they were told last. things: what an entry can name that changes how it stands.
    expires_ns: the boot time of its expiry that is being waited for, as it stands in the hub's list
    of expiries; 0 when it does not.
    """

    query: CheckQuery
    last: Checked
    course: Course
    things: tuple[str, ...] = ()
    watchers: set[Watcher] = field(default_factory=set)
    expires_ns: int = 0

    @property
    def thing(self) -> str:
        """The lease itself, as what an entry can name."""
        return f"lease:{self.query.lease_id}"

    def tell(self, notice: Notice) -> None:
        for watcher in self.watchers:
            watcher.offer(notice)


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
        self.ledger = EdgeLedger()
        self._checker = checker
        self._source = source
        self._clock = clock
        self._metrics = metrics
        self._watched: dict[CheckQuery, _Watched] = {}
        self._by_thing: dict[str, dict[_Watched, None]] = {}
        self._expiries: SortedList[tuple[int, str, str]] = SortedList()
        self._watchers: set[Watcher] = set()
        self._calls: dict[str, int] = {}
        self._closed = False
        self._stirred = asyncio.Event()
        self._moved = True
        self._rested_s = 0.0
        self._drained = 0
        self._drained_more = asyncio.Event()
        self._followed_more = asyncio.Event()
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
        missed = await self._missed(after_size) if after_size else []
        # From here to the end nothing else runs: nothing is told twice, and nothing is missed.
        watcher.queries.update(fresh)
        for query, checked in zip(queries, self._checker.check_all(queries), strict=True):
            watched = self._watched.get(query) or self._begin(query, checked)
            self._settle(watched, checked)  # tells those who watch it already
            for notice in replay(query, watched.things, missed, watched.course.lease):
                watcher.offer(notice)
            watched.watchers.add(watcher)
            watcher.offer(first(query, checked))
        self._stirred.set()

    def forget(self, watcher: Watcher, lease_ids: Iterable[str]) -> None:
        """The watcher watches these leases no more."""
        for lease_id in list(lease_ids):
            query = CheckQuery(lease_id, watcher.executor)
            watcher.queries.discard(query)
            watched = self._watched.get(query)
            if watched is None:
                continue
            watched.watchers.discard(watcher)
            if not watched.watchers:
                self._await_expiry(watched, 0)
                self._unsettled.discard(query)
                self._rely_on(watched, ())
                del self._watched[query]

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

    def moved(self) -> None:
        """The node's state has moved on."""
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

    def _begin(self, query: CheckQuery, checked: Checked) -> _Watched:
        course = Course(set(), is_good=isinstance(checked.decision, Permit))
        watched = self._watched[query] = _Watched(query, checked, course)
        self._read_things([watched])
        return watched

    def _read_things(self, some: Sequence[_Watched]) -> None:
        """What leases rely on, and how each of it stands at the end of what was followed."""
        source = self._source()
        if source is None:
            for watched in some:
                self._rely_on(watched, (watched.thing,))
            return
        with source.read() as snapshot:
            view = StateView(snapshot.state)
            for watched in some:
                lease = view.lease(watched.query.lease_id)
                if lease is not None and lease.executor != watched.query.executor:
                    lease = None
                things = (watched.thing,) if lease is None else things_of(lease)
                stopped = {thing for thing in things if is_stopped(view, thing, lease)}
                watched.course.lease, watched.course.stopped = lease, stopped
                self._rely_on(watched, things)

    def _rely_on(self, watched: _Watched, things: tuple[str, ...]) -> None:
        for thing in watched.things:
            relying = self._by_thing[thing]
            del relying[watched]
            if not relying:
                del self._by_thing[thing]
        watched.things = things
        for thing in things:
            self._by_thing.setdefault(thing, {})[watched] = None

    async def _missed(self, after_size: int) -> list[Effect]:
        """What entries did since the ledger had `after_size` of them, up to what was followed."""
        effects: list[Effect] = []
        size = after_size
        while size != self.ledger.size:
            behind = self.ledger.size - size
            source = self._source()
            if source is None or behind < 0:
                raise OutOfRangeError(
                    Violation("after_size", f"this node has followed {self.ledger.size} entries")
                )
            if behind > MAX_BEHIND:
                raise OutOfRangeError(
                    Violation("after_size", f"more than {MAX_BEHIND} entries ago; begin with 0")
                )
            with source.read() as snapshot:
                entries = snapshot.ledger_entries(size, min(MAX_FOLLOWED, behind))
            found = (effect_of(index, entry) for index, entry in enumerate(entries, start=size))
            effects += [effect for effect in found if effect is not None]
            size += len(entries)
            await asyncio.sleep(0)
        return effects

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
        now_ns = self._clock.boottime_ns()
        due = []
        if self._watched:
            due.append(now_ns + POLL_MS * 1_000_000)
            if isinstance(self._authority, AuthorityRecord):
                due.append(self._authority.deadline_ns)
        if self._expiries:
            due.append(self._expiries[0][0])
        drained_ns = self.ledger.next_ns(now_ns)
        if drained_ns is not None:
            due.append(drained_ns)
        waits = [max(0, min(due) - now_ns) / _NS_PER_S] if due else []
        if self._moved:
            waits.append(max(0.0, self._rested_s - _loop_s()))
        return min(waits, default=None)

    async def _look(self) -> None:
        """Follows the ledger, and looks again at what its entries name, or at all that is watched
        if authority came or went; else at what has expired, and what was not settled."""
        before, self._authority = self._authority, self._checker.authority()
        is_all = _denial(before) != _denial(self._authority)
        started_s = _loop_s()
        moved = self._moved and started_s >= self._rested_s
        queries: list[CheckQuery] = []
        if moved:
            self._moved = False
            touched = await self._follow()
            if touched is None:
                is_all = True
            else:
                queries += touched
        self._tell_drained()
        queries += [*self._unsettled, *self._expired()]
        if is_all:
            queries = list(self._watched)
        queries = list(dict.fromkeys(queries))
        for start in range(0, len(queries), LEASES_PER_TURN):
            if start:
                await asyncio.sleep(0)
                if _denial(self._checker.authority()) != _denial(self._authority):
                    # To begin again at once: the rest would hear of it too late.
                    self._unsettled.update(query for query in queries if query in self._watched)
                    return
            self._evaluate(queries[start : start + LEASES_PER_TURN])
        if moved:
            # However often the ledger moves, watching takes at most half of the process.
            ended_s = _loop_s()
            self._rested_s = ended_s + (ended_s - started_s)

    async def _follow(self) -> list[CheckQuery] | None:
        """Takes in the entries since the last time. Returns what they may have changed; None:
        perhaps everything."""
        touched: dict[CheckQuery, None] = {}
        is_blind = False
        while (source := self._source()) is not None:
            with source.read() as snapshot:
                step = self.ledger.follow(snapshot, self._clock.boottime_ns())
            is_blind = is_blind or step.is_blind
            for effect in step.effects:
                for watched in self._by_thing.get(effect.thing, ()):
                    self._take_in(watched, effect)
                    touched[watched.query] = None
            followed_more, self._followed_more = self._followed_more, asyncio.Event()
            followed_more.set()
            if not step.has_more:
                break
            await asyncio.sleep(0)
        again = list(self._watched if is_blind else touched)
        for start in range(0, len(again), LEASES_PER_TURN):
            if start:
                await asyncio.sleep(0)
            some = again[start : start + LEASES_PER_TURN]
            # Some may have lost their last watcher meanwhile.
            self._read_things([self._watched[query] for query in some if query in self._watched])
        return None if is_blind else again

    @staticmethod
    def _take_in(watched: _Watched, effect: Effect) -> None:
        for notice in watched.course.take(watched.query, effect):
            watched.tell(notice)
            if isinstance(denial := notice.denial, Deny):
                watched.last = Checked(denial, notice.at)

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
        notice = change(watched.query, watched.last, checked)
        watched.last = checked
        watched.course.settle(is_good=isinstance(checked.decision, Permit))
        self._await_expiry(watched, checked.expires_ns)
        denial = checked.decision if lacks_authority(checked) else None
        if denial == _denial(self._authority):
            self._unsettled.discard(watched.query)
        else:
            self._unsettled.add(watched.query)
        if notice is not None:
            watched.tell(notice)

    def _await_expiry(self, watched: _Watched, expires_ns: int) -> None:
        query = watched.query
        if watched.expires_ns:
            self._expiries.remove((watched.expires_ns, query.lease_id, query.executor))
        if expires_ns:
            self._expiries.add((expires_ns, query.lease_id, query.executor))
        watched.expires_ns = expires_ns

    # -- how far the ledger is followed --------------------------------------------------------

    async def followed(self, ledger_index: int, within_s: float) -> None:
        """Returns when the entry at this index was followed, or when the time is up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self.ledger.size <= ledger_index:
                    await self._followed_more.wait()

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
