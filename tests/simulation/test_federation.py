"""The simulated federation: seeds that once failed, seeds that nobody has tried, and whether what
looks on would see a broken promise. docs/simulation.md says what it is.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from tests.simulation.mutants import Mutant
from tests.simulation.mutants.authority import authority_from_when_it_was_granted
from tests.simulation.mutants.durability import replies_that_do_not_wait, votes_that_are_forgotten
from tests.simulation.mutants.ledger import signatures_that_nobody_reads

from quorate.chaos.simulate import read_plan
from quorate.node.node_core import NodeCore
from quorate.testing.simulation import PROFILES, Plan, Report, make_plan, run_plan, run_seed
from quorate.testing.simulation.plan import Planned
from quorate.testing.simulation.shrink import shrink
from quorate.testing.simulation.trace import Trace
from quorate.testing.simulation.world import NS_PER_S

FOUND = Path(__file__).parent / "found"
WHAT: dict[str, str] = json.loads((FOUND.parent / "found.json").read_text())
"""What each of the plans in `FOUND` once showed. Plans, not seeds: what a seed means changes with
the faults that there are."""
FRESH = 4


def require_held(report: Report, again: str) -> None:
    if report.failure is not None:
        lines = "\n".join(report.failure.trace)
        pytest.fail(f"{report.failure.message}\n{lines}\nquorate chaos sim {again}")


def require_seed_held(seed: int, profile: str) -> Report:
    report = run_seed(seed, PROFILES[profile])
    require_held(report, f"--profile {profile} --replay {seed}")
    return report


@pytest.mark.parametrize("name", WHAT)
def test_what_failed_once_holds(name: str) -> None:
    file = FOUND / f"{name}.json"
    require_held(run_plan(read_plan(file)), f"--plan {file}")


def test_every_plan_that_failed_once_is_run() -> None:
    assert {file.stem for file in FOUND.iterdir()} == set(WHAT)


def test_seeds_that_nobody_has_tried() -> None:
    first = secrets.randbelow(2**32)
    for seed in range(first, first + FRESH):
        require_seed_held(seed, "short")


def test_a_calm_federation_elects_once_and_refuses_nobody() -> None:
    report = require_seed_held(1, "calm")
    assert report.sometimes["leader elected"] == 1
    assert report.sometimes["permit"] > 50
    assert report.sometimes["denial INQUORATE"] <= 2 * report.plan.size, "before the first grant"


def test_a_run_does_what_it_is_for() -> None:
    seen = run_seed(12, PROFILES["short"]).sometimes
    for what in ("accepted", "permit", "denial", "leader elected", "revocation enforced"):
        assert seen[what], what


DIGESTS = (
    "from quorate.testing.simulation import *;"
    "print(*(run_seed(seed, PROFILES['short']).digest for seed in (7, 12)))"
)


def test_a_seed_is_one_run_in_every_process() -> None:
    here = [run_seed(seed, PROFILES["short"]).digest for seed in (7, 12)]
    assert here[0] != here[1]
    there = subprocess.run(
        [sys.executable, "-c", DIGESTS],
        env={**os.environ, "PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.split() == here


def test_a_plan_can_be_kept() -> None:
    plan = make_plan(5, PROFILES["short"])
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_a_trace_can_be_read() -> None:
    told: list[str] = []
    run_seed(12, PROFILES["short"], trace=Trace(tell=told.append))
    said = "\n".join(told)
    for part in ("starts", "vote_request", "append(term", "authority_grant", "repaired"):
        assert part in said, part


def test_nodes_that_forget_are_made_whole_and_break_nothing() -> None:
    seen: Counter[str] = Counter()
    for seed in range(5, 9):
        seen += require_seed_held(seed, "disks").sometimes
    assert seen["disk restored"] > 4
    assert seen["disk lost"] > 0
    assert seen["probation over"] == seen["disk restored"] + seen["disk lost"]


def _with_planned_stops(seed: int) -> Plan:
    """A calm federation of three whose leader is stopped again and again."""
    plan = replace(make_plan(seed, PROFILES["calm"]), size=3, length=30 * NS_PER_S)
    stops = [
        Planned(at * NS_PER_S, "planned stop", (-1, 0, 1, 2), NS_PER_S, at)
        for at in range(5, 30, 5)
    ]
    return replace(plan, events=(*(e for e in plan.events if e.at < plan.length), *stops))


def test_a_leader_that_is_stopped_in_good_order_hands_over_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    report = run_plan(_with_planned_stops(3))
    require_held(report, "of its own")
    assert report.sometimes["stopped as planned"] == 5
    assert report.sometimes["leadership handed over before a stop"] == 5
    assert report.sometimes["leader elected"] == 6
    monkeypatch.setattr(NodeCore, "hand_over", lambda _: False)
    abrupt = run_plan(_with_planned_stops(3))
    assert abrupt.sometimes["stopped as planned"] == 5
    assert abrupt.sometimes["leadership handed over before a stop"] == 0


# -- what is broken on purpose is seen ------------------------------------------------------------


@pytest.mark.parametrize(
    "mutant",
    [
        votes_that_are_forgotten,
        replies_that_do_not_wait,
        authority_from_when_it_was_granted,
        signatures_that_nobody_reads,
    ],
    ids=lambda mutant: mutant.name,
)
def test_what_is_broken_is_seen(mutant: Mutant) -> None:
    """All of them are in `test_mutants`."""
    for seed in range(mutant.within):
        failure = run_seed(seed, PROFILES[mutant.profile], patches=mutant).failure
        if failure is not None:
            assert mutant.shows_in(failure.promise)
            return
    pytest.fail("no seed has seen it")


def test_a_failing_run_is_made_smaller() -> None:
    report = next(
        found
        for seed in range(5)
        if (
            found := run_seed(seed, PROFILES["mixed"], patches=signatures_that_nobody_reads)
        ).failure
    )
    smallest = shrink(report, seconds=8, patches=signatures_that_nobody_reads)
    assert smallest.failure is not None
    assert report.failure is not None
    assert smallest.failure.promise == report.failure.promise
    assert len(smallest.plan.events) < len(report.plan.events) / 4
    again = run_plan(smallest.plan, patches=signatures_that_nobody_reads)
    assert again.digest == smallest.digest
