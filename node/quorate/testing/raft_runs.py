"""Seeded runs of simulated clusters: proposals and faults for a while, then healing.

Owns what is tried, drawn from a seed: faults of machines and links, and, when a profile says so,
members that join, are promoted, demoted and removed, leaders that hand over, and disks that go back
to an older state. Does not own the checks (`raft_safety`) nor the world (`raft`, `raft_members`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from quorate.consensus import RaftSettings, Replica
from quorate.consensus.configuration import Configuration
from quorate.consensus.messages import Message
from quorate.testing.raft import Host, RaftCluster, TurnFault
from quorate.testing.raft_disk import Image, MemoryLogStore
from quorate.testing.raft_members import Ask, MembersCluster
from quorate.testing.raft_safety import SafetyChecker, require

FORGOTTEN_ONE_IN = 10
LIVENESS_S = 20.0
KEY_BYTES = 16
HEALED_DELAY_S = (0.001, 0.01)
CALM_S = 2.0
"""So long a healed cluster has to be left alone: twice the longest election timeout."""
_NO_MEMBER = "is not a member"
"""Of whom this is said, somebody may only not know yet, or not any more."""


@dataclass(frozen=True)
class Profile:
    """What a seeded run may do. `fault_every_s`: the mean time between faults; 0: none.

    change_every_s: the mean time between changes of the members; 0: the cluster stays as it is, and
    compacts nothing. most: of machines. fewest: voters, by anybody's wish.
    go_back_every_s: the mean time between two images of disks, some of which come back; 0: never.
    """

    size: int = 3
    seconds: float = 20.0
    fault_every_s: float = 0.7
    propose_every_s: float = 0.03
    rough: bool = False
    delay_s: tuple[float, float] = (0.001, 0.03)
    settings: RaftSettings | None = None
    change_every_s: float = 0.0
    go_back_every_s: float = 0.0
    most: int = 7
    fewest: int = 2


class SafetyRun:
    """One seed: proposals and faults for a while, then everything is healed and must settle."""

    def __init__(
        self, seed: int, profile: Profile, cluster_type: type[RaftCluster] = RaftCluster
    ) -> None:
        self.profile = profile
        self.chance = random.Random(seed)  # noqa: S311 - a simulation's chance, no secret
        self.checker = SafetyChecker()
        self.proposed = 0
        self.faults = 0
        self.finished: set[tuple[str, bytes]] = set()
        self.never: set[bytes] = set()
        self._told: dict[str, int] = {}
        self._is_over = False
        self.cluster = cluster_type(
            seed,
            profile.size,
            settings=profile.settings,
            delay_s=profile.delay_s,
            rough=profile.rough,
            watchers=(self.checker, self),
        )

    def run(self) -> None:
        cluster = self.cluster
        self._later(self.profile.propose_every_s, self._propose)
        if self.profile.fault_every_s:
            self._later(self.profile.fault_every_s, self._fault)
        cluster.run_for(self.profile.seconds)
        self._is_over = True
        self._heal()
        self._check_liveness()

    def _later(self, mean_s: float, what: Callable[[], None]) -> None:
        """Does it again and again, until the run is over."""

        def due() -> None:
            if not self._is_over:
                self._later(mean_s, what)
                what()

        self.cluster.at(self.cluster.now + self.chance.expovariate(1 / mean_s), due)

    # -- the proposers: they look on, and forget what has its outcome ---------------------------

    def started(self, host: Host) -> None:
        """A new replica waits for nothing."""

    def sent(self, host: Host, peer: str, message: Message) -> None:
        """Messages are the checker's business."""

    def went_back(self, host: Host, before: Image) -> None:
        self._told[host.node_id] = len(host.store.ledger)

    def turn_durable(self, host: Host, _unchanged: int, _applied: int) -> None:
        told = self._told.get(host.node_id, 0)
        for _, payload in host.store.ledger[told:]:
            host.live.forget(payload[:KEY_BYTES])
            self.finished.add((host.node_id, payload))
        self._told[host.node_id] = len(host.store.ledger)

    def _propose(self) -> None:
        host = self.chance.choice(list(self.cluster.hosts.values()))
        if host.replica is None or host.paused:
            return
        key = self._next_key()
        payload = key * self.chance.choice((1, 1, 1, 1, 50))
        self.cluster.propose(host.node_id, key, payload)
        if self.chance.randrange(FORGOTTEN_ONE_IN) == 0:
            replica, when = host.replica, self.cluster.now + self.chance.uniform(0, 1)
            self.cluster.at(when, lambda: self._forget(host, replica, key, payload))

    def _next_key(self) -> bytes:
        self.proposed += 1
        return b"%0*d" % (KEY_BYTES, self.proposed)

    def _forget(self, host: Host, replica: object, key: bytes, payload: bytes) -> None:
        if host.replica is not replica or (host.node_id, payload) in self.finished:
            return
        if not host.live.forget(key):
            self.never.add(payload)

    # -- faults --------------------------------------------------------------------------------

    def _fault(self) -> None:
        self.faults += 1
        cluster, chance = self.cluster, self.chance
        names = list(cluster.hosts)
        a, *others = chance.sample(names, len(names))
        leader = cluster.leader()
        if leader is not None and chance.random() < 0.4:
            a, others = leader.node_id, [name for name in others if name != leader.node_id] or []
        running = cluster.hosts[a].replica is not None
        draw = chance.randrange(9)
        if not running:
            cluster.start(a)
        elif draw == 0:
            cluster.crash(a)
            cluster.at(cluster.now + chance.uniform(0.01, 3), lambda: self._restart(a))
        elif draw in (1, 2, 3):
            cluster.hosts[a].turn_fault = list(TurnFault)[draw - 1]
        elif draw == 4:
            cluster.pause(a, chance.uniform(0.05, 3))
        elif draw == 5 and others:
            cluster.isolate(a, *others[: chance.randrange(len(others))])
        elif draw == 6 and others:
            cluster.cut(a, chance.choice(others))
        elif draw == 7 and others:
            cluster.reset_link(a, chance.choice(others))
        else:
            cluster.heal()

    def _restart(self, name: str) -> None:
        if self.cluster.hosts[name].replica is None:
            self.cluster.start(name)

    # -- the end -------------------------------------------------------------------------------

    def _heal(self) -> None:
        cluster = self.cluster
        cluster.rough, cluster.delay_s = False, HEALED_DELAY_S
        cluster.heal()
        for host in cluster.hosts.values():
            host.turn_fault = None
            if host.replica is None:
                cluster.start(host.node_id)
            elif host.paused:
                cluster.resume(host.node_id)

    def _members(self) -> list[Host]:
        """Who takes part, by the latest leader; none while nobody leads."""
        leader = self.cluster.leader()
        if leader is None or not leader.live.is_settled:
            return []
        return [self.cluster.hosts[name] for name in leader.live.members]

    def _check_liveness(self) -> None:
        """Healed, every member takes proposals, all apply the same, and nothing disturbs them."""
        cluster = self.cluster
        require(cluster.run_until(self._is_calm, LIVENESS_S), "somebody leads")
        last = {host.node_id: self._next_key() for host in self._members()}
        for name, key in last.items():
            cluster.propose(name, key, key)

        def settled() -> bool:
            hosts = self._members()
            ledgers = [host.store.ledger for host in hosts]
            own = {last[host.node_id] for host in hosts if host.node_id in last}
            return (
                bool(own)
                and own <= {payload for _, payload in ledgers[0]}
                and all(ledger == ledgers[0] for ledger in ledgers)
                and all(_same_log(host, hosts[0]) for host in hosts)
            )

        require(cluster.run_until(settled, LIVENESS_S), "a healed cluster settles")
        term = max(host.live.term for host in self._members())
        cluster.run_for(CALM_S)
        leader = cluster.leader()
        require(leader is not None and leader.live.term == term, "nobody disturbs it", term)
        accused = [error for error in cluster.peer_errors if _NO_MEMBER not in error]
        require(not accused, "correct peers are not accused", *accused[:3])
        executed = {payload for _, payload in self.checker.ledger[: self.checker.applied]}
        require(not executed & self.never, "what was refused for good is not executed")

    def _is_calm(self) -> bool:
        """Whether somebody leads, and nobody has to be readmitted."""
        hosts = self._members()
        return bool(hosts) and not any(host.store.meta.probation for host in hosts)


def _same_log(a: Host, b: Host) -> bool:
    """Up to its end, as far as both have it."""
    last, base = a.store.last_index, max(a.store.base, b.store.base)
    return last == b.store.last_index and all(
        a.store.entry(index) == b.store.entry(index) for index in range(base + 1, last + 1)
    )


class MembersRun(SafetyRun):
    """As a safety run, and the members change, logs are compacted, disks go back."""

    cluster: MembersCluster

    def __init__(
        self, seed: int, profile: Profile, cluster_type: type[MembersCluster] = MembersCluster
    ) -> None:
        super().__init__(seed, profile, cluster_type)
        self._later(profile.change_every_s, self._change)
        if profile.go_back_every_s:
            self._later(profile.go_back_every_s, self._take_image)

    # -- changes of the members ----------------------------------------------------------------

    def _change(self) -> None:
        """Asks whoever takes itself for a leader, for one change or for several at once."""
        cluster, chance = self.cluster, self.chance
        leaders = [host for host in cluster.running() if host.live.is_leader and not host.paused]
        if not leaders:
            return
        leader = chance.choice(leaders)
        if chance.randrange(5) == 0:
            others = [each for each in leader.live.voters if each != leader.node_id]
            if others:
                leader.live.hand_over(chance.choice((*others, None)))
            return
        for _ in range(chance.choice((1, 1, 1, 2, 3))):
            cluster.ask(leader.node_id, self._draw_ask(leader))

    def _draw_ask(self, leader: Host) -> Ask:
        """One of those that are possible as the leader sees the cluster now."""
        now, fewest = leader.live.configuration, self.profile.fewest
        strangers = [name for name in self.cluster.hosts if name not in now.members]
        asks: list[Ask] = [partial(_add, name) for name in strangers]
        asks += [partial(_promote, name) for name in now.learners] * 2
        for name in now.members:
            if name != leader.node_id:
                asks += [partial(_demote, name, fewest), partial(_remove, name, fewest)]
        if not asks or (len(self.cluster.hosts) < self.profile.most and not strangers):
            return partial(_add, self.cluster.join())
        return self.chance.choice(asks)

    # -- disks that go back ----------------------------------------------------------------------

    def _take_image(self) -> None:
        host = self.chance.choice(list(self.cluster.hosts.values()))
        image = MemoryLogStore().image() if self.chance.randrange(4) == 0 else host.store.image()
        when = self.cluster.now + self.chance.uniform(0, 4)
        self.cluster.at(when, lambda: self._put_back(host, image))

    def _put_back(self, host: Host, image: Image) -> None:
        if self._is_over or not self._may_go_back(host):
            return
        self.faults += 1
        if host.replica is not None:
            self.cluster.crash(host.node_id)
        self.cluster.go_back(host.node_id, image)
        when = self.cluster.now + self.chance.uniform(0.01, 2)
        self.cluster.at(when, lambda: self._restart(host.node_id))

    def _may_go_back(self, victim: Host) -> bool:
        """As many as have to agree can, without this one: by every configuration that anybody
        holds, a majority is left of those that remember what they promised."""
        for host in self.cluster.hosts.values():
            if not host.store.members:
                continue
            now = Configuration.decode(host.store.members[-1][1])
            for member in now.members:
                if member != victim.node_id and self.cluster.hosts[member].store.meta.probation:
                    return False
            if victim.node_id in now.voters and len(now.voters) <= 2:
                return False
        return True


def _add(member: str, leader: Replica) -> Configuration | None:
    now = leader.configuration
    return None if member in now.members else now.with_learner(member)


def _promote(member: str, leader: Replica) -> Configuration | None:
    """Caught up or not; but not while it is on probation."""
    now = leader.configuration
    can_vote = member in now.learners and leader.is_responsive(member)
    return now.with_voter(member) if can_vote else None


def _demote(member: str, fewest: int, leader: Replica) -> Configuration | None:
    now = leader.configuration
    is_one_of_many = member in now.voters and len(now.voters) > fewest
    return now.with_learner(member) if is_one_of_many else None


def _remove(member: str, fewest: int, leader: Replica) -> Configuration | None:
    now = leader.configuration
    is_one_of_many = member in now.voters and len(now.voters) > fewest
    return now.without(member) if is_one_of_many or member in now.learners else None


def run_seed(
    seed: int, profile: Profile, cluster_type: type[RaftCluster] | None = None
) -> SafetyRun:
    """One seeded run. Raises ViolationError, or whatever a replica raised."""
    if not profile.change_every_s:
        run = SafetyRun(seed, profile, cluster_type or RaftCluster)
    else:
        run = MembersRun(seed, profile)
    run.run()
    return run
