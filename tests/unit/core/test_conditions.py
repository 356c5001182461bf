"""Conditions of grants: what has to be said of the work, through all of a chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.unit.core.test_delegation import ALL, BOOK, OWNER, World

from quorate.core import protocol, state
from quorate.core.conditions import Condition, check_conditions, first_unmet
from quorate.core.decision import DecisionRequest, decide
from quorate.core.errors import MalformedError
from quorate.core.explaining import explain
from quorate.core.explanation import Explanation, Role
from quorate.core.invariants import check
from quorate.core.limits import (
    MAX_ATTRIBUTE_CHARS,
    MAX_CONDITION_BYTES,
    MAX_CONDITIONS,
    MAX_PATTERNS,
)
from quorate.core.outcome import Deny, Outcome, Permit, Reason
from quorate.core.patterns import check_text_pattern, text_matches
from quorate.core.records import Lease
from quorate.core.vetting import Vetting
from quorate.testing.builders import acquire_body, grant_body

TICKET = {"name": "ticket", "values": ["OPS-*", "SEC-1"]}
ZONE = {"name": "zone", "values": ["eu"]}


def asked(world: World, executor: str, *context: str) -> Outcome:
    """What comes of asking for a lease; whether it is granted is what is decided and explained."""
    now, view = world.ledger.now, world.ledger.view
    request = DecisionRequest(executor, "books.read", BOOK, context)
    decided = decide(view, request, now)
    assert explain(view, request, now).decision == decided
    body = acquire_body(executor, "books.read", BOOK, context=context)
    outcome: Outcome = world.run(world.node(world.home(executor)), "lease.acquire", body).outcome
    assert outcome.accepted == isinstance(decided, Permit)
    if isinstance(decided, Deny):
        assert (outcome.reason, outcome.thing) == (decided.reason, decided.thing)
    assert world.is_well()
    return outcome


def unmet(world: World, executor: str, *context: str) -> str:
    """The condition for which a lease is denied."""
    outcome = asked(world, executor, *context)
    assert outcome.reason is Reason.CONDITION_UNMET, outcome
    return outcome.thing


def explained(world: World, executor: str, *context: str) -> Explanation:
    request = DecisionRequest(executor, "books.read", BOOK, context)
    return explain(world.ledger.view, request, world.ledger.now)


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("OPS-1", "OPS-1", True),
        ("OPS-1", "OPS-12", False),
        ("OPS-1", "ops-1", False),
        ("OPS-*", "OPS-1", True),
        ("OPS-*", "OPS-", False),
        ("OPS-*", "XOPS-1", False),
        ("OPS-*", "OPS", False),
        ("*", "anything at all", True),
        ("*", "", False),
        ("OPS-1", "OPS-*", False),
        ("OPS-.*", "OPS-1", False),
    ],
)
def test_what_a_value_matches(pattern: str, text: str, matches: bool) -> None:
    assert text_matches(pattern, text) is matches


@pytest.mark.parametrize(
    "text", ["", "a*b", "**", "*a", "a\nb", "a\x00", "a\x7f", "\x9b1m", "x" * 257]
)
def test_what_is_no_value(text: str) -> None:
    with pytest.raises(MalformedError):
        check_text_pattern(text)


def test_without_conditions_nothing_is_asked() -> None:
    assert first_unmet((), ()) is None


def test_a_name_that_is_missing_fails() -> None:
    world = World(conditions=[TICKET, ZONE])
    root = world.root
    assert unmet(world, world.head) == f"{root}/ticket"
    assert unmet(world, world.head, "ticket=OPS-1") == f"{root}/zone"
    assert unmet(world, world.head, "zone=eu") == f"{root}/ticket"
    assert unmet(world, world.head, "ticket=DEV-1", "zone=eu") == f"{root}/ticket"
    assert unmet(world, world.head, "ticket=OPS-1", "zone=us") == f"{root}/zone"
    assert unmet(world, world.head, "tickets=OPS-1", "zone=eu") == f"{root}/ticket"
    assert world.grant(root).uses == 0
    assert asked(world, world.head, "ticket=OPS-1", "zone=eu").accepted
    assert asked(world, world.head, "other=x", "ticket=SEC-1", "zone=eu").accepted


def test_a_lease_holds_and_is_renewed_with_what_was_said() -> None:
    world = World(conditions=[TICKET])
    outcome = asked(world, world.head, "ticket=OPS-1")
    lease = world.ledger.view.lease(outcome.thing)
    assert lease is not None
    assert isinstance(world.checked(lease), Permit)
    renewal = {"lease": lease.id, "executor": world.head, "ttl_ms": 0}
    world.must(world.node(world.home(world.head)), "lease.renew", renewal)


def test_another_grant_without_the_condition_does() -> None:
    world = World(conditions=[TICKET])
    world.must(OWNER, "grant.issue", grant_body("z-plain", world.head, ALL))
    outcome = asked(world, world.head)
    lease = world.ledger.view.lease(outcome.thing)
    assert lease is not None
    assert lease.grant == f"{OWNER}/z-plain"


def test_it_is_the_nearest_to_a_permit() -> None:
    """Of several grants: whoever says what is asked for has a lease."""
    world = World(conditions=[TICKET])
    world.must(OWNER, "grant.issue", grant_body("a", world.head, ALL))
    world.must(OWNER, "grant.suspend", {"grant": "a"})
    assert unmet(world, world.head) == f"{world.root}/ticket"
    world.must(OWNER, "grant.suspend", {"grant": "root"})
    assert asked(world, world.head).reason is Reason.GRANT_SUSPENDED


# -- chains --------------------------------------------------------------------------------------


def test_what_was_passed_on_asks_for_all_that_is_behind_it() -> None:
    world = World(conditions=[TICKET])
    first = world.delegated(world.head, world.root, world.aide, max_depth=1, conditions=[ZONE])
    stricter = {"name": "ticket", "values": ["OPS-7"]}
    second = world.delegated(world.aide, first, world.robot, conditions=[stricter])
    assert world.grant(first).conditions == (Condition("zone", ("eu",)),)
    assert unmet(world, world.robot) == f"{second}/ticket"
    assert unmet(world, world.robot, "ticket=OPS-7") == f"{first}/zone"
    assert unmet(world, world.robot, "ticket=OPS-8", "zone=eu") == f"{second}/ticket"
    assert asked(world, world.robot, "ticket=OPS-7", "zone=eu").accepted
    assert unmet(world, world.aide, "zone=eu") == f"{world.root}/ticket"
    assert asked(world, world.aide, "ticket=OPS-8", "zone=eu").accepted


def test_a_wider_value_further_on_widens_nothing() -> None:
    world = World(conditions=[TICKET])
    wider = {"name": "ticket", "values": ["*"]}
    world.delegated(world.head, world.root, world.robot, conditions=[wider])
    assert unmet(world, world.robot, "ticket=DEV-1") == f"{world.root}/ticket"
    assert asked(world, world.robot, "ticket=OPS-1").accepted


def test_conditions_that_exclude_each_other_permit_nothing() -> None:
    world = World(conditions=[ZONE])
    other = {"name": "zone", "values": ["us"]}
    made = world.delegated(world.head, world.root, world.robot, conditions=[other])
    assert unmet(world, world.robot, "zone=us") == f"{world.root}/zone"
    assert unmet(world, world.robot, "zone=eu") == f"{made}/zone"


def test_one_grant_behind_several_is_asked_for_each_request_anew() -> None:
    """What is known of it is known for one context alone."""
    world = World(conditions=[TICKET])
    for _ in range(2):
        world.delegated(world.head, world.root, world.robot)
    assert unmet(world, world.robot) == f"{world.root}/ticket"
    assert asked(world, world.robot, "ticket=OPS-1").accepted
    assert unmet(world, world.robot, "ticket=DEV-1") == f"{world.root}/ticket"


# -- explaining ----------------------------------------------------------------------------------


def test_an_explanation_says_which_condition_and_what_would_do() -> None:
    world = World(conditions=[TICKET])
    step = explained(world, world.head, "ticket=DEV-1").decided
    assert step is not None
    assert step.denied == Deny(Reason.CONDITION_UNMET, f"{world.root}/ticket")
    (thing,) = step.things
    assert (thing.id, thing.role) == (world.root, Role.PASSED_OVER)
    assert thing.note == "asks for ticket to be OPS-* or SEC-1; something else was said of it"
    assert step.remedy is not None
    assert "ticket: OPS-* or SEC-1" in step.remedy.sentence
    said = f"quorate lease acquire books.read {BOOK} --context ticket=TEXT"
    assert step.remedy.command == said


def test_an_explanation_tells_of_the_grant_behind_that_asks() -> None:
    world = World(conditions=[TICKET])
    made = world.delegated(world.head, world.root, world.robot, conditions=[ZONE])
    step = explained(world, world.robot, "zone=eu").decided
    assert step is not None
    (thing,) = step.things
    assert (thing.id, thing.note) == (
        made,
        "asks for ticket to be OPS-* or SEC-1; nothing was said of it",
    )
    assert thing.failure == Deny(Reason.CONDITION_UNMET, f"{world.root}/ticket")


# -- form ----------------------------------------------------------------------------------------

ODD = [
    [],
    [ZONE, TICKET],
    [TICKET, TICKET],
    [{"name": "ticket", "values": []}],
    [{"name": "ticket", "values": ["b", "a"]}],
    [{"name": "ticket", "values": ["a", "a"]}],
    [{"name": "ticket", "values": [""]}],
    [{"name": "ticket", "values": ["a*b"]}],
    [{"name": "ticket", "values": ["a\n"]}],
    [{"name": "ticket", "values": [7]}],
    [{"name": "ticket", "values": "OPS-1"}],
    [{"name": "Ticket", "values": ["a"]}],
    [{"name": "", "values": ["a"]}],
    [{"name": "ticket"}],
    [{"values": ["a"]}],
    [{"name": "ticket", "values": ["a"], "not": True}],
    ["ticket=a"],
    {"ticket": ["a"]},
    [{"name": f"n{place}", "values": ["a"]} for place in range(MAX_CONDITIONS + 1)],
    [{"name": "n", "values": [f"{place:02}" for place in range(MAX_PATTERNS + 1)]}],
    [{"name": "n", "values": ["x" * (MAX_ATTRIBUTE_CHARS + 1)]}],
    [{"name": "n", "values": [f"{place}" + "x" * 250 for place in range(5)]}],
]


@pytest.mark.parametrize("conditions", ODD)
def test_what_has_another_form_is_refused(conditions: object) -> None:
    world = World()
    body = grant_body("odd", world.head, ALL, conditions=conditions)
    said = world.run(OWNER, "grant.issue", body).outcome
    assert said.reason is Reason.MALFORMED_COMMAND
    assert said.thing.startswith("body.conditions")
    passed = world.delegate(world.head, world.root, world.aide, conditions=conditions)
    assert passed.reason is Reason.MALFORMED_COMMAND
    assert passed.thing.startswith("body.conditions")


def test_as_many_and_as_long_as_may_be() -> None:
    world = World()
    many = [{"name": f"n{place}", "values": ["a"]} for place in range(MAX_CONDITIONS)]
    world.must(OWNER, "grant.issue", grant_body("many", world.head, ALL, conditions=many))
    values = [f"{place}" + "x" * 254 for place in range(4)]
    long = [{"name": "n" * (MAX_CONDITION_BYTES - 4 * 255), "values": values}]
    world.must(OWNER, "grant.issue", grant_body("long", world.head, ALL, conditions=long))
    assert world.is_well()


def test_the_first_version_knows_none() -> None:
    world = World(version=protocol.FIRST)
    body = grant_body("new", world.head, ALL, conditions=[TICKET])
    said = world.run(OWNER, "grant.issue", body).outcome
    assert (said.reason, said.thing) == (Reason.MALFORMED_COMMAND, "body.conditions")


def test_a_grant_without_conditions_is_the_same_bytes() -> None:
    assert "conditions" not in World().grant(f"{OWNER}/root").to_json()
    assert "conditions" not in World(version=protocol.FIRST).grant(f"{OWNER}/root").to_json()


def is_refused(world: World) -> bool:
    """Whether nobody would live by such a state."""
    with pytest.raises(MalformedError):
        Vetting(world.ledger.store).step(1_000_000)
    return check(world.ledger.view) != []


@pytest.mark.parametrize(
    "conditions",
    [
        (Condition("zone", ("eu",)), Condition("ticket", ("OPS-1",))),
        (Condition("ticket", ()),),
        (Condition("ticket", ("b", "a")),),
        (Condition("ticket", ("a*b",)),),
        (Condition("Ticket", ("a",)),),
        tuple(Condition(f"n{place}", ("a",)) for place in range(MAX_CONDITIONS + 1)),
    ],
)
def test_conditions_that_no_command_gave_are_no_state(conditions: Sequence[Condition]) -> None:
    world = World()
    with pytest.raises(MalformedError):
        check_conditions(conditions)
    odd = replace(world.grant(world.root), conditions=tuple(conditions))
    state.save_grant(world.ledger.store, odd, world.ledger.now)
    assert is_refused(world)


def test_conditions_in_a_state_of_the_first_version_are_none() -> None:
    world = World(version=protocol.FIRST)
    odd = replace(world.grant(world.root), conditions=(Condition("ticket", ("OPS-1",)),))
    state.save_grant(world.ledger.store, odd, world.ledger.now)
    with pytest.raises(MalformedError, match="has conditions"):
        Vetting(world.ledger.store).step(1_000_000)


@pytest.mark.parametrize("context", [(), ("ticket=DEV-1",)])
def test_a_lease_that_does_not_say_what_its_grants_ask_for_is_no_state(
    context: tuple[str, ...],
) -> None:
    world = World(conditions=[TICKET])
    world.delegated(world.head, world.root, world.robot)
    for executor in (world.head, world.robot):
        outcome = asked(world, executor, "ticket=OPS-1")
        lease = world.ledger.view.lease(outcome.thing)
        assert isinstance(lease, Lease)
        state.save_lease(world.ledger.store, replace(lease, context=context), lease)
        assert is_refused(world)
        state.save_lease(world.ledger.store, lease, lease)
        assert world.is_well()
