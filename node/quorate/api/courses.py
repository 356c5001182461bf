"""How watched leases come to stand as they do: what each relies on, and what entries do to that.

Owns the leases that one edge watches for its executors, by lease and by the things that an entry
can name, and which notices the entries of the ledger call for. Whoever owns this feeds it every
entry in order, and lets a lease in, or evaluates it, only where the entries up to there were fed:
then all that is told is told in the order of the ledger, to whoever joined when. Whether a lease is
good at a moment is the check path's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from quorate.api.notices import Event, Notice, Watcher, notice_of
from quorate.core.effects import Effect, is_stopped, things_of
from quorate.core.outcome import Deny
from quorate.core.records import Kind
from quorate.core.state import StateView
from quorate.lease.check import Checked, CheckQuery, Position


class Course:
    """How one lease came to stand as it does: which of the things that it relies on are stopped.

    is_good: as it was told last, or evaluated, whether the node has authority or not.
    """

    def __init__(self, stopped: set[str], *, is_good: bool) -> None:
        self.stopped = stopped
        self.is_good = is_good
        self._restored: Notice | None = None

    def settle(self, *, is_good: bool) -> None:
        """The lease was evaluated."""
        self.is_good, self._restored = is_good, None

    def take(self, query: CheckQuery, effect: Effect) -> Iterator[Notice]:
        """What to tell of an entry's effect. That a lease is good again is told only when another
        entry stops it: else it is for whoever evaluates it, because time may have ended it."""
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


@dataclass(slots=True, eq=False)
class Watched:
    """One lease of one executor, with all who watch it.

    last: how it was evaluated, or told, last; None before that.
    things: what an entry can name that changes how it stands; nothing for another's lease.
    acquired_index: of the entry that made it; below 0 when that was in a former ledger, None when
    there is no such lease.
    expires_ns: the boot time of its expiry that is being waited for, as it stands in the hub's list
    of expiries; 0 when it does not.
    """

    query: CheckQuery
    course: Course
    last: Checked | None = None
    things: tuple[str, ...] = ()
    acquired_index: int | None = None
    watchers: set[Watcher] = field(default_factory=set)
    expires_ns: int = 0

    @property
    def thing(self) -> str:
        """The lease itself, as what an entry can name."""
        return f"{Kind.LEASE}:{self.query.lease_id}"

    def tell(self, notice: Notice) -> None:
        for watcher in self.watchers:
            watcher.offer(notice)

    def take(self, effect: Effect) -> None:
        for notice in self.course.take(self.query, effect):
            self.tell(notice)
            # While the node has no authority, that is what everybody was told before, and is told
            # the end of.
            if notice.denial is not None and not (self.last and self.last.is_of_node):
                self.last = Checked(notice.denial, notice.at)

    def replay(self, after_size: int, missed: Iterable[Effect]) -> Iterator[Notice]:
        """What a watcher would have been told, had it watched since the ledger had `after_size`
        entries. missed: what the entries from there on did, up to where this course is."""
        begins = self.acquired_index
        if begins is None:
            return
        own = set(self.things)
        effects = [each for each in missed if each.thing in own and each.index > begins]
        stopped: set[str] = set()  # a lease is granted only when nothing is
        if after_size > begins:
            first = {effect.thing: effect for effect in reversed(effects)}
            # What an entry let go on was stopped before, and what none named still stands as it
            # did. Of what was stopped the other is assumed: only a revocation can follow on a
            # suspension.
            stopped = {thing for thing, effect in first.items() if _lets_go_on(effect)}
            stopped |= self.course.stopped - first.keys()
        course = Course(stopped, is_good=not stopped)
        for effect in effects:
            yield from course.take(self.query, effect)


def _lets_go_on(effect: Effect) -> bool:
    return effect.reason is None and not effect.thing.startswith(f"{Kind.LEASE}:")


class WatchedLeases:
    """All that is watched."""

    def __init__(self) -> None:
        self._all: dict[CheckQuery, Watched] = {}
        self._by_thing: dict[str, dict[Watched, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._all)

    def __iter__(self) -> Iterator[CheckQuery]:
        return iter(self._all)

    def __contains__(self, query: CheckQuery) -> bool:
        return query in self._all

    def __getitem__(self, query: CheckQuery) -> Watched:
        return self._all[query]

    def get(self, query: CheckQuery) -> Watched | None:
        return self._all.get(query)

    def begin(self, query: CheckQuery, view: StateView | None) -> Watched:
        """Takes a lease in. view: of the state up to which entries were fed; None: there is no
        state yet."""
        watched = self._all[query] = Watched(query, Course(set(), is_good=True))
        self.read(watched, view)
        return watched

    def end(self, watched: Watched) -> None:
        self._rely_on(watched, ())
        del self._all[watched.query]

    def read(self, watched: Watched, view: StateView | None) -> None:
        """Reads anew what a lease relies on, and how each of it stands; as `begin` otherwise."""
        self._read_lease(watched, view)
        course = watched.course
        course.stopped = {each for each in watched.things if view is None or is_stopped(view, each)}
        if watched.last is None or watched.last.is_of_node:
            course.is_good = not course.stopped

    def take(self, effect: Effect, view: StateView) -> Sequence[CheckQuery]:
        """An entry did this. Returns what it may have changed. view: of a state with the entry."""
        touched = list(self._by_thing.get(effect.thing, ()))
        for watched in touched:
            if watched.acquired_index is None:
                # It comes to be. The entries after this one may stop what it relies on.
                self._read_lease(watched, view)
                watched.course.stopped &= set(watched.things)
            if watched.things:
                watched.take(effect)
        return [watched.query for watched in touched]

    def _read_lease(self, watched: Watched, view: StateView | None) -> None:
        query = watched.query
        lease = None if view is None else view.lease(query.lease_id)
        watched.acquired_index = None
        if view is None or lease is None:
            self._rely_on(watched, (watched.thing,))
        elif lease.executor != query.executor:
            self._rely_on(watched, ())
        else:
            watched.acquired_index = lease.fence - view.federation().fence_base
            self._rely_on(watched, things_of(lease))

    def _rely_on(self, watched: Watched, things: tuple[str, ...]) -> None:
        for thing in watched.things:
            relying = self._by_thing[thing]
            del relying[watched]
            if not relying:
                del self._by_thing[thing]
        watched.things = things
        for thing in things:
            self._by_thing.setdefault(thing, {})[watched] = None
