"""Executors that the domains reinstate together: which, when, and which they do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.core.conftest import BANK, CLINIC, World
from tests.unit.core.test_attestation import (
    IMAGE_REF,
    KEY_REF,
    MAX_AGE_MS,
    OTHER,
    challenged,
    checked,
    decided,
    drift,
    effect,
    executor,
    is_well,
    leased,
    prove_image,
    prove_key,
    retire,
    want_image,
    want_key,
)
from tests.unit.core.test_attestation_vetting import is_let_in, record, spoil
from tests.unit.core.test_freezing import first, upgrade
from tests.unit.core.test_renewed_and_recovered import recovery_of

from quorate.core.acts import ACTS
from quorate.core.decision import DecisionRequest
from quorate.core.explaining import explain
from quorate.core.invariants import check
from quorate.core.outcome import Deny, Outcome, Permit, Reason
from quorate.core.records import DRIFT
from quorate.core.recovering import carry_over
from quorate.core.status import Status
from quorate.testing.builders import (
    Federation,
    Ledger,
    ballot_body,
    proposal_body,
)

ACT = "federation.reinstate_executor"


def propose(world: World, agent: str = "") -> Outcome:
    body = proposal_body(ACT, {"executor": agent or world.agent})
    return world.do(BANK, "proposal.open", body)


def vote(world: World, opened: Outcome) -> dict[str, Any]:
    ballot = ballot_body(str(opened.result["id"]))
    return dict(world.must(CLINIC, "ballot.cast", ballot).result)


def own(world: World, act: str) -> Outcome:
    return world.do(CLINIC, f"executor.{act}", {"executor": world.agent})


def mismatched(world: World) -> None:
    want_image(world)
    prove_image(world)
    assert prove_image(world, OTHER).accepted


def is_suspended(world: World) -> bool:
    return executor(world).status is Status.SUSPENDED


# -- what is reinstated ------------------------------------------------------------------------


def test_who_proves_anew_what_it_has_to_is_reinstated_by_the_others(trusted: World) -> None:
    want_key(trusted)
    prove_key(trusted)
    lease = leased(trusted)
    mismatched(trusted)
    refused = propose(trusted)
    assert (refused.reason, refused.thing) == (Reason.ATTESTATION_MISSING, IMAGE_REF)
    prove_image(trusted)
    refused = propose(trusted)
    assert (refused.reason, refused.thing) == (Reason.ATTESTATION_MISSING, KEY_REF)
    prove_key(trusted)
    opened = propose(trusted)
    assert opened.result["needed"] == 2
    assert checked(trusted, lease) == Deny(Reason.EXECUTOR_SUSPENDED, trusted.agent)
    assert vote(trusted, opened)["executed"] == {"type": ACT, "thing": trusted.agent}
    found = executor(trusted)
    assert (found.status, found.suspended_for, found.failed_at) == (Status.ACTIVE, "", 0)
    assert found.changed == len(trusted.entries) - 1
    assert isinstance(checked(trusted, lease), Permit)
    assert isinstance(decided(trusted), Permit)
    assert is_well(trusted)


def test_whoever_watches_is_told(trusted: World) -> None:
    assert drift(trusted).accepted
    opened = propose(trusted)
    ballot = trusted.must(CLINIC, "ballot.cast", ballot_body(str(opened.result["id"])))
    found = effect(trusted, ballot)
    assert found is not None
    assert (found.thing, found.reason) == (f"executor:{trusted.agent}", None)
    assert effect(trusted, opened) is None


def test_what_is_not_proved_any_more_when_enough_agree_is_not_done(trusted: World) -> None:
    mismatched(trusted)
    prove_image(trusted)
    opened = propose(trusted)
    trusted.now += MAX_AGE_MS
    decision = vote(trusted, opened)
    assert decision["status"] == "failed"
    assert (decision["reason"], decision["thing"]) == (Reason.ATTESTATION_STALE, IMAGE_REF)
    assert is_suspended(trusted)
    prove_image(trusted)
    assert vote(trusted, propose(trusted))["status"] == "executed"


def test_a_proof_keeps_no_ballot_from_what_it_was_for(trusted: World) -> None:
    mismatched(trusted)
    prove_image(trusted)
    opened = propose(trusted)
    trusted.now += MAX_AGE_MS
    prove_image(trusted)
    challenged(trusted)
    assert vote(trusted, opened)["status"] == "executed"


def test_who_is_reinstated_has_to_prove_on(trusted: World) -> None:
    mismatched(trusted)
    prove_image(trusted)
    assert vote(trusted, propose(trusted))["status"] == "executed"
    trusted.now += MAX_AGE_MS
    assert decided(trusted) == Deny(Reason.ATTESTATION_STALE, IMAGE_REF)
    want_key(trusted)
    prove_image(trusted)
    assert decided(trusted) == Deny(Reason.ATTESTATION_MISSING, KEY_REF)


@pytest.mark.parametrize("fails", [drift, lambda world: prove_image(world, OTHER)])
def test_another_failure_is_another_suspension(
    trusted: World, fails: Callable[[World], Outcome]
) -> None:
    """Also one of the same kind: nobody has agreed to that."""
    want_image(trusted)
    assert fails(trusted).accepted
    prove_image(trusted)
    opened = propose(trusted)
    assert fails(trusted).accepted
    prove_image(trusted)
    assert vote(trusted, opened)["reason"] == Reason.SUPERSEDED
    assert is_suspended(trusted)
    assert is_well(trusted)


# -- what is not -------------------------------------------------------------------------------


def test_a_domains_own_suspension_is_lifted_by_no_ballot(trusted: World) -> None:
    assert own(trusted, "suspend").accepted
    refused = propose(trusted)
    assert (refused.reason, refused.thing) == (Reason.NOT_AUTHORIZED, trusted.agent)


def test_nor_is_it_when_the_executor_drifts_on_top(trusted: World) -> None:
    assert own(trusted, "suspend").accepted
    for _ in range(2):
        assert drift(trusted).accepted
        found = executor(trusted)
        assert (found.suspended_for, found.suspended_by_domain) == (DRIFT, True)
        assert propose(trusted).reason is Reason.NOT_AUTHORIZED
    assert own(trusted, "suspend").reason is Reason.ILLEGAL_TRANSITION
    assert is_well(trusted)
    assert own(trusted, "reinstate").accepted
    assert not executor(trusted).suspended_by_domain
    assert drift(trusted).accepted
    assert vote(trusted, propose(trusted))["status"] == "executed"


def test_a_domain_suspends_whom_its_proofs_have_suspended(trusted: World) -> None:
    mismatched(trusted)
    prove_image(trusted)
    opened = propose(trusted)
    assert own(trusted, "suspend").accepted
    assert (executor(trusted).suspended_for, executor(trusted).suspended_by_domain) == (
        IMAGE_REF,
        True,
    )
    assert is_well(trusted)
    assert vote(trusted, opened)["reason"] == Reason.SUPERSEDED
    assert is_suspended(trusted)
    assert propose(trusted).reason is Reason.NOT_AUTHORIZED
    assert own(trusted, "suspend").reason is Reason.ILLEGAL_TRANSITION
    trusted.now += MAX_AGE_MS
    assert own(trusted, "reinstate").reason is Reason.ATTESTATION_STALE
    prove_image(trusted)
    assert own(trusted, "reinstate").accepted
    found = executor(trusted)
    assert (found.status, found.suspended_for, found.suspended_by_domain) == (
        Status.ACTIVE,
        "",
        False,
    )


def test_a_suspended_domain_suspends_its_executor_all_the_same(trusted: World) -> None:
    assert drift(trusted).accepted
    trusted.must(CLINIC, "domain.suspend", {"domain": CLINIC})
    assert own(trusted, "suspend").accepted
    assert executor(trusted).suspended_by_domain


def test_an_executor_of_a_suspended_domain_waits_for_that(trusted: World) -> None:
    assert drift(trusted).accepted
    opened = propose(trusted)
    trusted.must(CLINIC, "domain.suspend", {"domain": CLINIC})
    refused = propose(trusted)
    assert (refused.reason, refused.thing) == (Reason.DOMAIN_SUSPENDED, CLINIC)
    trusted.must(CLINIC, "domain.reinstate", {"domain": CLINIC})
    assert vote(trusted, opened)["status"] == "executed"


def test_what_is_not_suspended_or_not_there_is_not_reinstated(trusted: World) -> None:
    assert propose(trusted).reason is Reason.ILLEGAL_TRANSITION
    unknown = trusted.clinic.executor("unknown")
    refused = propose(trusted, unknown)
    assert (refused.reason, refused.thing) == (Reason.UNKNOWN_EXECUTOR, unknown)
    assert drift(trusted).accepted
    opened = propose(trusted)
    assert own(trusted, "revoke").accepted
    assert executor(trusted).failed_at == 0
    assert vote(trusted, opened)["reason"] == Reason.SUPERSEDED
    refused = propose(trusted)
    assert (refused.reason, refused.thing) == (Reason.FINAL, trusted.agent)
    assert is_well(trusted)


def test_what_is_contained_stays_so(trusted: World) -> None:
    assert drift(trusted).accepted
    trusted.must(CLINIC, "executor.contain", {"executor": trusted.agent})
    assert vote(trusted, propose(trusted))["status"] == "executed"
    assert decided(trusted) == Deny(Reason.CONTAINED, trusted.agent)


def test_nobody_reinstates_another_domains_executor_alone(trusted: World) -> None:
    assert drift(trusted).accepted
    body: dict[str, object] = {"executor": trusted.agent}
    for issuer in (BANK, CLINIC):
        assert trusted.do(issuer, ACT, body).reason is Reason.NEEDS_BALLOT
    assert propose(trusted).result["status"] == "open"
    assert is_suspended(trusted)


@pytest.mark.parametrize("named", ["spiffe://clinic.example/node/1", "clinic.example", ""])
def test_what_is_no_executor_is_malformed(trusted: World, named: str) -> None:
    refused = trusted.do(BANK, "proposal.open", proposal_body(ACT, {"executor": named}))
    assert (refused.reason, refused.thing) == (Reason.MALFORMED_COMMAND, "body.body.executor")


# -- who agrees --------------------------------------------------------------------------------


def test_its_own_domain_has_a_vote_and_the_threshold_is_kept() -> None:
    third = "gamma.example"
    ledger = Ledger(Federation.build((BANK, CLINIC, third)))
    agent = ledger.federation[CLINIC].executor("a")

    def must(issuer: str, kind: str, body: dict[str, object]) -> Outcome:
        outcome = ledger.run(issuer, kind, body).outcome
        assert outcome.accepted, outcome
        return outcome

    must(CLINIC, "executor.register", {"executor": agent})
    for rule, needed in (("majority", 2), ("unanimity", 3)):
        must(ledger.federation[CLINIC].node, "attestation.drift", {"executor": agent})
        opened = must(BANK, "proposal.open", proposal_body(ACT, {"executor": agent}))
        assert opened.result["needed"] == needed, rule
        ballots = [CLINIC, third][: needed - 1]
        for domain in ballots:
            outcome = must(domain, "ballot.cast", ballot_body(str(opened.result["id"])))
        assert outcome.result["status"] == "executed"
        if rule == "majority":
            _require_all(ledger)


def _require_all(ledger: Ledger) -> None:
    rules = dict.fromkeys(map(str, ACTS[2]), "majority") | {ACT: "unanimity"}
    body = proposal_body("federation.set_thresholds", {"thresholds": rules})
    opened = ledger.run(BANK, "proposal.open", body).outcome
    done = ledger.run(CLINIC, "ballot.cast", ballot_body(str(opened.result["id"]))).outcome
    assert done.result["status"] == "executed"


# -- versions, states of others, recoveries ----------------------------------------------------


def test_the_first_version_knows_nothing_of_it_and_an_upgraded_one_needs_a_majority() -> None:
    ledger = first()
    agent = ledger.federation[CLINIC].executor("a")
    ledger.run(CLINIC, "executor.register", {"executor": agent})
    body = {"executor": agent}
    for kind, said, field in (
        (ACT, body, "type"),
        ("proposal.open", proposal_body(ACT, dict(body)), "body.act"),
    ):
        refused = ledger.run(BANK, kind, said).outcome
        assert (refused.reason, refused.thing) == (Reason.MALFORMED_COMMAND, field)
    assert ledger.run(CLINIC, "executor.suspend", body).outcome.accepted
    assert ledger.run(CLINIC, "executor.suspend", body).outcome.reason is Reason.ILLEGAL_TRANSITION
    found = ledger.view.executor(agent)
    assert found is not None
    assert found.to_json().keys() == {"id", "executor", "domain", "status", "changed"}
    upgrade(ledger)
    opened = ledger.run(BANK, "proposal.open", proposal_body(ACT, dict(body))).outcome
    assert opened.reason is Reason.NOT_AUTHORIZED, "its domain had its reasons, in version 1"
    ledger.run(CLINIC, "executor.reinstate", body)
    ledger.run(ledger.federation[CLINIC].node, "attestation.drift", body)
    opened = ledger.run(BANK, "proposal.open", proposal_body(ACT, dict(body))).outcome
    assert opened.result["needed"] == 2
    done = ledger.run(CLINIC, "ballot.cast", ballot_body(str(opened.result["id"]))).outcome
    assert done.result["status"] == "executed"


@pytest.mark.parametrize(
    "changes",
    [
        {"suspended_by_domain": True},
        {"failed_at": 7},
        {"suspended_for": DRIFT, "status": "suspended", "suspended_by_domain": False},
        {"suspended_for": DRIFT, "status": "suspended", "suspended_by_domain": 1},
        {"suspended_for": DRIFT, "status": "suspended", "failed_at": 0},
        {"suspended_for": DRIFT, "status": "suspended", "failed_at": -1},
    ],
)
def test_a_state_that_cannot_be_is_not_let_in(trusted: World, changes: dict[str, object]) -> None:
    assert not is_let_in(spoil(trusted, record(trusted, "executor"), **changes))


def test_invariants_know_what_cannot_be(trusted: World) -> None:
    spoil(trusted, record(trusted, "executor"), failed_at=7)
    assert check(trusted.view) == [f"executor {trusted.agent} does not say what it failed in"]
    good = {"suspended_for": DRIFT, "status": "suspended", "suspended_by_domain": True}
    assert is_let_in(spoil(trusted, record(trusted, "executor"), **good))
    assert check(trusted.view) == []


def test_a_recovery_keeps_who_is_suspended_for_what(trusted: World) -> None:
    assert own(trusted, "suspend").accepted
    assert drift(trusted).accepted
    signers = {BANK: trusted.bank.governance, CLINIC: trusted.clinic.governance}
    carry_over(trusted.store, recovery_of(trusted, signers))
    found = executor(trusted)
    assert (found.suspended_for, found.suspended_by_domain, found.failed_at) == (DRIFT, True, 0)
    assert is_well(trusted)


# -- what people are told ----------------------------------------------------------------------


def test_a_denial_says_what_a_ballot_can_do(trusted: World) -> None:
    request = DecisionRequest(trusted.agent, "payments.read", "//bank.example/accounts/7")

    def told() -> tuple[str, str]:
        step = explain(trusted.view, request, trusted.now).decided
        assert step is not None
        assert step.remedy is not None
        assert step.remedy.command == f"quorate executor reinstate {trusted.agent}"
        return step.remedy.sentence, step.things[0].note

    command = f"`quorate proposal open reinstate-executor {trusted.agent}`"
    assert drift(trusted).accepted
    sentence, note = told()
    assert sentence.endswith(f"or the organisations do by ballot: {command}")
    assert note == "it reported drift"
    assert own(trusted, "suspend").accepted
    sentence, note = told()
    assert "ballot" not in sentence
    assert note == "it reported drift; its organisation suspends it, too"
    assert own(trusted, "reinstate").accepted
    assert own(trusted, "suspend").accepted
    assert "ballot" not in told()[0]


def test_what_nobody_wants_proved_any_more_is_not_asked_for(trusted: World) -> None:
    mismatched(trusted)
    assert propose(trusted).reason is Reason.ATTESTATION_MISSING
    retire(trusted, "image")
    assert vote(trusted, propose(trusted))["status"] == "executed"
