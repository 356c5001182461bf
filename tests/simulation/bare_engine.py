"""The engine as it comes and ours, in the same simulated federations, under the same faults.

    make sim-bare                                                  the table, over 100 seeds
    python -m tests.simulation.bare_engine --seeds 7:8 --verbose   one seed

Every seed is one run for each row: five nodes, half a minute of commands and faults (crashes,
pauses, partitions, links that break), then everything is healed and has time to settle. What is
counted can be seen from outside, and means the same for every engine:

- two leaders in one term;
- different states at one index of the log;
- nodes that are not in step 30 s after healing, or take no command then;
- a command that was reported as executed, and is not in the state of a leader that executes others
  in the end.

Both send at most 2 KiB of commands in a message, so that whoever lags needs several. With
`compaction` the engine writes a dump each 60 entries (its default is 5000) and sends it in parts
of 256 bytes (its default is 64 KiB), for a state that is as much smaller than a real one; ours
keeps a log of five entries, and sends a snapshot to whoever needs an older one. A crash of the
engine keeps whatever was written; `quorate.testing.raft` loses what ours had not made durable.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import Final
from unittest.mock import patch

from tests.unit.consensus.bare_cluster import BareCluster, CompactingCluster, OurCluster

from quorate.consensus import followers
from quorate.testing.raft import Host, TurnFault

Cluster = BareCluster | OurCluster

SIZE: Final = 5
BUSY_S: Final = 30.0
HEALED_S: Final = 30.0
PROPOSE_EVERY_S: Final = 0.05
FAULT_EVERY_S: Final = 1.0
COMMAND_BYTES: Final = 200
BATCH_BYTES: Final = 2048
COMPACTING: Final = {"logCompactionMinEntries": 60, "logCompactionBatchSize": 256}

TWO_LEADERS: Final = "two leaders in a term"
TWO_STATES: Final = "two states at an index"
LOST: Final = "executed, then lost"
OUT_OF_STEP: Final = "not in step 30 s later"
KINDS: Final = (TWO_LEADERS, TWO_STATES, LOST, OUT_OF_STEP)


@dataclass
class Report:
    """What one run showed."""

    seed: int
    seconds: float = 0.0
    executed: int = 0
    elections: int = 0
    violations: dict[str, str] = field(default_factory=dict)
    """By kind, the first of each, in words."""


class Run:
    """One seed on one cluster. What is drawn does not depend on what the cluster does."""

    def __init__(self, seed: int, cluster: Cluster) -> None:
        self.cluster = cluster
        self.report = Report(seed)
        self._chance = random.Random(seed)  # noqa: S311 - a simulation's chance, no secret
        self._states: dict[int, tuple[bytes, str]] = {}
        self._leaders: dict[int, str] = {}
        self._proposed: list[tuple[str, bytes]] = []
        self._reported: set[bytes] = set()
        self._is_over = False

    def run(self) -> Report:
        cluster = self.cluster
        cluster.on_turn = self._look
        self._later(PROPOSE_EVERY_S, self._propose)
        self._later(FAULT_EVERY_S, self._fault)
        cluster.run_for(BUSY_S)
        self._is_over = True
        self._collect()
        self._heal()
        self._check_end()
        self.report.seconds = cluster.now
        self.report.executed = len(self._reported)
        self.report.elections = len(cluster.leaderships)
        return self.report

    def _later(self, mean_s: float, action: Callable[[], None]) -> None:
        def act() -> None:
            if not self._is_over:
                self._later(mean_s, action)
                action()

        self.cluster.at(self.cluster.now + self._chance.expovariate(1 / mean_s), act)

    def _propose(self) -> None:
        name = self._chance.choice(list(self.cluster.hosts))
        key = b"%06d" % len(self._proposed)
        host = self.cluster.hosts[name]
        self._proposed.append((name, key))
        if host.replica is not None and not host.paused:
            self.cluster.propose(name, key, key.ljust(COMMAND_BYTES, b"."))

    # -- faults --------------------------------------------------------------------------------

    def _fault(self) -> None:
        cluster, chance = self.cluster, self._chance
        names = chance.sample(list(cluster.hosts), SIZE)
        on_leader, seconds = chance.random() < 0.3, chance.uniform(0.05, 4)
        group, draw = chance.randrange(1, SIZE // 2 + 1), chance.randrange(8)
        leader = cluster.leader()
        if on_leader and leader is not None:
            names.sort(key=lambda name: name != leader.node_id)
        host = cluster.hosts[names[0]]
        is_up = host.replica is not None
        if draw == 0 and is_up and self._most_are_up():
            self._crash(host, seconds)
        elif draw == 1 and is_up and self._most_are_up():
            host.turn_fault = TurnFault.CRASH_BEFORE_SEND
            cluster.at(cluster.now + seconds, partial(self._start, host))
        elif draw == 2 and is_up:
            cluster.pause(host.node_id, seconds)
        elif draw == 3:
            cluster.isolate(*names[:group])
        elif draw == 4:
            self._cut(names[0], names[1])
        elif draw == 5:
            cluster.reset_link(names[0], names[1])
        else:
            cluster.heal()

    def _most_are_up(self) -> bool:
        return len(list(self.cluster.running())) > SIZE // 2 + 1

    def _crash(self, host: Host, seconds: float) -> None:
        self.cluster.crash(host.node_id)
        self.cluster.at(self.cluster.now + seconds, partial(self._start, host))

    def _start(self, host: Host) -> None:
        if host.replica is None:
            self.cluster.start(host.node_id)

    def _cut(self, a: str, b: str) -> None:
        self.cluster.cut(a, b)
        self.cluster.cut(b, a)

    def _heal(self) -> None:
        self.cluster.heal()
        for host in self.cluster.hosts.values():
            host.turn_fault = None
            self._start(host)
            if host.paused:
                self.cluster.resume(host.node_id)

    # -- what is seen --------------------------------------------------------------------------

    def _found(self, kind: str, what: str) -> None:
        self.report.violations.setdefault(kind, f"{self.cluster.now:.3f} s: {what}")

    def _look(self, host: Host) -> None:
        """After each turn of a node."""
        name = host.node_id
        if host.live.is_leader:
            first = self._leaders.setdefault(host.live.term, name)
            if first != name:
                self._found(TWO_LEADERS, f"{first} and {name} in {host.live.term}")
        index, digest = self.cluster.state(name)
        held, by = self._states.setdefault(index, (digest, name))
        if held != digest:
            self._found(TWO_STATES, f"{by} and {name} at {index}")

    def _collect(self) -> None:
        for name, key in self._proposed:
            if self.cluster.was_executed(name, key):
                self._reported.add(key)

    def _check_end(self) -> None:
        cluster = self.cluster
        last = b"last".ljust(COMMAND_BYTES, b".")

        def settled() -> bool:
            names = [host.node_id for host in cluster.running()]
            states = {cluster.state(name) for name in names}
            return len(states) == 1 and last in cluster.values(names[0])

        cluster.run_for(HEALED_S / 2)
        leader = cluster.leader()
        if leader is not None:
            cluster.propose(leader.node_id, b"last", last)
        in_step = leader is not None and cluster.run_until(settled, HEALED_S / 2)
        if not in_step:
            states = {name: cluster.state(name)[0] for name in cluster.hosts}
            self._found(OUT_OF_STEP, f"applied {states}")
        kept = cluster.values(leader.node_id) if leader is not None else []
        if last not in kept:
            return  # what is only not committed yet may come back
        self._collect()
        missing = sorted(self._reported - {value[:6] for value in kept})
        if missing:
            self._found(LOST, f"{len(missing)} of {len(self._reported)}, from {missing[0]!r} on")


def run_bare(seed: int, *, compaction: bool) -> Report:
    """One seed on bare engines with journals of their own, and dumps when they compact."""
    more = COMPACTING if compaction else {}
    with tempfile.TemporaryDirectory(prefix="quorate-bare-", dir=_memory()) as folder:
        cluster = BareCluster(
            seed, SIZE, Path(folder), appendEntriesBatchSizeBytes=BATCH_BYTES, **more
        )
        try:
            return Run(seed, cluster).run()
        finally:
            cluster.close()


def run_ours(seed: int, *, compaction: bool) -> Report:
    """The same seed on ours."""
    kind = CompactingCluster if compaction else OurCluster
    with patch.object(followers, "MAX_APPEND_BYTES", BATCH_BYTES):
        return Run(seed, kind(seed, SIZE)).run()


def _memory() -> str | None:
    """Journals that are made and thrown away need no disk."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


ROWS: Final[dict[str, Callable[[int], Report]]] = {
    "bare": partial(run_bare, compaction=False),
    "bare, compaction": partial(run_bare, compaction=True),
    "ours": partial(run_ours, compaction=False),
    "ours, compaction": partial(run_ours, compaction=True),
}


def _one(task: tuple[str, int]) -> tuple[str, Report]:
    row, seed = task
    return row, ROWS[row](seed)


def table(reports: Iterable[tuple[str, Report]]) -> str:
    """One line for each row: in how many runs each kind of violation was seen."""
    by_row: dict[str, list[Report]] = {row: [] for row in ROWS}
    for row, report in reports:
        by_row[row].append(report)
    lines = [
        "| engine | runs | violated | " + " | ".join(KINDS) + " | elections | executed |",
        "|---" * (len(KINDS) + 5) + "|",
    ]
    for row, found in by_row.items():
        kinds = Counter(kind for report in found for kind in report.violations)
        cells = [row, len(found), sum(bool(report.violations) for report in found)]
        cells += [kinds[kind] for kind in KINDS]
        cells += [sum(r.elections for r in found), sum(r.executed for r in found)]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """Prints the table. Fails when a run of ours shows a violation."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seeds", default="0:100", help="FIRST:END")
    parser.add_argument("--jobs", type=int, default=None, help="processes; as many as cores")
    parser.add_argument("--verbose", action="store_true", help="each violation in words")
    arguments = parser.parse_args()
    first, _, end = arguments.seeds.partition(":")
    tasks = [(row, seed) for seed in range(int(first), int(end)) for row in ROWS]
    began, reports = time.monotonic(), []
    with Pool(arguments.jobs) as pool:
        for row, report in pool.imap_unordered(_one, tasks):
            reports.append((row, report))
            if arguments.verbose:
                for kind, what in report.violations.items():
                    sys.stderr.write(f"{row}, seed {report.seed}: {kind}: {what}\n")
            elif sys.stderr.isatty():
                sys.stderr.write(f"\r{len(reports)} of {len(tasks)} runs ")
    hours = sum(report.seconds for _, report in reports) / 3600
    took_s = time.monotonic() - began
    sys.stderr.write("\r")
    sys.stdout.write(f"{table(reports)}\n\n{hours:.1f} simulated hours in {took_s:.0f} s\n")
    ours = [report for row, report in reports if row.startswith("ours")]
    return int(any(report.violations for report in ours))


if __name__ == "__main__":
    sys.exit(main())
