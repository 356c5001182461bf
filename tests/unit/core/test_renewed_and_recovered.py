"""Recoveries, verification and explanations of federations whose domains have renewed their keys,
frozen something, or come from an earlier version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from typing import Final

import pytest

from quorate.cli.ledger_members import Members
from quorate.core import codec, dsse, entries, keys
from quorate.core.acts import ACTS
from quorate.core.commands import parse_any, parse_command
from quorate.core.errors import ConfigurationError
from quorate.core.explanation import Question
from quorate.core.invariants import check
from quorate.core.outcome import Outcome
from quorate.core.recounting import recount
from quorate.core.recovering import carry_over, next_fence_base
from quorate.core.recovery import (
    Former,
    Recovery,
    build_recovery_payload,
    parse_recovery,
    state_hash,
)
from quorate.core.state import StateView
from quorate.core.store import MemoryStore
from quorate.core.transitions import examine
from quorate.core.vetting import Vetting
from quorate.node.former import check_former
from quorate.node.recover import _descriptor
from quorate.proofs.commands import build_command
from quorate.proofs.signing import SigningKey, sign_envelope
from quorate.testing.builders import Federation, Ledger, ballot_body, key_for, proposal_body

A, B, C = "alpha.example", "beta.example", "gamma.example"
NEW: Final = "quorate.example/recovered-1"
GOVERNANCE, COSIGNER = key_for("new governance"), key_for("new cosigner")
_numbers = count(10**9)


def rekey(ledger: Ledger, domain: str, governance: SigningKey, *signers: SigningKey) -> Outcome:
    first, *others = signers
    envelope = build_command(
        origin=ledger.view.federation().origin,
        issuer=domain,
        command_type="domain.rekey",
        body={
            "domain": domain,
            "governance_key": governance.public.hex(),
            "cosigner_key": COSIGNER.public.hex(),
        },
        nonce=f"{next(_numbers):032x}",
        not_after=ledger.now + 60_000,
        key=first,
        also_signed_by=[*others, COSIGNER],
    )
    return ledger.apply(envelope).outcome


def recovery_of(ledger: Ledger, signers: Mapping[str, SigningKey], **changes: object) -> Recovery:
    view = ledger.view
    federation = view.federation()
    former = Former(
        origin=federation.origin,
        genesis_hash=federation.genesis_hash,
        ledger_size=len(ledger.entries),
        root="0" * 64,
        log_index=len(ledger.entries) + 1,
        log_term=3,
        state=state_hash(ledger.store.items()),
    )
    given: dict[str, object] = {
        "origin": NEW,
        "created_ms": federation.ledger_time + 5,
        "parameters": federation.parameters,
        "version": federation.protocol,
        "fence_base": next_fence_base(federation, len(ledger.entries)),
        "former": former,
        "survivors": list(signers),
        "descriptors": [_descriptor(view, domain.id, set()) for domain in view.domains()],
    }
    payload = build_recovery_payload(**(given | changes))  # type: ignore[arg-type]
    return parse_recovery(sign_envelope(dsse.RECOVERY_TYPE, payload, *signers.values()))


@pytest.fixture
def ledger() -> Ledger:
    """One of three has renewed its keys."""
    made = Ledger(Federation.build((A, B, C)))
    old = made.federation[A].governance
    assert rekey(made, A, GOVERNANCE, old, GOVERNANCE).accepted
    return made


def survivors(ledger: Ledger) -> dict[str, SigningKey]:
    return {A: GOVERNANCE, B: ledger.federation[B].governance}


def test_a_recovery_goes_on_from_the_genesis_by_the_proofs_in_the_base(ledger: Ledger) -> None:
    genesis, recovery = ledger.federation.parsed_genesis(), recovery_of(ledger, survivors(ledger))
    check_former(genesis, recovery, ledger.store)
    with pytest.raises(ConfigurationError, match="other keys"):
        check_former(genesis, recovery)
    without = MemoryStore()
    for key, value in ledger.store.items():
        without.put(key, value)
    without.delete(keys.rekeying(A, 0))
    with pytest.raises(ConfigurationError, match="does not go on"):
        check_former(genesis, recovery, without)


def test_nobody_slips_other_keys_into_a_recovery(ledger: Ledger) -> None:
    mine = key_for("a liar's")
    view = ledger.view
    described = [_descriptor(view, domain.id, set()) for domain in view.domains()]
    forged = [
        replace(each, governance_key=mine.public) if each.domain == C else each
        for each in described
    ]
    recovery = recovery_of(ledger, survivors(ledger), descriptors=forged)
    with pytest.raises(ConfigurationError, match="does not go on"):
        check_former(ledger.federation.parsed_genesis(), recovery, ledger.store)


def test_what_is_carried_over_can_be_sent_to_others(ledger: Ledger) -> None:
    assert Vetting(ledger.store).step(1_000_000)
    carry_over(ledger.store, recovery_of(ledger, survivors(ledger)))
    assert Vetting(ledger.store, 1).step(1_000_000)
    assert check(ledger.view) == []
    assert ledger.view.key_owner(ledger.federation[A].governance.public.hex()) == A, "for ever"


def test_a_cosigner_key_is_not_claimed_by_who_does_not_have_it(ledger: Ledger) -> None:
    body = {
        "domain": B,
        "governance_key": ledger.federation[B].governance.public.hex(),
        "cosigner_key": key_for("anothers coming key").public.hex(),
    }
    assert not ledger.run(B, "domain.rekey", body).outcome.accepted


def test_a_thaw_of_what_a_recovery_carried_over_is_verified() -> None:
    """The document says that something is frozen, and not what is let through."""
    ledger = Ledger(Federation.build((A, B, C)))

    def decide(act: str, body: dict[str, object]) -> None:
        opened = ledger.run(A, "proposal.open", proposal_body(act, body)).outcome
        assert ledger.run(B, "ballot.cast", ballot_body(opened.thing)).outcome.accepted

    decide("federation.freeze", {"actions": ["read"]})
    signers = {domain: ledger.federation[domain].governance for domain in (A, B)}
    recovery = recovery_of(ledger, signers, is_frozen=True)
    ledger.entries = [carry_over(ledger.store, recovery)]
    ledger.now = ledger.view.ledger_time() + 1
    ledger.federation.origin = NEW
    decide("federation.thaw", {})
    members = Members(recovery)
    for data in ledger.entries[1:]:
        entry = codec.decode(data, 10**6)
        assert isinstance(entry, dict)
        envelope = dsse.from_json(entry["command"], "command")
        command = parse_command(envelope.payload, members.protocol)
        members.reach(entry)
        members.check(command, envelope)
        members.learn(command, envelope, entry)


def test_thresholds_of_the_first_version_are_understood_before_and_after() -> None:
    federation = Federation.build((A, B, C), version=1)
    ledger = Ledger(federation)
    rules = {verb.value: "two-thirds" for verb in ACTS[1]}
    body = proposal_body("federation.set_thresholds", {"thresholds": rules})
    envelope = federation.command(A, "proposal.open", body)
    assert examine(ledger.view, envelope, ledger.now) is None
    assert parse_any(dsse.parse(envelope, 16_384).payload).issuer == A
    before = MemoryStore()
    for key, value in ledger.store.items():
        before.put(key, value)
    applied = ledger.apply(envelope)
    assert applied.entry is not None
    told = recount(StateView(before), entries.parse(applied.entry))
    assert told.steps[0].question is Question.COMMAND
