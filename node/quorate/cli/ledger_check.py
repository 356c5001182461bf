"""Verifying a ledger that a node serves, trusting the genesis only.

Owns the order of the checks and what each failure means. The hashing and proof rules are those of
`quorate.proofs`. What is about members is decided again (`quorate.cli.ledger_members`), and nothing
else: that an honest quorum decided rightly follows from its replicas agreeing, not from this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from quorate.cli.connection import Connection
from quorate.cli.errors import VerificationError
from quorate.cli.ledger_members import Members, log_key
from quorate.core import codec, dsse, entries
from quorate.core.commands import Command, envelope_in, parse_command
from quorate.core.errors import MalformedError
from quorate.core.genesis import Genesis
from quorate.core.limits import MAX_ENTRY_BYTES
from quorate.core.recovery import Recovery
from quorate.core.state import StateView
from quorate.proofs import merkle
from quorate.proofs.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint
from quorate.proofs.note import parse_note
from quorate.v1 import ledger_pb2

ENTRIES_PER_PAGE: Final = 64
"""Pages stay within a gRPC message even when every entry is as long as it may be."""

Progress = Callable[[int, int], None]
Tell = Callable[[dict[str, codec.JsonValue], Command, dsse.Envelope, StateView], None]


@dataclass(frozen=True, slots=True)
class Checked:
    """What was verified: `proofs` inclusion proofs, `signatures` of accepted commands."""

    size: int
    root: bytes
    proofs: int
    signatures: int

    def to_json(self) -> dict[str, object]:
        return {
            "size": self.size,
            "root": self.root.hex(),
            "inclusion_proofs": self.proofs,
            "command_signatures": self.signatures,
        }


class Tree:
    """The Merkle tree as it is computed again, in memory."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[int, int], bytes] = {}
        self.size = 0

    def node(self, level: int, index: int) -> bytes:
        return self._nodes[level, index]

    def put_node(self, level: int, index: int, digest: bytes) -> None:
        self._nodes[level, index] = digest

    def add(self, entry: bytes) -> None:
        merkle.append(self, self.size, merkle.leaf_hash(entry))
        self.size += 1


def fetch_entries(connection: Connection, start: int, end: int, timeout_ms: int) -> Iterator[bytes]:
    """The entries [start, end) as they were hashed. Raises VerificationError when the node does not
    have what it said it has."""
    while start < end:
        limit = min(ENTRIES_PER_PAGE, end - start)
        page = connection.ask(
            connection.ledger.ListEntries,
            ledger_pb2.ListEntriesRequest(start=start, limit=limit),
            timeout_ms,
        )
        if not 0 < len(page.entries) <= limit:
            raise VerificationError(f"the node does not show entry {start} of its {end}")
        yield from page.entries
        start += len(page.entries)


def newest_note(connection: Connection, timeout_ms: int) -> str:
    return connection.ask(
        connection.ledger.GetCheckpoint, ledger_pb2.GetCheckpointRequest(), timeout_ms
    ).note


def claimed_size(note: str) -> int:
    """How many entries a checkpoint speaks of, before anybody's signature is verified."""
    try:
        return parse_checkpoint(parse_note(note).text).size
    except MalformedError as error:
        raise VerificationError(f"the node's checkpoint: {error}") from error


def check_ledger(
    connection: Connection,
    genesis: Genesis,
    timeout_ms: int,
    progress: Progress,
    tell: Tell = lambda *_: None,
) -> tuple[Checked, Members]:
    """Verifies the whole ledger of a node. Raises VerificationError. The members are those
    that the ledger has made up to its end. tell: is told of each accepted command in turn, with the
    members before it; what it hears is verified once this has returned."""
    note, members = newest_note(connection, timeout_ms), Members(genesis)
    size = claimed_size(note)
    tree, leaves, signatures = Tree(), [], 0
    for index, data in enumerate(fetch_entries(connection, 0, size, timeout_ms)):
        tree.add(data)
        leaves.append(merkle.leaf_hash(data))
        signatures += _check_entry(data, index, genesis, members, tell)
        progress(index, 2 * size)
    # Only now: the entries may have added the node that has signed.
    checkpoint = open_note(note, members.state, connection)
    root = merkle.root(tree, tree.size)
    if root != checkpoint.root:
        raise VerificationError(
            f"the {tree.size} entries have root {root.hex()}, "
            f"the node signed {checkpoint.root.hex()}"
        )
    for index, digest in enumerate(leaves):
        _check_inclusion(connection, checkpoint, index, digest, timeout_ms)
        progress(checkpoint.size + index, 2 * checkpoint.size)
    return Checked(checkpoint.size, root, len(leaves), signatures), members


def open_note(note: str, state: StateView, connection: Connection) -> Checkpoint:
    """The checkpoint, if the very node that was asked has signed it, as a member of this state.
    Raises VerificationError."""
    name = connection.target.server_name
    key, origin = log_key(state, name), state.federation().origin
    if key is None:
        raise VerificationError(
            f"{name} is no node of {origin}, as far as the ledger was read",
            hint="verify the ledger of a node that is further on, or compare the genesis",
        )
    try:
        return open_checkpoint(note, origin, key)
    except MalformedError as error:
        raise VerificationError(f"the checkpoint of {name}: {error}") from error


def _check_inclusion(
    connection: Connection, checkpoint: Checkpoint, index: int, digest: bytes, timeout_ms: int
) -> None:
    proof = connection.ask(
        connection.ledger.GetInclusionProof,
        ledger_pb2.GetInclusionProofRequest(index=index, size=checkpoint.size),
        timeout_ms,
    )
    # What is proven is what was listed, in the tree that was signed: the answer's own idea of
    # entry, size and root counts for nothing.
    holds = merkle.verify_inclusion(
        digest, index, checkpoint.size, list(proof.hashes), checkpoint.root
    )
    if not holds or merkle.leaf_hash(proof.entry) != digest:
        raise VerificationError(f"the inclusion proof of entry {index} does not hold")


def _check_entry(data: bytes, index: int, genesis: Genesis, members: Members, tell: Tell) -> int:
    """Checks one entry's form, and who signed its command. Returns the number of signatures."""
    try:
        entry = codec.decode(data, MAX_ENTRY_BYTES)
        if not isinstance(entry, dict):
            raise MalformedError("not an object")
        if entry.get("seq") != index or entry.get("origin") != genesis.origin:
            raise MalformedError("of another place or ledger")
        if index == 0:
            kind = entries.RECOVERY if isinstance(genesis, Recovery) else entries.GENESIS
            expected = (kind, "accepted", genesis.created, genesis.envelope.to_json())
            actual = tuple(entry.get(name) for name in ("type", "decision", "time", "command"))
            if actual != expected:
                raise MalformedError("not the genesis that this ledger is verified against")
            return len(genesis.envelope.signatures)
        members.reach(entry)
        if entry.get("decision") != "accepted":
            return 0  # a denied command may be signed by anybody, or be no command at all
        _check_command(entry, genesis, members, tell)
        return 1
    except MalformedError as error:
        raise VerificationError(f"entry {index}: {error}") from error


def _check_command(
    entry: dict[str, codec.JsonValue], genesis: Genesis, members: Members, tell: Tell
) -> None:
    envelope = envelope_in(entry.get("command"))
    command = parse_command(envelope.payload, members.protocol)
    if command.verb != entry.get("type"):
        raise MalformedError("the command is of another type than the entry says")
    if command.origin != genesis.origin or envelope.payload_type != dsse.COMMAND_TYPE:
        raise MalformedError("the command is not meant for this ledger")
    members.check(command, envelope)
    tell(entry, command, envelope, members.state)
    members.learn(command, envelope, entry)


def check_consistency(
    first: tuple[Connection, Checked],
    other: Connection,
    members: Members,
    timeout_ms: int,
) -> dict[str, object]:
    """Proves that one of two nodes' ledgers is the beginning of the other. Raises
    VerificationError: then a member's node has shown two histories."""
    connection, checked = first
    domain = other.target.domain
    checkpoint = open_note(newest_note(other, timeout_ms), members.state, other)
    mine, theirs = (checked.size, checked.root), (checkpoint.size, checkpoint.root)
    (old_size, old_root), (new_size, new_root) = sorted((mine, theirs), key=lambda pair: pair[0])
    # Whoever has the longer tree can prove what it grew from.
    prover = connection if new_size == checked.size else other
    proof = prover.ask(
        prover.ledger.GetConsistencyProof,
        ledger_pb2.GetConsistencyProofRequest(old_size=old_size, new_size=new_size),
        timeout_ms,
    )
    if not merkle.verify_consistency(old_size, new_size, list(proof.hashes), old_root, new_root):
        raise VerificationError(
            f"the ledger of the node of {domain} (size {checkpoint.size}) and this one "
            f"(size {checked.size}) are not one ledger"
        )
    return {"domain": domain, "size": checkpoint.size, "root": checkpoint.root.hex()}


def command_payload(entry: Any) -> dict[str, Any]:
    """The payload of an entry's command, for showing; empty when it has none that can be read."""
    try:
        envelope = envelope_in(entry.get("command"))
        payload = codec.load(envelope.payload)
    except MalformedError:
        return {}
    return payload if isinstance(payload, dict) else {}
