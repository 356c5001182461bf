"""A small cluster of `Replica`s in one process: a fake clock, a seeded network, disks in memory.

Owns the world around replicas: time, links, crashes, pauses, and what a disk keeps. One seed gives
one trace, in every process. Does not own what is tried (`raft_runs` draws faults, `raft_safety`
checks Raft's invariants), nor what a node does around a replica (`raft_members` does a little).

The network does what `quorate.consensus.transport` does: messages of a link arrive in order, and
are lost only together with the link, which its sender is told. `rough` makes it worse than that:
repeated, overtaken, silently lost. Raft must stay safe even then.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Protocol

from quorate.consensus import PeerError, RaftSettings, Replica
from quorate.consensus.configuration import Configuration
from quorate.consensus.messages import Message, SnapshotOffer
from quorate.testing.raft_disk import Image, MemoryLogStore

_REDIAL_S = 0.25
_LINK_TIMEOUT_S = 1.5
_TURN_S = 0.001
_WALL_CLOCK_MS = 1_700_000_000_000


class TurnFault(Enum):
    """What goes wrong at the end of a host's next turn."""

    CRASH_BEFORE_COMMIT = "crash before commit"
    CRASH_BEFORE_SEND = "crash before send"
    VOID = "void"  # the commit fails: the turn never was, and the node goes on


@dataclass
class Host:
    """One machine: its disk outlives its replica."""

    node_id: str
    store: MemoryLogStore
    clock_rate: float
    booted_at: float = 0.0
    replica: Replica | None = None
    paused: bool = False
    inbox: list[tuple[str, Message | bool]] = field(default_factory=list)
    turn_at: float = float("inf")
    turn_fault: TurnFault | None = None
    generation: int = 0

    @property
    def live(self) -> Replica:
        assert self.replica is not None, f"{self.node_id} is down"
        return self.replica


@dataclass
class _Link:
    up: bool = False
    cut: bool = False
    epoch: int = 0
    last_arrival: float = 0.0
    stalled: list[Message] = field(default_factory=list)


class Watcher(Protocol):
    """Looks on. `turn_durable` after each commit, with how many entries of the log and the ledger
    were on the disk before; `sent` for each message as it leaves; `started` when a replica was
    built on a disk; `went_back` when the disk of a host that is down is an older one again."""

    def started(self, host: Host) -> None: ...

    def turn_durable(self, host: Host, unchanged: int, applied: int) -> None: ...

    def sent(self, host: Host, peer: str, message: Message) -> None: ...

    def went_back(self, host: Host, before: Image) -> None: ...


class RaftCluster:
    """Replicas `n1`..`nN`, and time, which passes only in `run_for` and `run_until`."""

    def __init__(
        self,
        seed: int,
        size: int,
        *,
        settings: RaftSettings | None = None,
        delay_s: tuple[float, float] = (0.001, 0.02),
        rough: bool = False,
        watchers: tuple[Watcher, ...] = (),
    ) -> None:
        self.now = 0.0
        self.settings = settings or RaftSettings()
        self.chance = random.Random(seed)  # noqa: S311 - a simulation's chance, no secret
        self.delay_s = delay_s
        self.rough = rough
        self.peer_errors: list[str] = []
        self._watchers = watchers
        self._trace = hashlib.sha256()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._counter = 0
        ids = [f"n{number}" for number in range(1, size + 1)]
        self.initial = Configuration(tuple(ids))
        self.hosts: dict[str, Host] = {}
        self._links: dict[tuple[str, str], _Link] = {}
        for name in ids:
            self.add_host(name)
        for name in ids:
            self.start(name)

    # -- time --------------------------------------------------------------------------------

    def at(self, when: float, action: Callable[[], None]) -> None:
        self._counter += 1
        heapq.heappush(self._events, (when, self._counter, action))

    def run_for(self, seconds: float) -> None:
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self._step()
        self.now = end

    def run_until(self, reached: Callable[[], bool], timeout_s: float) -> bool:
        """Runs until `reached()`, at most `timeout_s`; returns whether it was reached."""
        end = self.now + timeout_s
        while not reached():
            if not self._events or self._events[0][0] > end:
                return False
            self._step()
        return True

    def _step(self) -> None:
        when, _, action = heapq.heappop(self._events)
        self.now = max(self.now, when)
        action()

    def clock(self, host: Host) -> float:
        """The host's monotonic clock: from its boot on, at its own rate."""
        return (self.now - host.booted_at) * host.clock_rate

    @property
    def trace(self) -> str:
        """A digest of everything that was sent and applied: the same seed gives the same one."""
        return self._trace.hexdigest()

    def note(self, *what: object) -> None:
        self._trace.update(repr((round(self.now, 9), *what)).encode())

    # -- machines ----------------------------------------------------------------------------

    def add_host(self, name: str) -> None:
        """One more machine, off, with an empty disk, and links with all others."""
        for other in self.hosts:
            self._links[other, name], self._links[name, other] = _Link(), _Link()
        self.hosts[name] = Host(name, MemoryLogStore(), self.chance.uniform(0.98, 1.02))

    def start(self, name: str) -> None:
        """Boots a machine that is down."""
        host = self.hosts[name]
        assert host.replica is None
        host.booted_at = self.now - self.chance.uniform(0, 5)
        host.paused = False
        self._build(host)
        for a, b in self._links_of(name):
            self._dial_later(a, b)

    def _build(self, host: Host) -> None:
        """A replica over what the disk holds; it is told of the links that are up."""
        host.generation += 1
        host.replica = Replica(
            node_id=host.node_id,
            initial=self.initial,
            settings=self.settings,
            store=host.store,
            apply=lambda index, payload: host.store.turn.ledger.append((index, payload)),
            stamp=lambda payload: payload,
            clock=lambda: self.clock(host),
            wall_clock_ms=lambda: _WALL_CLOCK_MS + int(self.now * 1000),
            chance=random.Random(self.chance.random()),  # noqa: S311
            offer=lambda peer, term: self.offer(host, peer, term),
            probation=lambda: host.store.turn.meta.probation,
        )
        up = (b for (a, b), link in self._links.items() if a == host.node_id and link.up)
        host.inbox = [(peer, True) for peer in up]
        for watcher in self._watchers:
            watcher.started(host)
        self._wake(host, self.now)

    def crash(self, name: str) -> None:
        """Power off: the turn that is not committed is lost, so is everything in memory."""
        host = self.hosts[name]
        assert host.replica is not None
        self.note("crash", name)
        host.store.abort()
        host.replica, host.turn_at, host.turn_fault, host.inbox = None, float("inf"), None, []
        host.generation += 1
        for a, b in self._links_of(name):
            self.reset_link(a, b)

    def pause(self, name: str, seconds: float) -> None:
        """SIGSTOP: the clock runs on, nothing else does."""
        host = self.hosts[name]
        host.paused = True
        generation = host.generation
        for a, b in self._links_of(name):
            self._time_out_later(a, b)

        def resume() -> None:
            if host.generation == generation:
                self.resume(name)

        self.at(self.now + seconds, resume)

    def resume(self, name: str) -> None:
        """SIGCONT."""
        host = self.hosts[name]
        host.paused = False
        self._wake(host, self.now)

    def propose(self, name: str, key: bytes, payload: bytes) -> bool:
        host = self.hosts[name]
        taken = host.live.propose(key, payload)
        self._wake(host, self.now)
        return taken

    def leader(self) -> Host | None:
        """The running leader of the latest term."""
        leaders = [host for host in self.running() if host.live.is_leader]
        return max(leaders, key=lambda host: host.live.term, default=None)

    def running(self) -> Iterator[Host]:
        return (host for host in self.hosts.values() if host.replica is not None)

    # -- turns -------------------------------------------------------------------------------

    def _wake(self, host: Host, when: float) -> None:
        if host.replica is None or host.paused or host.turn_at <= when:
            return
        host.turn_at = when
        self.at(when, lambda: self._turn_due(host, when))

    def _turn_due(self, host: Host, when: float) -> None:
        if host.turn_at == when and host.replica is not None and not host.paused:
            self._turn(host)
        elif host.turn_at == when:
            host.turn_at = float("inf")

    # What a node does around its replica; a plain cluster does nothing.

    def offer(self, host: Host, peer: str, term: int) -> SnapshotOffer | None:
        """The snapshot that `host`, leading in `term`, has for `peer`."""
        return None

    def begin_turn(self, host: Host) -> None:
        """What comes before the turn's messages; may put another replica in the place of this."""

    def take_in(self, host: Host, peer: str, message: Message) -> None:
        host.live.receive(peer, message)

    def end_turn(self, host: Host) -> None:
        """What follows the replica's tick, in the same transaction."""

    def _turn(self, host: Host) -> None:
        self.begin_turn(host)
        replica = host.live
        inbox, host.inbox = host.inbox, []
        for peer, what in inbox:
            if what is True:
                replica.connected(peer)
            elif what is False:
                replica.disconnected(peer)
            else:
                try:
                    self.take_in(host, peer, what)
                except PeerError as error:
                    self.peer_errors.append(f"{host.node_id}: {error}")
        replica.tick()
        self.end_turn(host)
        fault, host.turn_fault = host.turn_fault, None
        self.finish_turn(host, fault)
        host.turn_at = float("inf")
        if host.replica is not None:
            timer = host.replica.next_timer()
            assert timer >= self.clock(host) - 1e-9, "a timer in the past keeps the loop spinning"
            due = host.booted_at + timer / host.clock_rate + 1e-6
            self._wake(host, self.now + _TURN_S if host.replica.has_more or host.inbox else due)

    def finish_turn(self, host: Host, fault: TurnFault | None) -> None:
        """Persist, then send."""
        if fault is TurnFault.CRASH_BEFORE_COMMIT:
            self.crash(host.node_id)
            return
        if fault is TurnFault.VOID:
            host.store.abort()
            self._build(host)
            return
        self.commit(host)
        if fault is TurnFault.CRASH_BEFORE_SEND:
            self.crash(host.node_id)
            return
        self.send(host)

    def commit(self, host: Host) -> None:
        unchanged, applied = host.store.turn.unchanged, len(host.store.ledger)
        host.store.commit()
        self.note(host.node_id, host.store.ledger[applied:])
        for watcher in self._watchers:
            watcher.turn_durable(host, unchanged, applied)

    def send(self, host: Host) -> None:
        for peer, message in host.live.take_outbox():
            self.note(host.node_id, peer, message)
            for watcher in self._watchers:
                watcher.sent(host, peer, message)
            self._carry(host.node_id, peer, message)

    # -- links -------------------------------------------------------------------------------

    def cut(self, a: str, b: str) -> None:
        """Nothing gets from `a` to `b`; what is under way waits, and is lost with the link."""
        self._links[a, b].cut = True
        self._time_out_later(a, b)

    def restore(self, a: str, b: str) -> None:
        link = self._links[a, b]
        link.cut = False
        stalled, link.stalled = link.stalled, []
        for message in stalled:
            self._arrive(a, b, link.epoch, message)
        if not link.up:
            self._dial_later(a, b)

    def isolate(self, *group: str) -> None:
        """No link crosses the border of `group`, either way."""
        for a, b in self._links:
            if (a in group) != (b in group):
                self.cut(a, b)

    def heal(self) -> None:
        for a, b in self._links:
            self.restore(a, b)

    def reset_link(self, a: str, b: str) -> None:
        """The link breaks: what was under way is lost, and `a` is told."""
        link = self._links[a, b]
        link.epoch += 1
        link.stalled = []
        if link.up:
            link.up = False
            self._tell(a, b, False)
        self._dial_later(a, b)

    def _links_of(self, name: str) -> list[tuple[str, str]]:
        return [pair for pair in self._links if name in pair]

    def _time_out_later(self, a: str, b: str) -> None:
        link = self._links[a, b]
        epoch = link.epoch

        def time_out() -> None:
            if link.epoch == epoch and not self._passable(a, b):
                self.reset_link(a, b)

        self.at(self.now + _LINK_TIMEOUT_S, time_out)

    def _passable(self, a: str, b: str) -> bool:
        ends = self.hosts[a], self.hosts[b]
        return not self._links[a, b].cut and not any(
            host.replica is None or host.paused for host in ends
        )

    def _dial_later(self, a: str, b: str) -> None:
        link = self._links[a, b]
        epoch = link.epoch

        def dial() -> None:
            if link.epoch != epoch or link.up:
                return
            if self._passable(a, b):
                link.up = True
                self._tell(a, b, True)
            elif all(self.hosts[end].replica is not None for end in (a, b)) and not link.cut:
                self._dial_later(a, b)

        self.at(self.now + self.chance.uniform(0.5, 1) * _REDIAL_S, dial)

    def _tell(self, a: str, b: str, is_up: bool) -> None:
        host = self.hosts[a]
        if host.replica is not None:
            host.inbox.append((b, is_up))
            self._wake(host, self.now)

    def _carry(self, a: str, b: str, message: Message) -> None:
        link = self._links[a, b]
        if not link.up:
            return
        copies = 1
        if self.rough:
            copies = self.chance.choice((0, 1, 1, 1, 1, 1, 2, 3))
        for _ in range(copies):
            arrival = self.now + self.chance.uniform(*self.delay_s)
            if self.rough:
                arrival += self.chance.choice((0, 0, 0, self.chance.expovariate(2)))
            else:
                arrival = link.last_arrival = max(link.last_arrival, arrival)
            self.at(arrival, partial(self._arrive, a, b, link.epoch, message))

    def _arrive(self, a: str, b: str, epoch: int, message: Message) -> None:
        link, host = self._links[a, b], self.hosts[b]
        if link.epoch != epoch and not self.rough:
            return
        if link.cut:
            if not self.rough:
                link.stalled.append(message)
            return
        if host.replica is not None:
            host.inbox.append((a, message))
            self._wake(host, self.now)
