"""The calls about proofs, as the node of these tests answers them."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from quorate.api.core import attestation_body
from quorate.api.proving import attest_answer, challenge_answer, is_foreign_key
from quorate.v1 import decision_pb2, lease_pb2


class ProvingCalls:
    """For the lease service, which proposes."""

    def _propose(
        self, kind: str, body: dict[str, object], request: Any, answer: type, context: Any
    ) -> Any:
        raise NotImplementedError

    def Challenge(self, request: Any, context: Any) -> Any:  # noqa: N802
        kind, body = "attestation.challenge", {"executor": caller(context)}
        made = self._propose(kind, body, request, lease_pb2.ChallengeResponse, context)
        return challenge_answer(_found(made))

    def Attest(self, request: Any, context: Any) -> Any:  # noqa: N802
        if is_foreign_key(request.evidence, context.auth_context()):
            reason = decision_pb2.REASON_BAD_EVIDENCE
            return lease_pb2.AttestResponse(verdict=decision_pb2.VERDICT_DENY, reason=reason)
        kind, body = "attestation.report", attestation_body(caller(context), request)
        made = self._propose(kind, body, request, lease_pb2.AttestResponse, context)
        return attest_answer(_found(made))

    def ReportDrift(self, request: Any, context: Any) -> Any:  # noqa: N802
        kind, body = "attestation.drift", {"executor": caller(context)}
        return self._propose(kind, body, request, lease_pb2.ReportDriftResponse, context)


def caller(context: Any) -> str:
    return str(next(iter(context.auth_context()["peer_spiffe_id"])).decode())


def _found(made: Any) -> Any:
    result = json.loads(made.outcome.result) if made.outcome.accepted else {}
    outcome = made.outcome if made.HasField("outcome") else None
    return SimpleNamespace(
        verdict=made.verdict,
        reason=made.reason,
        thing=made.thing,
        outcome=outcome,
        unknown=made.unknown,
        result=result,
    )
