"""The messages of a snapshot's transfer as protobuf, and back, with every limit checked."""

from __future__ import annotations

from quorate.consensus.errors import PeerError
from quorate.consensus.limits import (
    MAX_CHECKPOINT_BYTES,
    MAX_CHUNK_ITEMS,
    MAX_COMMAND_BYTES,
    MAX_INDEX,
    MAX_LEDGER_ENTRY_BYTES,
    MAX_STATE_KEY_BYTES,
    MAX_STATE_VALUE_BYTES,
)
from quorate.consensus.messages import (
    SnapshotChunk,
    SnapshotMessage,
    SnapshotOffer,
    SnapshotPull,
)
from quorate.v1 import peer_pb2 as pb

_MAX_DIGEST_BYTES = 64


def encode(message: SnapshotMessage) -> pb.PeerMessage:
    """The protobuf form of one message."""
    match message:
        case SnapshotOffer():
            return pb.PeerMessage(
                snapshot_offer=pb.SnapshotOffer(
                    term=message.term,
                    index=message.index,
                    index_term=message.index_term,
                    configuration=message.configuration,
                    ledger_size=message.ledger_size,
                    checkpoint=message.checkpoint,
                    state_count=message.state_count,
                    state_digest=message.state_digest,
                )
            )
        case SnapshotPull():
            return pb.PeerMessage(
                snapshot_pull=pb.SnapshotPull(
                    term=message.term,
                    index=message.index,
                    is_ledger=message.is_ledger,
                    state_after=message.state_after,
                    ledger_from=message.ledger_from,
                )
            )
        case SnapshotChunk():
            return pb.PeerMessage(
                snapshot_chunk=pb.SnapshotChunk(
                    term=message.term,
                    index=message.index,
                    is_ledger=message.is_ledger,
                    state_after=message.state_after,
                    ledger_from=message.ledger_from,
                    records=(pb.StateRecord(key=key, value=value) for key, value in message.pairs),
                    entries=message.entries,
                    is_last=message.is_last,
                )
            )


def decode(message: pb.PeerMessage) -> SnapshotMessage | None:
    """The message, or None for another kind. Raises PeerError when a limit is broken."""
    match message.WhichOneof("body"):
        case "snapshot_offer":
            return _read_offer(message.snapshot_offer)
        case "snapshot_pull":
            pull = message.snapshot_pull
            _check_position(pull.term, pull.index, pull.state_after, pull.ledger_from)
            return SnapshotPull(
                pull.term, pull.index, pull.is_ledger, pull.state_after, pull.ledger_from
            )
        case "snapshot_chunk":
            return _read_chunk(message.snapshot_chunk)
        case _:
            return None


def _read_offer(offer: pb.SnapshotOffer) -> SnapshotOffer:
    _check_position(offer.term, offer.index, b"", offer.ledger_size)
    if offer.index_term > offer.term or not 0 < len(offer.configuration) < MAX_COMMAND_BYTES:
        raise PeerError("a snapshot of what cannot be")
    if len(offer.checkpoint) > MAX_CHECKPOINT_BYTES or len(offer.state_digest) > _MAX_DIGEST_BYTES:
        raise PeerError("an offer of a snapshot beyond the limits")
    if offer.state_count > MAX_INDEX:
        raise PeerError("an offer of a snapshot beyond the limits")
    return SnapshotOffer(
        term=offer.term,
        index=offer.index,
        index_term=offer.index_term,
        configuration=offer.configuration,
        ledger_size=offer.ledger_size,
        checkpoint=offer.checkpoint,
        state_count=offer.state_count,
        state_digest=offer.state_digest,
    )


def _read_chunk(chunk: pb.SnapshotChunk) -> SnapshotChunk:
    _check_position(chunk.term, chunk.index, chunk.state_after, chunk.ledger_from)
    if len(chunk.records) > MAX_CHUNK_ITEMS or len(chunk.entries) > MAX_CHUNK_ITEMS:
        raise PeerError("a chunk of too many items")
    if chunk.records and chunk.entries:
        raise PeerError("a chunk of state and of ledger at once")
    last = chunk.state_after
    for record in chunk.records:
        if not last < record.key or len(record.key) > MAX_STATE_KEY_BYTES:
            raise PeerError("a chunk whose records are not in order, or of no key that can be")
        if len(record.value) > MAX_STATE_VALUE_BYTES:
            raise PeerError("a record beyond the limits")
        last = record.key
    if any(not 0 < len(entry) <= MAX_LEDGER_ENTRY_BYTES for entry in chunk.entries):
        raise PeerError("an entry of the ledger beyond the limits")
    return SnapshotChunk(
        term=chunk.term,
        index=chunk.index,
        is_ledger=chunk.is_ledger,
        state_after=chunk.state_after,
        ledger_from=chunk.ledger_from,
        pairs=tuple((record.key, record.value) for record in chunk.records),
        entries=tuple(chunk.entries),
        is_last=chunk.is_last,
    )


def _check_position(term: int, index: int, state_after: bytes, ledger_from: int) -> None:
    if max(term, index, ledger_from) > MAX_INDEX or len(state_after) > MAX_STATE_KEY_BYTES:
        raise PeerError("an index, term or key beyond the limits")
