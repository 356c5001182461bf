"""Proofs in one text file (https://c2sp.org/tlog-proof): an entry's place in a log, and the
checkpoint under which it is there.

Owns the form. The entry itself travels in `extra`, which the format does not authenticate: whoever
verifies hashes it. Nothing is verified here but the form (`quorate.proofs.verifying`).
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass
from typing import Final

from quorate.core.errors import MalformedError
from quorate.core.fields import unbase64
from quorate.core.limits import MAX_ENTRY_BYTES
from quorate.proofs import merkle, note

HEADER: Final = "c2sp.org/tlog-proof@v1"
SUFFIX: Final = ".tlog-proof"
MAX_HASHES: Final = 63
"""Of a path in the largest tree that there may be."""
MAX_PROOF_BYTES: Final = note.MAX_NOTE_BYTES + 2 * MAX_ENTRY_BYTES + 8 * 1024
_INDEX_RE: Final = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True)
class TlogProof:
    """index: of the entry, from 0. hashes: from the leaf's sibling to the root's child, 32 bytes
    each. checkpoint: the signed note, as it was issued. extra: the entry; None: it is not here."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: str
    extra: bytes | None = None

    def encode(self) -> str:
        """The text of the file."""
        head = [HEADER]
        if self.extra is not None:
            head.append(f"extra {b64encode(self.extra).decode('ascii')}")
        head.append(f"index {self.index}")
        head += [b64encode(each).decode("ascii") for each in self.hashes]
        return "\n".join(head) + "\n\n" + self.checkpoint


def parse_proof(data: bytes) -> TlogProof:
    """Raises MalformedError for anything that is not exactly a proof."""
    if len(data) > MAX_PROOF_BYTES:
        raise MalformedError(f"a proof has at most {MAX_PROOF_BYTES} bytes", field="proof")
    try:
        whole = data.decode()
    except UnicodeDecodeError as error:
        raise MalformedError("a proof is UTF-8", field="proof") from error
    head, separator, checkpoint = whole.partition("\n\n")
    lines = head.split("\n")
    if lines.pop(0) != HEADER:
        raise MalformedError(f"does not begin with {HEADER}", field="proof")
    if not separator:
        raise MalformedError("holds no checkpoint", field="proof")
    extra = None
    if lines and lines[0].startswith("extra "):
        extra = unbase64(lines.pop(0).removeprefix("extra "), "proof.extra")
    told = lines.pop(0).removeprefix("index ") if lines and lines[0].startswith("index ") else ""
    if _INDEX_RE.fullmatch(told) is None or int(told) >= merkle.MAX_TREE_SIZE:
        raise MalformedError("must be a decimal number", field="proof.index")
    if len(lines) > MAX_HASHES:
        raise MalformedError(f"a path has at most {MAX_HASHES} hashes", field="proof.hashes")
    hashes = tuple(unbase64(line, "proof.hashes") for line in lines)
    if any(len(each) != merkle.HASH_BYTES for each in hashes):
        raise MalformedError(f"must be {merkle.HASH_BYTES} bytes each", field="proof.hashes")
    note.parse_note(checkpoint)
    return TlogProof(int(told), hashes, checkpoint, extra)
