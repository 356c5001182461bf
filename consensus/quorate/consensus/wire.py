"""Messages between replicas as protobuf, and back, with every limit checked.

Owns the encoding of `messages` in `quorate.v1.PeerMessage`. Other kinds of PeerMessage (authority)
pass through the same streams and are not this module's.
"""

from __future__ import annotations

from quorate.consensus import snapshot_wire
from quorate.consensus.errors import PeerError
from quorate.consensus.limits import (
    MAX_APPEND_ENTRIES,
    MAX_COMMAND_BYTES,
    MAX_INDEX,
    MAX_KEY_BYTES,
    MAX_TOKEN_CHARACTERS,
    MAX_WALL_CLOCK_MS,
)
from quorate.consensus.messages import (
    AppendReply,
    AppendRequest,
    Entry,
    Message,
    PreVoteReply,
    PreVoteRequest,
    Propose,
    ProposeReply,
    Refusal,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from quorate.v1 import peer_pb2 as pb


def encode(message: Message) -> pb.PeerMessage:
    """The protobuf form of one message."""
    match message:
        case AppendRequest():
            return pb.PeerMessage(append_request=_append_request(message))
        case AppendReply():
            return pb.PeerMessage(
                append_reply=pb.AppendReply(
                    term=message.term,
                    request_term=message.request_term,
                    success=message.success,
                    match_index=message.match_index,
                    hint_index=message.hint_index,
                    prev_log_index=message.prev_log_index,
                    wall_clock_ms=message.wall_clock_ms,
                    probation=message.probation,
                    readmitted=message.readmitted,
                )
            )
        case PreVoteRequest():
            return pb.PeerMessage(
                pre_vote_request=pb.PreVoteRequest(
                    term=message.term,
                    last_log_index=message.last_log_index,
                    last_log_term=message.last_log_term,
                )
            )
        case PreVoteReply():
            return pb.PeerMessage(
                pre_vote_reply=pb.PreVoteReply(
                    term=message.term, granted=message.granted, asked_term=message.asked_term
                )
            )
        case TimeoutNow():
            return pb.PeerMessage(timeout_now=pb.TimeoutNow(term=message.term))
        case VoteRequest():
            return pb.PeerMessage(
                vote_request=pb.VoteRequest(
                    term=message.term,
                    last_log_index=message.last_log_index,
                    last_log_term=message.last_log_term,
                    transfer=message.transfer,
                )
            )
        case VoteReply():
            return pb.PeerMessage(
                vote_reply=pb.VoteReply(
                    term=message.term, granted=message.granted, voted_term=message.voted_term
                )
            )
        case Propose():
            return pb.PeerMessage(propose=pb.Propose(id=message.key, payload=message.payload))
        case ProposeReply():
            return pb.PeerMessage(
                propose_reply=pb.ProposeReply(id=message.key, refusal=message.refusal)
            )
        case _:
            return snapshot_wire.encode(message)


def _append_request(message: AppendRequest) -> pb.AppendRequest:
    request = pb.AppendRequest(
        term=message.term,
        prev_log_index=message.prev_log_index,
        prev_log_term=message.prev_log_term,
        commit_index=message.commit_index,
    )
    add = request.entries.add
    for entry in message.entries:
        add(index=entry.index, term=entry.term, command=entry.command)
    return request


def decode(message: pb.PeerMessage) -> Message | None:
    """The message, or None for a kind that is not consensus's. Raises PeerError when a limit or
    rule of the format is broken."""
    match message.WhichOneof("body"):
        case "append_request":
            return _read_append_request(message.append_request)
        case "append_reply":
            return _read_append_reply(message.append_reply)
        case "vote_request":
            vote = message.vote_request
            _check_indexes(vote.term, vote.last_log_index, vote.last_log_term)
            return VoteRequest(vote.term, vote.last_log_index, vote.last_log_term, vote.transfer)
        case "vote_reply":
            answer = message.vote_reply
            _check_indexes(answer.term, answer.voted_term)
            return VoteReply(answer.term, answer.granted, answer.voted_term)
        case "pre_vote_request" | "pre_vote_reply" | "timeout_now":
            return _read_election(message)
        case "propose":
            propose = message.propose
            if len(propose.id) > MAX_KEY_BYTES or len(propose.payload) >= MAX_COMMAND_BYTES - 16:
                raise PeerError("a proposal beyond the limits")
            return Propose(propose.id, propose.payload)
        case "propose_reply":
            return _read_propose_reply(message.propose_reply)
        case _:
            return snapshot_wire.decode(message)


def _read_election(message: pb.PeerMessage) -> Message:
    match message.WhichOneof("body"):
        case "pre_vote_request":
            asked = message.pre_vote_request
            _check_indexes(asked.term, asked.last_log_index, asked.last_log_term)
            return PreVoteRequest(asked.term, asked.last_log_index, asked.last_log_term)
        case "pre_vote_reply":
            reply = message.pre_vote_reply
            _check_indexes(reply.term, reply.asked_term)
            return PreVoteReply(reply.term, reply.granted, reply.asked_term)
        case _:
            _check_indexes(message.timeout_now.term)
            return TimeoutNow(message.timeout_now.term)


def _read_append_reply(reply: pb.AppendReply) -> AppendReply:
    _check_indexes(
        reply.term,
        reply.request_term,
        reply.match_index,
        reply.hint_index,
        reply.prev_log_index,
    )
    if not 0 <= reply.wall_clock_ms <= MAX_WALL_CLOCK_MS:
        raise PeerError("a wall clock beyond the limits")
    if len(reply.probation) > MAX_TOKEN_CHARACTERS:
        raise PeerError("a token of probation beyond the limits")
    if reply.readmitted and not reply.probation:
        raise PeerError("readmitted, and by no token")
    return AppendReply(
        term=reply.term,
        request_term=reply.request_term,
        success=reply.success,
        match_index=reply.match_index,
        hint_index=reply.hint_index,
        prev_log_index=reply.prev_log_index,
        wall_clock_ms=reply.wall_clock_ms,
        probation=reply.probation,
        readmitted=reply.readmitted,
    )


def _read_propose_reply(reply: pb.ProposeReply) -> ProposeReply:
    if len(reply.id) > MAX_KEY_BYTES:
        raise PeerError("a refusal of a proposal beyond the limits")
    try:
        return ProposeReply(reply.id, Refusal(reply.refusal))
    except ValueError:
        raise PeerError("a refusal of no known kind") from None


def _read_append_request(request: pb.AppendRequest) -> AppendRequest:
    if len(request.entries) > MAX_APPEND_ENTRIES:
        raise PeerError("an append of too many entries")
    _check_indexes(
        request.term, request.prev_log_index, request.prev_log_term, request.commit_index
    )
    entries = tuple(Entry(entry.index, entry.term, entry.command) for entry in request.entries)
    for entry in entries:
        _check_indexes(entry.index, entry.term)
        if not 0 < len(entry.command) <= MAX_COMMAND_BYTES:
            raise PeerError("an entry beyond the limits")
    return AppendRequest(
        term=request.term,
        prev_log_index=request.prev_log_index,
        prev_log_term=request.prev_log_term,
        commit_index=request.commit_index,
        entries=entries,
    )


def _check_indexes(*values: int) -> None:
    if any(value > MAX_INDEX for value in values):
        raise PeerError("an index or term beyond the limits")
