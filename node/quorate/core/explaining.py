"""Explaining a decision: each question in the order in which it is asked, and what was looked at.

Owns how an explanation comes about, and nothing of the rules: every step calls the function of
`quorate.core.decision` that deciding calls, in the same order, so that the two cannot say different
things; a property test holds them equal over random states. Looks at no more than deciding does,
changes nothing, and permits nothing: an explanation is told, never relied on.

`explain` and `explain_lease` never raise: a state that cannot be read is denied (INTERNAL), at the
question where that came out. What the ledger recorded is `quorate.core.recounting`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from quorate.core import ids
from quorate.core.attestation import standings
from quorate.core.cedar import Subject
from quorate.core.containment import executor_contained, why_contained
from quorate.core.decision import (
    DecisionRequest,
    Route,
    active_owner,
    frozen,
    grant_of_lease,
    held_lease,
    lease_over,
    nearest,
    odd_action,
    other_act,
    subject_of_route,
    tried_grants,
)
from quorate.core.delegation import Backings, known_executor, why_unbacked
from quorate.core.errors import MalformedError, StorageError
from quorate.core.explanation import (
    Answer,
    Explanation,
    Question,
    Role,
    Step,
    Thing,
    containers_of,
    grant_thing,
    outside,
    policies_thing,
    reference_thing,
    suspended_words,
    thing_of,
    things_behind,
    things_contained,
    unmet_words,
    wanted_values,
)
from quorate.core.inquiry import Inquiry
from quorate.core.leasing import broken_by, parent_failure
from quorate.core.outcome import Deny, Reason
from quorate.core.policies import Deciders, failure_of, rule, subject_of
from quorate.core.records import BY_BALLOT, Domain, Executor, Grant, Kind, Lease, TrustEdge
from quorate.core.remedies import Case, remedy
from quorate.core.routing import Routes, active_domain, split_id, why_broken
from quorate.core.state import StateView

ACT_QUESTIONS: Final = (
    Question.EXECUTOR,
    Question.HOME,
    Question.ATTESTATION,
    Question.CONTAINED,
    Question.OWNER,
    Question.FROZEN,
    Question.ACTION,
    Question.TRUST,
    Question.GRANT,
    Question.POLICY,
)
LEASE_QUESTIONS: Final = (Question.LEASE, Question.SCOPE, Question.IN_FORCE)
REVIEW_QUESTIONS: Final = tuple(each for each in ACT_QUESTIONS if each is not Question.ACTION)


def explain(
    view: StateView, request: DecisionRequest, ledger_time: int, parents: Sequence[str] = ()
) -> Explanation:
    """Why the act would be permitted or denied as a new lease, at this state and ledger time (ms).
    The decision is `decide`'s. parents: leases that the work comes from, as acquiring asks."""
    questions = (*ACT_QUESTIONS, *((Question.PARENTS,) if parents else ()))
    inquiry = Inquiry(questions, case_of(request.executor, request.action, request.resource))

    def ask() -> tuple[str, ...]:
        route = ask_act(inquiry, view, request, ledger_time)
        if route is None or (parents and not ask_parents(inquiry, view, parents, ledger_time)):
            return ()
        return route.depends_on

    return inquiry.end(_safely(inquiry, ask), ledger_time)


def explain_lease(  # noqa: PLR0917  # in the order of `check_lease`
    view: StateView, lease_id: str, executor: str, action: str, resource: str, ledger_time: int
) -> Explanation:
    """Why `executor` may or may not act on its lease. The decision is `check_lease`'s."""
    questions = (*LEASE_QUESTIONS, *REVIEW_QUESTIONS)
    inquiry = Inquiry(questions, case_of(executor, action, resource))

    def ask() -> tuple[str, ...]:
        lease = ask_lease(inquiry, view, lease_id, executor)
        if lease is None:
            return ()
        other = other_act(lease, action, resource)
        asked = case_of(executor, action or lease.action, resource or lease.resource)
        inquiry.case = case_of(executor, lease.action, lease.resource)
        named = f"for {lease.action} on {lease.resource}"
        if not inquiry.answer(Question.SCOPE, other, note=named, case=asked):
            return ()
        holds = ask_in_force(inquiry, lease, ledger_time)
        return lease.depends_on if holds and ask_review(inquiry, view, lease, ledger_time) else ()

    return inquiry.end(_safely(inquiry, ask), ledger_time)


def holder_of(view: StateView, lease_id: str) -> str:
    """Whose lease it is; empty when that cannot be told, which explaining it then says."""
    try:
        lease = view.lease(lease_id)
    except StorageError:
        return ""
    return "" if lease is None else lease.executor


def under(explanation: Explanation, refused: Deny | None) -> Explanation:
    """The same, of a node that was asked whether it may permit anything at all. refused: why it may
    not, which then is the decision; what follows is told all the same, as its state has it."""
    advice = remedy(refused, Case()) if refused is not None else None
    answer = Answer.PASSED if refused is None else Answer.FAILED
    first = Step(Question.NODE, answer, denied=refused, remedy=advice)
    decision = refused or explanation.decision
    return replace(explanation, decision=decision, steps=(first, *explanation.steps))


def unseen(refused: Deny) -> Explanation:
    """Of a node that cannot look at its state at all."""
    return under(Explanation(refused, (), 0), refused)


def case_of(executor: str, action: str, resource: str) -> Case:
    try:
        owner = ids.resource_owner(resource)
    except MalformedError:
        owner = ""
    return Case(executor, action, resource, owner)


# -- the questions; each stops the inquiry by returning nothing ----------------------------------


def ask_act(
    inquiry: Inquiry, view: StateView, request: DecisionRequest, ledger_time: int
) -> Route | None:
    """As `choose_route`. Raises StorageError."""
    executor = _ask_executor(inquiry, view, request.executor, ledger_time)
    if executor is None:
        return None
    contained = executor_contained(view, executor.id)
    owner = _ask_owner(inquiry, view, request) if _is_free(inquiry, view, contained) else None
    if owner is None:
        return None
    if not inquiry.answer(Question.ACTION, odd_action(request.action)):
        return None
    routes = Routes(view, request.action, request.resource)
    trusted, edges = _ask_trust(inquiry, routes, request, owner, executor)
    if not trusted:
        return None
    backings = Backings(view, routes, ledger_time, request.context)
    grant = _ask_grant(inquiry, view, request, owner, ledger_time, backings)
    if grant is None:
        return None
    behind = backings.of(grant)
    assert not isinstance(behind, Deny), "such a grant was passed over"
    route = Route(executor, owner.domain, edges, grant, behind)
    is_allowed = _ask_policy(inquiry, view, owner, executor, subject_of_route(route, request))
    return route if is_allowed else None


def ask_lease(inquiry: Inquiry, view: StateView, lease_id: str, executor: str) -> Lease | None:
    """As `held_lease`. Raises StorageError."""
    lease = held_lease(view, lease_id, executor)
    if isinstance(lease, Deny):
        things = (Thing(Kind.LEASE, lease_id, Role.PASSED_OVER, failure=lease),)
        inquiry.answer(Question.LEASE, lease, things)
        return None
    inquiry.answer(Question.LEASE, None, (thing_of(lease),))
    return lease


def ask_in_force(inquiry: Inquiry, lease: Lease, ledger_time: int) -> bool:
    over = lease_over(lease, ledger_time)
    if lease.expired(ledger_time):
        note = f"expired {ledger_time - lease.expires_at} ms ago, in ledger time"
    else:
        note = f"expires in {lease.expires_at - ledger_time} ms, in ledger time"
    return inquiry.answer(Question.IN_FORCE, over, (thing_of(lease, over),), note)


def ask_review(inquiry: Inquiry, view: StateView, lease: Lease, ledger_time: int) -> bool:
    """As `review`, but for what `ask_in_force` asks. Raises StorageError."""
    executor = _ask_executor(inquiry, view, lease.executor, ledger_time)
    if executor is None:
        return False
    contained = why_contained(view, lease)
    owner = _ask_owner(inquiry, view, lease) if _is_free(inquiry, view, contained, lease) else None
    if owner is None:
        return False
    return (
        _ask_own_route(inquiry, view, lease, owner, executor)
        and _ask_own_grant(inquiry, view, lease, owner, ledger_time)
        and _ask_policy(inquiry, view, owner, executor, subject_of(lease))
    )


def ask_parents(
    inquiry: Inquiry, view: StateView, parents: Sequence[str], ledger_time: int
) -> bool:
    """As `broken_parent`. Raises StorageError."""
    things: list[Thing] = []
    for parent in parents:
        lease, failure = parent_failure(view, parent, ledger_time)
        if lease is None:
            things.append(Thing(Kind.LEASE, parent, Role.PASSED_OVER, failure=failure))
        else:
            things.append(thing_of(lease, failure))
        if failure is not None:
            broken, case = broken_by(parent, failure), inquiry.case
            if broken.reason is Reason.CONTAINED and lease is not None:
                things += things_contained(view, broken, lease)
                case = replace(case, contained_by=containers_of(view, broken))
            return inquiry.answer(Question.PARENTS, broken, things, case=case)
    return inquiry.answer(Question.PARENTS, None, things)


def _ask_executor(
    inquiry: Inquiry, view: StateView, executor_id: str, ledger_time: int
) -> Executor | None:
    executor = known_executor(view, executor_id)
    if isinstance(executor, Deny):
        found = view.executor(executor_id)
        things = () if found is None else (thing_of(found, executor),)
        case = inquiry.case
        if found is not None and found.suspended_for:
            things = (replace(thing_of(found, executor), note=suspended_words(found)),)
            by_domain = found.suspended_by_domain
            case = replace(case, suspended_for=found.suspended_for, suspended_by_domain=by_domain)
        inquiry.answer(Question.EXECUTOR, executor, things, case=case)
        return None
    inquiry.answer(Question.EXECUTOR, None, (thing_of(executor),))
    home = active_domain(view, executor.domain)
    if not _answer_domain(inquiry, view, Question.HOME, home) or isinstance(home, Deny):
        return None
    return executor if _ask_attested(inquiry, view, executor, home, ledger_time) else None


def _ask_attested(
    inquiry: Inquiry, view: StateView, executor: Executor, home: Domain, ledger_time: int
) -> bool:
    """As `why_unattested`: each reference that covers the executor, up to the first that fails."""
    things: list[Thing] = []
    for each in standings(view, executor, home, ledger_time):
        things.append(reference_thing(each, ledger_time))
        if each.denied is not None:
            return inquiry.answer(Question.ATTESTATION, each.denied, things)
    return inquiry.answer(Question.ATTESTATION, None, things)


def _is_free(
    inquiry: Inquiry, view: StateView, contained: Deny | None, lease: Lease | None = None
) -> bool:
    """Whether nothing contains the executor, or the lease."""
    if contained is None:
        return inquiry.answer(Question.CONTAINED, None)
    things = things_contained(view, contained, lease)
    case = replace(inquiry.case, contained_by=containers_of(view, contained))
    return inquiry.answer(Question.CONTAINED, contained, things, case=case)


def _ask_owner(inquiry: Inquiry, view: StateView, act: DecisionRequest | Lease) -> Domain | None:
    """The owner of the resource, if it is active, and nothing like the act is frozen there."""
    owner = active_owner(view, act.resource)
    is_active = _answer_domain(inquiry, view, Question.OWNER, owner)
    if not is_active or isinstance(owner, Deny):
        return None
    return owner if _ask_frozen(inquiry, view, owner, act.action) else None


def _ask_frozen(inquiry: Inquiry, view: StateView, owner: Domain, action: str) -> bool:
    failure = frozen(view.federation_record(), owner, action)
    if failure is None:
        return inquiry.answer(Question.FROZEN, None)
    federation = view.federation()
    is_all = federation.frozen is not None and not federation.frozen.lets(action)
    held = federation if is_all else owner
    assert held.frozen is not None, "it denies"
    listed = ", ".join(held.frozen.actions)
    note = f"lets through {listed}" if listed else "lets nothing through"
    role, since = Role.PASSED_OVER, held.frozen.since
    things = (Thing(held.kind, held.id, role, Question.FROZEN, since, failure, note),)
    by = BY_BALLOT if is_all else owner.id
    return inquiry.answer(
        Question.FROZEN, failure, things, case=replace(inquiry.case, frozen_by=by)
    )


def _answer_domain(
    inquiry: Inquiry, view: StateView, question: Question, domain: Domain | Deny
) -> bool:
    if isinstance(domain, Domain):
        return inquiry.answer(question, None, (thing_of(domain),))
    found = None if domain.reason is Reason.UNKNOWN_DOMAIN else view.domain(domain.thing)
    if found is None:
        return inquiry.answer(question, domain)
    by = found.suspended_by
    note = f"suspended by {by}" if by else ""
    things = (replace(thing_of(found, domain), note=note),)
    case = replace(inquiry.case, suspended_by=by)
    return inquiry.answer(question, domain, things, case=case)


def _ask_trust(
    inquiry: Inquiry, routes: Routes, request: DecisionRequest, owner: Domain, executor: Executor
) -> tuple[bool, tuple[TrustEdge, ...]]:
    """Whether trust leads there, and over which edges."""
    if owner.domain == executor.domain:
        return inquiry.answer(Question.TRUST, None, note="within one domain"), ()
    ends, act = (owner.domain, executor.domain), (request.action, request.resource)
    things: list[Thing] = []
    for edge, failure in routes.tried(*ends):
        note = "" if failure is None else outside(edge, *act)
        things.append(replace(thing_of(edge, failure), note=note))
        if failure is None:
            return inquiry.answer(Question.TRUST, None, things), (edge,)
    route = routes.find(*ends)
    if route:
        things += [thing_of(edge) for edge in route]
        return inquiry.answer(Question.TRUST, None, things, "passed on"), route
    missing = Deny(Reason.NO_TRUST, owner.domain)
    note = f"{owner.domain} has no open edge to {executor.domain}" if not things else ""
    return inquiry.answer(Question.TRUST, missing, things, note), ()


def _ask_grant(  # noqa: PLR0917  # as `tried_grants`
    inquiry: Inquiry,
    view: StateView,
    request: DecisionRequest,
    owner: Domain,
    ledger_time: int,
    backings: Backings,
) -> Grant | None:
    things: list[Thing] = []
    failures: list[Deny] = []
    for grant, failure in tried_grants(view, request, owner.domain, ledger_time, backings):
        if failure is None:
            own = (grant_thing(grant, None), *things_behind(view, grant, None))
            inquiry.answer(Question.GRANT, None, (*things, *own))
            return grant
        note = outside(grant, request.action, request.resource)
        note = note or unmet_words(view, failure, request.context)
        things.append(grant_thing(grant, failure, note))
        failures.append(failure)
    note = f"{owner.domain} has granted the executor nothing" if not things else ""
    told = nearest(failures, owner.domain)
    case = replace(inquiry.case, wanted=wanted_values(view, told))
    inquiry.answer(Question.GRANT, told, things, note, case=case)
    return None


def _ask_own_route(
    inquiry: Inquiry, view: StateView, lease: Lease, owner: Domain, executor: Executor
) -> bool:
    failure = why_broken(view, lease, owner.domain, executor.domain)
    if owner.domain == executor.domain:
        return inquiry.answer(Question.TRUST, failure, note="within one domain")
    things: list[Thing] = []
    for ident in lease.edges:
        edge = view.trust_edge(*split_id(ident))
        if edge is None:
            return inquiry.answer(Question.TRUST, failure, things, "its edge is not there")
        own = failure if failure is not None and failure.thing == ident else None
        note = "" if own is None else outside(edge, lease.action, lease.resource)
        things.append(replace(thing_of(edge, own), note=note))
        if own is not None:
            break
    between = view.domain(failure.thing) if failure is not None else None
    if between is not None and failure is not None and failure.reason is not Reason.NO_TRUST:
        things.append(thing_of(between, failure))
        case = replace(inquiry.case, suspended_by=between.suspended_by)
        return inquiry.answer(Question.TRUST, failure, things, case=case)
    return inquiry.answer(Question.TRUST, failure, things)


def _ask_own_grant(
    inquiry: Inquiry, view: StateView, lease: Lease, owner: Domain, ledger_time: int
) -> bool:
    grant = grant_of_lease(view, lease, owner.domain, ledger_time)
    if isinstance(grant, Grant):
        failure = why_unbacked(view, lease) if grant.parent else None
        things = (grant_thing(grant, None), *things_behind(view, grant, failure))
        return inquiry.answer(Question.GRANT, failure, things)
    found = view.grant(*split_id(lease.grant))
    own = () if found is None else (grant_thing(found, grant),)
    return inquiry.answer(Question.GRANT, grant, own)


def _ask_policy(
    inquiry: Inquiry, view: StateView, owner: Domain, executor: Executor, subject: Subject
) -> bool:
    """As `why_forbidden`, to the first set that does not permit."""
    home = active_domain(view, executor.domain)
    assert isinstance(home, Domain), "it was asked about before"
    things: list[Thing] = []
    for item in Deciders(view.federation_record(), owner, home).having_say():
        ruling = rule(view, item, subject)
        failure = failure_of(item.id, ruling)
        things.append(policies_thing(view, item, failure, ruling))
        if failure is not None:
            return inquiry.answer(Question.POLICY, failure, things)
    return inquiry.answer(Question.POLICY, None, things, "" if things else "none is in force")


def _safely(inquiry: Inquiry, ask: Callable[[], tuple[str, ...]]) -> tuple[str, ...]:
    try:
        return ask()
    except StorageError:
        inquiry.broken()
        return ()
