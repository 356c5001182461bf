"""What is asked of the node and how its answers are read, without any input or output.

Owns the rule that only a permit permits: unreachable, late, malformed, unspecified and unknown are
all denials, with a reason. Each question is a generator of steps, which `Gate` takes with threads
and `AsyncGate` with asyncio: one reading of the answers for both.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from quorate.client import wire
from quorate.client.clock import Clock, Reading
from quorate.client.decisions import (
    ClientReason,
    Delegated,
    Denied,
    DeniedError,
    Part,
    Permit,
    Recalled,
    Reported,
)
from quorate.client.facts import NS_PER_MS, LeaseFacts, given_ms, is_same, with_end, with_later_end
from quorate.client.lineage import current_lineage
from quorate.client.slot import PermitSlot
from quorate.client.telling import Saying, Story
from quorate.core.outcome import Reason
from quorate.v1 import lease_pb2

_FIRST_PAUSE_MS: Final = 25
_LONGEST_PAUSE_MS: Final = 400
_LONGEST_CALL_S: Final = 3_600.0
_MOST_BEHIND: Final = 8
"""So often others may say something of the same lease first."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A call to be made; its answer, or the exception that it failed with, is sent back."""

    method: str
    request: Any
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Pause:
    """A wait that a closed gate ends; nothing is sent back."""

    seconds: float


ResultT = TypeVar("ResultT")
Steps = Generator[Ask | Pause, Any, ResultT]
_AnswerT = TypeVar(
    "_AnswerT",
    lease_pb2.AcquireResponse,
    lease_pb2.RenewResponse,
    lease_pb2.ReleaseResponse,
    lease_pb2.DelegateResponse,
    lease_pb2.RecallResponse,
    lease_pb2.ChallengeResponse,
    lease_pb2.AttestResponse,
    lease_pb2.ReportDriftResponse,
)


@dataclass(frozen=True, slots=True)
class Question:
    """A check on its way. sent, epoch: as they were before it left. asker: whose it is.
    minimum_index: its answer is to be true of a ledger that holds this; 0: of any."""

    lease: LeaseFacts
    slot: PermitSlot
    sent: Reading
    epoch: int
    asker: object = None
    minimum_index: int = 0


class Calls:
    """One executor's questions. Safe to use from several threads.

    is_closed: everything is denied from then on.
    max_permit_ttl_ms: the federation's parameter; no permit is used longer than this from the
        moment at which it was asked for, whatever the node says, and no check waits longer.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        executor: str,
        is_closed: Callable[[], bool],
        max_permit_ttl_ms: int,
        new_request_id: Callable[[], str] | None = None,
    ) -> None:
        assert max_permit_ttl_ms > 0
        self.clock = clock
        self.session = secrets.token_hex(16)
        self.max_permit_ttl_ms = max_permit_ttl_ms
        self._executor = executor
        self._is_closed = is_closed
        self.new_request_id = new_request_id or (lambda: uuid.uuid4().hex)

    # -- commands ----------------------------------------------------------------------------

    def acquire(
        self,
        action: str,
        resource: str,
        ttl_ms: int,
        request_id: str,
        timeout_ms: int,
        *,
        parents: Sequence[str] | None = None,
        context: Mapping[str, str] | None = None,
    ) -> Steps[LeaseFacts | Denied]:
        """parents: None: those that the running work comes from. context: as for `Gate`."""
        if parents is None:
            parents = current_lineage()
        sent_ns = self.clock.boottime_ns()
        try:
            request = lease_pb2.AcquireRequest(
                action=action,
                resource=resource,
                ttl_ms=ttl_ms,
                request_id=request_id or self.new_request_id(),
                parents=sorted(set(parents)),
                context=wire.texts_of(context or {}),
            )
        except (
            TypeError,
            ValueError,
            AttributeError,
        ) as error:  # no text that is UTF-8, no number of 64 bits
            return Denied(ClientReason.INVALID_REQUEST, detail=str(error))
        answer: lease_pb2.AcquireResponse | Denied = yield from self.until_settled(
            "Acquire", request, request.request_id, timeout_ms
        )
        if isinstance(answer, Denied):
            return answer
        granted = self._lease(answer.lease, ttl_ms)
        wanted = action, resource, tuple(request.parents)
        is_other = list(answer.lease.context) != list(request.context)
        if (
            granted is None
            or is_other
            or (granted.action, granted.resource, granted.parents) != wanted
        ):
            return Denied(
                ClientReason.MALFORMED_ANSWER,
                answer.lease.id,
                "granted, but not the lease that was asked for",
                unknown=True,
                request_id=request.request_id,
            )
        if request_id and answer.outcome.duplicate:  # nobody knows when it was asked for first
            return replace(granted, until_ns=sent_ns)
        return with_end(granted, sent_ns, granted.life_ms)

    def renew(self, lease: LeaseFacts, ttl_ms: int, timeout_ms: int) -> Steps[LeaseFacts | Denied]:
        sent_ns = self.clock.boottime_ns()
        request = lease_pb2.RenewRequest(
            lease_id=lease.id, ttl_ms=ttl_ms, request_id=self.new_request_id()
        )
        answer: lease_pb2.RenewResponse | Denied = yield from self.until_settled(
            "Renew", request, request.request_id, timeout_ms
        )
        if isinstance(answer, Denied):
            return answer
        renewed = self._lease(answer.lease, lease.ttl_ms)
        if renewed is None or not is_same(renewed, lease):
            return Denied(
                ClientReason.MALFORMED_ANSWER, lease.id, "renewed, but not the lease in question"
            )
        renewed = replace(renewed, life_ms=lease.life_ms)
        if ttl_ms == lease.ttl_ms:  # the same wish, under the same grant
            return with_end(renewed, sent_ns, lease.life_ms)
        return with_later_end(lease, renewed, sent_ns, ttl_ms)

    def release(self, lease: LeaseFacts, timeout_ms: int) -> Steps[int | Denied]:
        """Answers with the entry's index."""
        request = lease_pb2.ReleaseRequest(lease_id=lease.id, request_id=self.new_request_id())
        answer: lease_pb2.ReleaseResponse | Denied = yield from self.until_settled(
            "Release", request, request.request_id, timeout_ms
        )
        return answer if isinstance(answer, Denied) else answer.outcome.ledger_index

    def delegate(
        self, grant: str, to: str, part: Part, request_id: str, timeout_ms: int
    ) -> Steps[Delegated | Denied]:
        try:
            request = lease_pb2.DelegateRequest(
                grant=grant,
                to=to,
                **wire.fields_of(part),
                request_id=request_id or self.new_request_id(),
            )
        except (TypeError, ValueError, AttributeError) as error:  # nothing that a message can say
            return Denied(ClientReason.INVALID_REQUEST, detail=str(error))
        answer: lease_pb2.DelegateResponse | Denied = yield from self.until_settled(
            "Delegate", request, request.request_id, timeout_ms
        )
        if isinstance(answer, Denied):
            return answer
        if not answer.grant:
            detail = "passed on, but not said as what"
            return Denied(ClientReason.MALFORMED_ANSWER, grant, detail, unknown=True)
        return Delegated(answer.grant, answer.outcome.ledger_index)

    def recall(self, grant: str, timeout_ms: int) -> Steps[Recalled | Denied]:
        try:
            request = lease_pb2.RecallRequest(grant=grant, request_id=self.new_request_id())
        except (TypeError, ValueError) as error:
            return Denied(ClientReason.INVALID_REQUEST, detail=str(error))
        answer: lease_pb2.RecallResponse | Denied = yield from self.until_settled(
            "Recall", request, request.request_id, timeout_ms
        )
        return (
            answer if isinstance(answer, Denied) else Recalled(grant, answer.outcome.ledger_index)
        )

    # -- events ------------------------------------------------------------------------------

    def event(self, kind: str, attributes: Mapping[str, str]) -> lease_pb2.Event | Denied:
        """One event, to be added to the story of its lease."""
        try:
            return lease_pb2.Event(type=kind, attributes=attributes)
        except (TypeError, ValueError) as error:  # no text, or none that is UTF-8
            return Denied(ClientReason.INVALID_REQUEST, detail=str(error))

    def report(self, lease: LeaseFacts, story: Story[Any], timeout_ms: int) -> Steps[None]:
        """Sends the next events of a story, whose lock is the caller's, and says what became of
        each. Several of which one is not accepted are to go one by one."""
        sayings = story.take()
        result = yield from self._report(lease, story, sayings, timeout_ms)
        if isinstance(result, Reported) or result.unknown or len(sayings) == 1:
            story.settle(result)
        else:
            story.part()

    def _report(
        self, lease: LeaseFacts, story: Story[Any], sayings: Sequence[Saying], timeout_ms: int
    ) -> Steps[Reported | Denied]:
        """What became of these events, which go together. Until the node has answered, the same is
        said again: it fits the same head."""
        deadline_ns = self.clock.boottime_ns() + timeout_ms * NS_PER_MS
        pause_ms, behind = _FIRST_PAUSE_MS, 0
        last, maybe_taken = Denied(ClientReason.LATE, lease.id), False
        while not self._is_closed():
            left_ns = deadline_ns - self.clock.boottime_ns()
            if left_ns <= 0:
                return replace(last, unknown=maybe_taken)
            request = lease_pb2.ReportRequest(
                lease_id=lease.id, events=[each.event for each in sayings], after=story.head
            )
            answer = yield Ask("Report", request, min(left_ns / 1e9, _LONGEST_CALL_S))
            if isinstance(answer, Exception):
                last = replace(self._failed(answer), thing=lease.id)
                maybe_taken = maybe_taken or last.unknown
                if not last.unknown:
                    return replace(last, unknown=maybe_taken)
            else:
                denied = wire.denial_of_verdict(answer.verdict, answer.reason, answer.thing)
                if denied is None:
                    story.head = answer.head
                    return Reported(lease.id, answer.stage)
                if denied.reason is not Reason.OUT_OF_ORDER:
                    return replace(denied, unknown=maybe_taken)
                # Another process has said something meanwhile, or before this one knew the lease.
                story.head, behind = answer.head, behind + 1
                if maybe_taken or behind > _MOST_BEHIND:  # after another head it is no repeat
                    return replace(denied, unknown=maybe_taken)
                continue
            yield Pause(pause_ms / 1_000)
            pause_ms = min(2 * pause_ms, _LONGEST_PAUSE_MS)
        return Denied(ClientReason.CLOSED, lease.id, unknown=maybe_taken)

    # -- checks ------------------------------------------------------------------------------

    def check(
        self, lease: LeaseFacts, slot: PermitSlot, *, is_handed: bool, minimum_index: int = 0
    ) -> Steps[Permit | Denied]:
        """May this lease be acted on now? is_handed: as in `PermitSlot.offer`."""
        if self._is_closed():
            return Denied(ClientReason.CLOSED, lease.id)
        question = replace(self.question(lease, slot), minimum_index=minimum_index)
        try:
            request = self.check_request(lease, minimum_index)
        except (TypeError, ValueError) as error:  # no number of 64 bits
            return Denied(ClientReason.INVALID_REQUEST, lease.id, str(error))
        answer = yield Ask("Check", request, self.max_permit_ttl_ms / 1_000)
        if isinstance(answer, Exception):
            return self.unanswered(question, answer)
        return self.answered(question, answer, is_handed=is_handed)

    def first_permit(self, lease: LeaseFacts, slot: PermitSlot) -> Steps[tuple[Permit, int]]:
        """A permit to hold a lease with, and the slot's epoch that it is of. Raises DeniedError."""
        epoch = slot.epoch
        permit = slot.cached_for_act()
        if permit is None:
            answer = yield from self.check(lease, slot, is_handed=False)
            if isinstance(answer, Denied):
                raise DeniedError(answer)
            permit = answer
        return permit, epoch

    def question(self, lease: LeaseFacts, slot: PermitSlot, asker: object = None) -> Question:
        """To be made before the request leaves: a permit's life counts from here."""
        return Question(lease, slot, Reading.of(self.clock), slot.epoch, asker)

    def check_request(self, lease: LeaseFacts, minimum_index: int = 0) -> lease_pb2.CheckRequest:
        return lease_pb2.CheckRequest(
            lease_id=lease.id,
            action=lease.action,
            resource=lease.resource,
            minimum_index=minimum_index,
            session=self.session,
        )

    def unanswered(self, question: Question, error: Exception) -> Denied:
        return replace(self._failed(error), thing=question.lease.id, unknown=False)

    def answered(
        self, question: Question, answer: lease_pb2.CheckResponse, *, is_handed: bool
    ) -> Permit | Denied:
        """The permit, kept in the lease's slot, or the denial, which empties the slot; but one of a
        node that is behind says nothing of the lease."""
        lease, slot, size = question.lease, question.slot, answer.position.size
        denied = wire.denial_of_verdict(answer.verdict, answer.reason, answer.thing, size)
        if denied is not None:
            if denied.reason is not Reason.BEHIND:
                slot.drop()
            return denied
        is_older = bool(question.minimum_index) and size <= question.minimum_index
        if answer.ttl_ms <= 0 or answer.fence != lease.fence or is_older:
            return Denied(
                ClientReason.MALFORMED_ANSWER,
                lease.id,
                f"a permit with ttl_ms {answer.ttl_ms} and fence {answer.fence}, of size {size}",
            )
        ttl_ms = min(answer.ttl_ms, self.max_permit_ttl_ms)
        permit = Permit(
            lease_id=lease.id,
            fence=answer.fence,
            sent=question.sent,
            expires_at_ns=question.sent.boottime_ns + ttl_ms * NS_PER_MS,
            ledger_size=size,
            ledger_time_ms=answer.position.ledger_time_ms,
        )
        return slot.offer(permit, question.epoch, is_handed=is_handed)

    def batch_answered(
        self, questions: Sequence[Question], answer: lease_pb2.CheckBatchResponse
    ) -> list[Permit | Denied]:
        """One for each; nothing of a batch whose answers are not as many is believed."""
        if len(answer.results) != len(questions):
            detail = f"{len(answer.results)} answers to {len(questions)} checks"
            return [Denied(ClientReason.MALFORMED_ANSWER, q.lease.id, detail) for q in questions]
        return [
            self.answered(question, result, is_handed=False)
            for question, result in zip(questions, answer.results, strict=True)
        ]

    # -- inside ------------------------------------------------------------------------------

    def until_settled(
        self, method: str, request: object, request_id: str, timeout_ms: int
    ) -> Steps[Any]:
        """The settled answer to a command: a permit's message, or the denial.

        Once an attempt may have entered the log, only an answer that carries the ledger's outcome
        settles it: a later "denied without asking the ledger" says nothing about the earlier one.
        """
        deadline_ns = self.clock.boottime_ns() + timeout_ms * NS_PER_MS
        pause_ms = _FIRST_PAUSE_MS
        maybe_executed = False
        last = Denied(ClientReason.LATE)
        while not self._is_closed():
            left_ns = deadline_ns - self.clock.boottime_ns()
            if left_ns <= 0:
                break
            answer = yield Ask(method, request, min(left_ns / 1e9, _LONGEST_CALL_S))
            if isinstance(answer, Exception):
                last = self._failed(answer)
                maybe_executed = maybe_executed or last.unknown
                if not maybe_executed:
                    break
            else:
                settled = _settled(answer, maybe_executed)
                if not isinstance(settled, Denied):
                    return settled
                last = settled
                if not settled.unknown:
                    return replace(settled, request_id=request_id)
                maybe_executed = True
            yield Pause(pause_ms / 1_000)
            pause_ms = min(2 * pause_ms, _LONGEST_PAUSE_MS)
        if self._is_closed():
            last = Denied(ClientReason.CLOSED)
        return replace(last, unknown=maybe_executed, request_id=request_id)

    def _failed(self, error: Exception) -> Denied:
        denied = wire.denial_of_error(error)
        return replace(denied, reason=ClientReason.CLOSED) if self._is_closed() else denied

    def _lease(self, granted: lease_pb2.Lease, ttl_ms: int) -> LeaseFacts | None:
        """The lease that was granted; None when it is nobody's, or another executor's."""
        if not granted.id or granted.fence <= 0:
            return None
        if self._executor and granted.executor != self._executor:
            return None
        return LeaseFacts(
            id=granted.id,
            executor=granted.executor,
            action=granted.action,
            resource=granted.resource,
            fence=granted.fence,
            expires_at_ms=granted.expires_at_ms,
            grant=granted.grant,
            trust_edge=granted.trust_edge,
            ttl_ms=ttl_ms,
            parents=tuple(granted.parents),
            passed_on=tuple(granted.passed_on),
            life_ms=given_ms(granted, ttl_ms),
        )


def _settled(answer: _AnswerT, maybe_executed: bool) -> _AnswerT | Denied:
    """The answer when it is granted; else the denial, `unknown` as long as it settles nothing."""
    if answer.unknown:
        return Denied(ClientReason.OUTCOME_UNKNOWN, answer.thing, unknown=True)
    index = answer.outcome.ledger_index  # of the denial's own entry; the genesis has 0
    size = index + 1 if index else 0
    denied = wire.denial_of_verdict(answer.verdict, answer.reason, answer.thing, size)
    if denied is None and answer.HasField("outcome") and answer.outcome.accepted:
        return answer
    if denied is None:
        denied = Denied(ClientReason.MALFORMED_ANSWER, answer.thing, "granted without an outcome")
    if denied.reason in (ClientReason.MALFORMED_ANSWER, ClientReason.UNSPECIFIED_VERDICT):
        return replace(denied, unknown=True)
    return replace(denied, unknown=maybe_executed and not answer.HasField("outcome"))
