"""Trust that is passed on: what a lease over several edges rests on, and what ends it."""

from __future__ import annotations

import pytest

from quorate.core import protocol
from quorate.core.decision import DecisionRequest, check_lease, decide
from quorate.core.effects import effect_of, is_stopped
from quorate.core.explaining import explain, explain_lease
from quorate.core.explanation import Question
from quorate.core.invariants import check
from quorate.core.limits import MAX_DEPTH
from quorate.core.outcome import Deny, Outcome, Permit, Reason
from quorate.core.records import Lease
from quorate.core.vetting import Vetting
from quorate.testing.builders import (
    Federation,
    Ledger,
    acquire_body,
    grant_body,
    narrow_body,
    trust_body,
)

OWNER, BROKER, CLINIC, OTHER = (
    f"{name}.example" for name in ("owner", "broker", "clinic", "other")
)
BOOKS = f"//{OWNER}/books/1"
ALL = [f"//{OWNER}/*"]


def new_ledger(version: int = protocol.LATEST) -> Ledger:
    """The owner lets the broker pass its trust on by one edge; the clinic's agent has a grant."""
    ledger = Ledger(Federation.build((OWNER, BROKER, CLINIC, OTHER), version=version))
    agent = ledger.federation[CLINIC].executor("agent")
    must(ledger, CLINIC, "executor.register", {"executor": agent})
    must(ledger, OWNER, "grant.issue", grant_body("g", agent, ALL))
    if version >= protocol.SECOND:
        must(ledger, OWNER, "trust.open", trust_body("in", BROKER, ALL, max_depth=1))
    return ledger


@pytest.fixture
def ledger() -> Ledger:
    """And the broker passes it on to the clinic."""
    ledger = new_ledger()
    must(ledger, BROKER, "trust.open", trust_body("on", CLINIC, [f"//{OWNER}/books/*"]))
    return ledger


def must(ledger: Ledger, issuer: str, kind: str, body: dict[str, object]) -> Outcome:
    outcome = ledger.run(issuer, kind, body).outcome
    assert outcome.accepted, outcome
    return outcome


def acquire(ledger: Ledger, resource: str = BOOKS) -> Outcome:
    clinic = ledger.federation[CLINIC]
    body = acquire_body(clinic.executor("agent"), "books.read", resource)
    return ledger.run(clinic.node, "lease.acquire", body).outcome


def leased(ledger: Ledger) -> Lease:
    outcome = acquire(ledger)
    assert outcome.accepted, outcome
    lease = ledger.view.lease(outcome.thing)
    assert lease is not None
    return lease


def checked(ledger: Ledger, lease: Lease) -> Deny | Permit:
    decision, _ = check_lease(ledger.view, lease.id, lease.executor, "", "", ledger.now)
    return decision


def is_well(ledger: Ledger) -> bool:
    return check(ledger.view) == [] and Vetting(ledger.store).step(1_000_000)


def test_trust_is_passed_on_within_what_both_edges_are_for(ledger: Ledger) -> None:
    lease = leased(ledger)
    assert lease.edges == (f"{OWNER}/in", f"{BROKER}/on")
    assert f"domain:{BROKER}" in lease.depends_on
    assert lease.to_json()["passed_on"] == [f"{BROKER}/on"]
    assert isinstance(checked(ledger, lease), Permit)
    outside = acquire(ledger, f"//{OWNER}/ledgers/1")
    assert (outside.reason, outside.thing) == (Reason.NO_TRUST, OWNER), "the second is for books"
    assert is_well(ledger)


def test_an_edge_for_anothers_resources_is_worth_what_its_owner_lets_through() -> None:
    ledger = Ledger(Federation.build((OWNER, BROKER, CLINIC)))
    agent = ledger.federation[CLINIC].executor("agent")
    must(ledger, CLINIC, "executor.register", {"executor": agent})
    must(ledger, OWNER, "grant.issue", grant_body("g", agent, ALL))
    must(ledger, BROKER, "trust.open", trust_body("on", CLINIC, ALL, max_depth=MAX_DEPTH))
    assert acquire(ledger).reason is Reason.NO_TRUST, "the owner trusts nobody"
    must(ledger, OWNER, "trust.open", trust_body("in", BROKER, ALL))
    assert acquire(ledger).reason is Reason.NO_TRUST, "the owner's trust is not to be passed on"
    assert is_well(ledger)


def test_a_grant_is_still_the_owners(ledger: Ledger) -> None:
    must(ledger, OWNER, "grant.revoke", {"grant": "g"})
    assert acquire(ledger).reason is Reason.GRANT_REVOKED
    foreign = ledger.run(BROKER, "grant.issue", grant_body("x", "spiffe://a/b", ALL)).outcome
    assert foreign.reason is Reason.NOT_AUTHORIZED


@pytest.mark.parametrize(
    ("issuer", "kind", "body", "reason", "thing"),
    [
        (OWNER, "trust.close", {"edge": "in"}, Reason.NO_TRUST, f"{OWNER}/in"),
        (BROKER, "trust.close", {"edge": "on"}, Reason.NO_TRUST, f"{BROKER}/on"),
        (
            BROKER,
            "trust.narrow",
            narrow_body("on", [f"//{OWNER}/books/2"]),
            Reason.NO_TRUST,
            f"{BROKER}/on",
        ),
        (BROKER, "domain.suspend", {"domain": BROKER}, Reason.DOMAIN_SUSPENDED, BROKER),
    ],
)
def test_whatever_the_route_passes_ends_the_lease(  # noqa: PLR0917
    ledger: Ledger, issuer: str, kind: str, body: dict[str, object], reason: Reason, thing: str
) -> None:
    lease = leased(ledger)
    applied = ledger.run(issuer, kind, body)
    assert applied.outcome.accepted
    assert checked(ledger, lease) == Deny(reason, thing)
    assert not acquire(ledger).accepted
    assert applied.entry is not None
    effect = effect_of(applied.outcome.index, applied.entry)
    assert effect is not None
    assert effect.thing in lease.depends_on, "whoever follows the ledger learns of it"
    assert not effect.spares(lease)
    assert is_stopped(ledger.view, effect.thing, lease)
    assert is_well(ledger)


def test_a_narrowing_that_leaves_the_lease_in_spares_it(ledger: Ledger) -> None:
    lease = leased(ledger)
    applied = ledger.run(BROKER, "trust.narrow", narrow_body("on", [f"//{OWNER}/books/1"]))
    assert applied.outcome.accepted
    assert applied.entry is not None
    effect = effect_of(applied.outcome.index, applied.entry)
    assert effect is not None
    assert effect.spares(lease)
    assert isinstance(checked(ledger, lease), Permit)


def test_another_route_does_not_save_a_lease(ledger: Ledger) -> None:
    lease = leased(ledger)
    must(ledger, OWNER, "trust.open", trust_body("direct", CLINIC, ALL))
    must(ledger, BROKER, "trust.close", {"edge": "on"})
    assert checked(ledger, lease) == Deny(Reason.NO_TRUST, f"{BROKER}/on")
    again = leased(ledger)
    assert again.edges == (f"{OWNER}/direct",)
    assert "passed_on" not in again.to_json(), "as one of the first version"


def test_the_shortest_way_is_taken(ledger: Ledger) -> None:
    must(ledger, OWNER, "trust.open", trust_body("zz", CLINIC, ALL))
    assert leased(ledger).edges == (f"{OWNER}/zz",)


def test_trust_goes_as_far_as_its_first_edge_lets_it() -> None:
    ledger = new_ledger()
    must(ledger, BROKER, "trust.open", trust_body("over", OTHER, ALL, max_depth=MAX_DEPTH))
    must(ledger, OTHER, "trust.open", trust_body("to", CLINIC, ALL))
    assert acquire(ledger).reason is Reason.NO_TRUST, "two edges follow, and one may"
    must(ledger, OWNER, "trust.open", trust_body("far", BROKER, ALL, max_depth=2))
    assert leased(ledger).edges == (f"{OWNER}/far", f"{BROKER}/over", f"{OTHER}/to")


def test_the_first_version_passes_nothing_on() -> None:
    ledger = new_ledger(protocol.FIRST)
    said = ledger.run(BROKER, "trust.open", trust_body("on", CLINIC, ALL)).outcome
    assert said.reason is Reason.NOT_AUTHORIZED
    said = ledger.run(OWNER, "trust.open", trust_body("in", BROKER, ALL, max_depth=1)).outcome
    assert said.reason is Reason.MALFORMED_COMMAND


@pytest.mark.parametrize("depth", [0, -1, MAX_DEPTH + 1, "1", None, True])
def test_odd_depths_are_malformed(ledger: Ledger, depth: object) -> None:
    body = trust_body("odd", BROKER, ALL, max_depth=depth)
    said = ledger.run(OWNER, "trust.open", body).outcome
    assert (said.reason, said.thing) == (Reason.MALFORMED_COMMAND, "body.max_depth")


def test_deciding_without_a_lease_says_the_same(ledger: Ledger) -> None:
    agent = ledger.federation[CLINIC].executor("agent")
    decided = decide(ledger.view, DecisionRequest(agent, "books.read", BOOKS), ledger.now)
    assert isinstance(decided, Permit)
    assert set(decided.depends_on) == set(leased(ledger).depends_on)


def test_explanations_tell_the_route_and_what_broke_it(ledger: Ledger) -> None:
    lease = leased(ledger)
    agent = ledger.federation[CLINIC].executor("agent")
    told = explain(ledger.view, DecisionRequest(agent, "books.read", BOOKS), ledger.now)
    assert told.decision == decide(
        ledger.view, DecisionRequest(agent, "books.read", BOOKS), ledger.now
    )
    (trust,) = (step for step in told.steps if step.question is Question.TRUST)
    assert [thing.id for thing in trust.things] == [f"{OWNER}/in", f"{BROKER}/on"]
    must(ledger, BROKER, "domain.suspend", {"domain": BROKER})
    told = explain_lease(ledger.view, lease.id, agent, "", "", ledger.now)
    assert told.decision == checked(ledger, lease) == Deny(Reason.DOMAIN_SUSPENDED, BROKER)
    decided = told.decided
    assert decided is not None
    assert (decided.question, decided.things[-1].id) == (Question.TRUST, BROKER)
    assert decided.remedy is not None
    assert decided.remedy.signer == BROKER
