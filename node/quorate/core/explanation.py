"""What an explanation is made of: questions, answers, and the things that were looked at.

Owns their form, and how a record is told as a thing. What is asked is `quorate.core.explaining`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from quorate.core.cedar import Ruling
from quorate.core.delegation import chain_of
from quorate.core.outcome import Decision, Deny, Reason
from quorate.core.patterns import action_matches, resource_matches
from quorate.core.records import (
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
