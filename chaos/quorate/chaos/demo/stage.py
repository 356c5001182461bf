"""The federation of the demonstration, its executors, and what is observed of them.

Owns the setting up: organisations, books, registrations, trust, grants, executors. Tells no story
and claims nothing (see `quorate.chaos.demo.acts`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from quorate.chaos.cluster import Cluster
from quorate.chaos.demo import cast
from quorate.chaos.demo.book import Book
from quorate.chaos.demo.cast import Worker
from quorate.chaos.demo.executor import Place, Plan
from quorate.chaos.demo.journal import NS_PER_MS, Did, Event, JournalReader, boottime_ns
from quorate.chaos.processes import DeadlineError, ProcessGroup, wait_until
from quorate.core.genesis import Genesis

RECORDS: Final = 20_000
GRANT_LIFETIME_MS: Final = 24 * 60 * 60 * 1_000
LEASE_TTL_MS: Final = 10 * 60 * 1_000
FRESH_MS: Final = 500
"""An executor works if it acted within this time."""


class Stage:
    """Everything that the acts play with."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.executors: dict[str, ProcessGroup] = {}
        self._clients: dict[str, Path] = {}
        self._journals: dict[str, JournalReader] = {}
        self._genesis: Genesis | None = None

    @property
    def genesis(self) -> Genesis:
        if self._genesis is None:
            self._genesis = self.cluster.genesis()
        return self._genesis

    @property
    def authority_period_ms(self) -> int:
        """L."""
        return self.genesis.parameters.authority_period_ms

    @property
    def max_permit_ttl_ms(self) -> int:
        return self.genesis.parameters.max_permit_ttl_ms

    # -- setting up --------------------------------------------------------------------------

    def equip(self) -> None:
        """Makes every organisation's book and its executor's certificate."""
        self.cluster.directory.joinpath("books").mkdir(mode=0o700)
        with ThreadPoolExecutor(len(cast.WORKERS)) as together:
            issued = list(
                together.map(
                    lambda worker: self.cluster.issue_executor(worker.domain, worker.path),
                    cast.WORKERS,
                )
            )
        for worker, client in zip(cast.WORKERS, issued, strict=True):
            self._clients[worker.domain] = client
            Book.create(self.book(worker.domain), worker.domain, RECORDS, worker.what).close()
            self._journals[worker.domain] = JournalReader(self._file(worker, "journal.jsonl"))

    def govern(self) -> None:
        """Each organisation registers its executor, then trusts and grants what is agreed."""
        for worker in cast.WORKERS:
            self.cluster.operator(worker.domain).order("executor.register", {"executor": worker.id})
        for worker in cast.WORKERS:
            own = self.cluster.operator(worker.domain)
            partner = self.cluster.operator(worker.partner)
            partner.order(
                "trust.open",
                {
                    "edge": worker.edge,
                    "trustee": worker.domain,
                    "actions": [cast.ALL_RECORD_ACTIONS],
                    "resources": [f"//{worker.partner}/books/*"],
                },
            )
            partner.order("grant.issue", self.inbox_grant(worker, worker.grant))
            own.order(
                "grant.issue",
                _grant("own-outbox", worker, cast.SEND, cast.outbox(worker.domain)),
            )

    def inbox_grant(self, worker: Worker, name: str) -> dict[str, object]:
        """The body of the partner's grant to a worker."""
        return _grant(name, worker, cast.RECEIVE, cast.inbox(worker.partner))

    def start_executors(self) -> None:
        """Starts every executor as a process of its own."""
        for worker in cast.WORKERS:
            plan_file = self._file(worker, "plan.json")
            self._plan(worker).save(plan_file)
            self.executors[worker.domain] = self.cluster.warden.spawn(
                worker.id,
                [sys.executable, "-P", "-m", "quorate.chaos.demo.executor", str(plan_file)],
                log=self._file(worker, "executor.log"),
                directory=self.cluster.directory,
            )

    def stop_executors(self) -> dict[str, int]:
        """Stops every executor in good order; returns their exit statuses."""
        for executor in self.executors.values():
            executor.ask_to_stop()
        return {domain: executor.wait(30) for domain, executor in self.executors.items()}

    def book(self, domain: str) -> Path:
        return self.cluster.directory / "books" / f"{domain}.sqlite"

    def _plan(self, worker: Worker) -> Plan:
        probes: tuple[tuple[str, str], ...] = ()
        if worker == cast.UNTRUSTED:
            probes = ((cast.RECEIVE, cast.inbox(cast.BANK)),)
        elif worker == cast.REVOKED:
            probes = ((cast.ERASE, cast.inbox(cast.BANK)),)
        return Plan(
            client=str(self._clients[worker.domain]),
            journal=str(self._file(worker, "journal.jsonl")),
            max_permit_ttl_ms=self.max_permit_ttl_ms,
            source=Place(cast.SEND, cast.outbox(worker.domain), str(self.book(worker.domain))),
            target=Place(cast.RECEIVE, cast.inbox(worker.partner), str(self.book(worker.partner))),
            probes=probes,
        )

    def _file(self, worker: Worker, name: str) -> Path:
        return self.cluster.directory / "executors" / worker.domain / name

    # -- observing ---------------------------------------------------------------------------

    def events(self, domain: str, did: Did) -> list[Event]:
        """What the executor of a domain did, of one kind, so far."""
        return [event for event in self._journals[domain].events() if event.did is did]

    def acts(self, domain: str, after_ns: int = 0) -> list[Event]:
        """The acts of an executor whose permit was found good after `after_ns`."""
        return [event for event in self.events(domain, Did.ACTED) if event.at_ns > after_ns]

    def works(self, domain: str) -> bool:
        """Whether the executor acted just now."""
        return bool(self.acts(domain, boottime_ns() - FRESH_MS * NS_PER_MS))

    def observe(self, what: str, holds: Callable[[], bool], timeout_s: float) -> bool:
        """Waits until something is observed; False when it is not, in time. The claim that is
        made of it says so then. An executor that has ended by itself is a fault of the stage."""

        def look() -> bool:
            for domain, executor in self.executors.items():
                if not executor.is_running():
                    raise DeadlineError(
                        f"the executor of {domain} has ended\n{executor.log_tail()}",
                        hint=f"its log: {executor.log}",
                    )
            return holds()

        try:
            wait_until(what, look, timeout_s)
        except DeadlineError:
            if all(executor.is_running() for executor in self.executors.values()):
                return False
            raise
        return True

    def let_pass_until(self, moment_ns: int) -> None:
        """Watches until the boot clock shows `moment_ns`: a window in which nothing may happen."""
        left_ns = moment_ns - boottime_ns()
        wait_until("the end of the window", lambda: boottime_ns() >= moment_ns, left_ns / 1e9 + 10)


def _grant(name: str, worker: Worker, action: str, resource: str) -> dict[str, object]:
    return {
        "grant": name,
        "executor": worker.id,
        "actions": [action],
        "resources": [resource],
        "not_after": time.time_ns() // NS_PER_MS + GRANT_LIFETIME_MS,
        "max_lease_ttl_ms": LEASE_TTL_MS,
        "max_uses": 0,
        "max_concurrent": 0,
    }
