"""Policies: who publishes and retires them, what is denied by them, and what is told of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.core.conftest import BANK, CLINIC, PERMIT_ALL, World, copied

from quorate.core import codec, keys, policies, state
from quorate.core.decision import DecisionRequest, check_lease, decide
from quorate.core.effects import effect_of, is_stopped, things_of
from quorate.core.errors import MalformedError, StorageDamagedError
from quorate.core.explaining import explain, explain_lease
from quorate.core.explanation import Question
from quorate.core.invariants import check, check_step
from quorate.core.outcome import Deny, Outcome, Permit, Reason
from quorate.core.records import BY_BALLOT, Lease, PolicyMark, digest_of
from quorate.core.state import StateView
from quorate.core.store import MemoryStore
from quorate.core.succession import Succession
from quorate.core.transitions import apply
from quorate.core.vetting import Vetting
from quorate.testing.builders import (
    ORIGIN,
    Federation,
    Ledger,
    acquire_body,
    grant_body,
    proposal_body,
)

READ, WRITE = "payments.read", "payments.write"
PAYROLL = "//bank.example/accounts/7"
NO_WRITES = f"""
@id("reads") permit (principal, action, resource) when {{ context.action == "{READ}" }};
@id("no-writes") forbid (principal, action, resource) when {{ context.action == "{WRITE}" }};
"""
ONLY_WRITES = (
    f'@id("writes") permit (principal, action, resource) when {{ context.action == "{WRITE}" }};'
)
BROKEN = "forbid (principal, action, resource) when { 9223372036854775807 + context.hops > 0 };"
WHO = {
    "owner": (BANK, f"policies:{BANK}"),
    "home": (CLINIC, f"policies:{CLINIC}"),
    "all": (ORIGIN, f"joint_policies:{ORIGIN}"),
}
"""By whom: what a denial names, and what an entry says that it has changed."""


def publish(world: World, by: str, text: str) -> Outcome:
    if by == "all":
        return world.agree("federation.set_policy", {"text": text})
    return world.must(WHO[by][0], "policy.publish", {"text": text})


def retire(world: World, by: str) -> Outcome:
    if by == "all":
        return world.agree("federation.retire_policy", {})
    return world.must(WHO[by][0], "policy.retire", {})


def leased(world: World, action: str = READ, context: tuple[str, ...] = ()) -> Lease:
    return Lease.from_json(world.acquire(action=action, context=context).result)


def checked(world: World, lease: Lease) -> Any:
    return check_lease(world.view, lease.id, lease.executor, "", "", world.now)[0]


def decided(world: World, action: str = READ, context: tuple[str, ...] = ()) -> Any:
    request = DecisionRequest(world.agent, action, PAYROLL, context)
    return decide(world.view, request, world.now)


def is_well(ledger: Ledger) -> bool:
    return check(ledger.view) == [] and Vetting(ledger.store, len(ledger.entries)).step(1_000_000)


# -- what is denied ------------------------------------------------------------------------------


@pytest.mark.parametrize("by", WHO)
def test_each_set_that_is_in_force_must_permit(trusted: World, by: str) -> None:
    reads, writes = leased(trusted), leased(trusted, WRITE)
    publish(trusted, by, NO_WRITES)
    thing = WHO[by][0]
    assert isinstance(checked(trusted, reads), Permit)
    assert isinstance(decided(trusted), Permit)
    forbidden = Deny(Reason.POLICY_FORBIDS, thing)
    assert checked(trusted, writes) == decided(trusted, WRITE) == forbidden
    new = trusted.acquire(action=WRITE)
    renewed = trusted.lease_act("renew", writes.id, ttl_ms=0)
    for outcome in (new, renewed):
        assert (outcome.reason, outcome.thing) == (forbidden.reason, forbidden.thing)
    assert decided(trusted, "audit.read") == Deny(Reason.NO_POLICY_PERMITS, thing)
    assert trusted.lease_act("release", writes.id).accepted, "to give back is always possible"
    assert is_well(trusted)
    retire(trusted, by)
    assert isinstance(decided(trusted, WRITE), Permit)
    assert is_well(trusted)


def test_one_that_permits_does_not_save_what_another_denies(trusted: World) -> None:
    for by in WHO:
        publish(trusted, by, PERMIT_ALL)
    assert isinstance(decided(trusted), Permit)
    for by in WHO:
        publish(trusted, by, ONLY_WRITES)
        assert decided(trusted) == Deny(Reason.NO_POLICY_PERMITS, WHO[by][0])
        publish(trusted, by, f"{PERMIT_ALL} // again")
    for by in ("home", "owner", "all"):
        publish(trusted, by, BROKEN)
        assert decided(trusted) == Deny(Reason.POLICY_BROKEN, WHO[by][0]), "the first is told"


def test_policies_of_others_have_no_say(trusted: World) -> None:
    """Of the domains, those of the resource and of the executor alone."""
    publish(trusted, "home", NO_WRITES)
    own = f"//{BANK}/accounts/7"
    agent = trusted.bank.executor("clerk")
    trusted.must(BANK, "executor.register", {"executor": agent})
    trusted.must(BANK, "grant.issue", grant_body("own", agent, [f"//{BANK}/accounts/*"]))
    request = DecisionRequest(agent, WRITE, own)
    assert isinstance(decide(trusted.view, request, trusted.now), Permit)


def test_what_an_executor_says_is_asked_about_and_stays_with_the_lease(trusted: World) -> None:
    text = (
        "permit (principal, action, resource) when "
        '{ context.given.hasTag("ticket") && context.given.getTag("ticket") like "OPS-*" };'
    )
    publish(trusted, "owner", text)
    told = ("note=a=b", "ticket=OPS-1")
    assert isinstance(decided(trusted, READ, told), Permit)
    assert decided(trusted).reason is Reason.NO_POLICY_PERMITS
    lease = leased(trusted, READ, told)
    assert trusted.view.lease(lease.id) == lease
    assert lease.context == told
    assert isinstance(checked(trusted, lease), Permit)
    publish(trusted, "owner", text.replace("OPS", "DEV"))
    assert checked(trusted, lease) == Deny(Reason.NO_POLICY_PERMITS, BANK)
    assert is_well(trusted)


@pytest.mark.parametrize(
    "context",
    [[], ["ticket"], ["b=1", "a=1"], ["a=1", "a=2"], ["A=1"], [f"a={'x' * 257}"], ["a=1"] * 2,
     [f"n{n:02}=1" for n in range(17)], "a=1", [1]],
)  # fmt: skip
def test_an_odd_context_is_malformed(trusted: World, context: Any) -> None:
    body = acquire_body(trusted.agent, READ, PAYROLL) | {"context": context}
    refused = trusted.do(trusted.clinic.node, "lease.acquire", body)
    assert refused.reason is Reason.MALFORMED_COMMAND
    assert refused.thing.startswith("body.context")


# -- who may -------------------------------------------------------------------------------------


def test_versions_count_up_and_retiring_keeps_the_count(trusted: World) -> None:
    assert publish(trusted, "owner", PERMIT_ALL).result == {"id": BANK, "version": 1}
    publish(trusted, "owner", NO_WRITES)
    bank = trusted.view.domain(BANK)
    assert bank is not None
    assert bank.policies == PolicyMark(2, digest_of(NO_WRITES))
    retire(trusted, "owner")
    assert trusted.view.domain(BANK).policies == PolicyMark(2, "")  # type: ignore[union-attr]
    again = trusted.do(BANK, "policy.retire", {})
    assert (again.reason, again.thing) == (Reason.ILLEGAL_TRANSITION, BANK)
    assert publish(trusted, "owner", NO_WRITES).result["version"] == 3
    same = trusted.do(BANK, "policy.publish", {"text": NO_WRITES})
    assert same.reason is Reason.ILLEGAL_TRANSITION
    assert is_well(trusted)


def test_what_the_engine_does_not_take_is_not_published(trusted: World) -> None:
    for text in ("permit (principal, action, resource) when { context.time };", "//"):
        refused = trusted.do(BANK, "policy.publish", {"text": text})
        assert (refused.reason, refused.thing) == (Reason.POLICY_BROKEN, BANK)
        refused = trusted.do(
            BANK, "proposal.open", proposal_body("federation.set_policy", {"text": text})
        )
        assert refused.reason is Reason.POLICY_BROKEN
    deep = f"permit (principal, action, resource) when {{ {'(' * 1_000}true{')' * 1_000} }};"
    refused = trusted.do(BANK, "policy.publish", {"text": deep})
    assert (refused.reason, refused.thing) == (Reason.MALFORMED_COMMAND, "body.text")
    assert trusted.view.domain(BANK).policies is None  # type: ignore[union-attr]


def test_nothing_is_no_set_that_could_be_published(trusted: World) -> None:
    """It would retire the one in force, under the rules for publishing."""
    publish(trusted, "owner", PERMIT_ALL)
    refused = trusted.do(BANK, "policy.publish", {"text": ""})
    assert (refused.reason, refused.thing) == (Reason.MALFORMED_COMMAND, "body.text")
    opened = proposal_body("federation.set_policy", {"text": ""})
    assert trusted.do(BANK, "proposal.open", opened).reason is Reason.MALFORMED_COMMAND
    assert trusted.view.domain(BANK).policies == PolicyMark(1, digest_of(PERMIT_ALL))  # type: ignore[union-attr]


def test_the_engine_sees_nothing_of_whoever_is_nobody(
    trusted: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policies.cedar, "check_set", lambda _: pytest.fail("it was asked"))
    envelope = trusted.federation.command(
        BANK, "policy.publish", {"text": PERMIT_ALL}, key=trusted.clinic.governance
    )
    assert trusted.apply(envelope).outcome.reason is Reason.BAD_SIGNATURE


def test_who_is_suspended_may_begin_to_narrow_and_no_more(trusted: World) -> None:
    trusted.must(BANK, "domain.suspend", {"domain": BANK})
    publish(trusted, "owner", NO_WRITES)
    for verb, body in (("policy.publish", {"text": PERMIT_ALL}), ("policy.retire", {})):
        assert trusted.do(BANK, verb, dict(body)).reason is Reason.DOMAIN_SUSPENDED
    trusted.must(BANK, "domain.reinstate", {"domain": BANK})
    assert publish(trusted, "owner", PERMIT_ALL).accepted


def test_a_ballot_is_about_the_policies_as_they_were(trusted: World) -> None:
    opened = trusted.must(
        BANK, "proposal.open", proposal_body("federation.set_policy", {"text": PERMIT_ALL})
    )
    publish(trusted, "all", NO_WRITES)
    voted = trusted.must(
        CLINIC, "ballot.cast", {"proposal": str(opened.result["id"]), "choice": "yes"}
    )
    assert voted.result["reason"] == Reason.SUPERSEDED
    assert trusted.view.policies(BY_BALLOT).text == NO_WRITES  # type: ignore[union-attr]
    assert trusted.view.policies(ORIGIN) is None


@pytest.mark.parametrize("verb", ["federation.set_policy", "federation.retire_policy"])
def test_nobody_decides_alone_for_all(trusted: World, verb: str) -> None:
    body = {"text": PERMIT_ALL} if verb.endswith("set_policy") else {}
    assert trusted.do(BANK, verb, dict(body)).reason is Reason.NEEDS_BALLOT


def test_the_first_version_knows_none_of_it() -> None:
    ledger = Ledger(Federation.build(version=1))
    for verb in ("policy.publish", "policy.retire", "federation.set_policy"):
        refused = ledger.run(BANK, verb, {"text": PERMIT_ALL}).outcome
        assert (refused.reason, refused.thing) == (Reason.MALFORMED_COMMAND, "type")
    body = acquire_body("spiffe://bank.example/agent/a", READ, PAYROLL) | {"context": ["a=1"]}
    refused = ledger.run(ledger.federation[BANK].node, "lease.acquire", body).outcome
    assert (refused.reason, refused.thing) == (Reason.MALFORMED_COMMAND, "body.context")


# -- what is told --------------------------------------------------------------------------------


@pytest.mark.parametrize("by", WHO)
def test_an_entry_says_that_policies_have_changed_and_not_what_that_is_to_a_lease(
    trusted: World, by: str
) -> None:
    reads, writes = leased(trusted), leased(trusted, WRITE)
    thing = WHO[by][1]
    steps = [
        (NO_WRITES, None, Reason.POLICY_FORBIDS),
        (ONLY_WRITES, Reason.NO_POLICY_PERMITS, None),
        (BROKEN, Reason.POLICY_BROKEN, Reason.POLICY_BROKEN),
        ("", None, None),
    ]
    for text, of_reads, of_writes in steps:
        done = publish(trusted, by, text) if text else retire(trusted, by)
        effect = effect_of(done.index, trusted.entries[done.index])
        assert effect is not None
        assert (effect.thing, effect.of_policies, effect.is_unsaid) == (thing, True, True)
        assert (effect.reason is None) == (text == ""), "who counts permits waits for all of them"
        for lease, reason in ((reads, of_reads), (writes, of_writes)):
            assert thing in things_of(lease, ORIGIN)
            assert is_stopped(trusted.view, thing, lease) == (reason is not None)
            assert isinstance(checked(trusted, lease), Permit) == (reason is None)
        assert is_stopped(trusted.view, thing, None) == bool(text), "of a lease that is not known"


@pytest.mark.parametrize("by", WHO)
def test_an_explanation_names_the_policy(trusted: World, by: str) -> None:
    publish(trusted, by, NO_WRITES)
    lease = leased(trusted)
    told = [
        explain(trusted.view, DecisionRequest(trusted.agent, WRITE, PAYROLL), trusted.now),
        explain(trusted.view, DecisionRequest(trusted.agent, READ, PAYROLL), trusted.now),
        explain_lease(trusted.view, lease.id, trusted.agent, "", "", trusted.now),
    ]
    steps = [each.steps[-1] for each in told]
    assert {step.question for step in steps} == {Question.POLICY}
    assert [step.things[0].note for step in steps] == [
        "version 1, forbids: no-writes",
        "version 1, permits: reads",
        "version 1, permits: reads",
    ]
    assert told[0].decision == Deny(Reason.POLICY_FORBIDS, WHO[by][0])
    assert isinstance(told[1].decision, Permit)
    owner = BY_BALLOT if by == "all" else WHO[by][0]
    assert (steps[0].things[0].kind, steps[0].things[0].id) == ("policies", owner)
    publish(trusted, by, BROKEN)
    broken = explain(trusted.view, DecisionRequest(trusted.agent, READ, PAYROLL), trusted.now)
    assert broken.steps[-1].things[0].note == "version 2, could not be evaluated"


def test_nothing_is_evaluated_again_while_policies_and_lease_are_the_same(
    trusted: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(trusted, "owner", NO_WRITES)
    lease = leased(trusted)
    monkeypatch.setattr(policies.cedar, "rule", lambda *_: pytest.fail("it was evaluated"))
    monkeypatch.setattr(policies, "policy_text", lambda *_: pytest.fail("it was read"))
    for _ in range(3):
        assert isinstance(checked(trusted, lease), Permit)


def test_what_is_kept_of_answers_has_a_limit_and_changes_none(
    trusted: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policies, "_KEPT_RULINGS", 2)
    publish(trusted, "owner", NO_WRITES)
    for number in range(5):
        assert decided(trusted, f"{READ}.n{number}").reason is Reason.NO_POLICY_PERMITS
        assert isinstance(decided(trusted, READ), Permit)
        assert decided(trusted, WRITE).reason is Reason.POLICY_FORBIDS
        assert len(policies._rulings) <= 2


def test_an_engine_that_fails_within_apply_denies_and_the_ledger_goes_on(
    trusted: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PanicException(BaseException):
        pass

    def fail(*_: object) -> None:
        raise PanicException("boom")

    publish(trusted, "owner", f"{PERMIT_ALL} // of this test")
    monkeypatch.setattr(policies.cedar.cedarpy, "is_authorized", fail)
    refused = trusted.acquire()
    assert (refused.reason, refused.thing) == (Reason.POLICY_BROKEN, BANK)
    refused = trusted.do(BANK, "policy.retire", {})
    assert refused.accepted


# -- what another node sends ---------------------------------------------------------------------


def put_mark(store: MemoryStore, mark: PolicyMark | None) -> None:
    bank = StateView(store).domain(BANK)
    assert bank is not None
    state.save_domain(store, replace(bank, policies=mark))


def lies(store: MemoryStore) -> dict[str, Any]:
    own = StateView(store).policies(BANK)
    assert own is not None
    key = keys.RECORDS[own.kind] + BANK.encode()
    of_nobody = replace(own, owner="nobody.example")
    deep = "permit (principal, action, resource) when { " + "(" * 99 + "true" + ")" * 99 + " };"
    return {
        "no mark": lambda: put_mark(store, None),
        "another hash": lambda: put_mark(store, PolicyMark(1, "0" * 64)),
        "another version": lambda: put_mark(store, PolicyMark(2, own.mark.sha256)),
        "no policies": lambda: store.delete(key),
        "another text": lambda: state.save_policies(store, replace(own, text=NO_WRITES)),
        "of nobody": lambda: state.save_policies(store, of_nobody),
        "in another place": lambda: store.put(key + b"x", store.get(key) or b""),
        "too deep": lambda: (
            state.save_policies(store, replace(own, text=deep)),
            put_mark(store, PolicyMark(1, digest_of(deep))),
        ),
        "version 0": lambda: (
            state.save_policies(store, replace(own, version=0)),
            put_mark(store, PolicyMark(0, own.mark.sha256)),
        ),
        "more in the mark": lambda: store.put(
            keys.RECORDS[StateView(store).domain(BANK).kind] + BANK.encode(),  # type: ignore[union-attr]
            codec.encode(_with_more(store)),
        ),
    }


def _with_more(store: MemoryStore) -> object:
    value = json.loads(store.get(b"D" + BANK.encode()) or b"")
    value["policies"]["more"] = 1
    return value


@pytest.mark.parametrize("lie", range(10))
def test_policies_that_do_not_agree_are_no_state(trusted: World, lie: int) -> None:
    publish(trusted, "owner", PERMIT_ALL)
    publish(trusted, "all", NO_WRITES)
    assert Vetting(copied(trusted.store)).step(1_000_000)
    store = copied(trusted.store)
    list(lies(store).values())[lie]()
    with pytest.raises(MalformedError):
        Vetting(store).step(1_000_000)


def test_the_federations_policies_must_be_those_that_it_says(trusted: World) -> None:
    publish(trusted, "all", PERMIT_ALL)
    store = copied(trusted.store)
    found = StateView(store).policies(BY_BALLOT)
    assert found is not None
    state.save_policies(store, replace(found, text=NO_WRITES))
    with pytest.raises(MalformedError):
        Vetting(store).step(1_000_000)


@pytest.mark.parametrize(
    "context", [("b=", "a="), ("a=", "a=1"), ("A=",), ("a",), (f"a={'x' * 257}",)]
)
def test_a_lease_of_which_something_odd_was_said_is_no_state(
    trusted: World, context: tuple[str, ...]
) -> None:
    lease = leased(trusted, READ, ("a=1", "b=2"))
    store = copied(trusted.store)
    state.save_lineage(store, replace(lease, context=context))
    with pytest.raises(MalformedError):
        Vetting(store).step(1_000_000)


def test_a_later_state_has_no_earlier_policies(trusted: World) -> None:
    publish(trusted, "owner", PERMIT_ALL)
    first = copied(trusted.store)
    publish(trusted, "owner", NO_WRITES)
    second = copied(trusted.store)
    retire(trusted, "owner")
    assert Succession(first, second).step(1_000)
    assert Succession(second, trusted.store).step(1_000)
    assert check_step(StateView(first), trusted.view) == []
    for before, after in ((second, first), (trusted.store, second)):
        with pytest.raises(MalformedError, match="policies"):
            Succession(before, after).step(1_000)
    other = copied(second)
    found = StateView(other).policies(BANK)
    assert found is not None
    state.save_policies(other, replace(found, text=ONLY_WRITES))
    with pytest.raises(MalformedError, match="another set"):
        Succession(second, other).step(1_000)


def test_a_state_that_has_lost_its_policies_stops_and_decides_nothing(trusted: World) -> None:
    publish(trusted, "owner", f"{PERMIT_ALL} // lost")
    trusted.store.delete(b"r" + BANK.encode())
    assert decided(trusted) == Deny(Reason.INTERNAL)
    body = acquire_body(trusted.agent, READ, PAYROLL)
    envelope = trusted.federation.command(trusted.clinic.node, "lease.acquire", body)
    with pytest.raises(StorageDamagedError):
        apply(trusted.store, codec.stamp(trusted.now, envelope), len(trusted.entries))
