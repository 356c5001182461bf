"""What is counted arrives where it is read, under its name and in its buckets."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from quorate.telemetry import Metrics
from quorate.telemetry.export import (
    CONFIRM_ROUND_BUCKETS_MS,
    REVOCATION_LATENCY_BUCKETS_MS,
    MetricsExport,
)


def read(reader: InMemoryMetricReader, name: str) -> Any:
    """The only data point of a metric."""
    data = reader.get_metrics_data()
    assert data is not None
    [resource] = data.resource_metrics
    metrics = [metric for scope in resource.scope_metrics for metric in scope.metrics]
    [found] = [metric for metric in metrics if metric.name == name]
    [point] = found.data.data_points
    return point


def test_the_latency_of_revocations_is_a_histogram_by_level() -> None:
    reader = InMemoryMetricReader()
    export = MetricsExport(reader, node_id="spiffe://bank.example/node/1", process="core")
    export.metrics.narrowed("drained", 30.0)
    export.metrics.narrowed("drained", 1_700.0)
    point = read(reader, "quorate.revocation.latency")
    assert dict(point.attributes) == {"level": "drained"}
    assert point.explicit_bounds == REVOCATION_LATENCY_BUCKETS_MS
    filled = [
        bound
        for bound, count in zip(point.explicit_bounds, point.bucket_counts, strict=False)
        if count
    ]
    assert filled == [50, 2_000]
    export.close()


def test_confirm_rounds_are_a_histogram() -> None:
    reader = InMemoryMetricReader()
    export = MetricsExport(reader, node_id="spiffe://bank.example/node/1", process="core")
    export.metrics.round_confirmed(0.7)
    export.metrics.round_confirmed(30.0)
    point = read(reader, "quorate.confirm.round")
    assert point.explicit_bounds == CONFIRM_ROUND_BUCKETS_MS
    assert (point.count, point.sum) == (2, 30.7)
    export.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [("quorate.authority.remaining", 1_250.5), ("quorate.permits.outstanding", 3)],
)
def test_gauges_are_read_when_they_are_asked_for(name: str, value: float) -> None:
    reader = InMemoryMetricReader()
    export = MetricsExport(reader, node_id="spiffe://bank.example/node/1", process="edge")
    values = {"quorate.authority.remaining": 0.0, "quorate.permits.outstanding": 0.0}
    export.metrics.observe_edge(
        lambda: values["quorate.authority.remaining"],
        lambda: int(values["quorate.permits.outstanding"]),
    )
    assert read(reader, name).value == 0
    values[name] = value
    assert read(reader, name).value == value
    export.close()


def test_without_an_exporter_nothing_happens() -> None:
    metrics = Metrics()
    metrics.observe_edge(lambda: 1 / 0, lambda: 1 // 0)
    metrics.narrowed("enforced", 1.0)
    metrics.round_confirmed(1.0)


def test_what_a_core_tells_is_read_when_it_is_asked_for() -> None:
    reader = InMemoryMetricReader()
    export = MetricsExport(reader, node_id="spiffe://bank.example/node/1", process="core")
    waiting, offset = [0], [0]
    export.metrics.observe_core(lambda: waiting[0], lambda: offset[0])
    assert read(reader, "quorate.outbox.records").value == 0
    assert read(reader, "quorate.clock.offset").value == 0
    waiting[0], offset[0] = 7, -80
    assert read(reader, "quorate.outbox.records").value == 7
    assert read(reader, "quorate.clock.offset").value == -80
    export.close()
