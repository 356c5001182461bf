"""LeaseService: what executors ask of their own node. Runs in the edge processes.

Owns the answers to Acquire, Check, Renew, Release and Watch. Decides nothing itself: a check is the
check path's (`quorate.lease.check`), a lease is the ledger's, reached through the core process.
That the node cannot prove a quorum is a denial with gRPC status OK, never an error: a proxy that is
told to let calls pass on failure must not be handed a failure.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from quorate.api import convert, validate
from quorate.api.access import Access
from quorate.api.denials import DenialJournal
from quorate.api.errors import TooManyError
from quorate.api.freshness import patience_s
from quorate.api.notices import Watcher
from quorate.api.ports import Proposed
from quorate.api.proving import Proving
from quorate.api.watch import MAX_WATCHERS_PER_EXECUTOR, WatchHub
from quorate.core.limits import DEFAULT_PROPOSAL_TIMEOUT_MS
from quorate.core.outcome import Deny, Permit, Reason
from quorate.lease.check import NOWHERE, Checked, CheckQuery, LeaseChecker
from quorate.lease.clock import Clock
from quorate.lease.outstanding import Holder
from quorate.telemetry import DenialLog, Metrics
from quorate.v1 import core_pb2, decision_pb2, lease_pb2, lease_pb2_grpc

ANSWER_MARGIN_MS: Final = 100
"""How long before the caller's own deadline a proposal is given up, so that the answer (whose
outcome is unknown) still reaches it; never more than a fifth of the time."""


MAX_SILENCE_S: Final = 5.0
"""How long a Watch call may last before it says what is watched."""
MIN_SILENCE_S: Final = 0.1
"""The same where the executor has as many such calls as it may have watches."""


class LeaseProposer(Protocol):
    """The way to the ledger (`quorate.api.core_link.CoreLink`)."""

    async def propose(self, request: core_pb2.ProposeLeaseRequest, timeout_ms: int) -> Proposed: ...

    async def report(
        self, request: core_pb2.ReportEventsRequest, timeout_ms: int
    ) -> lease_pb2.ReportResponse: ...


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What became of a lease command, as all three answers tell it."""

    verdict: decision_pb2.Verdict.ValueType
    reason: decision_pb2.Reason.ValueType = decision_pb2.REASON_UNSPECIFIED
    thing: str = ""
    outcome: decision_pb2.Outcome | None = None
    unknown: bool = False
    lease: lease_pb2.Lease | None = None
    result: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def denied(cls, reason: Reason, thing: str = "", *, unknown: bool = False) -> _Verdict:
        wire = convert.reason_to_wire(reason)
        return cls(decision_pb2.VERDICT_DENY, wire, thing, unknown=unknown)


class LeaseService(lease_pb2_grpc.LeaseServiceServicer):
    """Served by an edge process to the executors of its domain."""

    def __init__(
        self,
        *,
        checker: LeaseChecker,
        proposer: LeaseProposer,
        hub: WatchHub,
        clock: Clock,
        access: Access,
        metrics: Metrics,
        denials: DenialLog,
        journal: DenialJournal,
    ) -> None:
        self._checker = checker
        self._proposer = proposer
        self._hub = hub
        self._clock = clock
        self._access = access
        self._metrics = metrics
        self._denials = denials
        self._journal = journal
        self._proving = Proving(access, self._refusal, self._propose, self._count)
        self._silent: Counter[str] = Counter()
        """Watch calls that have said nothing yet, by executor."""

    async def Acquire(  # noqa: N802 - the contract's names, here and below
        self, request: lease_pb2.AcquireRequest, context: Any
    ) -> lease_pb2.AcquireResponse:
        executor = self._access.executor(context)
        validate.check_acquire(request)
        wish = core_pb2.ProposeLeaseRequest(
            act=core_pb2.LEASE_ACT_ACQUIRE,
            executor=executor,
            action=request.action,
            resource=request.resource,
            ttl_ms=request.ttl_ms,
            request_id=request.request_id,
            parents=request.parents,
            context=request.context,
        )
        found = self._refusal() or await self._propose(wish, context)
        self._note("Acquire", found.reason, executor)
        return lease_pb2.AcquireResponse(
            verdict=found.verdict,
            reason=found.reason,
            thing=found.thing,
            lease=found.lease,
            outcome=found.outcome,
            unknown=found.unknown,
        )

    async def Renew(  # noqa: N802
        self, request: lease_pb2.RenewRequest, context: Any
    ) -> lease_pb2.RenewResponse:
        executor = self._access.executor(context)
        validate.check_renew(request)
        wish = core_pb2.ProposeLeaseRequest(
            act=core_pb2.LEASE_ACT_RENEW,
            executor=executor,
            lease_id=request.lease_id,
            ttl_ms=request.ttl_ms,
            request_id=request.request_id,
        )
        found = self._refusal() or await self._propose(wish, context)
        self._note("Renew", found.reason, executor, request.lease_id)
        return lease_pb2.RenewResponse(
            verdict=found.verdict,
            reason=found.reason,
            thing=found.thing,
            lease=found.lease,
            outcome=found.outcome,
            unknown=found.unknown,
        )

    async def Release(  # noqa: N802
        self, request: lease_pb2.ReleaseRequest, context: Any
    ) -> lease_pb2.ReleaseResponse:
        executor = self._access.executor(context)
        validate.check_release(request)
        wish = core_pb2.ProposeLeaseRequest(
            act=core_pb2.LEASE_ACT_RELEASE,
            executor=executor,
            lease_id=request.lease_id,
            request_id=request.request_id,
        )
        # Asked even without authority: giving a right back is never refused for want of a proof.
        found = await self._propose(wish, context)
        self._note("Release", found.reason, executor, request.lease_id)
        return lease_pb2.ReleaseResponse(
            verdict=found.verdict,
            reason=found.reason,
            thing=found.thing,
            outcome=found.outcome,
            unknown=found.unknown,
        )

    async def Delegate(  # noqa: N802
        self, request: lease_pb2.DelegateRequest, context: Any
    ) -> lease_pb2.DelegateResponse:
        executor = self._access.executor(context)
        validate.check_delegate(request)
        wish = core_pb2.ProposeLeaseRequest(
            act=core_pb2.LEASE_ACT_DELEGATE,
            executor=executor,
            delegation=request,
            request_id=request.request_id,
        )
        found = self._refusal() or await self._propose(wish, context)
        self._count("Delegate", found.reason)
        outcome = found.outcome
        return lease_pb2.DelegateResponse(
            verdict=found.verdict,
            reason=found.reason,
            thing=found.thing,
            grant=outcome.thing if outcome is not None and outcome.accepted else "",
            outcome=outcome,
            unknown=found.unknown,
        )

    async def Recall(  # noqa: N802
        self, request: lease_pb2.RecallRequest, context: Any
    ) -> lease_pb2.RecallResponse:
        executor = self._access.executor(context)
        validate.check_recall(request)
        wish = core_pb2.ProposeLeaseRequest(
            act=core_pb2.LEASE_ACT_RECALL,
            executor=executor,
            grant=request.grant,
            request_id=request.request_id,
        )
        # Asked even without authority: taking back is never refused for want of a proof.
        found = await self._propose(wish, context)
        self._count("Recall", found.reason)
        return lease_pb2.RecallResponse(
            verdict=found.verdict,
            reason=found.reason,
            thing=found.thing,
            outcome=found.outcome,
            unknown=found.unknown,
        )

    async def Challenge(  # noqa: N802
        self, request: lease_pb2.ChallengeRequest, context: Any
    ) -> lease_pb2.ChallengeResponse:
        return await self._proving.challenge(request, context)

    async def Attest(  # noqa: N802
        self, request: lease_pb2.AttestRequest, context: Any
    ) -> lease_pb2.AttestResponse:
        return await self._proving.attest(request, context)

    async def ReportDrift(  # noqa: N802
        self, request: lease_pb2.ReportDriftRequest, context: Any
    ) -> lease_pb2.ReportDriftResponse:
        return await self._proving.report_drift(request, context)

    async def Check(  # noqa: N802
        self, request: lease_pb2.CheckRequest, context: Any
    ) -> lease_pb2.CheckResponse:
        executor = self._access.executor(context)
        validate.check_check(request)
        if request.minimum_index:
            await self._hub.followed(request.minimum_index, patience_s(context))
        return convert.checked_to_wire(self._check((request,), executor, "Check")[0])

    async def CheckBatch(  # noqa: N802
        self, request: lease_pb2.CheckBatchRequest, context: Any
    ) -> lease_pb2.CheckBatchResponse:
        executor = self._access.executor(context)
        faults = validate.check_batch(request)
        sound = [each for each, fault in zip(request.checks, faults, strict=True) if not fault]
        # No check waits longer than it would alone, and each is held to its own index below.
        least = min((check.minimum_index for check in sound), default=0)
        if least:
            await self._hub.followed(least, patience_s(context))
        answers = iter(self._check(sound, executor, "CheckBatch"))
        return lease_pb2.CheckBatchResponse(
            results=[
                convert.checked_to_wire(self._malformed(fault) if fault else next(answers))
                for fault in faults
            ]
        )

    async def Report(  # noqa: N802
        self, request: lease_pb2.ReportRequest, context: Any
    ) -> lease_pb2.ReportResponse:
        executor = self._access.executor(context)
        validate.check_report(request)
        answer = await self._proposer.report(
            core_pb2.ReportEventsRequest(executor=executor, report=request),
            _timeout_ms(context.time_remaining()),
        )
        reason = convert.reason_of_wire(answer.reason)
        if reason is not None:
            self._metrics.denied("Report", reason)
        return answer

    async def Watch(  # noqa: N802
        self, requests: AsyncIterator[lease_pb2.WatchRequest], context: Any
    ) -> AsyncIterator[lease_pb2.WatchResponse]:
        executor = self._access.executor(context)
        first = await self._first(requests, executor)
        validate.check_watch(first, is_first=True)
        async with self._hub.watch(
            executor,
            tuple(first.lease_ids),
            after_size=first.after_size,
            session=first.session,
        ) as watcher:
            hearing = asyncio.create_task(self._hear(requests, watcher))
            hearing.add_done_callback(watcher.stopped_hearing)
            try:
                while True:
                    yield convert.notice_to_wire(await watcher.next())
            finally:
                hearing.cancel()
                await asyncio.wait([hearing])

    async def _first(
        self, requests: AsyncIterator[lease_pb2.WatchRequest], executor: str
    ) -> lease_pb2.WatchRequest:
        """What a watcher says first. Until then it takes a call's place like any other, and nobody
        else may lack one for it: few of an executor may say nothing, and none of them for long."""
        is_one_too_many = self._silent[executor] >= MAX_WATCHERS_PER_EXECUTOR
        self._silent[executor] += 1
        try:
            async with asyncio.timeout(MIN_SILENCE_S if is_one_too_many else MAX_SILENCE_S):
                first = await anext(requests, lease_pb2.WatchRequest())
        except TimeoutError as error:
            raise TooManyError(
                "the call says nothing; say first which leases are watched", limit="MAX_SILENCE_S"
            ) from error
        finally:
            self._silent[executor] -= 1
            if not self._silent[executor]:
                del self._silent[executor]
        return first

    async def _hear(
        self, requests: AsyncIterator[lease_pb2.WatchRequest], watcher: Watcher
    ) -> None:
        """Takes in what a watcher says after its first request."""
        async for request in requests:
            validate.check_watch(request, is_first=False)
            for acknowledged in request.acknowledgements:
                self._hub.acknowledge(watcher, acknowledged.lease_id, acknowledged.size)
            self._hub.forget(watcher, request.forget_lease_ids)
            if request.lease_ids:
                await self._hub.add(watcher, tuple(request.lease_ids))

    def _check(
        self, checks: Sequence[lease_pb2.CheckRequest], executor: str, method: str
    ) -> list[Checked]:
        started = time.perf_counter_ns()
        answers = self._checker.check_all(
            [CheckQuery(each.lease_id, executor, each.action, each.resource) for each in checks]
        )
        answers = list(map(_held_to, answers, checks))
        now_ns = self._clock.boottime_ns()
        for check, answer in zip(checks, answers, strict=True):
            if isinstance(answer.decision, Permit):
                self._hub.ledger.permitted(
                    Holder(check.lease_id, executor, check.session),
                    answer.things,
                    answer.at.ledger_size,
                    answer.ttl_ms,
                    now_ns,
                )
        self._metrics.check_latency((time.perf_counter_ns() - started) / 1000)
        for check, answer in zip(checks, answers, strict=True):
            decision = answer.decision
            if isinstance(decision, Deny):
                self._metrics.checked("deny", decision.reason)
                reason = convert.reason_to_wire(decision.reason)
                self._note(method, reason, executor, check.lease_id)
            else:
                self._metrics.checked("permit", "")
        return answers

    def _malformed(self, field: str) -> Checked:
        """Denies one check of a batch, and leaves the others alone. It is not journalled: what it
        names may be anything."""
        self._metrics.checked("deny", Reason.MALFORMED_REQUEST)
        self._metrics.denied("CheckBatch", Reason.MALFORMED_REQUEST)
        return Checked(Deny(Reason.MALFORMED_REQUEST, field))

    def _refusal(self) -> _Verdict | None:
        """Why the ledger need not even be asked: this node holds no authority."""
        authority = self._checker.authority()
        return _Verdict.denied(authority.reason) if isinstance(authority, Deny) else None

    async def _propose(self, wish: core_pb2.ProposeLeaseRequest, context: Any) -> _Verdict:
        proposed = await self._proposer.propose(wish, _timeout_ms(context.time_remaining()))
        outcome = proposed.outcome
        if outcome is None:
            # Unknown: not known to be granted, and therefore denied; the caller asks again.
            why = proposed.refused or Reason.INQUORATE
            return _Verdict.denied(why, proposed.thing, unknown=proposed.unknown)
        on_wire = convert.outcome_to_wire(outcome)
        if outcome.reason is not None:
            reason = convert.reason_to_wire(outcome.reason)
            return _Verdict(decision_pb2.VERDICT_DENY, reason, outcome.thing, on_wire)
        lease = None
        if wish.act in {core_pb2.LEASE_ACT_ACQUIRE, core_pb2.LEASE_ACT_RENEW}:
            lease = convert.lease_of_result(outcome.result)
        return _Verdict(
            decision_pb2.VERDICT_PERMIT, outcome=on_wire, lease=lease, result=outcome.result
        )

    def _count(self, method: str, number: decision_pb2.Reason.ValueType) -> None:
        """Counts a denial that the journal does not know: its records have the methods that the
        first version of the protocol names."""
        reason = convert.reason_of_wire(number)
        if reason is not None:
            self._metrics.denied(method, reason)

    def _note(
        self,
        method: str,
        number: decision_pb2.Reason.ValueType,
        executor: str,
        lease_id: str = "",
    ) -> None:
        """Counts a denial; has the journal count what the node denied by itself, and logs now and
        then that it did so for want of a quorum."""
        reason = convert.reason_of_wire(number)
        if reason is None:
            return
        self._metrics.denied(method, reason)
        self._journal.denied(method, reason, executor, lease_id)
        if reason is Reason.INQUORATE:
            self._denials.denied(method, reason, executor)


def _held_to(answer: Checked, check: lease_pb2.CheckRequest) -> Checked:
    """The answer, if it is true of a ledger that is as new as was asked for."""
    is_older = answer.at != NOWHERE and answer.at.ledger_size <= check.minimum_index
    if not check.minimum_index or not is_older:
        return answer
    return Checked(Deny(Reason.BEHIND, str(answer.at.ledger_size)), answer.at)


def _timeout_ms(remaining_s: float | None) -> int:
    """How long a proposal may take, given what is left of the caller's time."""
    if remaining_s is None:
        return DEFAULT_PROPOSAL_TIMEOUT_MS
    left_ms = int(remaining_s * 1000)
    left_ms -= min(ANSWER_MARGIN_MS, left_ms // 5)
    return max(1, min(left_ms, DEFAULT_PROPOSAL_TIMEOUT_MS))
