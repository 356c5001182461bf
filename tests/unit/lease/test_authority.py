"""The asking side: authority dates from the ask, and only its own answer gives it."""

from __future__ import annotations

import pytest

from quorate.lease.authority import (
    RENEWALS_PER_PERIOD,
    Ask,
    AuthorityHolder,
    FederationTime,
    Grant,
)
from quorate.testing.clock import FakeClock

PERIOD_MS = 1_000
EVERY_MS = PERIOD_MS // RENEWALS_PER_PERIOD


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def holder(clock: FakeClock) -> AuthorityHolder:
    return AuthorityHolder(clock, PERIOD_MS, first_seq=100)


def _ask(holder: AuthorityHolder, leader: str = "a") -> Ask:
    ask = holder.ask(leader, 5, 4)
    assert ask is not None
    return ask


def _grant(seq: int, read_index: int = 7, term: int = 3) -> Grant:
    return Grant(seq, term, read_index, FederationTime(1_000, 900), 1_000)


def test_without_a_leader_there_is_nobody_to_ask(holder: AuthorityHolder):
    assert holder.ask(None, 5, 4) is None


def test_an_ask_carries_what_the_node_has_applied_and_enforced(holder: AuthorityHolder):
    assert holder.ask("a", 5, 4) == Ask(101, 5, 4)


def test_asks_are_due_several_times_a_period(holder: AuthorityHolder, clock: FakeClock):
    _ask(holder)
    clock.advance_ms(EVERY_MS - 1)
    assert holder.ask("a", 5, 4) is None
    assert holder.next_ask_ns() == clock.boottime_ns() + 1_000_000
    clock.advance_ms(1)
    assert _ask(holder).seq == 102


def test_a_new_leader_is_asked_at_once(holder: AuthorityHolder):
    _ask(holder, "a")
    assert holder.ask("b", 5, 4) is not None


def test_authority_dates_from_the_ask(holder: AuthorityHolder, clock: FakeClock):
    asked = clock.boottime_ns(), clock.realtime_ns()
    ask = _ask(holder)
    clock.advance_ms(150)
    assert holder.on_grant("a", _grant(ask.seq), term=3)
    clock.advance_ms(30)
    authority = holder.take(7)
    assert authority is not None
    assert (authority.asked_boottime_ns, authority.asked_realtime_ns) == asked
    assert (authority.term, authority.read_index, authority.time) == (
        *(3, 7),
        FederationTime(1_000, 900),
    )


def test_authority_waits_for_the_state_that_it_is_for(holder: AuthorityHolder):
    holder.on_grant("a", _grant(_ask(holder).seq, read_index=7), term=3)
    assert holder.take(6) is None
    assert holder.take(7) is not None
    assert holder.take(7) is None, "it is handed out once"


def test_the_newest_authority_that_can_be_had_is_taken(holder: AuthorityHolder, clock: FakeClock):
    asked = []
    for read_index in (7, 8, 9):
        asked.append(clock.boottime_ns())
        holder.on_grant("a", _grant(_ask(holder).seq, read_index), term=3)
        clock.advance_ms(EVERY_MS)
    authority = holder.take(8)
    assert authority is not None
    assert authority.asked_boottime_ns == asked[1]
    later = holder.take(9)
    assert later is not None
    assert later.asked_boottime_ns == asked[2]


@pytest.mark.parametrize(
    ("sender", "seq", "term"),
    [
        pytest.param("b", 101, 3, id="of a node that was not asked"),
        pytest.param("a", 102, 3, id="for an ask not made yet"),
        pytest.param("a", 100, 3, id="for no ask"),
        pytest.param("a", 101, 4, id="of a term that is over"),
    ],
)
def test_a_grant_that_answers_nothing_gives_nothing(
    holder: AuthorityHolder, sender: str, seq: int, term: int
):
    _ask(holder)
    assert not holder.on_grant(sender, _grant(seq), term)
    assert holder.take(100) is None


def test_a_grant_counts_once_and_not_after_a_later_one(holder: AuthorityHolder, clock: FakeClock):
    first = _ask(holder)
    clock.advance_ms(EVERY_MS)
    second = _ask(holder)
    assert holder.on_grant("a", _grant(second.seq), term=3)
    assert not holder.on_grant("a", _grant(second.seq), term=3)
    assert not holder.on_grant("a", _grant(first.seq), term=3)


def test_an_ask_to_one_leader_is_not_answered_by_the_next(holder: AuthorityHolder):
    first = _ask(holder, "a")
    _ask(holder, "b")
    assert not holder.on_grant("b", _grant(first.seq), term=3)


def test_what_is_forgotten_is_not_granted_and_asked_anew(holder: AuthorityHolder):
    ask = _ask(holder)
    other = AuthorityHolder(FakeClock(), PERIOD_MS, first_seq=100)
    other.on_grant("a", _grant(_ask(other).seq), term=3)
    holder.forget()
    other.forget()
    assert not holder.on_grant("a", _grant(ask.seq), term=3)
    assert other.take(100) is None
    assert _ask(holder).seq > ask.seq, "a number is never used again"


def test_asks_that_nobody_answers_take_bounded_memory(holder: AuthorityHolder, clock: FakeClock):
    first = _ask(holder)
    for _ in range(100):
        clock.advance_ms(EVERY_MS)
        last = _ask(holder)
    assert not holder.on_grant("a", _grant(first.seq), term=3)
    assert holder.on_grant("a", _grant(last.seq), term=3)


def test_grants_that_wait_for_a_state_take_bounded_memory(
    holder: AuthorityHolder, clock: FakeClock
):
    for _ in range(100):
        holder.on_grant("a", _grant(_ask(holder).seq, read_index=2**63), term=3)
        clock.advance_ms(EVERY_MS)
    newest = _ask(holder)
    for _ in range(8):  # a leader that named a state which never comes is outlived
        holder.on_grant("a", _grant(newest.seq, read_index=5), term=3)
        clock.advance_ms(EVERY_MS)
        newest = _ask(holder)
    assert holder.take(5) is not None
