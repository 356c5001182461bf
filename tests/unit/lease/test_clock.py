"""The clocks of a machine, and the one of the tests."""

import time
import uuid
from pathlib import Path

from quorate.lease.clock import Clock, SystemClock, boot_id
from quorate.testing.clock import FakeClock


def test_the_system_clock_reads_boot_time_and_the_wall_clock():
    clock: Clock = SystemClock()
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns()
    seen = clock.boottime_ns(), clock.realtime_ns()
    after = time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns()
    assert all(low <= now <= high for low, now, high in zip(before, seen, after, strict=True))


def test_the_boot_id_is_the_kernel_s():
    text = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert boot_id() == uuid.UUID(text).bytes
    assert boot_id() == boot_id()


def test_a_fake_clock_moves_both_clocks_by_what_is_said():
    clock: Clock = FakeClock(boottime_ns=10, realtime_ns=1_000)
    clock.advance(5)
    assert (clock.boottime_ns(), clock.realtime_ns()) == (15, 1_005)
    clock.advance_ms(2)
    assert (clock.boottime_ns(), clock.realtime_ns()) == (2_000_015, 2_001_005)


def test_the_wall_clock_alone_can_be_stepped():
    clock = FakeClock(boottime_ns=10, realtime_ns=1_000)
    clock.step_realtime(-600)
    assert (clock.boottime_ns(), clock.realtime_ns()) == (10, 400)


def test_a_rate_does_not_lose_its_fractions():
    clock = FakeClock(boottime_ns=0, rate_ppm=10_000)
    for _ in range(1_000):
        clock.advance(1)
    assert clock.boottime_ns() == 1_010
    clock.rate_ppm = -10_000
    clock.advance(1_000)
    assert clock.boottime_ns() == 2_000
