"""How many commands are executed in a minute, and what is never counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.core.conftest import BANK, CLINIC, PERMIT_ALL, World, copied

from quorate.core import codec, keys, protocol
from quorate.core.errors import MalformedError
from quorate.core.invariants import check
from quorate.core.limits import MAX_RATE_PER_MIN
from quorate.core.outcome import Deny, Outcome, Reason
from quorate.core.rates import COUNTED, COUNTED_IN_PLACE
from quorate.core.records import Rates
from quorate.core.state import StateView
from quorate.core.transitions import examine
from quorate.core.verbs import Verb
from quorate.core.vetting import Vetting
from quorate.node.lease_commands import unfit_wish
from quorate.testing.builders import (
    Federation,
    Ledger,
    acquire_body,
    grant_body,
    measurement_body,
    proposal_body,
)

ACT = "federation.set_rates"


def agree(world: World, domain: int = 0, executor: int = 0) -> Outcome:
    return world.agree(ACT, {"domain_per_min": domain, "executor_per_min": executor})


def acquired(world: World, times: int = 1) -> list[bool]:
    outcomes = [world.acquire() for _ in range(times)]
    assert {each.reason for each in outcomes if not each.accepted} <= {Reason.RATE_LIMITED}
    return [each.accepted for each in outcomes]


def is_well(world: Ledger) -> bool:
    return check(world.view) == [] and Vetting(world.store).step(1_000_000)


def test_without_rates_there_is_no_limit(trusted: World) -> None:
    assert trusted.view.federation().rates is None
    assert all(acquired(trusted, 50))
    assert not list(trusted.store.scan(keys.RATES))


def test_an_executor_has_its_minutes_worth_and_then_what_grows_back(trusted: World) -> None:
    agree(trusted, executor=6)
    assert trusted.view.federation().rates == Rates(0, 6)
    trusted.now += 60_000
    assert acquired(trusted, 8) == [True] * 6 + [False] * 2
    said = trusted.acquire()
    assert (said.reason, said.thing) == (Reason.RATE_LIMITED, trusted.agent)
    trusted.now += 9_999
    assert acquired(trusted) == [False]
    trusted.now += 1
    assert acquired(trusted, 2) == [True, False]
    trusted.now += 10 * 60_000
    assert acquired(trusted, 7) == [True] * 6 + [False], "nobody saves more up"
    assert is_well(trusted)


def test_a_domain_counts_by_itself_and_its_nodes_by_themselves(trusted: World) -> None:
    agree(trusted, domain=4)
    trusted.now += 60_000
    assert acquired(trusted, 5) == [True] * 4 + [False]
    said = trusted.acquire()
    assert (said.reason, said.thing) == (Reason.RATE_LIMITED, CLINIC)
    names = [trusted.clinic.executor(f"e{number}") for number in range(5)]
    told = [trusted.do(CLINIC, "executor.register", {"executor": each}) for each in names]
    assert [each.accepted for each in told] == [True] * 4 + [False]
    assert (told[-1].reason, told[-1].thing) == (Reason.RATE_LIMITED, CLINIC)
    bank = grant_body("more", trusted.agent, ["//bank.example/x"])
    assert trusted.do(BANK, "grant.issue", bank).accepted, "nobody else has used anything up"
    assert is_well(trusted)


def test_what_narrows_and_ballots_are_never_refused(trusted: World) -> None:
    agree(trusted, domain=1, executor=1)
    trusted.now += 60_000
    held = trusted.acquire().result
    assert acquired(trusted) == [False]
    trusted.must(BANK, "trust.open", {**_edge(), "edge": "one-more"})
    assert not trusted.do(BANK, "trust.open", {**_edge(), "edge": "and-one"}).accepted
    for issuer, verb, body in (
        (CLINIC, "executor.suspend", {"executor": trusted.agent}),
        (BANK, "grant.suspend", {"grant": "grant"}),
        (BANK, "grant.revoke", {"grant": "grant"}),
        (BANK, "trust.close", {"edge": "edge"}),
        (BANK, "resources.freeze", {"actions": []}),
        (BANK, "domain.suspend", {"domain": BANK}),
        (BANK, "domain.reinstate", {"domain": BANK}),
    ):
        trusted.must(issuer, verb, body)
    released = trusted.lease_act("release", str(held["id"]))
    assert released.accepted


def _edge() -> dict[str, object]:
    return {"trustee": CLINIC, "actions": ["x"], "resources": ["//bank.example/x"]}


def test_what_takes_the_place_of_something_counts_and_the_first_does_not(trusted: World) -> None:
    agree(trusted, domain=2)
    trusted.now += 60_000
    first, second = f"{PERMIT_ALL} // 1", f"{PERMIT_ALL} // 2"
    image, other = (
        ("attestation.set_reference", measurement_body(name, [trusted.agent]))
        for name in ("image", "other")
    )
    wider = (image[0], image[1] | {"max_age_ms": 120_000})
    trusted.must(CLINIC, "policy.publish", {"text": first})
    trusted.must(CLINIC, *image)
    assert not list(trusted.store.scan(keys.RATES)), "the first can only narrow"
    trusted.must(CLINIC, "policy.publish", {"text": second})
    trusted.must(CLINIC, *wider)
    assert list(trusted.store.scan(keys.RATES))
    for kind, body in (image, ("policy.publish", {"text": first}), ("policy.retire", {})):
        said = trusted.do(CLINIC, kind, body)
        assert (said.reason, said.thing) == (Reason.RATE_LIMITED, CLINIC)
        command = trusted.federation.command(CLINIC, kind, body)
        assert examine(trusted.view, command, trusted.now) == Deny(Reason.RATE_LIMITED, CLINIC)
    trusted.must(CLINIC, *other)
    trusted.must(BANK, "policy.publish", {"text": first})
    trusted.now += 60_000
    trusted.must(CLINIC, "policy.retire", {})
    trusted.must(CLINIC, *image)
    trusted.must(CLINIC, "policy.publish", {"text": first})
    assert trusted.do(CLINIC, "policy.publish", {"text": second}).reason is Reason.RATE_LIMITED
    assert is_well(trusted)


def test_the_federation_can_always_agree_on_another_rate(trusted: World) -> None:
    opened = trusted.must(
        BANK, "proposal.open", proposal_body("federation.freeze", {"actions": []})
    )
    agree(trusted, domain=1)
    trusted.now += 60_000
    body = {"domain_per_min": 0, "executor_per_min": 0}
    another = trusted.must(BANK, "proposal.open", proposal_body(ACT, body))
    for each in (opened, another):
        ballot = {"proposal": str(each.result["id"]), "choice": "yes"}
        assert trusted.must(CLINIC, "ballot.cast", ballot).result["status"] == "executed"
    assert trusted.view.federation().rates is None
    assert "rates" not in trusted.view.federation().to_json()


def test_counted_is_what_the_page_says() -> None:
    page = (Path(__file__).parents[3] / "docs/ballots.md").read_text().partition("## Rates")[2]
    always, in_place = page.split("\n\n")[2], page.split("\n\n")[3].partition(":\n")[2]
    for listed, verbs in ((always, COUNTED), (in_place, COUNTED_IN_PLACE)):
        said = listed.replace("\n", " ").split(",")
        assert sorted(each.strip("`. ") for each in said) == sorted(verbs)
    assert not COUNTED & COUNTED_IN_PLACE
    never = ("suspend", "revoke", "close", "narrow", "freeze", "node.retire", "demote", "cast")
    assert not [verb for verb in COUNTED if verb.endswith((*never, "release", "recall"))]
    assert {Verb.LEASE_ACQUIRE, Verb.GRANT_ISSUE} <= COUNTED


def test_it_counts_when_it_is_executed_whatever_comes_of_it(trusted: World) -> None:
    agree(trusted, executor=3)
    trusted.now += 60_000
    for _ in range(3):
        body = acquire_body(trusted.agent, "payments.read", "//bank.example/elsewhere", 0)
        said = trusted.do(trusted.clinic.node, "lease.acquire", body)
        assert said.reason is Reason.NO_GRANT
    assert acquired(trusted) == [False]


def test_nobody_uses_up_what_is_anothers(trusted: World) -> None:
    """Nor makes the state keep a moment of somebody whom there is not."""
    agree(trusted, executor=1)
    trusted.now += 60_000
    body = acquire_body(trusted.agent, "payments.read", "//bank.example/accounts/7", 0)
    for issuer in (trusted.bank.node, CLINIC, BANK):
        assert trusted.do(issuer, "lease.acquire", body).reason is Reason.NOT_AUTHORIZED
    stranger = acquire_body(trusted.clinic.executor("stranger"), "x", "//bank.example/x", 0)
    for _ in range(3):
        said = trusted.do(trusted.clinic.node, "lease.acquire", stranger)
        assert said.reason is Reason.UNKNOWN_EXECUTOR
    assert not list(trusted.store.scan(keys.RATES))
    assert acquired(trusted, 2) == [True, False]
    assert is_well(trusted)


def test_a_repeat_counts_for_nothing_and_gets_its_first_outcome(trusted: World) -> None:
    agree(trusted, executor=1)
    trusted.now += 60_000
    body = acquire_body(trusted.agent, "payments.read", "//bank.example/accounts/7", 0)
    command = trusted.federation.command(trusted.clinic.node, "lease.acquire", body)
    first = trusted.apply(command).outcome
    again = trusted.apply(command).outcome
    assert (first.accepted, again.accepted, again.duplicate) == (True, True, True)


def test_what_was_refused_may_be_asked_for_again_as_it_is(trusted: World) -> None:
    agree(trusted, executor=1)
    trusted.now += 60_000
    assert acquired(trusted) == [True]
    body = acquire_body(trusted.agent, "payments.read", "//bank.example/accounts/7", 0)
    command = trusted.federation.command(trusted.clinic.node, "lease.acquire", body)
    assert trusted.apply(command).outcome.reason is Reason.RATE_LIMITED
    trusted.now += 60_000
    assert trusted.apply(command).outcome.accepted


def test_nodes_refuse_it_before_it_is_proposed(trusted: World) -> None:
    agree(trusted, domain=1, executor=1)
    trusted.now += 60_000
    body = acquire_body(trusted.agent, "payments.read", "//bank.example/accounts/7", 0)
    assert unfit_wish(trusted.view, "lease.acquire", body, trusted.now) is None
    assert acquired(trusted) == [True]
    refused = Deny(Reason.RATE_LIMITED, trusted.agent)
    assert unfit_wish(trusted.view, "lease.acquire", body, trusted.now) == refused
    assert unfit_wish(trusted.view, "lease.acquire", body, trusted.now + 60_000) is None
    held = {"executor": trusted.agent, "lease": "0" * 32}
    told = unfit_wish(trusted.view, "lease.release", held, trusted.now)
    assert told is not None
    assert told.reason is Reason.UNKNOWN_LEASE
    trusted.must(CLINIC, "executor.register", {"executor": trusted.clinic.executor("x")})
    more = {"executor": trusted.clinic.executor("y")}
    command = trusted.federation.command(CLINIC, "executor.register", more)
    assert examine(trusted.view, command, trusted.now) == Deny(Reason.RATE_LIMITED, CLINIC)
    assert examine(trusted.view, command, trusted.now + 60_000) is None


@settings(max_examples=100, deadline=None)
@given(
    rate=st.sampled_from([1, 2, 7, 60, 1_000]),
    gaps=st.lists(st.integers(0, 30_000), min_size=1, max_size=40),
)
def test_in_no_stretch_of_time_are_there_more(rate: int, gaps: list[int]) -> None:
    world = World()
    world.must(CLINIC, "executor.register", {"executor": world.agent})
    agree(world, executor=rate)
    executed = []
    for gap in gaps:
        world.now += gap
        if world.acquire().reason is not Reason.RATE_LIMITED:
            executed.append(world.now)
    for place, begin in enumerate(executed):
        for count, end in enumerate(executed[place:], start=1):
            assert count <= rate + (end - begin) * rate / 60_000 + 1e-3


# -- states of others ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rates",
    [
        None,
        {},
        {"domain_per_min": 0, "executor_per_min": 0},
        {"domain_per_min": MAX_RATE_PER_MIN + 1, "executor_per_min": 0},
        {"domain_per_min": 1, "executor_per_min": 0, "more": 1},
        {"domain_per_min": -1, "executor_per_min": 1},
    ],
)
def test_rates_that_no_ballot_has_made_are_no_state(trusted: World, rates: Any) -> None:
    store = copied(trusted.store)
    said = json.loads(store.get(keys.FEDERATION) or b"")
    store.put(keys.FEDERATION, codec.encode(said | {"rates": rates}))
    with pytest.raises(MalformedError):
        Vetting(store).step(1_000_000)


def test_a_moment_is_of_somebody_and_not_far_ahead(trusted: World) -> None:
    agree(trusted, domain=2, executor=2)
    trusted.now += 60_000
    assert acquired(trusted, 2) == [True, True]
    kept = [key for key, _ in trusted.store.scan(keys.RATES)]
    assert keys.rate(keys.RATE_OF_EXECUTOR, trusted.agent) in kept
    assert keys.rate(keys.RATE_OF_NODES, CLINIC) in kept
    latest = StateView(trusted.store).ledger_time() * 1_000 + 60_000_000
    for key, value in (
        (keys.rate(keys.RATE_OF_DOMAIN, "nobody.example"), keys.number(1)),
        (keys.rate(keys.RATE_OF_EXECUTOR, CLINIC), keys.number(1)),
        (keys.rate(b"x", CLINIC), keys.number(1)),
        (keys.rate(keys.RATE_OF_DOMAIN, CLINIC), keys.number(latest + 1)),
        (keys.rate(keys.RATE_OF_DOMAIN, CLINIC), b"1"),
    ):
        store = copied(trusted.store)
        store.put(key, value)
        with pytest.raises(MalformedError):
            Vetting(store).step(1_000_000)
    store = copied(trusted.store)
    store.put(keys.rate(keys.RATE_OF_DOMAIN, CLINIC), keys.number(latest))
    assert Vetting(store).step(1_000_000)


def test_the_first_version_knows_nothing_of_it() -> None:
    ledger = Ledger(Federation.build((BANK, CLINIC), version=protocol.FIRST))
    body = {"domain_per_min": 1, "executor_per_min": 1}
    for verb, said, field in (
        (ACT, body, "type"),
        ("proposal.open", proposal_body(ACT, body), "body.act"),
    ):
        outcome = ledger.run(BANK, verb, said).outcome
        assert (outcome.reason, outcome.thing) == (Reason.MALFORMED_COMMAND, field)
    ledger.store.put(keys.rate(keys.RATE_OF_DOMAIN, BANK), keys.number(1))
    with pytest.raises(MalformedError, match="a rate of nothing"):
        Vetting(ledger.store).step(1_000_000)
