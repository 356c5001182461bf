"""Raft's message rules, over all logs and requests that Hypothesis finds."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

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
)


class Log:
    def __init__(self, terms: list[int]) -> None:
        self.terms = [0, *terms]

    def first_index(self) -> int:
        return 1

    def last_index(self) -> int:
        return len(self.terms)

    def term_at(self, index: int) -> int | None:
        return self.terms[index - 1] if 1 <= index <= len(self.terms) else None

    def take(self, fit: Accepted) -> None:
        """Does what the rule says."""
        if fit.truncate_from is not None:
            del self.terms[fit.truncate_from - 1 :]
        for entry in fit.append:
            assert entry.index == len(self.terms) + 1
            self.terms.append(entry.term)


terms = st.lists(st.integers(1, 6), max_size=12).map(sorted)


@st.composite
def requests_of(
    draw: st.DrawFn, leader: list[int], term: int = 9, before: int | None = None
) -> AppendRequest:
    """Any request that a leader with these terms in its log can have sent, now or earlier; if so
    said, one that begins before an index."""
    log = [0, *leader]
    prev = draw(st.integers(1, (before or len(log) + 1) - 1))
    end = draw(st.integers(prev, len(log)))
    entries = tuple(Entry(index, log[index - 1], b"\x00") for index in range(prev + 1, end + 1))
    return AppendRequest(term, prev, log[prev - 1], draw(st.integers(0, len(log))), entries)


@st.composite
def logs_and_request(draw: st.DrawFn) -> tuple[list[int], list[int], AppendRequest]:
    leader = draw(terms)
    return draw(terms), leader, draw(requests_of(leader))


@given(logs_and_request())
def test_what_matches_is_never_truncated(case: tuple[list[int], list[int], AppendRequest]) -> None:
    follower, _, request = case
    log = Log(follower)
    before = list(log.terms)
    fit = fit_append(request, log=log, commit_index=1)
    if isinstance(fit, Conflict):
        assert log.term_at(request.prev_log_index) != request.prev_log_term
        return
    log.take(fit)
    held = {entry.index: entry.term for entry in request.entries}
    first_difference = min(
        (i for i, term in held.items() if i <= len(before) and before[i - 1] != term),
        default=len(before) + 1,
    )
    assert log.terms[: first_difference - 1] == before[: first_difference - 1]
    assert all(log.term_at(index) == term for index, term in held.items())
    assert fit.match_index == request.prev_log_index + len(request.entries)
    if first_difference > len(before):
        assert fit.truncate_from is None
        assert len(log.terms) >= len(before)


@given(st.data())
def test_late_repeated_and_reordered_requests_never_shorten_the_log(data: st.DataObject) -> None:
    leader = data.draw(terms)
    sent = data.draw(st.lists(requests_of(leader), min_size=1, max_size=8))
    log = Log([])
    longest, commit = 1, 1
    for request in data.draw(st.permutations(sent + sent[:3])):
        fit = fit_append(request, log=log, commit_index=commit)
        if isinstance(fit, Accepted):
            log.take(fit)
            commit = committed_by(request, fit.match_index, commit)
        assert len(log.terms) >= longest
        assert commit <= len(log.terms)
        longest = len(log.terms)
        assert log.terms == [0, *leader][: len(log.terms)]


@given(logs_and_request(), st.integers(1, 14))
def test_only_what_was_verified_is_acknowledged_or_committed(
    case: tuple[list[int], list[int], AppendRequest], commit: int
) -> None:
    follower, leader, request = case
    log = Log(follower)
    commit = min(commit, len(log.terms))
    try:
        fit = fit_append(request, log=log, commit_index=commit)
    except PeerError:
        assert log.terms[:commit] != [0, *leader][:commit]
        return
    if isinstance(fit, Conflict):
        return
    log.take(fit)
    verified = log.terms[request.prev_log_index - 1 : fit.match_index]
    assert verified == [request.prev_log_term, *(entry.term for entry in request.entries)]
    assert committed_by(request, fit.match_index, commit) <= max(commit, fit.match_index)
    assert fit.truncate_from is None or fit.truncate_from > commit


@given(terms, terms)
def test_a_hint_skips_a_term_and_never_what_matches(follower: list[int], leader: list[int]) -> None:
    """Following the hints, a leader finds the last entry in common in as many refusals as the
    follower's log has terms, and one for its length."""
    log, ours = Log(follower), [0, *leader]
    next_index, refusals = len(ours) + 1, 0
    while True:
        prev = next_index - 1
        request = AppendRequest(9, prev, ours[prev - 1], 1, ())
        fit = fit_append(request, log=log, commit_index=1)
        if isinstance(fit, Accepted):
            break
        refusals += 1
        assert fit.hint_index >= 2
        next_index = max(2, min(prev, fit.hint_index))
    assert refusals <= len(set(follower)) + 1
    assert log.terms[prev - 1] == ours[prev - 1]


@given(logs_and_request())
def test_a_correct_leaders_requests_are_well_shaped(
    case: tuple[list[int], list[int], AppendRequest],
) -> None:
    check_shape(case[2])


@given(terms, terms, st.sampled_from([None, "b", "c"]))
def test_of_two_logs_the_newer_gets_the_vote(
    mine: list[int], theirs: list[int], voted_for: str | None
) -> None:
    def asks(log: list[int]) -> VoteRequest:
        return VoteRequest(9, len(log) + 1, log[-1] if log else 0)

    def vote(voter: list[int], candidate: list[int]) -> bool:
        return grants_vote(
            request=asks(candidate), candidate="b", term=9, voted_for=voted_for, log=Log(voter)
        )

    if voted_for == "c":
        assert not vote(mine, theirs)
        return
    assert vote(mine, theirs) or vote(theirs, mine)
    if vote(mine, theirs) and vote(theirs, mine):
        assert (len(mine), mine[-1:]) == (len(theirs), theirs[-1:])


replies = st.builds(
    AppendReply,
    term=st.just(9),
    request_term=st.just(9),
    success=st.booleans(),
    match_index=st.integers(0, 30),
    hint_index=st.integers(0, 40),
    prev_log_index=st.integers(0, 40),
    wall_clock_ms=st.just(0),
)
events = st.one_of(replies, st.integers(0, 5), st.sampled_from(["restart", "heartbeat"]))


@given(st.integers(2, 40), st.lists(events, max_size=40))
def test_progress_moves_back_for_a_verified_refusal_only(
    next_index: int, happened: list[AppendReply | int | str]
) -> None:
    """Whatever a follower answers, however late."""
    progress = Progress(next_index)
    for event in happened:
        match, following, probing = progress.match_index, progress.next_index, progress.probing
        if event == "restart":
            progress.restart()
            assert progress.next_index == (following if probing else match + 1)
        elif event == "heartbeat":
            progress.probe_again()
            assert progress.next_index == following
        elif isinstance(event, int):
            if progress.may_send_entries():
                progress.sent(progress.next_index - 1 + event)
                assert progress.next_index == (following if probing else following + event)
        elif isinstance(event, AppendReply):
            try:
                more = progress.acknowledged(event)
            except PeerError:
                assert (progress.match_index, progress.next_index) == (match, following)
                continue
            if progress.next_index < following:
                assert not event.success
                assert more
                assert event.prev_log_index > match
                assert not probing or event.prev_log_index == following - 1
            if not event.success:
                assert progress.match_index == match
            else:
                assert progress.match_index == max(match, event.match_index)
        assert progress.next_index > max(progress.match_index, 1)
        assert progress.match_index >= match
        assert 0 <= progress.inflight <= MAX_INFLIGHT_APPENDS


# -- logs that begin later than at their first entry -----------------------------------------------


class Compacted(Log):
    """The same log without what lies before `base`."""

    def __init__(self, terms: list[int], base: int) -> None:
        super().__init__(terms)
        self.base = base

    def first_index(self) -> int:
        return self.base

    def term_at(self, index: int) -> int | None:
        return None if index < self.base else super().term_at(index)

    def take(self, fit: Accepted) -> None:
        assert fit.truncate_from is None or fit.truncate_from > self.base
        super().take(fit)


@st.composite
def compacted_logs(draw: st.DrawFn) -> tuple[list[int], int, int, list[int]]:
    """(a follower's terms, its base, its commit index, the terms of a leader that holds what is
    committed)."""
    follower = draw(terms)
    commit = draw(st.integers(1, 1 + len(follower)))
    base = draw(st.integers(1, commit))
    committed = follower[: commit - 1]
    lowest = committed[-1] if committed else 1
    leader = committed + sorted(draw(st.lists(st.integers(lowest, 8), max_size=6)))
    return follower, base, commit, leader


@given(compacted_logs(), st.data())
def test_a_compacted_log_answers_as_the_whole_one_would(
    case: tuple[list[int], int, int, list[int]], data: st.DataObject
) -> None:
    follower, base, commit, leader = case
    request = data.draw(requests_of(leader))
    whole = fit_append(request, log=Log(follower), commit_index=commit)
    fit = fit_append(request, log=Compacted(follower, base), commit_index=commit)
    if isinstance(whole, Conflict):
        assert fit == Conflict(max(whole.hint_index, base + 1))
    else:
        assert fit == replace(whole, match_index=max(whole.match_index, base))


@given(compacted_logs(), st.data())
def test_whatever_a_peer_says_no_log_is_cut_at_its_base_or_before(
    case: tuple[list[int], int, int, list[int]], data: st.DataObject
) -> None:
    follower, base, commit, _ = case
    request = data.draw(requests_of(data.draw(terms)))
    log = Compacted(follower, base)
    try:
        fit = fit_append(request, log=log, commit_index=commit)
    except PeerError:
        return
    if isinstance(fit, Conflict):
        assert base < fit.hint_index <= log.last_index() + 1
        return
    assert fit.truncate_from is None or fit.truncate_from > commit
    assert all(entry.index > base for entry in fit.append)
    before = log.terms[:commit]
    log.take(fit)
    assert log.terms[:commit] == before


@given(st.lists(st.integers(1, 6), min_size=1, max_size=12).map(sorted), st.data())
def test_a_late_request_from_before_the_base_moves_nothing_of_what_came_since(
    leader: list[int], data: st.DataObject
) -> None:
    """Sent before the follower compacted what it brings."""
    base = data.draw(st.integers(2, 1 + len(leader)))
    request = data.draw(requests_of(leader, before=base))
    log = Compacted(leader, base)
    fit = fit_append(request, log=log, commit_index=base)
    assert fit == Accepted(max(base, request.prev_log_index + len(request.entries)), None, ())


@given(compacted_logs())
def test_following_the_hints_ends_in_common_or_before_the_leaders_own_base(
    case: tuple[list[int], int, int, list[int]],
) -> None:
    """The leader has compacted too: it finds the last entry in common, or offers a snapshot."""
    follower, base, commit, leader = case
    log, ours = Compacted(follower, base), [0, *leader]
    progress = Progress(len(ours) + 1)
    for _ in range(len(follower) + 3):
        if progress.next_index <= commit:
            return  # whatever the leader's base, the follower needs no snapshot for this
        prev = progress.next_index - 1
        request = AppendRequest(9, prev, ours[prev - 1], 1, ())
        fit = fit_append(request, log=log, commit_index=commit)
        if isinstance(fit, Accepted):
            assert log.term_at(prev) == ours[prev - 1]
            return
        answer = AppendReply(9, 9, False, 0, fit.hint_index, prev, 0)
        assert progress.acknowledged(answer)
        assert progress.next_index > base
    raise AssertionError("the hints go in circles")
