"""Signed notes (https://c2sp.org/signed-note), with Ed25519 signatures.

Owns the form of a note and whether a key has signed it. Does not say what the text means (see
`quorate.proofs.checkpoint`) nor who must sign: whoever counts signatures counts distinct *keys*,
each by a `verify_note` of its own, never lines or names.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from dataclasses import dataclass
from typing import Final

from quorate.core import dsse
from quorate.core.errors import MalformedError
from quorate.core.fields import unbase64
from quorate.proofs.signing import SigningKey

MAX_NOTE_BYTES: Final = 64 * 1024
MAX_SIGNATURES: Final = 64
"""The specification asks for at least 16."""
ED25519: Final = b"\x01"
"""The signature type that goes into a key ID."""
KEY_ID_BYTES: Final = 4

_PREFIX: Final = "\N{EM DASH} "
_CONTROL_RE: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")
_NAME_RE: Final = re.compile(r"[^\s+]+")  # \s is every Unicode space


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line. `signature` is 64 bytes when the key is an Ed25519 key; the lines of
    unknown keys, which may be of other algorithms, are kept and ignored."""

    name: str
    key_id: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A parsed note. Nothing about it is verified but its form."""

    text: str
    """What is signed: it ends in a newline."""
    signatures: tuple[NoteSignature, ...]

    def encode(self) -> str:
        """The note as it travels."""
        lines = (
            f"{_PREFIX}{line.name} {b64encode(line.key_id + line.signature).decode('ascii')}\n"
            for line in self.signatures
        )
        return f"{self.text}\n{''.join(lines)}"


def key_id(name: str, public_key: bytes) -> bytes:
    """The four bytes by which a signature line names an Ed25519 key. A hint, not a commitment."""
    named = name.encode() + b"\n" + ED25519 + public_key
    return hashlib.sha256(named).digest()[:KEY_ID_BYTES]


def sign_note(text: str, name: str, *keys: SigningKey) -> str:
    """The note of `text`, signed under `name` with each of `keys`.

    Raises `MalformedError` for a text or a name that no note can have.
    """
    assert keys, "a note without a signature is none"
    _check_text(text)
    check_name(name)
    message = text.encode()
    lines = tuple(NoteSignature(name, key_id(name, key.public), key.sign(message)) for key in keys)
    return Note(text, lines).encode()


def parse_note(data: str | bytes) -> Note:
    """Parses a note. Raises `MalformedError` for anything that is not exactly one."""
    raw = data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")
    if len(raw) > MAX_NOTE_BYTES:
        raise MalformedError(f"a note has at most {MAX_NOTE_BYTES} bytes", field="note")
    try:
        whole = raw.decode()
    except UnicodeDecodeError as error:
        raise MalformedError("a note is UTF-8", field="note") from error
    text, separator, tail = whole.rpartition("\n\n")
    text += "\n"
    if not separator or not tail.endswith("\n"):
        raise MalformedError("a note is a text, an empty line, and signature lines", field="note")
    _check_text(text)
    lines = tail[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise MalformedError(f"a note has at most {MAX_SIGNATURES} signatures", field="note")
    return Note(text, tuple(_parse_line(line) for line in lines))


def verify_note(note: Note, name: str, public_key: bytes) -> bool:
    """Whether the key `public_key`, known under `name`, has signed the note.

    False as soon as one line names this key and is not its signature: such a note was tampered
    with. The key must have been admitted (`quorate.core.dsse.check_public_key`); a key that was
    not, verifies nothing.
    """
    try:
        dsse.check_public_key(public_key)
    except MalformedError:
        return False
    wanted = key_id(name, public_key)
    message = note.text.encode()
    lines = [line for line in note.signatures if (line.name, line.key_id) == (name, wanted)]
    return bool(lines) and all(
        len(line.signature) == dsse.SIGNATURE_BYTES
        and dsse.verify_bytes(public_key, line.signature, message)
        for line in lines
    )


def _parse_line(line: str) -> NoteSignature:
    name, separator, encoded = line.removeprefix(_PREFIX).partition(" ")
    if not line.startswith(_PREFIX) or not separator:
        raise MalformedError("not a signature line", field="note.signatures")
    check_name(name)
    blob = unbase64(encoded, "note.signatures")
    if len(blob) <= KEY_ID_BYTES:
        raise MalformedError("a signature line holds no signature", field="note.signatures")
    return NoteSignature(name, blob[:KEY_ID_BYTES], blob[KEY_ID_BYTES:])


def _check_text(text: str) -> None:
    if not text.endswith("\n"):
        raise MalformedError("the text of a note ends in a newline", field="note.text")
    if _CONTROL_RE.search(text):
        raise MalformedError("a note has no control characters", field="note.text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise MalformedError("a note is UTF-8", field="note.text") from error


def check_name(name: str) -> None:
    if _NAME_RE.fullmatch(name) is None:
        raise MalformedError("a key's name has no space and no plus sign", field="note.name")
    if _CONTROL_RE.search(name):
        raise MalformedError("a note has no control characters", field="note.name")
