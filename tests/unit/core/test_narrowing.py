"""An edge of trust is for less and less, and never for more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from quorate.core import invariants
from quorate.core.outcome import Outcome, Reason
from quorate.testing.builders import narrow_body

BANK = "bank.example"


def state_of(world: Any) -> dict[bytes, bytes]:
    """Everything but ledger time and what is remembered of commands."""
    return {key: value for key, value in world.store.items() if key[:1] not in b"Tcx"}


def narrow(world: Any, resources: list[str], actions: tuple[str, ...] = ("*",)) -> Outcome:
    outcome: Outcome = world.do(BANK, "trust.narrow", narrow_body("edge", resources, actions))
    return outcome


def test_an_edge_is_narrowed_step_by_step(trusted: Any) -> None:
    before = trusted.view.trust_edge(BANK, "edge")
    for resources, actions in (
        (["//bank.example/accounts/*", "//bank.example/books/*"], ("*",)),
        (["//bank.example/accounts/*", "//bank.example/books/*"], ("payments.*", "a")),
        (["//bank.example/accounts/7", "//bank.example/books/a/*"], ("payments.read", "a")),
        (["//bank.example/accounts/7"], ("payments.read",)),
    ):
        outcome = narrow(trusted, resources, actions)
        assert outcome.result == {"id": f"{BANK}/edge"}
        assert trusted.view.trust_edge(BANK, "edge") == replace(
            before, actions=actions, resources=tuple(resources), changed=outcome.index
        )
        assert invariants.check(trusted.view) == []


@pytest.mark.parametrize(
    ("resources", "actions", "outside"),
    [
        (["//bank.example/*"], ("payments.*",), "//bank.example/*"),
        (["//bank.example/accounts/*"], ("*",), "*"),
        (["//bank.example/accounts/*"], ("payments",), "payments"),
        (["//bank.example/accounts/*"], ("payments.read", "paymentsx.read"), "paymentsx.read"),
        (["//bank.example/accounts/7", "//bank.example/b"], ("payments.*",), "//bank.example/b"),
        (["//bank.example/accounts"], ("payments.*",), "//bank.example/accounts"),
        (["//clinic.example/accounts/7"], ("payments.*",), "//clinic.example/accounts/7"),
    ],
)
def test_a_narrowing_never_widens(
    trusted: Any, resources: list[str], actions: tuple[str, ...], outside: str
) -> None:
    assert narrow(trusted, ["//bank.example/accounts/*"], ("payments.*",)).accepted
    before = state_of(trusted)
    outcome = narrow(trusted, resources, actions)
    assert (outcome.reason, outcome.thing) == (Reason.WIDENS, outside)
    assert state_of(trusted) == before


def test_narrowing_to_what_is_left_already_is_no_narrowing(trusted: Any) -> None:
    """As suspending what is suspended. Said in other words, it is the same."""
    accounts = "//bank.example/accounts/*"
    assert narrow(trusted, [accounts]).accepted
    before = state_of(trusted)
    for resources in ([accounts], ["//bank.example/accounts/7", accounts]):
        outcome = narrow(trusted, resources)
        assert (outcome.reason, outcome.thing) == (Reason.ILLEGAL_TRANSITION, f"{BANK}/edge")
    assert state_of(trusted) == before


def test_a_narrowing_that_is_repeated_has_its_first_outcome(trusted: Any) -> None:
    body = narrow_body("edge", ["//bank.example/accounts/*"])
    envelope = trusted.federation.command(BANK, "trust.narrow", body)
    first = trusted.apply(envelope)
    assert narrow(trusted, ["//bank.example/accounts/7"]).accepted
    again = trusted.apply(envelope)
    assert (again.entry, again.outcome) == (None, replace(first.outcome, duplicate=True))
    edge = trusted.view.trust_edge(BANK, "edge")
    assert edge.resources == ("//bank.example/accounts/7",), "it is not executed again"
