"""How the bodies of commands about proofs are read.

Owns their form, as `quorate.core.forms` owns that of the others; what of a reference is a kind of
evidence's own is read by its verifier. Evidence itself is looked at when the command is executed.
"""

from __future__ import annotations

from quorate.core import codec, ids, patterns
from quorate.core.bodies import (
    Body,
    ChallengeExecutor,
    ReportAttestation,
    ReportDrift,
    RetireReference,
    SetReference,
)
from quorate.core.errors import MalformedError
from quorate.core.fields import Fields
from quorate.core.limits import (
    MAX_ATTESTATION_AGE_MS,
    MAX_PATTERNS,
    MIN_ATTESTATION_AGE_MS,
)
from quorate.core.records import EvidenceKind
from quorate.core.verifying import VERIFIERS


def set_reference(body: Fields) -> Body:
    evidence = EvidenceKind(body.text("evidence", check_kind))
    return SetReference(
        reference=body.text("reference", ids.check_name),
        evidence=evidence,
        executors=body.texts("executors", patterns.check_executor_pattern, MAX_PATTERNS),
        max_age_ms=body.integer("max_age_ms", MIN_ATTESTATION_AGE_MS, MAX_ATTESTATION_AGE_MS),
        terms=VERIFIERS[evidence].read_reference(body),
    )


def retire_reference(body: Fields) -> Body:
    return RetireReference(body.text("reference", ids.check_name))


def challenge_executor(body: Fields) -> Body:
    return ChallengeExecutor(body.text("executor", ids.check_executor))


def report_attestation(body: Fields) -> Body:
    evidence = body.take("evidence")
    if not isinstance(evidence, dict):
        raise MalformedError("must be an object", field=body.at("evidence"))
    return ReportAttestation(
        executor=body.text("executor", ids.check_executor),
        reference=body.text("reference", ids.check_name),
        challenge=body.text("challenge", check_challenge),
        evidence=codec.encode(evidence).decode("utf-8"),
    )


def report_drift(body: Fields) -> Body:
    return ReportDrift(body.text("executor", ids.check_executor))


def check_kind(text: str) -> None:
    if text not in list(EvidenceKind):
        raise MalformedError(f"must be one of {', '.join(EvidenceKind)}")


def check_challenge(text: str) -> None:
    ids.check_command_id(text)  # the same syntax: 64 lower-case hex digits
