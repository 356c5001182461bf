"""A simulated edge: the real check path, stopped where it hurts, and the executors that ask it.

Owns when checks are made, and where one is held up: after the word was read, after the snapshot was
opened, and before the clock is read for the last time. An edge outlives its node's core. It follows
the ledger, and says what is drained; some executors hear of what was stopped, give up their permits
and say so. What is learnt of each check goes to a watcher.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

from quorate.core.effects import Effect
from quorate.core.outcome import Permit, Reason
from quorate.core.state import StateView
from quorate.lease.check import Checked, CheckQuery, LeaseChecker
from quorate.lease.following import EdgeLedger
from quorate.lease.outstanding import Holder as PermitHolder
from quorate.lease.word import AuthorityRecord
from quorate.storage import Environment, Snapshot
from quorate.testing.simulation.world import NS_PER_MS, World

if TYPE_CHECKING:
    from quorate.testing.simulation.machine import Machine

_WAY_NS: Final = 3 * NS_PER_MS
"""How long a request is on its way from executor to edge, at most, when nothing is wrong."""
_SHARE_WATCHING: Final = 0.6
_SESSION: Final = "s" * 16
"""Each executor is one process here."""


class Step(Enum):
    """Where in a check an edge can be stopped."""

    WORD_READ = "after the word"
    SNAPSHOT_OPENED = "after the snapshot"
    BEFORE_CLOCK = "before the clock"


@dataclass(eq=False, slots=True)
class Granted:
    """A permit. Times are true ones: when the executor sent its request, and until when it may act,
    by the slowest clock that the assumptions allow it, or because it has given the permit up."""

    machine: Machine
    lease_id: str
    resource: str
    depends_on: tuple[str, ...]
    applied_index: int
    sent: int
    expires: int


@dataclass(eq=False)
class Reading:
    """A check in progress, after its snapshot was opened: the record it goes by, until when that
    could permit in true time, and the state that it decides on."""

    record: AuthorityRecord
    expires: int
    applied_index: int


class CheckWatcher(Protocol):
    """Is told what edges say."""

    def permitted(self, granted: Granted) -> None: ...

    def denied(self, edge: Edge, holder: Holder, reason: Reason) -> None: ...


@dataclass(frozen=True, slots=True)
class Holder:
    """An executor with its lease, and what that is on."""

    executor: str
    lease_id: str
    resource: str = ""


class Edge:
    """One edge process of a machine."""

    def __init__(
        self,
        *,
        world: World,
        machine: Machine,
        domain: str,
        watcher: CheckWatcher,
        next_holder: Callable[[Edge], Holder | None],
        every_ns: int,
        rho_ppm: int,
        sometimes: Counter[str],
    ) -> None:
        """next_holder: whose lease is checked next; None: nobody asks."""
        self.machine = machine
        self.domain = domain
        self.readings: list[Reading] = []
        self.pauses: list[tuple[Step, int]] = []
        """Where the checks to come are held up, and for how long."""
        self._world = world
        self._watcher = watcher
        self._next_holder = next_holder
        self._every_ns = every_ns
        self._rho_ppm = rho_ppm
        self._sometimes = sometimes
        self._chance = world.stream(f"edge {machine.name}")
        self._generation = 0
        self._environment: Environment | None = None
        self._open: Snapshot | None = None
        self._record: AuthorityRecord | None = None
        self._reading: Reading | None = None
        self._is_busy = False
        self._checker: LeaseChecker | None = None
        self._ledger = EdgeLedger()
        self._permits: dict[PermitHolder, list[Granted]] = {}
        """What its executors hold of it."""
        self._is_following = False

    def start(self) -> None:
        self._generation += 1
        self._ledger, self._permits = EdgeLedger(), {}
        self._is_following = False
        self._environment = self.machine.disk.reader()
        boot_id, store = self.machine.boot_id, _Store(self)
        self._checker = LeaseChecker(_Word(self), lambda: store, _Clock(self), boot_id)
        self._again(self._generation)
        self.moved()

    def end(self) -> None:
        """The process is killed, in the middle of whatever it does."""
        self._generation += 1
        self._environment = None
        self.readings.clear()
        if self._open is not None:
            snapshot, self._open = self._open, None
            snapshot.__exit__(None, None, None)

    def _again(self, generation: int) -> None:
        delay = self._chance.randrange(2 * self._every_ns)
        self._world.after(delay, lambda: self._look(generation))

    def _look(self, generation: int) -> None:
        if self._generation != generation:
            return
        holder = None if self._is_busy else self._next_holder(self)
        if holder is not None:
            self.check(holder)
        self._again(generation)

    # -- one check ---------------------------------------------------------------------------

    def check(self, holder: Holder) -> None:
        """Checks a lease for an executor. Takes simulated time when the edge is to be stopped."""
        world, generation, checker = self._world, self._generation, self._checker
        assert checker is not None, "an edge that was started"
        sent = world.now - self._chance.randrange(_WAY_NS)
        self._is_busy = True
        checked = checker.check(CheckQuery(holder.lease_id, holder.executor, "", ""))
        self._is_busy = False
        reading, self._reading = self._reading, None
        if reading in self.readings:
            self.readings.remove(reading)
        if self._generation != generation:
            return  # the process that made this check is gone
        if not isinstance(checked.decision, Permit):
            self._watcher.denied(self, holder, checked.decision.reason)
            return
        assert reading is not None, "a permit rests on a snapshot"
        lasts = checked.ttl_ms * NS_PER_MS
        granted = Granted(
            machine=self.machine,
            lease_id=holder.lease_id,
            resource=holder.resource,
            depends_on=checked.things,
            applied_index=reading.applied_index,
            sent=sent,
            expires=sent + lasts + lasts * self._rho_ppm // 1_000_000,
        )
        self._keep(holder, granted, checked)
        self._watcher.permitted(granted)

    def _keep(self, holder: Holder, granted: Granted, checked: Checked) -> None:
        held_by = PermitHolder(holder.lease_id, holder.executor, _SESSION)
        held = self._permits.setdefault(held_by, [])
        held[:] = [each for each in held if each.expires > self._world.now]
        held.append(granted)
        self._ledger.permitted(
            held_by,
            granted.depends_on,
            checked.at.ledger_size,
            checked.ttl_ms,
            self.machine.clock.boottime_ns(),
        )

    # -- following the ledger ------------------------------------------------------------------

    def moved(self) -> None:
        """The node's state may have moved on, or its core is another one."""
        if not self._is_following:
            self._is_following = True
            delay = self._chance.randrange(_WAY_NS)
            self._world.after(delay, partial(self._follow, self._generation))

    def _follow(self, generation: int) -> None:
        if self._generation != generation or self._environment is None:
            return
        if self._is_busy:  # the process is stopped in a check
            self._world.after(_WAY_NS, partial(self._follow, generation))
            return
        self._is_following = False
        has_more = True
        while has_more:
            with self._environment.read() as snapshot:
                step = self._ledger.follow(snapshot, self.machine.clock.boottime_ns())
            has_more = step.has_more
            for effect in step.effects:
                if effect.reason is not None:
                    self._tell_executors(effect)
        self._report()
        next_ns = self._ledger.next_ns(self.machine.clock.boottime_ns())
        if next_ns is not None:
            at = max(self._world.now, self.machine.clock.true_at(next_ns)) + 1
            self._world.at(at, partial(self._look_at_time, generation))

    def _look_at_time(self, generation: int) -> None:
        if self._generation == generation:
            self._report()

    def _report(self) -> None:
        core, now_ns = self.machine.core, self.machine.clock.boottime_ns()
        drained = self._ledger.drained_index(now_ns)
        if core is None or self.machine.is_core_stopped or self._is_busy:
            return  # it is said again when the core is back, and moves
        core.edge_drained(self.machine.edges.index(self), drained)
        self.machine.wake()

    def _tell_executors(self, effect: Effect) -> None:
        """Some of those who hold a permit watch its lease: they give it up, and say so."""
        for holder, held in self._permits.items():
            things = held[0].depends_on if held else ()
            is_named = effect.thing in (*things, holder.lease)
            if not is_named or self._is_spared(holder, effect):
                continue
            if self._chance.random() < _SHARE_WATCHING:
                delay = self._chance.randrange(_WAY_NS)
                hear = partial(self._give_up, holder, effect.index + 1, self._generation)
                self._world.after(delay, hear)

    def _is_spared(self, holder: PermitHolder, effect: Effect) -> bool:
        """Whether its lease goes on, so that nobody tells it anything."""
        assert self._environment is not None, "it follows the ledger"
        with self._environment.read() as snapshot:
            lease = StateView(snapshot.state).lease(holder.lease_id)
        return lease is not None and effect.spares(lease)

    def _give_up(self, holder: PermitHolder, size: int, generation: int) -> None:
        """An executor hears, and goes by none of its permits from here on."""
        if self._generation != generation:
            return  # its connection is gone: it hears nothing
        for granted in self._permits.pop(holder, ()):
            granted.expires = min(granted.expires, self._world.now)
        delay = self._chance.randrange(_WAY_NS)
        self._world.after(delay, partial(self._acknowledged, holder, size, generation))

    def _acknowledged(self, holder: PermitHolder, size: int, generation: int) -> None:
        if self._generation == generation and not self._is_busy:
            self._sometimes["permits given up"] += 1
            self._ledger.permits.acknowledged(holder, size)
            self._report()

    def _pause(self, step: Step) -> None:
        if self.pauses and self.pauses[0][0] is step:
            _, ns = self.pauses.pop(0)
            world = self._world
            world.trace.note(world.now, self.machine.name, "edge held", step.value)
            self._sometimes["edge held up in a check"] += 1
            world.run_for(ns)

    # -- what the check path reads -------------------------------------------------------------

    def read_word(self) -> AuthorityRecord | None:
        word = self.machine.word
        self._record = None if word is None else word.read()
        self._pause(Step.WORD_READ)
        return self._record

    @contextmanager
    def read_store(self) -> Iterator[Snapshot]:
        environment, record = self._environment, self._record
        if environment is None or record is None:
            raise ProcessLookupError("this edge has been killed")
        snapshot = self._open = environment.read()
        snapshot.__enter__()
        expires = self.machine.clock.true_at(record.deadline_ns)
        self._reading = Reading(record, expires, snapshot.applied_index)
        self.readings.append(self._reading)
        self._pause(Step.SNAPSHOT_OPENED)
        try:
            yield snapshot
        finally:
            if self._open is snapshot:
                self._open = None
                snapshot.__exit__(None, None, None)

    def read_clock(self) -> None:
        """The clocks are about to be read."""
        if self._open is not None:
            self._pause(Step.BEFORE_CLOCK)


class _Word:
    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    def read(self) -> AuthorityRecord | None:
        return self._edge.read_word()


class _Store:
    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    def read(self) -> AbstractContextManager[Snapshot]:
        return self._edge.read_store()


class _Clock:
    def __init__(self, edge: Edge) -> None:
        self._edge = edge

    def realtime_ns(self) -> int:
        self._edge.read_clock()
        return self._edge.machine.clock.realtime_ns()

    def boottime_ns(self) -> int:
        return self._edge.machine.clock.boottime_ns()
