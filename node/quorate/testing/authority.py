"""The authority protocol in a simulated federation: real keepers and words, the rest modelled.

Owns machines with clocks of differing rates, a network, faults, and edges that decide on snapshots.
One seed gives one trace. What must hold is `quorate.testing.authority_safety`'s to say; Raft is
`quorate.testing.authority_raft`'s. Times are nanoseconds of true time, which no machine can read.

The network is worse than `quorate.consensus.transport`: besides losing what is in flight with the
link, it loses single messages, delivers some again, much later and to a node started since, and is
deaf to Raft alone at times, so that a leader does not hear that it is none any more.

The federation changes its `L` all the time, to a half or a quarter and back: which one is in force
is said by the log, and so known to a node only when it has applied that much.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from quorate.lease.authority import FederationTime
from quorate.lease.word import AuthorityRecord, AuthorityWord
from quorate.node.authority_keeper import AuthorityKeeper, AuthorityTerms
from quorate.node.authority_wire import AuthorityMessage
from quorate.testing.authority_raft import Disk, RaftMessage, Voter
from quorate.testing.authority_safety import AuthoritySafety
from quorate.testing.clock import FakeClock

_PPM: Final = 1_000_000
_MS: Final = 1_000_000
_BOOT_ID: Final = b"simulated boot  "
_STAGES: Final = 4
"""Where a turn can be held up or cut off: before it, and before its tick, commit and sending."""

_PERIODS: Final = (1, 2, 4)
"""What the longest period is divided by."""

_FAULTS: Final = (
    *("campaign", "campaign", "hold up", "hold up", "crash", "crash"),
    *("cut", "isolate", "slow", "deaf"),
)


@dataclass
class Reader:
    """An edge in the middle of a check: what it has read, until when that permits in true time."""

    record: AuthorityRecord
    expires: int
    snapshot: int


@dataclass
class Machine:
    """A node's machine. The word, the disk and the readers outlive the core process."""

    node_id: str
    clock: FakeClock
    word: AuthorityWord
    disk: Disk = field(default_factory=Disk)
    voter: Voter | None = None
    keeper: AuthorityKeeper | None = None
    generation: int = 0
    inbox: list[tuple[str, RaftMessage | AuthorityMessage]] = field(default_factory=list)
    todo: list[Callable[[Voter], None]] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    turning: bool = False
    timer: int = 0
    turns: int = 0
    hold_up: tuple[int, int] = (-1, 0)
    crash_at: int = -1

    def true_ns(self, local_ns: int) -> int:
        """How much true time goes by in so much of this machine's, rounded down."""
        return local_ns * _PPM // (_PPM + self.clock.rate_ppm)

    def enforced_through(self) -> int:
        return min([reader.snapshot for reader in self.readers] + [self.disk.applied_index])

    def authority(self) -> AuthorityRecord | None:
        """The record under which an edge of this machine may permit at this moment."""
        record = self.word.read()
        if record is None or record.reason is not None:
            return None
        return record if self.clock.boottime_ns() < record.deadline_ns else None


@dataclass
class _Link:
    up: bool = True
    slow: bool = False
    deaf: bool = False
    epoch: int = 0
    last_arrival: int = 0


class AuthorityWorld:
    """`size` machines `n1`..., and time, which passes in `run_ms` alone. Close it in the end."""

    def __init__(
        self,
        seed: int,
        size: int,
        *,
        period_ms: int = 1_000,
        rho_ppm: int = 250_000,
        changes: bool = True,
    ) -> None:
        """period_ms: the longest that is ever in force. changes: whether there are others."""
        self.now = 0
        self.chance = random.Random(seed)  # noqa: S311 - a simulation's chance, no secret
        self.period_ns = period_ms * _MS
        self.terms = AuthorityTerms(period_ms, period_ms // 2, rho_ppm)
        self.changes = changes
        first = period_ms // _PERIODS[-1] if changes else period_ms
        self._periods = [(first, first)]
        self.trouble = True
        self.commands = True
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0
        slowest = -(_PPM * rho_ppm // (_PPM + rho_ppm))
        ids = [f"n{i + 1}" for i in range(size)]
        self.machines = {
            node_id: Machine(
                node_id,
                FakeClock(
                    boottime_ns=self.chance.randrange(1, 10**15),
                    rate_ppm=self.chance.choice((0, slowest, self.chance.randint(slowest, 0))),
                ),
                AuthorityWord.create(),
            )
            for node_id in ids
        }
        self._links = {(a, b): _Link() for a in ids for b in ids if a != b}
        self.safety = AuthoritySafety(self.machines, self.period_ns, rho_ppm)
        for machine in self.machines.values():
            self._start(machine)
            self._in(0, partial(self._look, machine))
        self._in(0, self._beat)
        self._in(0, self._make_trouble)

    def close(self) -> None:
        for machine in self.machines.values():
            machine.word.close()

    # -- time --------------------------------------------------------------------------------

    def _in(self, delay: int, event: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._events, (self.now + delay, self._order, event))

    def run_ms(self, ms: int, until: Callable[[], bool] = lambda: False) -> bool:
        """Lets time pass, at most so much; returns whether `until` became true."""
        end = self.now + ms * _MS
        while self._events and self._events[0][0] <= end:
            at, _, event = heapq.heappop(self._events)
            self._advance(at)
            event()
            if until():
                return True
        self._advance(end)
        return until()

    def _advance(self, to: int) -> None:
        passed, self.now = to - self.now, to
        for machine in self.machines.values() if passed else ():
            machine.clock.advance(passed)

    def _some(self, periods: float) -> int:
        """A random time up to so many authority periods."""
        return self.chance.randrange(int(periods * self.period_ns) + 1)

    # -- turns -------------------------------------------------------------------------------

    def _start(self, machine: Machine) -> None:
        peers = tuple(peer for peer in self.machines if peer != machine.node_id)
        machine.generation += 1
        machine.turning, machine.crash_at, machine.hold_up = False, -1, (-1, 0)
        machine.todo.clear()
        machine.voter = Voter(machine.node_id, peers, machine.disk)
        machine.keeper = AuthorityKeeper(
            node_id=machine.node_id,
            peers=peers,
            terms=self._terms(machine.disk)[0],
            clock=machine.clock,
            boot_id=_BOOT_ID,
            word=machine.word,
            federation_time=lambda: FederationTime(self.now // _MS, self.now // _MS),
            first_seq=self.chance.getrandbits(62),
        )
        machine.keeper.follow(*self._terms(machine.disk))
        self.safety.started(machine)
        for peer in peers:
            if self._links[machine.node_id, peer].up:
                machine.keeper.connected(peer)
        self.wake(machine)

    def _terms(self, disk: Disk) -> tuple[AuthorityTerms, AuthorityTerms]:
        """In force after what the machine has applied, which is the same on all that have applied
        as much, and the widest that ever were. Every seventh entry of a log changes something."""
        while len(self._periods) <= disk.applied_index:
            index, (period, widest) = len(self._periods), self._periods[-1]
            term = disk.log[index - 1]
            if self.changes and (index * 3 + term) % 7 == 0:
                period = self.terms.period_ms // _PERIODS[(index * 5 + term) % len(_PERIODS)]
            self._periods.append((period, max(period, widest)))
        present, ever = (
            AuthorityTerms(period, period // 2, self.terms.rho_ppm)
            for period in self._periods[disk.applied_index]
        )
        return present, ever

    def crash(self, machine: Machine) -> None:
        machine.voter = machine.keeper = None
        machine.generation += 1
        if self.chance.random() < 0.5:
            machine.inbox.clear()
        delay = self._some(0.5) if self.chance.random() < 0.5 else 0
        self._in(delay, partial(self._start_again, machine))

    def _start_again(self, machine: Machine) -> None:
        if machine.keeper is None:
            self._start(machine)

    def wake(self, machine: Machine) -> None:
        if not machine.turning and machine.keeper is not None:
            machine.turning = True
            self._stage(machine, 0, machine.generation)

    def _stage(self, machine: Machine, stage: int, generation: int) -> None:
        """Runs a turn's stages one after the other, as `node_core` orders them."""
        while machine.generation == generation:
            if machine.crash_at == stage:
                self.crash(machine)
                return
            if machine.hold_up[0] == stage:
                delay, machine.hold_up = machine.hold_up[1], (-1, 0)
                self._in(delay, partial(self._stage, machine, stage, generation))
                return
            assert machine.voter is not None
            assert machine.keeper is not None
            if stage == 0:
                self._take_in(machine, machine.voter, machine.keeper)
            elif stage == 1:
                machine.keeper.tick(
                    machine.voter, machine.disk.applied_index, machine.enforced_through()
                )
            elif stage == 2:
                machine.disk = machine.voter.disk()
            else:
                self._finish(machine, machine.voter, machine.keeper)
                return
            stage += 1

    def _take_in(self, machine: Machine, voter: Voter, keeper: AuthorityKeeper) -> None:
        machine.turns += 1
        inbox, machine.inbox = machine.inbox, []
        for peer, message in inbox:
            if isinstance(message, RaftMessage):
                voter.receive(peer, message)
            else:
                keeper.receive(peer, message, voter)
        todo, machine.todo = machine.todo, []
        for action in todo:
            action(voter)
        voter.apply(self.chance.choice((0, 1, 10, 1_000)) if self.trouble else 1_000)

    def _finish(self, machine: Machine, voter: Voter, keeper: AuthorityKeeper) -> None:
        self.safety.durable(machine, voter, self.now)
        keeper.follow(*self._terms(machine.disk))
        keeper.publish(machine.disk.applied_index)
        self.safety.published(machine, self.now)
        self.safety.told(machine, keeper.watermark, self.now)
        for peer, message in [*voter.outbox, *keeper.take_outbox()]:
            self._send(machine.node_id, peer, message)
        voter.outbox.clear()
        machine.turning = False
        due_ns = keeper.next_timer_ns(voter)
        if machine.inbox or voter.applied_index < voter.commit_index:
            self._in(_MS // 10, partial(self.wake, machine))
        elif due_ns is not None:
            machine.timer += 1
            delay = machine.true_ns(max(0, due_ns - machine.clock.boottime_ns())) + _MS // 10
            self._in(delay, partial(self._timer, machine, machine.timer))

    def _timer(self, machine: Machine, number: int) -> None:
        if machine.timer == number:
            self.wake(machine)

    # -- the network -------------------------------------------------------------------------

    def _send(self, sender: str, to: str, message: RaftMessage | AuthorityMessage) -> None:
        link = self._links[sender, to]
        if not link.up or (self.trouble and self.chance.random() < 0.02):
            return
        if link.deaf and isinstance(message, RaftMessage):
            return
        delay = self.chance.randrange(_MS // 2, 8 * _MS) + (self._some(1.0) if link.slow else 0)
        link.last_arrival = max(link.last_arrival, self.now + delay)
        arrive = partial(self._arrive, sender, to, message)
        self._in(link.last_arrival - self.now, partial(self._carry, link, link.epoch, arrive))
        if self.trouble and self.chance.random() < 0.02:
            self._in(delay + self._some(2.0), arrive)

    def _carry(self, link: _Link, epoch: int, arrive: Callable[[], None]) -> None:
        if link.epoch == epoch:
            arrive()

    def _arrive(self, sender: str, to: str, message: RaftMessage | AuthorityMessage) -> None:
        machine = self.machines[to]
        machine.inbox.append((sender, message))
        self.wake(machine)

    def cut(self, sender: str, to: str) -> None:
        """Ends the link of one direction; what is in flight on it is lost."""
        link = self._links[sender, to]
        link.up, link.epoch, link.last_arrival = False, link.epoch + 1, 0

    def mend(self, sender: str, to: str) -> None:
        link = self._links[sender, to]
        link.slow = link.deaf = False
        if not link.up:
            link.up = True
            machine = self.machines[sender]
            if machine.keeper is not None:
                machine.keeper.connected(to)
                self.wake(machine)

    def isolate(self, node_id: str) -> None:
        for ends in self._links:
            if node_id in ends:
                self.cut(*ends)

    # -- what goes on by itself --------------------------------------------------------------

    def _beat(self) -> None:
        """Leaders' heartbeats, and commands."""
        for machine in self.machines.values():
            if machine.voter is not None and machine.voter.is_leader:
                if self.commands and self.chance.random() < 0.4:
                    machine.todo.append(Voter.append)
                machine.todo.append(Voter.heartbeat)
                self.wake(machine)
        self._in(self.period_ns // 25, self._beat)

    def _look(self, machine: Machine) -> None:
        """An edge begins a check: it reads the word, and may then be stopped for long."""
        record = machine.authority()
        if record is not None:
            left = machine.true_ns(record.deadline_ns - machine.clock.boottime_ns())
            self._in(self._step(), partial(self._open, machine, record, self.now + left - 2))
        self._in(self._some(0.3), partial(self._look, machine))

    def _open(self, machine: Machine, record: AuthorityRecord, expires: int) -> None:
        reader = Reader(record, expires, machine.disk.applied_index)
        machine.readers.append(reader)
        self._in(self._step(), partial(self._decide, machine, reader))

    def _decide(self, machine: Machine, reader: Reader) -> None:
        if machine.clock.boottime_ns() < reader.record.deadline_ns:
            self.safety.permitted(machine, reader.snapshot, self.now)
        machine.readers.remove(reader)

    def _step(self) -> int:
        long = self.trouble and self.chance.random() < 0.1
        return self._some(1.2) if long else self.chance.randrange(_MS)

    # -- faults ------------------------------------------------------------------------------

    def _make_trouble(self) -> None:
        if not self.trouble:
            return
        machine = self.chance.choice(list(self.machines.values()))
        ends = self.chance.choice(list(self._links) or [("", "")])
        fault = self.chance.choice(_FAULTS)
        if fault == "campaign":
            machine.todo.append(Voter.campaign)
            self.wake(machine)
        elif fault == "hold up":
            machine.hold_up = (self.chance.randrange(_STAGES), self._some(1.5))
        elif fault == "crash":
            machine.crash_at = self.chance.randrange(_STAGES)
        elif ends[0]:
            if fault == "cut":
                self.cut(*ends)
            elif fault == "isolate":
                self.isolate(machine.node_id)
            elif fault == "slow":
                self._links[ends].slow = True
            else:
                for at, link in self._links.items():
                    link.deaf = link.deaf or machine.node_id in at
            self._in(self._some(2.0), self._mend_some)
        self._in(self._some(0.5), self._make_trouble)

    def _mend_some(self) -> None:
        for ends in self._links:
            if self.chance.random() < 0.7:
                self.mend(*ends)

    def heal(self) -> None:
        """No more trouble. What was late or held up goes on for two periods; then all links are
        up, all machines run, and somebody fit to lead campaigns."""
        self.trouble = False
        for ends in self._links:
            self.mend(*ends)
        for machine in self.machines.values():
            machine.hold_up, machine.crash_at = (-1, 0), -1
        self._in(2 * self.period_ns, self._elect)

    def _elect(self) -> None:
        """Has whoever is most up to date campaign, until all follow one leader."""
        if self.leader() is not None:
            return
        voters = [m.voter for m in self.machines.values() if m.voter is not None]
        best = max(voters, key=lambda voter: (voter.log[-1:], len(voter.log)))
        best.term = max(voter.term for voter in voters)
        machine = self.machines[best.node_id]
        machine.todo.append(Voter.campaign)
        self.wake(machine)
        self._in(self.period_ns // 4, self._elect)

    def leader(self) -> Machine | None:
        """The machine whom all follow, in one term, if there is one."""
        voters = [m.voter for m in self.machines.values()]
        if None in voters or len({(v.term, v.leader) for v in voters if v}) != 1:
            return None
        assert voters[0] is not None
        return self.machines.get(voters[0].leader or "")
