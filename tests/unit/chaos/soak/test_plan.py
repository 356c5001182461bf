"""The faults of a soak are a seed's, spare whom they should, and leave room for old age."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.chaos.soak.plan import (
    AWAY_S,
    CALM_S,
    KILLS,
    LAST_ERA_SHARE,
    LEAST_ERA_S,
    Fault,
    Plan,
    era_s,
)

DOMAINS = ("bank.example", "clinic.example", "freight.example")


def rounds(seed: int, number: int = 20) -> list[object]:
    plan = Plan(DOMAINS, seed)
    return [(plan.round(plan.spared(era)), plan.end_of_era()) for era in range(number)]


def test_a_seed_says_everything() -> None:
    assert rounds(7) == rounds(7)
    assert rounds(7) != rounds(8)


@given(seed=st.integers(0, 2**31), era=st.integers(0, 10))
def test_the_spared_node_is_stopped_and_cut_off_and_never_killed(seed: int, era: int) -> None:
    plan = Plan(DOMAINS, seed)
    spared = plan.spared(era)
    acts = [act for _ in range(20) for act in plan.round(spared)]
    assert not [act for act in acts if act.fault in KILLS and act.domain == spared]
    assert [act for act in acts if act.domain == spared]
    assert all(act.domain in DOMAINS for act in acts)
    assert all(CALM_S[0] <= act.calm_s <= CALM_S[1] for act in acts)
    assert all(AWAY_S[0] <= act.away_s <= AWAY_S[1] for act in acts)


def test_every_kind_of_fault_comes_and_every_node_is_killed_in_some_era() -> None:
    plan = Plan(DOMAINS, 1)
    acts = [act for era in range(3) for _ in range(20) for act in plan.round(plan.spared(era))]
    assert {act.fault for act in acts} | {plan.end_of_era().fault} == set(Fault)
    assert {act.domain for act in acts if act.fault in KILLS} == set(DOMAINS)


def eras(seconds: float) -> list[float]:
    lengths: list[float] = []
    while seconds - sum(lengths) > 1e-6:
        lengths.append(era_s(sum(lengths), seconds))
    return lengths


@given(seconds=st.floats(60, 48 * 3_600))
def test_eras_fill_the_time_and_the_last_is_the_longest(seconds: float) -> None:
    lengths = eras(seconds)
    assert sum(lengths) == pytest.approx(seconds)
    assert lengths[-1] == max(lengths)
    assert lengths[-1] >= seconds * LAST_ERA_SHARE - 1e-6
    assert all(length >= LEAST_ERA_S for length in lengths)


def test_half_an_hour_has_several_deaths_of_all_nodes() -> None:
    assert len(eras(1_800)) >= 8
