"""Rules of the core broken on purpose, one at a time: the model (`naive`) must see each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from random import Random
from types import SimpleNamespace
from typing import Any, Final

import pytest
from tests.property.core.naive.sides import DifferenceError, play, shortest

from quorate.core import (
    attesting,
    balloting,
    conditions,
    decision,
    delegating,
    delegation,
    governing,
    keysets,
    leasing,
    membership,
    policies,
    publishing,
    rekeying,
    reporting,
    routing,
    state,
    transitions,
)
from quorate.core.acts import ThawFederation, UpgradeFederation
from quorate.core.errors import StorageDamagedError
from quorate.core.frozen import Freeze
from quorate.core.limits import MAX_DEPTH
from quorate.core.outcome import Deny, Reason
from quorate.core.policies import Deciders
from quorate.core.records import Grant, Lease, TrustEdge
from quorate.core.state import StateView
from quorate.core.status import Act, Status

HISTORIES: Final = 2_500
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


@breaks(decision, "active_actor")
def a_suspended_executor_may_act(rule: Any, view: StateView, executor: str, now: int) -> Any:
    found = view.executor(executor)
    if found and found.status is Status.SUSPENDED:
        home = view.domain(found.domain)
        return decision.Actor(found, home, None) if home else rule(view, executor, now)
    return rule(view, executor, now)


@breaks(decision, "why_unattested")
def nobody_has_to_prove_anything(rule: Any, *args: Any) -> Any:
    return None


@breaks(decision, "why_unattested")
def a_proof_counts_a_moment_longer(
    rule: Any, view: StateView, executor: Any, home: Any, now: int
) -> Any:
    return rule(view, executor, home, now - 1)


@breaks(governing, "unproved")
def who_was_something_else_is_reinstated_without_a_proof(rule: Any, *args: Any) -> Any:
    return None


@breaks(balloting, "reinstate_by_ballot")
def a_ballot_lifts_what_a_domain_has_suspended(rule: Any, turn: Any, act: Any) -> Any:
    executor = turn.view.executor(act.executor)
    if executor and executor.suspended_for:
        state.save_executor(turn.store, replace(executor, suspended_by_domain=False))
    return rule(turn, act)


@breaks(balloting, "reinstate_by_ballot")
def a_ballot_takes_the_place_of_a_proof(rule: Any, turn: Any, act: Any) -> Any:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(governing, "unproved", lambda *_: None)
        return rule(turn, act)


@breaks(governing, "replace")
def a_domain_cannot_suspend_whom_its_proofs_have(rule: Any, thing: Any, **changes: Any) -> Any:
    is_own = changes.keys() == {"status"} and changes["status"] is Status.ACTIVE
    return thing if is_own else rule(thing, **changes)


@breaks(attesting, "_suspended")
def what_does_not_match_suspends_nobody(
    rule: Any, turn: Any, executor: Any, cause: str, failing: str
) -> Any:
    done = rule(turn, executor, cause, failing)
    state.save_executor(turn.store, replace(executor, challenge=None))
    return done


@breaks(attesting, "may_widen")
def a_suspended_domain_may_ask_for_less(rule: Any, turn: Any) -> Any:
    return None


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


# -- of version 2 ----------------------------------------------------------------------------------


@breaks(transitions, "_admit")
def what_a_later_version_has_brought_is_known_before(rule: Any, data: bytes, version: int) -> Any:
    return rule(data, 2)


@breaks(balloting, "_upgrade_federation")
def an_upgrade_waits_for_no_observer(rule: Any, turn: Any, act: UpgradeFederation) -> Any:
    for node in [each for each in turn.view.active_nodes() if not each.votes]:
        state.save_node(turn.store, replace(node, protocol=max(act.protocol, node.protocol)))
    return rule(turn, act)


@breaks(routing.Routes, "_letting")
def how_far_trust_may_be_passed_on_does_not_matter(rule: Any, routes: Any, *ends: str) -> Any:
    return (replace(edge, max_depth=MAX_DEPTH) for edge in rule(routes, *ends))


@breaks(routing.Routes, "_letting")
def trust_leads_one_edge_further_than_it_may(rule: Any, routes: Any, *ends: str) -> Any:
    return (replace(edge, max_depth=edge.max_depth + 1) for edge in rule(routes, *ends))


@breaks(routing, "active_domain")
def a_lease_outlives_who_passed_trust_on(rule: Any, view: StateView, domain: str) -> Any:
    return view.domain(domain)


@breaks(routing.Routes, "find")
def of_two_routes_another_is_taken(rule: Any, routes: Any, *ends: str) -> Any:
    return tuple(routes._letting(*ends))[-1:] or rule(routes, *ends)


@breaks(decision, "tried_grants")
def what_others_have_passed_on_comes_first(rule: Any, *args: Any) -> Any:
    return sorted(rule(*args), key=lambda tried: not tried[0].parent)


@breaks(delegating, "_what_widens")
def more_may_be_passed_on_than_there_is(rule: Any, *args: Any) -> Any:
    return None


@breaks(delegating, "_held_grant")
def what_is_anothers_may_be_passed_on(rule: Any, turn: Any, executor: str, ident: str) -> Any:
    return turn.view.grant(*routing.split_id(ident)) or rule(turn, executor, ident)


@breaks(delegating, "grant_ended")
def what_has_ended_can_be_passed_on_again(rule: Any, grant: Grant, now: int) -> Any:
    return None if grant.delegations else rule(grant, now)


@breaks(delegating, "follow")
def what_was_recalled_can_be_reinstated(rule: Any, status: Status, act: Act) -> Any:
    return Status.SUSPENDED


@breaks(delegating, "_has_room")
def others_may_fill_all_the_room(rule: Any, *args: Any) -> Any:
    return True


@breaks(delegation.Backings, "_through")
def a_delegator_needs_no_trust(rule: Any, backings: Any, parent: Grant, links: int) -> Any:
    def find(*ends: str) -> Any:
        return routes.find(*ends) or tuple(backings._view.trust_edges())[:1]

    routes, backings._routes = backings._routes, SimpleNamespace(find=find)
    try:
        return rule(backings, parent, links)
    finally:
        backings._routes = routes


@breaks(delegation, "known_executor")
def a_suspended_delegator_vouches(rule: Any, view: StateView, executor: str) -> Any:
    return view.executor(executor) or rule(view, executor)


@breaks(decision, "why_unbacked")
def a_lease_needs_nothing_behind_its_grant(rule: Any, *args: Any) -> Any:
    return None


@breaks(delegation, "_open_edge")
def a_lease_outlives_trust_in_who_passed_its_grant_on(rule: Any, *args: Any) -> Any:
    return None


@breaks(delegation, "_active_grant")
def a_lease_outlives_a_grant_behind_its_own(rule: Any, *args: Any) -> Any:
    return None


@breaks(state, "save_grant")
def uses_count_for_the_last_grant_alone(rule: Any, store: Any, grant: Grant, now: int) -> Any:
    before = StateView(store).grant(grant.issuer, grant.grant)
    is_used_behind = before is not None and grant.uses > before.uses and grant.delegations > 0
    return None if is_used_behind else rule(store, grant, now)


@breaks(Lease, "grants")
def leases_in_force_count_for_the_last_grant_alone(rule: Any, lease: Lease) -> Any:
    return (lease.grant,)


@breaks(decision, "why_unmet")
def a_grant_asks_for_nothing_itself(rule: Any, *args: Any) -> Any:
    return None


@breaks(delegation, "why_unmet")
def what_is_behind_a_grant_asks_for_nothing(rule: Any, *args: Any) -> Any:
    return None


@breaks(conditions, "text_matches")
def a_prefix_alone_is_enough(rule: Any, pattern: str, text: str) -> Any:
    return rule(pattern, text) or pattern == f"{text}*"


# -- of keys ---------------------------------------------------------------------------------------


@breaks(keysets, "has_enough")
def one_of_several_keys_is_enough(rule: Any, envelope: Any, keys: Any, threshold: int) -> Any:
    return rule(envelope, keys, min(threshold, 1))


@breaks(keysets, "has_enough")
def one_signature_less_is_enough(rule: Any, envelope: Any, keys: Any, threshold: int) -> Any:
    return rule(envelope, keys, threshold - (threshold > 2))


@breaks(keysets, "governance_keys")
def recovery_keys_govern(rule: Any, keyed: Any) -> Any:
    return (*rule(keyed), *keysets.key_set_of(keyed).recovery_keys)


@breaks(transitions, "refuse_expired")
def keys_never_expire(rule: Any, *args: Any) -> Any:
    return None


@breaks(transitions, "refuse_expired")
def keys_last_a_moment_longer(rule: Any, envelope: Any, keyed: Any, verb: Any, now: int) -> Any:
    return rule(envelope, keyed, verb, now - 1)


@breaks(keysets, "is_recovered")
def expired_keys_renew_themselves(rule: Any, envelope: Any, keyed: Any) -> Any:
    return rule(envelope, keyed) or keysets.is_governed(envelope, keyed)


@breaks(transitions, "refuse_half_signed")
def what_lacks_a_signature_is_remembered(rule: Any, *args: Any) -> Any:
    return None


@breaks(rekeying, "_may_take")
def who_governs_changes_the_recovery_keys(rule: Any, *args: Any) -> Any:
    return True


@breaks(rekeying, "is_recovered")
def recovery_keys_do_not_decide(rule: Any, *args: Any) -> Any:
    return False


@breaks(rekeying, "fresh_keys")
def new_keys_need_not_sign(rule: Any, *args: Any) -> Any:
    return []


@breaks(rekeying, "is_expired")
def keys_may_begin_expired(rule: Any, *args: Any) -> Any:
    return False


@breaks(decision, "why_forbidden")
def policies_have_no_say(rule: Any, *args: Any) -> Any:
    return None


@breaks(Deciders, "having_say")
def those_of_the_executors_domain_have_no_say(rule: Any, deciders: Deciders) -> Any:
    return (each for each in rule(deciders) if each.id != deciders.home.id)


@breaks(policies, "rule")
def a_policy_that_fails_is_passed_over(rule: Any, *args: Any) -> Any:
    ruling = rule(*args)
    return replace(ruling, permits=True, is_broken=False) if ruling.is_broken else ruling


@breaks(publishing, "may_widen")
def a_suspended_domain_replaces_its_policies(rule: Any, turn: Any) -> Any:
    return None


# -- of freezes ------------------------------------------------------------------------------------


def unless_frozen(found: Any) -> Any:
    return None if isinstance(found, Deny) and found.reason is Reason.FROZEN else found


@breaks(leasing, "review")
def what_is_frozen_can_be_renewed(rule: Any, *args: Any) -> Any:
    return unless_frozen(rule(*args))


@breaks(decision, "reviewed")
def what_is_frozen_is_checked_as_before(rule: Any, *args: Any) -> Any:
    return unless_frozen(rule(*args))


@breaks(decision, "frozen")
def only_what_both_have_frozen_is_frozen(rule: Any, federation: Any, owner: Any, act: str) -> Any:
    all_but_one = [replace(federation, frozen=None), replace(owner, frozen=None)]
    return rule(all_but_one[0], owner, act) and rule(federation, all_but_one[1], act)


@breaks(Freeze, "lets")
def a_freeze_lets_nothing_through(rule: Any, *args: Any) -> Any:
    return False


@breaks(Freeze, "lets")
def a_freeze_that_spares_something_spares_all(rule: Any, freeze: Freeze, action: str) -> Any:
    return bool(freeze.actions)


@breaks(state, "save_domain")
def a_domain_thaws_for_all(rule: Any, store: Any, domain: Any) -> Any:
    view = StateView(store)
    before = view.domain(domain.domain)
    if before is not None and before.frozen is not None and domain.frozen is None:
        state.save_federation(store, replace(view.federation(), frozen=None))
    return rule(store, domain)


@breaks(state, "save_federation")
def all_together_thaw_what_a_domain_has_frozen(rule: Any, store: Any, federation: Any) -> Any:
    view = StateView(store)
    if view.installed() and view.federation().frozen is not None and federation.frozen is None:
        for domain in list(view.domains()):
            state.save_domain(store, replace(domain, frozen=None))
    return rule(store, federation)


@breaks(governing, "Freeze")
def a_freeze_is_of_an_entry_before(rule: Any, actions: Any, since: int) -> Any:
    return rule(actions, since - 1)


@breaks(governing, "executed")
def an_entry_does_not_say_what_is_spared(rule: Any, verb: str, thing: str, frozen: Any) -> Any:
    return rule(verb, thing, replace(frozen, actions=()))


@breaks(balloting, "_freeze_federation")
def who_is_frozen_can_be_frozen_anew(rule: Any, turn: Any, act: Any) -> Any:
    state.save_federation(turn.store, replace(turn.view.federation(), frozen=None))
    return rule(turn, act)


@breaks(balloting, "_base")
def a_thaw_is_for_any_freeze(rule: Any, view: StateView, act: Any) -> Any:
    return "" if isinstance(act, ThawFederation) else rule(view, act)


@breaks(balloting, "_base")
def a_freeze_of_its_own_keeps_a_domain_suspended(rule: Any, view: StateView, act: Any) -> Any:
    domain = getattr(act, "domain", None)
    found = view.domain(domain) if isinstance(domain, str) else None
    since = found.frozen.since if found is not None and found.frozen is not None else ""
    return f"{rule(view, act)}{since}"


@breaks(publishing, "ended")
def what_an_expelled_domain_has_frozen_stays_so(rule: Any, turn: Any, domain: Any) -> Any:
    return replace(rule(turn, domain), frozen=domain.frozen)


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
            assert len(shortest(setting, history)) <= 14  # five of them an upgrade, at most
            return
        except StorageDamagedError:  # so broken that the ledger stops
            return
    pytest.fail("nobody has seen it")
