"""Logs and metrics of a process. Nothing here takes part in a decision."""

from quorate.telemetry.logs import DenialLog, configure_logging
from quorate.telemetry.metrics import Metrics

__all__ = ["DenialLog", "Metrics", "configure_logging", "open_metrics"]


def open_metrics(address: str | None, node_id: str, process: str) -> Metrics:
    """A process's metrics, served for Prometheus at `address` (host:port) when there is one.

    Raises ConfigurationError when the address cannot be used.
    """
    if address is None:
        return Metrics()
    # Here, because most processes export nothing and need not load an HTTP server.
    from quorate.telemetry.export import export_to_prometheus  # noqa: PLC0415

    return export_to_prometheus(address, node_id=node_id, process=process).metrics
