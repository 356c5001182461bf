"""The audit finds what is wrong, in ledgers that are made wrong one way at a time."""

from __future__ import annotations

import dataclasses
import hashlib
from base64 import b64encode
from collections.abc import Callable

import pytest

from quorate.chaos.checks import NodeLedger, audit
from quorate.chaos.operator import Acknowledged
from quorate.core import codec, dsse, ids, protocol
from quorate.core.genesis import Genesis
from quorate.core.records import Parameters
from quorate.proofs import merkle
from quorate.proofs.checkpoint import Checkpoint

ORIGIN = "quorate.example/test"
GENESIS_COMMAND: dict[str, object] = {"payload": "", "payloadType": "genesis", "signatures": []}
GENESIS = Genesis(
    origin=ORIGIN,
    created=1,
    parameters=Parameters(2_000, 1_000, 10_000, 5_000),
    descriptors=(),
    envelope=dsse.Envelope(b"", "genesis", ()),
    hash=hashlib.sha256(codec.encode(GENESIS_COMMAND)).digest(),
    protocol=protocol.FIRST,
)


class Tree(dict[tuple[int, int], bytes]):
    def node(self, level: int, index: int) -> bytes:
        return self[level, index]

    def put_node(self, level: int, index: int, digest: bytes) -> None:
        self[level, index] = digest


def command(number: int) -> dict[str, object]:
    payload = codec.encode({"issuer": "bank.example", "nonce": f"{number:016x}"})
    return {"payload": b64encode(payload).decode(), "payloadType": "t", "signatures": []}


def entry(seq: int, **changes: object) -> bytes:
    fields: dict[str, object] = {
        "v": 1,
        "origin": ORIGIN,
        "seq": seq,
        "type": "executor.register" if seq else "genesis",
        "decision": "accepted",
        "reason": "",
        "thing": "",
        "policy_version": 0,
        "time": 1_000 + seq,
        "command": command(seq) if seq else GENESIS_COMMAND,
    }
    return codec.encode(fields | changes)


def ledger(entries: list[bytes], domain: str = "bank.example") -> NodeLedger:
    tree = Tree()
    for size, data in enumerate(entries):
        merkle.append(tree, size, merkle.leaf_hash(data))
    size = len(entries)
    return NodeLedger(
        domain,
        Checkpoint(ORIGIN, size, merkle.root(tree, size)),
        tuple(entries),
        tuple(tuple(merkle.inclusion_proof(tree, index, size)) for index in range(size)),
    )


def good() -> list[bytes]:
    return [entry(seq) for seq in range(9)]


def problems(*ledgers: NodeLedger, told: list[Acknowledged] | None = None) -> str:
    return "; ".join(audit(ledgers, GENESIS, told or []).problems)


def test_equal_and_whole_ledgers_have_no_problem() -> None:
    told = [Acknowledged(ids.command_id("bank.example", f"{3:016x}"), 3, accepted=True)]
    result = audit([ledger(good()), ledger(good(), "clinic.example")], GENESIS, told)
    assert result.problems == ()
    assert (result.nodes, result.entries, result.decisions) == (2, 9, 8)
    assert (result.proofs_verified, result.acknowledged) == (18, 1)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda e: e.__setitem__(4, entry(5)), "another sequence number"),
        (lambda e: e.__setitem__(4, entry(4, origin="quorate.example/x")), "or origin"),
        (lambda e: e.__setitem__(4, entry(4, time=1)), "ledger time goes back"),
        (lambda e: e.__setitem__(4, entry(4, type="genesis")), "and only there"),
        (lambda e: e.__setitem__(0, entry(0, type="trust.open")), "and only there"),
        (lambda e: e.__setitem__(4, entry(4, command=command(3))), "the command of entry 3 again"),
        (lambda e: e.__setitem__(0, entry(0, command=command(0))), "another genesis"),
        (lambda e: e.__setitem__(4, codec.encode([1])), "not an object"),
    ],
)
def test_a_wrong_entry_is_found(change: Callable[[list[bytes]], None], problem: str) -> None:
    entries = good()
    change(entries)
    assert problem in problems(ledger(entries))


def test_a_denied_command_may_stand_beside_the_accepted_one_with_its_id() -> None:
    entries = good()
    entries[4] = entry(4, command=command(3), decision="denied", reason="NONCE_REUSED")
    assert problems(ledger(entries)) == ""


def test_ledgers_that_differ_are_found() -> None:
    other = good()
    other[5] = entry(5, thing="x")
    assert "other entries" in problems(ledger(good()), ledger(other, "clinic.example"))
    assert "other entries" in problems(ledger(good()), ledger(good()[:8], "clinic.example"))


def test_a_checkpoint_of_other_entries_is_found() -> None:
    right = ledger(good())
    wrong = dataclasses.replace(right, checkpoint=Checkpoint(ORIGIN, 9, bytes(32)))
    assert "not that of the entries" in problems(wrong)
    assert "9 of 9 inclusion proofs" in problems(wrong)


def test_a_proof_of_another_entry_is_found() -> None:
    right = ledger(good())
    swapped = (right.proofs[1], right.proofs[0], *right.proofs[2:])
    assert "2 of 9 inclusion proofs" in problems(dataclasses.replace(right, proofs=swapped))


@pytest.mark.parametrize(
    "told",
    [
        Acknowledged(ids.command_id("bank.example", f"{3:016x}"), 4, accepted=True),
        Acknowledged(ids.command_id("bank.example", f"{3:016x}"), 3, accepted=False),
        Acknowledged(ids.command_id("bank.example", f"{99:016x}"), 3, accepted=True),
    ],
)
def test_an_acknowledged_command_that_is_not_there_is_found(told: Acknowledged) -> None:
    assert "acknowledged at" in problems(ledger(good()), told=[told])
