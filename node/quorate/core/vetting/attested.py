"""Whether what a state that another node has sent says of proofs can be so."""

from __future__ import annotations

from collections.abc import Mapping

from quorate.core import ids, protocol
from quorate.core.attestation_forms import check_challenge
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
from quorate.core.vetting.bounds import Bounds, require


def check_reference(reference: Reference, said: Mapping[str, object], bounds: Bounds) -> None:
    """said: the record as it lies there. Raises MalformedError, as the other."""
    require(bounds.version >= protocol.SECOND, f"{reference.id} is of a later version")
    require(said == reference.to_json(), f"{reference.id} is in another form")
    ids.check_name(reference.name)
    patterns = reference.executors
    require(0 < len(patterns) <= MAX_PATTERNS, f"{reference.id} is for nobody, or for too many")
    require(len({*patterns}) == len(patterns), f"{reference.id} names somebody twice")
    for pattern in patterns:
        owner = executors_owner(pattern)
        require(owner == reference.domain, f"{reference.id} is for another's executors")
    in_range = MIN_ATTESTATION_AGE_MS <= reference.max_age_ms <= MAX_ATTESTATION_AGE_MS
    require(in_range, f"{reference.id} lasts too long, or not at all")
    bounds.check_index(reference.changed, reference.id)
    verifier_of(reference).check_reference(reference)


def check_proofs(executor: Executor, said: Mapping[str, object], bounds: Bounds) -> None:
    """What an executor has proved, and was asked."""
    require(said == executor.to_json(), f"{executor.id} is in another form")
    says_more = executor.suspended_by_domain or executor.failed_at > 0
    has_any = executor.suspended_for or says_more or executor.attestations or executor.challenge
    require(
        not has_any or bounds.version >= protocol.SECOND, f"{executor.id} is of a later version"
    )
    cause = executor.suspended_for
    require(bool(cause) or not says_more, f"{executor.id} does not say what it failed in")
    bounds.check_index(executor.failed_at, f"what {executor.id} failed in")
    if cause:
        is_suspended = executor.status is Status.SUSPENDED
        require(is_suspended, f"{executor.id} is not suspended, and says why it is")
        domain, _, name = cause.partition("/")
        if cause != DRIFT:
            require(
                domain == executor.domain, f"{executor.id} is suspended for another's reference"
            )
            ids.check_name(name)
    names = [each.reference for each in executor.attestations]
    require(names == sorted({*names}), f"{executor.id} has proved something twice")
    require(len(names) <= MAX_REFERENCES_PER_DOMAIN, f"{executor.id} has proved too much")
    for each in executor.attestations:
        _check_attestation(executor, each, bounds)
    if executor.challenge is not None:
        check_challenge(executor.challenge.text)
        bounds.check_moment(executor.challenge.at, f"a challenge of {executor.id}")


def _check_attestation(executor: Executor, attestation: Attestation, bounds: Bounds) -> None:
    ids.check_name(attestation.reference)
    VERIFIERS[attestation.evidence].check_claims(dict(attestation.claims))
    what = f"a proof of {executor.id}"
    bounds.check_moment(attestation.challenged_at, what)
    bounds.check_index(attestation.reported, what)
