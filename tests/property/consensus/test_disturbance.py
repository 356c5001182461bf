"""Elections when they are needed, and only then; handing over; and what a bad leader does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from tests.property.consensus.scenarios import (
    SETTLED_S,
    TROUBLES,
    Calm,
    a_pair_is_cut_off,
    bridge,
    learners_come_and_go,
    undisturbed,
    who_was_removed_does_not_know,
)

from quorate.testing.raft import Host

Scenario = Callable[[int], Calm]


@pytest.mark.parametrize("name", TROUBLES)
def test_what_befalls_a_minority_causes_no_election(name: str) -> None:
    """The bare engine had 127 elections in 300 s with one follower that flaps."""
    undisturbed(TROUBLES[name])(1)


@pytest.mark.parametrize(
    "scenario",
    [bridge, a_pair_is_cut_off, who_was_removed_does_not_know, learners_come_and_go],
    ids=lambda scenario: scenario.__name__,
)
def test_nor_do_cut_off_pairs_bridges_and_members_that_come_and_go(scenario: Scenario) -> None:
    for seed in range(2):
        scenario(seed)


# -- a leader that loses its quorum ----------------------------------------------------------------


def cut_off(cluster: Calm, how: str) -> None:
    leader = cluster.first
    if how == "cut off":
        cluster.isolate(leader)
    elif how == "deaf":
        cluster.deafen(leader)
    elif how == "mute":
        cluster.mute(leader)
    else:
        cluster.isolate(leader, cluster.victims[0])


HOW = ("cut off", "deaf", "mute", "in a minority")


@pytest.mark.parametrize("how", HOW)
def test_a_leader_without_its_quorum_steps_down_within_one_election_timeout(how: str) -> None:
    """Also one that is still heard. Measured on the leader's own clock over many seeds."""
    longest = 0.0
    for seed in range(25):
        cluster = Calm(seed)
        old = cluster.hosts[cluster.first]
        cluster.run_for(cluster.chance.uniform(0, 0.3))
        cut_off(cluster, how)
        began = cluster.clock(old)
        cluster.until(lambda: not old.live.is_leader)  # noqa: B023
        longest = max(longest, cluster.clock(old) - began)
    settings = cluster.settings
    assert longest <= settings.election_min_s + settings.heartbeat_s
    assert longest > 0.8 * settings.election_min_s, "and is not in a hurry"


@pytest.mark.parametrize("how", HOW)
def test_a_leader_without_its_quorum_is_replaced_once_and_comes_back_as_a_follower(
    how: str,
) -> None:
    """One-way links too: it does not come back to disturb while they last, nor when they end."""
    for seed in range(2):
        cluster = Calm(seed)
        old = cluster.hosts[cluster.first]
        cut_off(cluster, how)
        cluster.until(lambda: cluster.leader() not in (None, old))  # noqa: B023
        cluster.first, cluster.term = cluster.the_leader.node_id, cluster.the_leader.live.term
        elections = cluster.checker.elections
        cluster.run_for(60)
        assert not old.live.is_leader
        cluster.heal()
        cluster.run_for(SETTLED_S)
        assert cluster.checker.elections == elections
        assert cluster.the_leader.node_id == cluster.first
        assert {host.live.term for host in cluster.running()} == {cluster.term}
        assert cluster.in_step(*cluster.hosts)


def test_a_dead_leader_is_replaced_within_a_few_election_timeouts() -> None:
    waits = []
    for seed in range(40):
        cluster = Calm(seed, 3)
        cluster.crash(cluster.first)
        began = cluster.now
        cluster.until(lambda: cluster.leader() is not None)  # noqa: B023
        waits.append(cluster.now - began)
    assert sorted(waits)[len(waits) // 2] <= cluster.settings.election_max_s
    assert max(waits) <= 3 * cluster.settings.election_max_s


# -- handing over ----------------------------------------------------------------------------------


def load(cluster: Calm, count: int, every_s: float) -> list[bytes]:
    """Proposals from all nodes, from now on; returns their keys."""
    keys = [b"load%06d" % number for number in range(count)]
    names = sorted(cluster.hosts)

    def propose(number: int) -> None:
        name = names[number % len(names)]
        if cluster.hosts[name].replica is not None:
            cluster.propose(name, keys[number], keys[number])

    for number in range(count):
        cluster.at(cluster.now + number * every_s, partial(propose, number))
    return keys


def executed(host: Host) -> list[bytes]:
    return list(dict.fromkeys(payload for _, payload in host.store.ledger))


@pytest.mark.parametrize("size", [3, 5])
def test_a_hand_over_is_shorter_than_an_election_and_loses_no_proposal(size: int) -> None:
    for seed in range(5):
        cluster = Calm(seed, size)
        keys = load(cluster, 300, 0.004)
        cluster.run_for(0.3 + seed * 0.01)
        leader = cluster.the_leader
        heir = cluster.victims[0] if seed % 2 else None
        assert leader.live.hand_over(heir)
        began = cluster.now
        cluster.until(lambda: any(h.live.is_leader for h in cluster.running() if h is not leader))  # noqa: B023
        assert cluster.now - began < cluster.settings.election_min_s / 2
        assert heir in (None, cluster.the_leader.node_id)
        assert cluster.checker.elections == 2
        cluster.until(lambda: all(set(executed(h)) >= set(keys) for h in cluster.running()))  # noqa: B023
        assert cluster.checker.elections == 2


def test_a_hand_over_to_a_node_that_dies_is_given_up_and_the_leader_goes_on() -> None:
    for seed in range(5):
        cluster = Calm(seed)
        leader, heir = cluster.hosts[cluster.first], cluster.victims[0]
        keys = load(cluster, 200, 0.005)
        cluster.run_for(0.2)
        assert leader.live.hand_over(heir)
        cluster.crash(heir)
        cluster.until(lambda: len(leader.store.ledger) >= len(keys) * 4 // 5 - 1)  # noqa: B023
        cluster.run_for(1)
        cluster.start(heir)
        cluster.run_for(SETTLED_S)
        cluster.assert_undisturbed()
        cluster.assert_works()
        sound = [key for number, key in enumerate(keys) if f"n{number % 5 + 1}" != heir]
        assert set(sound) <= set(executed(leader))


def test_a_hand_over_to_a_node_that_is_cut_off_is_given_up_too() -> None:
    for seed in range(6):
        cluster = Calm(seed)
        leader, heir = cluster.hosts[cluster.first], cluster.victims[0]
        cluster.cut(leader.node_id, heir)
        cluster.propose(leader.node_id, b"key", b"key")
        cluster.run_for(0.05)
        assert leader.live.hand_over(heir), "the link still looks sound"
        cluster.run_for(1.1 * cluster.settings.election_min_s)
        cluster.assert_undisturbed()
        cluster.assert_works()
        cluster.heal()
        cluster.run_for(SETTLED_S)
        cluster.assert_undisturbed()


def test_a_planned_stop_costs_no_election_timeout() -> None:
    """It hands over, stops, and the others go on."""
    for seed in range(6):
        cluster = Calm(seed, 3)
        old = cluster.first
        keys = load(cluster, 200, 0.005)
        cluster.run_for(0.3)
        cluster.the_leader.live.hand_over()
        cluster.until(lambda: not cluster.hosts[old].live.is_leader)  # noqa: B023
        cluster.until(lambda: cluster.leader() is not None)  # noqa: B023
        began = cluster.now
        cluster.crash(old)
        kept = [key for number, key in enumerate(keys) if f"n{number % 3 + 1}" != old]
        cluster.until(lambda: set(kept) <= set(executed(cluster.the_leader)))  # noqa: B023
        assert cluster.now - began < 1.0
        assert cluster.checker.elections == 2


# -- when all is well again ------------------------------------------------------------------------


def test_after_healing_everybody_is_in_step_soon() -> None:
    """Whatever has happened: within the time of finding the links again, and of an election."""
    waits = []
    for seed in range(12):
        cluster = Calm(seed)
        load(cluster, 400, 0.01)
        for _ in range(6):
            names = sorted(cluster.hosts)
            cluster.chance.shuffle(names)
            cluster.isolate(*names[: cluster.chance.randrange(1, 4)])
            cluster.cut(names[0], names[1])
            cluster.run_for(cluster.chance.uniform(0.1, 1.5))
        cluster.heal()
        began = cluster.now
        cluster.until(lambda: cluster.leader() is not None and cluster.in_step(*cluster.hosts))  # noqa: B023
        waits.append(cluster.now - began)
    assert max(waits) <= 4 * cluster.settings.election_max_s
    assert sorted(waits)[len(waits) // 2] <= 2 * cluster.settings.election_max_s
