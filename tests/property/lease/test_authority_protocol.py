"""The authority protocol under every fault that the simulation knows, and after it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.testing.authority import AuthorityWorld, Machine, Reader
from quorate.testing.authority_raft import Voter

_PERIOD_MS = 1_000
_TURNS_PER_PERIOD = 400
"""A leader of five has some 40 heartbeats and 30 asks in a period, each with its answers."""

Worlds = Callable[..., AuthorityWorld]


@pytest.fixture
def worlds() -> Iterator[Worlds]:
    made: list[AuthorityWorld] = []

    def make(seed: int, size: int, **parameters: int) -> AuthorityWorld:
        made.append(AuthorityWorld(seed, size, period_ms=_PERIOD_MS, **parameters))
        return made[-1]

    yield make
    for world in made:
        world.close()


def _all_quorate(world: AuthorityWorld) -> bool:
    return all(machine.authority() is not None for machine in world.machines.values())


def _settle(world: AuthorityWorld) -> Machine:
    """No more trouble. Returns who leads, when what was late has arrived and all follow one leader
    that has committed."""

    def settled() -> bool:
        leader = world.leader()
        return leader is not None and leader.voter is not None and leader.voter.commits_own_term

    world.heal()
    world.run_ms(2 * _PERIOD_MS)
    assert world.run_ms(_PERIOD_MS, settled), "the model of Raft did not settle"
    leader = world.leader()
    assert leader is not None
    return leader


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    size=st.integers(1, 5),
    rho_ppm=st.sampled_from([0, 10_000, 250_000]),
)
def test_no_fault_breaks_a_promise_and_authority_comes_back(seed: int, size: int, rho_ppm: int):
    """Safety is asserted by the world at each step, trouble or none. After it: authority within
    one period, without a gap from then on, and the watermark at the newest commit."""
    world = AuthorityWorld(seed, size, period_ms=_PERIOD_MS, rho_ppm=rho_ppm)
    try:
        world.run_ms(8_000)
        _settle(world)
        assert world.run_ms(_PERIOD_MS, lambda: _all_quorate(world)), "no authority after healing"
        lapsed = world.run_ms(2 * _PERIOD_MS, lambda: not _all_quorate(world))
        assert not lapsed, "authority lapsed without a fault"
        world.commands = False
        world.run_ms(_PERIOD_MS)
        committed = world.safety.committed
        for machine in world.machines.values():
            assert machine.keeper is not None
            assert machine.keeper.watermark == committed
    finally:
        world.close()


def test_trouble_leaves_something_to_check(worlds: Worlds):
    """The simulation is not vacuous: under trouble there are permits, commits and enforcement."""
    permits = grants = enforced = 0
    for seed in range(6):
        world = worlds(seed, 5)
        world.run_ms(10_000)
        permits += world.safety.permits
        grants += world.safety.grants
        enforced += world.safety.watermark
    assert permits > 300
    assert grants > 150
    assert enforced > 150


@pytest.mark.parametrize("seed", range(4))
def test_one_seed_gives_one_trace(worlds: Worlds, seed: int):
    def trace(world: AuthorityWorld) -> list[object]:
        world.run_ms(5_000)
        told = [m.turns for m in world.machines.values()]
        return [told, world.safety.permits, world.safety.committed, world.safety.watermark]

    assert trace(worlds(seed, 5)) == trace(worlds(seed, 5))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [3, 5])
def test_a_node_that_is_cut_off_holds_nothing_back(worlds: Worlds, seed: int, size: int):
    """ENFORCED is reached without a member once its authority has certainly lapsed."""
    world = worlds(seed, size, rho_ppm=250_000, changes=False)
    leader = _settle(world)
    assert world.run_ms(_PERIOD_MS, lambda: _all_quorate(world))
    lost = next(m for m in world.machines.values() if m is not leader)
    world.isolate(lost.node_id)
    world.commands = False
    world.run_ms(100)
    before = world.safety.committed
    leader.todo.append(Voter.append)
    world.wake(leader)
    assert world.run_ms(100, lambda: world.safety.committed > before)
    committed = world.safety.committed
    world.run_ms(_PERIOD_MS // 2)
    assert lost.authority() is not None, "the lost node still permits"
    assert world.safety.watermark < committed
    # L * (1 + rho) by the leader's clock, which may run slower by rho than true time.
    assert world.run_ms(
        _PERIOD_MS * 16 // 10,
        lambda: all(
            m.keeper is not None and m.keeper.watermark >= committed
            for m in world.machines.values()
            if m is not lost
        ),
    )
    assert lost.authority() is None
    for ends in [(a, b) for a in world.machines for b in world.machines if a != b]:
        world.mend(*ends)
    assert world.run_ms(_PERIOD_MS, lambda: lost.authority() is not None)
    assert lost.disk.applied_index >= committed


def test_a_minority_loses_its_authority_and_does_not_regain_it(worlds: Worlds):
    world = worlds(3, 5)
    leader = _settle(world)
    assert world.run_ms(_PERIOD_MS, lambda: _all_quorate(world))
    minority = [leader, next(m for m in world.machines.values() if m is not leader)]
    inside = {machine.node_id for machine in minority}
    for a in world.machines:
        for b in world.machines:
            if (a in inside) != (b in inside):
                world.cut(a, b)
    # The leader goes on believing: nobody tells it otherwise.
    world.run_ms(_PERIOD_MS * 5 // 4)
    assert leader.voter is not None
    assert leader.voter.is_leader
    regained = world.run_ms(
        5 * _PERIOD_MS, lambda: any(machine.authority() is not None for machine in minority)
    )
    assert not regained


@pytest.mark.parametrize("size", [1, 3, 5])
def test_a_quiet_federation_takes_few_turns(worlds: Worlds, size: int):
    """The timers that a keeper asks for lead somewhere: none is due again at once."""
    world = worlds(1, size, changes=False)
    _settle(world)
    world.commands = False
    world.run_ms(2 * _PERIOD_MS)
    before = [machine.turns for machine in world.machines.values()]
    world.run_ms(_PERIOD_MS)
    for machine, turns in zip(world.machines.values(), before, strict=True):
        assert machine.turns - turns < _TURNS_PER_PERIOD


def test_a_node_that_starts_again_learns_what_is_enforced(worlds: Worlds):
    """Also when nothing new is committed that would tell it."""
    world = worlds(2, 3)
    leader = _settle(world)
    world.commands = False
    world.run_ms(2 * _PERIOD_MS)
    again = next(m for m in world.machines.values() if m is not leader)
    world.crash(again)
    world.run_ms(600)
    learned = world.run_ms(
        _PERIOD_MS,
        lambda: again.keeper is not None and again.keeper.watermark == world.safety.committed,
    )
    assert learned


def test_an_edge_that_is_stopped_for_good_holds_nothing_back(worlds: Worlds):
    """It holds its snapshot, and cannot permit on it any more: its node says so after a period."""
    world = worlds(4, 3, changes=False)
    leader = _settle(world)
    assert world.run_ms(_PERIOD_MS, lambda: _all_quorate(world))
    for machine in world.machines.values():
        record = machine.authority()
        assert record is not None
        left = machine.true_ns(record.deadline_ns - machine.clock.boottime_ns())
        stopped = Reader(record, world.now + left, machine.disk.applied_index)
        machine.readers.append(stopped)
    before = world.safety.committed
    leader.todo.append(Voter.append)
    world.wake(leader)
    assert world.run_ms(100, lambda: world.safety.committed > before)
    committed = world.safety.committed
    assert not world.run_ms(_PERIOD_MS * 8 // 10, lambda: world.safety.watermark >= committed)
    assert world.run_ms(_PERIOD_MS, lambda: world.safety.watermark >= committed)
    assert _all_quorate(world), "and nobody lost authority for it"
