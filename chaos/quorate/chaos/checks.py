"""What must be true of the ledgers of a federation, whatever was done to it.

Owns the comparison of all nodes' ledgers and the verification of every proof in them, from the
genesis's keys and the bytes of the entries alone: no node's word is taken for anything. Reads
through the public services; changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from quorate.chaos.operator import Acknowledged, Operator
from quorate.core import codec, ids
from quorate.core.errors import MalformedError
from quorate.core.genesis import Genesis
from quorate.core.limits import MAX_ENTRIES_PER_PAGE, MAX_ENTRY_BYTES, MAX_ENVELOPE_BYTES
from quorate.proofs import merkle
from quorate.proofs.checkpoint import Checkpoint, open_checkpoint
from quorate.v1 import ledger_pb2

_GENESIS: Final = "genesis"
_MALFORMED: Final = "malformed"


@dataclass(frozen=True, slots=True)
class NodeLedger:
    """Everything in one node's ledger under its signed checkpoint, with its inclusion proofs."""

    domain: str
    checkpoint: Checkpoint
    entries: tuple[bytes, ...]
    proofs: tuple[tuple[bytes, ...], ...]


@dataclass(frozen=True, slots=True)
class Audit:
    """What was verified, and everything that was found to be wrong."""

    nodes: int
    entries: int
    decisions: int
    proofs_verified: int
    checkpoints_verified: int
    acknowledged: int
    root: bytes
    problems: tuple[str, ...]


class _Tree:
    """A Merkle tree in memory, made from the entries' bytes."""

    def __init__(self, entries: Iterable[bytes]) -> None:
        self._nodes: dict[tuple[int, int], bytes] = {}
        self.size = 0
        for entry in entries:
            merkle.append(self, self.size, merkle.leaf_hash(entry))
            self.size += 1

    def node(self, level: int, index: int) -> bytes:
        return self._nodes[level, index]

    def put_node(self, level: int, index: int, digest: bytes) -> None:
        self._nodes[level, index] = digest

    def root(self, size: int) -> bytes:
        return merkle.root(self, size)


def open_node_checkpoint(operator: Operator, genesis: Genesis) -> Checkpoint:
    """The node's newest checkpoint, its signature verified with the node's own log key.

    Raises MalformedError.
    """
    return open_checkpoint(operator.checkpoint(), genesis.origin, operator.log_key)


def read_ledger(operator: Operator, genesis: Genesis) -> NodeLedger:
    """A node's whole ledger under its newest checkpoint. Raises MalformedError, NodeSilentError."""
    checkpoint = open_node_checkpoint(operator, genesis)
    entries: list[bytes] = []
    while len(entries) < checkpoint.size:
        limit = min(MAX_ENTRIES_PER_PAGE, checkpoint.size - len(entries))
        request = ledger_pb2.ListEntriesRequest(start=len(entries), limit=limit)
        page = operator.ask(operator.ledger.ListEntries, request).entries
        if not page:
            raise MalformedError(f"the node shows {len(entries)} of {checkpoint.size} entries")
        entries += page[:limit]
    proofs = [
        _inclusion_proof(operator, index, checkpoint.size) for index in range(checkpoint.size)
    ]
    return NodeLedger(operator.domain, checkpoint, tuple(entries), tuple(proofs))


def audit(
    ledgers: Sequence[NodeLedger], genesis: Genesis, acknowledged: Sequence[Acknowledged]
) -> Audit:
    """Compares the ledgers and verifies everything in them.

    Every node's entries are the same bytes; each root is that of the entries; each entry's proof
    leads to the checkpoint's root; entries stand at their own sequence numbers, under one origin,
    in ledger time that never goes back; no command was executed twice; and whatever a node has
    acknowledged is where it was said to be.
    """
    problems: list[str] = []
    verified = 0
    for ledger in ledgers:
        problems += _tree_problems(ledger)
        verified += _verified_proofs(ledger)
        if ledger.entries != ledgers[0].entries:
            problems.append(f"{ledger.domain}: other entries than {ledgers[0].domain}")
    expected = sum(len(ledger.entries) for ledger in ledgers)
    if verified != expected:
        problems.append(f"{expected - verified} of {expected} inclusion proofs do not verify")
    entries = ledgers[0].entries
    problems += entry_problems(entries, genesis, acknowledged)
    return Audit(
        nodes=len(ledgers),
        entries=len(entries),
        decisions=len(entries) - 1,
        proofs_verified=verified,
        checkpoints_verified=len(ledgers),
        acknowledged=len(acknowledged),
        root=ledgers[0].checkpoint.root,
        problems=tuple(problems),
    )


def entry_problems(
    entries: Sequence[bytes], genesis: Genesis, acknowledged: Sequence[Acknowledged]
) -> list[str]:
    """What is wrong with the entries of one ledger: their order, their origin, commands executed
    twice, and acknowledged commands that are not where they were said to be."""
    commands, problems = _entry_problems(entries, genesis)
    return problems + _acknowledgement_problems(commands, acknowledged)


def false_proofs(
    operator: Operator, genesis: Genesis, entries: Sequence[bytes], indexes: Iterable[int]
) -> list[str]:
    """Which of these entries a node cannot prove to be in its log, under its newest checkpoint.

    Raises MalformedError, NodeSilentError.
    """
    checkpoint = open_node_checkpoint(operator, genesis)
    return [
        f"{operator.domain}: entry {index}: its inclusion proof does not verify"
        for index in indexes
        if not merkle.verify_inclusion(
            merkle.leaf_hash(entries[index]),
            index,
            checkpoint.size,
            _inclusion_proof(operator, index, checkpoint.size),
            checkpoint.root,
        )
    ]


def is_extended(old: Checkpoint, new: Checkpoint, operator: Operator) -> bool:
    """Whether the log under `new` begins with all of the log under `old`, by the node's proof."""
    request = ledger_pb2.GetConsistencyProofRequest(old_size=old.size, new_size=new.size)
    answer = operator.ask(operator.ledger.GetConsistencyProof, request)
    return merkle.verify_consistency(old.size, new.size, list(answer.hashes), old.root, new.root)


def _inclusion_proof(operator: Operator, index: int, size: int) -> tuple[bytes, ...]:
    request = ledger_pb2.GetInclusionProofRequest(index=index, size=size)
    return tuple(operator.ask(operator.ledger.GetInclusionProof, request).hashes)


def _tree_problems(ledger: NodeLedger) -> list[str]:
    size, root = len(ledger.entries), _Tree(ledger.entries).root(len(ledger.entries))
    if (size, root) != (ledger.checkpoint.size, ledger.checkpoint.root):
        return [f"{ledger.domain}: the checkpoint is not that of the entries"]
    return []


def _verified_proofs(ledger: NodeLedger) -> int:
    checkpoint = ledger.checkpoint
    return sum(
        merkle.verify_inclusion(
            merkle.leaf_hash(entry), index, checkpoint.size, proof, checkpoint.root
        )
        for index, (entry, proof) in enumerate(zip(ledger.entries, ledger.proofs, strict=True))
    )


def _entry_problems(
    entries: Sequence[bytes], genesis: Genesis
) -> tuple[set[tuple[str, int, bool]], list[str]]:
    """(command id, index, accepted) of every entry; and what is wrong with the entries."""
    commands: set[tuple[str, int, bool]] = set()
    executed: dict[str, int] = {}
    problems: list[str] = []
    time_ms = 0
    for index, data in enumerate(entries):
        entry = codec.decode(data, MAX_ENTRY_BYTES)
        if not isinstance(entry, dict):
            problems.append(f"entry {index}: not an object")
            continue
        if entry.get("seq") != index or entry.get("origin") != genesis.origin:
            problems.append(f"entry {index}: another sequence number or origin")
        if (entry.get("type") == _GENESIS) != (index == 0):
            problems.append(f"entry {index}: the genesis stands at 0, and only there")
        at_ms = entry.get("time")
        if not isinstance(at_ms, int) or at_ms < time_ms:
            problems.append(f"entry {index}: ledger time goes back")
        else:
            time_ms = at_ms
        if index == 0:
            continue
        command_id = _command_id(entry)
        accepted = entry.get("decision") == "accepted"
        commands.add((command_id, index, accepted))
        if accepted and executed.setdefault(command_id, index) != index:
            problems.append(f"entry {index}: the command of entry {executed[command_id]} again")
    if entries and hashlib.sha256(_genesis_bytes(entries[0])).digest() != genesis.hash:
        problems.append("entry 0: another genesis")
    return commands, problems


def _command_id(entry: dict[str, codec.JsonValue]) -> str:
    command = entry.get("command")
    assert isinstance(command, dict)
    if entry.get("type") == _MALFORMED:
        return hashlib.sha256(codec.encode(command)).hexdigest()
    payload = command.get("payload")
    assert isinstance(payload, str)
    named = json.loads(b64decode(payload)[:MAX_ENVELOPE_BYTES])
    return ids.command_id(named["issuer"], named["nonce"])


def _genesis_bytes(entry: bytes) -> bytes:
    decoded = codec.decode(entry, 1024 * 1024)
    return codec.encode(decoded["command"]) if isinstance(decoded, dict) else b""


def _acknowledgement_problems(
    commands: set[tuple[str, int, bool]], acknowledged: Sequence[Acknowledged]
) -> list[str]:
    return [
        f"acknowledged at {told.ledger_index} and not there: {told.command_id}"
        for told in acknowledged
        if (told.command_id, told.ledger_index, told.accepted) not in commands
    ]
