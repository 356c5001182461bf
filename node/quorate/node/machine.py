"""The state machine that the log feeds: each committed command into state and ledger.

Owns the step from a log entry to an outcome, all in the turn's one transaction, and who waits for
which outcome. Does not own what a command means (`quorate.core.transitions`) nor when the turn is
durable: outcomes are handed out by `take_outcomes`, after the commit.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import structlog

from quorate.core import codec
from quorate.core.errors import MalformedError
from quorate.core.outcome import Outcome
from quorate.core.transitions import apply
from quorate.storage import Environment

log = structlog.get_logger(__name__)

KEY_BYTES = 32
_ABOUT_MEMBERS = ("node.", "domain.")


def proposal_key(envelope: bytes) -> bytes:
    """Names a proposal while it waits: SHA-256 of the exact envelope. Not the command's id, which
    another envelope may claim too."""
    return hashlib.sha256(envelope).digest()


@dataclass(frozen=True, slots=True)
class Executed:
    """One command that this turn executed."""

    key: bytes
    outcome: Outcome


class LedgerMachine:
    """Applies commands to the environment's current turn."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._executed: list[Executed] = []
        self.latest_stamp_ms = 0
        self.has_changed_members = False
        """Whether something was executed that may have changed the nodes or domains of the state;
        for its reader to put back."""

    def apply(self, index: int, payload: bytes) -> None:
        """Executes one committed command. Total: only a storage error passes through."""
        turn = self._environment.turn
        applied = apply(turn.state, payload, turn.ledger_size)
        if applied.entry is not None:
            turn.append_ledger(applied.entry)
        if applied.fault is not None:
            log.error("command.fault", index=index, exc_info=applied.fault)
        is_about_members = applied.kind.startswith(_ABOUT_MEMBERS)
        self.has_changed_members |= is_about_members or "executed" in applied.outcome.result
        envelope = payload[codec.STAMP_BYTES :]
        self.latest_stamp_ms = max(self.latest_stamp_ms, _stamp_of(payload))
        self._executed.append(Executed(proposal_key(envelope), applied.outcome))

    def take_outcomes(self) -> list[Executed]:
        """What was executed since the last call. Call it only when the turn is durable."""
        executed, self._executed = self._executed, []
        return executed

    def forget(self) -> None:
        """The turn is void: so are its outcomes."""
        self._executed.clear()


def _stamp_of(payload: bytes) -> int:
    try:
        return codec.unstamp(payload)[0]
    except MalformedError:
        return 0  # such a command was denied, and moved no time
