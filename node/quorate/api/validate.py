"""Requests checked field by field, before anything is done with them.

Owns the limits of what a service accepts. Every violation of a request is collected, so that a
caller mends them all at once; what a valid request *means* is the handler's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from quorate.api.errors import InvalidRequestError, Violation
from quorate.core import ids, patterns
from quorate.core.conditions import Condition, check_conditions
from quorate.core.errors import MalformedError
from quorate.core.limits import (
    MAX_ATTRIBUTE_BYTES,
    MAX_ATTRIBUTES,
    MAX_CHECKS_PER_BATCH,
    MAX_CONCURRENT_LEASES,
    MAX_CONDITIONS,
    MAX_DEPTH,
    MAX_ENVELOPE_BYTES,
    MAX_INTEGER,
    MAX_LEASE_TTL_MS,
    MAX_LEASES_PER_WATCH,
    MAX_PARENTS,
    MAX_PATTERNS,
    MAX_PROPOSAL_TIMEOUT_MS,
    MAX_RECORDS_PER_COMMAND,
    MAX_REQUEST_ID_CHARS,
    MAX_SESSION_CHARS,
    MIN_SESSION_CHARS,
)
from quorate.core.lineage import check_attributes, check_event_type, check_head, check_whole_context
from quorate.v1 import explain_pb2, lease_pb2

MAX_VIOLATIONS: Final = 64
"""After so many the rest of the request is not looked at."""


_MAX_PATTERN_BYTES: Final = 8 * 1024
"""Of all patterns of a delegation, and its conditions twice: with the rest of it, its command is no
larger than may be."""


class Violations:
    """Collects what is wrong with one request."""

    def __init__(self) -> None:
        self._found: list[Violation] = []

    @property
    def full(self) -> bool:
        return len(self._found) >= MAX_VIOLATIONS

    def add(self, field: str, problem: str) -> None:
        if not self.full:
            self._found.append(Violation(field, problem))

    def text(self, field: str, value: str, check: Callable[[str], object]) -> None:
        """`check` raises MalformedError when the text is not of its kind."""
        try:
            check(value)
        except MalformedError as error:
            self.add(field, error.problem)

    def optional_text(self, field: str, value: str, check: Callable[[str], object]) -> None:
        if value:
            self.text(field, value, check)

    def within(self, field: str, value: int, least: int, most: int) -> None:
        if not least <= value <= most:
            self.add(field, f"must be within {least} and {most}")

    def length(self, field: str, size: int, least: int, most: int, unit: str) -> None:
        if not least <= size <= most:
            self.add(field, f"must be {least} to {most} {unit}, not {size}")

    def enum(self, field: str, value: int, known: Sequence[int]) -> None:
        if value not in known:
            self.add(field, "is not a known value")

    @property
    def first_field(self) -> str:
        """Of what is wrong; empty when nothing is."""
        return self._found[0].field if self._found else ""

    def raise_any(self) -> None:
        """Raises InvalidRequestError when something was found."""
        if self._found:
            raise InvalidRequestError(self._found)


def check_acquire(request: lease_pb2.AcquireRequest) -> None:
    found = Violations()
    found.text("action", request.action, ids.check_action)
    found.text("resource", request.resource, ids.check_resource)
    request_id_and_ttl(found, request.request_id, request.ttl_ms)
    parents(found, request.parents)
    context(found, request.context)
    found.raise_any()


def context(found: Violations, said: Sequence[str], field: str = "context") -> None:
    """In whatever order: it is put in the ledger's."""
    found.length(field, len(said), 0, MAX_ATTRIBUTES, "names")
    if len(said) <= MAX_ATTRIBUTES:
        try:
            check_whole_context(in_order(said))
        except MalformedError as error:
            found.add(field, error.problem)


def in_order(said: Sequence[str]) -> list[str]:
    """A context, as the ledger has it."""
    return sorted(said, key=lambda each: each.partition("=")[0])


def parents(found: Violations, lease_ids: Sequence[str], field: str = "parents") -> None:
    found.length(field, len(lease_ids), 0, MAX_PARENTS, "leases")
    for index, lease_id in enumerate(lease_ids[:MAX_PARENTS]):
        found.text(f"{field}[{index}]", lease_id, ids.check_lease_id)


def check_delegate(request: lease_pb2.DelegateRequest) -> None:
    found = Violations()
    delegation(found, request)
    found.raise_any()


def check_recall(request: lease_pb2.RecallRequest) -> None:
    found = Violations()
    found.text("grant", request.grant, ids.check_grant_id)
    request_id_and_ttl(found, request.request_id, 0)
    found.raise_any()


def delegation(found: Violations, wish: lease_pb2.DelegateRequest) -> None:
    found.text("grant", wish.grant, ids.check_grant_id)
    found.text("to", wish.to, ids.check_executor)
    for name, check in (
        ("actions", patterns.check_action_pattern),
        ("resources", patterns.check_resource_pattern),
    ):
        said = getattr(wish, name)
        found.length(name, len(said), 1, MAX_PATTERNS, "patterns")
        for index, pattern in enumerate(said[:MAX_PATTERNS]):
            found.text(f"{name}[{index}]", pattern, check)
        if len(set(said)) != len(said):
            found.add(name, "names something twice")
    size = sum(len(each.encode()) for each in (*wish.actions, *wish.resources))
    asked = (text for each in wish.conditions for text in (each.name, *each.values))
    size += 2 * sum(len(each.encode()) for each in asked)  # a quotation mark is two on the way
    found.within("resources", size, 0, _MAX_PATTERN_BYTES)
    found.within("not_after_ms", wish.not_after_ms, 0, MAX_INTEGER)
    found.within("max_lease_ttl_ms", wish.max_lease_ttl_ms, 1, MAX_LEASE_TTL_MS)
    found.within("max_uses", wish.max_uses, 0, MAX_INTEGER)
    found.within("max_concurrent", wish.max_concurrent, 0, MAX_CONCURRENT_LEASES)
    found.within("max_depth", wish.max_depth, 0, MAX_DEPTH)
    conditions(found, wish.conditions)
    request_id_and_ttl(found, wish.request_id, 0)


def conditions(found: Violations, said: Sequence[lease_pb2.Condition]) -> None:
    """In whatever order: they are put in the ledger's."""
    most = max((len(each.values) for each in said[:MAX_CONDITIONS]), default=1)
    found.length("conditions", len(said), 0, MAX_CONDITIONS, "names")
    found.length("conditions", most, 0, MAX_PATTERNS, "values")
    if len(said) <= MAX_CONDITIONS and most <= MAX_PATTERNS:
        try:
            check_conditions(conditions_of(said))
        except MalformedError as error:
            found.add("conditions", error.problem)


def conditions_of(said: Sequence[lease_pb2.Condition]) -> list[Condition]:
    """Conditions, as the ledger has them."""
    given = [Condition(each.name, tuple(sorted(each.values))) for each in said]
    return sorted(given, key=lambda each: each.name)


def check_report(request: lease_pb2.ReportRequest) -> None:
    found = Violations()
    found.text("lease_id", request.lease_id, ids.check_lease_id)
    found.text("after", request.after, check_head)
    found.length("events", len(request.events), 1, MAX_RECORDS_PER_COMMAND, "events")
    for index, event in enumerate(request.events[:MAX_RECORDS_PER_COMMAND]):
        if found.full:
            break
        found.text(f"events[{index}].type", event.type, check_event_type)
        attributes = dict(event.attributes)
        try:
            check_attributes(attributes, f"events[{index}].attributes")
        except MalformedError as error:
            found.add(error.field, error.problem)
            continue
        size = sum(len(name) + len(value.encode()) for name, value in attributes.items())
        found.length(f"events[{index}].attributes", size, 0, MAX_ATTRIBUTE_BYTES, "bytes")
    found.raise_any()


def check_explain(request: explain_pb2.ExplainRequest, executor: str) -> None:
    """executor: whom it is about, as far as that is known."""
    found = Violations()
    found.optional_text("executor", executor, ids.check_executor)
    about = request.WhichOneof("about")
    if about == "act":
        if not executor:
            found.add("executor", "must be named: an operator does nothing itself")
        found.text("act.action", request.act.action, ids.check_action)
        found.text("act.resource", request.act.resource, ids.check_resource)
        parents(found, request.act.parents, "act.parents")
        context(found, request.act.context, "act.context")
    elif about == "lease":
        found.text("lease.lease_id", request.lease.lease_id, ids.check_lease_id)
        found.optional_text("lease.action", request.lease.action, ids.check_action)
        found.optional_text("lease.resource", request.lease.resource, ids.check_resource)
    else:
        found.add("about", "must be an act or a lease")
    found.raise_any()


def check_renew(request: lease_pb2.RenewRequest) -> None:
    found = Violations()
    found.text("lease_id", request.lease_id, ids.check_lease_id)
    request_id_and_ttl(found, request.request_id, request.ttl_ms)
    found.raise_any()


def check_release(request: lease_pb2.ReleaseRequest) -> None:
    found = Violations()
    found.text("lease_id", request.lease_id, ids.check_lease_id)
    _request_id(found, request.request_id)
    found.raise_any()


def check_check(request: lease_pb2.CheckRequest) -> None:
    found = Violations()
    _check_fields(found, request)
    found.raise_any()


def check_batch(request: lease_pb2.CheckBatchRequest) -> list[str]:
    """For each of its checks the field that is at fault; empty when it is what it should be."""
    found = Violations()
    found.length("checks", len(request.checks), 1, MAX_CHECKS_PER_BATCH, "checks")
    found.raise_any()
    return [_fault(check) for check in request.checks]


def _fault(check: lease_pb2.CheckRequest) -> str:
    found = Violations()
    _check_fields(found, check)
    return found.first_field


def check_watch(request: lease_pb2.WatchRequest, *, is_first: bool) -> None:
    """is_first: whether it is the request that a call begins with."""
    found = Violations()
    _lease_ids(found, "lease_ids", request.lease_ids, 1 if is_first else 0)
    _lease_ids(found, "forget_lease_ids", request.forget_lease_ids, 0)
    acknowledged = [each.lease_id for each in request.acknowledgements]
    _lease_ids(found, "acknowledgements", acknowledged, 0)
    if is_first:
        _session(found, request.session)
    else:
        for name in ("session", "after_size"):
            if getattr(request, name):
                found.add(name, "is said in the first request only")
    found.raise_any()


def _lease_ids(found: Violations, field: str, lease_ids: Sequence[str], least: int) -> None:
    found.length(field, len(lease_ids), least, MAX_LEASES_PER_WATCH, "leases")
    for index, lease_id in enumerate(lease_ids[:MAX_LEASES_PER_WATCH]):
        if found.full:
            break
        found.text(f"{field}[{index}]", lease_id, ids.check_lease_id)
    if len(set(lease_ids)) != len(lease_ids):
        found.add(field, "names a lease twice")


def envelope_and_timeout(found: Violations, envelope: bytes, timeout_ms: int) -> None:
    found.length("envelope", len(envelope), 1, MAX_ENVELOPE_BYTES, "bytes")
    found.within("timeout_ms", timeout_ms, 0, MAX_PROPOSAL_TIMEOUT_MS)


def _check_fields(found: Violations, request: lease_pb2.CheckRequest) -> None:
    found.text("lease_id", request.lease_id, ids.check_lease_id)
    found.optional_text("action", request.action, ids.check_action)
    found.optional_text("resource", request.resource, ids.check_resource)
    _session(found, request.session)


def _session(found: Violations, session: str) -> None:
    if session and not MIN_SESSION_CHARS <= len(session) <= MAX_SESSION_CHARS:
        found.add("session", "must be 16 to 64 characters, or none")
    elif not (session.isascii() and session.isprintable()):
        found.add("session", "must be printable ASCII")


def request_id_and_ttl(found: Violations, request_id: str, ttl_ms: int) -> None:
    found.within("ttl_ms", ttl_ms, 0, MAX_LEASE_TTL_MS)
    _request_id(found, request_id)


def _request_id(found: Violations, request_id: str) -> None:
    if len(request_id) > MAX_REQUEST_ID_CHARS:
        found.add("request_id", f"longer than {MAX_REQUEST_ID_CHARS} characters")
    elif not (request_id.isascii() and request_id.isprintable()):
        found.add("request_id", "must be printable ASCII")
