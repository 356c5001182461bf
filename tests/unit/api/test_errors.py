"""Errors on the wire, reasons, logs and metrics."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import grpc
import pytest
import structlog
from google.rpc import error_details_pb2, status_pb2
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from quorate.api import convert
from quorate.api.errors import (
    InvalidRequestError,
    NotReadyError,
    OutOfRangeError,
    TooManyError,
    Violation,
    to_trailers,
)
from quorate.core.errors import ConfigurationError, MalformedError
from quorate.core.outcome import Outcome, Reason
from quorate.telemetry import DenialLog, configure_logging
from quorate.telemetry.export import MetricsExport, export_to_prometheus
from quorate.v1 import decision_pb2


def details(error) -> status_pb2.Status:
    [(key, value)] = to_trailers(error)
    assert key == "grpc-status-details-bin"
    status = status_pb2.Status.FromString(value)
    assert status.code == error.code.value[0]
    return status


def test_a_bad_request_names_every_field() -> None:
    error = InvalidRequestError([Violation("a", "is bad"), Violation("b[1].c", "is worse")])
    bad = error_details_pb2.BadRequest()
    assert details(error).details[0].Unpack(bad)
    assert [(item.field, item.description) for item in bad.field_violations] == [
        ("a", "is bad"),
        ("b[1].c", "is worse"),
    ]
    assert error.message == "a: is bad (and 1 more)"


def test_trailers_stay_small() -> None:
    error = InvalidRequestError([Violation("x" * 40, "y" * 80)] * 64)
    assert len(to_trailers(error)[0][1]) < 8 * 1024


def test_other_errors() -> None:
    info = error_details_pb2.ErrorInfo()
    assert details(TooManyError("full", limit="MAX_WATCHERS")).details[0].Unpack(info)
    assert info.metadata["limit"] == "MAX_WATCHERS"
    assert details(OutOfRangeError(Violation("size", "too large"))).code == 11
    assert to_trailers(NotReadyError("later")) == ()
    assert NotReadyError.code is grpc.StatusCode.UNAVAILABLE


def test_the_reasons_of_core_and_wire_are_the_same() -> None:
    names = {name.removeprefix("REASON_") for name in decision_pb2.Reason.keys()}  # noqa: SIM118
    assert names - {"UNSPECIFIED"} == {reason.value for reason in Reason}
    for reason in Reason:
        assert convert.reason_of_wire(convert.reason_to_wire(reason)) is reason
    assert convert.reason_of_wire(decision_pb2.REASON_UNSPECIFIED) is None
    with pytest.raises(MalformedError):
        convert.reason_of_wire(9_999)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(True, None, "thing", 7, "ab" * 32, False, {"a": [1, "x"]}),
        Outcome(False, Reason.NO_GRANT, "thing", 7, "ab" * 32, True),
    ],
)
def test_outcomes_survive_the_wire(outcome: Outcome) -> None:
    assert convert.outcome_of_wire(convert.outcome_to_wire(outcome)) == outcome


@pytest.mark.parametrize(
    "message",
    [
        decision_pb2.Outcome(accepted=True, reason=decision_pb2.REASON_NO_GRANT, result="{}"),
        decision_pb2.Outcome(accepted=False, result="{}"),
        decision_pb2.Outcome(accepted=True, result=""),
        decision_pb2.Outcome(accepted=True, result="[]"),
        decision_pb2.Outcome(accepted=True, result='{ "a": 1 }'),
    ],
)
def test_a_contradictory_outcome_is_none(message: decision_pb2.Outcome) -> None:
    with pytest.raises(MalformedError):
        convert.outcome_of_wire(message)


def test_what_is_no_lease_is_not_taken_for_one() -> None:
    with pytest.raises(MalformedError):
        convert.lease_of_result({"id": "x"})


# -- telemetry ----------------------------------------------------------------------------------


@pytest.fixture
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.usefixtures("restored_logging")
def test_logs_are_one_json_object_a_line_with_the_stack_in_it() -> None:
    stream = io.StringIO()
    configure_logging("info", "json", stream=stream)
    log = structlog.get_logger("quorate.test")
    log.debug("not this")
    try:
        raise RuntimeError("boom\nin two lines")
    except RuntimeError as error:
        log.error("it failed", method="Check", exc_info=error)
    logging.getLogger("grpc").warning("from a %s", "library")
    ours, theirs = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (ours["message"], ours["level"], ours["method"]) == ("it failed", "error", "Check")
    assert "RuntimeError: boom" in ours["exception"]
    assert (theirs["message"], theirs["logger"]) == ("from a library", "grpc")


@pytest.mark.usefixtures("restored_logging")
def test_logs_for_people() -> None:
    stream = io.StringIO()
    configure_logging("debug", "text", stream=stream)
    structlog.get_logger("quorate.test").debug("hello", who="you")
    assert "hello" in stream.getvalue()
    with pytest.raises(ValueError, match="loud"):
        configure_logging("loud", "json")


def test_denials_are_logged_once_a_second_and_counted_between() -> None:
    now = 1
    with structlog.testing.capture_logs() as logs:
        denials = DenialLog(lambda: now, structlog.get_logger())
        for _ in range(5):
            denials.denied("Check", "INQUORATE", "spiffe://a/b")
        denials.denied("Acquire", "INQUORATE", "spiffe://a/b")
        now += 1_000_000_000
        denials.denied("Check", "INQUORATE", "spiffe://a/b")
    assert [(entry["method"], entry["suppressed"]) for entry in logs] == [
        ("Check", 0),
        ("Acquire", 0),
        ("Check", 4),
    ]


def test_metrics_are_counted_by_what_matters() -> None:
    reader = InMemoryMetricReader()
    export = MetricsExport(reader, node_id="spiffe://a/node/1", process="edge")
    metrics = export.metrics
    metrics.checked("deny", "INQUORATE")
    metrics.checked("deny", "INQUORATE")
    metrics.check_latency(42.0)
    metrics.proposed("lease.acquire", "unknown")
    metrics.denied("Check", "INQUORATE")
    metrics.fault("/quorate.v1.LeaseService/Check")
    metrics.watchers_changed(+1)
    data = reader.get_metrics_data()
    assert data is not None
    found = {
        metric.name: metric.data.data_points[0]
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert found["quorate.checks"].value == 2
    assert dict(found["quorate.checks"].attributes) == {"verdict": "deny", "reason": "INQUORATE"}
    assert dict(found["quorate.denials"].attributes) == {"method": "Check", "reason": "INQUORATE"}
    assert found["quorate.check.latency"].sum == 42.0
    assert 50 in found["quorate.check.latency"].explicit_bounds
    assert dict(found["quorate.proposals"].attributes) == {
        "type": "lease.acquire",
        "outcome": "unknown",
    }
    assert found["quorate.watchers"].value == 1
    export.close()


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:", ":9", "127.0.0.1:99999", "a:b"])
def test_an_address_for_metrics_must_be_one(address: str) -> None:
    with pytest.raises(ConfigurationError, match="host:port"):
        export_to_prometheus(address, node_id="n", process="edge")
