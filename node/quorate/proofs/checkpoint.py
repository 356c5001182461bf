"""Checkpoints (https://c2sp.org/tlog-checkpoint): origin, size and root of a tree, signed.

Owns their form and the check that a log's own key signed one. Does not know which key is the log's,
nor compares two checkpoints: that takes a consistency proof (`quorate.proofs.merkle`).
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass
from typing import Final

from quorate.core.errors import MalformedError
from quorate.core.fields import unbase64
from quorate.proofs import merkle, note
from quorate.proofs.signing import SigningKey

# Not int() alone, which takes 1_000, +1, 0001 and the digits of every script.
_SIZE_RE: Final = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of a log: `size` leaves under `root`, in the log `origin`."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()
    """Opaque further lines. Quorate writes none, and shows those of others unchanged."""

    def body(self) -> str:
        """The text of the note. Parsing it gives this checkpoint back."""
        encoded = b64encode(self.root).decode("ascii")
        return "".join(f"{line}\n" for line in (self.origin, self.size, encoded, *self.extensions))


def parse_checkpoint(text: str) -> Checkpoint:
    """Parses the text of a checkpoint's note. Raises `MalformedError`."""
    lines = text.split("\n")
    if len(lines) < 4 or lines.pop() or not all(lines):
        raise MalformedError("at least three lines, none empty", field="checkpoint")
    origin, size, root, *extensions = lines
    if _SIZE_RE.fullmatch(size) is None or int(size) > merkle.MAX_TREE_SIZE:
        raise MalformedError("must be a decimal number", field="checkpoint.size")
    checkpoint = Checkpoint(origin, int(size), unbase64(root, "checkpoint.root"), tuple(extensions))
    if len(checkpoint.root) != merkle.HASH_BYTES:
        raise MalformedError(f"must be {merkle.HASH_BYTES} bytes", field="checkpoint.root")
    if checkpoint.size == 0 and checkpoint.root != merkle.EMPTY_ROOT:
        raise MalformedError("is not the root of the empty tree", field="checkpoint.root")
    return checkpoint


def sign_checkpoint(checkpoint: Checkpoint, *keys: SigningKey) -> str:
    """The note of a checkpoint, signed as its log: the key's name is the origin."""
    text = checkpoint.body()
    parse_checkpoint(text)  # what is signed must be what others can read
    return note.sign_note(text, checkpoint.origin, *keys)


def open_checkpoint(data: str | bytes, origin: str, public_key: bytes) -> Checkpoint:
    """The checkpoint in a note that the log `origin`, whose key is `public_key`, has signed.

    Raises `MalformedError` for everything else: another log's checkpoint, a signature under another
    name than the origin, a signature that is not good.
    """
    parsed = note.parse_note(data)
    checkpoint = parse_checkpoint(parsed.text)
    if checkpoint.origin != origin:
        raise MalformedError("is another log's", field="checkpoint.origin")
    if not note.verify_note(parsed, origin, public_key):
        raise MalformedError("the log's key has not signed it", field="checkpoint")
    return checkpoint
