"""One executor for each organisation of a cluster, with the right to act on everybody's records.

Owns their certificates, registrations, trust edges and grants, and the connections to ask as them.
Asks nothing by itself.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from pathlib import Path
from typing import Final

import grpc

from quorate.chaos.cluster import Cluster
from quorate.chaos.probe import ProbeJournal
from quorate.chaos.processes import POLL_S, ProcessGroup
from quorate.client import wire
from quorate.client.config import ClientConfig, load_config
from quorate.core.errors import QuorateError
from quorate.v1 import decision_pb2, lease_pb2, lease_pb2_grpc

WORKER_PATH: Final = "agent/worker"
ACTION: Final = "records.write"
ACTIONS: Final = "records.*"
LEASE_TTL_MS: Final = 10 * 60 * 1_000
GRANT_LIFETIME_MS: Final = 24 * 60 * 60 * 1_000
CALL_TIMEOUT_S: Final = 10.0
LEASE_TIMEOUT_S: Final = 20.0


class CrewError(QuorateError):
    """An executor did not get what it has a right to."""


class Worker:
    """The executor of one organisation, connected to a node of it."""

    def __init__(self, domain: str, client: Path) -> None:
        self.domain = domain
        self.client = client
        self.config: ClientConfig = load_config(client)
        self._channel = wire.open_channel(self.config)
        self.leases = lease_pb2_grpc.LeaseServiceStub(self._channel)

    @property
    def id(self) -> str:
        return self.config.spiffe_id

    @property
    def channel(self) -> grpc.Channel:
        return self._channel

    def close(self) -> None:
        self._channel.close()

    def acquire(
        self, resource: str, action: str = ACTION, *, ttl_ms: int = 0, request_id: str = ""
    ) -> lease_pb2.AcquireResponse:
        """One attempt, whatever comes of it."""
        request = lease_pb2.AcquireRequest(
            action=action,
            resource=resource,
            ttl_ms=ttl_ms,
            request_id=request_id or secrets.token_hex(16),
        )
        return self.leases.Acquire(request, timeout=CALL_TIMEOUT_S)

    def lease(self, resource: str, action: str = ACTION) -> lease_pb2.Lease:
        """A lease that must be granted. As long as no quorum has said anything, it is asked for
        again, as the same request: also a node that is well waits for a slow disk. Raises
        CrewError."""
        request_id = secrets.token_hex(16)
        answer = self.acquire(resource, action, request_id=request_id)
        until = time.monotonic() + LEASE_TIMEOUT_S
        while answer.reason == decision_pb2.REASON_INQUORATE and time.monotonic() < until:
            time.sleep(POLL_S)
            answer = self.acquire(resource, action, request_id=request_id)
        if answer.verdict != decision_pb2.VERDICT_PERMIT:
            reason = decision_pb2.Reason.Name(answer.reason)
            raise CrewError(f"{self.id} on {resource}: {reason} {answer.thing}")
        return answer.lease

    def check(self, lease_id: str) -> lease_pb2.CheckResponse:
        return self.leases.Check(lease_pb2.CheckRequest(lease_id=lease_id), timeout=CALL_TIMEOUT_S)


class Probing:
    """A probe that runs (`quorate.chaos.probe`), and what it has written. domain: the node that it
    asks."""

    def __init__(self, domain: str, process: ProcessGroup, journal: Path) -> None:
        self.domain = domain
        self.process = process
        self.journal = ProbeJournal(journal)


class Crew:
    """The executors of all organisations of a cluster that is running. workers: by the node that
    each is connected to."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._probes = 0
        domains = list(cluster.domains)
        with ThreadPoolExecutor(len(domains)) as together:
            clients = together.map(lambda d: cluster.issue_executor(d, WORKER_PATH), domains)
            self.workers = {d: Worker(d, c) for d, c in zip(domains, clients, strict=True)}
        for domain, worker in self.workers.items():
            cluster.operator(domain).order("executor.register", {"executor": worker.id})
        for truster, trustee in permutations(domains, 2):
            cluster.operator(truster).order(
                "trust.open",
                {
                    "edge": f"to-{trustee}",
                    "trustee": trustee,
                    "actions": [ACTIONS],
                    "resources": [f"//{truster}/*"],
                },
            )
        for owner in domains:
            for worker in self.workers.values():
                self.grant(owner, f"for-{worker.domain}", worker)

    def join(self, name: str) -> Worker:
        """Connects the executor of an organisation to a further node of it, too."""
        domain = self._cluster.members[name].domain
        worker = Worker(domain, self._cluster.issue_executor(name, WORKER_PATH))
        self.workers[name] = worker
        return worker

    def grant(self, owner: str, name: str, worker: Worker, path: str = "records/*") -> str:
        """Lets a worker act on an organisation's records; returns the grant's id."""
        self._cluster.operator(owner).order(
            "grant.issue",
            {
                "grant": name,
                "executor": worker.id,
                "actions": [ACTIONS],
                "resources": [f"//{owner}/{path}"],
                "not_after": time.time_ns() // 1_000_000 + GRANT_LIFETIME_MS,
                "max_lease_ttl_ms": LEASE_TTL_MS,
                "max_uses": 0,
                "max_concurrent": 0,
            },
        )
        return f"{owner}/{name}"

    def probe(self, name: str, lease_id: str) -> Probing:
        """Starts a process that checks a lease at a node, as its worker, without pause."""
        self._probes += 1
        directory = self._cluster.directory / "probes"
        directory.mkdir(mode=0o700, exist_ok=True)
        stem = f"{self._probes}-{self._cluster.members[name].directory.name}"
        journal = directory / f"{stem}.txt"
        worker = self.workers[name]
        module = ["-P", "-m", "quorate.chaos.probe"]
        process = self._cluster.warden.spawn(
            f"the probe of {name}",
            [sys.executable, *module, str(worker.client), lease_id, str(journal)],
            log=directory / f"{stem}.log",
            directory=directory,
        )
        return Probing(name, process, journal)

    def probe_all(self, names: Sequence[str] = ()) -> list[Probing]:
        """A probe at each node, or at these, of a lease on the records of its neighbour."""
        return [self.probe_neighbour(name) for name in names or list(self.workers)]

    def probe_neighbour(self, name: str) -> Probing:
        """A probe at a node, of a lease on the records of the next organisation."""
        domains = self._cluster.domains
        worker = self.workers[name]
        neighbour = domains[(domains.index(worker.domain) + 1) % len(domains)]
        return self.probe(name, worker.lease(f"//{neighbour}/records/probed").id)

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()
