"""Ledger time: the median of the voters' wall clocks, and never before what the ledger holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.core.limits import MAX_INTEGER
from quorate.node.ledger_clock import LedgerClock
from quorate.testing.clock import FakeClock

S = 1_000
NS = 1_000_000
OWN_MS = 1_700_000_000_000


@pytest.fixture
def machine() -> FakeClock:
    return FakeClock(realtime_ns=OWN_MS * NS)


@pytest.fixture
def clock(machine: FakeClock) -> LedgerClock:
    return LedgerClock(machine, voters=3)


def test_alone_it_is_the_wall_clock(clock: LedgerClock, machine: FakeClock):
    assert clock.now_ms() == OWN_MS
    machine.advance_ms(5)
    assert clock.now_ms() == OWN_MS + 5


def test_it_is_the_median_of_all_voters(clock: LedgerClock, machine: FakeClock):
    clock.heard("b", OWN_MS + 30)
    clock.heard("c", OWN_MS + 20)
    assert clock.now_ms() == OWN_MS + 20
    assert clock.own_offset_ms() == -20
    machine.advance_ms(7)
    assert clock.now_ms() == OWN_MS + 27


@pytest.mark.parametrize("wrong_ms", [0, -(10**15), 2**63 - 1, -(2**63), OWN_MS + 10**10])
def test_one_wrong_clock_of_three_moves_nothing(clock: LedgerClock, wrong_ms: int):
    clock.heard("b", OWN_MS + 10)
    clock.heard("c", wrong_ms)
    assert OWN_MS <= clock.now_ms() <= OWN_MS + 10


def test_its_own_clock_may_be_the_wrong_one(machine: FakeClock):
    machine.step_realtime(3_600 * S * NS)
    clock = LedgerClock(machine, voters=3)
    assert clock.now_ms() == OWN_MS + 3_600 * S, "nobody else was heard yet"
    clock.heard("b", OWN_MS)
    clock.heard("c", OWN_MS + 5)
    assert clock.now_ms() == OWN_MS + 5, "and what was guessed before is not held on to"
    assert clock.own_offset_ms() == 3_600 * S - 5


def test_with_two_clocks_the_earlier_counts(clock: LedgerClock):
    clock.heard("b", OWN_MS + 900)
    assert clock.now_ms() == OWN_MS
    clock.heard("b", OWN_MS - 900)
    assert clock.now_ms() == OWN_MS - 900


def test_a_clock_not_heard_for_long_takes_no_part(clock: LedgerClock, machine: FakeClock):
    clock.heard("b", OWN_MS - 900)
    machine.advance_ms(10 * S)
    assert clock.now_ms() == OWN_MS + 10 * S - 900
    machine.advance_ms(1)
    assert clock.now_ms() == OWN_MS + 10 * S + 1


def test_it_is_never_before_what_the_ledger_holds(clock: LedgerClock, machine: FakeClock):
    clock.not_before(OWN_MS + 500)
    clock.not_before(OWN_MS + 100)
    assert clock.now_ms() == OWN_MS + 500
    machine.step_realtime(-(10**15) * NS)
    assert clock.now_ms() == OWN_MS + 500


def test_a_step_that_was_put_right_leaves_no_trace(clock: LedgerClock, machine: FakeClock):
    machine.step_realtime(3_600 * S * NS)
    assert clock.now_ms() == OWN_MS + 3_600 * S
    machine.step_realtime(-3_600 * S * NS)
    assert clock.now_ms() == OWN_MS


@given(
    own_ms=st.integers(-(2**40), 2**43),
    heard_ms=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=8),
)
def test_it_can_always_be_stamped(own_ms: int, heard_ms: list[int]):
    clock = LedgerClock(FakeClock(realtime_ns=own_ms * NS), voters=9)
    for position, wall_clock_ms in enumerate(heard_ms):
        clock.heard(f"n{position}", wall_clock_ms)
    assert 0 <= clock.now_ms() <= MAX_INTEGER


def test_a_stamp_stands_still_until_most_clocks_are_known(machine: FakeClock):
    clock = LedgerClock(machine, voters=5)
    clock.not_before(OWN_MS - 60 * S)
    assert clock.stamp_ms() == OWN_MS - 60 * S, "its own clock alone moves nothing"
    clock.heard("b", OWN_MS + 10)
    assert clock.stamp_ms() == OWN_MS - 60 * S, "two of five are too few"
    clock.heard("c", OWN_MS + 20)
    assert clock.stamp_ms() == clock.now_ms() == OWN_MS + 10


def test_a_clock_heard_long_ago_no_longer_helps_to_stamp(clock: LedgerClock, machine: FakeClock):
    clock.heard("b", OWN_MS)
    machine.advance_ms(11 * S)
    assert clock.stamp_ms() == 0


def test_a_federation_of_one_stamps_its_own_clock(machine: FakeClock):
    assert LedgerClock(machine, voters=1).stamp_ms() == OWN_MS


def test_a_step_of_its_own_clock_moves_nothing_that_others_told_before(
    clock: LedgerClock, machine: FakeClock
):
    clock.heard("b", OWN_MS)
    clock.heard("c", OWN_MS)
    machine.step_realtime(5 * 3_600 * S * NS)
    assert clock.stamp_ms() == OWN_MS
    assert clock.own_offset_ms() == 5 * 3_600 * S, "and it knows itself to be the wrong one"


def test_a_slow_clock_that_nobody_outvotes_does_not_stop_ledger_time(machine: FakeClock):
    machine.step_realtime(-3_600 * S * NS)
    clock = LedgerClock(machine, voters=3)
    clock.not_before(OWN_MS)
    clock.heard("c", OWN_MS)
    assert clock.own_offset_ms() == 0, "of two clocks nobody can say which is wrong"
    machine.advance_ms(9 * S)
    assert clock.stamp_ms() == OWN_MS + 9 * S


def test_with_enough_clocks_the_median_alone_counts(clock: LedgerClock, machine: FakeClock):
    clock.not_before(OWN_MS + 60 * S)
    clock.heard("b", OWN_MS)
    clock.heard("c", OWN_MS)
    machine.advance_ms(5 * S)
    assert clock.now_ms() == OWN_MS + 60 * S, "what was ahead is waited for, not kept ahead"


def test_a_follower_knows_its_offset_from_what_its_leader_tells(
    clock: LedgerClock, machine: FakeClock
):
    assert clock.own_offset_ms() == 0
    clock.told(OWN_MS - 7 * S, OWN_MS * NS)
    assert clock.own_offset_ms() == 7 * S
    machine.advance_ms(11 * S)
    assert clock.own_offset_ms() == 0, "what was told long ago says nothing of now"


def test_ledger_time_that_was_pushed_ahead_makes_no_right_clock_wrong(machine: FakeClock):
    """With two voters: the one with the wrong clock was alone once. Put right, both may lead."""
    leader, follower = LedgerClock(machine, voters=2), LedgerClock(machine, voters=2)
    for each in (leader, follower):
        each.not_before(OWN_MS + 3_600 * S)
    leader.heard("b", OWN_MS + 4)
    machine.advance_ms(1 * S)
    time = leader.time()
    assert time.ledger_ms >= OWN_MS + 3_600 * S, "it never goes back"
    follower.told(time.clocks_ms, machine.realtime_ns())
    assert abs(follower.own_offset_ms()) <= 4
    assert abs(leader.own_offset_ms()) <= 4


def test_a_leader_judges_by_the_clocks_it_hears_itself(clock: LedgerClock):
    clock.told(OWN_MS - 7 * S, OWN_MS * NS)
    clock.heard("b", OWN_MS + 2 * S)
    clock.heard("c", OWN_MS + 3 * S)
    assert clock.own_offset_ms() == -2 * S
