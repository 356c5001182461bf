"""Rules of the core broken on purpose, one at a time: the model (`naive`) must see each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any, Final

import pytest
from tests.property.core.naive.sides import DifferenceError, play, shortest

from quorate.core import (
    balloting,
    decision,
    governing,
    leasing,
    membership,
    reporting,
    routing,
    transitions,
)
from quorate.core.outcome import Reason
from quorate.core.records import Grant, Lease, TrustEdge
from quorate.core.state import StateView
from quorate.core.status import Act, Status

HISTORIES: Final = 500
BROKEN: Final[dict[str, tuple[Any, str, Callable[..., Any]]]] = {}


def breaks(owner: Any, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What is decorated stands in a rule's place; it is given the rule, and its arguments."""

    def register(instead: Callable[..., Any]) -> Callable[..., Any]:
        BROKEN[instead.__name__] = (owner, name, instead)
        return instead

    return register


@breaks(governing, "may_widen")
def a_suspended_domain_may_widen(rule: Any, turn: Any) -> Any:
    return None


@breaks(governing, "follow")
def what_is_revoked_can_be_reinstated(rule: Any, status: Status, act: Act) -> Any:
    after = rule(status, act)
    return Status.ACTIVE if after is Reason.FINAL and act is Act.REINSTATE else after


@breaks(governing, "scope_outside")
def an_edge_may_be_widened(rule: Any, scope: Any, wider: Any) -> Any:
    return None if isinstance(wider, TrustEdge) else rule(scope, wider)


@breaks(Grant, "expired")
def a_grant_lasts_a_moment_longer(rule: Any, grant: Grant, now: int) -> Any:
    return rule(grant, now - 1)


@breaks(Grant, "exhausted")
def uses_are_not_counted(rule: Any, grant: Grant) -> Any:
    return False


@breaks(StateView, "is_lease_limit_reached")
def a_grant_gives_one_lease_too_many(
    rule: Any, view: Any, grant: Grant, now: int, most: int
) -> Any:
    return rule(view, grant, now, most + 1)


@breaks(decision, "why_broken")
def a_closed_edge_holds(rule: Any, *args: Any) -> Any:
    return None


@breaks(routing, "_lets")
def an_edge_is_for_anything(rule: Any, *args: Any) -> Any:
    return True


@breaks(decision, "active_executor")
def a_suspended_executor_may_act(rule: Any, view: StateView, executor: str) -> Any:
    found = view.executor(executor)
    return found if found and found.status is Status.SUSPENDED else rule(view, executor)


@breaks(decision, "active_owner")
def a_suspended_owner_is_asked_nothing(rule: Any, view: StateView, resource: str) -> Any:
    return view.domain(resource.split("/")[2]) or rule(view, resource)


@breaks(Lease, "expired")
def a_lease_lasts_a_moment_longer(rule: Any, lease: Lease, now: int) -> Any:
    return rule(lease, now - 1)


@breaks(leasing, "_expiry")
def a_lease_may_outlive_its_grant(rule: Any, turn: Any, grant: Grant, ttl_ms: int) -> Any:
    return rule(turn, replace(grant, not_after=2**53 - 1), ttl_ms)


@breaks(leasing, "broken_parent")
def a_parent_need_not_hold(rule: Any, *args: Any) -> Any:
    return None


@breaks(membership, "_may_stop_voting")
def the_last_voter_may_go(rule: Any, *args: Any) -> Any:
    return None


@breaks(membership, "_may_vote")
def a_domain_may_have_two_voters(rule: Any, *args: Any) -> Any:
    return None


@breaks(StateView, "key_owner")
def a_key_may_serve_twice(rule: Any, *args: Any) -> Any:
    return None


@breaks(balloting, "count")
def a_suspended_domain_has_a_vote(rule: Any, domains: Any, thresholds: Any, proposal: Any) -> Any:
    def reinstated(domain: Any) -> Any:
        is_out = domain.status is Status.SUSPENDED
        return replace(domain, status=Status.ACTIVE) if is_out else domain

    return rule(map(reinstated, domains), thresholds, proposal)


@breaks(balloting, "_subject")
def one_alone_decides_about_another(rule: Any, act: Any) -> Any:
    return ""


@breaks(balloting, "_retire_all")
def the_nodes_of_an_expelled_domain_stay(rule: Any, *args: Any) -> Any:
    return None


@breaks(transitions, "_judge")
def an_expired_command_is_executed(rule: Any, overlay: Any, case: Any) -> Any:
    until = getattr(getattr(case.admitted, "command", None), "not_after", case.now)
    return rule(overlay, replace(case, now=min(case.now, until)))


@breaks(StateView, "remembered")
def a_nonce_may_be_used_again(rule: Any, *args: Any) -> Any:
    return None


@breaks(reporting, "next_stage")
def any_event_may_follow_any(rule: Any, stage: Any, event: Any) -> Any:
    return rule(stage, event) or stage


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_rule_is_seen(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, instead = BROKEN[what]
    rule = getattr(owner, name)
    if isinstance(rule, property):
        broken: Any = property(lambda self: instead(rule.fget, self))
    else:
        broken = lambda *args: instead(rule, *args)  # noqa: E731  # it binds, as a method does
    monkeypatch.setattr(owner, name, broken)
    for seed in range(HISTORIES):
        try:
            play(Random(seed), Counter())  # noqa: S311  # the same each time
        except DifferenceError as error:
            setting, history = error.history
            assert len(shortest(setting, history)) <= 10
            return
    pytest.fail("nobody has seen it")
