"""What proves the ledger: notes, checkpoints, and paths in its tree."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Final

from tests.fuzz.harness import SEPARATOR, Bounds, attempt, passes, target

from quorate.core import dsse
from quorate.core.entries import entry
from quorate.core.errors import ConfigurationError, MalformedError
from quorate.core.outcome import Outcome
from quorate.node import certificates
from quorate.proofs import merkle, note
from quorate.proofs.checkpoint import (
    Checkpoint,
    open_checkpoint,
    parse_checkpoint,
    sign_checkpoint,
)
from quorate.proofs.cosignature import cosign
from quorate.proofs.policy import NONE, Policy, parse_policy
from quorate.proofs.signing import SigningKey
from quorate.proofs.tlog_proof import TlogProof, parse_proof
from quorate.proofs.verifying import Step, verify_proof
from quorate.proofs.vkey import COSIGNATURE, ED25519, VerifierKey, parse_vkey
from quorate.testing.builders import ORIGIN, ca_certificate, key_for

LEAVES = 40
OF_NOBODY: Final = b"NOBODYS KEY"
"""How kept inputs spell the label of a private key: who looks for secrets finds none here."""


@target("quorate.proofs.note", "quorate.proofs.checkpoint", "quorate.core.fields")
def signed_note(data: bytes) -> None:
    key = key_for("log").public
    parsed = attempt(MalformedError, note.parse_note, data)
    opened = attempt(MalformedError, open_checkpoint, data, ORIGIN, key)
    if parsed is not None:
        assert parsed.encode().encode() == data
        read = attempt(MalformedError, parse_checkpoint, parsed.text)
        assert opened is None or opened == read
        signed = note.verify_note(parsed, ORIGIN, key)
        assert (opened is not None) == (signed and read is not None and read.origin == ORIGIN)
    else:
        assert opened is None


@target("quorate.proofs.checkpoint")
def checkpoint(data: bytes) -> None:
    """An input is the text of the note, which the log signs."""
    text = data.decode("utf-8", "replace")
    read = attempt(MalformedError, parse_checkpoint, text)
    if read is not None:
        assert read.body() == text
        key = key_for("log")
        signed = attempt(MalformedError, sign_checkpoint, read, key)
        if signed is not None:
            assert open_checkpoint(signed, read.origin, key.public) == read


class _Tree(dict[tuple[int, int], bytes]):
    def node(self, level: int, index: int) -> bytes:
        return self[level, index]

    def put_node(self, level: int, index: int, digest: bytes) -> None:
        self[level, index] = digest


@cache
def tree() -> _Tree:
    made = _Tree()
    for index in range(LEAVES):
        merkle.append(made, index, merkle.leaf_hash(bytes([index])))
    return made


@target("quorate.proofs.vkey")
def verifier_key(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    read = attempt(MalformedError, parse_vkey, text)
    if read is not None:
        assert read.encode() == text


@target("quorate.proofs.policy")
def trust_policy(data: bytes) -> None:
    """Whoever cosigns more is no less of a quorum; and nobody at all is one only where none is."""
    read = attempt(MalformedError, parse_policy, data)
    if read is None:
        return
    assert read.is_met_by(lambda _: False) == (read.quorum == NONE)
    assert read.is_met_by(lambda _: True)
    kept = set(list(read.witnesses.values())[::2])
    if read.is_met_by(kept.__contains__):
        assert all(read.is_met_by({*kept, more}.__contains__) for more in read.witnesses.values())
    keys = [key.public for key in (*read.logs, *read.witnesses.values())]
    assert len({*keys[len(read.logs) :]}) == len(read.witnesses)


@cache
def believed() -> Policy:
    """The log of these inputs, and one cosigner."""
    log = VerifierKey(ORIGIN, ED25519, key_for("log").public)
    cosigner = VerifierKey("bank.example", COSIGNATURE, key_for("cosigner").public)
    lines = (f"log {log.encode()}", f"witness bank {cosigner.encode()}", "quorum bank")
    return parse_policy("\n".join(lines).encode())


@target("quorate.proofs.tlog_proof", "quorate.proofs.verifying", "quorate.proofs.cosignature")
def proof_file(data: bytes) -> None:
    """What verifies is what was exported: the keys sign nothing here."""
    read = attempt(MalformedError, parse_proof, data)
    if read is not None:
        assert read.encode().encode() == data
    verdict = verify_proof(data, believed())
    assert verdict.is_good == all(each.is_good for each in verdict.findings)
    assert read is not None or [each.step for each in verdict.findings] == [Step.FORM]
    if verdict.is_good:
        assert data in proof_files()


@cache
def proof_files() -> frozenset[bytes]:
    """Two good ones, of the only checkpoint that there is."""
    leaves = [
        entry(
            origin=ORIGIN,
            kind="executor.revoke",
            outcome=Outcome(True, None, "", seq, "0" * 64),
            ledger_time=seq,
            command=None,
        )
        for seq in range(3)
    ]
    grown = _Tree()
    for seq, leaf in enumerate(leaves):
        merkle.append(grown, seq, merkle.leaf_hash(leaf))
    head = sign_checkpoint(Checkpoint(ORIGIN, 3, merkle.root(grown, 3)), key_for("log"))
    signed = note.parse_note(head)
    line = cosign(signed.text, "bank.example", key_for("cosigner"), 7)
    checkpoint = note.Note(signed.text, (*signed.signatures, line)).encode()
    return frozenset(
        TlogProof(seq, tuple(merkle.inclusion_proof(grown, seq, 3)), checkpoint, leaves[seq])
        .encode()
        .encode()
        for seq in (0, 2)
    )


@target("quorate.proofs.merkle")
def path(data: bytes) -> None:
    """An input is two numbers of 8 bytes and the hashes: whatever proves something of a tree that
    is known is the one proof of what is so."""
    first, second = int.from_bytes(data[:8], "big"), int.from_bytes(data[8:16], "big")
    hashes = [data[at : at + 32] for at in range(16, len(data), 32)]
    digest = merkle.leaf_hash(bytes([first % 256]))
    roots = [merkle.root(tree(), size) for size in (first % LEAVES, second % (LEAVES + 1))]
    is_in = merkle.verify_inclusion(digest, first, second, hashes, roots[1])
    extends = merkle.verify_consistency(first, second, hashes, *roots)
    if first == second:
        assert extends == (
            0 < first <= merkle.MAX_TREE_SIZE and not hashes and roots[0] == roots[1]
        )
        assert not is_in
        return
    if second > LEAVES or first >= LEAVES:
        assert not is_in
        assert not extends
        return
    if first < second:
        assert is_in == (hashes == merkle.inclusion_proof(tree(), first, second))
    if 0 < first < second:
        assert extends == (hashes == merkle.consistency_proof(tree(), first, second))


@target("quorate.core.dsse")
def public_key(data: bytes) -> None:
    """What passes is a key that the library verifies with, in its own bytes."""
    if passes(MalformedError, dsse.check_public_key, data):
        assert len(data) == dsse.PUBLIC_KEY_BYTES
        assert not dsse.verify_bytes(data, bytes(64), b"")
    dsse.verify_bytes(data[:32], data[32:96], data[96:])


@target("quorate.proofs.signing", "quorate.node.certificates")
def private_key(data: bytes) -> None:
    data = data.replace(OF_NOBODY, b"PRIVATE KEY")
    read = attempt(ConfigurationError, SigningKey.from_pem, data)
    assert read is None or SigningKey.from_pem(read.to_pem()).public == read.public
    attempt(ConfigurationError, certificates.parse_tls_key, data)


@target("quorate.node.certificates", bounds=Bounds(steps=(4_000, 60)))
def certificate(data: bytes) -> None:
    """What a peer shows, and what a domain says is its authority."""
    leaf, _, authority = data.partition(SEPARATOR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library warns of what it will refuse some day
        certificates.issued_by(leaf, authority)
        certificates.issued_by(leaf, ca_certificate("bank.example").encode())
        attempt(MalformedError, certificates.check_ca, leaf, "bank.example")
        parsed = attempt(MalformedError, certificates.parse_certificate, leaf)
        if parsed is not None:
            attempt(MalformedError, certificates.spiffe_id, parsed)
