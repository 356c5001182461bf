"""The encoding of messages: round trips, and nothing beyond the limits or the format gets in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from quorate.consensus.errors import PeerError
from quorate.consensus.limits import (
    MAX_APPEND_ENTRIES,
    MAX_CHECKPOINT_BYTES,
    MAX_CHUNK_ITEMS,
    MAX_COMMAND_BYTES,
    MAX_KEY_BYTES,
    MAX_LEDGER_ENTRY_BYTES,
    MAX_STATE_KEY_BYTES,
    MAX_STATE_VALUE_BYTES,
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
    SnapshotChunk,
    SnapshotOffer,
    SnapshotPull,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from quorate.consensus.wire import decode, encode
from quorate.v1 import peer_pb2 as pb

numbers = st.integers(0, 2**63 - 1)
commands = st.binary(min_size=1, max_size=64)
keys = st.binary(max_size=MAX_KEY_BYTES)
state_keys = st.binary(max_size=24)
pairs = st.dictionaries(st.binary(min_size=1, max_size=8), st.binary(max_size=16), max_size=5)


@st.composite
def offers(draw: st.DrawFn) -> SnapshotOffer:
    term = draw(numbers)
    return SnapshotOffer(
        term=term,
        index=draw(numbers),
        index_term=draw(st.integers(0, term)),
        configuration=draw(commands),
        ledger_size=draw(numbers),
        checkpoint=draw(st.text(max_size=32)),
        state_count=draw(numbers),
        state_digest=draw(st.binary(max_size=64)),
    )


@st.composite
def chunks(draw: st.DrawFn) -> SnapshotChunk:
    is_ledger = draw(st.booleans())
    records = tuple(sorted(draw(pairs).items()))
    before = b"" if not records else draw(st.sampled_from([b"", records[0][0][:-1]]))
    return SnapshotChunk(
        term=draw(numbers),
        index=draw(numbers),
        is_ledger=is_ledger,
        state_after=b"" if is_ledger else before,
        ledger_from=draw(numbers),
        pairs=() if is_ledger else records,
        entries=tuple(draw(st.lists(commands, max_size=5))) if is_ledger else (),
        is_last=draw(st.booleans()),
    )


messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(PreVoteRequest, numbers, numbers, numbers),
    st.builds(PreVoteReply, numbers, st.booleans(), numbers),
    st.builds(TimeoutNow, numbers),
    offers(),
    st.builds(SnapshotPull, numbers, numbers, st.booleans(), state_keys, numbers),
    chunks(),
    st.builds(VoteRequest, numbers, numbers, numbers, st.booleans()),
    st.builds(VoteReply, numbers, st.booleans(), numbers),
    st.builds(
        AppendRequest,
        numbers,
        numbers,
        numbers,
        numbers,
        st.lists(st.builds(Entry, numbers, numbers, commands), max_size=5).map(tuple),
    ),
    st.builds(
        AppendReply,
        numbers,
        numbers,
        st.booleans(),
        numbers,
        numbers,
        numbers,
        st.integers(0, MAX_WALL_CLOCK_MS),
        st.text("0123456789abcdef", max_size=MAX_TOKEN_CHARACTERS),
        st.booleans(),
    ).filter(lambda reply: bool(reply.probation) or not reply.readmitted),
    st.builds(Propose, keys, st.binary(max_size=64)),
    st.builds(ProposeReply, keys, st.sampled_from(Refusal)),
)


@given(messages)
def test_every_message_comes_back_as_it_went(message: Message) -> None:
    assert decode(pb.PeerMessage.FromString(encode(message).SerializeToString())) == message


@given(st.one_of(st.integers(-(2**63), -1), st.integers(MAX_WALL_CLOCK_MS + 1, 2**63 - 1)))
def test_a_wall_clock_that_no_clock_shows_is_refused(wall_clock_ms: int) -> None:
    reply = AppendReply(1, 1, True, 1, 0, 1, wall_clock_ms)
    with pytest.raises(PeerError, match="wall clock"):
        decode(encode(reply))


def check_refused_or_within_limits(data: bytes) -> None:
    try:
        parsed = pb.PeerMessage.FromString(data)
    except DecodeError:
        return
    with contextlib.suppress(PeerError):
        message = decode(parsed)
        assert message is None or decode(encode(message)) == message


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_is_a_message_within_the_limits(data: bytes) -> None:
    check_refused_or_within_limits(data)


@given(messages, st.data())
def test_a_damaged_message_is_refused_or_still_within_the_limits(
    message: Message, data: st.DataObject
) -> None:
    damaged = bytearray(encode(message).SerializeToString() or b"\x00")
    position = data.draw(st.integers(0, len(damaged) - 1))
    damaged[position] ^= data.draw(st.integers(1, 255))
    check_refused_or_within_limits(bytes(damaged))


def entry(size: int) -> pb.LogEntry:
    return pb.LogEntry(index=2, term=1, command=bytes(size))


def offered(**others: Any) -> pb.PeerMessage:
    given = {"term": 3, "index": 5, "index_term": 2, "configuration": b"{}", **others}
    return pb.PeerMessage(snapshot_offer=pb.SnapshotOffer(**given))


def chunk(*records: tuple[bytes, bytes], entries: list[bytes] | None = None, **others: Any) -> Any:
    state = [pb.StateRecord(key=key, value=value) for key, value in records]
    part = pb.SnapshotChunk(term=3, index=5, records=state, entries=entries or [], **others)
    return pb.PeerMessage(snapshot_chunk=part)


BEYOND: list[Callable[[], Any]] = [
    lambda: pb.PeerMessage(vote_request=pb.VoteRequest(term=2**63)),
    lambda: pb.PeerMessage(vote_request=pb.VoteRequest(last_log_index=2**64 - 1)),
    lambda: pb.PeerMessage(vote_reply=pb.VoteReply(voted_term=2**63)),
    lambda: pb.PeerMessage(append_reply=pb.AppendReply(match_index=2**63)),
    lambda: pb.PeerMessage(append_reply=pb.AppendReply(hint_index=2**63)),
    lambda: pb.PeerMessage(append_request=pb.AppendRequest(commit_index=2**63)),
    lambda: pb.PeerMessage(append_request=pb.AppendRequest(entries=[entry(0)])),
    lambda: pb.PeerMessage(append_request=pb.AppendRequest(entries=[entry(MAX_COMMAND_BYTES + 1)])),
    lambda: pb.PeerMessage(
        append_request=pb.AppendRequest(entries=[entry(1)] * (MAX_APPEND_ENTRIES + 1))
    ),
    lambda: pb.PeerMessage(
        append_request=pb.AppendRequest(entries=[pb.LogEntry(index=2**63, term=1, command=b"x")])
    ),
    lambda: pb.PeerMessage(append_reply=pb.AppendReply(probation="f" * (MAX_TOKEN_CHARACTERS + 1))),
    lambda: pb.PeerMessage(append_reply=pb.AppendReply(readmitted=True)),
    lambda: pb.PeerMessage(pre_vote_request=pb.PreVoteRequest(term=2**63)),
    lambda: pb.PeerMessage(pre_vote_request=pb.PreVoteRequest(last_log_index=2**63)),
    lambda: pb.PeerMessage(pre_vote_reply=pb.PreVoteReply(asked_term=2**64 - 1)),
    lambda: pb.PeerMessage(timeout_now=pb.TimeoutNow(term=2**63)),
    lambda: offered(index=2**63),
    lambda: offered(ledger_size=2**63),
    lambda: offered(state_count=2**63),
    lambda: offered(index_term=4),
    lambda: offered(configuration=b""),
    lambda: offered(configuration=bytes(MAX_COMMAND_BYTES)),
    lambda: offered(checkpoint="x" * (MAX_CHECKPOINT_BYTES + 1)),
    lambda: offered(state_digest=bytes(65)),
    lambda: pb.PeerMessage(snapshot_pull=pb.SnapshotPull(ledger_from=2**63)),
    lambda: pb.PeerMessage(
        snapshot_pull=pb.SnapshotPull(state_after=bytes(MAX_STATE_KEY_BYTES + 1))
    ),
    lambda: chunk((b"b", b"1"), (b"a", b"2")),
    lambda: chunk((b"a", b"1"), (b"a", b"2")),
    lambda: chunk((b"a", b"1"), state_after=b"a"),
    lambda: chunk((b"", b"1")),
    lambda: chunk((bytes(MAX_STATE_KEY_BYTES + 1), b"")),
    lambda: chunk((b"a", bytes(MAX_STATE_VALUE_BYTES + 1))),
    lambda: chunk((b"a", b"1"), entries=[b"e"]),
    lambda: chunk(*((b"%06d" % number, b"") for number in range(MAX_CHUNK_ITEMS + 1))),
    lambda: chunk(entries=[b""]),
    lambda: chunk(entries=[b"e"] * (MAX_CHUNK_ITEMS + 1)),
    lambda: chunk(entries=[bytes(MAX_LEDGER_ENTRY_BYTES + 1)]),
    lambda: chunk(ledger_from=2**63),
    lambda: pb.PeerMessage(propose=pb.Propose(id=bytes(MAX_KEY_BYTES + 1))),
    lambda: pb.PeerMessage(propose=pb.Propose(payload=bytes(MAX_COMMAND_BYTES - 16))),
    lambda: pb.PeerMessage(propose_reply=pb.ProposeReply(refusal=0)),
    lambda: pb.PeerMessage(propose_reply=pb.ProposeReply(refusal=99)),
    lambda: pb.PeerMessage(propose_reply=pb.ProposeReply(id=bytes(MAX_KEY_BYTES + 1), refusal=1)),
]


@pytest.mark.parametrize("number", range(len(BEYOND)))
def test_what_is_beyond_the_limits_accuses_the_peer(number: int) -> None:
    with pytest.raises(PeerError):
        decode(BEYOND[number]())


def test_the_largest_entry_is_within_the_limits() -> None:
    message = AppendRequest(1, 1, 0, 0, (Entry(2, 1, bytes(MAX_COMMAND_BYTES)),))
    assert decode(encode(message)) == message


def test_the_largest_parts_of_a_snapshot_are_within_the_limits() -> None:
    key, value = bytes(MAX_STATE_KEY_BYTES), bytes(MAX_STATE_VALUE_BYTES)
    state = SnapshotChunk(1, 1, False, b"", 0, ((key, value),), (), True)
    ledger = SnapshotChunk(1, 1, True, b"", 0, (), (bytes(MAX_LEDGER_ENTRY_BYTES),), True)
    for message in (state, ledger):
        assert decode(encode(message)) == message


def test_messages_of_other_rooms_pass_by() -> None:
    assert decode(pb.PeerMessage(confirm=pb.Confirm(term=1))) is None
    assert decode(pb.PeerMessage()) is None
