"""Lineage: what executors report of their work under a lease, and the order it may come in.

Owns the records that a node reports to the ledger (`Event` of an executor's, `Denials` of the
node's own), their form, the stages of the work under a lease, and the two chains of hashes by which
a repeat is told from something new. Pure: the state that they change is `quorate.core.reporting`'s.

A chain is H(head, record) over all records so far (SHA-256; an empty chain's head is empty), as in
Haber and Stornetta, How to time-stamp a digital document (1991), section 5.1. Whoever appends says
which head it appends to: what is repeated, or was left out, fits no head.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar, Final

from quorate.core import codec, ids
from quorate.core.errors import MalformedError
from quorate.core.fields import Fields
from quorate.core.limits import (
    MAX_ATTRIBUTE_CHARS,
    MAX_ATTRIBUTES,
    MAX_CONTEXT_BYTES,
    MAX_NAME_CHARS,
    MAX_RECORD_BYTES,
)
from quorate.core.outcome import Reason

RECORD_TYPE: Final = "application/vnd.quorate.record.v1+json"
NO_HEAD: Final = ""


class EventType(StrEnum):
    """What an executor can say of its work under a lease."""

    STARTED = "started"
    VERIFIED = "verified"
    REPORTED = "reported"
    INTERRUPTED = "interrupted"
    CONTAINED = "contained"
    RECOVERY_STARTED = "recovery_started"
    REVALIDATED = "revalidated"
    COMPLETED = "completed"


class Stage(StrEnum):
    """How far the work under a lease has come, by what was reported of it."""

    AUTHORIZED = "authorized"
    STARTED = "started"
    INTERRUPTED = "interrupted"
    CONTAINED = "contained"
    RECOVERING = "recovering"
    COMPLETED = "completed"


_LEGAL: Final = MappingProxyType(
    {
        (Stage.AUTHORIZED, EventType.STARTED): Stage.STARTED,
        (Stage.AUTHORIZED, EventType.INTERRUPTED): Stage.INTERRUPTED,
        (Stage.STARTED, EventType.VERIFIED): Stage.STARTED,
        (Stage.STARTED, EventType.REPORTED): Stage.STARTED,
        (Stage.STARTED, EventType.INTERRUPTED): Stage.INTERRUPTED,
        (Stage.STARTED, EventType.COMPLETED): Stage.COMPLETED,
        (Stage.INTERRUPTED, EventType.REPORTED): Stage.INTERRUPTED,
        (Stage.INTERRUPTED, EventType.CONTAINED): Stage.CONTAINED,
        (Stage.INTERRUPTED, EventType.RECOVERY_STARTED): Stage.RECOVERING,
        (Stage.CONTAINED, EventType.REPORTED): Stage.CONTAINED,
        (Stage.CONTAINED, EventType.RECOVERY_STARTED): Stage.RECOVERING,
        (Stage.RECOVERING, EventType.REPORTED): Stage.RECOVERING,
        (Stage.RECOVERING, EventType.INTERRUPTED): Stage.INTERRUPTED,
        (Stage.RECOVERING, EventType.REVALIDATED): Stage.STARTED,
    }
)
"""Everything else is out of order."""


def next_stage(stage: Stage, event: EventType) -> Stage | None:
    """The stage that an event leads to; None: it is out of order there."""
    return _LEGAL.get((stage, event))


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the work under a lease, as its executor reported it to a node of its domain.

    at: the node's estimate of ledger time when it took it in, ms. attributes: text by name, the
    executor's own.
    """

    KIND: ClassVar[str] = "event"

    lease: str
    executor: str
    type: EventType
    attributes: Mapping[str, str]
    at: int

    def to_json(self) -> dict[str, object]:
        return {
            "kind": self.KIND,
            "lease": self.lease,
            "executor": self.executor,
            "type": self.type.value,
            "attributes": dict(self.attributes),
            "at": self.at,
        }

    @property
    def said(self) -> bytes:
        """What the executor said: the part of it that a repeat has again."""
        return codec.encode([self.type.value, dict(self.attributes)])


@dataclass(frozen=True, slots=True)
class Denials:
    """What a node denied because it could not do otherwise: it held no authority, or was ill.

    executor, lease: empty in what is counted together for want of room. method: the call that was
    denied. ledger_size: how many entries the node's ledger had: it could establish no quorum since.
    first_at, last_at: estimates of ledger time, ms. count: how many calls.
    """

    KIND: ClassVar[str] = "denials"

    executor: str
    method: str
    lease: str
    reason: Reason
    ledger_size: int
    first_at: int
    last_at: int
    count: int

    def to_json(self) -> dict[str, object]:
        return {
            "kind": self.KIND,
            "executor": self.executor,
            "method": self.method,
            "lease": self.lease,
            "reason": self.reason.value,
            "ledger_size": self.ledger_size,
            "first_at": self.first_at,
            "last_at": self.last_at,
            "count": self.count,
        }


Record = Event | Denials

REASONS_OF_THE_NODE: Final = frozenset(
    {
        Reason.INQUORATE,
        Reason.CLOCK_STEP,
        Reason.STORAGE_FULL,
        Reason.INTERNAL,
    }
)
"""Denials for these are no decisions of the ledger: nobody could know of them but for the node."""

METHODS: Final = frozenset({"Acquire", "Check", "CheckBatch", "Renew", "Release"})


def parse_record(value: object, path: str = "") -> Record:
    """A record from its JSON. Raises MalformedError."""
    fields = Fields(value, path)
    parse = _PARSERS.get(fields.text("kind"))
    if parse is None:
        raise MalformedError("is no kind of record", field=fields.at("kind"))
    record = parse(fields)
    fields.done()
    if len(codec.encode(record.to_json())) > MAX_RECORD_BYTES:
        raise MalformedError(f"has more than {MAX_RECORD_BYTES} bytes", field=path)
    return record


def _parse_event(fields: Fields) -> Event:
    return Event(
        lease=fields.text("lease", ids.check_lease_id),
        executor=fields.text("executor", ids.check_executor),
        type=EventType(fields.text("type", check_event_type)),
        attributes=check_attributes(fields.take("attributes"), fields.at("attributes")),
        at=fields.integer("at"),
    )


def _parse_denials(fields: Fields) -> Denials:
    return Denials(
        executor=fields.text("executor", _unless_empty(ids.check_executor)),
        method=fields.text("method", _check_method),
        lease=fields.text("lease", _unless_empty(ids.check_lease_id)),
        reason=Reason(fields.text("reason", _check_reason)),
        ledger_size=fields.integer("ledger_size"),
        first_at=fields.integer("first_at"),
        last_at=fields.integer("last_at"),
        count=fields.integer("count", 1),
    )


_PARSERS: Final = MappingProxyType[str, Callable[[Fields], Record]](
    {Event.KIND: _parse_event, Denials.KIND: _parse_denials}
)


def check_event_type(text: str) -> None:
    if text not in list(EventType):
        raise MalformedError(f"must be one of {', '.join(EventType)}")


def check_attributes(value: object, path: str = "attributes") -> dict[str, str]:
    """Text by name, with names as of grants. Raises MalformedError."""
    if not isinstance(value, dict) or len(value) > MAX_ATTRIBUTES:
        raise MalformedError(f"must be an object of at most {MAX_ATTRIBUTES} names", field=path)
    fields = Fields(value, path)
    return {name: _attribute(fields, name) for name in value}


def check_context(text: str) -> None:
    """`<name>=<text>`, as an attribute. Raises MalformedError."""
    name, sign, said = text.partition("=")
    if not sign:
        raise MalformedError("must be like ticket=OPS-1")
    ids.check_name(name)
    _check_attribute(said)


def check_whole_context(context: Sequence[str]) -> None:
    """What an executor says of one lease, in ascending order of the names. Raises
    MalformedError."""
    for each in context:
        check_context(each)
    names = [each.partition("=")[0] for each in context]
    if names != sorted({*names}):
        raise MalformedError("must name each once, in order")
    size = sum(len(each.encode("utf-8", "surrogatepass")) for each in context)
    if len(names) > MAX_ATTRIBUTES or size > MAX_CONTEXT_BYTES:
        raise MalformedError(f"more than {MAX_ATTRIBUTES} names, or {MAX_CONTEXT_BYTES} bytes")


def _attribute(fields: Fields, name: str) -> str:
    fields.checked(name[:MAX_NAME_CHARS], name, ids.check_name)
    return fields.text(name, _check_attribute)


def _check_attribute(text: str) -> None:
    if len(text) > MAX_ATTRIBUTE_CHARS:
        raise MalformedError(f"longer than {MAX_ATTRIBUTE_CHARS} characters")


def _check_method(text: str) -> None:
    if text not in METHODS:
        raise MalformedError("is no method of the lease service")


def _check_reason(text: str) -> None:
    if text not in REASONS_OF_THE_NODE:
        raise MalformedError("is no reason of a node's own")


def _unless_empty(check: Callable[[str], object]) -> Callable[[str], object]:
    return lambda text: check(text) if text else None


# -- the chains ----------------------------------------------------------------------------------


def chained(head: str, items: Sequence[bytes]) -> str:
    """The head of a chain after `items`, in lower-case hex; `head` is the one before them."""
    state = bytes.fromhex(head)
    for item in items:
        state = hashlib.sha256(state + item).digest()
    return state.hex()


def encoded(record: Record) -> bytes:
    """A record as its node's chain has it."""
    return codec.encode(record.to_json())


def check_head(text: str) -> None:
    """Raises MalformedError unless it can be the head of a chain."""
    if text != NO_HEAD:
        ids.check_command_id(text)  # the same syntax: a SHA-256 in hex
