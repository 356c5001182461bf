"""What a process counts: checks by verdict and reason, their latency, proposals by outcome.

Owns the instruments and their names. Without an exporter the instruments are OpenTelemetry's
no-ops and cost next to nothing; nothing in the node ever reads a metric to decide anything.
"""

from __future__ import annotations

from typing import Final

from opentelemetry.metrics import Meter, NoOpMeterProvider

CHECK_LATENCY: Final = "quorate.check.latency"


class Metrics:
    """The instruments of one process."""

    def __init__(self, meter: Meter | None = None) -> None:
        meter = meter if meter is not None else NoOpMeterProvider().get_meter("quorate")
        self._checks = meter.create_counter(
            "quorate.checks", unit="1", description="lease checks answered, by verdict and reason"
        )
        self._check_latency = meter.create_histogram(
            CHECK_LATENCY,
            unit="us",
            description="time inside the check path of one call, whatever the number of checks",
        )
        self._proposals = meter.create_counter(
            "quorate.proposals", unit="1", description="proposals, by type and what became of them"
        )
        self._inquorate = meter.create_counter(
            "quorate.denials.inquorate",
            unit="1",
            description="requests that the node denied because it could not prove a quorum",
        )
        self._faults = meter.create_counter(
            "quorate.faults", unit="1", description="unexpected exceptions, by method"
        )
        self._watchers = meter.create_up_down_counter(
            "quorate.watchers", unit="1", description="Watch calls being served"
        )

    def checked(self, verdict: str, reason: str) -> None:
        self._checks.add(1, {"verdict": verdict, "reason": reason})

    def check_latency(self, microseconds: float) -> None:
        self._check_latency.record(microseconds)

    def proposed(self, kind: str, outcome: str) -> None:
        """`outcome` is accepted, denied, refused or unknown."""
        self._proposals.add(1, {"type": kind, "outcome": outcome})

    def inquorate(self, method: str) -> None:
        self._inquorate.add(1, {"method": method})

    def fault(self, method: str) -> None:
        self._faults.add(1, {"method": method})

    def watchers_changed(self, by: int) -> None:
        self._watchers.add(by)
