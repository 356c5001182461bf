"""Cosignatures of checkpoints."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from quorate.core.errors import MalformedError
from quorate.proofs import merkle, note
from quorate.proofs.checkpoint import Checkpoint
from quorate.proofs.cosignature import MAX_TIMESTAMP, cosign, cosigned_at
from quorate.proofs.signing import SigningKey
from quorate.proofs.vkey import COSIGNATURE, ED25519, VerifierKey

TEXT = Checkpoint("a.example/log", 3, merkle.leaf_hash(b"x")).body()
NAME = "bank.example"
WHEN = 1_679_315_147


@pytest.fixture
def key() -> SigningKey:
    return SigningKey.generate()


def known(key: SigningKey, name: str = NAME, kind: int = COSIGNATURE) -> VerifierKey:
    return VerifierKey(name, kind, key.public)


def test_it_signs_the_header_the_time_and_the_whole_text(key: SigningKey) -> None:
    """The bytes of the specification, put together here by hand."""
    line = cosign(TEXT, NAME, key, WHEN)
    message = f"cosignature/v1\ntime 1679315147\n{TEXT}".encode()
    assert line.signature[:8] == WHEN.to_bytes(8, "big")
    Ed25519PublicKey.from_public_bytes(key.public).verify(line.signature[8:], message)
    assert cosigned_at(note.Note(TEXT, (line,)), known(key)) == WHEN


def test_it_travels_in_a_note(key: SigningKey) -> None:
    log = SigningKey.generate()
    signed = note.parse_note(note.sign_note(TEXT, "a.example/log", log))
    whole = note.Note(signed.text, (*signed.signatures, cosign(TEXT, NAME, key, 0)))
    parsed = note.parse_note(whole.encode())
    assert cosigned_at(parsed, known(key)) == 0
    assert note.verify_note(parsed, "a.example/log", log.public)


def test_it_is_of_this_text_time_name_kind_and_key_alone(key: SigningKey) -> None:
    line = cosign(TEXT, NAME, key, WHEN)
    whole = note.Note(TEXT, (line,))
    later = replace(line, signature=(WHEN + 1).to_bytes(8, "big") + line.signature[8:])
    bare = note.sign_note(TEXT, NAME, key)
    assert cosigned_at(note.Note(TEXT.replace("3", "4"), (line,)), known(key)) is None
    assert cosigned_at(note.Note(TEXT, (later,)), known(key)) is None
    assert cosigned_at(whole, known(key, "clinic.example")) is None
    assert cosigned_at(whole, known(key, kind=ED25519)) is None
    assert cosigned_at(whole, known(SigningKey.generate())) is None
    assert cosigned_at(note.parse_note(bare), known(key)) is None


def test_a_key_counts_once_or_not_at_all(key: SigningKey) -> None:
    line, later = cosign(TEXT, NAME, key, WHEN), cosign(TEXT, NAME, key, WHEN + 1)
    assert cosigned_at(note.Note(TEXT, (line, later)), known(key)) is None
    assert cosigned_at(note.Note(TEXT, (line, line)), known(key)) is None
    cut = replace(line, signature=line.signature[:-1])
    longer = replace(line, signature=line.signature + b"\0")
    for odd in (cut, longer):
        assert cosigned_at(note.Note(TEXT, (odd,)), known(key)) is None


def test_a_key_of_low_order_has_cosigned_nothing() -> None:
    low = VerifierKey(NAME, COSIGNATURE, bytes([1]) + bytes(31))
    forged = note.NoteSignature(NAME, low.key_id, bytes(8) + low.public + bytes(32))
    assert cosigned_at(note.Note(TEXT, (forged,)), low) is None


@pytest.mark.parametrize("timestamp", [-1, MAX_TIMESTAMP + 1])
def test_no_cosignature_has_such_a_time(key: SigningKey, timestamp: int) -> None:
    with pytest.raises(MalformedError):
        cosign(TEXT, NAME, key, timestamp)


def test_a_time_beyond_the_last_is_none(key: SigningKey) -> None:
    beyond = 2**63
    message = f"cosignature/v1\ntime {beyond}\n{TEXT}".encode()
    line = note.NoteSignature(
        NAME, known(key).key_id, beyond.to_bytes(8, "big") + key.sign(message)
    )
    assert cosigned_at(note.Note(TEXT, (line,)), known(key)) is None
