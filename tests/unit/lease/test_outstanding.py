"""What an edge has permitted, and until when that can be in use."""

from __future__ import annotations

from quorate.lease.outstanding import Holder, OutstandingPermits

MS = 1_000_000
AGENT = "spiffe://bank.example/agent/a"
ONE = Holder("1" * 32, AGENT, "s" * 16)
TWO = Holder("2" * 32, AGENT, "s" * 16)
GRANT = "grant:bank.example/g"


def given(
    permits: OutstandingPermits, holder: Holder = ONE, *, size: int, until_ms: int, now_ms: int = 0
) -> None:
    permits.given(holder, (GRANT,), size, until_ms * MS, now_ms * MS)


def test_without_permits_everything_is_drained():
    permits = OutstandingPermits()
    permits.stopped(GRANT, 3)
    assert permits.drained_size(9, 0) == 9
    assert permits.next_ns() is None


def test_what_stops_a_permit_is_drained_when_it_is_over():
    permits = OutstandingPermits()
    given(permits, size=5, until_ms=100)
    assert permits.drained_size(5, 0) == 5, "nothing has stopped it"
    permits.stopped("grant:bank.example/another", 5)
    assert permits.drained_size(6, 0) == 6
    permits.stopped(GRANT, 6)
    assert permits.drained_size(8, 99 * MS) == 6
    assert permits.next_ns() == 100 * MS
    assert permits.drained_size(8, 100 * MS) == 8


def test_a_permit_that_was_decided_after_it_does_not_count():
    permits = OutstandingPermits()
    given(permits, size=7, until_ms=100)
    permits.stopped(GRANT, 6)
    assert permits.drained_size(8, 0) == 8


def test_the_oldest_and_the_longest_of_several_permits_count():
    permits = OutstandingPermits()
    given(permits, size=5, until_ms=100)
    given(permits, size=7, until_ms=300, now_ms=50)
    permits.stopped(GRANT, 6)
    assert permits.drained_size(9, 299 * MS) == 6
    assert permits.drained_size(9, 300 * MS) == 9


def test_the_lease_itself_stops_it_as_well():
    permits = OutstandingPermits()
    given(permits, size=5, until_ms=100)
    given(permits, TWO, size=5, until_ms=100)
    permits.stopped(TWO.lease, 5)
    assert permits.drained_size(9, 0) == 5
    permits.acknowledged(TWO, 6)
    assert permits.drained_size(9, 0) == 9


def test_only_who_holds_a_permit_can_say_that_it_uses_it_no_more():
    permits = OutstandingPermits()
    given(permits, size=5, until_ms=100)
    permits.stopped(GRANT, 5)
    for other in (
        ONE._replace(session="t" * 16),
        ONE._replace(executor=AGENT + "b"),
        TWO,
        ONE._replace(session=""),
    ):
        permits.acknowledged(other, 6)
        assert permits.drained_size(9, 0) == 5
    permits.acknowledged(ONE, 5)
    assert permits.drained_size(9, 0) == 5, "of a smaller ledger it says nothing"
    permits.acknowledged(ONE, 6)
    assert permits.drained_size(9, 0) == 9


def test_nobody_speaks_for_who_does_not_say_who_it_is():
    permits = OutstandingPermits()
    nameless = ONE._replace(session="")
    given(permits, nameless, size=5, until_ms=100)
    permits.stopped(GRANT, 5)
    permits.acknowledged(nameless, 6)
    assert permits.drained_size(9, 0) == 5


def test_an_acknowledgement_of_one_stop_is_none_of_the_next():
    permits = OutstandingPermits()
    given(permits, size=5, until_ms=100)
    permits.stopped(GRANT, 5)
    given(permits, size=7, until_ms=200, now_ms=1)  # it was let go on at 6
    permits.stopped(GRANT, 8)
    permits.acknowledged(ONE, 6)
    assert permits.drained_size(9, 2 * MS) == 5
    permits.acknowledged(ONE, 9)
    assert permits.drained_size(9, 2 * MS) == 9


def test_what_was_acknowledged_before_is_not_stopped_by_it_again():
    """The executor heard before the edge has followed so far."""
    permits = OutstandingPermits()
    given(permits, size=5, until_ms=100)
    permits.acknowledged(ONE, 7)
    permits.stopped(GRANT, 6)
    assert permits.drained_size(9, 0) == 9


def test_what_is_over_takes_no_room():
    permits = OutstandingPermits()
    for number in range(1_000):
        holder = Holder(f"{number:032x}", AGENT, "")
        given(permits, holder, size=number, until_ms=number + 10, now_ms=number)
        assert len(permits) <= 10
    permits.stopped(GRANT, 2_000)
    assert permits.drained_size(3_000, 2_000 * MS) == 3_000
    kept = (permits._held, permits._by_thing, permits._stopped, permits._order)
    assert not any(kept)


def test_a_holder_that_goes_on_for_ever_is_kept_once():
    permits = OutstandingPermits()
    for now_ms in range(1_000):
        given(permits, size=now_ms, until_ms=now_ms + 10, now_ms=now_ms)
        if now_ms % 3 == 0:
            permits.stopped(GRANT, now_ms)
    assert len(permits) <= 2
    assert len(permits._order) <= 5


def test_more_holders_than_are_told_apart_hold_everything_up_for_as_long():
    permits = OutstandingPermits(limit=2)
    given(permits, size=5, until_ms=100)
    given(permits, TWO, size=5, until_ms=100)
    given(permits, Holder("3" * 32, AGENT, "s" * 16), size=6, until_ms=150)
    given(permits, Holder("4" * 32, AGENT, "s" * 16), size=7, until_ms=120)
    assert len(permits) == 2
    assert permits.drained_size(9, 0) == 6
    assert permits.drained_size(9, 150 * MS) == 9


def test_one_executor_takes_no_more_than_its_share_of_those_who_are_told_apart():
    """Whoever calls itself by ever new names is not told apart any more, and holds everything up
    for as long as its permits last; others are told apart all the same."""
    permits = OutstandingPermits(limit=100, limit_each=2)
    for number in range(50):
        given(permits, ONE._replace(session=f"{number:016d}"), size=5, until_ms=100)
    other = ONE._replace(executor="spiffe://bank.example/agent/b")
    given(permits, other, size=5, until_ms=100)
    assert (len(permits), permits.count) == (3, 3 + 48)
    permits.stopped(GRANT, 7)
    assert permits.drained_size(9, 0) == 5, "any entry could have stopped those"
    assert permits.drained_size(9, 100 * MS) == 9
    for number in range(3):  # its share is there again
        given(permits, ONE._replace(session=f"{number:016d}"), size=9, until_ms=200, now_ms=100)
    assert len(permits) == 2


def test_when_nobody_knows_what_was_stopped_everything_has_to_be_over():
    permits = OutstandingPermits()
    given(permits, size=5, until_ms=100)
    permits.stopped_all(6)
    permits.acknowledged(ONE, 9_999)
    assert permits.drained_size(9_999, 99 * MS) == 6
    assert permits.drained_size(9_999, 100 * MS) == 9_999


def test_all_that_may_be_in_use_is_counted_until_it_is_over():
    permits = OutstandingPermits(limit=2)
    given(permits, size=5, until_ms=100)
    given(permits, TWO, size=5, until_ms=200)
    permits.stopped(TWO.lease, 5)
    assert permits.count == 2
    for number in (3, 4):
        given(permits, Holder(f"{number}" * 32, AGENT, ""), size=6, until_ms=300)
    assert permits.count == 4, "two of them are not told apart"
    for at_ms, left in ((99, 4), (100, 3), (200, 2), (299, 2), (300, 0)):
        permits.forget_expired(at_ms * MS)
        assert permits.count == left, at_ms
