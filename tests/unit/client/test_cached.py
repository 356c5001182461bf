"""A check that a kept permit answers is a comparison: no lock, no allocation to speak of."""

from __future__ import annotations

import gc
import sys
import threading
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from tests.unit.client.conftest import World, permit
from tests.unit.client.test_hold import quiet

from quorate.client import Lease, Permit, Reading, SystemClock
from quorate.client.slot import PermitSlot
from quorate.client.telling import Story

WAIT_S = 30.0
LOCKS = type(threading.Lock()), type(threading.RLock())
CONTAINERS = dict, list, tuple, set, deque
CHECKS = 20_000
MOST_BYTES = 1_024
"""Of a thousand checks together: one object of each would be more."""
HOUR_NS = 3_600 * 10**9
WARM = 1_000


def ways(lease: Lease) -> dict[str, Callable[[], object]]:
    return {
        "check": lease.check,
        "require": lease.require,
        "of an entry": lambda: lease.check(minimum_index=8),
    }


def locks_of(*roots: object) -> list[Any]:
    """All that can be reached from these objects by way of this library's own."""
    found: list[Any] = []
    seen: set[int] = set()
    waiting = list(roots)
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, LOCKS):
            found.append(each)
        elif isinstance(each, CONTAINERS) or type(each).__module__.startswith("quorate.client"):
            waiting += gc.get_referents(each)
    return found


@contextmanager
def held_elsewhere(locks: list[Any]) -> Iterator[None]:
    """Another thread has them all."""
    has_them, is_over = threading.Event(), threading.Event()

    def hold() -> None:
        with ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            has_them.set()
            is_over.wait(WAIT_S)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert has_them.wait(WAIT_S)
        yield
    finally:
        is_over.set()
        thread.join(WAIT_S)


@pytest.fixture
def lease(world: World) -> Iterator[Lease]:
    """One that is held, with a permit at hand."""
    quiet(world)
    world.node.then("Check", permit())
    made = world.lease()
    with made.hold(renew=False):
        yield made


def test_no_lock_is_taken(world: World, lease: Lease) -> None:
    locks = locks_of(lease, world.gate)
    assert lease.slot._lock in locks
    assert world.gate._lock in locks
    assert world.gate._keeping._upkeep._lock in locks
    answers: list[object] = []

    def check() -> None:
        answers.extend(way() for way in ways(lease).values())

    with held_elsewhere(locks):
        assert not any(lock.acquire(blocking=False) for lock in locks)
        checking = threading.Thread(target=check, daemon=True)
        checking.start()
        checking.join(WAIT_S)
        assert not checking.is_alive(), "it waits for a lock"
    assert len(answers) == len(ways(lease))
    assert all(isinstance(each, Permit) for each in answers)


@pytest.fixture
def alone() -> Lease:
    """With a permit, on the real clock, and no thread that could make anything meanwhile."""
    clock = SystemClock()
    slot, sent = PermitSlot(clock), Reading.of(clock)
    kept = Permit("lease", 1, sent, sent.boottime_ns + HOUR_NS, 9, 1)
    assert slot.offer(kept, slot.epoch, is_handed=True)
    nobody: Any = None  # is asked
    said = ("lease", "e", "a", "r", 1, 0, "g", "", 0, ())
    return Lease(*said, nobody, slot, Story(threading.Lock()))


@pytest.mark.parametrize("name", ["check", "require", "of an entry"])
def test_nothing_is_made(alone: Lease, name: str) -> None:
    """But numbers, which are gone at once."""
    check = ways(alone)[name]
    for _ in range(WARM):
        check()
    gc.collect()
    gc.disable()
    try:
        before = sys.getallocatedblocks()
        for _ in range(CHECKS):
            check()
        grown = sys.getallocatedblocks() - before
        tracemalloc.start()
        for _ in range(WARM):
            check()
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert grown < CHECKS / 1_000
    assert left < MOST_BYTES
    assert peak < MOST_BYTES
