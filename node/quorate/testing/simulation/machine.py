"""One simulated machine: power, clocks, a disk, an authority word, and the processes of a node.

Owns the life of the core process (the real `NodeCore`), when its turns are taken and how long they
take, where they can be held up or cut off, and its edges. What outlives what: the disk outlives the
machine's power; clocks, the word and the edges outlive the core.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Final

from quorate.consensus import PeerError
from quorate.core.errors import StorageFullError
from quorate.core.outcome import Outcome
from quorate.lease.word import AuthorityRecord
from quorate.node.node_core import STORAGE_PROBE_S, NodeCore
from quorate.testing.simulation.disk import Backup, Disk, Full
from quorate.testing.simulation.watcher import WatchedWord, Watcher
from quorate.testing.simulation.world import NS_PER_MS, NS_PER_S, SimulatedClock, World, require
from quorate.v1 import peer_pb2 as pb

if TYPE_CHECKING:
    from quorate.testing.simulation.edge import Edge
    from quorate.testing.simulation.network import Link, Network

_AGAIN_NS: Final = 20_000
"""Between two turns that follow each other."""
_LATE_NS: Final = 1_000
_BUSY_NS: Final = 100 * NS_PER_MS
_BUSY_TURNS: Final = 1_000
_MAX_INBOX: Final = 4_096

BuildCore = Callable[["Machine"], NodeCore]


class Stage(Enum):
    """Where in a turn a core can be held up, or end."""

    BEFORE_TURN = "before the turn"
    BEFORE_COMMIT = "before the commit"
    AFTER_COMMIT = "after the commit"
    BEFORE_SEND = "before sending"


class ProcessEnded(Exception):  # noqa: N818 - the simulated process ends here
    """Unwinds the turn of a core that has been killed."""


@dataclass
class Disruption:
    """What is to happen to a core at a stage of its next turn: held up for so long, or ended."""

    stage: Stage
    hold_ns: int
    ends: bool


class Machine:
    """A node's machine. Made without power; `boot` starts it."""

    def __init__(
        self,
        *,
        world: World,
        name: str,
        node_id: str,
        clock: SimulatedClock,
        disk: Disk,
        build_core: BuildCore,
        watcher: Watcher,
        sometimes: Counter[str],
    ) -> None:
        self.world = world
        self.name = name
        self.node_id = node_id
        self.clock = clock
        self.disk = disk
        self.backup: Backup | None = None
        self.chance: random.Random = world.stream(f"machine {name}")
        self.word: WatchedWord | None = None
        self.boot_id = bytes(16)
        self.core: NodeCore | None = None
        self.network: Network | None = None
        self.others: list[Machine] = [self]
        """Every machine of the federation, this one included."""
        self.edges: list[Edge] = []
        self.is_on = False
        self.is_core_stopped = False
        self.disruption: Disruption | None = None
        self.lag_ns = 0
        """After how long the core gets to what has arrived."""
        self.fsync_ns = (50_000, 400_000)
        """Between which bounds a commit's duration lies."""
        self.turns = 0
        self._busy = 0, 0
        self.generation = 0
        self._sometimes = sometimes
        self._build_core = build_core
        self._watcher = watcher
        self._turn_at: int | None = None
        self._is_turning = False
        self._probe_at = 0
        self._mail: list[tuple[Link | None, str, pb.PeerMessage | bool]] = []
        self.is_gone = False
        """Whether whoever runs it has taken it away for good."""
        disk.committed = self._committed

    def replace_disk(self, disk: Disk) -> None:
        """Another disk in the place of the present one. Without power."""
        assert not self.is_on
        self.disk.close()
        self.disk = disk
        disk.committed = self._committed

    @property
    def is_forgetful(self) -> bool:
        """Whether its node has lost what was on its disk, or some of it, and it is not known to be
        whole again."""
        return self.disk.was_lost

    # -- power and processes -----------------------------------------------------------------

    def boot(self, *, is_same_boot: bool = False) -> None:
        """Power on: clocks begin anew, no authority is left, all processes start. is_same_boot: the
        machine was up all the time, and its clocks go on; only the node was stopped."""
        assert not self.is_on
        self.is_on = True
        if not is_same_boot:
            self.clock.reboot(self.chance.randrange(1, 100 * NS_PER_S))
            self.boot_id = self.chance.randbytes(16)
        self.word = WatchedWord.watched(self._published)
        for edge in self.edges:
            edge.start()
        self.start_core()

    def power_off(self, *, in_order: bool = False) -> None:
        """Nothing is left but the disk. in_order: the others see that its streams end."""
        assert self.is_on
        self.is_on = False
        self._end_core()
        for edge in self.edges:
            edge.end()
        if self.word is not None:
            self.word.close()
            self.word = None
        self._watcher.powered_off(self)
        if self.network is not None:
            (self.network.core_ended if in_order else self.network.machine_ended)(self)

    def close(self) -> None:
        if self.is_on:
            self.power_off()
        self.disk.close()

    def start_core(self) -> None:
        """The supervisor starts the core process."""
        assert self.is_on
        assert self.core is None
        self.generation += 1
        self.is_core_stopped = False
        try:
            self.core = self._build_core(self)
        except StorageFullError:  # not even the first entry of a log has room
            self.disk.unmount()
            self.world.after(NS_PER_S, partial(self._start_again, self.generation))
            return
        self._watcher.started(self)
        if self.network is not None:
            self.network.core_started(self)
        self._tell_edges()
        self.wake()

    def _start_again(self, generation: int) -> None:
        if self.generation == generation and self.is_on and self.core is None:
            self.start_core()

    def crash_core(self) -> None:
        """SIGKILL to the core process; the machine stays up."""
        self._end_core()
        if self.network is not None:
            self.network.core_ended(self)

    def _end_core(self) -> None:
        if self.core is None:
            return
        self.core.close()  # a process that ends reads nothing any more
        self.core = None
        self.generation += 1
        self._turn_at, self._is_turning = None, False
        self.disruption = None
        self._mail.clear()
        self.disk.unmount()
        self._watcher.released(self)

    def stop_core(self) -> None:
        """SIGSTOP: the clocks run on, the process does not."""
        self.is_core_stopped = True
        if self.network is not None:
            self.network.core_stalled(self)

    def continue_core(self) -> None:
        """SIGCONT."""
        self.is_core_stopped = False
        if self.network is not None:
            self.network.core_stalled(self)
        self._tell_edges()
        self.wake()

    def _tell_edges(self) -> None:
        for edge in self.edges:
            edge.moved()

    @property
    def answers(self) -> bool:
        """Whether the core's end of a stream does anything."""
        return self.core is not None and not self.is_core_stopped

    @property
    def is_turning(self) -> bool:
        """Whether the core is in the middle of a turn."""
        return self._is_turning

    @property
    def running(self) -> NodeCore:
        assert self.core is not None, f"{self.name} is down"
        return self.core

    def knows(self, node_id: str) -> bool:
        """Whether this node keeps a link to `node_id`: to the active nodes of its state, and to who
        still takes part in its log."""
        if self.core is None:
            return False
        node = self.core.nodes.get(node_id)
        return (node is not None and not node.retired) or node_id in self.core.replica.members

    def admits(self, other: Machine) -> bool:
        """Whether this node takes streams from another: of who is none in its state, for it may
        only lag behind, when that one can show the order by which it was added; of who is retired,
        as long as it takes part in the log."""
        if self.core is None or self.knows(other.node_id):
            return True
        return other.node_id not in self.core.nodes and other.has_order

    @property
    def has_order(self) -> bool:
        """Whether its ledger holds the order by which its node was added."""
        return self.core is not None and self.node_id in self.core.nodes

    # -- what comes in -----------------------------------------------------------------------

    def receive(self, link: Link, messages: list[pb.PeerMessage]) -> None:
        """Messages arrive; a core that is stopped finds them when it goes on."""
        if self.core is None:
            return
        sender = link.sender.node_id
        if len(self._mail) < _MAX_INBOX:
            self._mail.extend((link, sender, message) for message in messages)
        self._turn_by(self.world.now + self.lag_ns)

    def told(self, peer: str, *, is_up: bool) -> None:
        """The link to `peer` has come up, or is gone."""
        if self.core is not None:
            self._mail.append((None, peer, is_up))
            self.wake()

    def stream_ended(self, link: Link) -> None:
        """A stream to this core has ended. One that is stopped may find what had arrived, or it
        may not."""
        if self.is_core_stopped and self.chance.random() < 0.5:
            self._mail = [each for each in self._mail if each[0] is not link]

    # -- turns -------------------------------------------------------------------------------

    def wake(self) -> None:
        self._turn_by(self.world.now)

    def _turn_by(self, when: int) -> None:
        if self.core is None or self.is_core_stopped or self._is_turning:
            return
        if self.core.storage_problem:
            when = max(when, self._probe_at)
        if self._turn_at is None or when < self._turn_at:
            self._turn_at = when
            self.world.at(when, partial(self._turn_due, when, self.generation))

    def _turn_due(self, when: int, generation: int) -> None:
        if self._turn_at != when or self.generation != generation:
            return
        self._turn_at = None
        if self.is_core_stopped:
            return
        self._is_turning = True
        if self._is_disrupted(Stage.BEFORE_TURN, self._begin):
            return
        self._begin()

    def _is_disrupted(self, stage: Stage, go_on: Callable[[], None]) -> bool:
        """Whether the turn ends here, or goes on later."""
        disruption = self.disruption
        if disruption is None or disruption.stage is not stage:
            return False
        self.disruption = None
        if disruption.ends:
            self.world.trace.note(self.world.now, self.name, "ends", stage.value)
            self._sometimes["core killed in a turn"] += 1
            self.crash_core()
            return True
        self.world.trace.note(self.world.now, self.name, "held up", stage.value)
        self.world.after(disruption.hold_ns, partial(self._go_on, self.generation, go_on))
        return True

    def _go_on(self, generation: int, go_on: Callable[[], None]) -> None:
        if self.generation != generation:
            return
        if self.is_core_stopped:
            self.world.after(NS_PER_MS, partial(self._go_on, generation, go_on))
            return
        go_on()

    def _begin(self) -> None:
        core = self.running
        self.turns += 1
        if self.world.now - self._busy[0] > _BUSY_NS:
            self._busy = self.world.now, self.turns
        require(self.turns - self._busy[1] < _BUSY_TURNS, "no node spins", self.name)
        mail, self._mail = self._mail, []
        for _, peer, what in mail:
            if isinstance(what, bool):
                self._link_changed(core, peer, what)
            elif not core.storage_problem:
                core.deliver(peer, what)
        if core.storage_problem:
            self._probe(core)
            return
        try:
            is_good = core.decide()
        except ProcessEnded:
            return
        if not is_good:
            self._finish()
            return
        if self._is_disrupted(Stage.BEFORE_COMMIT, self._settle):
            return
        if core.environment.turn.writes:
            duration = self.chance.randrange(*self.fsync_ns)
            self.world.after(duration, partial(self._go_on, self.generation, self._settle))
        else:
            self._settle()

    def _probe(self, core: NodeCore) -> None:
        """Sees whether there is room on the disk again."""
        try:
            core.probe_storage()
        except ProcessEnded:
            return
        self._finish()

    @staticmethod
    def _link_changed(core: NodeCore, peer: str, is_up: bool) -> None:
        if is_up:
            core.connected(peer)
        else:
            core.disconnected(peer)

    def _settle(self) -> None:
        core, commits = self.running, self.running.environment.commits
        try:
            core.settle()
        except ProcessEnded:
            return
        if not core.storage_problem:
            self._watcher.settled(self, core.environment.commits > commits)
            if self.disk.was_lost and not core.is_on_probation:
                self.disk.was_lost = False
                self._sometimes["probation over"] += 1
            self._watcher.enforced(self, core.keeper.watermark)
            if core.environment.commits > commits:
                self._tell_edges()
        if self._is_disrupted(Stage.BEFORE_SEND, self._finish):
            return
        self._finish()

    def _committed(self) -> None:
        """The disk has committed, in the middle of the core's turn."""
        disruption = self.disruption
        if disruption is None or disruption.stage is not Stage.AFTER_COMMIT:
            return
        self.disruption = None
        generation = self.generation
        if disruption.ends:
            self.world.trace.note(self.world.now, self.name, "ends", disruption.stage.value)
            self._sometimes["core killed in a turn"] += 1
            self.crash_core()
        else:
            # The world goes on around the turn, which this call is in the middle of.
            self.world.trace.note(self.world.now, self.name, "held up", Stage.AFTER_COMMIT.value)
            self.world.run_for(disruption.hold_ns)
        if self.generation != generation:
            raise ProcessEnded

    def _finish(self) -> None:
        """Hands out the turn's messages, and sees when the next turn is due."""
        core, network = self.running, self.network
        if core.storage_problem:
            self._probe_at = self.world.now + int(STORAGE_PROBE_S * NS_PER_S)
        outbox = core.take_outbox()
        for peer, message in outbox:
            self._watcher.sent(self, peer, message)
        self._is_turning = False
        if outbox and network is not None:
            network.send(self, outbox)
        if self._mail or (core.has_more and not core.storage_problem):
            self._turn_by(self.world.now + _AGAIN_NS)
        elif core.storage_problem:
            self._turn_by(self.world.now)
        else:
            due_ns = int(core.next_due_s() * NS_PER_S)
            self._turn_by(self.clock.true_at(due_ns) + _LATE_NS)

    # -- the core's observer -----------------------------------------------------------------

    def executed(self, key: bytes, outcome: Outcome) -> None:
        self._watcher.executed(self, key, outcome)

    def grown(self) -> None:
        """Who follows the ledger is no part of this."""

    def kept(self, ticket: int) -> None:
        self._watcher.kept(self, ticket)

    def members_changed(self) -> None:
        if self.core is not None and self.network is not None:
            self.network.members_changed(self)

    def enforced(self, watermark: int, drained: int) -> None:
        """Told when the turn is over, as everything is."""

    def round_confirmed(self, took_ns: int) -> None:
        """Promised to nobody."""

    def released(self) -> None:
        self._watcher.released(self)

    def refused(self, peer: str, error: PeerError) -> None:
        self._watcher.accused(self, peer, error)

    def _published(self, record: AuthorityRecord) -> None:
        if record.reason is None:
            self._watcher.published(self, record)

    # -- faults ------------------------------------------------------------------------------

    def fill_disk(self, full: Full) -> None:
        self.disk.full = full
