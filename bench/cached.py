"""A check that a kept permit answers, against the least that it has to do: read two clocks.

In one process, without a node: the slot is given a permit. CPU time, so that what else the machine
does counts for less; a figure is the median of the rounds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from bench.pace import Pace
from quorate.client import Lease, Permit, Reading, SystemClock
from quorate.client.slot import PermitSlot
from quorate.client.telling import Story

_CALLS = 50_000
_LIFE_NS = 3_600 * 10**9


def cached_check(pace: Pace) -> dict[str, float]:
    """Nanoseconds of CPU for `lease.check()`, and its ratio to the two readings alone."""
    clock = SystemClock()
    slot = PermitSlot(clock)
    nobody: Any = None  # is asked: a kept permit answers
    sent = Reading.of(clock)
    permit = Permit("lease", 1, sent, sent.boottime_ns + _LIFE_NS, 1, 1)
    slot.offer(permit, slot.epoch, is_handed=True)
    facts = ("lease", "e", "a", "r", 1, 0, "g", "", 0, ())
    lease = Lease(*facts, nobody, slot, Story(threading.Lock()))
    boottime_ns, realtime_ns = clock.boottime_ns, clock.realtime_ns

    def two_readings() -> int:
        return realtime_ns() - boottime_ns()

    pace.tell("cached checks")
    checks, readings = [], []
    for _ in range(pace.rounds):
        readings.append(_nanoseconds(two_readings, pace.seconds / 2))
        checks.append(_nanoseconds(lease.check, pace.seconds / 2))
        if lease.check() is not permit:
            raise RuntimeError("the permit was not good until the end")
    return {
        "cached check, ns of CPU": median(checks),
        "cached check / reading two clocks": median(
            check / reading for check, reading in zip(checks, readings, strict=True)
        ),
    }


def _nanoseconds(call: Callable[[], object], seconds: float) -> float:
    """Of CPU time for one call, the loop around it left out."""
    calls, used, alone = 0, 0, 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        before = time.process_time_ns()
        for _ in range(_CALLS):
            call()
        between = time.process_time_ns()
        for _ in range(_CALLS):
            pass
        after = time.process_time_ns()
        used += between - before
        alone += after - between
        calls += _CALLS
    return (used - alone) / calls
