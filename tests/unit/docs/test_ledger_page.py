"""The page on the ledger: the code that it shows verifies, and its forms are the real ones."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from typing import Any

import pytest

from quorate.core import codec
from quorate.core.errors import MalformedError
from quorate.core.limits import MAX_ENTRY_BYTES
from quorate.core.lineage import EventType, Stage, next_stage, parse_record
from quorate.proofs import merkle
from quorate.proofs.checkpoint import Checkpoint, sign_checkpoint
from quorate.testing.builders import Federation, Ledger


class Tree:
    def __init__(self, entries: list[bytes]) -> None:
        self.nodes: dict[tuple[int, int], bytes] = {}
        for index, entry in enumerate(entries):
            merkle.append(self, index, merkle.leaf_hash(entry))

    def node(self, level: int, index: int) -> bytes:
        return self.nodes[level, index]

    def put_node(self, level: int, index: int, digest: bytes) -> None:
        self.nodes[level, index] = digest


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    ledger = Ledger(Federation.build())
    for name in ("a", "b", "c", "d"):
        executor = ledger.federation["bank.example"].executor(name)
        ledger.run("bank.example", "executor.register", {"executor": executor})
    return ledger


def note_of(ledger: Ledger, domain: str) -> str:
    size = len(ledger.entries)
    root = merkle.root(Tree(ledger.entries), size)
    key = ledger.federation[domain].log
    return sign_checkpoint(Checkpoint(ledger.federation.origin, size, root), key)


def test_the_code_that_is_shown_verifies_and_refuses(pages: dict[str, Any], ledger: Ledger) -> None:
    [block] = pages["docs/ledger.md"].blocks("python")
    shown: dict[str, Any] = {}
    exec(compile(block, "docs/ledger.md", "exec"), shown)  # noqa: S102 - the page's own code
    verify = shown["verify"]
    genesis, note = ledger.federation.genesis, note_of(ledger, "clinic.example")
    size, tree = len(ledger.entries), Tree(ledger.entries)
    for index, entry in enumerate(ledger.entries):
        proof = merkle.inclusion_proof(tree, index, size)
        assert verify(genesis, "clinic.example", note, entry, proof)
        other = ledger.entries[index - 1]
        assert not verify(genesis, "clinic.example", note, other, proof)
        with pytest.raises(MalformedError):
            verify(genesis, "bank.example", note, entry, proof)


def test_forms_that_are_shown_are_canonical_and_whole(
    pages: dict[str, Any], ledger: Ledger
) -> None:
    shown = [json.loads(block) for block in pages["docs/ledger.md"].blocks("json")]
    for value, block in zip(shown, pages["docs/ledger.md"].blocks("json"), strict=True):
        assert codec.encode(value).decode() == block.strip()
    entry: Any = codec.decode(ledger.entries[1], MAX_ENTRY_BYTES)
    genesis: Any = json.loads(ledger.federation.genesis)
    command = json.loads(b64decode(entry["command"]["payload"]))
    payload = json.loads(b64decode(genesis["payload"]))
    descriptor = json.loads(b64decode(payload["descriptors"][0]["payload"]))
    records = [value for value in shown if "kind" in value]
    assert [parse_record(value).to_json() for value in records] == records
    assert [value["kind"] for value in records] == ["event", "denials"]
    others = [value for value in shown if "kind" not in value]
    real = [entry["command"], command, entry, descriptor]
    assert [sorted(value) for value in others] == [sorted(value) for value in real]
    assert sorted(others[3]["node"]) == sorted(descriptor["node"])


def test_the_order_of_events_that_is_shown_is_the_ledgers(pages: dict[str, Any]) -> None:
    rows = {row[0]: row[1] for row in pages["docs/ledger.md"].rows() if row[0] in list(Stage)}
    assert list(rows) == list(Stage)
    for stage in Stage:
        legal = [event for event in EventType if next_stage(stage, event) is not None]
        assert sorted(re.findall(r"`(\w+)`", rows[stage])) == sorted(legal), stage
