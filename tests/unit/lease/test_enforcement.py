"""The watermark: a node counts by its report, or because its authority has certainly lapsed."""

from __future__ import annotations

import pytest

from quorate.lease.enforcement import Enforcement, OwnReaders

PERIOD_MS = 1_000
RHO_PPM = 10_000
LAPSE_NS = 1_010_000_000


@pytest.fixture
def enforcement() -> Enforcement:
    return Enforcement(["a", "b", "c"], PERIOD_MS, RHO_PPM)


def nothing_pending(_member: str) -> int | None:
    return None


def _report(enforcement: Enforcement, **indexes: int) -> None:
    for member, index in indexes.items():
        enforcement.reported(member, index)


def test_before_a_leadership_nothing_is_known(enforcement: Enforcement):
    _report(enforcement, a=9, b=9, c=9)
    assert enforcement.watermark(10**12, 9, nothing_pending) == 0


def test_the_slowest_member_counts(enforcement: Enforcement):
    enforcement.begin(0)
    _report(enforcement, a=9, b=7, c=8)
    assert enforcement.watermark(1, 9, nothing_pending) == 7
    assert enforcement.of_member("b") == 7


def test_never_beyond_what_is_committed(enforcement: Enforcement):
    enforcement.begin(0)
    _report(enforcement, a=9, b=9, c=9)
    assert enforcement.watermark(1, 8, nothing_pending) == 8


def test_a_report_never_takes_back_an_earlier_one(enforcement: Enforcement):
    _report(enforcement, b=7)
    _report(enforcement, b=5)
    assert enforcement.of_member("b") == 7


def test_strangers_do_not_count(enforcement: Enforcement):
    _report(enforcement, x=7)
    assert enforcement.of_member("x") == 0


def test_without_a_report_a_member_counts_once_it_has_lapsed(enforcement: Enforcement):
    enforcement.begin(5)
    _report(enforcement, a=9, b=9)
    assert enforcement.watermark(5 + LAPSE_NS - 1, 9, nothing_pending) == 0
    assert enforcement.watermark(5 + LAPSE_NS, 9, nothing_pending) == 9


def test_a_grant_puts_the_lapse_off(enforcement: Enforcement):
    enforcement.begin(5)
    _report(enforcement, a=9, b=9)
    enforcement.granted("c", 400)
    assert enforcement.watermark(400 + LAPSE_NS - 1, 9, nothing_pending) == 0
    assert enforcement.watermark(400 + LAPSE_NS, 9, nothing_pending) == 9


def test_a_fraction_of_rho_is_rounded_up():
    enforcement = Enforcement(["a"], 1, 1)  # L is 1,000,000 ns, rho of it is 1 ns
    enforcement.begin(0)
    assert enforcement.watermark(1_000_000, 9, nothing_pending) == 0
    assert enforcement.watermark(1_000_001, 9, nothing_pending) == 9


def test_what_is_pending_for_a_lapsed_member_holds_the_watermark(enforcement: Enforcement):
    enforcement.begin(0)
    _report(enforcement, a=9, b=9)
    pending = {"c": 6}
    assert enforcement.watermark(LAPSE_NS, 9, pending.get) == 6
    _report(enforcement, c=8)
    assert enforcement.watermark(LAPSE_NS, 9, pending.get) == 8


def test_it_never_falls(enforcement: Enforcement):
    enforcement.begin(0)
    _report(enforcement, a=9, b=9)
    assert enforcement.watermark(LAPSE_NS, 9, nothing_pending) == 9
    enforcement.granted("c", LAPSE_NS)  # it is back, on a state that was granted to it
    assert enforcement.watermark(LAPSE_NS + 1, 12, nothing_pending) == 9
    enforcement.end()
    assert enforcement.watermark(LAPSE_NS + 2, 12, nothing_pending) == 9


def test_a_new_leadership_counts_lapses_from_its_own_beginning(enforcement: Enforcement):
    enforcement.begin(0)
    _report(enforcement, a=9, b=9)
    enforcement.end()
    enforcement.begin(10 * LAPSE_NS)
    assert enforcement.watermark(11 * LAPSE_NS - 1, 9, nothing_pending) == 0
    assert enforcement.watermark(11 * LAPSE_NS, 9, nothing_pending) == 9


# -- what a node reports of itself ---------------------------------------------------------------

MS = 1_000_000


def test_a_node_reports_the_oldest_state_that_it_uses():
    readers = OwnReaders(PERIOD_MS)
    assert readers.enforced(0, 9, 7) == 7
    assert readers.enforced(1, 9, 9) == 9


def test_a_reader_that_never_ends_holds_its_node_back_for_one_period():
    readers = OwnReaders(PERIOD_MS)
    assert readers.enforced(0, 7, 7) == 7
    assert readers.enforced(100 * MS, 9, 7) == 7
    assert readers.enforced(1_100 * MS - 1, 9, 7) == 7
    assert readers.enforced(1_100 * MS, 9, 7) == 9


def test_a_period_counts_from_when_the_state_was_seen_to_be_durable():
    readers = OwnReaders(PERIOD_MS)
    readers.enforced(0, 7, 7)
    # Nobody looked for longer than a period: when state 9 became durable is not known.
    assert readers.enforced(5_000 * MS, 9, 7) == 7
    assert readers.enforced(6_000 * MS - 1, 12, 7) == 7
    assert readers.enforced(6_000 * MS, 12, 7) == 9


def test_however_often_a_node_looks_it_remembers_little():
    readers = OwnReaders(PERIOD_MS)
    for index in range(100_000):
        readers.enforced(index * MS // 100, index, 0)
    assert len(readers._applied._held) <= 65
    assert readers.enforced(2_000 * MS, 100_000, 0) > 90_000
