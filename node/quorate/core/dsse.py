"""DSSE envelopes with Ed25519 signatures, and which public keys are fit to verify with.

Owns parsing, the pre-authentication encoding and verification
(https://github.com/secure-systems-lab/dsse, protocol.md). Does not sign, and does not know whose
key is whose.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from quorate.core import codec
from quorate.core.errors import MalformedError
from quorate.core.fields import Fields, unbase64
from quorate.core.ids import check_command_id as check_keyid
from quorate.core.limits import MAX_SIGNATURES

COMMAND_TYPE: Final = "application/vnd.quorate.command.v1+json"
DESCRIPTOR_TYPE: Final = "application/vnd.quorate.descriptor.v1+json"
GENESIS_TYPE: Final = "application/vnd.quorate.genesis.v1+json"
RECOVERY_TYPE: Final = "application/vnd.quorate.recovery.v1+json"

PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
_PAYLOAD_TYPE_RE: Final = re.compile(r"[a-z0-9.+/-]{1,128}")

# The curve of RFC 8032 section 5.1: field prime p, and d of -x^2 + y^2 = 1 + d x^2 y^2.
_P: Final = 2**255 - 19
_D: Final = -121665 * pow(121666, -1, _P) % _P
_Y_OF_ORDER_8: Final = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_LOW_ORDER_Y: Final = frozenset((0, 1, _P - 1, _Y_OF_ORDER_8, _P - _Y_OF_ORDER_8))
"""The y of the eight points whose order divides 8: their `private key` is known to everybody."""


@dataclass(frozen=True, slots=True)
class Signature:
    keyid: str
    sig: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A parsed envelope. Nothing about it is verified but its form."""

    payload: bytes
    payload_type: str
    signatures: tuple[Signature, ...]

    def verify(self, public_key: bytes) -> bool:
        """Whether the envelope carries a good signature of this key."""
        keyid = key_id(public_key)
        return any(
            signature.keyid == keyid
            and verify_bytes(public_key, signature.sig, pae(self.payload_type, self.payload))
            for signature in self.signatures
        )

    def to_json(self) -> dict[str, codec.JsonValue]:
        """The JSON object that it was parsed from."""
        return {
            "payload": b64encode(self.payload).decode("ascii"),
            "payloadType": self.payload_type,
            "signatures": [
                {"keyid": signature.keyid, "sig": b64encode(signature.sig).decode("ascii")}
                for signature in self.signatures
            ],
        }

    def to_bytes(self) -> bytes:
        return codec.encode(self.to_json())


def parse(
    data: bytes, max_bytes: int, *, draft: bool = False, most: int = MAX_SIGNATURES
) -> Envelope:
    """Parses an envelope in canonical JSON. A draft may lack signatures. most: how many there can
    be. Raises MalformedError."""
    return from_json(codec.decode(data, max_bytes), draft=draft, most=most)


def from_json(
    value: object, path: str = "", *, draft: bool = False, most: int = MAX_SIGNATURES
) -> Envelope:
    """Parses an envelope that is part of a decoded document. Raises MalformedError."""
    fields = Fields(value, path)
    payload = unbase64(fields.text("payload"), fields.at("payload"))
    payload_type = fields.text("payloadType", _check_payload_type)
    items = fields.objects("signatures", 0 if draft else 1, most)
    fields.done()
    signatures: dict[str, Signature] = {}
    for index, item in enumerate(items):
        part = Fields(item, fields.at(f"signatures[{index}]"))
        keyid = part.text("keyid", check_keyid)
        sig = unbase64(part.text("sig"), part.at("sig"))
        part.done()
        if len(sig) != SIGNATURE_BYTES:
            raise MalformedError(f"must be {SIGNATURE_BYTES} bytes", field=part.at("sig"))
        if keyid in signatures:
            raise MalformedError("has signed twice", field=part.at("keyid"))
        signatures[keyid] = Signature(keyid, sig)
    return Envelope(payload, payload_type, tuple(signatures.values()))


def pae(payload_type: str, payload: bytes) -> bytes:
    """The bytes that are signed: DSSE's pre-authentication encoding."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def key_id(public_key: bytes) -> str:
    return hashlib.sha256(public_key).hexdigest()


def verify_bytes(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Ed25519 (RFC 8032 section 5.1.7, without cofactor). False for an unusable key, too."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def check_public_key(raw: bytes) -> None:
    """Raises MalformedError unless `raw` is the canonical encoding (RFC 8032 section 5.1.2) of a
    point of the curve that is not of low order."""
    if len(raw) != PUBLIC_KEY_BYTES:
        raise MalformedError(f"a public key has {PUBLIC_KEY_BYTES} bytes")
    y = int.from_bytes(raw, "little") & (2**255 - 1)
    if y >= _P:
        raise MalformedError("not the canonical encoding of a public key")
    if y in _LOW_ORDER_Y:
        raise MalformedError("a public key of low order, with which anybody can sign")
    # x^2 = (y^2 - 1) / (d y^2 + 1) must be a square (Euler's criterion); the quotient and the
    # product of two numbers are squares together.
    square = (y * y - 1) * (_D * y * y + 1) % _P
    if pow(square, (_P - 1) // 2, _P) != 1:
        raise MalformedError("a public key that is no point of the curve")


def parse_public_key(text: str) -> bytes:
    """The 32 bytes of a public key in lower-case hex. Raises MalformedError."""
    check_keyid(text)  # the same syntax: 64 lower-case hex digits
    raw = bytes.fromhex(text)
    check_public_key(raw)
    return raw


def _check_payload_type(text: str) -> None:
    if _PAYLOAD_TYPE_RE.fullmatch(text) is None:
        raise MalformedError("must be a media type")
