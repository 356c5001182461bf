"""Signed notes, against the vectors of the specification and of its first implementation."""

import base64
import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from quorate.core.errors import MalformedError
from quorate.proofs import note
from quorate.proofs.signing import SigningKey

TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
PETER = "PeterNeumann"
PETER_SEED = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
PETER_PUBLIC = base64.b64decode("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")[1:]
PETER_LINE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZ"
    "b6KE6RyyBwJnAM=\n"
)
ENOCH = "EnochRoot"
ENOCH_PUBLIC = base64.b64decode("ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop")[1:]
ENOCH_LINE = (
    "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33"
    "WWd1RvMc+QQ=\n"
)
WHOLE = TEXT + "\n" + PETER_LINE + ENOCH_LINE


@pytest.fixture
def key():
    return SigningKey.generate()


def test_signing_gives_the_published_note():
    peter = SigningKey(Ed25519PrivateKey.from_private_bytes(PETER_SEED))
    assert peter.public == PETER_PUBLIC
    assert note.sign_note(TEXT, PETER, peter) == TEXT + "\n" + PETER_LINE


def test_key_ids_are_the_published_ones():
    assert note.key_id(PETER, PETER_PUBLIC).hex() == "c74f20a3"
    assert note.key_id(ENOCH, ENOCH_PUBLIC).hex() == "af0cfe78"


def test_each_known_key_verifies_by_itself():
    parsed = note.parse_note(WHOLE)
    assert parsed.text == TEXT
    assert parsed.encode() == WHOLE
    assert note.verify_note(parsed, PETER, PETER_PUBLIC)
    assert note.verify_note(parsed, ENOCH, ENOCH_PUBLIC)
    assert not note.verify_note(parsed, PETER, ENOCH_PUBLIC)
    assert not note.verify_note(parsed, ENOCH, PETER_PUBLIC)
    assert not note.verify_note(parsed, "PeterNeuman", PETER_PUBLIC)


def test_the_text_ends_at_the_last_empty_line(key):
    text = "first\n\nsecond\n\n\nlast\n\n"
    parsed = note.parse_note(note.sign_note(text, "a.example/log", key))
    assert parsed.text == text
    assert note.verify_note(parsed, "a.example/log", key.public)


def test_signatures_of_unknown_keys_and_algorithms_are_kept_and_ignored():
    stranger = "— witness.example " + base64.b64encode(b"\x01\x02\x03\x04" + bytes(72)).decode()
    parsed = note.parse_note(TEXT + "\n" + stranger + "\n" + PETER_LINE)
    assert note.verify_note(parsed, PETER, PETER_PUBLIC)
    assert len(parsed.signatures) == 2


def test_a_bad_line_of_a_known_key_spoils_the_note():
    blob = base64.b64decode(PETER_LINE.split()[2])
    spoiled = blob[:-1] + bytes([blob[-1] ^ 1])
    line = f"— {PETER} {base64.b64encode(spoiled).decode()}\n"
    assert not note.verify_note(note.parse_note(TEXT + "\n" + line), PETER, PETER_PUBLIC)
    assert not note.verify_note(
        note.parse_note(TEXT + "\n" + PETER_LINE + line), PETER, PETER_PUBLIC
    )


def test_a_longer_signature_does_not_verify():
    blob = base64.b64decode(PETER_LINE.split()[2]) + b"\x00"
    line = f"— {PETER} {base64.b64encode(blob).decode()}\n"
    assert not note.verify_note(note.parse_note(TEXT + "\n" + line), PETER, PETER_PUBLIC)


def test_a_changed_text_does_not_verify():
    changed = WHOLE.replace("answer", "Answer")
    assert not note.verify_note(note.parse_note(changed), PETER, PETER_PUBLIC)


def test_keys_of_low_order_verify_nothing():
    low = bytes([1]) + bytes(31)  # the neutral point: S = 0, R = the point itself "signs" anything
    forged = note.NoteSignature("a", note.key_id("a", low), low + bytes(32))
    assert not note.verify_note(note.Note("anything\n", (forged,)), "a", low)


PETER_BASE64 = PETER_LINE.split()[2]


@pytest.mark.parametrize(
    "data",
    [
        "",
        TEXT,
        TEXT + "\n",
        "no newline at the end of the text",
        TEXT + "\n" + PETER_LINE[:-1],
        "\x01" + TEXT + "\n" + PETER_LINE,
        "tab\there\n\n" + PETER_LINE,
        TEXT.replace("\n", "\r\n") + "\r\n" + PETER_LINE,
        b"\xff" + TEXT.encode() + b"\n" + PETER_LINE.encode(),
        "\ud800" + TEXT + "\n" + PETER_LINE,
        TEXT + "\n" + PETER_LINE + "Unexpected line.\n",
        TEXT + "\n" + PETER_LINE.replace("—", "-"),
        TEXT + "\n" + PETER_LINE.replace("— ", "—"),
        TEXT + "\n" + PETER_LINE.replace("PeterNeumann", "Peter Neumann"),
        TEXT + "\n" + PETER_LINE.replace("PeterNeumann", "Peter+Neumann"),
        TEXT + "\n" + PETER_LINE.replace("PeterNeumann", "Peter\u00a0Neumann"),
        TEXT + "\n" + PETER_LINE.replace("PeterNeumann", ""),
        TEXT + "\n" + f"— {PETER} {PETER_BASE64} \n",
        TEXT + "\n" + f"— {PETER} {PETER_BASE64.rstrip('=')}\n",
        TEXT + "\n" + f"— {PETER} {PETER_BASE64[:-2]}N=\n",  # bits after the end
        TEXT + "\n" + f"— {PETER} {PETER_BASE64.replace('/', '_')}\n",
        TEXT + "\n" + f"— {PETER} {base64.b64encode(b'abcd').decode()}\n",
        TEXT + "\n" + f"— {PETER} \n",
        TEXT + "\n" + PETER_LINE * (note.MAX_SIGNATURES + 1),
        "x" * note.MAX_NOTE_BYTES + "\n\n" + PETER_LINE,
    ],
)
def test_what_is_not_exactly_a_note_is_refused(data):
    with pytest.raises(MalformedError):
        note.parse_note(data)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("no newline", "a"),
        ("", "a"),
        ("bell\x07\n", "a"),
        ("fine\n", ""),
        ("fine\n", "a b"),
        ("fine\n", "a+b"),
        ("fine\n", "a\nb"),
        ("\udfff\n", "a"),
    ],
)
def test_what_no_note_can_have_is_not_signed(key, text, name):
    with pytest.raises(MalformedError):
        note.sign_note(text, name, key)


def test_a_note_may_have_as_many_signatures_as_the_limit(key):
    keys = [SigningKey.generate() for _ in range(note.MAX_SIGNATURES)]
    parsed = note.parse_note(note.sign_note("x\n", "a", *keys))
    assert all(note.verify_note(parsed, "a", each.public) for each in keys)
    assert not note.verify_note(parsed, "a", key.public)


def test_key_id_is_a_truncated_hash_of_name_type_and_key(key):
    whole = hashlib.sha256(b"a.example\n\x01" + key.public).digest()
    assert note.key_id("a.example", key.public) == whole[:4]
