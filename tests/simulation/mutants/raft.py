"""Breaks of Raft's rules: elections, the log, commits, proposals, compaction."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from tests.simulation.mutants.mutant import Patch, mutant

from quorate.consensus import elections, engine, followers, rules
from quorate.consensus.engine import Engine
from quorate.consensus.limits import COMPACTION_STEP
from quorate.consensus.messages import AppendReply, AppendRequest, VoteReply
from quorate.consensus.replica import Replica
from quorate.consensus.rules import Accepted, Conflict
from quorate.consensus.settings import RaftSettings
from quorate.testing.simulation import federation

_SAFETY = ("quorum", "one vote", "majority", "log", "leader", "committed", "held", "acknowledged")


def _restless(patch: Patch) -> None:
    """Elections are quicker than the network's stragglers: messages outlive leaderships."""
    quick = partial(RaftSettings, heartbeat_ms=15, election_min_ms=50, election_max_ms=150)
    patch.setattr(federation, "RaftSettings", quick)


# -- elections -------------------------------------------------------------------------------------


@mutant("short", 40)
def votes_for_everybody(patch: Patch) -> None:
    """A voter votes for whoever asks, whomever it has voted for in that term."""
    original = rules.grants_vote

    def grants(*, voted_for: str | None, **asked: Any) -> bool:
        return original(voted_for=None, **asked)

    patch.setattr(engine, "grants_vote", grants)


@mutant("short", 40)
def votes_for_any_log(patch: Patch) -> None:
    """A voter does not look at the candidate's log."""
    for module in (rules, elections):
        patch.setattr(module, "is_up_to_date", lambda *_: True)


@mutant("short", 40, "the votes of a majority")
def elections_by_a_minority(patch: Patch) -> None:
    """One vote fewer than a majority elects."""
    for module in (engine, elections):
        patch.setattr(module, "has_majority", lambda count, voters: count >= voters // 2)


@mutant("rough", 100, "the votes of a majority", "election safety")
def votes_counted_per_message(patch: Patch) -> None:
    """A vote counts as often as it arrives."""

    def handle(self: Any, peer: str, reply: VoteReply) -> None:
        if not reply.granted or reply.voted_term != self.term or self.role != engine.CANDIDATE:
            return
        if peer in self.other_voters:
            self._SyncObj__votesCount += 1
            if rules.has_majority(self._SyncObj__votesCount, len(self.other_voters) + 1):
                self._SyncObj__onBecomeLeader()

    patch.setattr(Engine, "_on_vote_reply", handle)


@mutant("short", 30, *_SAFETY)
def votes_of_an_older_election(patch: Patch) -> None:
    """A vote counts for the present election, whichever it was given in; leaders change often."""
    _restless(patch)
    original = Engine._on_vote_reply

    def handle(self: Any, peer: str, reply: VoteReply) -> None:
        original(self, peer, replace(reply, voted_term=self.term))

    patch.setattr(Engine, "_on_vote_reply", handle)


# -- the log ---------------------------------------------------------------------------------------


@mutant("short", 20)
def truncation_without_conflict(patch: Patch) -> None:
    """What follows an append's entries is removed, whether it conflicts or not."""

    def fit(request: AppendRequest, *, log: Any, commit_index: int) -> Accepted | Conflict:
        found = rules.fit_append(request, log=log, commit_index=commit_index)
        if isinstance(found, Conflict) or found.truncate_from or found.append:
            return found
        beyond = found.match_index + 1
        return replace(found, truncate_from=beyond if beyond <= log.last_index() else None)

    patch.setattr(engine, "fit_append", fit)


@mutant("short", 3, "leader append-only", quick=True)
def leaders_that_take_something_back(patch: Patch) -> None:
    """A leader takes the last entry of its log back in its next turn, if it is not committed."""
    original, had = Engine.tick, WeakKeyDictionary[Any, tuple[int, int]]()

    def tick(self: Any) -> None:
        last = self.journal.last_index()
        if self.is_leader and self.commit_index < last and had.get(self) == (self.term, last):
            self.journal.truncate_from(last)
        original(self)
        if self.is_leader:
            had[self] = self.term, self.journal.last_index()

    patch.setattr(Engine, "tick", tick)


@mutant("short", 3, "leader append-only", quick=True)
def leaders_that_write_again_what_they_have(patch: Patch) -> None:
    """A leader removes the last entry of its log and appends the same."""
    original = Engine.tick

    def tick(self: Any) -> None:
        last = self.journal.last_index()
        if self.is_leader and self.commit_index < last and last > self.journal.first_index():
            command, _, term = self.journal[-1]
            self.journal.truncate_from(last)
            self.journal.add(command, last, term)
        original(self)

    patch.setattr(Engine, "tick", tick)


@mutant("short", 20)
def conflicting_entries_that_stay(patch: Patch) -> None:
    """An entry of another term is kept, and what follows is appended."""

    def fit(request: AppendRequest, *, log: Any, commit_index: int) -> Accepted | Conflict:
        found = rules.fit_append(request, log=log, commit_index=commit_index)
        if isinstance(found, Conflict) or found.truncate_from is None:
            return found
        missing = tuple(entry for entry in found.append if entry.index > log.last_index())
        return replace(found, truncate_from=None, append=missing)

    patch.setattr(engine, "fit_append", fit)


@mutant("partitions", 60)
def whatever_precedes_is_accepted(patch: Patch) -> None:
    """The term of the entry before an append's is not compared."""

    def fit(request: AppendRequest, *, log: Any, commit_index: int) -> Accepted | Conflict:
        held = log.term_at(request.prev_log_index)
        if held is not None:
            request = replace(request, prev_log_term=held)
        return rules.fit_append(request, log=log, commit_index=commit_index)

    patch.setattr(engine, "fit_append", fit)


@mutant("short", 20)
def the_log_goes_before_it_is_applied(patch: Patch) -> None:
    """Compaction counts from the end of the log, not from what is applied."""

    def compact(self: Any, keep: int, floor: int) -> None:
        below = self.journal.last_index() - keep
        if below - self.journal.first_index() >= min(keep, COMPACTION_STEP):
            self.journal.compact(below)

    patch.setattr(Engine, "compact", compact)


# -- commits ---------------------------------------------------------------------------------------


@mutant("short", 30, *_SAFETY)
def stale_acknowledgements_count(patch: Patch) -> None:
    """An acknowledgement of an older leadership counts for the present one; leaders change
    often."""
    _restless(patch)
    original = Engine._on_append_reply

    def handle(self: Any, peer: str, reply: AppendReply) -> None:
        match = min(reply.match_index, self.journal.last_index())
        original(self, peer, replace(reply, request_term=self.term, match_index=match))

    patch.setattr(Engine, "_on_append_reply", handle)


@mutant("short", 40)
def an_unverified_tail_is_committed(patch: Patch) -> None:
    """A follower commits as far as its leader says and its log goes, verified or not."""
    original = Engine._on_append_request

    def handle(self: Any, peer: str, request: AppendRequest) -> None:
        original(self, peer, request)
        if request.term == self.term:
            claimed = min(request.commit_index, self.journal.last_index())
            self._SyncObj__raftCommitIndex = max(self.commit_index, claimed)

    patch.setattr(Engine, "_on_append_request", handle)


@mutant("short", 16, "a quorum", quick=True)
def commits_by_a_minority(patch: Patch) -> None:
    """An entry that one fewer than a majority holds is committed."""
    original = Engine.tick

    def tick(self: Any) -> None:
        matches = self._SyncObj__raftMatchIndex
        if self.is_leader and self._SyncObj__otherNodes:
            nearest = max(self._SyncObj__otherNodes, key=lambda node: (matches[node], str(node.id)))
            others = [node for node in self._SyncObj__otherNodes if node != nearest]
            if others:
                ahead = max(others, key=lambda node: (matches[node], str(node.id)))
                matches[ahead] = max(matches[ahead], matches[nearest])
        original(self)

    patch.setattr(Engine, "tick", tick)


@mutant("short", 20, "of its own term")
def entries_of_older_terms_are_counted(patch: Patch) -> None:
    """A leader commits an entry of an older term because a majority holds it (Raft 5.4.2, Figure
    8); it sends one entry at a time."""
    original = Engine._SyncObj__getEntries

    def entries(self: Any, first: int, count: int | None = None, _max: int | None = None) -> Any:
        found = original(self, first, count)
        return [(found[0][0], first, self.term)] if found and count == 1 else found

    patch.setattr(Engine, "_SyncObj__getEntries", entries)
    patch.setattr(followers, "MAX_APPEND_ENTRIES", 1)


# -- proposals -------------------------------------------------------------------------------------


@mutant("short", 20, "what was refused for good")
def refusals_of_what_is_in_a_log(patch: Patch) -> None:
    """A proposal that was given to a leader is said to be refused for good."""
    original = Replica.forget

    def forget(self: Replica, key: bytes) -> bool:
        original(self, key)
        return False

    patch.setattr(Replica, "forget", forget)


MUTANTS = (
    votes_for_everybody,
    votes_for_any_log,
    elections_by_a_minority,
    votes_counted_per_message,
    votes_of_an_older_election,
    truncation_without_conflict,
    leaders_that_take_something_back,
    leaders_that_write_again_what_they_have,
    conflicting_entries_that_stay,
    whatever_precedes_is_accepted,
    the_log_goes_before_it_is_applied,
    stale_acknowledgements_count,
    an_unverified_tail_is_committed,
    commits_by_a_minority,
    entries_of_older_terms_are_counted,
    refusals_of_what_is_in_a_log,
)
