"""What can be said of the work under a lease, in which order, and the chains of what was said."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from quorate.core import codec
from quorate.core.errors import MalformedError
from quorate.core.limits import (
    MAX_ATTRIBUTE_BYTES,
    MAX_ATTRIBUTE_CHARS,
    MAX_ATTRIBUTES,
    MAX_ID_CHARS,
    MAX_INTEGER,
    MAX_NAME_CHARS,
    MAX_RECORD_BYTES,
)
from quorate.core.lineage import (
    METHODS,
    NO_HEAD,
    REASONS_OF_THE_NODE,
    Denials,
    Event,
    EventType,
    Stage,
    chained,
    check_head,
    encoded,
    next_stage,
    parse_record,
)
from quorate.core.outcome import Reason

AGENT = "spiffe://clinic.example/agent/claims"
LEASE = "5" * 32
EVENT: dict[str, Any] = {
    "kind": "event",
    "lease": LEASE,
    "executor": AGENT,
    "type": "started",
    "attributes": {"image": "sha256:77", "empty": ""},
    "at": 4,
}
DENIALS: dict[str, Any] = {
    "kind": "denials",
    "executor": AGENT,
    "method": "Check",
    "lease": LEASE,
    "reason": "INQUORATE",
    "ledger_size": 9,
    "first_at": 4,
    "last_at": 5,
    "count": 3,
}

# -- the order -----------------------------------------------------------------------------------

_ = None
LEADS_TO: dict[EventType, tuple[Stage | None, ...]] = {
    # from:                AUTHORIZED, STARTED, INTERRUPTED, CONTAINED, RECOVERING, COMPLETED
    EventType.STARTED: (Stage.STARTED, _, _, _, _, _),
    EventType.VERIFIED: (_, Stage.STARTED, _, _, _, _),
    EventType.REPORTED: (
        _,
        Stage.STARTED,
        Stage.INTERRUPTED,
        Stage.CONTAINED,
        Stage.RECOVERING,
        _,
    ),
    EventType.INTERRUPTED: (
        Stage.INTERRUPTED,
        Stage.INTERRUPTED,
        _,
        _,
        Stage.INTERRUPTED,
        _,
    ),
    EventType.CONTAINED: (_, _, Stage.CONTAINED, _, _, _),
    EventType.RECOVERY_STARTED: (_, _, Stage.RECOVERING, Stage.RECOVERING, _, _),
    EventType.REVALIDATED: (_, _, _, _, Stage.STARTED, _),
    EventType.COMPLETED: (_, Stage.COMPLETED, _, _, _, _),
}


@pytest.mark.parametrize("stage", list(Stage))
@pytest.mark.parametrize("event", list(EventType))
def test_every_stage_says_what_may_come_next(stage: Stage, event: EventType) -> None:
    assert next_stage(stage, event) is LEADS_TO[event][list(Stage).index(stage)]


def test_every_stage_can_be_reached_and_only_the_last_is_final() -> None:
    reached = {Stage.AUTHORIZED}
    for _round in Stage:
        reached |= {
            later
            for stage in reached
            for event in EventType
            if (later := next_stage(stage, event)) is not None
        }
    assert reached == set(Stage)
    final = {s for s in Stage if not any(next_stage(s, event) for event in EventType)}
    assert final == {Stage.COMPLETED}


# -- the forms -----------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [EVENT, DENIALS, DENIALS | {"executor": "", "lease": ""}])
def test_a_record_is_the_same_after_it_was_written(data: dict[str, Any]) -> None:
    record = parse_record(data)
    assert record.to_json() == data
    assert parse_record(codec.decode(encoded(record), MAX_RECORD_BYTES)) == record


def test_a_record_is_of_its_kind() -> None:
    event, denials = parse_record(EVENT), parse_record(DENIALS)
    assert isinstance(event, Event)
    assert event.type is EventType.STARTED
    assert isinstance(denials, Denials)
    assert denials.reason is Reason.INQUORATE


ODD_EVENTS: list[tuple[dict[str, Any], str]] = [
    ({"kind": "rumour"}, "kind"),
    ({"kind": 1}, "kind"),
    ({"lease": ""}, "lease"),
    ({"lease": "A" * 32}, "lease"),
    ({"executor": ""}, "executor"),
    ({"executor": "claims"}, "executor"),
    ({"executor": "spiffe://clinic.example/node/1"}, "executor"),
    ({"type": "stopped"}, "type"),
    ({"type": "STARTED"}, "type"),
    ({"type": ""}, "type"),
    ({"attributes": []}, "attributes"),
    ({"attributes": None}, "attributes"),
    ({"attributes": {f"n{n}": "" for n in range(MAX_ATTRIBUTES + 1)}}, "attributes"),
    ({"attributes": {"a": 1}}, "attributes.a"),
    ({"attributes": {"a": None}}, "attributes.a"),
    ({"attributes": {"a": "x" * (MAX_ATTRIBUTE_CHARS + 1)}}, "attributes.a"),
    ({"attributes": {"A": ""}}, "attributes.A"),
    ({"attributes": {"": ""}}, "attributes."),
    ({"attributes": {"a b": ""}}, "attributes.a b"),
    ({"attributes": {"a" * 500: ""}}, "attributes." + "a" * MAX_NAME_CHARS),
    ({"at": -1}, "at"),
    ({"at": MAX_INTEGER + 1}, "at"),
    ({"at": "4"}, "at"),
    ({"at": True}, "at"),
    ({"more": 1}, "more"),
    ({"count": 1}, "count"),
]
ODD_DENIALS: list[tuple[dict[str, Any], str]] = [
    ({"executor": "claims"}, "executor"),
    ({"lease": "5"}, "lease"),
    ({"method": "Watch"}, "method"),
    ({"method": ""}, "method"),
    ({"reason": "NO_GRANT"}, "reason"),
    ({"reason": "inquorate"}, "reason"),
    ({"reason": ""}, "reason"),
    ({"ledger_size": -1}, "ledger_size"),
    ({"first_at": -1}, "first_at"),
    ({"last_at": 0.5}, "last_at"),
    ({"count": 0}, "count"),
    ({"attributes": {}}, "attributes"),
]


@pytest.mark.parametrize(
    ("data", "field"),
    [(EVENT | changes, field) for changes, field in ODD_EVENTS]
    + [(DENIALS | changes, field) for changes, field in ODD_DENIALS]
    + [({k: v for k, v in EVENT.items() if k != left}, left) for left in EVENT]
    + [({k: v for k, v in DENIALS.items() if k != left}, left) for left in DENIALS],
)
def test_what_has_another_form_is_refused_by_its_field(data: dict[str, Any], field: str) -> None:
    with pytest.raises(MalformedError) as error:
        parse_record(data)
    assert error.value.field == field
    with pytest.raises(MalformedError) as error:
        parse_record(data, "body.records[3]")
    assert error.value.field == f"body.records[3].{field}"


@pytest.mark.parametrize("data", [None, [], "event", 3])
def test_what_is_no_object_is_no_record(data: object) -> None:
    with pytest.raises(MalformedError):
        parse_record(data, "record")


def test_a_record_is_not_longer_than_a_row_may_be() -> None:
    longest = {"a" * (MAX_NAME_CHARS - 2) + f"{n:02}": "\x01" * 250 for n in range(6)}
    with pytest.raises(MalformedError) as error:
        parse_record(EVENT | {"attributes": longest}, "record")
    assert error.value.field == "record"
    assert str(MAX_RECORD_BYTES) in str(error.value)


def test_what_the_edge_lets_through_is_never_too_long() -> None:
    """Each byte of an attribute written with six, and the longest of everything else."""
    data = EVENT | {
        "executor": "spiffe://clinic.example/agent/" + "a" * (MAX_ID_CHARS - 30),
        "type": max(EventType, key=len).value,
        "attributes": {
            "a" * 60 + f"{n:02}": "\x01" * (MAX_ATTRIBUTE_BYTES // 8 - 62) for n in range(8)
        },
        "at": MAX_INTEGER,
    }
    parse_record(data)
    data["attributes"] = {f"{n:02}": "\x01" * 204 for n in range(5)}
    parse_record(data)


@pytest.mark.parametrize("reason", sorted(REASONS_OF_THE_NODE))
@pytest.mark.parametrize("method", sorted(METHODS))
def test_what_a_node_denies_by_itself_can_be_recorded(method: str, reason: Reason) -> None:
    record = parse_record(DENIALS | {"method": method, "reason": reason.value})
    assert isinstance(record, Denials)
    assert (record.method, record.reason) == (method, reason)


# -- the chains ----------------------------------------------------------------------------------


def test_a_chain_is_a_hash_of_the_head_before_and_what_came() -> None:
    first = hashlib.sha256(b"one").digest()
    second = hashlib.sha256(first + b"two").hexdigest()
    assert chained(NO_HEAD, [b"one"]) == first.hex()
    assert chained(NO_HEAD, [b"one", b"two"]) == second
    assert chained(chained(NO_HEAD, [b"one"]), [b"two"]) == second
    assert chained(second, []) == second


def test_what_is_repeated_left_out_or_swapped_gives_another_head() -> None:
    heads = {
        chained(NO_HEAD, items)
        for items in ([], [b"a"], [b"a", b"a"], [b"a", b"b"], [b"b", b"a"], [b"ab"], [b"b"])
    }
    assert len(heads) == 7


def test_what_an_executor_said_is_the_same_whenever_and_by_whomever() -> None:
    event = parse_record(EVENT)
    assert isinstance(event, Event)
    again = parse_record(EVENT | {"at": 400})
    assert isinstance(again, Event)
    assert again.said == event.said
    for changes in ({"type": "verified"}, {"attributes": {}}, {"attributes": {"image": "x"}}):
        other = parse_record(EVENT | changes)
        assert isinstance(other, Event)
        assert other.said != event.said


@pytest.mark.parametrize("text", [NO_HEAD, "0" * 64, chained(NO_HEAD, [b"one"])])
def test_a_head_is_empty_or_a_hash(text: str) -> None:
    check_head(text)


@pytest.mark.parametrize("text", ["0", "0" * 63, "0" * 65, "A" * 64, " ", "\n" + "0" * 63])
def test_what_is_no_head_is_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        check_head(text)
