"""Grants that executors pass on: no more than they have, and nothing without what is behind."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from quorate.core import codec, keys, protocol, state
from quorate.core.decision import DecisionRequest, check_lease, decide
from quorate.core.effects import effect_of, is_stopped
from quorate.core.errors import MalformedError
from quorate.core.explaining import explain, explain_lease
from quorate.core.invariants import check
from quorate.core.limits import (
    MAX_DELEGATED_GRANTS_PER_EXECUTOR_AND_ISSUER,
    MAX_DELEGATIONS_PER_GRANT,
    MAX_DEPTH,
    MAX_GRANTS_FROM_ONE_DELEGATOR,
)
from quorate.core.outcome import Deny, Outcome, Permit, Reason
from quorate.core.records import Grant, Lease
from quorate.core.vetting import Vetting
from quorate.testing.builders import (
    CREATED_MS,
    Federation,
    Ledger,
    acquire_body,
    grant_body,
    narrow_body,
    trust_body,
)

OWNER, CLINIC, LAB = (f"{name}.example" for name in ("owner", "clinic", "lab"))
ALL = [f"//{OWNER}/*"]
BOOK = f"//{OWNER}/books/1"
LATEST = CREATED_MS + 86_400_000


def delegate_body(executor: str, grant: str, to: str, **changes: object) -> dict[str, object]:
    """The body of a `grant.delegate` of the books, for all else as `grant_body` has it."""
    body: dict[str, object] = {"executor": executor, "grant": grant, "to": to}
    body |= {"actions": ["books.*"], "resources": [f"//{OWNER}/books/*"]}
    body |= {"not_after": LATEST, "max_lease_ttl_ms": 60_000, "max_uses": 0, "max_concurrent": 0}
    return body | changes


class World:
    """The owner trusts clinic and lab. The clinic's head has a grant that may be passed on."""

    def __init__(self, version: int = protocol.LATEST, **grant: object) -> None:
        self.ledger = Ledger(Federation.build((OWNER, CLINIC, LAB), version=version))
        self.head, self.aide = (
            self.ledger.federation[CLINIC].executor(n) for n in ("head", "aide")
        )
        self.robot = self.ledger.federation[LAB].executor("robot")
        for domain, executor in ((CLINIC, self.head), (CLINIC, self.aide), (LAB, self.robot)):
            self.must(domain, "executor.register", {"executor": executor})
        self.must(OWNER, "trust.open", trust_body("clinic", CLINIC, ALL))
        self.must(OWNER, "trust.open", trust_body("lab", LAB, ALL))
        deep = {"max_depth": 2} if version >= protocol.SECOND else {}
        self.must(OWNER, "grant.issue", grant_body("root", self.head, ALL, **deep, **grant))
        self.root = f"{OWNER}/root"

    def run(self, issuer: str, kind: str, body: dict[str, object]) -> Any:
        return self.ledger.run(issuer, kind, body)

    def must(self, issuer: str, kind: str, body: dict[str, object]) -> Outcome:
        outcome: Outcome = self.run(issuer, kind, body).outcome
        assert outcome.accepted, outcome
        return outcome

    def node(self, domain: str) -> str:
        return self.ledger.federation[domain].node

    def home(self, executor: str) -> str:
        return CLINIC if CLINIC in executor else LAB

    def delegate(self, by: str, grant: str, to: str, **changes: object) -> Outcome:
        body = delegate_body(by, grant, to, **changes)
        outcome: Outcome = self.run(self.node(self.home(by)), "grant.delegate", body).outcome
        return outcome

    def delegated(self, by: str, grant: str, to: str, **changes: object) -> str:
        outcome = self.delegate(by, grant, to, **changes)
        assert outcome.accepted, outcome
        return outcome.thing

    def chain(self) -> tuple[str, str]:
        """From the head to the aide, and on to the lab's robot."""
        first = self.delegated(self.head, self.root, self.aide, max_depth=1)
        return first, self.delegated(self.aide, first, self.robot)

    def acquire(self, executor: str, resource: str = BOOK) -> Outcome:
        body = acquire_body(executor, "books.read", resource)
        outcome: Outcome = self.run(self.node(self.home(executor)), "lease.acquire", body).outcome
        return outcome

    def leased(self, executor: str) -> Lease:
        outcome = self.acquire(executor)
        assert outcome.accepted, outcome
        lease = self.ledger.view.lease(outcome.thing)
        assert lease is not None
        return lease

    def checked(self, lease: Lease) -> Deny | Permit:
        asked = lease.id, lease.executor, "", "", self.ledger.now
        decision, _ = check_lease(self.ledger.view, *asked)
        assert explain_lease(self.ledger.view, *asked).decision == decision
        return decision

    def grant(self, ident: str) -> Grant:
        grant = self.ledger.view.grant(*ident.split("/"))
        assert grant is not None
        return grant

    def is_well(self) -> bool:
        return check(self.ledger.view) == [] and Vetting(
            self.ledger.store, len(self.ledger.entries)
        ).step(1_000_000)


@pytest.fixture
def world() -> World:
    return World()


def test_a_lease_rests_on_all_that_is_behind_it(world: World) -> None:
    first, second = world.chain()
    lease = world.leased(world.robot)
    assert lease.grants == (second, first, world.root)
    assert set(lease.depends_on) == {
        *(f"domain:{domain}" for domain in (OWNER, CLINIC, LAB)),
        *(f"executor:{executor}" for executor in (world.robot, world.aide, world.head)),
        *(f"grant:{grant}" for grant in (second, first, world.root)),
        f"trust:{OWNER}/lab",
        f"trust:{OWNER}/clinic",
    }
    assert isinstance(world.checked(lease), Permit)
    assert [world.grant(each).uses for each in (second, first, world.root)] == [1, 1, 1]
    assert world.is_well()
    request = DecisionRequest(world.robot, "books.read", BOOK)
    decided = decide(world.ledger.view, request, world.ledger.now)
    assert decided == explain(world.ledger.view, request, world.ledger.now).decision
    assert isinstance(decided, Permit)
    assert decided.depends_on == lease.depends_on


def test_what_was_passed_on_is_for_no_more(world: World) -> None:
    world.chain()
    outside = world.acquire(world.robot, f"//{OWNER}/ledgers/1")
    assert (outside.reason, outside.thing) == (Reason.NO_GRANT, OWNER)


@pytest.mark.parametrize(
    ("limits", "changes", "thing"),
    [
        ({}, {"actions": ["*"]}, None),
        ({}, {"max_depth": 2}, "max_depth"),
        ({}, {"not_after": LATEST + 1}, "not_after"),
        ({}, {"max_lease_ttl_ms": 60_001}, "max_lease_ttl_ms"),
        ({"max_uses": 5}, {"max_uses": 0}, "max_uses"),
        ({"max_uses": 5}, {"max_uses": 6}, "max_uses"),
        ({"max_concurrent": 2}, {"max_concurrent": 3}, "max_concurrent"),
        ({"max_concurrent": 2}, {"max_concurrent": 0}, "max_concurrent"),
        ({"actions": ["books.read"]}, {}, "books.*"),
    ],
)
def test_nothing_widens(limits: dict[str, object], changes: dict[str, object], thing: str) -> None:
    world = World(**{"actions": ["books.*"]} | limits)
    said = world.delegate(world.head, world.root, world.aide, **changes)
    assert (said.reason, said.thing) == (Reason.WIDENS, thing or "*")
    assert world.is_well()


def test_a_grant_that_may_not_be_passed_on_is_not(world: World) -> None:
    world.must(OWNER, "grant.issue", grant_body("flat", world.aide, ALL))
    said = world.delegate(world.aide, f"{OWNER}/flat", world.robot)
    assert (said.reason, said.thing) == (Reason.WIDENS, "max_depth")
    _, second = world.chain()
    again = world.delegate(world.robot, second, world.head)
    assert (again.reason, again.thing) == (Reason.WIDENS, "max_depth")


def test_only_who_has_a_grant_passes_it_on(world: World) -> None:
    said = world.delegate(world.aide, world.root, world.robot)
    assert (said.reason, said.thing) == (Reason.NOT_AUTHORIZED, world.root)
    body = delegate_body(world.head, world.root, world.robot)
    other = world.run(world.node(LAB), "grant.delegate", body).outcome
    assert (other.reason, other.thing) == (Reason.NOT_AUTHORIZED, world.head)
    by_domain = world.run(CLINIC, "grant.delegate", body).outcome
    assert by_domain.reason is Reason.NOT_AUTHORIZED
    none = world.delegate(world.head, f"{OWNER}/nothing", world.aide)
    assert none.reason is Reason.NOT_FOUND
    itself = world.delegate(world.head, world.root, world.head)
    assert itself.reason is Reason.NOT_AUTHORIZED
    nobody = world.delegate(world.head, world.root, f"spiffe://{LAB}/agent/nobody")
    assert nobody.reason is Reason.UNKNOWN_EXECUTOR


ENDINGS: list[tuple[str, Any, Reason, Any]] = [
    ("root revoked", lambda w, g: (OWNER, "grant.revoke", {"grant": "root"}), Reason.GRANT_REVOKED,
     lambda w, g: w.root),
    ("root suspended", lambda w, g: (OWNER, "grant.suspend", {"grant": "root"}),
     Reason.GRANT_SUSPENDED, lambda w, g: w.root),
    ("link revoked by the owner",
     lambda w, g: (OWNER, "grant.revoke", {"grant": g[0].split("/")[1]}), Reason.GRANT_REVOKED,
     lambda w, g: g[0]),
    ("link recalled",
     lambda w, g: (w.node(CLINIC), "grant.recall", {"executor": w.head, "grant": g[0]}),
     Reason.GRANT_REVOKED, lambda w, g: g[0]),
    ("own recalled",
     lambda w, g: (w.node(CLINIC), "grant.recall", {"executor": w.aide, "grant": g[1]}),
     Reason.GRANT_REVOKED, lambda w, g: g[1]),
    ("delegator suspended", lambda w, g: (CLINIC, "executor.suspend", {"executor": w.aide}),
     Reason.EXECUTOR_SUSPENDED, lambda w, g: w.aide),
    ("first delegator revoked", lambda w, g: (CLINIC, "executor.revoke", {"executor": w.head}),
     Reason.EXECUTOR_REVOKED, lambda w, g: w.head),
    ("delegators' domain suspended", lambda w, g: (CLINIC, "domain.suspend", {"domain": CLINIC}),
     Reason.DOMAIN_SUSPENDED, lambda w, g: CLINIC),
    ("trust in the delegators closed", lambda w, g: (OWNER, "trust.close", {"edge": "clinic"}),
     Reason.NO_TRUST, lambda w, g: f"{OWNER}/clinic"),
    ("trust in the delegators narrowed",
     lambda w, g: (OWNER, "trust.narrow", narrow_body("clinic", [f"//{OWNER}/books/2"])),
     Reason.NO_TRUST, lambda w, g: f"{OWNER}/clinic"),
]  # fmt: skip


@pytest.mark.parametrize(("act", "reason", "thing"), [each[1:] for each in ENDINGS],
                         ids=[each[0] for each in ENDINGS])  # fmt: skip
def test_whatever_is_behind_it_ends_the_lease(act: Any, reason: Reason, thing: Any) -> None:
    world = World()
    grants = world.chain()
    lease = world.leased(world.robot)
    applied = world.run(*act(world, grants))
    assert applied.outcome.accepted, applied.outcome
    assert world.checked(lease) == Deny(reason, thing(world, grants))
    effect = effect_of(applied.outcome.index, applied.entry)
    assert effect is not None
    assert effect.thing in lease.depends_on
    assert not effect.spares(lease)
    assert is_stopped(world.ledger.view, effect.thing, lease)
    assert world.acquire(world.robot).reason is reason, "nor is there another"
    body = {"lease": lease.id, "executor": lease.executor, "ttl_ms": 0}
    assert world.run(world.node(LAB), "lease.renew", body).outcome.reason is reason
    assert world.is_well()


def test_uses_count_all_the_way_up() -> None:
    world = World(max_uses=3)
    first = world.delegated(world.head, world.root, world.aide, max_depth=1, max_uses=2)
    world.delegated(world.aide, first, world.robot, max_uses=2)
    world.leased(world.robot)
    world.leased(world.aide)
    spent = world.acquire(world.robot)
    assert (spent.reason, spent.thing) == (Reason.USES_EXHAUSTED, first)
    world.leased(world.head)
    assert world.acquire(world.head).reason is Reason.USES_EXHAUSTED
    assert world.is_well()


def test_leases_in_force_count_all_the_way_up() -> None:
    world = World(max_concurrent=2)
    first = world.delegated(world.head, world.root, world.aide, max_concurrent=2)
    one, two = world.leased(world.aide), world.leased(world.head)
    full = world.acquire(world.aide)
    assert (full.reason, full.thing) == (Reason.CONCURRENCY_LIMIT, world.root)
    body = {"lease": two.id, "executor": two.executor}
    world.must(world.node(CLINIC), "lease.release", body)
    three = world.leased(world.aide)
    assert world.acquire(world.head).reason is Reason.CONCURRENCY_LIMIT
    for lease in (one, three):
        released = {"lease": lease.id, "executor": lease.executor}
        world.must(world.node(CLINIC), "lease.release", released)
    assert world.ledger.view.leases_on_file(world.grant(first)) == (0, 0)
    assert world.ledger.view.leases_on_file(world.grant(world.root)) == (0, 0)
    assert world.is_well()


def test_expired_leases_leave_every_count() -> None:
    world = World(max_concurrent=1)
    world.delegated(world.head, world.root, world.aide, max_concurrent=1, max_lease_ttl_ms=10)
    for _ in range(3):
        world.leased(world.aide)
        world.ledger.now += 20
    assert world.is_well()
    world.leased(world.head)


def test_a_grant_ends_with_its_own_time(world: World) -> None:
    world.delegated(world.head, world.root, world.aide, not_after=world.ledger.now + 100)
    lease = world.leased(world.aide)
    assert lease.expires_at == world.ledger.now + 100
    world.ledger.now += 100
    assert world.acquire(world.aide).reason is Reason.GRANT_EXPIRED
    late = world.delegate(world.head, world.root, world.aide, not_after=world.ledger.now)
    assert late.reason is Reason.GRANT_EXPIRED


def test_what_was_passed_on_does_instead(world: World) -> None:
    """Of a direct grant that is over."""
    made = world.delegated(world.head, world.root, world.aide)
    world.must(OWNER, "grant.issue", grant_body("zz", world.aide, ALL))
    assert world.leased(world.aide).grants == (f"{OWNER}/zz",)
    world.must(OWNER, "grant.revoke", {"grant": "zz"})
    assert world.leased(world.aide).grants == (made, world.root)
    assert world.is_well()


def test_recalling_is_for_who_passed_it_on_and_final(world: World) -> None:
    first, second = world.chain()

    def recall(by: str, grant: str) -> Outcome:
        body = {"executor": by, "grant": grant}
        outcome: Outcome = world.run(world.node(world.home(by)), "grant.recall", body).outcome
        return outcome

    assert recall(world.robot, second).reason is Reason.NOT_AUTHORIZED
    assert recall(world.head, second).reason is Reason.NOT_AUTHORIZED, "the aide has passed it on"
    assert recall(world.head, world.root).reason is Reason.NOT_AUTHORIZED, "it was issued"
    assert recall(world.head, f"{OWNER}/nothing").reason is Reason.NOT_FOUND
    world.must(CLINIC, "domain.suspend", {"domain": CLINIC})
    assert recall(world.head, first).accepted, "to narrow is always possible"
    assert recall(world.head, first).reason is Reason.FINAL
    assert world.is_well()


def test_who_is_suspended_passes_nothing_on(world: World) -> None:
    world.must(CLINIC, "executor.suspend", {"executor": world.head})
    said = world.delegate(world.head, world.root, world.aide)
    assert said.reason is Reason.EXECUTOR_SUSPENDED
    world.must(CLINIC, "executor.reinstate", {"executor": world.head})
    first, _ = world.chain()
    world.must(OWNER, "grant.suspend", {"grant": "root"})
    said = world.delegate(world.aide, first, world.robot)
    assert (said.reason, said.thing) == (Reason.GRANT_SUSPENDED, world.root)


def test_others_cannot_fill_the_room_that_the_owner_has(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 2 * MAX_DELEGATED_GRANTS_PER_EXECUTOR_AND_ISSUER <= 256
    monkeypatch.setattr("quorate.core.delegating.MAX_DELEGATED_GRANTS_PER_EXECUTOR_AND_ISSUER", 3)
    soon = world.ledger.now + 50
    for _ in range(3):
        world.delegated(world.head, world.root, world.aide, not_after=soon)
    said = world.delegate(world.head, world.root, world.aide)
    assert (said.reason, said.thing) == (Reason.LIMIT_EXCEEDED, world.root)
    world.must(OWNER, "grant.issue", grant_body("own", world.aide, ALL))
    world.ledger.now = soon
    world.delegated(world.head, world.root, world.aide)
    assert world.is_well()


def test_a_grant_is_passed_on_so_often_and_no_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_DELEGATIONS_PER_GRANT == 1_000
    monkeypatch.setattr("quorate.core.delegating.MAX_DELEGATIONS_PER_GRANT", 2)
    for _ in range(2):
        world.delegated(world.head, world.root, world.aide)
    assert world.delegate(world.head, world.root, world.aide).reason is Reason.LIMIT_EXCEEDED
    assert world.grant(world.root).delegations == 2


def test_a_chain_is_as_long_as_its_depth() -> None:
    world = World()
    names = [f"x{n}" for n in range(MAX_DEPTH + 1)]
    executors = [world.ledger.federation[CLINIC].executor(name) for name in names]
    for executor in executors:
        world.must(CLINIC, "executor.register", {"executor": executor})
    deep = grant_body("deep", executors[0], ALL, max_depth=MAX_DEPTH)
    world.must(OWNER, "grant.issue", deep)
    grant = f"{OWNER}/deep"
    for left, (by, to) in enumerate(pairwise(executors), 1):
        depth = MAX_DEPTH - left
        grant = world.delegated(by, grant, to, **({"max_depth": depth} if depth else {}))
    lease = world.leased(executors[-1])
    assert len(lease.grants) == MAX_DEPTH + 1
    assert world.is_well()


def test_the_first_version_knows_no_delegation() -> None:
    world = World(protocol.FIRST)
    said = world.delegate(world.head, world.root, world.aide)
    assert (said.reason, said.thing) == (Reason.MALFORMED_COMMAND, "type")
    deep = world.run(OWNER, "grant.issue", grant_body("deep", world.head, ALL, max_depth=1)).outcome
    assert (deep.reason, deep.thing) == (Reason.MALFORMED_COMMAND, "body.max_depth")
    assert "max_depth" not in world.grant(world.root).to_json()


def test_a_chain_without_an_end_is_no_state(world: World) -> None:
    first, _ = world.chain()
    for odd in (
        replace(world.grant(first), parent=first),
        replace(world.grant(first), parent=f"{OWNER}/nothing"),
        replace(world.grant(first), max_depth=MAX_DEPTH + 1),
        replace(world.grant(first), max_depth=2),
    ):
        before = world.grant(first)
        state.save_grant(world.ledger.store, odd, world.ledger.now)
        with pytest.raises(MalformedError):
            Vetting(world.ledger.store).step(1_000_000)
        state.save_grant(world.ledger.store, before, world.ledger.now)
    assert world.is_well()


def test_an_acquisition_looks_at_each_thing_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many grants are tried: all nodes execute what one executor asks for."""
    monkeypatch.setattr("quorate.core.delegating.MAX_GRANTS_FROM_ONE_DELEGATOR", 32)
    world = World(max_uses=1)
    first = world.delegated(world.head, world.root, world.aide, max_depth=1, max_uses=1)
    for _ in range(MAX_DELEGATED_GRANTS_PER_EXECUTOR_AND_ISSUER):
        world.delegated(world.aide, first, world.robot, max_uses=1)
    world.leased(world.robot)
    read: list[str] = []
    find = type(world.ledger.view)._find

    def counting(self: Any, kind: Any, ident: str, parse: Any) -> Any:
        read.append(ident)
        return find(self, kind, ident, parse)

    monkeypatch.setattr(type(world.ledger.view), "_find", counting)
    assert world.acquire(world.robot).reason is Reason.USES_EXHAUSTED
    assert read.count(first) <= 2
    assert read.count(world.root) <= 2
    assert read.count(world.head) <= 1


def test_nobody_is_made_to_act_on_what_it_was_passed(world: World) -> None:
    world.must(OWNER, "grant.issue", grant_body("robots-own", world.robot, ALL))
    world.delegated(world.head, world.root, world.robot, max_lease_ttl_ms=1)
    assert world.leased(world.robot).grant == f"{OWNER}/robots-own"


def test_what_was_passed_on_first_is_used_first(world: World) -> None:
    first = world.delegated(world.head, world.root, world.robot)
    for _ in range(5):
        world.delegated(world.head, world.root, world.robot, max_lease_ttl_ms=1)
        assert world.leased(world.robot).grant == first


def test_what_was_passed_on_first_is_used_first_when_it_is_good_again(world: World) -> None:
    first = world.delegated(world.head, world.root, world.robot)
    world.delegated(world.head, world.root, world.robot)
    for act in ("suspend", "reinstate"):
        world.must(OWNER, f"grant.{act}", {"grant": first.partition("/")[2]})
    assert world.leased(world.robot).grant == first


def test_one_executor_does_not_fill_the_room_of_another(world: World) -> None:
    good = world.ledger.federation[CLINIC].executor("good")
    world.must(CLINIC, "executor.register", {"executor": good})
    world.must(OWNER, "grant.issue", grant_body("good", good, ALL, max_depth=2))
    for _ in range(MAX_GRANTS_FROM_ONE_DELEGATOR):
        world.delegated(world.head, world.root, world.robot)
    full = world.delegate(world.head, world.root, world.robot)
    assert full.reason is Reason.LIMIT_EXCEEDED
    world.delegated(good, f"{OWNER}/good", world.robot)
    world.must(OWNER, "grant.issue", grant_body("other", world.head, ALL, max_depth=2))
    again = world.delegate(world.head, f"{OWNER}/other", world.robot)
    assert again.reason is Reason.LIMIT_EXCEEDED
    world.must(OWNER, "grant.revoke", {"grant": "root"})
    world.delegated(world.head, f"{OWNER}/other", world.robot)
    assert world.is_well()


def test_a_lease_that_names_more_grants_than_a_chain_has_is_none(world: World) -> None:
    """Each of them would have to be looked at, for every such lease of a state that is sent."""
    world.chain()
    lease = world.leased(world.robot)
    names = [f"more-{number}" for number in range(MAX_DEPTH + 2 - len(lease.grants))]
    for name in names:
        world.must(OWNER, "grant.issue", grant_body(name, world.robot, ALL))
    more = (f"grant:{OWNER}/{name}" for name in names)
    odd = replace(lease, depends_on=(*lease.depends_on, *more))
    key = keys.record(odd.kind, odd.id)
    assert key is not None
    world.ledger.store.put(key, codec.encode(odd.to_json()))
    with pytest.raises(MalformedError, match="too many grants"):
        Vetting(world.ledger.store, len(world.ledger.entries)).step(1_000_000)
