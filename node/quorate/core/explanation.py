"""What an explanation is made of: questions, answers, and the things that were looked at.

Owns their form, and how a record is told as a thing. What is asked is `quorate.core.explaining`'s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from quorate.core.attestation import Standing
from quorate.core.cedar import Ruling
from quorate.core.conditions import said_in
from quorate.core.delegation import chain_of
from quorate.core.limits import MAX_ANCESTORS
from quorate.core.outcome import Decision, Deny, Reason
from quorate.core.patterns import action_matches, resource_matches
from quorate.core.records import (
    DRIFT,
    Domain,
    Executor,
    Federation,
    Grant,
    Kind,
    Lease,
    Node,
    TrustEdge,
)
from quorate.core.remedies import Remedy
from quorate.core.routing import split_id
from quorate.core.state import StateView
from quorate.core.status import Status


class Question(StrEnum):
    """What a decision asks. The docs say each in words."""

    NODE = "node"
    COMMAND = "command"
    LEASE = "lease"
    SCOPE = "scope"
    IN_FORCE = "in_force"
    EXECUTOR = "executor"
    HOME = "home"
    ATTESTATION = "attestation"
    CONTAINED = "contained"
    OWNER = "owner"
    FROZEN = "frozen"
    ACTION = "action"
    TRUST = "trust"
    GRANT = "grant"
    POLICY = "policy"
    PARENTS = "parents"
    EFFECT = "effect"


class Answer(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    NOT_ASKED = "not_asked"


class Role(StrEnum):
    """What a thing was to a step. A permit relies on all of RELIED_ON, in their order: the edges of
    a trust route, from the owner to the executor's domain, would be several."""

    RELIED_ON = "relied_on"
    PASSED_OVER = "passed_over"


@dataclass(frozen=True, slots=True)
class Thing:
    """Something that was looked at, as it was found.

    kind: a Kind, or empty for what is none of the state's. status: empty when it is not there.
    changed: the ledger index of the last change of its status. failure: why it does not do.
    note: the same in words, or how far it is used.
    """

    kind: str
    id: str
    role: Role
    status: str = ""
    changed: int | None = None
    failure: Deny | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One question. denied: the answer, when it failed; and then what would have to change."""

    question: Question
    answer: Answer
    things: tuple[Thing, ...] = ()
    note: str = ""
    denied: Deny | None = None
    remedy: Remedy | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """ledger_time: the time (ms) at which it holds."""

    decision: Decision
    steps: tuple[Step, ...]
    ledger_time: int

    @property
    def decided(self) -> Step | None:
        """The step that denied; None: all passed."""
        return next((step for step in self.steps if step.answer is Answer.FAILED), None)


def thing_of(
    record: Domain | Node | Executor | TrustEdge | Grant | Lease, failure: Deny | None = None
) -> Thing:
    role = Role.RELIED_ON if failure is None else Role.PASSED_OVER
    return Thing(record.kind, record.id, role, record.status, record.changed, failure)


def grant_thing(grant: Grant, failure: Deny | None, note: str = "") -> Thing:
    most = f" of {grant.max_uses}" if grant.max_uses else ""
    return replace(thing_of(grant, failure), note=note or f"leases given: {grant.uses}{most}")


def policies_thing(
    view: StateView, item: Federation | Domain, failure: Deny | None, ruling: Ruling
) -> Thing:
    """The set of policies that a domain or the federation has in force, and what it says."""
    found = view.policies(item.policies_id)
    assert found is not None, "it was asked"
    names = ", ".join(ruling.by)
    verb = "permits" if ruling.permits else "forbids"
    said = f"{verb}: {names}" if names else "no policy permits it"
    if ruling.is_broken:
        said = "could not be evaluated"
    role = Role.RELIED_ON if failure is None else Role.PASSED_OVER
    note = f"version {found.version}, {said}"
    return Thing(Kind.POLICIES, found.id, role, "in force", found.changed, failure, note)


def outside(scope: TrustEdge | Grant, action: str, resource: str) -> str:
    """How an edge or a grant is for something else; empty when it is not."""
    if isinstance(scope, TrustEdge) and scope.status is not Status.ACTIVE:
        return "closed" if scope.status is Status.REVOKED else str(scope.status)
    if not any(action_matches(pattern, action) for pattern in scope.actions):
        return "for other actions"
    if not any(resource_matches(pattern, resource) for pattern in scope.resources):
        return "for other resources"
    return ""


def wanted_values(view: StateView, failure: Deny) -> tuple[str, ...]:
    """What a condition that is not met asks for: one of these; none for any other denial."""
    if failure.reason is not Reason.CONDITION_UNMET:
        return ()
    ident, _, name = failure.thing.rpartition("/")
    grant = view.grant(*split_id(ident))
    conditions = () if grant is None else grant.conditions
    return next((each.values for each in conditions if each.name == name), ())


def unmet_words(view: StateView, failure: Deny, context: Sequence[str]) -> str:
    """How a context does not meet a condition, which may be of a grant behind the one that was
    tried; empty for any other denial."""
    wanted = wanted_values(view, failure)
    if not wanted:
        return ""
    name = failure.thing.rpartition("/")[2]
    said = "something else" if name in said_in(context) else "nothing"
    return f"asks for {name} to be {' or '.join(wanted)}; {said} was said of it"


def reference_thing(standing: Standing, ledger_time: int) -> Thing:
    """A reference that covers an executor, and what that has proved for it."""
    reference, held = standing.reference, standing.attestation
    role = Role.RELIED_ON if standing.denied is None else Role.PASSED_OVER
    note = "nothing was proved"
    if held is not None and standing.until > ledger_time:
        note = f"proved, for {standing.until - ledger_time} ms more"
    elif held is not None:
        note = f"lapsed {ledger_time - standing.until} ms ago"
    if standing.denied is not None and standing.denied.reason is Reason.ATTESTATION_MISMATCH:
        note = "what was proved does not equal it any more"
    changed, failure = reference.changed, standing.denied
    return Thing(Kind.REFERENCE, reference.id, role, "", changed, failure, note)


def suspended_words(executor: Executor) -> str:
    """Why an executor is suspended that did so itself, by what it has shown or said."""
    cause = executor.suspended_for
    why = "it reported drift" if cause == DRIFT else f"what it proved did not equal {cause}"
    return f"{why}; its organisation suspends it, too" if executor.suspended_by_domain else why


def containers_of(view: StateView, failure: Deny) -> tuple[str, ...]:
    """Which domains contain what a denial is about."""
    found = view.containment(failure.thing)
    return () if found is None else found.by


def things_contained(view: StateView, failure: Deny, lease: Lease | None) -> list[Thing]:
    """What is contained, and how the lease comes from it: each lease on the way, the nearest first.
    lease: None when an executor is asked about, itself."""
    found = view.containment(failure.thing)
    is_lease = view.lease(failure.thing) is not None
    kind, since = (Kind.LEASE if is_lease else Kind.EXECUTOR), found.since if found else None
    note = f"contained by {', '.join(found.by)}" if found else ""
    own = Thing(kind, failure.thing, Role.PASSED_OVER, "contained", since, failure, note)
    way = [] if lease is None else _way_to(view, lease, failure.thing)
    things = [replace(thing_of(each), note="came from the next") for each in way]
    if way and not is_lease:
        things[-1] = replace(things[-1], note="rests on the next")
    return [*things, own]


def _way_to(view: StateView, lease: Lease, thing: str) -> list[Lease]:
    """A shortest way from a lease, by what it came from, to the one that is contained, without it,
    or that rests on the executor which is. Looks at each ancestor once."""
    came_from: dict[str, Lease | None] = {lease.id: None}
    left = deque([lease])
    while left:
        one = left.popleft()
        if thing == one.id or thing in one.executors:
            way = [] if thing == one.id else [one]
            before = came_from[one.id]
            while before is not None:
                way.append(before)
                before = came_from[before.id]
            return way[::-1]
        for ident in one.parents:
            parent = view.lease(ident) if ident not in came_from else None
            if parent is not None and len(came_from) <= MAX_ANCESTORS:
                came_from[ident] = one
                left.append(parent)
    return []


def things_behind(view: StateView, grant: Grant, failure: Deny | None) -> list[Thing]:
    """What a grant rests on that was passed on: each grant before it, and who passed that on. What
    failed is among them, or is told beside them: a domain, or an edge that leads to one."""

    def of(ident: str) -> Deny | None:
        return failure if failure is not None and failure.thing == ident else None

    things: list[Thing] = []
    for each in chain_of(view, grant):
        things.append(grant_thing(each, of(each.id)))
        executor = view.executor(each.executor)
        if executor is not None:
            things.append(thing_of(executor, of(executor.id)))
    if failure is not None and not any(thing.failure for thing in things):
        kind = Kind.TRUST if failure.reason is Reason.NO_TRUST else Kind.DOMAIN
        things.append(Thing(kind, failure.thing, Role.PASSED_OVER, failure=failure))
    return things
