"""How an executor stands to what it has to prove, for people.

Owns that reading of the records. It is told, and permits nothing: what counts is decided where the
executor asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quorate.cli.connection import Connection, read_json
from quorate.cli.options import now_ms
from quorate.cli.output import moment
from quorate.cli.queries import read_records
from quorate.core.errors import ConfigurationError
from quorate.core.explanation import suspended_words
from quorate.core.records import Executor, Reference
from quorate.core.verifying import failing
from quorate.v1 import governance_pb2


@dataclass(frozen=True, slots=True)
class ShownExecutor:
    """proofs: of each reference that covers it, how it stands to that. time_ms: at which: ledger
    time, or this machine's if that is later."""

    executor: Executor
    proofs: Sequence[Mapping[str, object]]
    ledger_size: int
    time_ms: int

    @property
    def facts(self) -> tuple[tuple[str, object], ...]:
        held = self.executor
        return (
            ("executor", held.id),
            ("status", held.status),
            *([("because", suspended_words(held))] if held.suspended_for else []),
            ("changed", held.changed),
            ("ledger size", self.ledger_size),
        )

    def to_json(self) -> dict[str, object]:
        return {
            "ledger_size": self.ledger_size,
            "time_ms": self.time_ms,
            "executor": self.executor.to_json(),
            "proofs": list(self.proofs),
        }


def read_executor(
    connection: Connection, ident: str, at_least: int, timeout_ms: int
) -> ShownExecutor:
    """Raises ConfigurationError where there is no such executor, and what asking does."""
    found = connection.ask(
        connection.governance.GetState,
        governance_pb2.GetStateRequest(
            kind=governance_pb2.KIND_EXECUTOR, id=ident, minimum_index=at_least
        ),
        timeout_ms,
    )
    if not found.found:
        raise ConfigurationError(f"there is no executor {ident}", hint="see quorate executor list")
    executor = Executor.from_json(read_json(found.record.encode()))
    known, _, _ = read_records(connection, governance_pb2.KIND_REFERENCE, at_least, timeout_ms)
    now = max(found.position.ledger_time_ms, now_ms())  # no entry says that a proof grew old
    references = [each for each in map(Reference.from_json, known) if each.covers(ident)]
    own = [each for each in references if each.domain == executor.domain]
    proofs = [_standing(executor, each, now) for each in own]
    return ShownExecutor(executor, proofs, found.position.size, now)


def shown_until(proof: Mapping[str, object]) -> str:
    until = proof["counts_until_ms"]
    return moment(until) if isinstance(until, int) else ""


def _standing(executor: Executor, reference: Reference, now: int) -> dict[str, object]:
    held = executor.attestation(reference.name)
    until = None if held is None else held.challenged_at + reference.max_age_ms
    if held is None or until is None:
        state = "missing"
    elif failing(reference, dict(held.claims), held.evidence):
        state = "mismatch"
    else:
        state = "stale" if until <= now else "fresh"
    return {
        "reference": reference.name,
        "evidence": reference.evidence.value,
        "state": state,
        "counts_until_ms": until,
    }
