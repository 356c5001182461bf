"""Verifier keys, against those of the note format's first implementation."""

from __future__ import annotations

import base64

import pytest

from quorate.core.errors import MalformedError
from quorate.proofs import note
from quorate.proofs.signing import SigningKey
from quorate.proofs.vkey import COSIGNATURE, ED25519, VerifierKey, parse_vkey

PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
ENOCH = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"


@pytest.mark.parametrize("text", [PETER, ENOCH])
def test_the_published_ones_are_read_and_written(text: str) -> None:
    key = parse_vkey(text)
    assert key.encode() == text
    assert key.kind == ED25519
    assert key.key_id == note.key_id(key.name, key.public)


def test_a_cosigner_has_another_id_than_a_log_of_the_same_key() -> None:
    public = SigningKey.generate().public
    log, cosigner = (VerifierKey("a.example", kind, public) for kind in (ED25519, COSIGNATURE))
    assert log.key_id != cosigner.key_id
    assert parse_vkey(cosigner.encode()) == cosigner


LOW_ORDER = bytes([1]) + bytes(31)
REFUSED = {
    "nothing": "",
    "a name alone": "PeterNeumann",
    "no key": "PeterNeumann+c74f20a3",
    "no name": PETER.removeprefix("PeterNeumann"),
    "another name": PETER.replace("Peter", "Petra"),
    "a space in the name": PETER.replace("PeterN", "Peter N"),
    "an id in capitals": PETER.replace("c74f20a3", "C74F20A3"),
    "a longer id": PETER.replace("c74f20a3", "0c74f20a3"),
    "another's id": PETER.replace("c74f20a3", "af0cfe78"),
    "other base64": PETER.replace("/", "_"),
    "a key that is too short": PETER[:-4],
    "a key of another kind": "PeterNeumann+00000000+"
    + base64.b64encode(bytes([2]) + parse_vkey(PETER).public).decode(),
    "a key of low order": VerifierKey("a", ED25519, LOW_ORDER).encode(),
    "a key that is not canonical": VerifierKey("a", ED25519, b"\xff" * 32).encode(),
    "something after it": PETER + "\n",
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_none_is_refused(case: str) -> None:
    with pytest.raises(MalformedError):
        parse_vkey(REFUSED[case])
