"""The federation's parameters: changed by ballot, and what is never forgotten of former ones."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.core.conftest import BANK, CLINIC, World, copied

from quorate.core import codec, keys, protocol
from quorate.core.effects import effect_of
from quorate.core.errors import MalformedError
from quorate.core.invariants import check
from quorate.core.outcome import Deny, Outcome, Reason
from quorate.core.records import Parameters
from quorate.core.state import StateView
from quorate.core.store import MemoryStore
from quorate.core.succession import Succession
from quorate.core.transitions import examine
from quorate.core.vetting import Vetting
from quorate.testing.builders import Federation, Ledger, ballot_body, proposal_body

ACT = "federation.set_parameters"
FIRST = Parameters(2_000, 1_000, 10_000, 5_000)


def body_of(**changes: int) -> dict[str, object]:
    return {"parameters": FIRST.to_json() | changes}


def change(world: World, **changes: int) -> Outcome:
    return world.agree(ACT, body_of(**changes))


def federation_of(ledger: Ledger) -> Any:
    return ledger.view.federation()


def is_well(store: MemoryStore) -> bool:
    return check(StateView(store)) == [] and Vetting(store).step(1_000_000)


def test_they_are_those_of_the_genesis_at_first(trusted: World) -> None:
    said = federation_of(trusted)
    assert (said.parameters, said.widest, said.bounding) == (FIRST, None, FIRST)
    assert "widest" not in said.to_json()


def test_enough_ballots_change_them(trusted: World) -> None:
    done = change(trusted, authority_period_ms=5_000, max_skew_ms=60_000)
    assert done.result["status"] == "executed"
    assert done.result["executed"] == {"type": ACT, "thing": trusted.federation.origin}
    said = federation_of(trusted)
    assert said.parameters == Parameters(5_000, 1_000, 10_000, 60_000)
    assert said.widest is None, "none was ever larger than those in force"
    assert said.ledger_time == trusted.now
    assert is_well(trusted.store)


def test_the_largest_that_was_ever_in_force_is_kept_of_each(trusted: World) -> None:
    for period, permit, rho in ((5_000, 400, 0), (1_000, 900, 20_000), (3_000, 100, 1)):
        change(trusted, authority_period_ms=period, max_permit_ttl_ms=permit, rho_ppm=rho)
        assert is_well(trusted.store)
    said = federation_of(trusted)
    assert said.parameters == Parameters(3_000, 100, 1, 5_000)
    assert said.bounding == said.widest == Parameters(5_000, 1_000, 20_000, 5_000)
    assert type(said).from_json(said.to_json()) == said


def test_no_domain_does_it_alone(trusted: World) -> None:
    said = trusted.do(BANK, ACT, body_of(rho_ppm=0))
    assert (said.reason, said.thing) == (Reason.NEEDS_BALLOT, ACT)


def test_what_they_are_already_is_no_change(trusted: World) -> None:
    said = trusted.do(BANK, "proposal.open", proposal_body(ACT, body_of()))
    assert (said.reason, said.thing) == (Reason.ILLEGAL_TRANSITION, ACT)


def test_of_two_proposals_one_is_done(trusted: World) -> None:
    """Whoever agreed to the second did not agree to it on top of the first."""
    opened = [
        str(trusted.must(BANK, "proposal.open", proposal_body(ACT, body_of(**each))).result["id"])
        for each in ({"authority_period_ms": 5_000}, {"rho_ppm": 0})
    ]
    first, second = (trusted.must(CLINIC, "ballot.cast", ballot_body(each)) for each in opened)
    assert first.result["status"] == "executed"
    assert (second.result["status"], second.result["reason"]) == ("failed", "SUPERSEDED")
    assert federation_of(trusted).parameters.rho_ppm == FIRST.rho_ppm


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"authority_period_ms": 99}, "authority_period_ms"),
        ({"authority_period_ms": 60_001}, "authority_period_ms"),
        ({"max_permit_ttl_ms": 2_001}, "max_permit_ttl_ms"),
        ({"max_permit_ttl_ms": 0}, "max_permit_ttl_ms"),
        ({"rho_ppm": 100_001}, "rho_ppm"),
        ({"rho_ppm": "1"}, "rho_ppm"),
        ({"max_skew_ms": 0}, "max_skew_ms"),
        ({"more": 1}, "more"),
    ],
)
def test_nobody_agrees_on_what_none_can_be(
    trusted: World, changes: dict[str, Any], field: str
) -> None:
    said = trusted.do(BANK, "proposal.open", proposal_body(ACT, body_of(**changes)))
    place = f"body.body.parameters.{field}"
    assert (said.reason, said.thing) == (Reason.MALFORMED_COMMAND, place)


def test_all_of_them_are_said(trusted: World) -> None:
    body = {"parameters": {"authority_period_ms": 5_000}}
    said = trusted.do(BANK, "proposal.open", proposal_body(ACT, body))
    assert said.reason is Reason.MALFORMED_COMMAND


def test_no_lease_is_stopped_by_it(trusted: World) -> None:
    assert trusted.acquire().accepted
    opened = trusted.must(BANK, "proposal.open", proposal_body(ACT, body_of(rho_ppm=0)))
    applied = trusted.run(CLINIC, "ballot.cast", ballot_body(str(opened.result["id"])))
    assert applied.entry is not None
    assert b'"executed"' in applied.entry
    assert effect_of(applied.outcome.index, applied.entry) is None


def test_the_first_version_knows_nothing_of_it() -> None:
    ledger = Ledger(Federation.build((BANK, CLINIC), version=protocol.FIRST))
    for verb, body, field in (
        (ACT, body_of(rho_ppm=0), "type"),
        ("proposal.open", proposal_body(ACT, body_of(rho_ppm=0)), "body.act"),
    ):
        command = ledger.federation.command(BANK, verb, body)
        refused = examine(ledger.view, command, ledger.now)
        assert refused == Deny(Reason.UNSUPPORTED_PROTOCOL, "protocol 1")
        said = ledger.run(BANK, verb, body).outcome
        assert (said.reason, said.thing) == (Reason.MALFORMED_COMMAND, field)


# -- states of others ----------------------------------------------------------------------------


def with_federation(store: MemoryStore, **changes: object) -> MemoryStore:
    other = copied(store)
    said = json.loads(other.get(keys.FEDERATION) or b"")
    other.put(keys.FEDERATION, codec.encode(said | changes))
    return other


WIDE = Parameters(5_000, 1_000, 10_000, 5_000).to_json()


@pytest.mark.parametrize(
    "changes",
    [
        {"parameters": FIRST.to_json() | {"authority_period_ms": 60_001}},
        {"parameters": FIRST.to_json() | {"max_permit_ttl_ms": 2_001}},
        {"widest": FIRST.to_json()},
        {"widest": FIRST.to_json() | {"rho_ppm": 9_999, "max_skew_ms": 6_000}},
        {"widest": WIDE | {"max_permit_ttl_ms": 5_001}},
        {"widest": WIDE | {"more": 1}},
        {"widest": [WIDE]},
    ],
)
def test_what_no_ballot_has_made_is_no_state(trusted: World, changes: dict[str, object]) -> None:
    assert Vetting(with_federation(trusted.store, widest=WIDE)).step(1_000_000)
    with pytest.raises(MalformedError):
        Vetting(with_federation(trusted.store, **changes)).step(1_000_000)


def test_in_the_first_version_there_are_no_others() -> None:
    store = Ledger(Federation.build((BANK, CLINIC), version=protocol.FIRST)).store
    with pytest.raises(MalformedError, match="never others"):
        Vetting(with_federation(store, widest=WIDE)).step(1_000_000)
    with pytest.raises(MalformedError, match="other parameters"):
        Succession(store, with_federation(store, parameters=WIDE)).step(1_000_000)


def test_a_later_state_has_forgotten_nothing(trusted: World) -> None:
    before = copied(trusted.store)
    change(trusted, authority_period_ms=5_000)
    change(trusted, authority_period_ms=1_500)
    assert Succession(before, trusted.store).step(1_000_000)
    for forged in (
        with_federation(trusted.store, parameters=FIRST.to_json(), widest=None),
        with_federation(trusted.store, widest=FIRST.to_json() | {"authority_period_ms": 4_999}),
        with_federation(trusted.store, widest=WIDE | {"rho_ppm": 9_999}),
    ):
        if json.loads(forged.get(keys.FEDERATION) or b"")["widest"] is None:
            said = json.loads(forged.get(keys.FEDERATION) or b"")
            del said["widest"]
            forged.put(keys.FEDERATION, codec.encode(said))
        with pytest.raises(MalformedError, match="forgotten"):
            Succession(trusted.store, forged).step(1_000_000)
