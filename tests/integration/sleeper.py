"""Checks, sleeps, and checks again, as `test_suspend` says. Prints JSON.

sleeper.py edge|holder NAMESPACE
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from tests.sleep import sleep_into

from quorate.client import Permit, Reading
from quorate.client.clock import SystemClock as HoldersClock
from quorate.client.slot import PermitSlot
from quorate.core.outcome import Deny
from quorate.lease.check import CheckQuery, LeaseChecker
from quorate.lease.clock import SystemClock, boot_id
from quorate.lease.word import AuthorityWord
from quorate.testing.checks import EXECUTOR, PERIOD_NS, Snapshot, World, make_world


@dataclass
class Source:
    world: World

    def read(self) -> AbstractContextManager[Snapshot]:
        return self.world.snapshot()


def edge(namespace: str) -> dict[str, object]:
    """An edge's own check path, on a real word and the real clocks."""
    world, clock, word = make_world(), SystemClock(), AuthorityWord.create()
    now_ns = clock.boottime_ns()
    granted = world.grant(
        boot_id=boot_id(),
        deadline_ns=now_ns + PERIOD_NS,
        granted_at_boottime_ns=now_ns,
        granted_at_realtime_ns=clock.realtime_ns(),
    )
    word.write(granted)
    checker = LeaseChecker(word, lambda: Source(world), clock, boot_id())
    query = CheckQuery(world.lease_id, EXECUTOR)
    before = checker.check(query)
    sleep_into(namespace)
    woken_ns = time.perf_counter_ns()
    after = checker.check(query)
    took_ns = time.perf_counter_ns() - woken_ns
    # What the wall clock of a machine that slept would say, so that the deadline alone is left.
    now_ns = clock.boottime_ns()
    slept_ns = now_ns - granted.granted_at_boottime_ns
    word.write(replace(granted, granted_at_realtime_ns=clock.realtime_ns() - slept_ns))
    in_step = checker.check(query)
    word.close()
    return {
        "before": type(before.decision).__name__,
        "after": after.decision.reason if isinstance(after.decision, Deny) else "permit",
        "in_step": in_step.decision.reason if isinstance(in_step.decision, Deny) else "permit",
        "took_us": took_ns / 1_000,
    }


def holder(namespace: str) -> dict[str, object]:
    """An executor's cached permit."""
    clock = HoldersClock()
    slot, sent = PermitSlot(clock), Reading.of(clock)
    permit = Permit("lease-7", 7, sent, sent.boottime_ns + 1_000_000_000, 9, 5)
    slot.offer(permit, slot.epoch, is_handed=False)
    before = slot.cached()
    sleep_into(namespace)
    woken_ns = time.perf_counter_ns()
    after = slot.cached()
    took_ns = time.perf_counter_ns() - woken_ns
    return {"before": before is not None, "after": after is not None, "took_us": took_ns / 1_000}


if __name__ == "__main__":
    made = {"edge": edge, "holder": holder}[sys.argv[1]](sys.argv[2])
    print(json.dumps(made))  # noqa: T201 - what it is for
