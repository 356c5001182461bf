"""A machine that has slept permits nothing that was good before, from its first look on.

The sleep is a real jump of the kernel's boot clock, in a process of its own (`tests.sleep`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.sleep import clock_ahead

ROOT = Path(__file__).parents[2]
SLEEPER = Path(__file__).with_name("sleeper.py")


def slept(part: str, seconds: int) -> dict[str, Any]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with clock_ahead(seconds) as namespace:
        ran = subprocess.run(
            [sys.executable, SLEEPER, part, namespace],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    print(f"\n{part} that slept {seconds} s: {found}")  # noqa: T201
    return found


@pytest.mark.parametrize("seconds", [2, 3600])
def test_an_edge_that_slept_through_its_authority_denies(seconds: int) -> None:
    found = slept("edge", seconds)
    assert found["before"] == "Permit"
    assert found["after"] == found["in_step"] == "INQUORATE"


def test_an_edge_that_slept_for_a_moment_sees_that_its_clocks_moved_apart() -> None:
    """Where the wall clock slept too. Else its authority goes on, for what is left of it."""
    found = slept("edge", 1)
    assert (found["before"], found["after"], found["in_step"]) == ("Permit", "CLOCK_STEP", "permit")


@pytest.mark.parametrize("seconds", [1, 3600])
def test_a_permit_that_slept_is_over(seconds: int) -> None:
    found = slept("holder", seconds)
    assert (found["before"], found["after"]) == (True, False)
