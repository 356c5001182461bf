"""Doing what a plan says is to go wrong, and undoing it.

Owns what each kind of fault means for machines and network. Does not own when (`plan`).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final

from quorate.testing.simulation.disk import Backup, Disk, Full
from quorate.testing.simulation.edge import Step
from quorate.testing.simulation.machine import Disruption, Machine, Stage
from quorate.testing.simulation.majorities import Majorities
from quorate.testing.simulation.network import Network
from quorate.testing.simulation.plan import Planned
from quorate.testing.simulation.stopping import Extent, Stopping
from quorate.testing.simulation.world import NS_PER_MS, NS_PER_S, World

USUAL_FSYNC_NS: Final = (50_000, 400_000)
_LARGE_STEP_NS: Final = 3_600 * NS_PER_S
_SMALL_STEP_NS: Final = 2 * NS_PER_S
_RESTORED_WITHIN_NS: Final = 15 * NS_PER_S


class Faults:
    """Everything that goes wrong in one run."""

    def __init__(
        self,
        world: World,
        machines: list[Machine],
        network: Network,
        *,
        rho_ppm: int,
        new_disk: Callable[[str, str], Disk],
        back_up: Callable[[Disk], Backup],
        restored_disk: Callable[[Backup, str], Disk],
        majorities: Majorities,
        sometimes: Counter[str],
    ) -> None:
        """new_disk: (node, token of probation) -> an empty disk for a node whose own is lost.
        restored_disk: (backup, token of probation) -> a disk with what is in the backup."""
        self._world = world
        self._machines = machines
        self._network = network
        self._new_disk = new_disk
        self._back_up = back_up
        self._restored_disk = restored_disk
        self._majorities = majorities
        self._slowest_ppm = -(1_000_000 * rho_ppm // (1_000_000 + rho_ppm))
        self._sometimes = sometimes
        self._wrong: set[str] = set()
        self._is_over = False
        self._do: dict[str, Callable[[Machine, Planned, random.Random], None]] = {
            "crash": self._crash,
            "crash in turn": self._crash_in_turn,
            "hold in turn": self._hold_in_turn,
            "planned stop": self._planned_stop,
            "stop core": self._stop_core,
            "stop machine": self._stop_machine,
            "power off": self._power_off,
            "stop edge": self._stop_edge,
            "kill edge": self._kill_edge,
            "cut": self._cut,
            "close": self._close,
            "isolate": self._isolate,
            "partition": self._partition,
            "reset": self._reset,
            "flap": self._flap,
            "slow link": self._slow_link,
            "slow disk": self._slow_disk,
            "full disk": self._full_disk,
            "lose disk": self._lose_disk,
            "restore disk": self._restore_disk,
            "step clock": self._step_clock,
            "set clock wrong": self._set_clock_wrong,
            "clock rate": self._clock_rate,
            "everybody off": self._everybody_off,
        }

    def happen(self, event: Planned) -> None:
        """Does what is planned, to whom it is planned for."""
        self._sometimes[f"fault {event.kind}"] += 1
        if event.kind == "heal":
            self._network.heal()
            return
        chance = random.Random(event.draw)  # noqa: S311 - a simulation's chance, no secret
        machine = self._find(event.who[0])
        self._world.trace.note(self._world.now, machine.name, event.kind, event.span // NS_PER_MS)
        self._do[event.kind](machine, event, chance)

    def _find(self, number: int) -> Machine:
        """A machine by its number; -1: whoever leads, if anybody does."""
        if number >= 0:
            return self._machines[number]
        leading = [
            machine
            for machine in self._machines
            if machine.core is not None and machine.core.replica.is_leader
        ]
        return max(leading, key=lambda each: each.running.replica.term, default=self._machines[0])

    def _other(self, machine: Machine, event: Planned) -> Machine:
        found = [self._find(number) for number in event.who]
        return next((each for each in found if each is not machine), machine)

    # -- processes and machines --------------------------------------------------------------

    def _crash(self, machine: Machine, event: Planned, _chance: random.Random) -> None:
        if machine.core is not None:
            machine.crash_core()
            self._world.after(event.span, partial(self._start_core, machine))

    def _start_core(self, machine: Machine) -> None:
        if machine.is_on and machine.core is None and not machine.is_gone:
            machine.start_core()

    def _crash_in_turn(self, machine: Machine, event: Planned, chance: random.Random) -> None:
        machine.disruption = Disruption(chance.choice(list(Stage)), 0, ends=True)
        self._world.after(event.span + NS_PER_S, partial(self._start_core, machine))

    def _hold_in_turn(self, machine: Machine, event: Planned, chance: random.Random) -> None:
        machine.disruption = Disruption(chance.choice(list(Stage)), event.span, ends=False)

    def _planned_stop(self, machine: Machine, event: Planned, chance: random.Random) -> None:
        """Somebody stops a core, a node or a machine in good order, and starts it again."""
        if machine.core is None:
            return
        what = chance.choice(list(Extent))
        again: Callable[[Machine], None] = self._boot
        if what is Extent.CORE:
            again = self._start_core
        elif what is Extent.NODE:
            again = partial(self._boot, is_same_boot=True)
        stopped = partial(self._world.after, event.span, partial(again, machine))
        Stopping(machine, what, self._sometimes, stopped)

    def _stop_core(self, machine: Machine, event: Planned, _chance: random.Random) -> None:
        if machine.core is not None:
            machine.stop_core()
            self._world.after(event.span, partial(self._continue, machine, machine.generation))

    def _continue(self, machine: Machine, generation: int) -> None:
        if machine.generation == generation and machine.is_core_stopped:
            machine.continue_core()

    def _stop_machine(self, machine: Machine, event: Planned, chance: random.Random) -> None:
        self._stop_core(machine, event, chance)
        for edge in machine.edges:
            edge.pauses = [(chance.choice(list(Step)), event.span)]

    def _stop_edge(self, machine: Machine, event: Planned, chance: random.Random) -> None:
        for edge in machine.edges:
            edge.pauses = [(chance.choice(list(Step)), event.span)]

    @staticmethod
    def _kill_edge(machine: Machine, _event: Planned, _chance: random.Random) -> None:
        """Its supervisor starts another at once."""
        if machine.is_on:
            for edge in machine.edges:
                edge.end()
                edge.start()

    def _power_off(self, machine: Machine, event: Planned, _chance: random.Random) -> None:
        if machine.is_on:
            machine.power_off()
            self._world.after(event.span, partial(self._boot, machine))

    @staticmethod
    def _boot(machine: Machine, *, is_same_boot: bool = False) -> None:
        if not machine.is_on and not machine.is_gone:
            machine.boot(is_same_boot=is_same_boot)

    def _everybody_off(self, _machine: Machine, event: Planned, chance: random.Random) -> None:
        for machine in self._machines:
            self._power_off(machine, event, chance)

    # -- the network -------------------------------------------------------------------------

    def _cut(self, machine: Machine, event: Planned, _chance: random.Random) -> None:
        other = self._other(machine, event)
        if other is not machine:
            self._network.cut(machine.name, other.name)
            self._restore_later(event, [(machine, other)])

    def _close(self, machine: Machine, event: Planned, chance: random.Random) -> None:
        """Packets of one direction, to one or to all others, do not get through."""
        others = [each for each in self._machines if each is not machine]
        if len(others) > 1 and chance.random() < 0.6:
            others = chance.sample(others, chance.randint(1, len(others) - 1))
        pairs = [(machine, other) for other in others]
        if chance.random() < 0.5:
            pairs = [(other, machine) for other in others]
        for a, b in pairs:
            self._network.close(a.name, b.name)
        self._restore_later(event, pairs)

    def _isolate(self, machine: Machine, event: Planned, _chance: random.Random) -> None:
        self._network.isolate([machine.name])
        self._restore_later(
            event, [(machine, each) for each in self._machines if each is not machine]
        )

    def _partition(self, _machine: Machine, event: Planned, chance: random.Random) -> None:
        """The federation falls apart into groups."""
        groups: list[list[Machine]] = [[], [], []]
        for machine in self._machines:
            chance.choice(groups[: 2 if len(self._machines) < 5 else 3]).append(machine)
        for group in groups:
            self._network.isolate(each.name for each in group)
        pairs = [(a, b) for a in self._machines for b in self._machines if a is not b]
        self._restore_later(event, pairs)

    def _restore_later(self, event: Planned, pairs: list[tuple[Machine, Machine]]) -> None:
        """Cut links stay so for a while, twice as long as other faults last; some until `heal`."""
        if event.draw % 4:
            for a, b in pairs:
                self._world.after(2 * event.span, partial(self._network.restore, a.name, b.name))
                self._world.after(2 * event.span, partial(self._network.restore, b.name, a.name))

    def _reset(self, machine: Machine, event: Planned, _chance: random.Random) -> None:
        other = self._other(machine, event)
        if other is not machine:
            self._network.reset(machine.name, other.name)

    def _flap(self, machine: Machine, event: Planned, chance: random.Random) -> None:
        """A machine's network comes and goes."""
        for turn in range(chance.randint(3, 12)):
            at = turn * (event.span // 4 + 50 * NS_PER_MS)
            self._world.after(at, partial(self._isolate_again, machine))
            up = at + chance.randrange(event.span // 4 + 50 * NS_PER_MS)
            for other in self._machines:
                if other is not machine:
                    for a, b in ((machine, other), (other, machine)):
                        self._world.after(up, partial(self._network.restore, a.name, b.name))

    def _isolate_again(self, machine: Machine) -> None:
        if not self._is_over:
            self._network.isolate([machine.name])

    def _slow_link(self, machine: Machine, event: Planned, chance: random.Random) -> None:
        other = self._other(machine, event)
        if other is machine:
            return
        for a, b in ((machine, other), (other, machine)):
            if chance.random() < 0.7:
                self._network.links[a.name, b.name].slow = True
        self._restore_later(event, [(machine, other)])

    # -- disks and clocks --------------------------------------------------------------------

    def _slow_disk(self, machine: Machine, event: Planned, chance: random.Random) -> None:
        slowest = chance.choice((20, 200, 1_000)) * NS_PER_MS
        machine.fsync_ns = (slowest // 10, slowest)
        self._world.after(2 * event.span, partial(self._usual_disk, machine))

    @staticmethod
    def _usual_disk(machine: Machine) -> None:
        machine.fsync_ns = USUAL_FSYNC_NS

    def _full_disk(self, machine: Machine, event: Planned, chance: random.Random) -> None:
        machine.fill_disk(chance.choice((Full.AT_WRITE, Full.AT_COMMIT)))
        self._world.after(event.span, partial(machine.fill_disk, Full.NOT))

    def _lose_disk(self, machine: Machine, event: Planned, chance: random.Random) -> None:
        """The machine comes back with an empty disk."""
        if self._majorities.may_lose(machine):
            self._sometimes["disk lost"] += 1
            disk = partial(self._new_disk, machine.node_id, _token(chance))
            self._come_back_with(machine, disk, event.span)

    def _restore_disk(self, machine: Machine, event: Planned, chance: random.Random) -> None:
        """A backup is taken of the machine, or there is one of before; later it comes back with
        that, and has forgotten what it did since."""
        if machine.backup is None or chance.random() < 0.5:
            machine.backup = self._back_up(machine.disk)
        later = int(_RESTORED_WITHIN_NS * chance.random() ** 2)
        put_back = partial(self._put_back, machine, machine.backup, event, chance)
        self._world.after(later, put_back)

    def _put_back(
        self, machine: Machine, backup: Backup, event: Planned, chance: random.Random
    ) -> None:
        """Now, or when it may be, unless that is too late."""
        now = self._world.now
        if self._is_over or now > event.at + _RESTORED_WITHIN_NS:
            return
        if not self._majorities.may_lose(machine):
            again = partial(self._put_back, machine, backup, event, chance)
            self._world.after(chance.randrange(NS_PER_S), again)
            return
        self._world.trace.note(now, machine.name, "is restored")
        self._sometimes["disk restored"] += 1
        disk = partial(self._restored_disk, backup, _token(chance))
        self._come_back_with(machine, disk, event.span)

    def _come_back_with(self, machine: Machine, disk: Callable[[], Disk], span: int) -> None:
        if self._majorities.is_changing(machine):
            self._sometimes["disk lost while members change"] += 1
        machine.power_off()
        machine.replace_disk(disk())
        self._world.after(span, partial(self._boot, machine))

    def _step_clock(self, machine: Machine, _event: Planned, chance: random.Random) -> None:
        machine.clock.step(chance.randint(-_SMALL_STEP_NS, _SMALL_STEP_NS))

    def _set_clock_wrong(self, machine: Machine, _event: Planned, chance: random.Random) -> None:
        """By much, but never those of so many machines that the wrong ones could be the median."""
        self._wrong.add(machine.name)
        if 2 * len(self._wrong) < len(self._machines):
            machine.clock.step(chance.randint(-_LARGE_STEP_NS, _LARGE_STEP_NS))
        else:
            self._wrong.discard(machine.name)

    def _clock_rate(self, machine: Machine, _event: Planned, chance: random.Random) -> None:
        slowest = self._slowest_ppm
        machine.clock.set_rate(chance.choice((0, slowest, chance.randint(slowest, 0))))

    # -- the end -----------------------------------------------------------------------------

    def repair_all(self, realtime_ns: int) -> None:
        """Nothing is wrong any more: links, disks, clocks and machines are as they should be."""
        self._is_over = True
        self._network.heal()
        self._network.roughness = 0.0
        for machine in list(self._machines):
            machine.disruption = None
            machine.fill_disk(Full.NOT)
            self._usual_disk(machine)
            machine.clock.set_realtime(realtime_ns)
            for edge in machine.edges:
                edge.pauses = []
            if machine.is_gone:
                continue
            if not machine.is_on:
                machine.boot()
            elif machine.core is None:
                machine.start_core()
            elif machine.is_core_stopped:
                machine.continue_core()


def _token(chance: random.Random) -> str:
    """Of a probation: another one each time."""
    return f"{chance.getrandbits(64):016x}"
