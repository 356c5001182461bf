"""How many commands a domain, and an executor, may have executed in a minute.

Owns the rates that the federation has agreed on, and what is counted: commands that domains sign
for themselves, those that their nodes sign, and of these those for one executor, each by itself. By
the generic cell rate algorithm (ITU-T I.371) in ledger time: of each, the state keeps the moment at
which it would have used up what it has used, had it kept to its rate. Nothing that can only narrow,
nor a ballot, is ever counted or refused: there must be no rate that keeps anybody from revoking, or
the federation from changing its rates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Final

from quorate.core import keys
from quorate.core.bodies import (
    AcquireLease,
    ChallengeExecutor,
    DelegateGrant,
    PublishPolicy,
    RenewLease,
    ReportAttestation,
    SetReference,
)
from quorate.core.commands import Command
from quorate.core.errors import MalformedError
from quorate.core.limits import MAX_RATE_PER_MIN
from quorate.core.outcome import Deny, Reason
from quorate.core.records import Domain, Rates
from quorate.core.state import StateView
from quorate.core.store import Writer
from quorate.core.verbs import Verb

_US_PER_MS: Final = 1_000
_MINUTE_US: Final = 60_000_000

COUNTED: Final = frozenset(
    {
        Verb.EXECUTOR_REGISTER,
        Verb.EXECUTOR_REINSTATE,
        Verb.EXECUTOR_LIFT_CONTAINMENT,
        Verb.TRUST_OPEN,
        Verb.GRANT_ISSUE,
        Verb.GRANT_REINSTATE,
        Verb.GRANT_DELEGATE,
        Verb.RESOURCES_THAW,
        Verb.POLICY_RETIRE,
        Verb.PROPOSAL_OPEN,
        Verb.NODE_ADD,
        Verb.NODE_PROMOTE,
        Verb.LEASE_ACQUIRE,
        Verb.LEASE_RENEW,
        Verb.ATTESTATION_RETIRE_REFERENCE,
        Verb.ATTESTATION_CHALLENGE,
        Verb.ATTESTATION_REPORT,
    }
)
COUNTED_IN_PLACE: Final = frozenset({Verb.POLICY_PUBLISH, Verb.ATTESTATION_SET_REFERENCE})
"""These are counted in the place of something that is there, where they may widen. The first of its
kind can only narrow."""

_FOR_EXECUTORS: Final = (
    AcquireLease | RenewLease | DelegateGrant | ChallengeExecutor | ReportAttestation
)


@dataclass(frozen=True, slots=True)
class Meter:
    """One thing that is counted. key: where the state keeps its moment. thing: who is refused."""

    key: bytes
    per_min: int
    thing: str


def meters(view: StateView, command: Command, domain: Domain) -> tuple[Meter, ...]:
    """What this command of `domain` counts for, of what has a rate. Raises StorageError."""
    rates = view.federation_record().rates
    if rates is None or not _is_counted(view, command, domain):
        return ()
    executor, by_node = "", command.issued_by_node
    if by_node and isinstance(command.body, _FOR_EXECUTORS):
        # Only its own domain uses an executor's up, and only of one that there is.
        known = view.executor(command.body.executor)
        executor = known.id if known is not None and known.domain == domain.id else ""
    return tuple(_meters(rates, domain.id, executor, by_node=by_node))


def _is_counted(view: StateView, command: Command, domain: Domain) -> bool:
    if command.verb not in COUNTED_IN_PLACE:
        return command.verb in COUNTED
    match command.body:
        case PublishPolicy():
            return domain.has_policies
        case SetReference(reference=name):
            return view.reference(domain.id, name) is not None
        case _:
            raise AssertionError(f"nothing says what {command.verb} takes the place of")


def meters_of_wish(view: StateView, kind: str, domain: str, executor: str) -> tuple[Meter, ...]:
    """The same, of a command that a node is asked to make for an executor."""
    rates = view.federation_record().rates
    if rates is None or kind not in COUNTED:
        return ()
    return tuple(_meters(rates, domain, executor, by_node=True))


def _meters(rates: Rates, domain: str, executor: str, *, by_node: bool) -> Iterator[Meter]:
    if executor and rates.executor_per_min:
        yield Meter(keys.rate(keys.RATE_OF_EXECUTOR, executor), rates.executor_per_min, executor)
    if rates.domain_per_min:
        kind = keys.RATE_OF_NODES if by_node else keys.RATE_OF_DOMAIN
        yield Meter(keys.rate(kind, domain), rates.domain_per_min, domain)


def exceeded(view: StateView, meters: tuple[Meter, ...], ledger_time: int) -> Deny | None:
    """Whether one more would be too many at this ledger time (ms). Raises StorageError."""
    for meter in meters:
        if _after(view, meter, ledger_time) > latest_moment(ledger_time):
            return Deny(Reason.RATE_LIMITED, meter.thing)
    return None


def charge(store: Writer, meters: tuple[Meter, ...], ledger_time: int) -> None:
    """One more was executed, with whatever outcome."""
    view = StateView(store)
    for meter in meters:
        store.put(meter.key, keys.number(_after(view, meter, ledger_time)))


def _after(view: StateView, meter: Meter, ledger_time: int) -> int:
    """The meter's moment with one more, in microseconds since the epoch."""
    return max(view.metered(meter.key), ledger_time * _US_PER_MS) + _MINUTE_US // meter.per_min


def latest_moment(ledger_time: int) -> int:
    """What no meter's moment is beyond at this ledger time (ms), in microseconds: a minute's worth
    may be used up at once."""
    return ledger_time * _US_PER_MS + _MINUTE_US


def check_rates(rates: Rates | None, *, may_be: bool) -> None:
    """Raises MalformedError for what no ballot has made. may_be: whether there can be any."""
    if rates is None:
        return
    said = [getattr(rates, item.name) for item in fields(rates)]
    if not may_be or not any(said) or max(said) > MAX_RATE_PER_MIN:
        raise MalformedError("has rates that cannot be")
