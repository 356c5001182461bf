"""The federation of three real nodes that the public API is measured on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from quorate.chaos.cluster import Cluster
from quorate.chaos.crew import Crew
from quorate.chaos.parts import part_pid

DOMAIN = "bank.example"


@dataclass(frozen=True, slots=True)
class Federation:
    """It runs, and one executor of each organisation may act on everybody's records."""

    cluster: Cluster
    crew: Crew

    @property
    def client(self) -> Path:
        """The directory of an executor that acts for DOMAIN."""
        return self.crew.workers[DOMAIN].client

    @property
    def organisation(self) -> Path:
        return self.cluster.members[DOMAIN].directory

    def edge_pid(self) -> int:
        """The process that answers the executors of DOMAIN."""
        pid = part_pid(self.cluster.processes(DOMAIN), "edge")
        if pid is None:
            raise RuntimeError("the node has no edge process")
        return pid

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
