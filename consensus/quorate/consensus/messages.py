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
class PreVoteRequest:
    """Would the receiver vote for the sender in the term after `term` (Raft thesis, 9.6)? Changes
    nothing on either side."""

    term: int
    last_log_index: int
    last_log_term: int


@dataclass(frozen=True, slots=True)
class PreVoteReply:
    """term: the replier's own. asked_term: the request's."""

    term: int
    granted: bool
    asked_term: int


@dataclass(frozen=True, slots=True)
class VoteRequest:
    """RequestVote (Raft, Figure 2). The candidate is whoever the transport says has sent it.

    transfer: the leader itself has asked for this election, so that having heard it of late is no
    reason to refuse (Raft thesis, 3.10 and 4.2.3).
    """

    term: int
    last_log_index: int
    last_log_term: int
    transfer: bool = False


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
    match_index: on success, the last entry that the request verified, or the base of the replier's
        log when that lies behind it; durable before this leaves.
    hint_index: on failure, the next index that the leader should try (Raft thesis, 4.2.1).
    prev_log_index: the request's, so that a late refusal is told from a new one.
    wall_clock_ms: the replier's wall clock, for ledger time.
    probation: the replier's token while it is on probation (see `Replica`), and on, as long as the
        configuration in force names it; else empty.
    readmitted: whether that probation is over, for the replier knows that this configuration is
        committed. Nothing that it sent before it forgot can say so.
    """

    term: int
    request_term: int
    success: bool
    match_index: int
    hint_index: int
    prev_log_index: int
    wall_clock_ms: int
    probation: str = ""
    readmitted: bool = False


@dataclass(frozen=True, slots=True)
class TimeoutNow:
    """The leader asks the receiver to campaign at once (Raft thesis, 3.10)."""

    term: int


@dataclass(frozen=True, slots=True)
class SnapshotOffer:
    """What a leader sends in the place of appends to a follower whose next entry is compacted.

    index, index_term: the entry up to which the snapshot's state reflects the log.
    configuration: in force at `index`, encoded. ledger_size: entries of the ledger at `index`.
    checkpoint: the sender's signed note about that ledger.
    state_count, state_digest: of the records of the state; see `quorate.storage`.
    """

    term: int
    index: int
    index_term: int
    configuration: bytes
    ledger_size: int
    checkpoint: str
    state_count: int
    state_digest: bytes


@dataclass(frozen=True, slots=True)
class SnapshotPull:
    """The follower asks for the next part of the snapshot at `index`.

    state_after: the last key of the state that it holds, empty for the first page.
    ledger_from: the first ledger entry that it lacks, when `is_ledger`.
    """

    term: int
    index: int
    is_ledger: bool
    state_after: bytes
    ledger_from: int


@dataclass(frozen=True, slots=True)
class SnapshotChunk:
    """One part of the snapshot at `index`, answering the pull with the same position.

    pairs: of the state, in key order; entries: of the ledger, from `ledger_from` on.
    is_last: nothing of this kind follows.
    """

    term: int
    index: int
    is_ledger: bool
    state_after: bytes
    ledger_from: int
    pairs: tuple[tuple[bytes, bytes], ...]
    entries: tuple[bytes, ...]
    is_last: bool


SnapshotMessage = SnapshotOffer | SnapshotPull | SnapshotChunk


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


RaftMessage = (
    PreVoteRequest
    | PreVoteReply
    | VoteRequest
    | VoteReply
    | AppendRequest
    | AppendReply
    | TimeoutNow
    | SnapshotMessage
)
Message = RaftMessage | Propose | ProposeReply

Outbox = Callable[[str, Message], None]
"""Where messages go: (peer id, message). Nothing leaves before the turn is durable."""
