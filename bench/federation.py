"""The federation of three real nodes that the public API is measured on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from quorate.chaos.cluster import Cluster
from quorate.chaos.crew import Crew, Worker
from quorate.chaos.parts import EDGE, part_of
from quorate.chaos.processes import wait_until

DOMAIN = "bank.example"


@dataclass(frozen=True, slots=True)
class Federation:
    """It runs, and one executor of each organisation may act on everybody's records."""

    cluster: Cluster
    crew: Crew

    @property
    def worker(self) -> Worker:
        """An executor that acts for DOMAIN."""
        return self.crew.workers[DOMAIN]

    @property
    def organisation(self) -> Path:
        return self.cluster.members[DOMAIN].directory

    def edge_pids(self) -> list[int]:
        """The processes that answer the executors of DOMAIN."""
        group = self.cluster.processes(DOMAIN)
        pids = [pid for pid in group.members() if part_of(pid) == EDGE]
        if not pids:
            raise RuntimeError("the node has no edge process")
        return pids

    def have_edges(self, number: int) -> None:
        """Starts the node of DOMAIN anew, with so many edge processes."""
        self.cluster.configure(DOMAIN, {"edge": {"processes": number}})
        self.cluster.restart(DOMAIN)
        self.cluster.wait_ready()
        wait_until("the edges", lambda: len(self.edge_pids()) == number, 30.0)

    def pids(self) -> list[int]:
        """Every process of every node."""
        domains = self.cluster.members
        return [pid for domain in domains for pid in self.cluster.processes(domain).members()]


@contextmanager
def running(cluster: Cluster) -> Iterator[Federation]:
    """Makes it, starts it, and lets the executors go at the end."""
    cluster.prepare()
    cluster.start()
    cluster.wait_ready()
    crew = Crew(cluster)
    try:
        yield Federation(cluster, crew)
    finally:
        crew.close()
