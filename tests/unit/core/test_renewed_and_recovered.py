"""Recoveries, verification and explanations of federations whose domains have renewed their keys,
frozen something, or come from an earlier version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from typing import Any, Final

import pytest

from quorate.cli.ledger_members import Members
from quorate.core import codec, dsse, entries, keys, state
from quorate.core.acts import ACTS
from quorate.core.commands import parse_any, parse_command
from quorate.core.errors import ConfigurationError, MalformedError
from quorate.core.explanation import Question
from quorate.core.invariants import check
from quorate.core.limits import MAX_RATE_PER_MIN
from quorate.core.outcome import Outcome
from quorate.core.records import PolicyMark, Rates
from quorate.core.recounting import recount
from quorate.core.recovering import carry_over, check_carried, next_fence_base
from quorate.core.recovery import (
    Former,
    Recovery,
    build_recovery_payload,
    parse_recovery,
    parse_recovery_draft,
    state_hash,
)
from quorate.core.recovery_room import longest_document
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


def decide(ledger: Ledger, act: str, body: dict[str, object]) -> None:
    opened = ledger.run(A, "proposal.open", proposal_body(act, body)).outcome
    cast = ledger.run(B, "ballot.cast", ballot_body(opened.thing)).outcome
    assert cast.result["status"] == "executed"


def recovered(ledger: Ledger, **changes: object) -> Recovery:
    """The ledger goes on as another, by the document that is returned."""
    signers = {domain: ledger.federation[domain].governance for domain in (A, B)}
    recovery = recovery_of(ledger, signers, **changes)
    ledger.entries = [carry_over(ledger.store, recovery)]
    ledger.now = ledger.view.ledger_time() + 1
    ledger.federation.origin = NEW
    return recovery


def verify(recovery: Recovery, ledger: Ledger) -> Members:
    """As whoever has nothing but the document and the entries."""
    members = Members(recovery)
    for data in ledger.entries[1:]:
        entry = codec.decode(data, 10**6)
        assert isinstance(entry, dict)
        envelope = dsse.from_json(entry["command"], "command")
        command = parse_command(envelope.payload, members.protocol)
        members.reach(entry)
        members.check(command, envelope)
        members.learn(command, envelope, entry)
    return members


def test_a_thaw_of_what_a_recovery_carried_over_is_verified() -> None:
    """The document says that something is frozen, and not what is let through."""
    ledger = Ledger(Federation.build((A, B, C)))
    decide(ledger, "federation.freeze", {"actions": ["read"]})
    recovery = recovered(ledger, is_frozen=True)
    decide(ledger, "federation.thaw", {})
    verify(recovery, ledger)


POLICY: Final = {"text": "permit (principal, action, resource);"}
NONE: Final = {"domain_per_min": 0, "executor_per_min": 0}
SOME: Final = {"domain_per_min": 60, "executor_per_min": 0}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            [("federation.set_policy", POLICY)],
            [
                ("federation.set_policy", {"text": POLICY["text"] + " // more"}),
                ("federation.retire_policy", {}),
                ("federation.set_policy", POLICY),
            ],
        ),
        ([("federation.set_policy", POLICY)], [("federation.retire_policy", {})]),
        (
            [("federation.set_policy", POLICY), ("federation.retire_policy", {})],
            [("federation.set_policy", POLICY)],
        ),
        ([("federation.set_rates", SOME)], [("federation.set_rates", NONE)]),
        (
            [("federation.set_rates", SOME)],
            [
                ("federation.set_rates", SOME | {"domain_per_min": 61}),
                ("federation.set_rates", SOME),
            ],
        ),
    ],
)
def test_ballots_on_what_a_recovery_carried_over_are_verified(
    before: list[tuple[str, dict[str, object]]], after: list[tuple[str, dict[str, object]]]
) -> None:
    """On policies and rates that were in force in the former ledger, which has no entry here."""
    ledger = Ledger(Federation.build((A, B, C)))
    for act, body in before:
        decide(ledger, act, body)
    was = ledger.view.federation()
    recovery = recovered(ledger, rates=was.rates, policies=was.policies)
    for act, body in after:
        decide(ledger, act, body)
    found, now = verify(recovery, ledger).state.federation(), ledger.view.federation()
    assert (found.rates, found.policies) == (now.rates, now.policies)


MARK: Final = PolicyMark(2, "a" * 64)
RATES: Final = Rates(60, 0)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("rates", {"policies": MARK}),
        ("rates", {"policies": MARK, "rates": Rates(60, 1)}),
        ("policies", {"rates": RATES}),
        ("policies", {"rates": RATES, "policies": PolicyMark(3, "a" * 64)}),
        ("policies", {"rates": RATES, "policies": PolicyMark(2, "")}),
    ],
)
def test_a_document_says_of_rates_and_policies_what_the_state_says(
    field: str, changes: dict[str, object]
) -> None:
    """Whoever verifies the new ledger believes it."""
    ledger = Ledger(Federation.build((A, B, C)))
    held = replace(ledger.view.federation(), rates=RATES, policies=MARK)
    state.save_federation(ledger.store, held)
    signers = {domain: ledger.federation[domain].governance for domain in (A, B)}
    check_carried(ledger.view, recovery_of(ledger, signers, rates=RATES, policies=MARK))
    with pytest.raises(MalformedError) as refused:
        carry_over(ledger.store, recovery_of(ledger, signers, **changes))
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("field", "name", "value"),
    [
        ("rates.domain_per_min", "rates", {"domain_per_min": 0, "executor_per_min": 0}),
        ("rates.domain_per_min", "rates", {"domain_per_min": 10**9, "executor_per_min": 0}),
        ("rates.executor_per_min", "rates", {"domain_per_min": 1}),
        ("rates.more", "rates", RATES.to_json() | {"more": 1}),
        ("rates", "rates", None),
        ("policies.version", "policies", {"version": 0, "sha256": ""}),
        ("policies.sha256", "policies", {"version": 1, "sha256": "A" * 64}),
        ("policies.sha256", "policies", {"version": 1}),
        ("policies.more", "policies", MARK.to_json() | {"more": 1}),
        ("policies", "policies", None),
    ],
)
def test_what_no_ballot_has_made_is_no_document(field: str, name: str, value: object) -> None:
    said = codec.load(document(2))
    assert isinstance(said, dict)
    with pytest.raises(MalformedError) as refused:
        read_draft(codec.encode(said | {name: value}))
    assert refused.value.field == field


@pytest.mark.parametrize("later", [{"rates": RATES}, {"policies": MARK}])
def test_documents_of_the_first_version_know_nothing_of_it(later: dict[str, Any]) -> None:
    whole = read_draft(document(2, **later))
    assert {"rates": whole.rates, "policies": whole.policies} == {
        "rates": None,
        "policies": None,
    } | later
    [name] = later
    with pytest.raises(MalformedError) as refused:
        document(1, **later)
    assert refused.value.field == name
    first = codec.load(document(1))
    assert isinstance(first, dict)
    assert not {"rates", "policies"} & first.keys()


def test_what_is_said_of_rates_and_policies_is_counted() -> None:
    """Or a federation could grow beyond every recovery."""
    domains = list(Ledger(Federation.build((A, B, C))).view.domains())
    rates = Rates(MAX_RATE_PER_MIN, MAX_RATE_PER_MIN)
    said = {"frozen": True, "rates": rates.to_json(), "policies": MARK.to_json()}
    later = [verb.value for verb in ACTS[2] if verb not in ACTS[1]]
    more = len(codec.encode(said)) + len(codec.encode(dict.fromkeys(later, "two-thirds")))
    in_base64 = more * 4 // 3 - 8  # their braces
    assert longest_document(domains, 2) - longest_document(domains, 1) >= in_base64


def document(version: int, **changes: object) -> bytes:
    ledger = Ledger(Federation.build((A, B, C), version=version))
    signers = {A: ledger.federation[A].governance}
    return recovery_of(ledger, signers, **changes).envelope.payload


def read_draft(payload: bytes) -> Recovery:
    return parse_recovery_draft(dsse.Envelope(payload, dsse.RECOVERY_TYPE, ()).to_bytes())[0]


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
