"""Submitting a signed command until it is known what the ledger decided.

Owns the repeating: the same envelope is submitted again and again, which is harmless (the ledger
executes an issuer's nonce once), until an outcome is known or the time is up. Then the truth is
that the outcome is unknown, and that is what is said.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import grpc

from quorate.cli.connection import Connection, read_json
from quorate.cli.errors import InterruptedOutcomeError, UnknownOutcomeError, interruptions
from quorate.cli.live import Told
from quorate.core.errors import QuorateError
from quorate.core.limits import MAX_PROPOSAL_TIMEOUT_MS
from quorate.v1 import decision_pb2, governance_pb2

QUERY_TIMEOUT_MS: Final = 2_000
ANSWER_MARGIN_MS: Final = 500
"""What the node may take to say, after its own timeout, that the outcome is unknown."""
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 1.0

NEVER_EXECUTED: Final = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
)


@dataclass(frozen=True, slots=True)
class SignedCommand:
    """A command ready to submit, as often as need be."""

    envelope: bytes
    command_id: str


class Wait(StrEnum):
    """How widely a narrowing command must hold before the command line returns."""

    COMMITTED = "committed"
    ENFORCED = "enforced"
    DRAINED = "drained"


_LEVELS: Final = {
    Wait.COMMITTED: governance_pb2.WAIT_LEVEL_COMMITTED,
    Wait.ENFORCED: governance_pb2.WAIT_LEVEL_ENFORCED,
    Wait.DRAINED: governance_pb2.WAIT_LEVEL_DRAINED,
}


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a command.

    ledger_index is None when the node refused to propose it: then it is in no ledger, and never
    will be. reached: the strongest level known to hold; empty for a command that widens. bound_ms:
    after so long nobody acts on what was revoked, whatever fails; None: nothing is promised.
    """

    accepted: bool
    reason: str
    thing: str
    ledger_index: int | None
    command_id: str
    duplicate: bool
    result: str
    reached: str
    took_ms: float
    bound_ms: int | None = None

    def to_json(self) -> dict[str, object]:
        return {
            "accepted": self.accepted,
            "reason": self.reason,
            "thing": self.thing,
            "ledger_index": self.ledger_index,
            "command_id": self.command_id,
            "duplicate": self.duplicate,
            "result": result_json(self.result),
            "reached": self.reached,
            "bound_ms": self.bound_ms,
            "took_ms": round(self.took_ms, 1),
        }


def reason_name(number: int) -> str:
    """A reason's name without its prefix; the number, when this version does not know it."""
    if number == decision_pb2.REASON_UNSPECIFIED:
        return ""
    known = decision_pb2.Reason.DESCRIPTOR.values_by_number.get(number)
    return known.name.removeprefix("REASON_") if known is not None else f"reason {number}"


def result_json(result: str) -> object:
    """A command's own result, which the node sends as JSON text; None when there is none."""
    return read_json(result.encode()) if result else None


def level_name(number: int) -> str:
    for wait, level in _LEVELS.items():
        if level == number:
            return wait.value
    return ""


class _Submission:
    """One command on its way: what is known of it so far."""

    def __init__(
        self,
        connection: Connection,
        command: SignedCommand,
        timeout_ms: int,
        wait: Wait | None,
        told: Told | None,
    ) -> None:
        self._connection = connection
        self._command = command
        self._wait = wait
        self._told = told
        self._started = time.monotonic()
        self._deadline = self._started + timeout_ms / 1000
        self._maybe_executed = False
        self._last = "no answer"
        self._narrowed: Settled | None = None

    def run(self) -> Settled:
        with interruptions(self._interrupted):
            return self._until_settled()

    def _until_settled(self) -> Settled:
        pause_s = FIRST_PAUSE_S
        while (left_ms := self._left_ms()) > 0:
            settled = self._attempt(left_ms) or self._look_up()
            if settled is not None:
                return settled
            time.sleep(min(pause_s, max(self._left_ms(), 0) / 1000))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        if self._narrowed is not None:  # accepted; it holds at some level, not at the wished one
            return self._narrowed
        command_id = self._command.command_id
        raise UnknownOutcomeError(
            f"it is not known what the ledger decided about command {command_id} ({self._last})",
            hint=_ask_later(command_id),
            details={"command_id": command_id},
        )

    def _interrupted(self) -> InterruptedOutcomeError:
        command_id = self._command.command_id
        if self._narrowed is not None:
            message = f"interrupted: command {command_id} is accepted; how widely it holds by now"
        else:
            message = f"interrupted: what the ledger decides about command {command_id}"
        return InterruptedOutcomeError(
            f"{message} is not known",
            hint=_ask_later(command_id),
            details={"command_id": command_id},
        )

    def _left_ms(self) -> int:
        return int((self._deadline - time.monotonic()) * 1000)

    def _attempt(self, left_ms: int) -> Settled | None:
        stub = self._connection.governance
        left_ms = min(left_ms, MAX_PROPOSAL_TIMEOUT_MS)  # then it is submitted again
        try:
            if self._wait is None:
                answer: Any = stub.Submit(
                    governance_pb2.SubmitRequest(
                        envelope=self._command.envelope, timeout_ms=left_ms
                    ),
                    timeout=(left_ms + ANSWER_MARGIN_MS) / 1000,
                )
            else:
                request = governance_pb2.RevokeRequest(
                    envelope=self._command.envelope,
                    wait=_LEVELS[self._wait],
                    timeout_ms=left_ms,
                )
                timeout_s = (left_ms + ANSWER_MARGIN_MS) / 1000
                if self._told is not None:
                    return self._follow(request, timeout_s, self._told)
                answer = stub.Revoke(request, timeout=timeout_s)
        except grpc.RpcError as error:
            self._failed(error)
            return None
        return self._answered(answer)

    def _follow(
        self, request: governance_pb2.RevokeRequest, timeout_s: float, told: Told
    ) -> Settled | None:
        """The same as Revoke; says meanwhile how far it has come."""
        call: Any = self._connection.governance.RevokeWithProgress(request, timeout=timeout_s)
        try:
            for progress in call:
                told(progress)
                settled = self._answered(progress.so_far)
                if settled is not None:
                    return settled
        finally:
            call.cancel()
        self._maybe_executed = True
        return None

    def _failed(self, error: grpc.RpcError) -> None:
        problem = self._connection.explain(error)
        call: Any = error
        if call.code() in NEVER_EXECUTED and not self._maybe_executed:
            raise problem from error
        # Everything else may have been executed, even "unavailable": the connection may have
        # broken after the node had read the command.
        self._maybe_executed = True
        self._last = str(problem)

    def _answered(self, answer: Any) -> Settled | None:
        if answer.unknown:
            self._maybe_executed = True
            self._last = "the node does not know it"
            return None
        if answer.HasField("outcome"):
            return self._decided(answer.outcome, answer)
        if self._maybe_executed or answer.reason == decision_pb2.REASON_UNSPECIFIED:
            # "Not proposed" is about this attempt, and says nothing about an earlier one.
            self._maybe_executed = True
            self._last = reason_name(answer.reason) or "an empty answer"
            return None
        return self._settled(decision_pb2.Outcome(accepted=False, reason=answer.reason), None, None)

    def _decided(self, outcome: decision_pb2.Outcome, answer: Any) -> Settled | None:
        """answer: the one that the outcome was in, if it can say how widely that holds."""
        settled = self._settled(outcome, answer, outcome.ledger_index)
        if not outcome.accepted or self._wait is None:
            return settled
        order, reached = [*Wait], settled.reached
        if reached and order.index(Wait(reached)) >= order.index(self._wait):
            return settled
        self._narrowed = settled  # decided; now it is the level that is waited for
        return None

    def _settled(self, outcome: decision_pb2.Outcome, answer: Any, index: int | None) -> Settled:
        reached, bound_ms = "", None
        if isinstance(answer, governance_pb2.RevokeResponse):
            reached = level_name(answer.reached)
            bound_ms = answer.bound_ms if answer.HasField("bound_ms") else None
        return Settled(
            accepted=outcome.accepted,
            reason=reason_name(outcome.reason),
            thing=outcome.thing,
            ledger_index=index,
            command_id=self._command.command_id,
            duplicate=outcome.duplicate,
            result=outcome.result,
            reached=reached,
            took_ms=(time.monotonic() - self._started) * 1000,
            bound_ms=bound_ms,
        )

    def _look_up(self) -> Settled | None:
        """Asks for the outcome by the command's id: it may be known where proposing fails."""
        if self._narrowed is not None or self._left_ms() <= 0:
            return None
        request = governance_pb2.GetOutcomeRequest(command_id=self._command.command_id)
        try:
            answer = self._connection.ask(
                self._connection.governance.GetOutcome,
                request,
                min(QUERY_TIMEOUT_MS, self._left_ms()) + 1,
            )
        except QuorateError as error:
            self._last = str(error)
            return None
        return self._decided(answer.outcome, None) if answer.found else None


def _ask_later(command_id: str) -> str:
    return f"ask later with `quorate outcome {command_id}`; do not assume either way"


def submit(
    connection: Connection,
    command: SignedCommand,
    timeout_ms: int,
    wait: Wait | None = None,
    told: Told | None = None,
) -> Settled:
    """Submits a command; with `wait`, a narrowing one, until it holds as widely as that. told: is
    told meanwhile how far that has come.

    Raises UnknownOutcomeError when the time is up or a person does not wait, and UnreachableError,
    MalformedError or RefusedError when the command was certainly not executed.
    """
    return _Submission(connection, command, timeout_ms, wait, told).run()
