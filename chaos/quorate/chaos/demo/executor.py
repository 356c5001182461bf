"""An executor: moves records between two books, and never without a permit.

Owns the work itself. Run as `python -m quorate.chaos.demo.executor PLAN.json`; asks its node
through `quorate.client` and nothing else, as an executor of anybody's would.
"""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from quorate.chaos.demo.book import Book
from quorate.chaos.demo.journal import Did, Event, JournalWriter, boottime_ns
from quorate.chaos.stopping import Stopping
from quorate.client import (
    ClientReason,
    Denied,
    DeniedError,
    Gate,
    Lease,
    Permit,
    Reason,
    StaleFenceError,
)

PACE_S: Final = 0.02
ASK_AGAIN_S: Final = 0.02
LEASE_AGAIN_S: Final = 0.4
LEASE_LONGEST_S: Final = 6.4
"""A lease that is refused again and again is asked for ever more rarely: each refusal that the
ledger decides is an entry in it."""

# The lease itself is untouched by these: the same permit may be had again later.
_PASSING: Final = frozenset(
    {
        Reason.INQUORATE,
        Reason.CLOCK_STEP,
        Reason.STORAGE_FULL,
        Reason.INTERNAL,
        *ClientReason,
    }
)


@dataclass(frozen=True, slots=True)
class Place:
    """A book, the name under which it is governed, and what is done to it."""

    action: str
    resource: str
    book: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that one executor is told.

    probes: (action, resource) pairs that it tries once at the start; each must be denied.
    """

    client: str
    journal: str
    max_permit_ttl_ms: int
    source: Place
    target: Place
    probes: tuple[tuple[str, str], ...] = ()

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Plan:
        value = json.loads(path.read_text())
        return cls(
            client=value["client"],
            journal=value["journal"],
            max_permit_ttl_ms=value["max_permit_ttl_ms"],
            source=Place(**value["source"]),
            target=Place(**value["target"]),
            probes=tuple((action, resource) for action, resource in value["probes"]),
        )


class Executor:
    """Works until it is told to stop."""

    def __init__(self, plan: Plan, gate: Gate, journal: JournalWriter) -> None:
        self._plan = plan
        self._gate = gate
        self._journal = journal
        self._refusals = 0
        self.stopping = Stopping()

    def run(self) -> None:
        """Probes, then moves records under two leases, taken anew when one is lost."""
        for action, resource in self._plan.probes:
            self._probe(action, resource)
        with Book(Path(self._plan.source.book)) as source, Book(Path(self._plan.target.book)) as to:
            while not self.stopping.is_set():
                leases = self._obtain()
                if not leases:
                    self.stopping.wait(self._pause_s())
                    continue
                watch = self._gate.on_change(leases, lambda _notice: None)
                try:
                    self._move(source, to, *leases)
                finally:
                    watch.close()
                    for lease in leases:
                        lease.release()
        self._journal.write(Event(Did.ENDED, boottime_ns()))

    def _probe(self, action: str, resource: str) -> None:
        answer = self._gate.acquire(action, resource)
        while isinstance(answer, Denied) and answer.unknown and not self.stopping.is_set():
            answer = self._gate.acquire(action, resource, request_id=answer.request_id)
        reason, thing = (answer.reason, answer.thing) if isinstance(answer, Denied) else ("", "")
        self._journal.write(
            Event(
                Did.PROBED,
                boottime_ns(),
                resource=resource,
                reason=reason,
                thing=thing,
                action=action,
            )
        )

    def _obtain(self) -> list[Lease]:
        """A lease for the partner's inbox and one for the own outbox, or none."""
        held: list[Lease] = []
        for place in (self._plan.target, self._plan.source):
            answer = self._gate.acquire(place.action, place.resource)
            if isinstance(answer, Denied):
                self._denied(answer, place.resource)
                # What passes by itself is asked at one pace, so that work is resumed at once.
                self._refusals = 0 if answer.reason in _PASSING else self._refusals + 1
                for lease in held:
                    lease.release()
                return []
            held.append(answer)
            self._journal.write(
                Event(
                    Did.LEASED,
                    boottime_ns(),
                    resource=place.resource,
                    lease=answer.id,
                    fence=answer.fence,
                    action=place.action,
                )
            )
        self._refusals = 0
        return held

    def _pause_s(self) -> float:
        """How long to wait before leases are asked for again: twice as long at each refusal."""
        doublings = min(max(self._refusals - 1, 0), 16)
        return min(LEASE_AGAIN_S * (1 << doublings), LEASE_LONGEST_S)

    def _move(self, source: Book, target: Book, receiving: Lease, sending: Lease) -> None:
        """Moves record after record, until a lease is lost or the executor is stopped."""
        while not self.stopping.wait(PACE_S):
            record = source.next_unsent()
            if record is None:
                continue
            lease = receiving
            try:
                permit, good_at_ns = _permit(lease)
                target.receive(record, fence=permit.fence)
                self._acted(lease, permit, good_at_ns)
                lease = sending
                permit, good_at_ns = _permit(lease)
                source.mark_sent(record, fence=permit.fence)
                self._acted(lease, permit, good_at_ns)
            except DeniedError as error:
                self._denied(error.denied, lease.resource, lease)
                if error.reason not in _PASSING:
                    return
                self.stopping.wait(ASK_AGAIN_S)
            except StaleFenceError as error:
                self._journal.write(
                    Event(
                        Did.FENCED,
                        boottime_ns(),
                        resource=lease.resource,
                        lease=lease.id,
                        fence=error.fence,
                    )
                )
                return

    def _acted(self, lease: Lease, permit: Permit, good_at_ns: int) -> None:
        self._journal.write(
            Event(
                Did.ACTED,
                good_at_ns,
                resource=lease.resource,
                lease=lease.id,
                fence=permit.fence,
                sent_ns=permit.sent.boottime_ns,
            )
        )

    def _denied(self, denied: Denied, resource: str, lease: Lease | None = None) -> None:
        self._journal.write(
            Event(
                Did.DENIED,
                boottime_ns(),
                resource=resource,
                lease=lease.id if lease else "",
                fence=lease.fence if lease else 0,
                reason=denied.reason,
                thing=denied.thing,
            )
        )


def _permit(lease: Lease) -> tuple[Permit, int]:
    """A permit, and the very reading of the boot clock by which it was found good."""
    while True:
        permit = lease.require()
        now_ns = boottime_ns()
        if now_ns < permit.expires_at_ns:
            return permit, now_ns


def main(plan_file: str) -> int:
    """Runs until SIGTERM or SIGINT."""
    plan = Plan.load(Path(plan_file))
    with (
        JournalWriter(Path(plan.journal)) as journal,
        Gate.open(Path(plan.client), max_permit_ttl_ms=plan.max_permit_ttl_ms) as gate,
    ):
        executor = Executor(plan, gate, journal)
        executor.stopping.by(signal.SIGTERM, signal.SIGINT)
        executor.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
