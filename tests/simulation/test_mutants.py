"""Every deliberate break of the federation is caught within its stated number of seeds.

`make sim-mutants` shows the same as a table. Those that are caught at once are tested always, the
rest with the tests that take minutes.
"""

from __future__ import annotations

import inspect
from types import ModuleType

import pytest
from tests.simulation.mutants import (
    MUTANTS,
    Mutant,
    authority,
    durability,
    ledger,
    lineage,
    membership,
    raft,
)
from tests.simulation.mutants.__main__ import Result, table

from quorate.testing.simulation import PROFILES, run_seed
from quorate.testing.simulation.worker import load_patches

AREAS = (durability, raft, membership, authority, ledger, lineage)


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(mutant, id=mutant.name, marks=() if mutant.is_quick else pytest.mark.long)
        for mutant in MUTANTS
    ],
)
def test_a_break_is_caught(mutant: Mutant) -> None:
    for seed in range(mutant.within):
        failure = run_seed(seed, PROFILES[mutant.profile], patches=mutant).failure
        if failure is not None and mutant.shows_in(failure.promise):
            return
    pytest.fail(f"{mutant.within} seeds did not catch it: {mutant.what}")


def test_some_are_quick() -> None:
    assert 4 <= sum(mutant.is_quick for mutant in MUTANTS) <= 10


def test_mutants_can_be_named() -> None:
    """By `--patches`, and so each by a name of its own."""
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    for mutant in MUTANTS:
        assert load_patches(mutant.patches) is mutant


@pytest.mark.parametrize("area", AREAS, ids=lambda area: area.__name__.rpartition(".")[2])
def test_no_mutant_is_left_out(area: ModuleType) -> None:
    there = {id(each) for each in vars(area).values() if isinstance(each, Mutant)}
    assert there == {id(each) for each in area.MUTANTS}
    assert there <= {id(each) for each in MUTANTS}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_what_is_broken_exists_and_is_whole_again(
    mutant: Mutant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Putting something in the place of what is not there raises AttributeError."""
    replaced: list[tuple[object, str, object]] = []
    original = pytest.MonkeyPatch.setattr

    def noting(patch: pytest.MonkeyPatch, target: object, name: str, value: object) -> None:
        replaced.append((target, name, inspect.getattr_static(target, name)))
        original(patch, target, name, value)

    monkeypatch.setattr(pytest.MonkeyPatch, "setattr", noting)
    with mutant():
        assert replaced, "nothing is broken"
        for target, name, before in replaced:
            assert inspect.getattr_static(target, name) is not before, name
    for target, name, before in replaced:
        assert inspect.getattr_static(target, name) is before, name


def test_mutants_say_what_they_break_and_where_it_shows() -> None:
    for mutant in MUTANTS:
        assert mutant.what.endswith("."), mutant.name
        assert mutant.profile in PROFILES, mutant.name
        assert mutant.within > 0, mutant.name


def test_the_table_tells_who_survived() -> None:
    mutant = MUTANTS[0]
    caught = Result(mutant, 3, 1.0, seed=2, promise="one vote a term")
    survived = Result(mutant, 9, 1.0)
    assert caught.is_caught
    assert not survived.is_caught
    assert f"--replay 2 --profile {mutant.profile} --patches {mutant.patches}" in caught.replay
    assert f"--seeds 0-{mutant.within - 1} " in survived.replay
    rows = list(table([caught, survived]).columns[1].cells)
    assert rows[0] == "one vote a term"
    assert "survived" in str(rows[1])
