"""How watched leases come to stand as they do: what each relies on, and what entries do to that.

Owns the leases that one edge watches for its executors, by lease and by the things that an entry
can name, and which notices the entries of the ledger call for. Whoever owns this feeds it every
entry in order, and lets a lease in, or evaluates it, only where the entries up to there were fed:
then all that is told is told in the order of the ledger, to whoever joined when. What policies mean
for a lease takes a while to say, so that nothing is told of their entries: whoever feeds this reads
such leases anew (`WatchedLeases.read`), some at a time, and evaluates them. Whether a lease is good
at a moment is the check path's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from quorate.api.errors import OutOfRangeError, Violation
from quorate.api.notices import Event, Notice, Watcher, change, notice_of
from quorate.core.containment import listed
from quorate.core.effects import SAID, Effect, is_of_policies, is_stopped, things_of
from quorate.core.ids import SpiffeId
from quorate.core.outcome import Decision, Deny, Permit, Reason
from quorate.core.records import Kind, Lease
from quorate.core.state import StateView
from quorate.lease.check import Checked, CheckQuery, Position

EFFECTS_A_NOTICE: Final = 8
"""So many effects on what leases rely on may come to one notice, when missed ones are told."""
_UNKNOWN: Final = 0
_FOREVER: Final = 1 << 63  # ms


class Course:
    """How one lease came to stand as it does: which of the things that it relies on are stopped.

    unread: of these, too, an entry may have stopped the lease, and nobody has looked since.
    is_good: as it was told last, or evaluated, whether the node has authority or not. is_over: it
    is not good for a reason that no entry says, as time is.
    proved_until: ledger time up to which what its executor has proved is known to be enough;
    _UNKNOWN: whether it is has to be looked at.
    """

    def __init__(self, stopped: set[str], *, is_good: bool, proved_until: int = _FOREVER) -> None:
        self.stopped = stopped
        self.unread: set[str] = set()
        self.is_good = is_good
        self.is_over = False
        self.proved_until = proved_until

    def settle(self, decision: Decision) -> None:
        """It was evaluated, by a node that has authority."""
        self.is_good = isinstance(decision, Permit)
        if isinstance(decision, Permit):
            self.is_over = False
            self.proved_until = _FOREVER if decision.lapse is None else decision.lapse.at
        else:
            self.is_over = not self._explains(decision)

    def take(self, query: CheckQuery, effect: Effect, expires_at: int) -> Notice | None:
        """What to tell of an entry's effect. expires_at: ledger time from which on the lease is
        over, whatever is let go on. When in doubt nothing is restored: whoever has fed this
        evaluates it afterwards."""
        if effect.reason is None:
            return self._go_on(query, effect, expires_at)
        if effect.of_policies:
            self.stopped.discard(effect.thing)
            self.unread.add(effect.thing)
            return None
        self.stopped.add(effect.thing)
        if not self.is_good:
            return None
        self.is_good = False
        denial = Deny(effect.reason, effect.thing.partition(":")[2])
        return notice_of(query, Event.INTERRUPTED, denial, _after(effect))

    def _go_on(self, query: CheckQuery, effect: Effect, expires_at: int) -> Notice | None:
        was_stopped = bool(self.stopped or self.unread)
        self.stopped.discard(effect.thing)
        self.unread.discard(effect.thing)
        if effect.may_stop:
            self.proved_until = _UNKNOWN
        if self.is_good or self.stopped or self.unread or not was_stopped:
            return None
        if self.is_over or effect.ledger_time >= min(expires_at, self.proved_until):
            return None
        self.is_good = True
        return notice_of(query, Event.RESTORED, None, _after(effect))

    def _explains(self, denial: Deny) -> bool:
        """Whether it is one of what entries have stopped."""
        names = (thing.partition(":")[2] for thing in chain(self.stopped, self.unread))
        return denial.reason in SAID and denial.thing in names


@dataclass(slots=True, eq=False)
class Watched:
    """One lease of one executor, with all who watch it.

    last: how it stands by what was told last; None before anything was. lost: why the node denies
    everything, as was told after that; None when it does not.
    things: what an entry can name that changes how it stands; nothing for another's lease.
    lease: None while there is none, or it is another's.
    acquired_index: of the entry that made it; below 0 when that was in a former ledger, None when
    there is no such lease. expires_at: ledger time.
    expires_ns: the boot time of its expiry that is being waited for, as it stands in the hub's list
    of expiries; 0 when it does not.
    """

    query: CheckQuery
    course: Course
    last: Decision | None = None
    lost: Deny | None = None
    things: tuple[str, ...] = ()
    lease: Lease | None = None
    acquired_index: int | None = None
    expires_at: int = 0
    watchers: set[Watcher] = field(default_factory=set)
    expires_ns: int = 0

    @property
    def thing(self) -> str:
        """The lease itself, as what an entry can name."""
        return f"{Kind.LEASE}:{self.query.lease_id}"

    def tell(self, notice: Notice) -> None:
        for watcher in self.watchers:
            watcher.offer(notice)

    def concerns(self, effect: Effect) -> bool:
        """Whether this, done to something that the lease relies on, changes anything for it."""
        return self.lease is None or not effect.spares(self.lease)

    def take(self, effect: Effect) -> None:
        """An entry did this, to what the lease relies on."""
        if not self.concerns(effect):
            return
        notice = self.course.take(self.query, effect, self.expires_at)
        if notice is None:
            return
        self.tell(notice)
        self.last = notice.denial or Permit()
        if notice.denial is None:
            self.lost = None  # whoever evaluates it next says so again, if it is still so

    def settle(self, checked: Checked) -> None:
        """It was evaluated, where the ledger is by now."""
        notice = change(self.query, self.lost or self.last, checked)
        decision = checked.decision
        if checked.is_of_node and isinstance(decision, Deny):
            self.lost = decision
        else:
            self.last, self.lost = decision, None
            self.course.settle(decision)
        if notice is not None:
            self.tell(notice)

    def replay(self, effects: Sequence[Effect]) -> Iterator[Notice]:
        """What a watcher would have been told, had it watched meanwhile. effects: of the entries
        from some place on, up to where this course is, what they did to what it relies on. Raises
        OutOfRangeError where that does not follow from them."""
        begins = self.acquired_index
        if begins is None:
            return
        effects = [each for each in effects if each.index > begins and self.concerns(each)]
        first = {effect.thing: effect for effect in reversed(effects)}
        if self.course.stopped - first.keys():
            return  # it was stopped all along
        if any(e.is_unsaid and e.thing not in self.course.stopped for e in first.values()):
            problem = "policies, or what has to be proved, have changed since then; begin with 0"
            raise OutOfRangeError(Violation("after_size", problem))
        # What an entry let go on was stopped before. Of what was stopped the other is assumed;
        # where it could have been stopped before as well, nobody can be told that the lease was
        # good until then. Of policies only the last are known to stop it.
        stopped = {thing for thing, effect in first.items() if _lets_go_on(effect)}
        doubtful = (
            e.index for e in effects if e.is_unsaid or (_may_repeat(e) and e is first[e.thing])
        )
        doubtful_until = max(doubtful, default=-1)
        is_unproved = self.course.proved_until == _UNKNOWN
        course = Course(
            stopped,
            is_good=not stopped,
            proved_until=_FOREVER if is_unproved else self.course.proved_until,
        )
        for effect in effects:
            notice = course.take(self.query, effect, self.expires_at)
            if notice is None:
                continue
            is_doubtful = is_unproved or effect.index < doubtful_until
            if notice.event is Event.RESTORED and is_doubtful:
                problem = "how a lease stood since then cannot be told any more; begin with 0"
                raise OutOfRangeError(Violation("after_size", problem))
            yield notice


class Replay:
    """What a watcher has missed, of one lease after the other; so much of it at most, for nothing
    else runs meanwhile."""

    def __init__(self, missed: Iterable[Effect], most: int) -> None:
        """missed: what all entries did from some place on. most: notices, of all leases."""
        self._by_thing: dict[str, list[Effect]] = {}
        for effect in missed:
            self._by_thing.setdefault(effect.thing, []).append(effect)
        self._room = most
        self._effects_left = EFFECTS_A_NOTICE * most

    def of(self, watched: Watched) -> list[Notice]:
        """Raises OutOfRangeError when it is too much with this lease."""
        own = [self._by_thing[thing] for thing in watched.things if thing in self._by_thing]
        self._effects_left -= sum(map(len, own))
        if self._effects_left < 0:
            raise self._too_much()
        told = list(watched.replay(sorted(chain(*own), key=lambda effect: effect.index)))
        self._room -= len(told)
        if self._room < 0:
            raise self._too_much()
        return told

    @staticmethod
    def _too_much() -> OutOfRangeError:
        return OutOfRangeError(Violation("after_size", "too much has happened; begin with 0"))


_ONLY_ONCE: Final = frozenset(
    {
        Reason.GRANT_SUSPENDED,
        Reason.FROZEN,
        Reason.CONTAINED,
        Reason.LEASE_RELEASED,
    }
)
"""Stops that can only follow on a thing that was good. A revocation can follow on a suspension, a
narrowing on another, a suspension by all domains on one by the domain itself, and an executor's by
its domain on one by what it has proved."""


def _may_repeat(effect: Effect) -> bool:
    """Whether the thing may have been stopped before this, too."""
    return effect.reason is not None and effect.reason not in _ONLY_ONCE


def _lets_go_on(effect: Effect) -> bool:
    """Whether the thing was stopped before this. A lease that comes to be, or lasts longer, was not
    stopped; and what is said to be so or not, or has to be looked at, may have been."""
    is_of_lease = effect.thing.startswith(f"{Kind.LEASE}:")
    return effect.reason is None and not is_of_lease and not effect.is_unsaid


def _after(effect: Effect) -> Position:
    return Position(effect.index + 1, effect.ledger_time)


class WatchedLeases:
    """All that is watched."""

    def __init__(self) -> None:
        self._all: dict[CheckQuery, Watched] = {}
        self._by_thing: dict[str, dict[Watched, None]] = {}

    def __len__(self) -> int:
        return len(self._all)

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
        course, lease = watched.course, watched.lease
        course.stopped = {
            each for each in watched.things if view is None or is_stopped(view, each, lease)
        }
        course.unread = set()
        if watched.last is None or watched.lost is not None:
            course.is_good = not course.stopped

    @staticmethod
    def ask(query: CheckQuery, view: StateView) -> None:
        """Asks the policies about a lease. What they answer is kept: whoever takes it in next asks
        no more."""
        lease = view.lease(query.lease_id)
        if lease is None or lease.executor != query.executor:
            return
        for thing in things_of(listed(view, lease), view.federation_record().origin):
            if is_of_policies(thing):
                is_stopped(view, thing, lease)

    def take(self, effect: Effect, view: StateView) -> Sequence[CheckQuery]:
        """An entry did this. Returns what it may have changed. view: of a state with the entry."""
        touched = list(self._by_thing.get(effect.thing, ()))
        for watched in touched:
            if effect.thing == watched.thing and effect.reason is None:
                # It comes to be, and the entries after this one may stop what it relies on; or it
                # lasts longer.
                self._read_lease(watched, view)
                watched.course.stopped &= set(watched.things)
                watched.course.unread &= set(watched.things)
            if watched.things:
                watched.take(effect)
        return [watched.query for watched in touched]

    def _read_lease(self, watched: Watched, view: StateView | None) -> None:
        query = watched.query
        lease = None if view is None else view.lease(query.lease_id)
        watched.acquired_index, watched.lease = None, None
        if view is None or lease is None:
            self._rely_on(watched, (watched.thing,))
        elif lease.executor != query.executor:
            self._rely_on(watched, ())
        else:
            watched.lease = lease = listed(view, lease)
            federation = view.federation()
            watched.acquired_index = lease.fence - federation.fence_base
            watched.expires_at = lease.expires_at
            self._rely_on(watched, things_of(lease, federation.origin))
            home = view.domain(SpiffeId.parse(lease.executor).trust_domain)
            asks_nothing = home is not None and not home.references
            watched.course.proved_until = _FOREVER if asks_nothing else _UNKNOWN

    def _rely_on(self, watched: Watched, things: tuple[str, ...]) -> None:
        for thing in watched.things:
            relying = self._by_thing[thing]
            del relying[watched]
            if not relying:
                del self._by_thing[thing]
        watched.things = things
        for thing in things:
            self._by_thing.setdefault(thing, {})[watched] = None
