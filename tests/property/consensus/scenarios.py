"""Clusters in trouble that a majority has nothing to do with: nobody may notice.

Each scenario is a function of a seed that raises when the majority was disturbed. They are tests by
themselves, and they are what deliberate breaks of pre-vote and stickiness are shown to
(`test_disturbing_mutants`).
"""

from __future__ import annotations

from collections.abc import Callable

from quorate.consensus import RaftSettings
from quorate.consensus.configuration import Configuration
from quorate.consensus.messages import Message
from quorate.testing.raft import Host
from quorate.testing.raft_members import MembersCluster
from quorate.testing.raft_safety import SafetyChecker

DISTURBED_S = 300.0
SETTLED_S = 10.0


class Calm(MembersCluster):
    """A cluster with a leader, in step, under the safety checker; its log is long enough for
    everybody who comes back, so that what is seen is elections and nothing else."""

    def __init__(self, seed: int, size: int = 5, *, twice: bool = False) -> None:
        self.checker = SafetyChecker()
        self.twice = twice
        super().__init__(seed, size, settings=RaftSettings(), watchers=(self.checker,))
        self.until(lambda: self.leader() is not None and self.in_step(*self.hosts))
        self.first = self.the_leader.node_id
        self.term = self.the_leader.live.term
        self.victims = sorted(name for name in self.hosts if name != self.first)
        self.chance.shuffle(self.victims)

    def _carry(self, a: str, b: str, message: Message) -> None:
        """If so said, everything arrives twice."""
        for _ in range(1 + self.twice):
            super()._carry(a, b, message)

    @property
    def the_leader(self) -> Host:
        leader = self.leader()
        assert leader is not None, "nobody leads"
        return leader

    def until(self, reached: Callable[[], bool], timeout_s: float = SETTLED_S) -> None:
        assert self.run_until(reached, timeout_s), "it does not come to that"

    def in_step(self, *names: str) -> bool:
        hosts = [self.hosts[name] for name in names]
        last = self.the_leader.store.last_index
        return all(h.replica is not None and h.store.meta.applied == last for h in hosts)

    def others(self, *names: str) -> list[str]:
        return [name for name in self.hosts if name not in names]

    def deafen(self, name: str) -> None:
        for other in self.others(name):
            self.cut(other, name)

    def mute(self, name: str) -> None:
        for other in self.others(name):
            self.cut(name, other)

    def every(self, shortest_s: float, longest_s: float, what: Callable[[], None]) -> None:
        """Does it now, and again and again."""

        def due() -> None:
            what()
            self.every(shortest_s, longest_s, what)

        self.at(self.now + self.chance.uniform(shortest_s, longest_s), due)

    def assert_undisturbed(self) -> None:
        """The leader is who it was, and its term, and nobody's is later."""
        assert self.checker.elections == 1, f"{self.checker.elections - 1} elections"
        terms = {name: host.store.meta.term for name, host in self.hosts.items()}
        assert max(terms.values()) == self.term, terms
        assert self.the_leader.node_id == self.first
        assert not self.peer_errors, self.peer_errors[:3]

    def assert_works(self) -> None:
        """A proposal of a sound node is executed in no time."""
        began, key = self.now, b"%d" % int(self.now * 1000)
        self.propose(self.first, key, key)
        self.until(lambda: self.hosts[self.first].store.ledger[-1:] == [(self._last(), key)])
        assert self.now - began < self.settings.heartbeat_s
        self.run_for(self.settings.heartbeat_s)

    def _last(self) -> int:
        return self.the_leader.store.last_index


Trouble = Callable[[Calm, str], None]


def flaps(cluster: Calm, victim: str) -> None:
    """Its links go and come back."""

    def go() -> None:
        for other in cluster.others(victim):
            cluster.cut(victim, other)
            cluster.cut(other, victim)
        cluster.at(cluster.now + cluster.chance.uniform(0.05, 3), come)

    def come() -> None:
        for other in cluster.others(victim):
            cluster.restore(victim, other)
            cluster.restore(other, victim)

    cluster.every(0.1, 4, go)


def crashes(cluster: Calm, victim: str) -> None:
    """It dies and starts again."""

    def die() -> None:
        if cluster.hosts[victim].replica is not None:
            cluster.crash(victim)
            cluster.at(cluster.now + cluster.chance.uniform(0.05, 3), lambda: cluster.start(victim))

    cluster.every(0.1, 4, die)


def stops(cluster: Calm, victim: str) -> None:
    """It stands still for longer than an election takes, and goes on."""
    cluster.every(0.5, 6, lambda: cluster.pause(victim, cluster.chance.uniform(0.3, 3)))


def is_away(cluster: Calm, victim: str) -> None:
    """It is cut off for long, with an up-to-date log."""
    cluster.isolate(victim)
    cluster.at(cluster.now + 0.9 * DISTURBED_S, lambda: come_back(cluster, victim))


def come_back(cluster: Calm, victim: str) -> None:
    for other in cluster.others(victim):
        cluster.restore(victim, other)
        cluster.restore(other, victim)


def is_deaf(cluster: Calm, victim: str) -> None:
    cluster.deafen(victim)


def is_mute(cluster: Calm, victim: str) -> None:
    cluster.mute(victim)


def is_deaf_to_the_leader(cluster: Calm, victim: str) -> None:
    """It hears everybody else."""
    cluster.cut(cluster.first, victim)


def is_mute_to_the_leader(cluster: Calm, victim: str) -> None:
    cluster.cut(victim, cluster.first)


TROUBLES: dict[str, tuple[Trouble, Trouble]] = {
    "flaps, is deaf": (flaps, is_deaf),
    "crashes, is deaf to the leader": (crashes, is_deaf_to_the_leader),
    "stops, is mute": (stops, is_mute),
    "is away, is mute to the leader": (is_away, is_mute_to_the_leader),
}
"""Of five nodes, what befalls two."""


def undisturbed(
    troubles: tuple[Trouble, Trouble], seconds: float = DISTURBED_S
) -> Callable[[int], Calm]:
    """A scenario: two of five are in trouble, the other three never notice."""

    def play(seed: int) -> Calm:
        cluster = Calm(seed)
        for trouble, victim in zip(troubles, cluster.victims, strict=False):
            trouble(cluster, victim)
        cluster.run_for(seconds)
        cluster.assert_undisturbed()
        cluster.assert_works()
        return cluster

    return play


def bridge(seed: int) -> Calm:
    """Two pairs that only the fifth node links; the leader is of a pair, or the link."""
    cluster = Calm(seed)
    a, (b, c, d, e) = cluster.first, cluster.victims
    near, far = ((a, b), (d, e)) if seed % 2 else ((b, c), (d, e))
    for x in near:
        for y in far:
            cluster.cut(x, y)
            cluster.cut(y, x)
    cluster.run_for(60)
    cluster.assert_undisturbed()
    cluster.assert_works()
    cluster.heal()
    cluster.run_for(SETTLED_S)
    cluster.assert_undisturbed()
    return cluster


def a_pair_is_cut_off(seed: int) -> Calm:
    """Two of five have each other, and everything that is said arrives twice."""
    cluster = Calm(seed, twice=True)
    cluster.isolate(*cluster.victims[:2])
    cluster.run_for(30)
    cluster.assert_undisturbed()
    cluster.assert_works()
    cluster.heal()
    cluster.run_for(SETTLED_S)
    cluster.assert_undisturbed()
    return cluster


def who_was_removed_does_not_know(seed: int) -> Calm:
    """A voter that is removed while it is cut off comes back and believes to be one."""
    cluster = Calm(seed, 4)
    removed = cluster.victims[0]
    cluster.isolate(removed)
    cluster.ask(cluster.first, lambda leader: leader.configuration.without(removed))
    cluster.until(lambda: removed not in _committed(cluster).members)
    cluster.heal()
    cluster.run_for(60)
    assert removed in cluster.hosts[removed].live.voters, "it still believes so"
    cluster.assert_undisturbed()
    cluster.assert_works()
    return cluster


def learners_come_and_go(seed: int) -> Calm:
    """Members are added, promoted, demoted and removed, one of them from afar."""
    cluster = Calm(seed, 3)
    new = cluster.join()
    steps = [
        lambda leader: leader.configuration.with_learner(new),
        lambda leader: leader.configuration.with_voter(new),
        lambda leader: leader.configuration.with_learner(new),
        lambda leader: leader.configuration.without(new),
    ]
    for step in steps * 2:
        before = _committed(cluster)
        cluster.ask(cluster.first, step)
        cluster.until(lambda: _committed(cluster) != before)  # noqa: B023
        if new in _committed(cluster).learners:
            cluster.isolate(new)
            cluster.run_for(3)
            cluster.heal()
        cluster.run_for(2)
        cluster.assert_undisturbed()
        cluster.assert_works()
    return cluster


def _committed(cluster: Calm) -> Configuration:
    return cluster.the_leader.live.committed_configuration
