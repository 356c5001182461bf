"""Explaining what the ledger has recorded: the decision of one entry, step by step.

Owns which questions each kind of command was asked, in the order in which `apply` asks them. For
leases they are those of `quorate.core.explaining`, at the state and the time that the entry was
decided on; of what governs, the outcome is told as it was recorded. Does not own that the entry is
true: `quorate.core.replaying` decides it again.
"""

from __future__ import annotations

from typing import Final

from quorate.core import entries
from quorate.core.bodies import AcquireLease, ReleaseLease, RenewLease
from quorate.core.commands import Command, envelope_in, parse_command
from quorate.core.decision import DecisionRequest
from quorate.core.entries import Entry
from quorate.core.errors import StorageError
from quorate.core.explaining import (
    ACT_QUESTIONS,
    REVIEW_QUESTIONS,
    ask_act,
    ask_in_force,
    ask_lease,
    ask_parents,
    ask_review,
    case_of,
)
from quorate.core.explanation import Explanation, Question, Thing, thing_of
from quorate.core.inquiry import Inquiry
from quorate.core.outcome import Deny, Reason
from quorate.core.remedies import Case
from quorate.core.state import StateView
from quorate.core.status import Status

_OF_COMMANDS: Final = frozenset(
    {
        Reason.INTERNAL,
        Reason.MALFORMED_COMMAND,
        Reason.TOO_LARGE,
        Reason.WRONG_ORIGIN,
        Reason.UNKNOWN_ISSUER,
        Reason.BAD_SIGNATURE,
        Reason.TOO_FEW_SIGNATURES,
        Reason.KEY_EXPIRED,
        Reason.NODE_RETIRED,
        Reason.NONCE_REUSED,
        Reason.EXPIRED_COMMAND,
        Reason.LIFETIME_TOO_LONG,
        Reason.RATE_LIMITED,
        Reason.NOT_AUTHORIZED,
    }
)
"""What is said of a command as such, before what it asks for is looked at. DOMAIN_REVOKED is said
of its issuer, too."""


def recount(view: StateView, entry: Entry) -> Explanation:
    """Why the entry was decided as it was. view: the state before it. Raises MalformedError for an
    entry that no ledger has, and StorageError."""
    recorded = None if entry.reason is None else Deny(entry.reason, entry.thing)
    if entry.kind in (entries.GENESIS, entries.MALFORMED):
        return _as_recorded(Inquiry((Question.COMMAND,), Case()), entry, recorded)
    command = parse_command(envelope_in(entry.command).payload, view.federation().protocol)
    inquiry = Inquiry(_questions(command), _case(view, command, recorded))
    things, is_gone = _issuer(view, command)
    of_command = recorded if recorded is not None and _is_of_command(recorded, is_gone) else None
    note = f"{command.verb} of {command.issuer}"
    depends_on: tuple[str, ...] = ()
    if inquiry.answer(Question.COMMAND, of_command, things, note):
        try:
            depends_on = _ask(inquiry, view, command, entry, recorded)
        except StorageError:
            inquiry.broken()
    return inquiry.end(depends_on, entry.time)


def _as_recorded(inquiry: Inquiry, entry: Entry, recorded: Deny | None) -> Explanation:
    is_genesis = entry.kind == entries.GENESIS
    note = "signed by every organisation" if is_genesis else "no command at all"
    inquiry.answer(Question.COMMAND, recorded, note=note)
    return inquiry.end((), entry.time)


def _questions(command: Command) -> tuple[Question, ...]:
    match command.body:
        case AcquireLease(parents=parents):
            more = (Question.PARENTS,) if parents else ()
            return (Question.COMMAND, *ACT_QUESTIONS, *more, Question.EFFECT)
        case RenewLease():
            return (Question.COMMAND, Question.LEASE, Question.IN_FORCE, *REVIEW_QUESTIONS)
        case ReleaseLease():
            return (Question.COMMAND, Question.LEASE, Question.IN_FORCE)
        case _:
            return (Question.COMMAND, Question.EFFECT)


def _case(view: StateView, command: Command, recorded: Deny | None) -> Case:
    match command.body:
        case AcquireLease(executor=executor, action=action, resource=resource):
            return case_of(executor, action, resource)
        case (
            RenewLease(lease=lease_id, executor=executor)
            | ReleaseLease(lease=lease_id, executor=executor)
        ):
            lease = view.lease(lease_id)
            if lease is not None and lease.executor == executor:
                return case_of(executor, lease.action, lease.resource)
            return Case(executor)
        case _:
            if recorded is None or recorded.reason is not Reason.DOMAIN_SUSPENDED:
                return Case()
            domain = view.domain(recorded.thing)
            return Case(suspended_by=domain.suspended_by if domain is not None else "")


def _issuer(view: StateView, command: Command) -> tuple[tuple[Thing, ...], bool]:
    """Who gave the command, and whether it is of a domain that was expelled."""
    node = view.node(command.issuer) if command.issued_by_node else None
    domain = view.domain(node.domain if node is not None else command.issuer)
    found = node or domain
    is_gone = domain is not None and domain.status is Status.REVOKED
    return (() if found is None else (thing_of(found),)), is_gone


def _is_of_command(recorded: Deny, is_gone: bool) -> bool:
    return recorded.reason in _OF_COMMANDS or (is_gone and recorded.reason is Reason.DOMAIN_REVOKED)


def _ask(
    inquiry: Inquiry, view: StateView, command: Command, entry: Entry, recorded: Deny | None
) -> tuple[str, ...]:
    """The questions after the first; what a permit relies on."""
    body, now = command.body, entry.time
    if isinstance(body, RenewLease | ReleaseLease):
        lease = ask_lease(inquiry, view, body.lease, body.executor)
        if lease is None or not ask_in_force(inquiry, lease, now):
            return ()
        if isinstance(body, RenewLease) and not ask_review(inquiry, view, lease, now):
            return ()
        return lease.depends_on
    depends_on: tuple[str, ...] = ()
    if isinstance(body, AcquireLease):
        request = DecisionRequest(body.executor, body.action, body.resource, body.context)
        route = ask_act(inquiry, view, request, now)
        if route is None or (body.parents and not ask_parents(inquiry, view, body.parents, now)):
            return ()
        depends_on = route.depends_on
    note = f"changed {entry.thing}" if recorded is None and entry.thing else ""
    inquiry.answer(Question.EFFECT, recorded, note=note)
    return depends_on
