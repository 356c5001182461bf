"""What executors prove of themselves, as LeaseService answers it.

Owns what an edge sees to before it hands such a wish on, and the answers. The key of an executor's
SVID is known here alone: TLS has verified the certificate that the executor called with, by the
domain's own CA, so its public key is the executor's. A proof of any other key is refused, and never
put to the ledger; what the ledger then says of the key it says on this node's word.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from quorate.api.access import Access
from quorate.api.validate import Violations, request_id_and_ttl
from quorate.core import codec, ids
from quorate.core.attestation_forms import check_challenge
from quorate.core.errors import MalformedError
from quorate.core.fields import Fields, unbase64
from quorate.core.limits import MAX_EVIDENCE_BYTES
from quorate.core.rows import Row
from quorate.v1 import core_pb2, decision_pb2, lease_pb2

_CERTIFICATE: Final = "x509_pem_cert"


class Found(Protocol):
    """What became of a wish. result: of an accepted command; empty otherwise."""

    @property
    def verdict(self) -> decision_pb2.Verdict.ValueType: ...
    @property
    def reason(self) -> decision_pb2.Reason.ValueType: ...
    @property
    def thing(self) -> str: ...
    @property
    def outcome(self) -> decision_pb2.Outcome | None: ...
    @property
    def unknown(self) -> bool: ...
    @property
    def result(self) -> Mapping[str, object]: ...


class Proving:
    """Answers the three calls. refusal: why the ledger need not even be asked. propose: asks it.
    count: takes the reason of each answer."""

    def __init__(
        self,
        access: Access,
        refusal: Callable[[], Found | None],
        propose: Callable[[core_pb2.ProposeLeaseRequest, Any], Awaitable[Found]],
        count: Callable[[str, decision_pb2.Reason.ValueType], None],
    ) -> None:
        self._access = access
        self._refusal = refusal
        self._propose = propose
        self._count = count

    async def challenge(
        self, request: lease_pb2.ChallengeRequest, context: Any
    ) -> lease_pb2.ChallengeResponse:
        executor = self._access.executor(context)
        _check_request_id(request.request_id)
        wish = core_pb2.ProposeLeaseRequest(
            act=core_pb2.LEASE_ACT_CHALLENGE, executor=executor, request_id=request.request_id
        )
        found = self._refusal() or await self._propose(wish, context)
        self._count("Challenge", found.reason)
        return challenge_answer(found)

    async def attest(
        self, request: lease_pb2.AttestRequest, context: Any
    ) -> lease_pb2.AttestResponse:
        executor = self._access.executor(context)
        violations = Violations()
        attestation(violations, request)
        violations.raise_any()
        if is_foreign_key(request.evidence, context.auth_context()):
            reason = decision_pb2.REASON_BAD_EVIDENCE
            self._count("Attest", reason)
            return lease_pb2.AttestResponse(
                verdict=decision_pb2.VERDICT_DENY, reason=reason, thing="evidence.key"
            )
        wish = core_pb2.ProposeLeaseRequest(
            act=core_pb2.LEASE_ACT_ATTEST,
            executor=executor,
            attestation=request,
            request_id=request.request_id,
        )
        answer = attest_answer(self._refusal() or await self._propose(wish, context))
        self._count("Attest", answer.reason)
        return answer

    async def report_drift(
        self, request: lease_pb2.ReportDriftRequest, context: Any
    ) -> lease_pb2.ReportDriftResponse:
        executor = self._access.executor(context)
        _check_request_id(request.request_id)
        wish = core_pb2.ProposeLeaseRequest(
            act=core_pb2.LEASE_ACT_DRIFT, executor=executor, request_id=request.request_id
        )
        # Asked even without authority: stopping is never refused for want of a proof.
        found = await self._propose(wish, context)
        self._count("ReportDrift", found.reason)
        return lease_pb2.ReportDriftResponse(
            verdict=found.verdict,
            reason=found.reason,
            thing=found.thing,
            outcome=found.outcome,
            unknown=found.unknown,
        )


def _check_request_id(request_id: str) -> None:
    found = Violations()
    request_id_and_ttl(found, request_id, 0)
    found.raise_any()


def attestation(found: Violations, wish: lease_pb2.AttestRequest, path: str = "") -> None:
    found.text(f"{path}reference", wish.reference, ids.check_name)
    found.text(f"{path}challenge", wish.challenge, check_challenge)
    found.text(f"{path}evidence", wish.evidence, read_evidence)
    request_id_and_ttl(found, wish.request_id, 0)


def read_evidence(text: str) -> dict[str, object]:
    """The object that evidence is, whatever is in it. Raises MalformedError."""
    value = codec.decode(text.encode("utf-8", "surrogatepass"), MAX_EVIDENCE_BYTES)
    if not isinstance(value, dict):
        raise MalformedError("must be an object")
    return dict(value)


def is_foreign_key(evidence: str, identity: Mapping[str, Iterable[bytes]]) -> bool:
    """Whether it is the proof of a key that is not the caller's own. Evidence of another kind is
    not: it names no key at its top.

    identity: gRPC's properties of the caller, whose certificate TLS has verified.
    """
    value = read_evidence(evidence)
    if "key" not in value:
        return False
    certificates = list(identity.get(_CERTIFICATE, ()))
    try:
        claimed = unbase64(Fields(value).text("key"), "key")
        (certificate,) = certificates
        own = x509.load_pem_x509_certificate(certificate).public_key()
    except (MalformedError, ValueError):
        return True
    in_der = own.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return in_der != claimed


def challenge_answer(found: Found) -> lease_pb2.ChallengeResponse:
    answer = lease_pb2.ChallengeResponse(
        verdict=found.verdict,
        reason=found.reason,
        thing=found.thing,
        outcome=found.outcome,
        unknown=found.unknown,
    )
    if found.result:
        row = Row(found.result)
        answer.challenge = row.text("challenge")
        answer.expires_at_ms = row.number("expires_at")
        answer.origin, answer.executor = row.text("origin"), row.text("id")
        for name, kind in Fields(row.nested("references")).all_texts().items():
            answer.references[name] = kind
    return answer


def attest_answer(found: Found) -> lease_pb2.AttestResponse:
    """That a proof was taken, and does not equal the reference, is a denial."""
    answer = lease_pb2.AttestResponse(
        verdict=found.verdict,
        reason=found.reason,
        thing=found.thing,
        outcome=found.outcome,
        unknown=found.unknown,
    )
    if "failing" in found.result:
        answer.verdict = decision_pb2.VERDICT_DENY
        answer.reason = decision_pb2.REASON_ATTESTATION_MISMATCH
        answer.thing = Row(found.result).text("suspended_for")
    elif found.result:
        answer.fresh_until_ms = Row(found.result).number("fresh_until")
    return answer
