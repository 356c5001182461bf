"""Handing metrics out of the process, to Prometheus.

Owns the OpenTelemetry provider and the HTTP endpoint. Only a process that was told to export loads
this module.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from prometheus_client import start_http_server

from quorate.core.errors import ConfigurationError
from quorate.telemetry.metrics import (
    CHECK_LATENCY,
    CONFIRM_ROUND,
    REVOCATION_LATENCY,
    Metrics,
)

CHECK_LATENCY_BUCKETS_US: Final = (10, 25, 50, 100, 250, 500, 1_000, 5_000, 25_000, 100_000)
REVOCATION_LATENCY_BUCKETS_MS: Final = (
    *(5, 10, 25, 50, 100, 250, 500),
    *(1_000, 1_500, 2_000, 2_500, 5_000, 10_000, 60_000),
)
CONFIRM_ROUND_BUCKETS_MS: Final = (0.5, 1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 5_000)


class MetricsExport:
    """A meter provider that reads into `reader`; `close` ends it."""

    def __init__(self, reader: MetricReader, *, node_id: str, process: str) -> None:
        self._provider = MeterProvider(
            metric_readers=[reader],
            resource=Resource.create({"service.name": "quorate", "service.instance.id": node_id}),
            views=[
                View(
                    instrument_name=CHECK_LATENCY,
                    aggregation=ExplicitBucketHistogramAggregation(CHECK_LATENCY_BUCKETS_US),
                ),
                View(
                    instrument_name=REVOCATION_LATENCY,
                    aggregation=ExplicitBucketHistogramAggregation(REVOCATION_LATENCY_BUCKETS_MS),
                ),
                View(
                    instrument_name=CONFIRM_ROUND,
                    aggregation=ExplicitBucketHistogramAggregation(CONFIRM_ROUND_BUCKETS_MS),
                ),
            ],
        )
        self.metrics = Metrics(self._provider.get_meter(f"quorate.{process}"))

    def close(self) -> None:
        self._provider.shutdown()


def export_to_prometheus(address: str, *, node_id: str, process: str) -> MetricsExport:
    """Serves the process's metrics for Prometheus at `address` (host:port), from a daemon thread.

    Raises ConfigurationError when the address cannot be used.
    """
    host, _, port = address.rpartition(":")
    number = -1
    with suppress(ValueError):
        number = int(port)
    if not host or not 0 <= number <= 65_535:
        raise ConfigurationError(
            f"metrics address {address!r} is not host:port", hint="for example 127.0.0.1:9464"
        )
    export = MetricsExport(PrometheusMetricReader(), node_id=node_id, process=process)
    try:
        start_http_server(number, addr=host.strip("[]"))
    except OSError as error:
        export.close()
        raise ConfigurationError(
            f"cannot serve metrics on {address}: {error}", hint="choose a free address"
        ) from error
    return export
