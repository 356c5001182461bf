"""Messages between replicas as protobuf, and back, with every limit checked.

Owns the encoding of `messages` in `quorate.v1.PeerMessage`. Other kinds of PeerMessage (authority)
pass through the same streams and are not this module's.
"""

from __future__ import annotations

from quorate.consensus.errors import PeerError
from quorate.consensus.limits import (
    MAX_APPEND_ENTRIES,
    MAX_COMMAND_BYTES,
    MAX_KEY_BYTES,
    MAX_WALL_CLOCK_MS,
)
from quorate.consensus.messages import (
    AppendReply,
    AppendRequest,
    Entry,
    Message,
    Propose,
    ProposeReply,
    Refusal,
    VoteReply,
    VoteRequest,
)
from quorate.v1 import peer_pb2 as pb

_MAX_INDEX = 2**63 - 1


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
                )
            )
        case VoteRequest():
            return pb.PeerMessage(
                vote_request=pb.VoteRequest(
                    term=message.term,
                    last_log_index=message.last_log_index,
                    last_log_term=message.last_log_term,
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
            reply = message.append_reply
            _check_indexes(
                reply.term,
                reply.request_term,
                reply.match_index,
                reply.hint_index,
                reply.prev_log_index,
            )
            if not 0 <= reply.wall_clock_ms <= MAX_WALL_CLOCK_MS:
                raise PeerError("a wall clock beyond the limits")
            return AppendReply(
                term=reply.term,
                request_term=reply.request_term,
                success=reply.success,
                match_index=reply.match_index,
                hint_index=reply.hint_index,
                prev_log_index=reply.prev_log_index,
                wall_clock_ms=reply.wall_clock_ms,
            )
        case "vote_request":
            vote = message.vote_request
            _check_indexes(vote.term, vote.last_log_index, vote.last_log_term)
            return VoteRequest(vote.term, vote.last_log_index, vote.last_log_term)
        case "vote_reply":
            answer = message.vote_reply
            _check_indexes(answer.term, answer.voted_term)
            return VoteReply(answer.term, answer.granted, answer.voted_term)
        case "propose":
            propose = message.propose
            if len(propose.id) > MAX_KEY_BYTES or len(propose.payload) >= MAX_COMMAND_BYTES - 16:
                raise PeerError("a proposal beyond the limits")
            return Propose(propose.id, propose.payload)
        case "propose_reply":
            return _read_propose_reply(message.propose_reply)
        case _:
            return None


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
    if any(value > _MAX_INDEX for value in values):
        raise PeerError("an index or term beyond the limits")
