"""A machine that has slept ends a command whose permit is over by then."""

from __future__ import annotations

import os
import signal
import time

import pytest
from tests.sleep import clock_ahead
from tests.unit.runner.conftest import Start, gone, shell

TWO_HOURS_S = 7_200
"""Longer than the permit lives that the runs here have."""


@pytest.mark.parametrize("options", [("--grace", "0s"), ("--freeze", "--grace", "0s")])
def test_it_is_ended_when_the_machine_wakes(start: Start, options: tuple[str, ...]) -> None:
    with clock_ahead(TWO_HOURS_S) as namespace:
        run = start(shell("echo $$ > main; sleep 600"), *options, sleeps_into=namespace)
        [main] = run.pids("main")
        init = run.init().pid
        woken_s = time.monotonic()
        os.kill(init, signal.SIGUSR1)
        if "--freeze" in options:
            run.deny("LEASE_EXPIRED")
        gone(main)
        print(f"\nended {(time.monotonic() - woken_s) * 1000:.0f} ms after it woke")  # noqa: T201
        code, _, error = run.end()
    assert code == 3, error
