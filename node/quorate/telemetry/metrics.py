"""What a process counts: checks by verdict and reason, their latency, proposals by outcome.

Owns the instruments and their names. Without an exporter the instruments are OpenTelemetry's
no-ops and cost next to nothing; nothing in the node ever reads a metric to decide anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from opentelemetry.metrics import CallbackOptions, Meter, NoOpMeterProvider, Observation

CHECK_LATENCY: Final = "quorate.check.latency"
REVOCATION_LATENCY: Final = "quorate.revocation.latency"
CONFIRM_ROUND: Final = "quorate.confirm.round"


class Metrics:
    """The instruments of one process."""

    def __init__(self, meter: Meter | None = None) -> None:
        meter = self._meter = (
            meter if meter is not None else NoOpMeterProvider().get_meter("quorate")
        )
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
        self._denials = meter.create_counter(
            "quorate.denials",
            unit="1",
            description="what executors were denied, by method and reason",
        )
        self._faults = meter.create_counter(
            "quorate.faults", unit="1", description="unexpected exceptions, by method"
        )
        self._watchers = meter.create_up_down_counter(
            "quorate.watchers", unit="1", description="Watch calls being served"
        )

        self._revocation_latency = meter.create_histogram(
            REVOCATION_LATENCY,
            unit="ms",
            description="time from a narrowing command until it held at the level asked for",
        )
        self._confirm_round = meter.create_histogram(
            CONFIRM_ROUND,
            unit="ms",
            description="time from the start of a leader's confirm round to its majority",
        )

    def observe_edge(self, authority_ms: Callable[[], float], permits: Callable[[], int]) -> None:
        """Has two values read whenever metrics are: how long this edge may permit, 0 when it may
        not, and how many permits that it gave may be in use. They are read by another thread."""

        def of_authority(_options: CallbackOptions) -> Iterable[Observation]:
            yield Observation(authority_ms())

        def of_permits(_options: CallbackOptions) -> Iterable[Observation]:
            yield Observation(permits())

        self._meter.create_observable_gauge(
            "quorate.authority.remaining",
            [of_authority],
            unit="ms",
            description="how long this edge may permit without hearing anything new",
        )
        self._meter.create_observable_gauge(
            "quorate.permits.outstanding",
            [of_permits],
            unit="1",
            description="holders of permits of this edge that may still be in use",
        )

    def observe_core(
        self, outbox_records: Callable[[], int], clock_offset_ms: Callable[[], int]
    ) -> None:
        """Has two values read whenever metrics are, by another thread: how many records wait for
        the ledger, and how far this node's wall clock is ahead of the federation's time."""

        def of_clock(_options: CallbackOptions) -> Iterable[Observation]:
            yield Observation(clock_offset_ms())

        def of_outbox(_options: CallbackOptions) -> Iterable[Observation]:
            yield Observation(outbox_records())

        self._meter.create_observable_gauge(
            "quorate.outbox.records",
            [of_outbox],
            unit="1",
            description="events and denials that this node has to tell the ledger",
        )
        self._meter.create_observable_gauge(
            "quorate.clock.offset",
            [of_clock],
            unit="ms",
            description="how far this node's wall clock is ahead of the federation's time",
        )

    def observe_certificate(self, remaining_s: Callable[[], float]) -> None:
        """Has one value read whenever metrics are, by another thread: how long the certificate that
        this process shows is still valid, 0 when it is not."""

        def of_certificate(_options: CallbackOptions) -> Iterable[Observation]:
            yield Observation(remaining_s())

        self._meter.create_observable_gauge(
            "quorate.certificate.remaining",
            [of_certificate],
            unit="s",
            description="how long the node's certificate is still valid",
        )

    def checked(self, verdict: str, reason: str) -> None:
        self._checks.add(1, {"verdict": verdict, "reason": reason})

    def check_latency(self, microseconds: float) -> None:
        self._check_latency.record(microseconds)

    def proposed(self, kind: str, outcome: str) -> None:
        """`outcome` is accepted, denied, refused or unknown."""
        self._proposals.add(1, {"type": kind, "outcome": outcome})

    def denied(self, method: str, reason: str) -> None:
        self._denials.add(1, {"method": method, "reason": reason})

    def fault(self, method: str) -> None:
        self._faults.add(1, {"method": method})

    def watchers_changed(self, by: int) -> None:
        self._watchers.add(by)

    def narrowed(self, level: str, milliseconds: float) -> None:
        """A narrowing command holds at the level (committed, enforced, drained) asked for."""
        self._revocation_latency.record(milliseconds, {"level": level})

    def round_confirmed(self, milliseconds: float) -> None:
        """A majority has confirmed this node as the leader, so long after it was asked to."""
        self._confirm_round.record(milliseconds)
