"""What is contained: who contains it and ends that, what is denied meanwhile, and what is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.core.conftest import BANK, CLINIC, World, copied
from tests.unit.core.test_recovery import recovery_of

from quorate.core import codec, containing, containment, keys, protocol, state
from quorate.core.containment import listed
from quorate.core.decision import DecisionRequest, check_lease, decide
from quorate.core.effects import effect_of, is_stopped, things_of
from quorate.core.errors import MalformedError, StorageDamagedError
from quorate.core.explaining import explain, explain_lease
from quorate.core.explanation import Question
from quorate.core.invariants import check
from quorate.core.outcome import Deny, Outcome, Permit, Reason
from quorate.core.records import Containment, Lease
from quorate.core.recovering import carry_over
from quorate.core.state import StateView
from quorate.core.store import MemoryStore
from quorate.core.vetting import Vetting
from quorate.testing.builders import ORIGIN, Federation, Ledger, acquire_body, grant_body

CONTAIN, LIFT = "executor.contain", "executor.lift_containment"
OWN, OTHERS = "//clinic.example/beds/1", "//bank.example/accounts/7"


class Chain(World):
    """An executor of the clinic, one of the bank, and one of the clinic again, each of which works
    for the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.setup()
        self.teller = self.bank.executor("teller")
        self.nurse = self.clinic.executor("nurse")
        self.must(BANK, "executor.register", {"executor": self.teller})
        self.must(CLINIC, "executor.register", {"executor": self.nurse})
        everything = ["//bank.example/*"]
        self.must(BANK, "grant.issue", grant_body("teller", self.teller, everything, max_depth=2))
        self.must(CLINIC, "grant.issue", grant_body("nurse", self.nurse, ["//clinic.example/*"]))
        self.root = self.leased(self.agent, OTHERS)
        self.child = self.leased(self.teller, OTHERS, [self.root.id])
        self.grandchild = self.leased(self.nurse, OWN, [self.child.id])

    def ask(self, executor: str, resource: str, parents: Sequence[str] = ()) -> Outcome:
        node = self.bank.node if executor == self.teller else self.clinic.node
        body = acquire_body(executor, "payments.read", resource, 0, parents)
        return self.do(node, "lease.acquire", body)

    def leased(self, executor: str, resource: str, parents: Sequence[str] = ()) -> Lease:
        outcome = self.ask(executor, resource, parents)
        assert outcome.accepted, outcome
        return Lease.from_json(outcome.result)

    def checked(self, lease: Lease) -> Any:
        return check_lease(self.view, lease.id, lease.executor, "", "", self.now)[0]

    def renewed(self, lease: Lease) -> Outcome:
        node = self.bank.node if lease.executor == self.teller else self.clinic.node
        body = {"lease": lease.id, "executor": lease.executor, "ttl_ms": 0}
        return self.do(node, "lease.renew", body)

    @property
    def all(self) -> tuple[Lease, Lease, Lease]:
        return self.root, self.child, self.grandchild

    def denied(self, lease: Lease, thing: str) -> None:
        """In every way, and for the same reason."""
        deny = Deny(Reason.CONTAINED, thing)
        assert self.checked(lease) == deny
        renewed = self.renewed(lease)
        assert (renewed.reason, renewed.thing) == (deny.reason, deny.thing)
        below = self.ask(self.nurse, OWN, [lease.id])
        if self.view.containment(self.nurse) is None:
            assert (below.reason, below.thing) == (deny.reason, deny.thing)
        told = explain_lease(self.view, lease.id, lease.executor, "", "", self.now)
        assert told.decision == deny
        assert told.decided is not None
        assert told.decided.question is Question.CONTAINED

    def permitted(self, *leases: Lease) -> None:
        for lease in leases:
            assert isinstance(self.checked(lease), Permit), lease
            assert self.renewed(lease).accepted
        assert check(self.view) == []
        assert Vetting(self.store).step(1_000_000)


@pytest.fixture
def chain() -> Chain:
    return Chain()


# -- what a lease says that it came from ---------------------------------------------------------


def test_a_lease_says_all_that_it_came_from_and_who_that_rests_on(chain: Chain) -> None:
    assert (chain.root.ancestors, chain.root.ancestor_executors) == ((), ())
    assert chain.child.ancestors == (chain.root.id,)
    assert chain.grandchild.ancestors == tuple(sorted((chain.root.id, chain.child.id)))
    assert chain.grandchild.ancestor_executors == tuple(sorted((chain.agent, chain.teller)))
    chain.permitted(*chain.all)


def test_there_can_be_too_much_that_work_came_from(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containment, "MAX_ANCESTORS", 2)
    other = chain.leased(chain.agent, OTHERS)
    parents = sorted((other.id, chain.grandchild.id))
    too_much = chain.ask(chain.nurse, OWN, parents)
    assert too_much.reason is Reason.LIMIT_EXCEEDED
    assert too_much.thing in parents
    alone = chain.ask(chain.nurse, OWN, [chain.grandchild.id])
    assert (alone.reason, alone.thing) == (Reason.LIMIT_EXCEEDED, chain.grandchild.id)
    assert chain.ask(chain.nurse, OWN, [chain.child.id]).accepted


def test_there_can_be_too_many_whom_it_rests_on(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containment, "MAX_ANCESTOR_EXECUTORS", 2)
    denied = chain.ask(chain.nurse, OWN, [chain.grandchild.id])
    assert (denied.reason, denied.thing) == (Reason.LIMIT_EXCEEDED, chain.grandchild.id)
    assert chain.ask(chain.nurse, OWN, [chain.child.id]).accepted


def test_what_two_parents_have_in_common_is_said_once(chain: Chain) -> None:
    both = chain.leased(chain.nurse, OWN, sorted((chain.child.id, chain.grandchild.id)))
    assert both.ancestors == tuple(sorted(each.id for each in chain.all))
    assert both.ancestor_executors == tuple(sorted((chain.agent, chain.teller, chain.nurse)))


# -- what is denied ------------------------------------------------------------------------------


def test_a_contained_executor_stops_all_that_came_from_it_in_every_domain(chain: Chain) -> None:
    other = chain.leased(chain.nurse, OWN)
    chain.must(CLINIC, CONTAIN, {"executor": chain.agent})
    for lease in chain.all:
        chain.denied(lease, chain.agent)
    chain.permitted(other)
    asked = chain.ask(chain.agent, OTHERS)
    assert (asked.reason, asked.thing) == (Reason.CONTAINED, chain.agent)
    request = DecisionRequest(chain.agent, "payments.read", OTHERS)
    assert decide(chain.view, request, chain.now) == Deny(Reason.CONTAINED, chain.agent)
    assert explain(chain.view, request, chain.now).decision == Deny(Reason.CONTAINED, chain.agent)
    chain.must(CLINIC, LIFT, {"executor": chain.agent})
    chain.permitted(*chain.all, other)


def test_a_contained_lease_stops_itself_and_what_came_from_it_and_nothing_else(
    chain: Chain,
) -> None:
    other = chain.leased(chain.teller, OTHERS, [chain.root.id])
    chain.must(BANK, CONTAIN, {"lease": chain.child.id})
    for lease in (chain.child, chain.grandchild):
        chain.denied(lease, chain.child.id)
    chain.permitted(chain.root, other)
    assert chain.ask(chain.teller, OTHERS, [chain.root.id]).accepted, (
        "the executor itself may go on"
    )
    chain.must(BANK, LIFT, {"lease": chain.child.id})
    chain.permitted(*chain.all, other)


def test_what_a_contained_executor_has_passed_on_gives_nothing(chain: Chain) -> None:
    trust = {"edge": "to", "trustee": CLINIC, "actions": ["*"], "resources": ["//bank.example/*"]}
    chain.must(BANK, "trust.open", trust)
    passed = {
        **{"executor": chain.teller, "grant": f"{BANK}/teller", "to": chain.nurse},
        **{"actions": ["*"], "resources": ["//bank.example/*"], "not_after": chain.now + 60_000},
        **{"max_lease_ttl_ms": 60_000, "max_uses": 0, "max_concurrent": 0, "max_depth": 1},
    }
    made = str(chain.must(chain.bank.node, "grant.delegate", passed).result["id"])
    lease = chain.leased(chain.nurse, OTHERS)
    assert lease.executors == (chain.nurse, chain.teller)
    below = chain.leased(chain.agent, OTHERS, [lease.id])
    assert chain.teller in below.ancestor_executors
    chain.must(BANK, CONTAIN, {"executor": chain.teller})
    assert chain.checked(lease) == chain.checked(below) == Deny(Reason.CONTAINED, chain.teller)
    asked = chain.ask(chain.nurse, OTHERS)
    assert (asked.reason, asked.thing) == (Reason.CONTAINED, chain.teller)
    more = chain.do(chain.bank.node, "grant.delegate", passed | {"max_depth": 1})
    assert (more.reason, more.thing) == (Reason.CONTAINED, chain.teller)
    on = passed | {"executor": chain.nurse, "grant": made, "to": chain.agent}
    on.pop("max_depth")
    assert chain.do(chain.clinic.node, "grant.delegate", on).accepted, "it is worth nothing now"
    chain.must(BANK, LIFT, {"executor": chain.teller})
    chain.permitted(lease, below)


def test_whoever_holds_a_contained_lease_gives_it_back(chain: Chain) -> None:
    chain.must(CLINIC, CONTAIN, {"executor": chain.agent})
    assert chain.lease_act("release", chain.root.id).accepted
    chain.denied(chain.child, chain.agent)


def test_what_is_over_or_revoked_is_contained_for_what_came_from_it(chain: Chain) -> None:
    chain.must(CLINIC, "executor.revoke", {"executor": chain.agent})
    chain.permitted(chain.child, chain.grandchild)
    chain.must(CLINIC, CONTAIN, {"executor": chain.agent})
    chain.denied(chain.child, chain.agent)
    chain.must(CLINIC, LIFT, {"executor": chain.agent})
    chain.must(BANK, CONTAIN, {"lease": chain.root.id})
    chain.denied(chain.grandchild, chain.root.id)


def test_what_is_nearest_is_named(chain: Chain) -> None:
    for domain, body in (
        (CLINIC, {"executor": chain.agent}),
        (BANK, {"lease": chain.root.id}),
        (CLINIC, {"executor": chain.nurse}),
        (CLINIC, {"lease": chain.grandchild.id}),
    ):
        chain.must(domain, CONTAIN, body)
    for lift, thing in (
        ({"lease": chain.grandchild.id}, chain.grandchild.id),
        ({"executor": chain.nurse}, chain.nurse),
    ):
        chain.denied(chain.grandchild, thing)
        chain.must(CLINIC, LIFT, lift)
    chain.denied(chain.grandchild, chain.root.id)
    chain.must(BANK, LIFT, {"lease": chain.root.id})
    chain.denied(chain.grandchild, chain.agent)


def test_what_ended_otherwise_is_told_first(chain: Chain) -> None:
    chain.must(CLINIC, CONTAIN, {"executor": chain.agent})
    chain.must(CLINIC, "executor.suspend", {"executor": chain.agent})
    assert chain.checked(chain.root) == Deny(Reason.EXECUTOR_SUSPENDED, chain.agent)
    chain.must(BANK, "resources.freeze", {"actions": []})
    assert chain.checked(chain.child) == Deny(Reason.CONTAINED, chain.agent)


# -- who may -------------------------------------------------------------------------------------


def test_a_domain_contains_its_own_executors_alone(chain: Chain) -> None:
    for act in (CONTAIN, LIFT):
        refused = chain.do(BANK, act, {"executor": chain.agent})
        assert (refused.reason, refused.thing) == (Reason.NOT_AUTHORIZED, chain.agent)
        unknown = chain.do(CLINIC, act, {"executor": chain.clinic.executor("nobody")})
        assert unknown.reason is Reason.NOT_FOUND
        nothing = chain.do(BANK, act, {"lease": "0" * 32})
        assert (nothing.reason, nothing.thing) == (Reason.NOT_FOUND, "0" * 32)


def test_a_lease_is_contained_by_its_holders_domain_and_by_the_owner_of_its_resource() -> None:
    chain = Chain()
    assert chain.do(CLINIC, CONTAIN, {"lease": chain.child.id}).reason is Reason.NOT_AUTHORIZED
    assert chain.do(BANK, CONTAIN, {"lease": chain.grandchild.id}).reason is Reason.NOT_AUTHORIZED
    first = chain.must(CLINIC, CONTAIN, {"lease": chain.root.id})
    second = chain.must(BANK, CONTAIN, {"lease": chain.root.id})
    assert first.result["executed"] == {"type": CONTAIN, "thing": chain.root.id, "by": [CLINIC]}
    record = chain.view.containment(chain.root.id)
    assert record == Containment(chain.root.id, (BANK, CLINIC), first.index, second.index)
    assert chain.do(BANK, CONTAIN, {"lease": chain.root.id}).reason is Reason.ILLEGAL_TRANSITION
    chain.must(CLINIC, LIFT, {"lease": chain.root.id})
    chain.denied(chain.child, chain.root.id)
    again = chain.do(CLINIC, LIFT, {"lease": chain.root.id})
    assert (again.reason, again.thing) == (Reason.ILLEGAL_TRANSITION, chain.root.id)
    chain.must(BANK, LIFT, {"lease": chain.root.id})
    assert chain.view.containment(chain.root.id) is None
    assert chain.do(BANK, LIFT, {"lease": chain.root.id}).reason is Reason.ILLEGAL_TRANSITION
    chain.permitted(*chain.all)


def test_a_suspended_domain_contains_and_does_not_end_it(chain: Chain) -> None:
    chain.must(CLINIC, "domain.suspend", {"domain": CLINIC})
    chain.must(CLINIC, CONTAIN, {"executor": chain.agent})
    assert chain.checked(chain.child) == Deny(Reason.CONTAINED, chain.agent)
    refused = chain.do(CLINIC, LIFT, {"executor": chain.agent})
    assert (refused.reason, refused.thing) == (Reason.DOMAIN_SUSPENDED, CLINIC)
    chain.must(CLINIC, "domain.reinstate", {"domain": CLINIC})
    assert chain.checked(chain.root) == Deny(Reason.CONTAINED, chain.agent)


def test_a_domain_contains_so_much_at_once(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containing, "MAX_CONTAINMENTS_PER_DOMAIN", 1)
    chain.must(CLINIC, CONTAIN, {"executor": chain.agent})
    full = chain.do(CLINIC, CONTAIN, {"executor": chain.nurse})
    assert (full.reason, full.thing) == (Reason.LIMIT_EXCEEDED, CLINIC)
    chain.must(BANK, CONTAIN, {"executor": chain.teller})
    chain.must(CLINIC, LIFT, {"executor": chain.agent})
    chain.must(CLINIC, CONTAIN, {"executor": chain.nurse})
    assert [chain.view.containment_count(each) for each in ("", BANK, CLINIC)] == [2, 1, 1]


@pytest.mark.parametrize(
    "body", [{}, {"executor": "spiffe://clinic.example/agent/claims", "lease": "0" * 32}, {"x": 1}]
)
@pytest.mark.parametrize("act", [CONTAIN, LIFT])
def test_one_thing_is_named(chain: Chain, act: str, body: dict[str, object]) -> None:
    assert chain.do(CLINIC, act, body).reason is Reason.MALFORMED_COMMAND


# -- what followers are told ---------------------------------------------------------------------


def test_an_entry_says_what_it_stopped_and_every_lease_below_relies_on_it(chain: Chain) -> None:
    def effect(outcome: Outcome) -> Any:
        return effect_of(outcome.index, chain.entries[outcome.index])

    stopped = effect(chain.must(CLINIC, CONTAIN, {"lease": chain.root.id}))
    assert (stopped.thing, stopped.reason) == (f"contained:{chain.root.id}", Reason.CONTAINED)
    for lease in chain.all:
        assert stopped.thing in things_of(lease, ORIGIN)
        assert is_stopped(chain.view, stopped.thing, lease)
        assert not stopped.spares(lease)
        assert len({*things_of(lease, ORIGIN)}) == len(things_of(lease, ORIGIN))
    assert effect(chain.must(BANK, CONTAIN, {"lease": chain.root.id})) is None, "it was so already"
    assert effect(chain.must(CLINIC, LIFT, {"lease": chain.root.id})) is None, "it stays so"
    good = effect(chain.must(BANK, LIFT, {"lease": chain.root.id}))
    assert (good.thing, good.reason) == (stopped.thing, None)
    assert not is_stopped(chain.view, stopped.thing, chain.root)
    who = effect(chain.must(CLINIC, CONTAIN, {"executor": chain.agent}))
    assert who.thing == f"contained:{chain.agent}"
    assert all(who.thing in things_of(lease, ORIGIN) for lease in chain.all)
    assert f"contained:{chain.nurse}" not in things_of(chain.child, ORIGIN)
    entry = codec.load(chain.entries[who.index])
    assert isinstance(entry, dict)
    with pytest.raises(MalformedError):
        effect_of(1, codec.encode({**entry, "executed": {"type": CONTAIN, "thing": "x"}}))


def test_an_explanation_shows_the_way_to_what_is_contained_and_who_can_end_it(
    chain: Chain,
) -> None:
    chain.must(CLINIC, CONTAIN, {"executor": chain.agent})
    held = chain.grandchild
    step = explain_lease(chain.view, held.id, held.executor, "", "", chain.now).decided
    assert step is not None
    assert [(thing.id, thing.note) for thing in step.things] == [
        (held.id, "came from the next"),
        (chain.child.id, "came from the next"),
        (chain.root.id, "rests on the next"),
        (chain.agent, f"contained by {CLINIC}"),
    ]
    assert step.things[-1].changed is not None
    assert step.remedy is not None
    command = f"quorate executor lift-containment {chain.agent}"
    assert (step.remedy.command, step.remedy.signer) == (command, CLINIC)
    chain.must(BANK, CONTAIN, {"lease": chain.child.id})
    chain.must(CLINIC, LIFT, {"executor": chain.agent})
    request = DecisionRequest(chain.nurse, "payments.read", OWN)
    told = explain(chain.view, request, chain.now, [held.id])
    assert told.decision == Deny(Reason.CONTAINED, chain.child.id)
    assert told.decided is not None
    assert [thing.id for thing in told.decided.things] == [held.id, held.id, chain.child.id]
    assert told.decided.remedy is not None
    command = f"quorate executor lift-containment --lease {chain.child.id}"
    assert (told.decided.remedy.command, told.decided.remedy.signer) == (command, BANK)


# -- earlier rules, and what is left of them -----------------------------------------------------


def test_the_first_version_knows_nothing_of_it() -> None:
    ledger = Ledger(Federation.build(version=protocol.FIRST))
    for act in (CONTAIN, LIFT):
        applied = ledger.run(CLINIC, act, {"lease": "0" * 32})
        assert applied.outcome.reason is Reason.MALFORMED_COMMAND


def unlisted(chain: Chain, *, version: int) -> StateView:
    """The same leases, as version 1 wrote them, under rules of a version."""
    store = copied(chain.store)
    for lease in chain.all:
        bare = replace(lease, ancestors=(), ancestor_executors=())
        store.put(keys.RECORDS[lease.kind] + lease.id.encode(), codec.encode(bare.to_json()))
    federation = replace(StateView(store).federation(), protocol=version)
    state.save_federation(store, federation)
    return StateView(store)


def test_a_lease_of_the_first_version_came_from_what_its_parents_did(chain: Chain) -> None:
    chain.must(CLINIC, CONTAIN, {"executor": chain.agent})
    view, held = unlisted(chain, version=protocol.SECOND), chain.grandchild
    bare = view.lease(held.id)
    assert bare is not None
    assert not bare.is_listed
    assert listed(view, bare) == held
    decision, _ = check_lease(view, held.id, held.executor, "", "", chain.now)
    assert decision == Deny(Reason.CONTAINED, chain.agent)
    new = containment.ancestry_of(view.lease, [held.id])
    assert isinstance(new, containment.Ancestry)
    assert new.leases == tuple(sorted(each.id for each in chain.all))


def test_one_that_came_from_too_much_to_say_is_denied_from_the_second_version_on(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containment, "MAX_ANCESTORS", 1)
    held = chain.grandchild
    for version, denied in ((1, None), (2, Deny(Reason.BROKEN_LINEAGE, held.id))):
        view = unlisted(chain, version=version)
        decision, _ = check_lease(view, held.id, held.executor, "", "", chain.now)
        assert decision == (denied or Permit(held.depends_on))
        bare = view.lease(held.id)
        assert bare is not None
        assert listed(view, bare) is bare


def test_a_parent_that_is_not_there_is_damage(chain: Chain) -> None:
    with pytest.raises(StorageDamagedError):
        containment.ancestry_of(lambda _: None, [chain.root.id])


def test_a_recovery_leaves_it_contained(chain: Chain) -> None:
    chain.must(CLINIC, CONTAIN, {"executor": chain.agent})
    chain.must(BANK, CONTAIN, {"lease": chain.root.id})
    carry_over(chain.store, recovery_of(chain, BANK, CLINIC))
    assert [(each.by, each.since, each.changed) for each in chain.view.containments()] == [
        ((BANK,), 0, 0),
        ((CLINIC,), 0, 0),
    ]
    assert check(chain.view) == []
    assert Vetting(chain.store).step(1_000_000)


# -- what another node sends ---------------------------------------------------------------------


def put(store: MemoryStore, record: Any) -> None:
    store.put(keys.RECORDS[record.kind] + record.id.encode(), codec.encode(record.to_json()))


def is_refused(store: MemoryStore) -> bool:
    try:
        return not Vetting(store).step(1_000_000)
    except MalformedError:
        return True


@pytest.mark.parametrize(
    "changes",
    [
        {"ancestors": ()},
        {"ancestors": None},
        {"ancestor_executors": ()},
        {"ancestors": ("0" * 32,)},
        {"ancestor_executors": ("spiffe://clinic.example/agent/claims",)},
        {"parents": ()},
    ],
)
def test_a_lease_that_says_less_or_more_than_it_came_from_is_refused(
    chain: Chain, changes: dict[str, Any]
) -> None:
    store, held = copied(chain.store), chain.grandchild
    if changes == {"ancestors": None}:
        changes = {"ancestors": (*held.ancestors, "f" * 32)}
    put(store, replace(held, **changes))
    assert is_refused(store)
    assert check(StateView(store)) != []


def test_a_first_version_lists_nothing(chain: Chain) -> None:
    store = copied(chain.store)
    assert not is_refused(store)
    state.save_federation(store, replace(chain.view.federation(), protocol=protocol.FIRST))
    with pytest.raises(MalformedError, match="says too much of where it is from"):
        Vetting(store).step(1_000_000)


def test_odd_containments_are_refused(chain: Chain) -> None:
    chain.must(CLINIC, CONTAIN, {"executor": chain.agent})
    chain.must(BANK, CONTAIN, {"lease": chain.root.id})
    record = chain.view.containment(chain.root.id)
    assert record is not None
    for odd in (
        replace(record, by=()),
        replace(record, by=(BANK, BANK)),
        replace(record, by=(CLINIC, BANK)),
        replace(record, by=("nobody.example",)),
        replace(record, thing="f" * 32),
        replace(record, thing="odd"),
        replace(record, thing=chain.clinic.executor("nobody")),
        replace(record, thing=chain.child.id, by=(CLINIC,)),
        replace(record, thing=chain.teller, by=(CLINIC,)),
    ):
        store = copied(chain.store)
        state.save_containment(store, replace(record, by=()), record)
        state.save_containment(store, replace(odd, by=odd.by or (BANK,)), None)
        if not odd.by:
            put(store, odd)
        assert is_refused(store), odd
    for key in (keys.containment_count(), keys.containment_count(BANK)):
        for count in (0, 3):
            store = copied(chain.store)
            store.put(key, keys.number(count))
            assert is_refused(store), (key, count)
            assert check(StateView(store)) != []
    state.save_federation(chain.store, replace(chain.view.federation(), protocol=1))
    assert is_refused(chain.store)


def test_what_was_counted_wrongly_is_damage(chain: Chain) -> None:
    chain.must(BANK, CONTAIN, {"lease": chain.root.id})
    record = chain.view.containment(chain.root.id)
    assert record is not None
    store = copied(chain.store)
    store.delete(keys.containment_count())
    with pytest.raises(StorageDamagedError):
        state.save_containment(store, replace(record, by=()), record)
