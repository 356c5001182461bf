"""What executors have to prove: who says so, what it takes, and what follows when it is not so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.core.conftest import BANK, CLINIC, World, copied

from quorate.core import protocol
from quorate.core.decision import DecisionRequest, check_lease, decide
from quorate.core.effects import Effect, effect_of, is_stopped, things_of
from quorate.core.explaining import explain, explain_lease
from quorate.core.explanation import Question
from quorate.core.invariants import check
from quorate.core.limits import MAX_CHALLENGE_AGE_MS, MAX_REFERENCES_PER_DOMAIN
from quorate.core.outcome import Deny, Outcome, Permit, Reason
from quorate.core.records import DRIFT, Executor, Lease
from quorate.core.status import Status
from quorate.core.verifying import Asked
from quorate.core.vetting import Vetting
from quorate.testing.builders import (
    IMAGE,
    ORIGIN,
    Federation,
    Ledger,
    key_for,
    measurement_body,
    measurement_evidence,
    svid_body,
    svid_evidence,
)

ALL = ["spiffe://clinic.example/agent/*"]
OTHER = "b" * 64
MAX_AGE_MS = 60_000
IMAGE_REF, KEY_REF = f"{CLINIC}/image", f"{CLINIC}/key"


def want_image(world: World, **changes: Any) -> Outcome:
    body = measurement_body("image", ALL, MAX_AGE_MS) | changes
    return world.must(CLINIC, "attestation.set_reference", body)


def want_key(world: World, **changes: Any) -> Outcome:
    body = svid_body("key", ALL, MAX_AGE_MS) | changes
    return world.must(CLINIC, "attestation.set_reference", body)


def retire(world: World, name: str) -> Outcome:
    return world.must(CLINIC, "attestation.retire_reference", {"reference": name})


def challenged(world: World) -> Asked:
    node = world.clinic.node
    asked = world.must(node, "attestation.challenge", {"executor": world.agent})
    return Asked(ORIGIN, world.agent, str(asked.result["challenge"]))


def report(world: World, name: str, asked: Asked, evidence: dict[str, object]) -> Outcome:
    body = {"executor": world.agent, "reference": name, "challenge": asked.challenge}
    return world.do(world.clinic.node, "attestation.report", body | {"evidence": evidence})


def prove_image(world: World, image: str = IMAGE, **more: Any) -> Outcome:
    asked = challenged(world)
    return report(world, "image", asked, measurement_evidence(asked, image, **more))


def prove_key(world: World) -> Outcome:
    asked = challenged(world)
    return report(world, "key", asked, svid_evidence(asked))


def drift(world: World) -> Outcome:
    return world.do(world.clinic.node, "attestation.drift", {"executor": world.agent})


def leased(world: World) -> Lease:
    return Lease.from_json(world.acquire().result)


def decided(world: World) -> Any:
    request = DecisionRequest(world.agent, "payments.read", "//bank.example/accounts/7")
    return decide(world.view, request, world.now)


def checked(world: World, lease: Lease, now: int = 0) -> Any:
    return check_lease(world.view, lease.id, lease.executor, "", "", now or world.now)[0]


def executor(world: World) -> Executor:
    found = world.view.executor(world.agent)
    assert found is not None
    return found


def is_well(ledger: Ledger) -> bool:
    return check(ledger.view) == [] and Vetting(ledger.store, len(ledger.entries)).step(1_000_000)


# -- what is denied ------------------------------------------------------------------------------


def test_who_has_proved_nothing_may_do_nothing(trusted: World) -> None:
    lease = leased(trusted)
    want_image(trusted)
    missing = Deny(Reason.ATTESTATION_MISSING, IMAGE_REF)
    assert decided(trusted) == checked(trusted, lease) == missing
    assert trusted.acquire().reason is Reason.ATTESTATION_MISSING
    assert trusted.lease_act("renew", lease.id, ttl_ms=0).reason is Reason.ATTESTATION_MISSING
    assert prove_image(trusted).accepted
    assert isinstance(decided(trusted), Permit)
    assert isinstance(checked(trusted, lease), Permit)
    assert trusted.acquire().accepted
    assert trusted.lease_act("renew", lease.id, ttl_ms=0).accepted
    assert is_well(trusted)


def test_a_lease_is_given_back_without_any_proof(trusted: World) -> None:
    lease = leased(trusted)
    want_image(trusted)
    assert trusted.lease_act("release", lease.id).accepted


@pytest.mark.parametrize(
    ("executors", "is_covered"),
    [
        (["spiffe://clinic.example/*"], True),
        (["spiffe://clinic.example/agent/claims"], True),
        (["spiffe://clinic.example/agent/claims/*"], False),
        (["spiffe://clinic.example/agent/claim"], False),
        (["spiffe://clinic.example/robot/*", "spiffe://clinic.example/agent/*"], True),
    ],
)
def test_a_reference_is_for_those_that_it_names(
    trusted: World, executors: list[str], is_covered: bool
) -> None:
    want_image(trusted, executors=executors)
    assert isinstance(decided(trusted), Permit) != is_covered
    asked = trusted.do(trusted.clinic.node, "attestation.challenge", {"executor": trusted.agent})
    assert asked.accepted == is_covered
    if not is_covered:
        assert asked.reason is Reason.NOT_FOUND


def test_every_reference_has_to_be_met(trusted: World) -> None:
    want_image(trusted)
    want_key(trusted)
    assert prove_image(trusted).accepted
    assert decided(trusted) == Deny(Reason.ATTESTATION_MISSING, KEY_REF)
    assert prove_key(trusted).accepted
    assert isinstance(decided(trusted), Permit)
    assert [each.reference for each in executor(trusted).attestations] == ["image", "key"]
    assert is_well(trusted)
    retire(trusted, "image")
    assert isinstance(decided(trusted), Permit)
    want_image(trusted)
    assert isinstance(decided(trusted), Permit), "what was proved is still so, and not too old"
    assert prove_key(trusted).accepted
    retire(trusted, "image")
    assert prove_key(trusted).accepted
    assert [each.reference for each in executor(trusted).attestations] == ["key"], "no more kept"
    assert is_well(trusted)


def test_a_proof_counts_from_when_it_was_asked_for(trusted: World) -> None:
    want_image(trusted)
    asked, at = challenged(trusted), trusted.now
    trusted.now += 40_000
    assert report(trusted, "image", asked, measurement_evidence(asked)).accepted
    lease = leased(trusted)
    until = at + MAX_AGE_MS
    assert isinstance(checked(trusted, lease, until - 1), Permit)
    assert checked(trusted, lease, until) == Deny(Reason.ATTESTATION_STALE, IMAGE_REF)
    trusted.now = until
    assert decided(trusted) == Deny(Reason.ATTESTATION_STALE, IMAGE_REF)
    assert executor(trusted).status is Status.ACTIVE, "no clock suspends anybody"
    assert prove_image(trusted).accepted
    assert isinstance(decided(trusted), Permit)


def test_a_permit_says_when_what_was_proved_lapses_first(trusted: World) -> None:
    want_image(trusted)
    want_key(trusted, max_age_ms=30_000)
    prove_image(trusted)
    first = trusted.now
    trusted.now += 1_000
    prove_key(trusted)
    lapse = checked(trusted, leased(trusted)).lapse
    assert (lapse.at, lapse.reference) == (first + 31_000, KEY_REF)
    retire(trusted, "key")
    lapse = checked(trusted, leased(trusted)).lapse
    assert (lapse.at, lapse.reference) == (first + MAX_AGE_MS, IMAGE_REF)


def test_a_reference_that_changes_is_asked_anew_of_what_was_proved(trusted: World) -> None:
    want_image(trusted)
    prove_image(trusted)
    want_image(trusted, images=[OTHER, IMAGE])
    assert isinstance(decided(trusted), Permit)
    want_image(trusted, images=[OTHER])
    assert decided(trusted) == Deny(Reason.ATTESTATION_MISMATCH, IMAGE_REF)
    assert executor(trusted).status is Status.ACTIVE
    want_image(trusted, signers=[key_for("another").public.hex()])
    assert decided(trusted).reason is Reason.ATTESTATION_MISMATCH
    want_image(trusted, max_age_ms=1_000)
    trusted.now += 1_000
    assert decided(trusted).reason is Reason.ATTESTATION_STALE
    trusted.must(CLINIC, "attestation.set_reference", svid_body("image", ALL, MAX_AGE_MS))
    assert decided(trusted).reason is Reason.ATTESTATION_MISMATCH, "it is of another kind"


def test_who_passes_a_grant_on_has_to_have_proved_what_it_must(trusted: World) -> None:
    want_image(trusted)
    body = {"executor": trusted.agent, "grant": f"{BANK}/grant", "to": trusted.agent}
    body |= {"actions": ["*"], "resources": ["//bank.example/accounts/*"], "max_uses": 0}
    body |= {"not_after": trusted.now + 1, "max_lease_ttl_ms": 1, "max_concurrent": 0}
    refused = trusted.do(trusted.clinic.node, "grant.delegate", body)
    assert refused.reason is Reason.ATTESTATION_MISSING


# -- what proves nothing -------------------------------------------------------------------------


def test_only_the_last_challenge_is_answered_once_and_in_time(trusted: World) -> None:
    want_image(trusted, max_age_ms=10 * MAX_CHALLENGE_AGE_MS)
    first = challenged(trusted)
    second = challenged(trusted)
    assert first.challenge != second.challenge
    refused = report(trusted, "image", first, measurement_evidence(first))
    assert (refused.reason, refused.thing) == (Reason.NO_CHALLENGE, trusted.agent)
    assert report(trusted, "image", second, measurement_evidence(second)).accepted
    again = report(trusted, "image", second, measurement_evidence(second))
    assert again.reason is Reason.NO_CHALLENGE
    third = challenged(trusted)
    trusted.now += MAX_CHALLENGE_AGE_MS
    late = report(trusted, "image", third, measurement_evidence(third))
    assert late.reason is Reason.NO_CHALLENGE


def test_an_answer_that_is_stale_at_once_is_none(trusted: World) -> None:
    want_image(trusted)
    asked = challenged(trusted)
    trusted.now += MAX_AGE_MS
    refused = report(trusted, "image", asked, measurement_evidence(asked))
    assert (refused.reason, refused.thing) == (Reason.ATTESTATION_STALE, IMAGE_REF)


def test_a_challenge_is_not_known_before_the_node_has_signed(trusted: World) -> None:
    """The same request at the same place of the same ledger, by another key, is another one."""
    want_image(trusted)
    body = {"executor": trusted.agent}
    one, other = (copied(trusted.store) for _ in range(2))
    found = set()
    for store, not_after in ((one, 1), (other, 2)):
        ledger = Ledger(trusted.federation)
        ledger.store, ledger.entries, ledger.now = store, list(trusted.entries), trusted.now
        envelope = trusted.federation.command(
            trusted.clinic.node, "attestation.challenge", body, "e" * 32, trusted.now + not_after
        )
        outcome = ledger.apply(envelope).outcome
        assert outcome.accepted
        found.add(outcome.result["challenge"])
    assert len(found) == 2


def test_what_proves_nothing_changes_nothing(trusted: World) -> None:
    want_image(trusted)
    asked = challenged(trusted)
    before = executor(trusted)
    stranger = measurement_evidence(asked, OTHER, key_for("stranger"))
    for evidence in (
        stranger,
        {},
        {"measurement": {}},
        measurement_evidence(replace(asked, challenge="0" * 64)),
        measurement_evidence(replace(asked, executor="spiffe://clinic.example/agent/x")),
        measurement_evidence(replace(asked, origin="another.example/federation")),
        svid_evidence(asked),
    ):
        refused = report(trusted, "image", asked, evidence)
        assert refused.reason is Reason.BAD_EVIDENCE, evidence
        assert executor(trusted) == before
    assert report(trusted, "image", asked, measurement_evidence(asked)).accepted


def test_each_executor_proves_by_its_own_domains_node(trusted: World) -> None:
    want_image(trusted)
    body = {"executor": trusted.agent}
    for verb in ("attestation.challenge", "attestation.drift"):
        assert trusted.do(trusted.bank.node, verb, body).reason is Reason.NOT_AUTHORIZED
    report_body = body | {"reference": "image", "challenge": "0" * 64, "evidence": {}}
    refused = trusted.do(trusted.bank.node, "attestation.report", report_body)
    assert refused.reason is Reason.NOT_AUTHORIZED
    unknown = {"executor": trusted.clinic.executor("unknown")}
    refused = trusted.do(trusted.clinic.node, "attestation.challenge", unknown)
    assert refused.reason is Reason.UNKNOWN_EXECUTOR
    trusted.must(CLINIC, "executor.revoke", body)
    refused = trusted.do(trusted.clinic.node, "attestation.challenge", body)
    assert refused.reason is Reason.EXECUTOR_REVOKED


# -- who is suspended ----------------------------------------------------------------------------


def test_who_is_not_what_it_was_is_suspended_at_once(trusted: World) -> None:
    want_image(trusted)
    want_key(trusted)
    prove_image(trusted)
    prove_key(trusted)
    lease = leased(trusted)
    outcome = prove_image(trusted, OTHER)
    assert outcome.accepted
    assert outcome.result["failing"] == "image"
    suspended = executor(trusted)
    assert (suspended.status, suspended.suspended_for) == (Status.SUSPENDED, IMAGE_REF)
    assert suspended.attestations == ()
    assert checked(trusted, lease) == Deny(Reason.EXECUTOR_SUSPENDED, trusted.agent)
    assert is_well(trusted)
    body = {"executor": trusted.agent}
    refused = trusted.do(CLINIC, "executor.reinstate", body)
    assert (refused.reason, refused.thing) == (Reason.ATTESTATION_MISSING, IMAGE_REF)
    assert prove_image(trusted).accepted
    assert executor(trusted).status is Status.SUSPENDED, "a proof reinstates nobody"
    refused = trusted.do(CLINIC, "executor.reinstate", body)
    assert (refused.reason, refused.thing) == (Reason.ATTESTATION_MISSING, KEY_REF)
    assert prove_key(trusted).accepted
    trusted.now += MAX_AGE_MS
    refused = trusted.do(CLINIC, "executor.reinstate", body)
    assert refused.reason is Reason.ATTESTATION_STALE
    assert prove_image(trusted).accepted
    assert prove_key(trusted).accepted
    trusted.must(CLINIC, "executor.reinstate", body)
    assert executor(trusted).suspended_for == ""
    assert isinstance(decided(trusted), Permit)
    assert is_well(trusted)


@pytest.mark.parametrize(
    ("terms", "more", "failing"),
    [
        ({"environments": ["production"]}, {"environment": "staging"}, "environment"),
        ({"environments": ["production"]}, {}, "environment"),
        ({"measurements": ["c" * 96]}, {"measurement": "d" * 96}, "measurement"),
        (
            {"builders": ["urn:b"], "builder_keys": [key_for("builder").public.hex()]},
            {"builder": "urn:another"},
            "builder",
        ),
    ],
)
def test_everything_that_a_reference_names_has_to_be_so(
    trusted: World, terms: dict[str, Any], more: dict[str, str], failing: str
) -> None:
    want_image(trusted, **terms)
    assert prove_image(trusted, **more).result["failing"] == failing
    assert executor(trusted).suspended_for == IMAGE_REF


def test_who_reports_drift_is_suspended_and_asked_anew(trusted: World) -> None:
    want_image(trusted)
    prove_image(trusted)
    asked = challenged(trusted)
    assert drift(trusted).accepted
    assert (executor(trusted).status, executor(trusted).suspended_for) == (
        Status.SUSPENDED,
        DRIFT,
    )
    before = report(trusted, "image", asked, measurement_evidence(asked))
    assert before.reason is Reason.NO_CHALLENGE, "it was measured before"
    body = {"executor": trusted.agent}
    assert trusted.do(CLINIC, "executor.reinstate", body).reason is Reason.ATTESTATION_MISSING
    assert prove_image(trusted).accepted
    trusted.must(CLINIC, "executor.reinstate", body)
    retire(trusted, "image")
    assert drift(trusted).accepted
    trusted.must(CLINIC, "executor.reinstate", body)  # nobody wants a proof of it


def test_who_was_suspended_for_other_reasons_needs_a_proof_once_it_fails_one(
    trusted: World,
) -> None:
    want_image(trusted)
    body = {"executor": trusted.agent}
    trusted.must(CLINIC, "executor.suspend", body)
    trusted.must(CLINIC, "executor.reinstate", body)  # without any proof; it may do nothing yet
    assert decided(trusted).reason is Reason.ATTESTATION_MISSING
    trusted.must(CLINIC, "executor.suspend", body)
    changed = executor(trusted).changed
    assert prove_image(trusted, OTHER).accepted
    assert executor(trusted).changed == changed, "its status is what it was"
    assert trusted.do(CLINIC, "executor.reinstate", body).reason is Reason.ATTESTATION_MISSING
    trusted.must(CLINIC, "executor.revoke", body)
    assert executor(trusted).suspended_for == ""
    assert is_well(trusted)


# -- who says what is to be proved ---------------------------------------------------------------


def test_a_domain_asks_its_own_executors_only(trusted: World) -> None:
    for executors in (["spiffe://bank.example/*"], [*ALL, "spiffe://bank.example/agent/x"]):
        body = svid_body("key", executors)
        refused = trusted.do(CLINIC, "attestation.set_reference", body)
        assert (refused.reason, refused.thing) == (Reason.NOT_AUTHORIZED, KEY_REF)


def test_to_ask_for_more_is_always_possible_and_to_ask_for_less_is_not(trusted: World) -> None:
    trusted.must(CLINIC, "domain.suspend", {"domain": CLINIC})
    want_key(trusted)
    body = svid_body("key", ALL, 5_000)
    for verb, said in (("set", body), ("retire", {"reference": "key"})):
        refused = trusted.do(CLINIC, f"attestation.{verb}_reference", said)
        assert refused.reason is Reason.DOMAIN_SUSPENDED
    trusted.must(CLINIC, "domain.reinstate", {"domain": CLINIC})
    want_key(trusted, max_age_ms=5_000)
    same = trusted.do(CLINIC, "attestation.set_reference", body)
    assert (same.reason, same.thing) == (Reason.ILLEGAL_TRANSITION, KEY_REF)
    retire(trusted, "key")
    gone = trusted.do(CLINIC, "attestation.retire_reference", {"reference": "key"})
    assert (gone.reason, gone.thing) == (Reason.NOT_FOUND, KEY_REF)
    domain = trusted.view.domain(CLINIC)
    assert domain is not None
    assert domain.references == 0


def test_a_domain_has_so_many_references_and_no_more(trusted: World) -> None:
    for number in range(MAX_REFERENCES_PER_DOMAIN):
        want_key(trusted, reference=f"key-{number}")
    refused = trusted.do(CLINIC, "attestation.set_reference", svid_body("more", ALL))
    assert (refused.reason, refused.thing) == (Reason.LIMIT_EXCEEDED, CLINIC)
    want_key(trusted, reference="key-0", max_age_ms=2_000)
    trusted.must(BANK, "attestation.set_reference", svid_body("key", ["spiffe://bank.example/*"]))
    retire(trusted, "key-1")
    want_key(trusted, reference="more")
    assert is_well(trusted)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (svid_body("key", ALL, 999), "max_age_ms"),
        (svid_body("key", []), "executors"),
        (svid_body("key", ["spiffe://clinic.example/node/*"]), "executors[0]"),
        (svid_body("key", ["spiffe://clinic.example/agent*"]), "executors[0]"),
        (svid_body("key", ALL, evidence="tpm"), "evidence"),
        (svid_body("key", ALL, keys=[]), "keys"),
        (svid_body("key", ALL, images=[IMAGE]), "images"),
        (measurement_body("key", ALL, images=[]), "images"),
        (measurement_body("key", ALL, signers=["0" * 64]), "signers[0]"),
        (measurement_body("key", ALL, builders=["urn:b"]), "builder_keys"),
        (measurement_body("key", ALL, keys=[OTHER]), "keys"),
    ],
)
def test_a_reference_that_is_none_is_malformed(
    trusted: World, body: dict[str, object], field: str
) -> None:
    refused = trusted.do(CLINIC, "attestation.set_reference", body)
    assert (refused.reason, refused.thing) == (Reason.MALFORMED_COMMAND, f"body.{field}")


def test_the_first_version_knows_nothing_of_it() -> None:
    ledger = Ledger(Federation.build(version=protocol.FIRST))
    refused = ledger.run(CLINIC, "attestation.set_reference", svid_body("key", ALL)).outcome
    assert (refused.reason, refused.thing) == (Reason.MALFORMED_COMMAND, "type")


# -- what is told --------------------------------------------------------------------------------


def effect(world: World, outcome: Outcome) -> Effect | None:
    return effect_of(outcome.index, world.entries[outcome.index])


def test_entries_say_what_they_do_to_leases(trusted: World) -> None:
    lease = leased(trusted)
    things = things_of(lease, ORIGIN)
    own, proof = f"executor:{trusted.agent}", f"attestation:{trusted.agent}"
    wanted = f"references:{CLINIC}"
    assert {own, proof, wanted} <= {*things}

    def told(outcome: Outcome) -> Any:
        found = effect(trusted, outcome)
        return found and (found.thing, found.reason, found.may_stop)

    assert told(want_image(trusted)) == (wanted, None, True)
    asked = trusted.do(trusted.clinic.node, "attestation.challenge", {"executor": trusted.agent})
    assert told(asked) is None
    assert told(prove_image(trusted)) == (proof, None, False)
    assert told(prove_image(trusted, OTHER)) == (own, Reason.EXECUTOR_SUSPENDED, False)
    assert is_stopped(trusted.view, own, lease)
    assert not is_stopped(trusted.view, proof, lease)
    assert not is_stopped(trusted.view, wanted, lease)
    assert told(prove_image(trusted, OTHER)) is None, "it was suspended already"
    assert told(drift(trusted)) is None
    assert told(prove_image(trusted)) == (proof, None, False)
    body = {"executor": trusted.agent}
    assert told(trusted.must(CLINIC, "executor.reinstate", body)) == (own, None, False)
    assert told(drift(trusted)) == (own, Reason.EXECUTOR_SUSPENDED, False)
    assert told(retire(trusted, "image")) == (wanted, None, False)


def test_a_denial_is_explained_with_what_was_looked_at(trusted: World) -> None:
    lease = leased(trusted)
    request = DecisionRequest(trusted.agent, lease.action, lease.resource)

    def explained() -> Any:
        found = explain(trusted.view, request, trusted.now)
        again = explain_lease(trusted.view, lease.id, lease.executor, "", "", trusted.now)
        assert found.decision == decided(trusted)
        assert again.decision == checked(trusted, lease)
        assert (found.decided is None) == (again.decided is None)
        assert found.decided is None or found.decided.question is again.decided.question
        return found

    assert explained().decided is None
    want_image(trusted, max_age_ms=30_000)
    step = explained().decided
    assert step.question is Question.ATTESTATION
    assert step.remedy.command == "quorate attestation report image"
    assert [(thing.id, thing.note) for thing in step.things] == [(IMAGE_REF, "nothing was proved")]
    prove_image(trusted)
    passed = next(each for each in explained().steps if each.question is Question.ATTESTATION)
    assert passed.things[0].note == "proved, for 30000 ms more"
    trusted.now += 30_005
    assert explained().decided.things[0].note == "lapsed 5 ms ago"
    trusted.now -= 30_005
    want_image(trusted, images=[OTHER])
    assert explained().decided.remedy.signer == CLINIC
    prove_image(trusted)
    step = explained().decided
    assert step.question is Question.EXECUTOR
    assert step.things[0].note == f"what it proved did not equal {IMAGE_REF}"
    assert "proves anew" in step.remedy.sentence


def test_what_was_recorded_is_decided_again(trusted: World) -> None:
    again = World()
    before = len(again.entries)
    for world in (trusted, again):
        if world is again:
            again.setup()
        want_image(world)
        prove_image(world)
        prove_image(world, OTHER)
        drift(world)
    assert trusted.digest() == again.digest()
    assert len(again.entries) > before
