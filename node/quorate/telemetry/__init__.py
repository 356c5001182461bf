"""Logs and metrics of a process. Nothing here takes part in a decision."""

from quorate.telemetry.logs import DenialLog, configure_logging
from quorate.telemetry.metrics import Metrics, MetricsExport, export_to_prometheus

__all__ = ["DenialLog", "Metrics", "MetricsExport", "configure_logging", "export_to_prometheus"]
