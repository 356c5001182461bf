"""What is frozen: who freezes and thaws, what is denied meanwhile, and what is told of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.core.conftest import BANK, CLINIC, World, copied

from quorate.core import codec, keys, protocol, state
from quorate.core.acts import ACTS
from quorate.core.decision import DecisionRequest, check_lease, decide
from quorate.core.effects import effect_of, is_stopped, things_of
from quorate.core.errors import MalformedError
from quorate.core.explaining import explain, explain_lease
from quorate.core.explanation import Question
from quorate.core.frozen import Freeze
from quorate.core.invariants import check
from quorate.core.limits import MAX_GENESIS_BYTES, MAX_PATTERNS
from quorate.core.outcome import Deny, Outcome, Permit, Reason
from quorate.core.records import BY_BALLOT, Domain, Lease
from quorate.core.records import Federation as FederationRecord
from quorate.core.recovery_room import longest_document
from quorate.core.state import StateView
from quorate.core.transitions import examine
from quorate.core.vetting import Vetting
from quorate.testing.builders import (
    ORIGIN,
    Federation,
    Ledger,
    acquire_body,
    ballot_body,
    grant_body,
    proposal_body,
)

READ, WRITE = "payments.read", "payments.write"
PAYROLL = "//bank.example/accounts/7"
WHO = {"bank": (BANK, f"frozen:{BANK}"), "all": (ORIGIN, f"federation:{ORIGIN}")}


def freeze(world: World, by: str, *actions: str) -> Outcome:
    """By the bank, of its own; or by all, of everybody's."""
    if by == "bank":
        return world.must(BANK, "resources.freeze", {"actions": list(actions)})
    return world.agree("federation.freeze", {"actions": list(actions)})


def thaw(world: World, by: str) -> Outcome:
    return world.must(BANK, "resources.thaw", {}) if by == "bank" else world.agree(
        "federation.thaw", {}
    )  # fmt: skip


def leased(world: World, action: str = READ) -> Lease:
    return Lease.from_json(world.acquire(action=action).result)


def checked(world: World, lease: Lease) -> Any:
    return check_lease(world.view, lease.id, lease.executor, "", "", world.now)[0]


def decided(world: World, action: str = READ) -> Any:
    return decide(world.view, DecisionRequest(world.agent, action, PAYROLL), world.now)


def is_well(ledger: Ledger) -> bool:
    return check(ledger.view) == [] and Vetting(ledger.store, len(ledger.entries)).step(1_000_000)


# -- what is denied ------------------------------------------------------------------------------


@pytest.mark.parametrize("by", WHO)
def test_everything_is_denied_but_what_is_listed(trusted: World, by: str) -> None:
    reads, writes = leased(trusted), leased(trusted, WRITE)
    freeze(trusted, by, "payments.read", "audit.*")
    thing = WHO[by][0]
    assert isinstance(checked(trusted, reads), Permit)
    assert isinstance(decided(trusted), Permit)
    assert checked(trusted, writes) == decided(trusted, WRITE) == Deny(Reason.FROZEN, thing)
    new = trusted.acquire(action=WRITE)
    assert (new.reason, new.thing) == (Reason.FROZEN, thing)
    assert trusted.acquire().accepted
    renewed = trusted.lease_act("renew", writes.id, ttl_ms=0)
    assert (renewed.reason, renewed.thing) == (Reason.FROZEN, thing)
    assert trusted.lease_act("renew", reads.id, ttl_ms=0).accepted
    assert trusted.lease_act("release", writes.id).accepted, "whoever holds one gives it back"
    assert is_well(trusted)
    thaw(trusted, by)
    assert isinstance(decided(trusted, WRITE), Permit)
    assert isinstance(checked(trusted, reads), Permit)
    assert is_well(trusted)


@pytest.mark.parametrize("by", WHO)
def test_an_empty_list_lets_nothing_through(trusted: World, by: str) -> None:
    lease = leased(trusted)
    freeze(trusted, by)
    assert checked(trusted, lease) == Deny(Reason.FROZEN, WHO[by][0])
    assert decided(trusted, "*") == Deny(Reason.FROZEN, WHO[by][0])
    assert is_well(trusted)
    thaw(trusted, by)
    assert isinstance(checked(trusted, lease), Permit)


@pytest.mark.parametrize("by", WHO)
def test_a_star_lets_all_through_and_is_a_freeze_all_the_same(trusted: World, by: str) -> None:
    freeze(trusted, by, "*")
    assert isinstance(decided(trusted, WRITE), Permit)
    thaw(trusted, by)


def test_both_must_let_an_act_through(trusted: World) -> None:
    lease = leased(trusted)
    freeze(trusted, "all", READ, "audit.read")
    freeze(trusted, "bank", WRITE)
    assert checked(trusted, lease) == Deny(Reason.FROZEN, BANK)
    assert decided(trusted, WRITE) == Deny(Reason.FROZEN, ORIGIN)
    assert decided(trusted, "audit.write") == Deny(Reason.FROZEN, ORIGIN)
    thaw(trusted, "bank")
    assert isinstance(checked(trusted, lease), Permit)
    assert decided(trusted, WRITE) == Deny(Reason.FROZEN, ORIGIN), "only who froze thaws"
    freeze(trusted, "bank")
    thaw(trusted, "all")
    assert checked(trusted, lease) == Deny(Reason.FROZEN, BANK), "only who froze thaws"


def test_a_domain_freezes_its_own_resources_and_nobody_elses(trusted: World) -> None:
    """Whose the executor is does not matter, nor who asks."""
    own = trusted.bank.executor("own")
    trusted.must(BANK, "executor.register", {"executor": own})
    trusted.must(BANK, "grant.issue", grant_body("own", own, ["//bank.example/*"]))
    request = DecisionRequest(own, READ, PAYROLL)
    trusted.must(CLINIC, "resources.freeze", {"actions": []})
    assert isinstance(decided(trusted), Permit), "of the bank's resources"
    freeze(trusted, "bank")
    assert decide(trusted.view, request, trusted.now) == Deny(Reason.FROZEN, BANK)


def test_work_that_comes_from_frozen_work_does_not_begin(trusted: World) -> None:
    parent = leased(trusted, WRITE)
    freeze(trusted, "bank", READ)
    refused = trusted.acquire(parents=[parent.id])
    assert (refused.reason, refused.thing) == (Reason.BROKEN_LINEAGE, parent.id)


def test_it_is_asked_once_the_owner_is_known_to_be_active(trusted: World) -> None:
    trusted.must(BANK, "trust.close", {"edge": "edge"})
    assert decided(trusted).reason is Reason.NO_TRUST
    freeze(trusted, "bank")
    assert decided(trusted).reason is Reason.FROZEN
    trusted.must(BANK, "domain.suspend", {"domain": BANK})
    assert decided(trusted).reason is Reason.DOMAIN_SUSPENDED
    trusted.must(CLINIC, "executor.suspend", {"executor": trusted.agent})
    assert decided(trusted).reason is Reason.EXECUTOR_SUSPENDED


# -- who may -------------------------------------------------------------------------------------


def test_nothing_is_frozen_twice_or_thawed_twice(trusted: World) -> None:
    refused = trusted.do(BANK, "resources.thaw", {})
    assert (refused.reason, refused.thing) == (Reason.ILLEGAL_TRANSITION, BANK)
    refused = trusted.do(BANK, "proposal.open", proposal_body("federation.thaw", {}))
    assert (refused.reason, refused.thing) == (Reason.ILLEGAL_TRANSITION, ORIGIN)
    freeze(trusted, "bank", READ)
    freeze(trusted, "all", READ)
    for actions in ([READ], []):
        body = {"actions": actions}
        refused = trusted.do(BANK, "resources.freeze", body)
        assert (refused.reason, refused.thing) == (Reason.ILLEGAL_TRANSITION, BANK)
        refused = trusted.do(BANK, "proposal.open", proposal_body("federation.freeze", body))
        assert (refused.reason, refused.thing) == (Reason.ILLEGAL_TRANSITION, ORIGIN)


def test_a_suspended_domain_may_freeze_and_may_not_thaw(trusted: World) -> None:
    trusted.must(BANK, "domain.suspend", {"domain": BANK})
    freeze(trusted, "bank")
    refused = trusted.do(BANK, "resources.thaw", {})
    assert (refused.reason, refused.thing) == (Reason.DOMAIN_SUSPENDED, BANK)
    trusted.must(BANK, "domain.reinstate", {"domain": BANK})
    assert decided(trusted).reason is Reason.FROZEN, "it stays frozen"
    thaw(trusted, "bank")


@pytest.mark.parametrize("verb", ["federation.freeze", "federation.thaw"])
def test_no_domain_alone_freezes_what_is_everybodys(trusted: World, verb: str) -> None:
    body: dict[str, object] = {"actions": []} if verb.endswith("freeze") else {}
    refused = trusted.do(BANK, verb, body)
    assert (refused.reason, refused.thing) == (Reason.NEEDS_BALLOT, verb)


@pytest.mark.parametrize("verb", ["resources.freeze", "resources.thaw"])
def test_what_a_domain_does_alone_is_no_proposal(trusted: World, verb: str) -> None:
    refused = trusted.do(BANK, "proposal.open", proposal_body(verb, {}))
    assert (refused.reason, refused.thing) == (Reason.MALFORMED_COMMAND, "body.act")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "actions"),
        ({"actions": None}, "actions"),
        ({"actions": "payments.*"}, "actions"),
        ({"actions": ["a", "a"]}, "actions"),
        ({"actions": ["a*"]}, "actions[0]"),
        ({"actions": ["a", 1]}, "actions[1]"),
        ({"actions": [f"a{number}" for number in range(MAX_PATTERNS + 1)]}, "actions"),
        ({"actions": [], "resources": ["//bank.example/*"]}, "resources"),
    ],
)
def test_odd_lists_are_malformed(trusted: World, body: dict[str, Any], field: str) -> None:
    refused = trusted.do(BANK, "resources.freeze", body)
    assert (refused.reason, refused.thing) == (Reason.MALFORMED_COMMAND, f"body.{field}")
    refused = trusted.do(BANK, "proposal.open", proposal_body("federation.freeze", body))
    assert refused.reason is Reason.MALFORMED_COMMAND
    refused = trusted.do(BANK, "resources.thaw", {"actions": []})
    assert (refused.reason, refused.thing) == (Reason.MALFORMED_COMMAND, "body.actions")


# -- ballots -------------------------------------------------------------------------------------


def test_a_thaw_is_of_the_freeze_that_it_was_proposed_for(trusted: World) -> None:
    freeze(trusted, "all", READ)
    opened = trusted.must(BANK, "proposal.open", proposal_body("federation.thaw", {}))
    thaw(trusted, "all")
    freeze(trusted, "all", READ)
    late = trusted.must(CLINIC, "ballot.cast", ballot_body(str(opened.result["id"])))
    assert (late.result["status"], late.result["reason"]) == ("failed", "SUPERSEDED")
    assert trusted.view.federation().frozen is not None


def test_of_two_freezes_the_second_changes_nothing(trusted: World) -> None:
    """Nobody's list is taken for another's."""
    opened = trusted.must(
        BANK, "proposal.open", proposal_body("federation.freeze", {"actions": ["*"]})
    )
    first = freeze(trusted, "all", READ)
    late = trusted.must(CLINIC, "ballot.cast", ballot_body(str(opened.result["id"])))
    assert (late.result["status"], late.result["reason"]) == ("failed", "ILLEGAL_TRANSITION")
    assert trusted.view.federation().frozen == Freeze((READ,), first.index)


def test_a_domain_does_not_void_its_reinstatement_by_freezing() -> None:
    ledger = Ledger(Federation.build((BANK, CLINIC, "port.example")))

    def agree(act: str, *, by: tuple[str, str] = (CLINIC, "port.example")) -> str:
        opened = ledger.run(by[0], "proposal.open", proposal_body(act, {"domain": BANK})).outcome
        assert opened.accepted, opened
        return str(opened.result["id"])

    ledger.run("port.example", "ballot.cast", ballot_body(agree("domain.suspend")))
    proposal = agree("domain.reinstate")
    assert ledger.run(BANK, "resources.freeze", {"actions": []}).outcome.accepted
    done = ledger.run("port.example", "ballot.cast", ballot_body(proposal)).outcome
    assert done.result["status"] == "executed"
    domain = ledger.view.domain(BANK)
    assert domain is not None
    assert domain.frozen is not None
    expelled = ledger.run("port.example", "ballot.cast", ballot_body(agree("domain.expel"))).outcome
    assert expelled.result["status"] == "executed"
    assert is_well(ledger), "what is expelled is not frozen as well"


def test_how_many_must_agree_to_freeze_is_set_like_the_rest(trusted: World) -> None:
    rules = dict.fromkeys(("federation.freeze", "federation.thaw"), "unanimity")
    everything = {
        **dict.fromkeys(
            (
                "domain.admit",
                "domain.suspend",
                "domain.reinstate",
                "domain.expel",
                "federation.set_thresholds",
                "federation.set_parameters",
                "federation.set_rates",
                "federation.upgrade",
            ),
            "majority",
        ),
        **dict.fromkeys(("federation.set_policy", "federation.retire_policy"), "majority"),
        "federation.reinstate_executor": "majority",
        **rules,
    }
    short = {name: rule for name, rule in everything.items() if name not in rules}
    refused = trusted.do(
        BANK, "proposal.open", proposal_body("federation.set_thresholds", {"thresholds": short})
    )
    assert refused.reason is Reason.MALFORMED_COMMAND
    trusted.agree("federation.set_thresholds", {"thresholds": everything})
    assert trusted.view.thresholds()["federation.freeze"] == "unanimity"
    assert is_well(trusted)


# -- what is told --------------------------------------------------------------------------------


@pytest.mark.parametrize("by", WHO)
def test_entries_say_what_was_frozen_and_what_is_spared(trusted: World, by: str) -> None:
    reads, writes = leased(trusted), leased(trusted, WRITE)
    thing = WHO[by][1]
    for done, reason in ((freeze(trusted, by, READ), Reason.FROZEN), (thaw(trusted, by), None)):
        entry = trusted.entries[done.index]
        executed = json.loads(entry)["executed"]
        assert executed["actions"] == [READ]
        assert executed["thing"] == WHO[by][0]
        effect = effect_of(done.index, entry)
        assert effect is not None
        assert (effect.thing, effect.reason) == (thing, reason)
        for lease, is_spared in ((reads, True), (writes, False)):
            assert thing in things_of(lease, ORIGIN)
            assert thing not in lease.depends_on, "as a lease of the first version"
            assert effect.spares(lease) is is_spared
    freeze(trusted, by, READ)
    assert is_stopped(trusted.view, thing, writes)
    assert not is_stopped(trusted.view, thing, reads)
    assert is_stopped(trusted.view, thing, None), "of a lease that is not known"
    thaw(trusted, by)
    assert not is_stopped(trusted.view, thing, writes)


def test_a_proposal_that_is_not_decided_yet_freezes_nothing(trusted: World) -> None:
    body = proposal_body("federation.freeze", {"actions": []})
    opened = trusted.must(BANK, "proposal.open", body)
    assert effect_of(opened.index, trusted.entries[opened.index]) is None
    assert isinstance(decided(trusted), Permit)


@pytest.mark.parametrize(("by", "signer"), [("bank", BANK), ("all", BY_BALLOT)])
def test_an_explanation_shows_who_froze_it_and_since_when(
    trusted: World, by: str, signer: str
) -> None:
    lease = leased(trusted)
    done = freeze(trusted, by, WRITE)
    request = DecisionRequest(trusted.agent, READ, PAYROLL)
    told = (
        explain(trusted.view, request, trusted.now),
        explain_lease(trusted.view, lease.id, lease.executor, "", "", trusted.now),
    )
    for each in told:
        assert each.decision == Deny(Reason.FROZEN, WHO[by][0])
        step = each.decided
        assert step is not None
        assert step.question is Question.FROZEN
        [thing] = step.things
        assert (thing.id, thing.status, thing.changed) == (WHO[by][0], "frozen", done.index)
        assert thing.note == f"lets through {WRITE}"
        assert step.remedy is not None
        assert step.remedy.signer == signer


# -- records -------------------------------------------------------------------------------------


def test_records_say_it_only_while_it_is_so(trusted: World) -> None:
    before = dict(trusted.store.items())
    for by in WHO:
        done = freeze(trusted, by, *[READ] * (by == "bank"))
        holder: Domain | FederationRecord | None = (
            trusted.view.domain(BANK) if by == "bank" else trusted.view.federation()
        )
        assert holder is not None
        assert holder.frozen == Freeze((READ,) if by == "bank" else (), done.index)
        assert type(holder).from_json(holder.to_json()) == holder
        assert holder.to_json()["frozen"] == holder.frozen.to_json()
        thaw(trusted, by)
    for key in (keys.FEDERATION, keys.RECORDS[Domain.kind] + BANK.encode()):
        assert trusted.store.get(key) == before[key]


@pytest.mark.parametrize(
    "frozen",
    [
        None,
        [],
        {"actions": []},
        {"actions": ["a*"], "since": 1},
        {"actions": ["a", "a"], "since": 1},
        {"actions": [], "since": -1},
        {"actions": [], "since": 1, "more": 1},
        {"actions": [f"a{number}" for number in range(MAX_PATTERNS + 1)], "since": 1},
    ],
)
@pytest.mark.parametrize("of", ["domain", "federation"])
def test_what_is_frozen_in_another_form_is_no_state(
    trusted: World, of: str, frozen: object
) -> None:
    store = copied(trusted.store)
    key = keys.FEDERATION if of == "federation" else keys.RECORDS[Domain.kind] + BANK.encode()
    said = json.loads(store.get(key) or b"")
    store.put(key, codec.encode(said | {"frozen": frozen}))
    with pytest.raises(MalformedError):
        Vetting(store).step(1_000_000)


def test_invariants_know_what_cannot_be_frozen() -> None:
    world = Ledger(Federation.build((BANK, CLINIC), version=protocol.FIRST))
    for domain in world.view.domains():
        frozen = Domain.from_json(domain.to_json() | {"frozen": {"actions": [], "since": 1}})
        state.save_domain(world.store, frozen)
    assert check(world.view) == ["something is frozen, which the first version does not know"]
    with pytest.raises(MalformedError, match="cannot be"):
        Vetting(world.store).step(1_000_000)


# -- versions ------------------------------------------------------------------------------------


def first() -> Ledger:
    return Ledger(Federation.build((BANK, CLINIC), version=protocol.FIRST))


def upgrade(ledger: Ledger) -> None:
    for domain in (BANK, CLINIC):
        ledger.run(ledger.federation[domain].node, "node.declare", {"protocol": 2})
    opened = ledger.run(BANK, "proposal.open", proposal_body("federation.upgrade", {"protocol": 2}))
    done = ledger.run(CLINIC, "ballot.cast", ballot_body(str(opened.outcome.result["id"])))
    assert done.outcome.result["status"] == "executed"


@pytest.mark.parametrize(
    ("verb", "body", "field"),
    [
        ("resources.freeze", {"actions": []}, "type"),
        ("resources.thaw", {}, "type"),
        ("federation.freeze", {"actions": []}, "type"),
        ("federation.thaw", {}, "type"),
        ("proposal.open", proposal_body("federation.freeze", {"actions": []}), "body.act"),
        ("proposal.open", proposal_body("federation.thaw", {}), "body.act"),
    ],
)
def test_the_first_version_knows_nothing_of_it(
    verb: str, body: dict[str, object], field: str
) -> None:
    ledger = first()
    command = ledger.federation.command(BANK, verb, body)
    refused = examine(ledger.view, command, ledger.now)
    assert refused == Deny(Reason.UNSUPPORTED_PROTOCOL, "protocol 1")
    said = ledger.run(BANK, verb, body).outcome
    assert (said.reason, said.thing) == (Reason.MALFORMED_COMMAND, field)
    upgrade(ledger)
    assert examine(ledger.view, command, ledger.now) is None


RULES = dict.fromkeys(
    (
        "domain.admit",
        "domain.suspend",
        "domain.reinstate",
        "domain.expel",
        "federation.set_thresholds",
        "federation.upgrade",
    ),
    "two-thirds",
)


def test_proposals_are_read_by_the_rules_that_they_were_opened_under() -> None:
    ledger = first()
    body = proposal_body("federation.set_thresholds", {"thresholds": RULES})
    early = ledger.run(BANK, "proposal.open", body).outcome
    assert early.accepted
    proposal = ledger.view.proposal(early.thing)
    assert proposal is not None
    assert "protocol" not in proposal.to_json()
    upgrade(ledger)
    assert is_well(ledger)
    done = ledger.run(CLINIC, "ballot.cast", ballot_body(early.thing)).outcome
    assert done.result["status"] == "executed"
    assert ledger.view.thresholds() == RULES
    assert is_well(ledger), "thresholds of the version before"
    later = ledger.run(BANK, "proposal.open", proposal_body("federation.freeze", {"actions": []}))
    opened = ledger.view.proposal(later.outcome.thing)
    assert opened is not None
    assert opened.to_json()["protocol"] == protocol.SECOND
    assert later.outcome.result["needed"] == 2
    done = ledger.run(CLINIC, "ballot.cast", ballot_body(opened.id)).outcome
    assert done.result["status"] == "executed", "a majority, as nothing else is said"
    assert is_well(ledger)


def test_thresholds_of_the_second_version_are_not_the_firsts() -> None:
    ledger = first()
    brought = [verb.value for verb in ACTS[protocol.SECOND] if verb not in ACTS[protocol.FIRST]]
    more = RULES | dict.fromkeys(brought, "majority")
    body = proposal_body("federation.set_thresholds", {"thresholds": more})
    refused = ledger.run(BANK, "proposal.open", body).outcome
    assert (refused.reason, refused.thing) == (
        Reason.MALFORMED_COMMAND,
        "body.body.thresholds.federation.freeze",
    )
    upgrade(ledger)
    short = ledger.run(
        BANK, "proposal.open", proposal_body("federation.set_thresholds", {"thresholds": RULES})
    ).outcome
    assert short.reason is Reason.MALFORMED_COMMAND, "nothing stays as it was by oversight"
    assert ledger.run(BANK, "proposal.open", body).outcome.accepted


@pytest.mark.parametrize("version", [0, 3])
def test_a_proposal_of_rules_that_are_not_known_is_no_state(version: int) -> None:
    ledger = first()
    upgrade(ledger)
    opened = ledger.run(BANK, "proposal.open", proposal_body("federation.freeze", {"actions": []}))
    key = keys.record(next(iter(ledger.view.proposals())).kind, opened.outcome.thing)
    assert key is not None
    said = json.loads(ledger.store.get(key) or b"")
    ledger.store.put(key, codec.encode(said | {"protocol": version}))
    with pytest.raises(MalformedError, match="version"):
        Vetting(ledger.store).step(1_000_000)


def test_nobody_upgrades_beyond_what_a_recovery_can_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """The later version says more of a federation."""
    ledger = first()
    for domain in (BANK, CLINIC):
        ledger.run(ledger.federation[domain].node, "node.declare", {"protocol": 2})
    domains = StateView(ledger.store).domains()
    most = longest_document(domains, protocol.FIRST)
    assert most < longest_document(domains, protocol.SECOND) < MAX_GENESIS_BYTES
    monkeypatch.setattr("quorate.core.balloting.MAX_GENESIS_BYTES", most)
    refused = ledger.run(
        BANK, "proposal.open", proposal_body("federation.upgrade", {"protocol": 2})
    ).outcome
    assert (refused.reason, refused.thing) == (Reason.LIMIT_EXCEEDED, ORIGIN)


def test_a_resource_of_a_domain_that_is_frozen_is_told_by_its_lease(trusted: World) -> None:
    body = acquire_body(trusted.agent, READ, PAYROLL)
    lease = Lease.from_json(trusted.do(trusted.clinic.node, "lease.acquire", body).result)
    assert f"frozen:{BANK}" in things_of(lease, ORIGIN)
    assert f"frozen:{CLINIC}" not in things_of(lease, ORIGIN)
