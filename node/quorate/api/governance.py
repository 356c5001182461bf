"""GovernanceService: commands that change who trusts whom, and the state that they made.

Owns the reading of requests and the truth of the answers: which level a revocation has reached, and
at which position of the ledger a record was read. Judges no command: that is the ledger's.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from quorate.api import convert
from quorate.api.access import Access
from quorate.api.core import count_proposal
from quorate.api.errors import InvalidRequestError, Violation
from quorate.api.freshness import until_held
from quorate.api.ports import Core, Level, OpenNode, Proposed, Reach
from quorate.api.validate import Violations, envelope_and_timeout
from quorate.core import dsse, ids
from quorate.core.commands import Command, open_envelope, parse_any
from quorate.core.errors import MalformedError
from quorate.core.limits import (
    DEFAULT_PROPOSAL_TIMEOUT_MS,
    MAX_MESSAGE_BYTES,
    MAX_RECORDS_PER_PAGE,
)
from quorate.core.state import Kind, StateView, list_records, record_json
from quorate.core.verbs import Verb
from quorate.telemetry import Metrics
from quorate.v1 import governance_pb2, governance_pb2_grpc

NARROWING: Final = frozenset(
    {
        Verb.EXECUTOR_SUSPEND,
        Verb.EXECUTOR_REVOKE,
        Verb.EXECUTOR_CONTAIN,
        Verb.TRUST_NARROW,
        Verb.TRUST_CLOSE,
        Verb.GRANT_SUSPEND,
        Verb.GRANT_REVOKE,
        Verb.RESOURCES_FREEZE,
        Verb.ATTESTATION_SET_REFERENCE,
        Verb.POLICY_PUBLISH,
        Verb.DOMAIN_SUSPEND,
        Verb.PROPOSAL_OPEN,
        Verb.BALLOT_CAST,
    }
)
"""What Revoke takes. Only of these does it mean something that no node decides otherwise: of a
ballot, when it is the one that suspends or expels a domain, freezes, or sets policies.

Retiring a node is none of them: it stops what one node says, whatever that relies on; a level is of
what relies on one thing, whichever node says it. Edges hold DRAINED back for permits by thing, and
none relies on a node: it would be said while those of the retired node are in use. The node gives
up its authority with the entry, and stays a member until that has lapsed for certain."""

DEFAULT_PAGE_RECORDS: Final = 100
MAX_PAGE_BYTES: Final = MAX_MESSAGE_BYTES * 3 // 4
"""Of records in one answer; the rest of the message is room for its framing and its token."""
MAX_STATE_ID_CHARS: Final = 2 * 255 + 1
MAX_PAGE_TOKEN_CHARS: Final = 1_024

_LEVEL_OF_WIRE: Final = {
    governance_pb2.WAIT_LEVEL_UNSPECIFIED: Level.COMMITTED,
    governance_pb2.WAIT_LEVEL_COMMITTED: Level.COMMITTED,
    governance_pb2.WAIT_LEVEL_ENFORCED: Level.ENFORCED,
    governance_pb2.WAIT_LEVEL_DRAINED: Level.DRAINED,
}
_LEVEL_TO_WIRE: Final = {
    Level.NONE: governance_pb2.WAIT_LEVEL_UNSPECIFIED,
    Level.COMMITTED: governance_pb2.WAIT_LEVEL_COMMITTED,
    Level.ENFORCED: governance_pb2.WAIT_LEVEL_ENFORCED,
    Level.DRAINED: governance_pb2.WAIT_LEVEL_DRAINED,
}
_KIND_OF_WIRE: Final = {governance_pb2.Kind.Value(f"KIND_{kind.name}"): kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class _Narrowing:
    """A narrowing command whose outcome is known, or that has none. level: that is waited for."""

    command_id: str
    level: Level
    timeout_ms: int
    started_ns: int
    proposed: Proposed

    @property
    def ledger_index(self) -> int | None:
        """Where it is in the ledger, if it was accepted."""
        outcome = self.proposed.outcome
        return outcome.index if outcome is not None and outcome.accepted else None

    def spent_ms(self) -> float:
        return (time.monotonic_ns() - self.started_ns) / 1_000_000

    def left_ms(self) -> int:
        return max(0, self.timeout_ms - int(self.spent_ms()))

    def answer(self, reach: Reach | None) -> governance_pb2.RevokeResponse:
        return governance_pb2.RevokeResponse(
            unknown=self.proposed.unknown,
            outcome=convert.optional_outcome_to_wire(self.proposed.outcome),
            command_id=self.command_id,
            reason=convert.reason_to_wire(self.proposed.refused),
            reached=_LEVEL_TO_WIRE[Level.NONE if reach is None else reach.level],
            bound_ms=None if reach is None else reach.bound.everybody_ms,
            nodes_bound_ms=None if reach is None else reach.bound.nodes_ms,
        )


def _open_to_wire(node: OpenNode) -> governance_pb2.OpenNode:
    return governance_pb2.OpenNode(
        node_id=node.node_id, lacks=_LEVEL_TO_WIRE[node.lacks], within_ms=node.within_ms
    )


class GovernanceService(governance_pb2_grpc.GovernanceServiceServicer):
    """Served by the core process to the node's own domain."""

    def __init__(self, core: Core, access: Access, metrics: Metrics) -> None:
        self._core = core
        self._access = access
        self._metrics = metrics

    async def Submit(  # noqa: N802 - the contract's names, here and below
        self, request: governance_pb2.SubmitRequest, context: Any
    ) -> governance_pb2.SubmitResponse:
        self._access.member(context)
        found = Violations()
        envelope_and_timeout(found, request.envelope, request.timeout_ms)
        found.raise_any()
        command = _parse(request.envelope)
        timeout_ms = request.timeout_ms or DEFAULT_PROPOSAL_TIMEOUT_MS
        proposed = await self._core.propose(request.envelope, timeout_ms)
        count_proposal(self._metrics, command.verb, proposed)
        return governance_pb2.SubmitResponse(
            unknown=proposed.unknown,
            outcome=convert.optional_outcome_to_wire(proposed.outcome),
            command_id=command.command_id,
            reason=convert.reason_to_wire(proposed.refused),
        )

    async def Revoke(  # noqa: N802
        self, request: governance_pb2.RevokeRequest, context: Any
    ) -> governance_pb2.RevokeResponse:
        narrowing = await self._narrow(request, context)
        reach = None
        if narrowing.ledger_index is not None:
            reach = await self._core.wait_for(
                narrowing.ledger_index, narrowing.level, narrowing.left_ms()
            )
            self._measure(narrowing, reach)
        return narrowing.answer(reach)

    async def RevokeWithProgress(  # noqa: N802
        self, request: governance_pb2.RevokeRequest, context: Any
    ) -> AsyncGenerator[governance_pb2.RevokeProgress]:
        narrowing = await self._narrow(request, context)
        if narrowing.ledger_index is None:
            yield governance_pb2.RevokeProgress(so_far=narrowing.answer(None), is_last=True)
            return
        steps = self._core.progress(narrowing.ledger_index, narrowing.level, narrowing.left_ms())
        async with aclosing(steps):  # also when the caller goes away
            async for step in steps:
                if step.is_last:
                    self._measure(narrowing, step.reach)
                yield governance_pb2.RevokeProgress(
                    so_far=narrowing.answer(step.reach),
                    open=map(_open_to_wire, step.open),
                    is_last=step.is_last,
                )

    async def _narrow(self, request: governance_pb2.RevokeRequest, context: Any) -> _Narrowing:
        """Proposes a narrowing command, and waits for its outcome."""
        self._access.member(context)
        found = Violations()
        envelope_and_timeout(found, request.envelope, request.timeout_ms)
        found.enum("wait", request.wait, tuple(_LEVEL_OF_WIRE))
        found.raise_any()
        command = _parse(request.envelope)
        if command.verb not in NARROWING:
            allowed = ", ".join(sorted(NARROWING))
            raise InvalidRequestError(
                [Violation("envelope", f"{command.verb} does not narrow; one of {allowed} does")]
            )
        timeout_ms = request.timeout_ms or DEFAULT_PROPOSAL_TIMEOUT_MS
        started_ns = time.monotonic_ns()
        proposed = await self._core.propose(request.envelope, timeout_ms)
        count_proposal(self._metrics, command.verb, proposed)
        level = _LEVEL_OF_WIRE[request.wait]
        return _Narrowing(command.command_id, level, timeout_ms, started_ns, proposed)

    def _measure(self, narrowing: _Narrowing, reach: Reach) -> None:
        if reach.level >= narrowing.level:
            self._metrics.narrowed(narrowing.level.name.lower(), narrowing.spent_ms())

    async def GetState(  # noqa: N802
        self, request: governance_pb2.GetStateRequest, context: Any
    ) -> governance_pb2.GetStateResponse:
        self._access.member(context)
        found = Violations()
        found.enum("kind", request.kind, tuple(_KIND_OF_WIRE))
        least = 0 if request.kind == governance_pb2.KIND_FEDERATION else 1
        found.length("id", len(request.id), least, MAX_STATE_ID_CHARS, "characters")
        found.raise_any()
        await until_held(self._core, request.minimum_index, context)
        with self._core.read() as snapshot:
            position = convert.position(snapshot)
            record = record_json(StateView(snapshot.state), _KIND_OF_WIRE[request.kind], request.id)
        return governance_pb2.GetStateResponse(
            position=position,
            found=record is not None,
            record=(record or b"").decode("utf-8"),
        )

    async def ListState(  # noqa: N802
        self, request: governance_pb2.ListStateRequest, context: Any
    ) -> governance_pb2.ListStateResponse:
        self._access.member(context)
        found = Violations()
        found.enum("kind", request.kind, tuple(_KIND_OF_WIRE))
        found.within("page_size", request.page_size, 0, MAX_RECORDS_PER_PAGE)
        after = ""
        try:
            after = _after(request.kind, request.page_token)
        except MalformedError as error:
            found.add("page_token", error.problem)
        found.raise_any()
        await until_held(self._core, request.minimum_index, context)
        limit = request.page_size or DEFAULT_PAGE_RECORDS
        with self._core.read() as snapshot:
            position = convert.position(snapshot)
            rows = list_records(
                StateView(snapshot.state), _KIND_OF_WIRE[request.kind], after, limit + 1
            )
        page: list[str] = []
        size_bytes = 0
        for _, record in rows[:limit]:
            size_bytes += len(record)
            if page and size_bytes > MAX_PAGE_BYTES:
                break
            page.append(record.decode("utf-8"))
        more = len(page) < len(rows)
        return governance_pb2.ListStateResponse(
            position=position,
            records=page,
            next_page_token=_token(request.kind, rows[len(page) - 1][0]) if more else "",
        )

    async def GetOutcome(  # noqa: N802
        self, request: governance_pb2.GetOutcomeRequest, context: Any
    ) -> governance_pb2.GetOutcomeResponse:
        self._access.member(context)
        found = Violations()
        found.text("command_id", request.command_id, ids.check_command_id)
        found.raise_any()
        await until_held(self._core, request.minimum_index, context)
        with self._core.read() as snapshot:
            position = convert.position(snapshot)
            outcome = StateView(snapshot.state).outcome(request.command_id)
        return governance_pb2.GetOutcomeResponse(
            position=position,
            found=outcome is not None,
            outcome=convert.optional_outcome_to_wire(outcome),
        )


def _parse(envelope: bytes) -> Command:
    """The command in an envelope. Raises InvalidRequestError: what is no command is no business of
    the ledger's, and would only fill it."""
    try:
        parsed = open_envelope(envelope)
        if parsed.payload_type != dsse.COMMAND_TYPE:
            raise MalformedError(f"must be {dsse.COMMAND_TYPE}", field="payloadType")
    except MalformedError as error:
        raise InvalidRequestError([Violation(_at("envelope", error), error.problem)]) from error
    try:
        return parse_any(parsed.payload)
    except MalformedError as error:
        where = _at("envelope.payload", error)
        raise InvalidRequestError([Violation(where, error.problem)]) from error


def _at(place: str, error: MalformedError) -> str:
    return f"{place}.{error.field}" if error.field else place


def _token(kind: int, after: str) -> str:
    """A page token: which kind is being listed, and the last id that was sent."""
    return base64.urlsafe_b64encode(f"{kind}:{after}".encode()).decode("ascii")


def _after(kind: int, token: str) -> str:
    """The id in a token of ours for this kind. Raises MalformedError."""
    if not token:
        return ""
    if len(token) > MAX_PAGE_TOKEN_CHARS:
        raise MalformedError(f"longer than {MAX_PAGE_TOKEN_CHARS} characters")
    try:
        of_kind, separator, after = (
            base64.b64decode(token, altchars=b"-_", validate=True).decode("ascii").partition(":")
        )
    except (ValueError, binascii.Error) as error:
        raise MalformedError("is not a token of this service") from error
    if not separator or of_kind != str(kind):
        raise MalformedError("is not a token of this kind's list")
    if _token(kind, after) != token:  # the library forgives padding that is not needed
        raise MalformedError("is not a token of this service")
    return after
