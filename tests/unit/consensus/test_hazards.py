"""The engine's hazards that take a cluster to show, and that ours does not have.

The numbers are those of docs/consensus.md; test_replica and test_rules have the others.
"""

from __future__ import annotations

import pickle
from typing import NoReturn

import pysyncobj.pickle
import pytest

from quorate.consensus import followers
from quorate.testing.raft import Host, RaftCluster, TurnFault
from quorate.testing.raft_safety import SafetyChecker

SETTLED_S = 5.0


class Cluster(RaftCluster):
    """Three nodes under the safety checker, with a leader."""

    def __init__(self, seed: int = 1, size: int = 3) -> None:
        super().__init__(seed, size, watchers=(SafetyChecker(),))
        assert self.run_until(lambda: self.leader() is not None, SETTLED_S)

    @property
    def first(self) -> Host:
        leader = self.leader()
        assert leader is not None
        return leader

    def others(self) -> list[Host]:
        return [host for host in self.hosts.values() if host is not self.first]

    def settles(self, timeout_s: float = SETTLED_S) -> bool:
        def settled() -> bool:
            logs = [host.store.entries for host in self.running()]
            return self.leader() is not None and all(
                log == logs[0] and host.store.meta.applied == len(log)
                for log, host in zip(logs, self.running(), strict=True)
            )

        return self.run_until(settled, timeout_s)


def test_hazard_1_nothing_is_unpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object, **__: object) -> NoReturn:
        raise AssertionError("something was pickled or unpickled")

    for module in (pickle, pysyncobj.pickle):
        for name in ("loads", "dumps", "load", "dump", "Unpickler", "Pickler"):
            monkeypatch.setattr(module, name, explode, raising=False)
    cluster = Cluster()
    for number in range(30):
        cluster.propose(f"n{1 + number % 3}", b"%d" % number, b"\x80\x04cos\nsystem\n%d" % number)
    cluster.crash(cluster.first.node_id)
    assert cluster.run_until(lambda: cluster.leader() is not None, SETTLED_S)
    cluster.start(next(name for name, host in cluster.hosts.items() if host.replica is None))
    assert cluster.settles()


def test_hazard_5_a_deposed_leader_with_much_to_catch_up_resynchronises(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The engine's own never does, once that is more than 64 KiB."""
    monkeypatch.setattr(followers, "MAX_APPEND_BYTES", 64 * 1024)
    cluster = Cluster()
    deposed = cluster.first
    cluster.isolate(deposed.node_id)
    for number in range(5):
        cluster.propose(deposed.node_id, b"lost%d" % number, b"lost" * 4000)
    cluster.run_for(0.02)
    for number in range(5):
        deposed.live.forget(b"lost%d" % number)
    assert cluster.run_until(
        lambda: not deposed.live.is_leader and cluster.leader() is not None, SETTLED_S
    )
    for number in range(200):
        cluster.propose(cluster.first.node_id, b"%d" % number, b"revoke" * 2000)
    assert cluster.run_until(lambda: len(cluster.first.store.ledger) == 200, SETTLED_S)
    assert sum(len(command) for _, command in cluster.first.store.entries) > 30 * 64 * 1024
    cluster.heal()
    assert cluster.settles()
    assert len(deposed.store.ledger) == 200
    assert not any(payload.startswith(b"lost") for _, payload in deposed.store.ledger)


def test_hazard_8_a_crash_in_a_turn_that_truncates_loses_the_turn_and_nothing_else() -> None:
    cluster = Cluster()
    deposed = cluster.first
    cluster.propose(deposed.node_id, b"kept", b"kept")
    assert cluster.settles()
    cluster.isolate(deposed.node_id)
    cluster.propose(deposed.node_id, b"lost", b"lost")
    cluster.run_for(0.01)
    divergent = list(deposed.store.entries)
    assert cluster.run_until(
        lambda: not deposed.live.is_leader and cluster.leader() is not None, SETTLED_S
    )
    cluster.heal()
    truncated = deposed.store.turn.log_truncate_from
    calls: list[int] = []

    def crash_behind(index: int) -> None:
        calls.append(index)
        deposed.turn_fault = TurnFault.CRASH_BEFORE_COMMIT
        truncated(index)

    deposed.store.turn.log_truncate_from = crash_behind  # type: ignore[method-assign]
    assert cluster.run_until(lambda: deposed.replica is None, SETTLED_S)
    assert calls
    assert deposed.store.entries == divergent
    deposed.store.turn.log_truncate_from = truncated  # type: ignore[method-assign]
    cluster.start(deposed.node_id)
    assert cluster.settles()


@pytest.mark.parametrize("seed", range(5))
def test_hazard_9_every_node_dies_and_nothing_acknowledged_is_lost(seed: int) -> None:
    cluster = Cluster(seed)
    for number in range(100):
        cluster.propose("n1", b"%d" % number, b"%d" % number)
    assert cluster.run_until(lambda: len(cluster.hosts["n1"].store.ledger) == 100, SETTLED_S)
    acknowledged = list(cluster.hosts["n1"].store.ledger)
    for name in cluster.hosts:
        cluster.crash(name)
    cluster.run_for(1)
    for name in cluster.hosts:
        cluster.start(name)
    assert cluster.settles(2 * SETTLED_S)
    assert all(host.store.ledger[:100] == acknowledged for host in cluster.running())


def test_hazard_14_an_isolated_leader_steps_down_and_another_is_elected() -> None:
    cluster = Cluster()
    isolated = cluster.first
    assert cluster.settles()
    cluster.isolate(isolated.node_id)
    began = cluster.now
    assert cluster.run_until(lambda: not isolated.live.is_leader, SETTLED_S)
    settings = cluster.settings
    slowest_clock = 0.98
    limit = (settings.election_min_s + 2 * settings.heartbeat_s) / slowest_clock
    assert cluster.now - began <= limit
    assert cluster.run_until(lambda: cluster.leader() is not None, SETTLED_S)
    assert cluster.first is not isolated


def test_hazard_14_a_follower_leaves_a_leader_in_a_minority() -> None:
    cluster = Cluster(size=5)
    minority = [cluster.first, cluster.others()[0]]
    cluster.isolate(*(host.node_id for host in minority))
    cluster.run_for(cluster.settings.election_min_s + 4 * cluster.settings.heartbeat_s)
    assert [host.live.is_leader for host in minority] == [False, False]
    assert cluster.run_until(lambda: cluster.leader() is not None, SETTLED_S)
    cluster.heal()
    assert cluster.settles()


def test_hazard_17_a_command_waits_for_no_tick() -> None:
    """From proposal to outcome everywhere within the network's own time, at the leader and away
    from it, when the next heartbeat is still far."""
    cluster = Cluster()
    assert cluster.settles()
    cluster.delay_s = (0.001, 0.001)
    for number, host in enumerate([cluster.first, *cluster.others()]):
        cluster.run_for(1.23)
        began = cluster.now
        cluster.propose(host.node_id, b"%d" % number, b"%d" % number)
        assert cluster.run_until(
            lambda: all(len(h.store.ledger) == number + 1 for h in cluster.running()),  # noqa: B023
            SETTLED_S,
        )
        assert cluster.now - began < 0.2 * cluster.settings.heartbeat_s
