"""What is found stale, and what is not: the bound is exact."""

from __future__ import annotations

import pytest

from quorate.chaos.freshness import Known, Sample, Watch, stale_permits
from quorate.chaos.probe import NS_PER_MS, Asked
from quorate.v1 import node_pb2

AUTHORITY_MS = 2_000


def permit(sent_ms: int, size: int) -> Asked:
    sent_ns = sent_ms * NS_PER_MS
    return Asked(sent_ns, sent_ns + 1, "OK", "VERDICT_PERMIT", "UNSPECIFIED", 500, size)


def test_what_is_known_by_a_moment_is_what_was_noted_until_then() -> None:
    known = Known()
    for moment, amount in ((10, 3), (20, 2), (20, 5), (30, 9)):
        known.note(moment, amount)
    assert [known.by(moment) for moment in (9, 10, 19, 20, 29, 30, 99)] == [0, 3, 3, 5, 5, 9, 9]


def test_a_permit_rests_on_everything_that_is_older_than_the_authority_period() -> None:
    known = Known()
    known.note(1_000 * NS_PER_MS, 7)
    at_the_bound = 1_000 + AUTHORITY_MS
    good = [permit(at_the_bound - 1, 6), permit(at_the_bound, 7)]
    denial = Asked(at_the_bound * NS_PER_MS, 0, "OK", "VERDICT_DENY", "INQUORATE", 0, 6)
    silence = Asked(at_the_bound * NS_PER_MS, 0, "UNAVAILABLE", "-", "-", 0)
    bad = permit(at_the_bound, 6)
    found = stale_permits([*good, denial, silence, bad], known, AUTHORITY_MS)
    assert found == [bad]


def test_an_answer_survives_being_written_down() -> None:
    asked = permit(12, 34)
    assert Asked.parse(asked.line().rstrip("\n")) == asked


@pytest.mark.parametrize(
    ("applied", "remaining_ms", "sent_ms", "is_deluded"),
    [
        (9, 1_500, 1_500, True),  # it asked at 1,000 at the earliest, when 10 was committed
        (10, 1_500, 1_500, False),
        (9, 1_499, 1_500, False),  # it may have asked just before
        (9, 0, 9_000, False),  # it is behind, and knows it
        (9, 1, 9_000, True),
    ],
)
def test_who_holds_authority_has_what_was_committed_before_it_asked(
    applied: int, remaining_ms: int, sent_ms: int, is_deluded: bool
) -> None:
    watch = Watch([], lambda _name: None)
    leader = Sample("leader", 0, 1_000 * NS_PER_MS, 10, 10, 5, 2_000)
    sent_ns = sent_ms * NS_PER_MS
    behind = Sample("behind", sent_ns, sent_ns + 1, applied, applied, 4, remaining_ms)
    watch.samples += [behind, leader]
    assert watch.deluded(AUTHORITY_MS) == ([behind] if is_deluded else [])
    assert watch.sizes().by(1_000 * NS_PER_MS) == 5


def test_a_watch_asks_those_who_answer() -> None:
    told = node_pb2.GetStatusResponse(commit_index=3, applied_index=2, authority_remaining_ms=7)
    told.position.size = 1
    watch = Watch(["a", "b"], lambda name: told if name == "a" else None)
    sample = watch.take("a")
    assert sample is not None
    assert watch.take("b") is None
    assert watch.samples == [sample]
    found = (sample.commit_index, sample.applied_index, sample.size, sample.remaining_ms)
    assert found == (3, 2, 1, 7)
    assert sample.sent_ns <= sample.answered_ns
