"""Verifier keys (https://c2sp.org/signed-note#verifier-keys): a public key under the name that it
signs under, in one line of text.

Owns their form, and which kinds there are here. Whom to trust is said by who lists them
(`quorate.proofs.policy`).
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
from quorate.proofs import note

ED25519: Final = 1
"""Signs notes as a log does."""
COSIGNATURE: Final = 4
"""Signs as a cosigner does, with the time (https://c2sp.org/tlog-cosignature)."""
KINDS: Final = frozenset({ED25519, COSIGNATURE})
_KEY_ID_RE: Final = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """An Ed25519 public key (32 raw bytes) of one of the kinds above, under its name."""

    name: str
    kind: int
    public: bytes

    @property
    def key_id(self) -> bytes:
        """The four bytes by which a signature line names it. A hint, not a commitment."""
        named = self.name.encode() + b"\n" + bytes([self.kind]) + self.public
        return hashlib.sha256(named).digest()[: note.KEY_ID_BYTES]

    def encode(self) -> str:
        """The line: name, key id and key."""
        key = b64encode(bytes([self.kind]) + self.public).decode("ascii")
        return f"{self.name}+{self.key_id.hex()}+{key}"


def parse_vkey(text: str) -> VerifierKey:
    """Raises MalformedError for what is no verifier key, whose key id is another key's, or whose
    key nobody should trust: of low order, or not in its one encoding."""
    name, _, rest = text.partition("+")
    told, _, encoded = rest.partition("+")
    note.check_name(name)
    if _KEY_ID_RE.fullmatch(told) is None:
        raise MalformedError("has no key id of eight lower-case hex digits", field="vkey")
    raw = unbase64(encoded, "vkey")
    if not raw or raw[0] not in KINDS:
        raise MalformedError("is a key of a kind that is not known here", field="vkey")
    dsse.check_public_key(raw[1:])
    key = VerifierKey(name, raw[0], raw[1:])
    if key.key_id.hex() != told:
        raise MalformedError("has the key id of another key", field="vkey")
    return key
