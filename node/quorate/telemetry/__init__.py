"""Logs and metrics of a process. Nothing here takes part in a decision."""

from quorate.telemetry.logs import DenialLog, configure_logging
from quorate.telemetry.metrics import Metrics

__all__ = ["DenialLog", "Metrics", "configure_logging"]
