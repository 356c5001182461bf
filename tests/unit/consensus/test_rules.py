"""Raft's message rules, case by case."""

from __future__ import annotations

from dataclasses import replace

import pytest

from quorate.consensus.errors import PeerError
from quorate.consensus.limits import MAX_INFLIGHT_APPENDS
from quorate.consensus.messages import AppendReply, AppendRequest, Entry, VoteRequest
from quorate.consensus.rules import (
    Accepted,
    Conflict,
    Progress,
    check_shape,
    committed_by,
    fit_append,
    grants_vote,
    has_majority,
)


class Log:
    """A log of terms; index 1 is the entry that every log begins with."""

    def __init__(self, *terms: int) -> None:
        self.terms = [0, *terms]

    def first_index(self) -> int:
        return 1

    def last_index(self) -> int:
        return len(self.terms)

    def term_at(self, index: int) -> int | None:
        return self.terms[index - 1] if 1 <= index <= len(self.terms) else None


def request(
    prev: int, prev_term: int, *terms: int, commit: int = 0, term: int = 9
) -> AppendRequest:
    entries = tuple(
        Entry(prev + 1 + offset, entry_term, b"\x00x") for offset, entry_term in enumerate(terms)
    )
    return AppendRequest(term, prev, prev_term, commit, entries)


def accepted(match: int) -> AppendReply:
    return AppendReply(9, 9, True, match, 0, match, 0)


def refused(prev: int, hint: int) -> AppendReply:
    return AppendReply(9, 9, False, 0, hint, prev, 0)


# -- votes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last_index", "last_term", "granted"),
    [(3, 2, True), (4, 2, True), (2, 3, True), (2, 2, False), (9, 1, False)],
)
def test_a_vote_needs_a_log_at_least_as_new(last_index: int, last_term: int, granted: bool) -> None:
    vote = VoteRequest(5, last_index, last_term)
    log = Log(1, 2)
    assert grants_vote(request=vote, candidate="b", term=5, voted_for=None, log=log) is granted


@pytest.mark.parametrize(
    ("voted_for", "granted"), [(None, True), ("b", True), ("c", False), ("a", False)]
)
def test_one_candidate_gets_the_vote_however_often_it_asks(
    voted_for: str | None, granted: bool
) -> None:
    vote = VoteRequest(5, 3, 2)
    log = Log(1, 2)
    assert grants_vote(request=vote, candidate="b", term=5, voted_for=voted_for, log=log) is granted


@pytest.mark.parametrize("term", [4, 6])
def test_no_vote_for_another_term(term: int) -> None:
    vote = VoteRequest(5, 3, 2)
    assert not grants_vote(request=vote, candidate="b", term=term, voted_for=None, log=Log(1, 2))


# -- appends -------------------------------------------------------------------------------------


def test_an_append_that_fits_extends_the_log() -> None:
    fit = fit_append(request(3, 1, 1, 2), log=Log(1, 1), commit_index=1)
    assert isinstance(fit, Accepted)
    assert (fit.match_index, fit.truncate_from) == (5, None)
    assert [entry.index for entry in fit.append] == [4, 5]


def test_a_repeated_append_changes_nothing() -> None:
    fit = fit_append(request(1, 0, 1, 1), log=Log(1, 1, 1, 1), commit_index=5)
    assert fit == Accepted(3, None, ())


def test_hazard_2_a_late_append_never_shortens_the_log() -> None:
    for prev in range(1, 5):
        fit = fit_append(request(prev, 0 if prev == 1 else 1), log=Log(1, 1, 1, 1), commit_index=1)
        assert fit == Accepted(prev, None, ())


def test_a_conflict_truncates_from_the_first_entry_that_differs() -> None:
    fit = fit_append(request(2, 1, 1, 3, 3), log=Log(1, 1, 2, 2), commit_index=3)
    assert isinstance(fit, Accepted)
    assert (fit.match_index, fit.truncate_from) == (5, 4)
    assert [entry.index for entry in fit.append] == [4, 5]


def test_a_committed_entry_is_never_replaced() -> None:
    with pytest.raises(PeerError, match="committed entry 4"):
        fit_append(request(3, 1, 3), log=Log(1, 1, 2), commit_index=4)


def test_a_missing_entry_hints_at_the_end_of_the_log() -> None:
    assert fit_append(request(9, 1), log=Log(1, 1), commit_index=1) == Conflict(4)


def test_a_conflict_hint_skips_the_whole_term() -> None:
    log = Log(1, 1, 2, 2, 2, 2, 3)
    assert fit_append(request(7, 4), log=log, commit_index=1) == Conflict(4)
    assert fit_append(request(8, 4), log=log, commit_index=1) == Conflict(8)
    assert fit_append(request(3, 4), log=log, commit_index=1) == Conflict(2)


@pytest.mark.parametrize(
    "bad",
    [
        request(0, 0, 1),
        request(3, 10),
        request(3, 2, 1),
        request(3, 2, 10),
        replace(request(3, 2), entries=(Entry(5, 2, b"x"),)),
        replace(request(3, 2), entries=(Entry(4, 2, b"x"), Entry(4, 2, b"x"))),
    ],
)
def test_a_misshapen_append_accuses_its_sender(bad: AppendRequest) -> None:
    with pytest.raises(PeerError):
        check_shape(bad)


def test_hazard_3_the_commit_index_stops_at_what_was_verified() -> None:
    partial = request(3, 1, 1, commit=50)
    assert committed_by(partial, match_index=4, commit_index=2) == 4
    assert committed_by(partial, match_index=4, commit_index=6) == 6
    assert committed_by(request(3, 1, commit=2), match_index=3, commit_index=1) == 2


def test_a_majority_is_more_than_half() -> None:
    assert [count for count in range(6) if has_majority(count, 4)] == [3, 4, 5]
    assert [count for count in range(6) if has_majority(count, 5)] == [3, 4, 5]
    assert has_majority(1, 1)


# -- progress ------------------------------------------------------------------------------------


def test_a_probe_is_one_request_at_a_time() -> None:
    progress = Progress(next_index=10)
    assert progress.may_send_entries()
    progress.sent(12)
    assert not progress.may_send_entries()
    assert progress.next_index == 10
    progress.probe_again()
    assert progress.may_send_entries()


def test_an_accepted_probe_opens_the_window() -> None:
    progress = Progress(next_index=10)
    progress.sent(12)
    assert progress.acknowledged(accepted(12))
    assert (progress.match_index, progress.next_index, progress.probing) == (12, 13, False)
    for last in range(13, 13 + MAX_INFLIGHT_APPENDS):
        assert progress.may_send_entries()
        progress.sent(last)
    assert not progress.may_send_entries()
    assert progress.next_index == 13 + MAX_INFLIGHT_APPENDS


def replicating(match: int) -> Progress:
    progress = Progress(next_index=match)
    progress.sent(match)
    progress.acknowledged(accepted(match))
    return progress


def test_a_later_answer_speaks_for_those_that_were_lost() -> None:
    """Answers are lost when the follower's own link breaks, of which the leader hears nothing."""
    progress = replicating(match=10)
    for last in range(11, 11 + MAX_INFLIGHT_APPENDS):
        progress.sent(last)
    assert not progress.may_send_entries()
    progress.acknowledged(accepted(progress.next_index - 1))  # the answer to a heartbeat
    assert progress.may_send_entries()
    assert not progress.probing
    for last in range(progress.next_index, progress.next_index + MAX_INFLIGHT_APPENDS):
        assert progress.may_send_entries(), "the whole window is open again"
        progress.sent(last)


def test_a_lost_link_goes_back_to_what_is_known() -> None:
    progress = replicating(match=10)
    progress.sent(20)
    progress.restart()
    assert (progress.match_index, progress.next_index, progress.probing) == (10, 11, True)


def test_a_lost_link_while_probing_keeps_the_place() -> None:
    """Nothing is known yet, and nothing before the first entry can be asked about."""
    progress = Progress(next_index=10)
    progress.restart()
    assert (progress.match_index, progress.next_index, progress.probing) == (0, 10, True)
    assert progress.may_send_entries()


def test_a_refusal_goes_back_to_the_hint() -> None:
    progress = Progress(next_index=10)
    progress.sent(9)
    assert progress.acknowledged(refused(prev=9, hint=4))
    assert progress.next_index == 4


def test_a_refusal_makes_headway_whatever_its_hint() -> None:
    progress = Progress(next_index=10)
    progress.acknowledged(refused(prev=9, hint=50))
    assert progress.next_index == 9


@pytest.mark.parametrize("hint", [0, 1])
def test_a_refusal_never_leads_before_the_log(hint: int) -> None:
    progress = Progress(next_index=10)
    progress.acknowledged(refused(prev=9, hint=hint))
    assert progress.next_index == 2


def test_nobody_can_refuse_the_first_entry() -> None:
    progress = Progress(next_index=2)
    with pytest.raises(PeerError, match="every log"):
        progress.acknowledged(refused(prev=1, hint=1))


@pytest.mark.parametrize(("prev", "match"), [(0, 0), (1, 0), (5, 4)])
def test_nobody_can_acknowledge_less_than_what_was_asked(prev: int, match: int) -> None:
    progress = Progress(next_index=9)
    with pytest.raises(PeerError, match="less than"):
        progress.acknowledged(replace(accepted(match), prev_log_index=prev))
    assert progress.probing


def test_hazard_5_a_late_refusal_moves_nothing() -> None:
    progress = replicating(match=10)
    progress.sent(20)
    assert not progress.acknowledged(refused(prev=7, hint=2))
    assert (progress.match_index, progress.next_index, progress.probing) == (10, 21, False)


def test_hazard_5_refusals_of_pipelined_requests_move_back_once() -> None:
    progress = replicating(match=10)
    for last in (20, 30, 40):
        progress.sent(last)
    assert progress.acknowledged(refused(prev=20, hint=15))
    assert progress.next_index == 15
    assert not progress.acknowledged(refused(prev=30, hint=15))
    assert not progress.acknowledged(refused(prev=40, hint=15))
    assert (progress.next_index, progress.match_index) == (15, 10)


def test_a_late_acknowledgement_lowers_nothing() -> None:
    progress = replicating(match=10)
    progress.acknowledged(accepted(5))
    assert (progress.match_index, progress.next_index) == (10, 11)
