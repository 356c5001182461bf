"""ExplainService: why an act or a lease is permitted or denied, and what would have to change.

Owns who may ask about whom, and the two places that an answer is made at: the edge, which knows
what it may permit from the authority word, and the core process. Explains nothing itself
(`quorate.core.explaining`), and no answer of it is a permit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from quorate.api import validate
from quorate.api.access import Access
from quorate.api.errors import OutOfRangeError, Violation
from quorate.api.explained import explanation_to_wire
from quorate.api.freshness import patience_s, until_held
from quorate.api.pace import Pace
from quorate.api.ports import Core
from quorate.api.watch import WatchHub
from quorate.core.decision import DecisionRequest
from quorate.core.explaining import explain, explain_lease, holder_of, under
from quorate.core.explanation import Explanation
from quorate.core.outcome import Deny, Reason
from quorate.core.state import StateView
from quorate.lease.check import LeaseChecker, Position
from quorate.v1 import explain_pb2, explain_pb2_grpc

Ask = Callable[[StateView, int], Explanation]
"""Explains at a state and a ledger time (ms)."""


class Explainer(Protocol):
    """Where an explanation is made."""

    async def explain(
        self, ask: Ask, minimum_index: int, context: Any
    ) -> tuple[Explanation, Position]:
        """Under what the node may permit, and at a state that holds the index. Raises
        OutOfRangeError."""
        ...


class ExplainService(explain_pb2_grpc.ExplainServiceServicer):
    """whom: the executor that is asked about, by who calls and whom the request names."""

    def __init__(
        self, explainer: Explainer, access: Access, whom: Callable[[Any, str], str], pace: Pace
    ) -> None:
        self._explainer = explainer
        self._access = access
        self._whom = whom
        self._pace = pace

    async def Explain(  # noqa: N802 - the contract's name
        self, request: explain_pb2.ExplainRequest, context: Any
    ) -> explain_pb2.ExplainResponse:
        executor = self._whom(context, request.executor)
        validate.check_explain(request, executor)
        self._pace.take(self._access.member(context))
        explanation, at = await self._explainer.explain(
            question_of(request, executor), request.minimum_index, context
        )
        return explanation_to_wire(explanation, at.ledger_size, at.ledger_time_ms)


class EdgeExplainer:
    """Explains as the edge decides: under the authority word."""

    def __init__(self, checker: LeaseChecker, hub: WatchHub) -> None:
        self._checker = checker
        self._hub = hub

    async def explain(
        self, ask: Ask, minimum_index: int, context: Any
    ) -> tuple[Explanation, Position]:
        if minimum_index:
            await self._hub.followed(minimum_index, patience_s(context))
        explanation, at = self._checker.explain(ask)
        if minimum_index and at.ledger_size <= minimum_index:
            said = f"this node holds {at.ledger_size} entries so far"
            raise OutOfRangeError(Violation("minimum_index", said))
        return explanation, at


class CoreExplainer:
    """Explains at the newest durable state of the core process."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def explain(
        self, ask: Ask, minimum_index: int, context: Any
    ) -> tuple[Explanation, Position]:
        await until_held(self._core, minimum_index, context)
        status = self._core.status()
        with self._core.read() as snapshot:
            view = StateView(snapshot.state)
            at = Position(snapshot.ledger_size, view.ledger_time())
            explanation = ask(view, max(at.ledger_time_ms, status.ledger_time_ms))
        has_authority = status.authority_remaining_ms > 0
        refused = None if has_authority else Deny(status.authority_reason or Reason.INQUORATE)
        return under(explanation, refused), at


def question_of(request: explain_pb2.ExplainRequest, executor: str) -> Ask:
    """What a valid request asks. executor: empty: the holder of the lease."""
    if request.WhichOneof("about") == "lease":
        held = request.lease
        return lambda view, now_ms: explain_lease(
            view,
            held.lease_id,
            executor or holder_of(view, held.lease_id),
            held.action,
            held.resource,
            now_ms,
        )
    said = tuple(validate.in_order(request.act.context))
    act = DecisionRequest(executor, request.act.action, request.act.resource, said)
    parents = tuple(sorted(set(request.act.parents)))
    return lambda view, now_ms: explain(view, act, now_ms, parents)
