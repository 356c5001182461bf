"""Cosignatures (https://c2sp.org/tlog-cosignature, `cosignature/v1`): whoever signs one has seen
the log grow to this checkpoint, and says when.

Owns their bytes and whether a key has signed one. Whose cosignatures are enough is said by a policy
(`quorate.proofs.policy`); what a cosigner must have checked before it signs, by whoever signs.
"""

from __future__ import annotations

from typing import Final

from quorate.core import dsse
from quorate.core.errors import MalformedError
from quorate.proofs import note
from quorate.proofs.signing import Signer
from quorate.proofs.vkey import COSIGNATURE, VerifierKey

MAX_TIMESTAMP: Final = 2**63 - 1
TIMESTAMP_BYTES: Final = 8


def cosign(text: str, name: str, key: Signer, timestamp: int) -> note.NoteSignature:
    """The signature line of a cosigner under the text of a checkpoint.

    timestamp: seconds since the epoch, of now. Raises MalformedError for a name that no line can
    have, or a time that no cosignature can.
    """
    note.check_name(name)
    if not 0 <= timestamp <= MAX_TIMESTAMP:
        raise MalformedError("is no time of a cosignature", field="timestamp")
    stamped = timestamp.to_bytes(TIMESTAMP_BYTES, "big") + key.sign(_message(text, timestamp))
    return note.NoteSignature(name, VerifierKey(name, COSIGNATURE, key.public).key_id, stamped)


def cosigned_at(parsed: note.Note, key: VerifierKey) -> int | None:
    """When the key has cosigned a checkpoint, in seconds since the epoch; None when it has not.

    None, too, as soon as one line names this key and is not its cosignature, and when more than
    one does: such a note was tampered with.
    """
    lines = [
        line for line in parsed.signatures if (line.name, line.key_id) == (key.name, key.key_id)
    ]
    if len(lines) != 1 or key.kind != COSIGNATURE:
        return None
    blob = lines[0].signature
    timestamp = int.from_bytes(blob[:TIMESTAMP_BYTES], "big")
    if len(blob) != TIMESTAMP_BYTES + dsse.SIGNATURE_BYTES or timestamp > MAX_TIMESTAMP:
        return None
    try:
        dsse.check_public_key(key.public)
    except MalformedError:
        return None
    message = _message(parsed.text, timestamp)
    is_good = dsse.verify_bytes(key.public, blob[TIMESTAMP_BYTES:], message)
    return timestamp if is_good else None


def _message(text: str, timestamp: int) -> bytes:
    return f"cosignature/v1\ntime {timestamp}\n{text}".encode()
