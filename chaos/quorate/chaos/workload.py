"""Somebody who writes without pause, whatever happens to the nodes, and remembers what was told;
and somebody who writes much at once.

Owns a stream of numbered commands through nodes chosen at random, repeats of earlier ones, and the
settling of those whose outcome nobody told. Judges nothing but its own answers: two answers about
one command that contradict each other are a problem. What the ledgers hold is compared elsewhere
(`quorate.chaos.mirror`).
"""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from quorate.chaos.operator import COMMAND_LIFETIME_MS, Acknowledged, Operator
from quorate.chaos.processes import wait_until
from quorate.core import dsse
from quorate.core.commands import parse_command
from quorate.core.limits import MAX_ENVELOPE_BYTES
from quorate.v1 import decision_pb2, governance_pb2

ATTEMPT_MS: Final = 2_000
ATTEMPT_MARGIN_S: Final = 1.0
SUBMIT_ALL_MS: Final = 30_000
SETTLE_TIMEOUT_S: Final = 60.0
REPEAT_CHANCE: Final = 0.15
_AGAIN_S: Final = 0.2


def submit_all(
    node: Operator,
    envelopes: Sequence[bytes],
    *,
    in_flight: int = 256,
    attempt_ms: int = SUBMIT_ALL_MS,
) -> list[decision_pb2.Outcome | None]:
    """Submits each envelope once, many at a time; their outcomes, or None where none was told."""
    outcomes: list[decision_pb2.Outcome | None] = [None] * len(envelopes)
    room = threading.Semaphore(in_flight)
    calls = []
    for envelope in envelopes:
        room.acquire()
        request = governance_pb2.SubmitRequest(envelope=envelope, timeout_ms=attempt_ms)
        # Of a stub's method, which the type stubs call a plain function.
        method: Any = node.governance.Submit
        call = method.future(request, timeout=attempt_ms / 1_000 + ATTEMPT_MARGIN_S)
        call.add_done_callback(lambda _call: room.release())
        calls.append(call)
    for number, call in enumerate(calls):
        if call.exception() is None and call.result().HasField("outcome"):
            outcomes[number] = call.result().outcome
    return outcomes


def command_id_of(envelope: bytes) -> str:
    return parse_command(dsse.parse(envelope, MAX_ENVELOPE_BYTES).payload).command_id


@dataclass
class Written:
    """One numbered command. outcome: the first that was told; None while it is unknown."""

    number: int
    envelope: bytes
    command_id: str
    outcome: decision_pb2.Outcome | None = None
    attempts: int = 0


@dataclass
class Tally:
    """What a writer has seen. found, resubmitted: how unknown outcomes were settled."""

    acknowledged: int = 0
    repeats: int = 0
    unknown: int = 0
    found: int = 0
    resubmitted: int = 0
    problems: list[str] = field(default_factory=list)


class Writer:
    """Registers executors of one organisation, numbered, through any node, until it is stopped.

    pace_s: its pause after each command. lifetime_ms: how long a command whose outcome nobody told
    may be submitted again.
    """

    def __init__(
        self,
        issuer: Operator,
        nodes: Sequence[Operator],
        name: str,
        seed: int,
        *,
        pace_s: float = 0.0,
        lifetime_ms: int = COMMAND_LIFETIME_MS,
    ) -> None:
        self.tally = Tally()
        self.written: list[Written] = []
        self._issuer = issuer
        self._nodes = tuple(nodes)
        self._name = name
        self._pace_s = pace_s
        self._lifetime_ms = lifetime_ms
        self._chance = random.Random(seed)  # noqa: S311 - a workload's choices, no secret
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"writer-{name}")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when the last command has been answered or given up."""
        self._stopping.set()
        self._thread.join()

    def await_progress(self, commands: int, timeout_s: float) -> None:
        """Waits until so many more commands are acknowledged. Raises DeadlineError."""
        goal = self.tally.acknowledged + commands
        wait_until(
            f"{commands} more commands of writer {self._name}",
            lambda: self.tally.acknowledged >= goal or not self._thread.is_alive(),
            timeout_s,
        )
        assert self._thread.is_alive(), "the writer has died"

    def settle(self) -> None:
        """Learns every outcome that is still unknown: asks for it, or submits the same bytes
        again, which cannot execute them twice."""
        for written in self.written:
            if written.outcome is not None:
                continue
            outcome = self._ask(written)
            if outcome is not None:
                self.tally.found += 1
                self._told(written, outcome)
                continue
            self._resubmit(written)
            self.tally.resubmitted += 1

    def acknowledged(self) -> list[Acknowledged]:
        """Every command whose outcome is known."""
        return [
            Acknowledged(w.command_id, w.outcome.ledger_index, w.outcome.accepted)
            for w in self.written
            if w.outcome is not None
        ]

    # -- inside ------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            if self.written and self._chance.random() < REPEAT_CHANCE:
                self.tally.repeats += 1
                written = self._chance.choice(self.written)
            else:
                written = self._next()
            told = self._submit(written, self._chance.choice(self._nodes))
            # A node that told nothing may be down: not as fast as we can.
            self._stopping.wait(self._pace_s if told else _AGAIN_S)

    def _next(self) -> Written:
        number = len(self.written)
        executor = f"spiffe://{self._issuer.domain}/{self._name}/{number:06d}"
        body: Mapping[str, object] = {"executor": executor}
        envelope = self._issuer.sign("executor.register", body, lifetime_ms=self._lifetime_ms)
        written = Written(number, envelope, command_id_of(envelope))
        self.written.append(written)
        return written

    def _submit(self, written: Written, node: Operator) -> bool:
        """One attempt through one node; whether it told the outcome."""
        written.attempts += 1
        request = governance_pb2.SubmitRequest(envelope=written.envelope, timeout_ms=ATTEMPT_MS)
        try:
            answer = node.governance.Submit(request, timeout=ATTEMPT_MS / 1_000 + ATTEMPT_MARGIN_S)
        except grpc.RpcError:
            self.tally.unknown += 1
            return False
        if not answer.HasField("outcome"):
            self.tally.unknown += 1
            return False
        self._told(written, answer.outcome)
        return True

    def _resubmit(self, written: Written) -> None:
        wait_until(
            f"the outcome of command {written.number}",
            lambda: self._submit(written, self._chance.choice(self._nodes)),
            SETTLE_TIMEOUT_S,
        )

    def _ask(self, written: Written) -> decision_pb2.Outcome | None:
        node = self._chance.choice(self._nodes)
        request = governance_pb2.GetOutcomeRequest(command_id=written.command_id)
        answer = node.ask(node.governance.GetOutcome, request)
        return answer.outcome if answer.found else None

    def _told(self, written: Written, outcome: decision_pb2.Outcome) -> None:
        if outcome.command_id != written.command_id or not outcome.accepted:
            self.tally.problems.append(f"command {written.number}: {outcome}")
        if written.outcome is None:
            written.outcome = outcome
            self.tally.acknowledged += 1
        elif written.outcome.ledger_index != outcome.ledger_index:
            self.tally.problems.append(
                f"command {written.number}: at {written.outcome.ledger_index}, "
                f"then at {outcome.ledger_index}"
            )
