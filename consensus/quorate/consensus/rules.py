"""Raft's message rules, pure: votes, appends, acknowledgements.

Owns what a replica answers and what it may change on each message, written from the Raft paper
(Ongaro and Ousterhout, 2014, Figure 2) and thesis (Ongaro, 2014, chapters 3 and 4). Does not own
state, storage, timers or sending: `engine` calls these functions and does what they say.

The engine's own handlers are not used; docs/adr/0003 says which of their hazards each rule removes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from quorate.consensus.configuration import CONFIGURATION, Configuration
from quorate.consensus.errors import PeerError
from quorate.consensus.limits import MAX_INFLIGHT_APPENDS
from quorate.consensus.messages import AppendReply, AppendRequest, Entry, VoteRequest

FIRST_INDEX: Final = 1
"""The entry that every log begins with: the same everywhere, so never in doubt."""


class LogView(Protocol):
    """The log, as the rules read it."""

    def first_index(self) -> int: ...

    def last_index(self) -> int: ...

    def term_at(self, index: int) -> int | None:
        """The term of the entry at `index`, or None when there is none."""
        ...


def grants_vote(
    *, request: VoteRequest, candidate: str, term: int, voted_for: str | None, log: LogView
) -> bool:
    """Raft 5.2 and 5.4.1: whether `candidate` gets this replica's vote in `request.term`.

    `term` is this replica's, already raised to the request's when that was higher. A repeated
    request of the same candidate is granted again: the first answer may have been lost.
    """
    if request.term != term or voted_for not in (None, candidate):
        return False
    return is_up_to_date(request.last_log_term, request.last_log_index, log)


def is_up_to_date(last_term: int, last_index: int, log: LogView) -> bool:
    """Raft 5.4.1: whether a log that ends so is at least as new as this one."""
    own_index = log.last_index()
    return (last_term, last_index) >= (log.term_at(own_index) or 0, own_index)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The request's entries fit. `match_index` is the last entry that it verified, or the base of
    the log when that lies behind them: nothing behind it may be committed or acknowledged on the
    strength of this request."""

    match_index: int
    truncate_from: int | None
    append: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Conflict:
    """The log does not hold the request's previous entry; try again from `hint_index`."""

    hint_index: int


def check_shape(request: AppendRequest) -> None:
    """Raises PeerError unless the request's entries follow each other, in index and in term."""
    index, term = request.prev_log_index, request.prev_log_term
    if index < 1:
        raise PeerError("an append that begins before the log")
    for entry in request.entries:
        if entry.index != index + 1 or entry.term < term:
            raise PeerError("an append whose entries do not follow each other")
        index, term = entry.index, entry.term
    if term > request.term:
        raise PeerError("an append with an entry of a later term than its leader's")


def check_configurations(entries: Sequence[Entry], before: Configuration) -> None:
    """Raises PeerError unless each configuration among the entries is one step from the one before
    it; `before` is the one that the log holds in front of them."""
    for entry in entries:
        if entry.command[:1] != CONFIGURATION:
            continue
        after = Configuration.decode(entry.command[1:])
        if not before.is_one_step_to(after):
            raise PeerError("a configuration that changes more than one voter")
        before = after


def fit_append(request: AppendRequest, *, log: LogView, commit_index: int) -> Accepted | Conflict:
    """Raft 5.3, receiver's steps 2 to 4: where the request's entries meet the log.

    Truncates only from the first entry whose term differs: a late or repeated request never
    shortens the log. Raises PeerError when that entry is committed. What ends before the log's base
    cannot be verified, and is answered with the base: it is committed, so that every leader has it,
    and a leader that has not learns of it.
    """
    base = log.first_index()
    if request.prev_log_index < base:
        request = _behind_the_base(request, log)
        if request.prev_log_index < base:
            return Accepted(base, None, ())
    prev_index = request.prev_log_index
    if prev_index > log.last_index():
        return Conflict(hint_index=log.last_index() + 1)
    if log.term_at(prev_index) != request.prev_log_term:
        if prev_index <= commit_index:
            raise _replaces_committed(request, prev_index)
        return Conflict(hint_index=_first_index_of_term(log, prev_index))
    for position, entry in enumerate(request.entries):
        held = log.term_at(entry.index)
        if held == entry.term:
            continue
        if held is not None and entry.index <= commit_index:
            raise _replaces_committed(request, entry.index)
        return Accepted(
            match_index=request.entries[-1].index,
            truncate_from=None if held is None else entry.index,
            append=tuple(request.entries[position:]),
        )
    return Accepted(prev_index + len(request.entries), None, ())


def _behind_the_base(request: AppendRequest, log: LogView) -> AppendRequest:
    """The request, which begins before this log does, as far as it says anything new. What was
    compacted was committed, so that a leader's entries up to the log's base are the same."""
    base = log.first_index()
    known = base - request.prev_log_index
    if len(request.entries) < known:
        return replace(request, entries=())
    base_term = request.entries[known - 1].term
    if base_term != log.term_at(base):
        raise _replaces_committed(request, base)
    return replace(
        request, prev_log_index=base, prev_log_term=base_term, entries=request.entries[known:]
    )


def _replaces_committed(request: AppendRequest, index: int) -> PeerError:
    return PeerError(f"a leader of term {request.term} would replace committed entry {index}")


def _first_index_of_term(log: LogView, index: int) -> int:
    """The first index whose term is that of the entry at `index`: terms never fall along a log,
    so a binary search finds it. A leader then skips a whole conflicting term at a time."""
    term = log.term_at(index)
    low, high = log.first_index() + 1, index
    while low < high:
        middle = (low + high) // 2
        if log.term_at(middle) == term:
            high = middle
        else:
            low = middle + 1
    return low


def committed_by(request: AppendRequest, match_index: int, commit_index: int) -> int:
    """Raft 5.3, receiver's step 5: the new commit index; at most the last *verified* entry."""
    return max(commit_index, min(request.commit_index, match_index))


def has_majority(count: int, voters: int) -> bool:
    """Whether `count` of `voters` are more than half."""
    return count * 2 > voters


@dataclass(slots=True)
class Progress:
    """What a leader knows of one follower (after etcd's tracker: probe, then replicate).

    match_index: never falls; the follower has everything up to here, durably, in this term.
    next_index: always above match_index and the first entry; never falls but for a refusal of what
        was last tried, and to match_index + 1 when a link was lost.
    probing: one request at a time until one is accepted; else up to MAX_INFLIGHT_APPENDS.
    """

    next_index: int
    match_index: int = 0
    probing: bool = True
    inflight: int = 0

    def may_send_entries(self) -> bool:
        return self.inflight < (1 if self.probing else MAX_INFLIGHT_APPENDS)

    def sent(self, last_index: int) -> None:
        """A request with entries up to `last_index`, or none, was handed to the transport."""
        self.inflight += 1
        if not self.probing:
            self.next_index = last_index + 1

    def restart(self) -> None:
        """The link was lost: what was in flight may be lost with it. A probe keeps its place: it
        has run ahead of nothing."""
        if not self.probing:
            self.next_index = self.match_index + 1
        self.probing = True
        self.inflight = 0

    def probe_again(self) -> None:
        """A heartbeat's time has gone by: a probe may be tried again."""
        if self.probing:
            self.inflight = 0

    def acknowledged(self, reply: AppendReply) -> bool:
        """Takes in a reply of the current term. Returns whether more can be sent at once. Raises
        PeerError when no correct peer can have sent it."""
        if reply.success and reply.match_index < max(reply.prev_log_index, FIRST_INDEX):
            raise PeerError("an acknowledgement of less than what was asked")
        self.inflight = max(0, self.inflight - 1)
        if reply.success:
            self.match_index = max(self.match_index, reply.match_index)
            self.next_index = max(self.next_index, self.match_index + 1)
            self.probing = False
            if self.match_index == self.next_index - 1:
                self.inflight = 0  # nothing is owed, even if answers were lost on the way
            return True
        if reply.prev_log_index <= self.match_index:
            return False  # refused long ago, before what is known by now
        if reply.prev_log_index >= self.next_index:
            return False  # sent over a link that was lost since, or never sent
        if self.probing and reply.prev_log_index != self.next_index - 1:
            return False  # not what was last tried
        tried = reply.prev_log_index
        if tried <= FIRST_INDEX:
            raise PeerError("a refusal of the entry that every log begins with")
        self.probing = True
        self.inflight = 0
        lowest = max(self.match_index, FIRST_INDEX) + 1
        self.next_index = max(lowest, min(tried, reply.hint_index))
        return True
