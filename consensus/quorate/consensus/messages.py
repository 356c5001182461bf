"""What replicas say to each other, as frozen values.

Owns the Raft messages and the forwarding of proposals. Does not own their encoding (`wire`) nor
what is done about them (`rules`, `engine`, `replica`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the log. `command` begins with the engine's one-byte command type."""

    index: int
    term: int
    command: bytes


@dataclass(frozen=True, slots=True)
class VoteRequest:
    """RequestVote (Raft, Figure 2). The candidate is whoever the transport says has sent it."""

    term: int
    last_log_index: int
    last_log_term: int


@dataclass(frozen=True, slots=True)
class VoteReply:
    """`voted_term` is the term of the request that this answers: votes of an older candidacy do
    not count towards a newer one."""

    term: int
    granted: bool
    voted_term: int


@dataclass(frozen=True, slots=True)
class AppendRequest:
    """AppendEntries (Raft, Figure 2)."""

    term: int
    prev_log_index: int
    prev_log_term: int
    commit_index: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class AppendReply:
    """The answer to an AppendRequest.

    term: the replier's, so that a deposed leader learns of it.
    request_term: the request's; a reply to another leadership's request is not counted.
    match_index: on success, the last entry that the request verified; durable before this leaves.
    hint_index: on failure, the next index that the leader should try (Raft thesis, 4.2.1).
    prev_log_index: the request's, so that a late refusal is told from a new one.
    wall_clock_ms: the replier's wall clock, for ledger time.
    """

    term: int
    request_term: int
    success: bool
    match_index: int
    hint_index: int
    prev_log_index: int
    wall_clock_ms: int


@dataclass(frozen=True, slots=True)
class Propose:
    """A follower passes a proposal on. `key` names it for the refusal, nothing else."""

    key: bytes
    payload: bytes


class Refusal(IntEnum):
    """Why the leader did not take a forwarded proposal."""

    NOT_LEADER = 1
    BUSY = 2


@dataclass(frozen=True, slots=True)
class ProposeReply:
    """Sent for a refusal only: what was taken shows itself when it is applied."""

    key: bytes
    refusal: Refusal


Message = VoteRequest | VoteReply | AppendRequest | AppendReply | Propose | ProposeReply

Outbox = Callable[[str, Message], None]
"""Where messages go: (peer id, message). Nothing leaves before the turn is durable."""
