"""Submitting a signed command until it is known what the ledger decided.

Owns the repeating: the same envelope is submitted again and again, which is harmless (the ledger
executes an issuer's nonce once), until an outcome is known or the time is up. Then the truth is
that the outcome is unknown, and that is what is said.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import grpc
import typer
from rich.console import Console
from rich.markup import escape

from quorate.cli.connection import Connection, operator_target, read_json
from quorate.cli.errors import InterruptedOutcomeError, UnknownOutcomeError, interruptions
from quorate.cli.options import now_ms
from quorate.cli.output import ExitCode, Output, facts, moment, show
from quorate.core import dsse, ids
from quorate.core.commands import parse_command
from quorate.core.errors import ConfigurationError, MalformedError, QuorateError
from quorate.core.limits import (
    MAX_COMMAND_LIFETIME_MS,
    MAX_ENVELOPE_BYTES,
    MAX_PROPOSAL_TIMEOUT_MS,
)
from quorate.node.identity import read_public, write_public
from quorate.node.organisation import Organisation
from quorate.proofs.commands import build_command
from quorate.v1 import decision_pb2, governance_pb2, node_pb2

COMMAND_MARGIN_MS: Final = 600_000
"""A command outlives the waiting for it by this much: clocks differ, and it is repeated."""
NONCE_BYTES: Final = 16
SAVED_LIFETIME_MS: Final = 6 * 3_600_000
"""Of a command that people bring to another organisation."""
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
    will be. reached: the strongest level known to hold; empty for a command that widens.
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
        self, connection: Connection, command: SignedCommand, timeout_ms: int, wait: Wait | None
    ) -> None:
        self._connection = connection
        self._command = command
        self._wait = wait
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
                answer = stub.Revoke(
                    governance_pb2.RevokeRequest(
                        envelope=self._command.envelope,
                        wait=_LEVELS[self._wait],
                        timeout_ms=left_ms,
                    ),
                    timeout=(left_ms + ANSWER_MARGIN_MS) / 1000,
                )
        except grpc.RpcError as error:
            self._failed(error)
            return None
        return self._answered(answer)

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
        reached = level_name(getattr(answer, "reached", 0))
        if answer.HasField("outcome"):
            return self._decided(answer.outcome, reached)
        if self._maybe_executed or answer.reason == decision_pb2.REASON_UNSPECIFIED:
            # "Not proposed" is about this attempt, and says nothing about an earlier one.
            self._maybe_executed = True
            self._last = reason_name(answer.reason) or "an empty answer"
            return None
        return self._settled(decision_pb2.Outcome(accepted=False, reason=answer.reason), "", None)

    def _decided(self, outcome: decision_pb2.Outcome, reached: str) -> Settled | None:
        settled = self._settled(outcome, reached, outcome.ledger_index)
        if not outcome.accepted or self._wait is None:
            return settled
        order = [*Wait]
        if reached and order.index(Wait(reached)) >= order.index(self._wait):
            return settled
        self._narrowed = settled  # decided; now it is the level that is waited for
        return None

    def _settled(self, outcome: decision_pb2.Outcome, reached: str, index: int | None) -> Settled:
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
        return self._decided(answer.outcome, "") if answer.found else None


def _ask_later(command_id: str) -> str:
    return f"ask later with `quorate outcome {command_id}`; do not assume either way"


def submit(
    connection: Connection, command: SignedCommand, timeout_ms: int, wait: Wait | None = None
) -> Settled:
    """Submits a command; with `wait`, a narrowing one, until it holds as widely as that.

    Raises UnknownOutcomeError when the time is up or a person does not wait, and UnreachableError,
    MalformedError or RefusedError when the command was certainly not executed.
    """
    return _Submission(connection, command, timeout_ms, wait).run()


def govern(
    directory: Path,
    kind: str,
    body: Mapping[str, object],
    *,
    timeout_ms: int,
    output: Output,
    address: str = "",
    wait: Wait | None = None,
) -> None:
    """Builds a command of the organisation, signs it with its governance key, submits it, and
    prints what became of it. Exits with DENIED, or with UNKNOWN when it is accepted and `wait` was
    not reached in time."""
    organisation = Organisation.load(directory)
    with Connection(operator_target(organisation, address)) as connection:
        command = _sign(connection, organisation, kind, body, timeout_ms)
        settled = submit(connection, command, timeout_ms, wait)
    value = {"type": kind, **settled.to_json()}
    show(output, value, lambda console: _print_settled(console, kind, settled, wait))
    if not settled.accepted:
        raise typer.Exit(ExitCode.DENIED)
    if _fell_short(settled, wait):
        raise typer.Exit(ExitCode.UNKNOWN)


def save(
    directory: Path, kind: str, body: Mapping[str, object], file: Path, output: Output
) -> None:
    """Builds and signs a command of the organisation, and keeps it in a new file: for an
    organisation whose own node cannot take it, so that another's does (`hand_in`)."""
    organisation = Organisation.load(directory)
    nonce = secrets.token_hex(NONCE_BYTES)
    not_after = now_ms() + SAVED_LIFETIME_MS
    envelope = build_command(
        origin=organisation.genesis().origin,
        issuer=organisation.domain,
        command_type=kind,
        body=body,
        nonce=nonce,
        not_after=not_after,
        key=organisation.governance_key(),
    )
    write_public(file, envelope)
    command_id = ids.command_id(organisation.domain, nonce)
    value = {"type": kind, "file": str(file), "command_id": command_id, "not_after_ms": not_after}

    def people(console: Console) -> None:
        console.print(f"[bold green]signed[/] {kind}, and not submitted: {escape(str(file))}")
        console.print(facts([("command", command_id), ("expires", moment(not_after))]))
        console.print(
            "Next: another organisation runs `quorate node submit FILE --org DIR`.", style="dim"
        )

    show(output, value, people)


def hand_in(
    directory: Path, file: Path, *, timeout_ms: int, output: Output, address: str = ""
) -> None:
    """Submits a command that its issuer has signed and kept in a file, through this organisation's
    node, and prints what became of it."""
    envelope = read_public(file, MAX_ENVELOPE_BYTES)
    try:
        command = parse_command(dsse.parse(envelope, MAX_ENVELOPE_BYTES).payload)
    except MalformedError as error:
        raise ConfigurationError(
            f"{file} is no signed command: {error}",
            hint="give the file that a command with --save has made",
        ) from error
    with Connection(operator_target(Organisation.load(directory), address)) as connection:
        signed = SignedCommand(envelope, command.command_id)
        settled = submit(connection, signed, timeout_ms)
    value = {"type": command.verb, "issuer": command.issuer, **settled.to_json()}
    show(output, value, lambda console: _print_settled(console, command.verb, settled, None))
    if not settled.accepted:
        raise typer.Exit(ExitCode.DENIED)


def _sign(
    connection: Connection,
    organisation: Organisation,
    kind: str,
    body: Mapping[str, object],
    timeout_ms: int,
) -> SignedCommand:
    origin = organisation.genesis().origin
    key = organisation.governance_key()
    # First a question that changes nothing: when the node cannot be reached now, nothing was
    # submitted, and that is certain.
    status = connection.ask(
        connection.node.GetStatus,
        node_pb2.GetStatusRequest(),
        min(timeout_ms, QUERY_TIMEOUT_MS),
    )
    if status.origin != origin:
        raise ConfigurationError(f"the node keeps {status.origin}, the genesis is {origin}'s")
    lifetime_ms = min(timeout_ms + COMMAND_MARGIN_MS, MAX_COMMAND_LIFETIME_MS // 2)
    nonce = secrets.token_hex(NONCE_BYTES)
    envelope = build_command(
        origin=origin,
        issuer=organisation.domain,
        command_type=kind,
        body=body,
        nonce=nonce,
        not_after=max(now_ms(), status.position.ledger_time_ms) + lifetime_ms,
        key=key,
    )
    return SignedCommand(envelope, ids.command_id(organisation.domain, nonce))


def _fell_short(settled: Settled, wait: Wait | None) -> bool:
    order = ["", *Wait]
    return wait is not None and order.index(settled.reached) < order.index(wait)


def _print_settled(console: Console, kind: str, settled: Settled, wait: Wait | None) -> None:
    word = "[bold green]accepted[/]" if settled.accepted else "[bold red]denied[/]"
    about = escape(f"{settled.reason} {settled.thing}".strip())
    console.print(f"{word} {kind} {about}".rstrip())
    index = "not in the ledger" if settled.ledger_index is None else settled.ledger_index
    pairs: list[tuple[str, object]] = [
        ("ledger index", index),
        ("command", settled.command_id),
        ("took", f"{settled.took_ms:.0f} ms"),
    ]
    if settled.accepted and wait is not None:
        pairs.insert(1, ("holds", settled.reached or "not known"))
    console.print(facts(pairs))
    if settled.accepted and _fell_short(settled, wait):
        console.print(f"[bold yellow]not {wait} in time[/]: from the authority period on, it is")
