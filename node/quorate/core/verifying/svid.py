"""Bound keys: whoever reports holds the key of the executor's X.509-SVID.

Owns the form of that proof: the public key, and a signature by it over what was asked. No
certificate is parsed here, for no two libraries take the same bytes for one (docs/adr/0029): that
the key is the executor's by a certificate of its domain's CA is seen by the node that the executor
reports to, from the connection itself; that it is one of those that a reference names, if it names
any, and that its holder was asked, is seen here, by every node.

Keys are DER (RFC 5280, SubjectPublicKeyInfo) in the one encoding that each sort has: Ed25519
(RFC 8410) and ECDSA on P-256 (RFC 5480, uncompressed point), compared byte for byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from quorate.core import codec, dsse
from quorate.core.errors import MalformedError
from quorate.core.fields import Fields, unbase64
from quorate.core.limits import MAX_ACCEPTED
from quorate.core.records import Reference
from quorate.core.verifying.base import Asked, check_digest, only

PROOF_TYPE: Final = "application/vnd.quorate.proof-of-key.v1+json"
SIGNATURE_BYTES: Final = 64
"""Of both sorts: Ed25519's (RFC 8032), and r and s of ECDSA in 32 bytes each (RFC 7518, 3.4)."""

_ED25519: Final = bytes.fromhex("302a300506032b6570032100")
_P256: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
_COORDINATE: Final = 32

# The curve of SP 800-186, 3.2.1.3: y^2 = x^3 - 3 x + b mod p, and the order n of its group.
_P: Final = 2**256 - 2**224 + 2**192 + 2**96 - 1
_B: Final = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
_N: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class SvidVerifier:
    """See `Verifier`."""

    def read_reference(self, body: Fields) -> dict[str, tuple[str, ...]]:
        if not body.has("keys"):
            return {}
        return {"keys": body.texts("keys", check_digest, MAX_ACCEPTED)}

    def check_reference(self, reference: Reference) -> None:
        self.read_reference(Fields({"keys": list(reference.keys)} if reference.keys else {}))
        others = ("signers", "images", "measurements", "environments", "builders", "builder_keys")
        for name in others:
            if getattr(reference, name):
                raise MalformedError("is not of an svid", field=name)

    def verify(self, evidence: object, reference: Reference, asked: Asked) -> dict[str, str]:
        fields = Fields(evidence, "evidence")
        key = unbase64(fields.text("key"), fields.at("key"))
        signature = unbase64(fields.text("signature"), fields.at("signature"))
        fields.done()
        if not verify_signature(key, signature, asked_bytes(asked)):
            raise MalformedError("is no good signature of the key", field=fields.at("signature"))
        return {"key": hashlib.sha256(key).hexdigest()}

    def check_claims(self, claims: Mapping[str, str]) -> None:
        only(claims, ("key",))
        check_digest(claims.get("key", ""))

    def failing(self, reference: Reference, claims: Mapping[str, str]) -> str:
        is_any = not reference.keys and "key" in claims
        return "" if is_any or claims.get("key") in reference.keys else "key"


def asked_bytes(asked: Asked) -> bytes:
    """What the key signs."""
    said = {"origin": asked.origin, "executor": asked.executor, "challenge": asked.challenge}
    return dsse.pae(PROOF_TYPE, codec.encode(said))


def verify_signature(key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether it is a good signature of this public key. Raises MalformedError for a key that is
    none of the two sorts."""
    if len(signature) != SIGNATURE_BYTES:
        return False
    if key.startswith(_ED25519):
        raw = key[len(_ED25519) :]
        dsse.check_public_key(raw)
        return dsse.verify_bytes(raw, signature, message)
    if not key.startswith(_P256) or len(key) != len(_P256) + 2 * _COORDINATE:
        raise MalformedError("is no Ed25519 or P-256 public key in DER", field="evidence.key")
    x, y = _two_numbers(key[len(_P256) :])
    if max(x, y) >= _P or (y * y - (x * x * x - 3 * x + _B)) % _P != 0:
        raise MalformedError("is no point of the curve", field="evidence.key")
    r, s = _two_numbers(signature)
    if not (0 < r < _N and 0 < s < _N):
        return False
    public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    try:
        public.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _two_numbers(data: bytes) -> tuple[int, int]:
    half = len(data) // 2
    return int.from_bytes(data[:half], "big"), int.from_bytes(data[half:], "big")
