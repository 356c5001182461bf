"""What the nodes of a federation take: memory of their processes, pages of their stores.

Owns the reading of both, from outside: /proc and, for reading only, the store itself; no node is
asked. Judges nothing (see `bounds`).

Memory is what a process holds for itself (RssAnon of proc(5)). Pages of the store that it maps are
the kernel's to take back, and are not counted.
"""

from __future__ import annotations

import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import lmdb

from quorate.chaos.cluster import Cluster
from quorate.chaos.parts import CORE, EDGE, part_of
from quorate.storage import layout

PARTS: Final = (CORE, EDGE)
KIB: Final = 1024
SETTLED_S: Final = 10.0
MAP_BYTES: Final = 16 * 1024**3
"""Of the nodes' stores in a soak: none shall be full before it is over."""


@dataclass(frozen=True, slots=True)
class MemorySample:
    """One process at one moment. process: its id and start time, which together are its alone.
    age_s: since it was first seen. settled: it has been seen for SETTLED_S, and since then every
    node was seen at work: it has imported and opened everything, however slow the machine is."""

    at_s: float
    domain: str
    part: str
    process: str
    age_s: float
    settled: bool
    anon_bytes: int


@dataclass(frozen=True, slots=True)
class DiskSample:
    """One node's store at one moment. used_bytes: of the pages in use, all of them; state_bytes,
    log_bytes: of those that hold the state, and the log."""

    at_s: float
    domain: str
    file_bytes: int
    used_bytes: int
    state_bytes: int
    log_bytes: int
    log_entries: int
    ledger_entries: int


class Sampler:
    """Samples every node's processes and store, again and again, in a thread of its own."""

    def __init__(self, cluster: Cluster, every_s: float) -> None:
        self.memory: list[MemorySample] = []
        self.disk: list[DiskSample] = []
        self.problem = ""
        self._cluster = cluster
        self._every_s = every_s
        self._start = time.monotonic()
        self._born: dict[str, float] = {}
        self._whole_s = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when the last sample has been taken."""
        self._stopping.set()
        self._thread.join()

    def whole(self) -> None:
        """Every node is at work at this moment."""
        self._whole_s = time.monotonic() - self._start

    def to_json(self) -> dict[str, list[dict[str, Any]]]:
        return {
            "memory": [asdict(sample) for sample in self.memory],
            "disk": [asdict(sample) for sample in self.disk],
        }

    def _run(self) -> None:
        while not self._stopping.wait(self._every_s):
            try:
                self.take()
            except lmdb.Error as error:
                self.problem = f"a store could not be read: {error}"
                return

    def take(self) -> None:
        """One sample of everything that is there."""
        at_s = time.monotonic() - self._start
        for domain in self._cluster.members:
            for pid in self._cluster.processes(domain).members():
                part = part_of(pid)
                found = read_process(pid) if part in PARTS else None
                if part is None or found is None:
                    continue
                process, anon_bytes = found
                born_s = self._born.setdefault(process, at_s)
                age_s = at_s - born_s
                settled = age_s >= SETTLED_S and born_s < self._whole_s
                sample = MemorySample(at_s, domain, part, process, age_s, settled, anon_bytes)
                self.memory.append(sample)
            organisation = self._cluster.operator(domain).organisation
            self.disk.append(read_store(organisation.config.node.data_dir / "ledger", domain, at_s))


def read_process(pid: int) -> tuple[str, int] | None:
    """A process's identity and RssAnon, bytes; None when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        # proc(5): starttime is field 22, the 20th after the name in parentheses.
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = dict(line.split(":", 1) for line in status.splitlines())
    if "RssAnon" not in fields:  # it has ended, and nobody has asked how
        return None
    return f"{pid}/{started}", int(fields["RssAnon"].split()[0]) * KIB


def read_store(path: Path, domain: str, at_s: float) -> DiskSample:
    """The pages of a node's store. Raises lmdb.Error."""
    env = lmdb.open(
        str(path),
        map_size=MAP_BYTES,  # a smaller one is outgrown between this call and the next
        readonly=True,
        create=False,
        max_dbs=len(layout.DATABASES),
        readahead=False,
    )
    try:
        databases = {name: env.open_db(name, create=False) for name in layout.DATABASES}
        with env.begin() as txn:
            stats = {name: txn.stat(database) for name, database in databases.items()}
    finally:
        env.close()
    pages = {name: _pages(stat) * stat["psize"] for name, stat in stats.items()}
    return DiskSample(
        at_s=at_s,
        domain=domain,
        file_bytes=(path / layout.DATA_FILE).stat().st_size,
        used_bytes=sum(pages.values()),
        state_bytes=sum(size for name, size in pages.items() if name.startswith(b"state")),
        log_bytes=pages[b"log"],
        log_entries=stats[b"log"]["entries"],
        ledger_entries=stats[b"ledger"]["entries"],
    )


def _pages(stat: Any) -> int:
    return int(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"])
