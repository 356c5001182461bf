"""The benchmarks can be run: a figure that nobody can measure again is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*sections: str) -> dict[str, object]:
    command = [sys.executable, "-m", "bench", *sections, "--output", "json"]
    command += ["--rounds", "1", "--seconds", "0.2"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    document: dict[str, object] = json.loads(done.stdout)
    return document


def test_cached_checks_cost_something() -> None:
    ratios = run("cached")["ratios"]
    assert isinstance(ratios, dict)
    assert ratios["cached check, ns of CPU"] > 0
    assert ratios["cached check / reading two clocks"] > 0


def test_deciding_is_measured_on_states_of_several_sizes() -> None:
    ratios = run("growth")["ratios"]
    assert isinstance(ratios, dict)
    for what in ("acquire", "decide", "check", "explain"):
        assert ratios[f"{what} at 1,000, us of CPU"] > 0
        assert ratios[f"{what}, 10,000 / 1,000 records"] > 0


def test_lineage_is_measured_among_leases_of_several_numbers() -> None:
    ratios = run("ancestry")["ratios"]
    assert isinstance(ratios, dict)
    for what in ("check", "check, something contained", "a page of a blast radius"):
        assert ratios[f"{what} at 1,000 leases, us of CPU"] > 0
        assert ratios[f"{what}, 10,000 / 1,000 leases"] > 0


def test_policies_are_measured_beside_none() -> None:
    ratios = run("policies")["ratios"]
    assert isinstance(ratios, dict)
    assert ratios["check, three sets / none"] > 0
    assert ratios["check, asked first, a set, us of CPU"] > 0


@pytest.mark.long
@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_every_section_measures_what_it_names() -> None:
    document = run()
    ratios, spans, notes = document["ratios"], document["spans"], document["notes"]
    assert isinstance(ratios, dict)
    assert isinstance(spans, list)
    assert isinstance(notes, list)
    for name in ("cached", "10,000 watched"):
        assert any(key.startswith(name) for key in ratios), name
    told = {note.partition(":")[0] for note in notes}
    for section, name in (
        ("checks", "check/echo, 64"),
        ("edges", "checks at 2 edges"),
        ("writes", "writes/fsync"),
    ):
        is_measured = any(key.startswith(name) for key in ratios)
        assert is_measured != (section in told), "measured, or said why not"
    assert {each["what"].split(":")[0] for each in spans} == {
        "revoke, healthy",
        "revoke, healthy, nobody watches",
        "revoke, healthy, holder watches",
        "revoke, its node cut off",
        "core frozen",
        "core killed",
        "network lost",
        "all peers killed",
    }
    assert document.get("consensus"), "also without etcd"
    for section in ("reads", "commands"):
        assert bool(document.get(section)) != (section in told), "measured, or said why not"
