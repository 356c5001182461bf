"""What an executor proves of itself, as the client asks for it and sends it.

Owns the requests about proofs, and the proof of a key. How a call is repeated until its outcome is
known is `quorate.client.calls`'.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from quorate.client.calls import Calls, Steps
from quorate.client.decisions import Attested, Challenge, ClientReason, Denied
from quorate.core import codec
from quorate.core.errors import ConfigurationError, MalformedError
from quorate.core.verifying import Asked
from quorate.core.verifying.svid import asked_bytes
from quorate.v1 import lease_pb2


def challenge(calls: Calls, timeout_ms: int) -> Steps[Challenge | Denied]:
    request = lease_pb2.ChallengeRequest(request_id=calls.new_request_id())
    answer: lease_pb2.ChallengeResponse | Denied = yield from calls.until_settled(
        "Challenge", request, request.request_id, timeout_ms
    )
    if isinstance(answer, Denied):
        return answer
    return Challenge(
        text=answer.challenge,
        references=dict(answer.references),
        origin=answer.origin,
        executor=answer.executor,
        expires_at_ms=answer.expires_at_ms,
        ledger_index=answer.outcome.ledger_index,
    )


def attest(
    calls: Calls, reference: str, challenge: str, evidence: Mapping[str, object], timeout_ms: int
) -> Steps[Attested | Denied]:
    try:
        request = lease_pb2.AttestRequest(
            reference=reference,
            challenge=challenge,
            evidence=codec.encode(dict(evidence)).decode("utf-8"),
            request_id=calls.new_request_id(),
        )
    except (MalformedError, TypeError, ValueError) as error:
        return Denied(ClientReason.INVALID_REQUEST, detail=str(error))
    answer: lease_pb2.AttestResponse | Denied = yield from calls.until_settled(
        "Attest", request, request.request_id, timeout_ms
    )
    if isinstance(answer, Denied):
        return answer
    return Attested(reference, answer.fresh_until_ms, answer.outcome.ledger_index)


def report_drift(calls: Calls, timeout_ms: int) -> Steps[int | Denied]:
    """Answers with the entry's index."""
    request = lease_pb2.ReportDriftRequest(request_id=calls.new_request_id())
    answer: lease_pb2.ReportDriftResponse | Denied = yield from calls.until_settled(
        "ReportDrift", request, request.request_id, timeout_ms
    )
    return answer if isinstance(answer, Denied) else answer.outcome.ledger_index


def prove_key(pem: bytes, challenge: Challenge) -> dict[str, object]:
    """The proof that its maker holds a private key (PEM, Ed25519 or ECDSA on P-256). Raises
    ConfigurationError for any other key."""
    hint = "the executor's key is an Ed25519 or a P-256 key, in PEM and not encrypted"
    try:
        private = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # The library's message may quote the file.
        raise ConfigurationError("the private key cannot be read", hint=hint) from error
    asked = asked_bytes(Asked(challenge.origin, challenge.executor, challenge.text))
    if isinstance(private, Ed25519PrivateKey):
        signature = private.sign(asked)
    elif isinstance(private, ec.EllipticCurvePrivateKey) and isinstance(
        private.curve, ec.SECP256R1
    ):
        r, s = decode_dss_signature(private.sign(asked, ec.ECDSA(hashes.SHA256())))
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    else:
        raise ConfigurationError("such a key cannot be proved", hint=hint)
    key = private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    in_text = {"key": key, "signature": signature}
    return {name: b64encode(data).decode("ascii") for name, data in in_text.items()}
