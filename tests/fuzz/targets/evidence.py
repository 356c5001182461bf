"""What executors show to prove something, and what a state says of it.

Where a signature is wanted, an input is what was signed, and the target signs it.
"""

from __future__ import annotations

from typing import Final

from tests.fuzz.harness import attempt, target
from tests.fuzz.targets.proofs import OF_NOBODY

from quorate.api.proving import is_foreign_key, read_evidence
from quorate.client import Challenge, prove_key
from quorate.core import codec
from quorate.core.errors import ConfigurationError, MalformedError
from quorate.core.limits import MAX_ENVELOPE_BYTES
from quorate.core.records import EvidenceKind, Reference
from quorate.core.verifying import VERIFIERS, Asked, failing
from quorate.core.verifying.measurement import STATEMENT_TYPE
from quorate.proofs.signing import sign_envelope
from quorate.testing.builders import IMAGE, ORIGIN, key_for, measurement_evidence

ASKED: Final = Asked(ORIGIN, "spiffe://bank.example/agent/a", "a" * 64)


def _reference(kind: EvidenceKind, **terms: tuple[str, ...]) -> Reference:
    return Reference("bank.example", "name", kind, ("spiffe://bank.example/*",), 1_000, 1, **terms)


_AGENT: Final = key_for("agent").public.hex()
_TERMS: Final = {"signers": (_AGENT,), "images": (IMAGE,), "environments": ("production",)}
_BUILDER: Final = {"builders": ("urn:b",), "builder_keys": (key_for("builder").public.hex(),)}
MEASURED: Final = _reference(EvidenceKind.MEASUREMENT, **_TERMS)
BUILT: Final = _reference(EvidenceKind.MEASUREMENT, **_TERMS, **_BUILDER)
BOUND: Final = _reference(EvidenceKind.SVID)


def _verify(evidence: object, reference: Reference) -> dict[str, str] | None:
    verifier = VERIFIERS[reference.evidence]
    claims = attempt(MalformedError, verifier.verify, evidence, reference, ASKED)
    if claims is not None:
        verifier.check_claims(claims)  # what is proved can be kept
        codec.encode(claims)
        failing(reference, claims, reference.evidence)
    return claims


@target(
    "quorate.core.verifying.svid",
    "quorate.core.verifying.measurement",
    "quorate.api.proving",
    "quorate.core.attesting",
)
def evidence(data: bytes) -> None:
    """An input is evidence, in JSON."""
    value = attempt(MalformedError, codec.decode, data, MAX_ENVELOPE_BYTES)
    if value is None:
        return
    for reference in (MEASURED, BUILT, BOUND):
        _verify(value, reference)
    text = data.decode()
    if attempt(MalformedError, read_evidence, text) is not None:
        names_a_key = isinstance(value, dict) and "key" in value
        assert is_foreign_key(text, {}) == names_a_key, "whose it is is known of nobody here"


@target("quorate.core.verifying.measurement")
def measurement(data: bytes) -> None:
    """An input is a statement, which who counts has signed: measurement, and provenance."""
    by_agent = codec.load(sign_envelope(STATEMENT_TYPE, data, key_for("agent")))
    by_builder = codec.load(sign_envelope(STATEMENT_TYPE, data, key_for("builder")))
    _verify({"measurement": by_agent}, MEASURED)
    _verify({"measurement": by_agent, "provenance": by_builder}, BUILT)


@target("quorate.core.verifying.measurement")
def provenance(data: bytes) -> None:
    """An input is a statement that the builder has signed, beside a good measurement."""
    by_builder = codec.load(sign_envelope(STATEMENT_TYPE, data, key_for("builder")))
    good = measurement_evidence(ASKED, environment="production")
    claims = _verify(good | {"provenance": by_builder}, BUILT)
    assert claims is None or claims["image"] == IMAGE


@target("quorate.client.proving")
def executor_key(data: bytes) -> None:
    """An input is a private key in PEM."""
    asked = Challenge(ASKED.challenge, {}, ASKED.origin, ASKED.executor, 0, 0)
    pem = data.replace(OF_NOBODY, b"PRIVATE KEY")
    proof = attempt(ConfigurationError, prove_key, pem, asked)
    assert proof is None or _verify(proof, BOUND) is not None
