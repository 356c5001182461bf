"""Building and signing commands: what a tool sends to the ledger.

Owns the payload of a command and its envelope. Pure: the caller brings nonce, time and key. Does
not judge a command (see `quorate.core.transitions`); a body that makes no sense is signed as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quorate.core import codec, ids
from quorate.core.dsse import COMMAND_TYPE
from quorate.core.errors import MalformedError
from quorate.core.limits import MAX_ENVELOPE_BYTES, MAX_INTEGER, PROTOCOL_VERSION
from quorate.proofs.signing import SigningKey, sign_envelope


@dataclass(frozen=True, slots=True)
class SignedCommand:
    """A command ready to submit. Submitting the same bytes again is harmless."""

    envelope: bytes
    command_id: str


def build_command(
    key: SigningKey,
    *,
    origin: str,
    kind: str,
    issuer: str,
    nonce: str,
    not_after_ms: int,
    body: Mapping[str, object],
) -> SignedCommand:
    """Signs one command for the ledger `origin`.

    kind: its type, `executor.register` for example. issuer: a domain, or a node for lease commands;
    `key` is the issuer's. nonce: 16 to 64 lower-case hex digits, never used before by this issuer
    for another command. not_after_ms: ledger time. Raises MalformedError.
    """
    ids.check_origin(origin)
    ids.check_nonce(nonce)
    if not 0 <= not_after_ms <= MAX_INTEGER:
        raise MalformedError(f"must be within 0 and {MAX_INTEGER}", field="not_after")
    payload = codec.encode(
        {
            "v": PROTOCOL_VERSION,
            "origin": origin,
            "type": kind,
            "issuer": issuer,
            "nonce": nonce,
            "not_after": not_after_ms,
            "body": dict(body),
        }
    )
    envelope = sign_envelope(COMMAND_TYPE, payload, key)
    if len(envelope) > MAX_ENVELOPE_BYTES:
        raise MalformedError(
            f"the command has {len(envelope)} bytes, at most {MAX_ENVELOPE_BYTES} are allowed",
            hint="name fewer or shorter patterns",
        )
    return SignedCommand(envelope, ids.command_id(issuer, nonce))
