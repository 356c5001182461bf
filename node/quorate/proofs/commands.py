"""Building and signing commands: what a tool sends to the ledger.

Owns the payload of a command and its envelope. Pure: the caller brings nonce, time and key. Does
not judge a command (see `quorate.core.transitions`); a body that makes no sense is signed as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quorate.core import codec, ids
from quorate.core.dsse import COMMAND_TYPE
from quorate.core.errors import MalformedError
from quorate.core.limits import MAX_ENVELOPE_BYTES, MAX_INTEGER, PROTOCOL_VERSION
from quorate.proofs.signing import Signer, sign_envelope


def build_command(
    *,
    origin: str,
    issuer: str,
    command_type: str,
    body: Mapping[str, object],
    nonce: str,
    not_after: int,
    key: Signer,
    also_signed_by: Sequence[Signer] = (),
) -> bytes:
    """The signed envelope of one command for the ledger `origin`. Submitting it again is harmless.

    issuer: a domain, or a node for lease commands; `key` is the issuer's. also_signed_by: whoever
    else has to sign. command_type:
    `executor.register` for example. nonce: 16 to 64 lower-case hex digits, never used before by
    this issuer for another command. not_after: ledger time, milliseconds. Raises MalformedError.
    """
    ids.check_origin(origin)
    ids.check_nonce(nonce)
    if not 0 <= not_after <= MAX_INTEGER:
        raise MalformedError(f"must be within 0 and {MAX_INTEGER}", field="not_after")
    payload = codec.encode(
        {
            "v": PROTOCOL_VERSION,
            "origin": origin,
            "type": command_type,
            "issuer": issuer,
            "nonce": nonce,
            "not_after": not_after,
            "body": dict(body),
        }
    )
    envelope = sign_envelope(COMMAND_TYPE, payload, key, *also_signed_by)
    if len(envelope) > MAX_ENVELOPE_BYTES:
        raise MalformedError(
            f"the command has {len(envelope)} bytes, at most {MAX_ENVELOPE_BYTES} are allowed",
            hint="name fewer or shorter patterns",
        )
    return envelope
