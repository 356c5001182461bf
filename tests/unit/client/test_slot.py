"""A permit that is taken away while it is being handed out is not both used and acknowledged."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.client.conftest import MS, FakeClock

from quorate.client import ClientReason, Denied, Permit, Reading
from quorate.client.slot import PermitSlot, _Kept


def permit_of(clock: FakeClock, ttl_ms: int = 800) -> Permit:
    sent = Reading.of(clock)
    return Permit("lease-7", 7, sent, sent.boottime_ns + ttl_ms * MS, 9, 5)


class _Hooked(_Kept):
    """Lets a test in just before the mark is set."""

    __slots__ = ("_is_handed", "hook")

    hook: Callable[[], None]

    @property
    def is_handed(self) -> bool:
        return self._is_handed

    @is_handed.setter
    def is_handed(self, value: bool) -> None:
        if value:
            self.hook()
        self._is_handed: bool = value


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def slot_with(clock: FakeClock, *, is_handed: bool = False) -> PermitSlot:
    slot = PermitSlot(clock)
    assert slot.offer(permit_of(clock), slot.epoch, is_handed=is_handed)
    return slot


def test_an_interruption_before_the_mark_leaves_nothing_to_use(clock: FakeClock) -> None:
    slot, acknowledged = slot_with(clock), []
    kept: Any = _Hooked(permit_of(clock), is_handed=False)
    kept.hook = lambda: slot.interrupted(lambda: acknowledged.append(True))
    slot._kept = kept
    assert slot.cached() is None
    assert acknowledged


def test_an_interruption_while_the_clock_is_read_leaves_nothing_to_use(clock: FakeClock) -> None:
    acknowledged: list[bool] = []

    class Interrupting(FakeClock):
        def realtime_ns(self) -> int:
            if armed:
                slot.interrupted(lambda: acknowledged.append(True))
            return super().realtime_ns()

    armed: list[bool] = []
    slot = slot_with(Interrupting())
    armed.append(True)
    assert slot.cached() is None
    assert acknowledged
    slot = slot_with(clock)
    assert slot.cached_for_act()


def test_what_was_handed_out_of_the_cache_is_not_acknowledged_before_its_end(
    clock: FakeClock,
) -> None:
    slot, acknowledged = slot_with(clock), []
    assert slot.cached()
    slot.interrupted(lambda: acknowledged.append(True))
    assert not acknowledged
    clock.advance(800)
    slot.interrupted(lambda: acknowledged.append(True))
    assert acknowledged


def test_the_end_of_an_act_says_nothing_of_what_was_handed_out_besides(clock: FakeClock) -> None:
    slot, acknowledged = slot_with(clock), []
    assert slot.cached()
    with slot.acting():
        assert slot.cached_for_act()
        slot.interrupted(lambda: acknowledged.append(True))
    assert not acknowledged


def test_acts_that_began_after_an_interruption_hold_its_acknowledgement_up_no_more(
    clock: FakeClock,
) -> None:
    slot, acknowledged = slot_with(clock), []
    with slot.acting():
        slot.interrupted(lambda: acknowledged.append(True))
        later = slot.acting()
        later.__enter__()
        assert not acknowledged
    assert acknowledged, "the other act goes by nothing of before"
    later.__exit__(None, None, None)


def test_an_older_permit_does_not_take_the_place_of_one_that_is_good_for_longer(
    clock: FakeClock,
) -> None:
    slot = slot_with(clock)
    longer_ns = slot.kept_until_ns()
    assert slot.offer(permit_of(clock, 100), slot.epoch, is_handed=False)
    assert slot.kept_until_ns() == longer_ns


def test_a_fork_has_no_permit(clock: FakeClock) -> None:
    slot = slot_with(clock)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        refused = slot.offer(permit_of(clock), slot.epoch, is_handed=True)
        os.write(writer, b"none" if slot.cached() is None and not refused else b"one")
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        assert told.read() == b"none"
    assert slot.cached()


def test_what_was_only_kept_is_acknowledged_at_once(clock: FakeClock) -> None:
    slot, acknowledged = slot_with(clock), []
    slot.interrupted(lambda: acknowledged.append(True))
    assert acknowledged


def test_a_newer_permit_does_not_hide_that_the_older_was_handed_out(clock: FakeClock) -> None:
    slot, acknowledged = slot_with(clock), []
    assert slot.cached()
    clock.advance(100)
    assert slot.offer(permit_of(clock, 50), slot.epoch, is_handed=False)
    clock.advance(60)
    slot.interrupted(lambda: acknowledged.append(True))
    assert not acknowledged, "the older one is good for longer"


def test_a_closed_slot_takes_nothing(clock: FakeClock) -> None:
    slot = slot_with(clock)
    slot.close()
    assert slot.cached() is None
    assert slot.offer(permit_of(clock), slot.epoch, is_handed=True) == Denied(
        ClientReason.CLOSED, "lease-7"
    )


Acts = st.lists(
    st.sampled_from(["offer", "hand", "begin", "end", "interrupt", "wait", "drop"]), max_size=30
)


@given(acts=Acts)
def test_nothing_is_acknowledged_while_a_permit_of_before_is_in_use(acts: list[str]) -> None:
    """Whatever is done in whatever order: when an interruption is acknowledged, no act goes on that
    began before it, and whatever was handed out before it is over. Acts that began after it may."""
    clock = FakeClock()
    slot = PermitSlot(clock)
    handed_until_ns = 0
    going_on: list[Any] = []

    def interrupt() -> None:
        before, until_ns = list(going_on), handed_until_ns

        def acknowledge() -> None:
            assert not [act for act in before if act in going_on]
            assert clock.boot_ns >= until_ns

        slot.interrupted(acknowledge)

    for act in acts:
        match act:
            case "offer":
                slot.offer(permit_of(clock, 100), slot.epoch, is_handed=False)
            case "hand":
                if (good := slot.cached()) is not None:
                    assert clock.boot_ns < good.expires_at_ns
                    handed_until_ns = max(handed_until_ns, good.expires_at_ns)
            case "begin":
                acting = slot.acting()
                acting.__enter__()
                if slot.cached_for_act():
                    going_on.append(acting)
                else:
                    acting.__exit__(None, None, None)
            case "end":
                if going_on:
                    going_on.pop().__exit__(None, None, None)
            case "interrupt":
                interrupt()
            case "wait":
                clock.advance(60)
            case "drop":
                slot.drop()
    while going_on:
        going_on.pop().__exit__(None, None, None)
