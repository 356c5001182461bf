"""The commands about proofs: what a domain wants proved, and what its executors prove.

Owns what they change. A proof that equals the reference is recorded; one that does not, though
somebody whose word counts has signed it, suspends the executor at once: it is not what it was, and
says so itself. What proves nothing is denied, and changes nothing: otherwise anybody could have an
executor suspended. Only whoever is asked can answer, once, and soon.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from quorate.core import codec, ids, state
from quorate.core.bodies import (
    ChallengeExecutor,
    ReportAttestation,
    ReportDrift,
    RetireReference,
    SetReference,
)
from quorate.core.errors import MalformedError
from quorate.core.governing import may_widen
from quorate.core.limits import MAX_CHALLENGE_AGE_MS, MAX_REFERENCES_PER_DOMAIN
from quorate.core.outcome import Deny, Reason
from quorate.core.patterns import executors_owner
from quorate.core.records import DRIFT, Attestation, Challenge, Executor, Reference
from quorate.core.status import Status
from quorate.core.turn import Done, Turn, Verdict
from quorate.core.verifying import Asked, failing, verifier_of


def set_reference(turn: Turn, body: SetReference) -> Verdict:
    """One more only narrows. Another in the place of one that is there may do both."""
    domain = turn.domain
    reference = Reference(
        domain=domain.id,
        name=body.reference,
        evidence=body.evidence,
        executors=body.executors,
        max_age_ms=body.max_age_ms,
        changed=turn.seq,
        **body.terms,
    )
    if any(executors_owner(pattern) != domain.id for pattern in body.executors):
        return Deny(Reason.NOT_AUTHORIZED, reference.id)
    before = turn.view.reference(domain.id, body.reference)
    if before is None:
        if domain.references >= MAX_REFERENCES_PER_DOMAIN:
            return Deny(Reason.LIMIT_EXCEEDED, domain.id)
        state.save_domain(turn.store, replace(domain, references=domain.references + 1))
    else:
        refusal = may_widen(turn)
        if refusal is not None:
            return refusal
        if before == replace(reference, changed=before.changed):
            return Deny(Reason.ILLEGAL_TRANSITION, reference.id)
    state.save_reference(turn.store, reference)
    return Done.named(reference.id)


def retire_reference(turn: Turn, body: RetireReference) -> Verdict:
    domain = turn.domain
    reference = turn.view.reference(domain.id, body.reference)
    if reference is None:
        return Deny(Reason.NOT_FOUND, f"{domain.id}/{body.reference}")
    refusal = may_widen(turn)
    if refusal is not None:
        return refusal
    state.drop_reference(turn.store, reference)
    state.save_domain(turn.store, replace(domain, references=domain.references - 1))
    return Done.named(reference.id)


def challenge_executor(turn: Turn, body: ChallengeExecutor) -> Verdict:
    """Nobody but the node knows what it will be before the node has signed the command: the node's
    signature is in it. So what quotes it was made after that."""
    executor = _own_executor(turn, body.executor)
    if isinstance(executor, Deny):
        return executor
    covering = [each for each in turn.view.references(turn.domain.id) if each.covers(executor.id)]
    if not covering:
        return Deny(Reason.NOT_FOUND, executor.id)
    said = ["challenge", turn.command.origin, executor.id, turn.seq, turn.envelope.to_json()]
    challenge = Challenge(hashlib.sha256(codec.encode(said)).hexdigest(), turn.ledger_time)
    state.save_executor(turn.store, replace(executor, challenge=challenge))
    result = {
        "id": executor.id,
        "origin": turn.command.origin,
        "challenge": challenge.text,
        "expires_at": challenge.at + MAX_CHALLENGE_AGE_MS,
        "references": {each.name: each.evidence.value for each in covering},
    }
    return Done(executor.id, result)


def report_attestation(turn: Turn, body: ReportAttestation) -> Verdict:
    executor = _own_executor(turn, body.executor)
    if isinstance(executor, Deny):
        return executor
    reference = turn.view.reference(turn.domain.id, body.reference)
    if reference is None or not reference.covers(executor.id):
        return Deny(Reason.NOT_FOUND, f"{turn.domain.id}/{body.reference}")
    challenge = executor.challenge
    if challenge is None or challenge.text != body.challenge:
        return Deny(Reason.NO_CHALLENGE, executor.id)
    if challenge.at + MAX_CHALLENGE_AGE_MS <= turn.ledger_time:
        return Deny(Reason.NO_CHALLENGE, executor.id)
    if challenge.at + reference.max_age_ms <= turn.ledger_time:
        return Deny(Reason.ATTESTATION_STALE, reference.id)
    asked = Asked(turn.command.origin, executor.id, challenge.text)
    try:
        evidence = codec.load(body.evidence.encode("utf-8"))
        claims = verifier_of(reference).verify(evidence, reference, asked)
    except MalformedError as error:
        return Deny(Reason.BAD_EVIDENCE, error.field or "evidence")
    name = failing(reference, claims, reference.evidence)
    if name:
        return _suspended(turn, executor, reference.id, name)
    attestation = Attestation(
        reference=reference.name,
        evidence=reference.evidence,
        claims=tuple(sorted(claims.items())),
        challenged_at=challenge.at,
        reported=turn.seq,
    )
    names = {each.name for each in turn.view.references(turn.domain.id)} - {reference.name}
    kept = (each for each in executor.attestations if each.reference in names)
    attestations = tuple(sorted((attestation, *kept), key=lambda each: each.reference))
    state.save_executor(turn.store, replace(executor, attestations=attestations, challenge=None))
    until = challenge.at + reference.max_age_ms
    return Done(
        executor.id, _result(turn, executor, matches=True, suspends=False) | {"fresh_until": until}
    )


def report_drift(turn: Turn, body: ReportDrift) -> Verdict:
    """An executor says that it is not what it was. It needs no proof for that."""
    executor = _own_executor(turn, body.executor)
    if isinstance(executor, Deny):
        return executor
    return _suspended(turn, executor, DRIFT, DRIFT)


def _suspended(turn: Turn, executor: Executor, cause: str, failing: str) -> Done:
    """Nothing that it has proved before counts any more, and it has to be asked anew."""
    is_active = executor.status is Status.ACTIVE
    is_by_domain = not is_active and not executor.suspended_for
    changed = replace(
        executor,
        status=Status.SUSPENDED,
        changed=turn.seq if is_active else executor.changed,
        suspended_for=cause,
        suspended_by_domain=executor.suspended_by_domain or is_by_domain,
        failed_at=turn.seq,
        attestations=(),
        challenge=None,
    )
    state.save_executor(turn.store, changed)
    result = _result(turn, executor, matches=False, suspends=is_active)
    return Done(executor.id, result | {"failing": failing, "suspended_for": cause})


def _result(turn: Turn, executor: Executor, *, matches: bool, suspends: bool) -> dict[str, object]:
    """executed: what the entry says of itself, for whoever follows the ledger."""
    done: dict[str, object] = {"type": turn.command.verb.value, "thing": executor.id}
    return {"id": executor.id, "executed": done | {"matches": matches, "suspends": suspends}}


def _own_executor(turn: Turn, ident: str) -> Executor | Deny:
    """Suspended or not: whoever is suspended may have to prove something to be reinstated."""
    if ids.SpiffeId.parse(ident).trust_domain != turn.domain.id:
        return Deny(Reason.NOT_AUTHORIZED, ident)
    executor = turn.view.executor(ident)
    if executor is None:
        return Deny(Reason.UNKNOWN_EXECUTOR, ident)
    if executor.status is Status.REVOKED:
        return Deny(Reason.EXECUTOR_REVOKED, ident)
    return executor
