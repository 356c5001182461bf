"""Explanations as the wire has them.

Owns the mapping from the core's values, and nothing else.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

from quorate.core.explanation import Answer, Explanation, Question, Role, Step, Thing
from quorate.core.outcome import Deny, Reason
from quorate.core.remedies import Remedy
from quorate.v1 import decision_pb2, explain_pb2


def _numbers(kind: type[StrEnum], wire: Any, prefix: str) -> dict[StrEnum, Any]:
    return {each: wire.Value(f"{prefix}_{each.name}") for each in kind}


_QUESTIONS: Final = _numbers(Question, explain_pb2.Question, "QUESTION")
_ANSWERS: Final = _numbers(Answer, explain_pb2.Answer, "ANSWER")
_ROLES: Final = _numbers(Role, explain_pb2.ThingRole, "THING_ROLE")
_REASONS: Final = _numbers(Reason, decision_pb2.Reason, "REASON")


def explanation_to_wire(
    explanation: Explanation, ledger_size: int, ledger_time_ms: int
) -> explain_pb2.ExplainResponse:
    """ledger_size, ledger_time_ms: the state that was looked at."""
    decision = explanation.decision
    denied = decision if isinstance(decision, Deny) else None
    verdict = decision_pb2.VERDICT_PERMIT if denied is None else decision_pb2.VERDICT_DENY
    lacks_authority = any(
        step.question is Question.NODE and step.answer is not Answer.PASSED
        for step in explanation.steps
    )
    return explain_pb2.ExplainResponse(
        verdict=verdict,
        reason=_reason(denied),
        thing="" if denied is None else denied.thing,
        has_authority=not lacks_authority,
        steps=map(_step, explanation.steps),
        position=decision_pb2.LedgerPosition(size=ledger_size, ledger_time_ms=ledger_time_ms),
        decided_at_ms=explanation.ledger_time,
    )


def _reason(denied: Deny | None) -> Any:
    return decision_pb2.REASON_UNSPECIFIED if denied is None else _REASONS[denied.reason]


def _step(step: Step) -> explain_pb2.Step:
    return explain_pb2.Step(
        question=_QUESTIONS[step.question],
        answer=_ANSWERS[step.answer],
        reason=_reason(step.denied),
        thing="" if step.denied is None else step.denied.thing,
        remedy=None if step.remedy is None else _remedy(step.remedy),
        things=map(_thing, step.things),
        note=step.note,
    )


def _remedy(remedy: Remedy) -> explain_pb2.Remedy:
    return explain_pb2.Remedy(
        sentence=remedy.sentence, command=remedy.command, signer=remedy.signer
    )


def _thing(thing: Thing) -> explain_pb2.Thing:
    failure = thing.failure
    about = "" if failure is None or failure.thing == thing.id else failure.thing
    return explain_pb2.Thing(
        kind=thing.kind,
        id=thing.id,
        role=_ROLES[thing.role],
        status=thing.status,
        changed=thing.changed,
        reason=_reason(failure),
        reason_thing=about,
        note=thing.note,
    )
