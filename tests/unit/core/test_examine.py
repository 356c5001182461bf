"""What is refused before it is proposed: whatever could be recorded as denied again and again."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from quorate.core.limits import MAX_COMMAND_LIFETIME_MS
from quorate.core.outcome import Reason
from quorate.core.transitions import examine
from quorate.testing.builders import Federation, Ledger

BANK = "bank.example"
REGISTER = {"executor": f"spiffe://{BANK}/agent/a"}


@dataclass
class Case:
    federation: Federation
    ledger: Ledger

    def reason(self, envelope: bytes) -> Reason | None:
        refusal = examine(self.ledger.view, envelope, self.ledger.now)
        return None if refusal is None else refusal.reason

    def register(self, nonce: str, not_after: int) -> bytes:
        return self.federation.command(BANK, "executor.register", REGISTER, nonce, not_after)


@pytest.fixture
def case() -> Case:
    federation = Federation.build((BANK, "clinic.example"))
    return Case(federation, Ledger(federation))


def test_a_command_that_its_issuer_signed_in_time_may_be_proposed(case: Case):
    assert case.reason(case.register("a" * 16, case.ledger.now + 1000)) is None


def test_an_expired_command_is_not_recorded_once_more_each_time_it_is_replayed(case: Case):
    envelope = case.register("a" * 16, case.ledger.now + 1)
    case.ledger.now += 5
    case.ledger.apply(case.register("b" * 16, case.ledger.now + 1000))
    assert case.reason(envelope) is Reason.EXPIRED_COMMAND


def test_a_repeat_is_let_through_to_its_first_outcome_even_when_it_has_expired(case: Case):
    envelope = case.register("a" * 16, case.ledger.now)
    first = case.ledger.apply(envelope)
    assert first.outcome.accepted
    assert case.reason(envelope) is None


def test_another_command_under_a_used_nonce_is_refused(case: Case):
    case.ledger.apply(case.register("a" * 16, case.ledger.now + 1000))
    other = case.federation.command(
        BANK, "executor.revoke", REGISTER, "a" * 16, case.ledger.now + 1000
    )
    assert case.reason(other) is Reason.NONCE_REUSED


def test_a_command_that_would_be_remembered_for_too_long_is_refused(case: Case):
    longest = case.ledger.now + MAX_COMMAND_LIFETIME_MS
    assert case.reason(case.register("a" * 16, longest)) is None
    assert case.reason(case.register("a" * 16, longest + 1)) is Reason.LIFETIME_TOO_LONG


@pytest.mark.parametrize("garbage", [b"", b"{}", b"\x00" * 100, b"x" * 20_000])
def test_garbage_is_refused(case: Case, garbage: bytes):
    assert case.reason(garbage) in (Reason.MALFORMED_COMMAND, Reason.TOO_LARGE)
