"""Clusters of the engine as it comes, in the simulation that ours is held to.

`BareCluster` is `quorate.testing.raft.RaftCluster` with bare engines in the place of our replicas:
the same time, links, crashes and pauses, drawn from the same seed. `OurCluster` shows the same of
ours, `CompactingCluster` when they keep a log of five entries and send snapshots.

Where the simulation cannot be alike, it is kinder to the bare engine: a link that breaks is noticed
as early as with our transport (1.5 s, the engine's own needs 3.5 s) and is up again within 0.25 s
(its own: 5 s); a crash keeps everything that was written, as kill -9 does and a power cut does not;
messages arrive once, in order, or are lost with the link, in both directions at once.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from tests.unit.consensus.bare import (
    TICK_S,
    Machine,
    Member,
    Wire,
    chained,
    close_files,
    configuration,
    engine,
    hands,
)

from quorate.consensus import Replica
from quorate.testing.raft import Host, RaftCluster
from quorate.testing.raft_members import MembersCluster

FAIL_REASON = engine.FAIL_REASON
_CALLS = 200
_STUCK_S = 0.002
"""An engine that asks for the time more often than that in one turn waits for it to pass."""


class BareReplica:
    """One engine, with as much of `Replica`'s face as the simulation needs."""

    def __init__(self, cluster: BareCluster, host: Host) -> None:
        self.node_id = host.node_id
        self._cluster, self._host = cluster, host
        self._chance = random.Random(cluster.chance.random())  # noqa: S311
        self._calls, self._stuck_s = 0, 0.0
        self._wire = Wire()
        self.faults = 0
        """Turns that ended with an exception. The engine's own thread logs it, and goes on."""
        settings = dict(cluster.engine_settings)
        if cluster.folder is not None:
            settings["journalFile"] = str(cluster.folder / f"{host.node_id}.journal")
            settings["fullDumpFile"] = str(cluster.folder / f"{host.node_id}.dump")
        self._enter()
        others = [Member(name) for name in cluster.hosts if name != host.node_id]
        self.machine: Any = Machine(
            Member(host.node_id),
            others,
            configuration(useFork=False, **settings),
            nodeClass=Member,
            transport=self._wire,
        )

    def _enter(self) -> None:
        hands.clock, hands.chance = self._time, self._chance
        self._calls, self._stuck_s = 0, 0.0

    def _time(self) -> float:
        self._calls += 1
        if self._calls > _CALLS:
            self._stuck_s += _STUCK_S
        return 1000.0 + self._cluster.clock(self._host) + self._stuck_s

    def die(self) -> None:
        close_files(self.machine)

    # -- what the simulation calls -----------------------------------------------------------

    def receive(self, peer: str, message: Any) -> None:
        self._run(lambda: self._wire._onMessageReceived(Member(peer), message))

    def tick(self) -> None:
        self._run(lambda: self.machine.doTick(0.0))

    def _run(self, step: Any) -> None:
        self._enter()
        try:
            step()
        except Exception:  # noqa: BLE001 - as the engine's own thread does
            self.faults += 1

    def take_outbox(self) -> list[tuple[str, Any]]:
        return self._wire.take()

    def connected(self, peer: str) -> None:
        self._wire._onNodeConnected(Member(peer))

    def disconnected(self, peer: str) -> None:
        self._wire._onNodeDisconnected(Member(peer))

    def propose(self, key: bytes, payload: bytes) -> bool:
        self._enter()
        ends = self._cluster.outcomes
        self.machine.put(payload, callback=lambda _, reason: ends.setdefault(key, reason))
        return True

    def next_timer(self) -> float:
        return self._cluster.clock(self._host) + TICK_S

    has_more = False

    @property
    def is_leader(self) -> bool:
        return bool(self.machine._isLeader())

    @property
    def term(self) -> int:
        return int(self.machine.raftCurrentTerm)

    @property
    def leader(self) -> str | None:
        leader = self.machine._getLeader()
        return None if leader is None else str(leader.id)


class _Observed(RaftCluster):
    """What a test sees of either kind."""

    def values(self, name: str) -> list[bytes]:
        """The state machine of a running node: what was put into it, in order."""
        raise NotImplementedError

    def has_outcome(self, name: str, key: bytes) -> bool:
        """Whether the proposer at node `name` has been told how its proposal ended."""
        raise NotImplementedError

    def state(self, name: str) -> tuple[int, bytes]:
        """(index of the last applied entry, digest of the state) of a running node."""
        raise NotImplementedError

    def was_executed(self, name: str, key: bytes) -> bool:
        """Whether the proposer at node `name` has been told that its proposal was executed."""
        return self.has_outcome(name, key)

    leaderships: set[tuple[int, str]]
    """(term, leader), as far as a turn ended with it."""
    on_turn: Callable[[Host], None] | None = None
    """Called after each turn of a node, when it is durable."""

    @property
    def first(self) -> Host:
        leader = self.leader()
        assert leader is not None
        return leader

    def others(self) -> list[Host]:
        return [host for host in self.hosts.values() if host is not self.first]

    def commit(self, host: Host) -> None:
        super().commit(host)
        if host.live.is_leader:
            self.leaderships.add((host.live.term, host.node_id))
        if self.on_turn is not None:
            self.on_turn(host)


class BareCluster(_Observed):
    """Bare engines `n1`..`nN`. `folder`: for journals and dumps; without, they are in memory, and
    a crash loses them. Further settings are the engine's."""

    def __init__(
        self, seed: int, size: int, folder: Path | None = None, **engine_settings: Any
    ) -> None:
        self.folder = folder
        self.engine_settings = engine_settings
        self.outcomes: dict[bytes, int] = {}
        """Of proposals whose callback was called: the engine's reason; 0 is success."""
        self.leaderships = set()
        super().__init__(seed, size)

    def bare(self, name: str) -> BareReplica:
        return cast(BareReplica, self.hosts[name].live)

    def values(self, name: str) -> list[bytes]:
        return list(self.bare(name).machine.values)

    def has_outcome(self, name: str, key: bytes) -> bool:
        return key in self.outcomes

    def was_executed(self, name: str, key: bytes) -> bool:
        return bool(self.outcomes.get(key) == FAIL_REASON.SUCCESS)

    def state(self, name: str) -> tuple[int, bytes]:
        machine = self.bare(name).machine
        return int(machine.raftLastApplied), machine.digest

    def _build(self, host: Host) -> None:
        host.generation += 1
        if host.replica is not None:
            self.bare(host.node_id).die()
        host.replica = cast(Replica, BareReplica(self, host))
        up = (b for (a, b), link in self._links.items() if a == host.node_id and link.up)
        host.inbox = [(peer, True) for peer in up]
        self._wake(host, self.now)

    def crash(self, name: str) -> None:
        self.bare(name).die()
        super().crash(name)

    def send(self, host: Host) -> None:
        for peer, message in host.live.take_outbox():
            self._carry(host.node_id, peer, message)

    def reset_link(self, a: str, b: str) -> None:
        """One connection carries both directions."""
        super().reset_link(a, b)
        if self._links[b, a].up:
            super().reset_link(b, a)

    def _passable(self, a: str, b: str) -> bool:
        return super()._passable(a, b) and super()._passable(b, a)

    def close(self) -> None:
        for host in self.running():
            self.bare(host.node_id).die()


class OurCluster(_Observed):
    """Our replicas `n1`..`nN`, with as much shown of them as of bare engines."""

    def __init__(self, seed: int, size: int) -> None:
        self.leaderships = set()
        self._digests: dict[str, tuple[int, bytes]] = {}
        super().__init__(seed, size)

    def state(self, name: str) -> tuple[int, bytes]:
        ledger = self.hosts[name].store.ledger
        count, digest = self._digests.get(name, (0, b""))
        for _, payload in ledger[count:]:
            digest = chained(digest, payload)
        self._digests[name] = len(ledger), digest
        return self.hosts[name].store.meta.applied, digest

    def values(self, name: str) -> list[bytes]:
        return [payload for _, payload in self.hosts[name].store.ledger]

    def has_outcome(self, name: str, key: bytes) -> bool:
        """It sees its command applied (keys are what payloads begin with)."""
        return any(value.startswith(key) for value in self.values(name))

    def close(self) -> None:
        """Nothing is open."""


class CompactingCluster(OurCluster, MembersCluster):
    """Ours with logs that are compacted, and snapshots for whoever needs what is gone."""
