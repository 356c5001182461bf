"""Whether what a state that another node has sent says of proofs can be so."""

from __future__ import annotations

from collections.abc import Mapping

from quorate.core import ids, protocol
from quorate.core.attestation_forms import check_challenge
from quorate.core.errors import MalformedError
from quorate.core.limits import (
    MAX_ATTESTATION_AGE_MS,
    MAX_PATTERNS,
    MAX_REFERENCES_PER_DOMAIN,
    MIN_ATTESTATION_AGE_MS,
)
from quorate.core.patterns import executors_owner
from quorate.core.records import DRIFT, Attestation, Executor, Reference
from quorate.core.status import Status
from quorate.core.verifying import VERIFIERS, verifier_of


def check_reference(reference: Reference, said: Mapping[str, object], version: int) -> None:
    """said: the record as it lies there. Raises MalformedError, as the other."""
    _require(version >= protocol.SECOND, f"{reference.id} is of a later version")
    _require(said == reference.to_json(), f"{reference.id} is in another form")
    ids.check_name(reference.name)
    patterns = reference.executors
    _require(0 < len(patterns) <= MAX_PATTERNS, f"{reference.id} is for nobody, or for too many")
    _require(len({*patterns}) == len(patterns), f"{reference.id} names somebody twice")
    for pattern in patterns:
        owner = executors_owner(pattern)
        _require(owner == reference.domain, f"{reference.id} is for another's executors")
    in_range = MIN_ATTESTATION_AGE_MS <= reference.max_age_ms <= MAX_ATTESTATION_AGE_MS
    _require(in_range, f"{reference.id} lasts too long, or not at all")
    verifier_of(reference).check_reference(reference)


def check_proofs(
    executor: Executor, said: Mapping[str, object], version: int, ledger_time: int
) -> None:
    """What an executor has proved, and was asked."""
    _require(said == executor.to_json(), f"{executor.id} is in another form")
    says_more = executor.suspended_by_domain or executor.failed_at
    has_any = executor.suspended_for or says_more or executor.attestations or executor.challenge
    _require(not has_any or version >= protocol.SECOND, f"{executor.id} is of a later version")
    cause = executor.suspended_for
    _require(cause or not says_more, f"{executor.id} does not say what it failed in")
    if cause:
        is_suspended = executor.status is Status.SUSPENDED
        _require(is_suspended, f"{executor.id} is not suspended, and says why it is")
        domain, _, name = cause.partition("/")
        if cause != DRIFT:
            _require(
                domain == executor.domain, f"{executor.id} is suspended for another's reference"
            )
            ids.check_name(name)
    names = [each.reference for each in executor.attestations]
    _require(names == sorted({*names}), f"{executor.id} has proved something twice")
    _require(len(names) <= MAX_REFERENCES_PER_DOMAIN, f"{executor.id} has proved too much")
    for each in executor.attestations:
        _check_attestation(executor, each, ledger_time)
    if executor.challenge is not None:
        check_challenge(executor.challenge.text)
        is_past = executor.challenge.at <= ledger_time
        _require(is_past, f"{executor.id} was asked in the future")


def _check_attestation(executor: Executor, attestation: Attestation, ledger_time: int) -> None:
    ids.check_name(attestation.reference)
    VERIFIERS[attestation.evidence].check_claims(dict(attestation.claims))
    is_past = attestation.challenged_at <= ledger_time
    _require(is_past, f"{executor.id} has proved something in the future")


def _require(holds: object, problem: str) -> None:
    if not holds:
        raise MalformedError(problem)
