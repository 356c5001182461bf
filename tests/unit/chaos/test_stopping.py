"""A signal that comes at any moment is heard, and stops nothing but what it is to stop."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

from quorate.chaos.stopping import Stopping

STORM = """
import signal
from quorate.chaos.stopping import Stopping

stopping = Stopping()
stopping.by(signal.SIGALRM)
signal.setitimer(signal.ITIMER_REAL, 1e-4, 1e-4)
for _ in range(100_000):
    stopping.wait(0)
    stopping.is_set()
signal.setitimer(signal.ITIMER_REAL, 0)
assert stopping.wait(60)
"""


def test_no_moment_is_the_wrong_one_for_a_signal() -> None:
    assert subprocess.run([sys.executable, "-c", STORM], timeout=60, check=False).returncode == 0


def test_it_waits_until_it_is_told_or_the_time_is_up() -> None:
    stopping = Stopping()
    assert not stopping.wait(0.01)
    stopping.set()
    began = time.monotonic()
    assert stopping.wait(60)
    assert time.monotonic() - began < 30


def test_a_signal_ends_a_wait() -> None:
    stopping = Stopping()
    before = signal.getsignal(signal.SIGALRM)
    try:
        stopping.by(signal.SIGALRM)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert stopping.wait(60)
        assert stopping.is_set()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
