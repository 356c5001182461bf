"""The soak itself: load, faults, mending, comparing, round after round.

Owns the order of things and what was found. What is chosen is `plan`'s, what is sampled `samples`',
what it amounts to `bounds`'.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from quorate.chaos.checks import entry_problems, false_proofs
from quorate.chaos.cluster import Cluster
from quorate.chaos.crew import Crew
from quorate.chaos.mirror import LedgerMirror
from quorate.chaos.operator import Acknowledged
from quorate.chaos.parts import CORE, part_pid
from quorate.chaos.replay import Replay
from quorate.chaos.soak.load import Load, pace_s
from quorate.chaos.soak.plan import Act, Fault, Plan, era_s

READY_TIMEOUT_S: Final = 120.0
LEVEL_TIMEOUT_S: Final = 120.0
PROOFS_A_NODE: Final = 500
"""Inclusion proofs that each node is asked for at the end, of entries drawn at random."""

Tell = Callable[[str], None]


@dataclass
class Found:
    """What a soak has seen. lost, misplaced: acknowledged commands that stand in the ledgers
    nowhere, or not once and where it was said. problems: everything else that must not be."""

    rounds: int = 0
    entries: int = 0
    written: int = 0
    acknowledged: int = 0
    repeats: int = 0
    unknown: int = 0
    leases: int = 0
    permits: int = 0
    denials: int = 0
    silent: int = 0
    lost: int = 0
    misplaced: int = 0
    snapshots: int = 0
    longest_mending_s: float = 0.0
    faults: Counter[Fault] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


class Soak:
    """One soak of a federation that runs and is whole."""

    def __init__(
        self,
        cluster: Cluster,
        crew: Crew,
        *,
        seed: int,
        seconds: float,
        tell: Tell,
        on_whole: Callable[[], None],
    ) -> None:
        """on_whole: is called whenever every node is at work."""
        self.found = Found()
        self._cluster = cluster
        self._crew = crew
        self._seed = seed
        self._seconds = seconds
        self._tell = tell
        self._on_whole = on_whole
        self._plan = Plan(list(cluster.members), seed)
        self._chance = random.Random(seed)  # noqa: S311 - which proofs are asked for
        self._operators = cluster.operators()
        self._genesis = cluster.genesis()
        self._mirror = LedgerMirror(self._operators, self._genesis)
        self._acknowledged: list[Acknowledged] = []
        self._pause = threading.Event()

    def run(self) -> None:
        """All rounds, and the last comparison. Raises QuorateError when it cannot go on."""
        start = time.monotonic()
        era, era_until_s, elapsed_s = 0, era_s(0, self._seconds), 0.0
        while elapsed_s < self._seconds:
            self._round(self._plan.spared(era))
            elapsed_s = time.monotonic() - start
            if elapsed_s >= era_until_s:
                self._round(self._plan.spared(era), end_of_era=True)
                elapsed_s = time.monotonic() - start
                era, era_until_s = era + 1, elapsed_s + era_s(elapsed_s, self._seconds)
        self._compare_all()

    def _round(self, spared: str, *, end_of_era: bool = False) -> None:
        self.found.rounds += 1
        pace = pace_s(self._seconds)
        load = Load(self._operators, self._crew, self.found.rounds, self._seed, pace)
        load.start()
        try:
            acts = [self._plan.end_of_era()] if end_of_era else self._plan.round(spared)
            for act in acts:
                self._do(act)
        finally:
            load.stop()
        load.settle()
        self._compare(load)

    # -- hurting and mending -------------------------------------------------------------------

    def _do(self, act: Act) -> None:
        self._pause.wait(act.calm_s)
        self.found.faults[act.fault] += 1
        words = f"{act.domain}: {act.fault}" if act.domain else str(act.fault)
        self._tell(f"round {self.found.rounds}: {words}, for {act.away_s:.1f} s")
        match act.fault:
            case Fault.KILL_NODE:
                self._cluster.kill(act.domain)
            case Fault.KILL_CORE:
                self._signal_core(act.domain, signal.SIGKILL)
            case Fault.KILL_ALL:
                self._kill_all()
            case Fault.STOP_NODE:
                self._cluster.pause(act.domain)
            case Fault.STOP_CORE:
                self._signal_core(act.domain, signal.SIGSTOP)
            case Fault.ISOLATE:
                self._cluster.links.isolate(act.domain)
        self._pause.wait(act.away_s)
        self._mend()

    def _kill_all(self) -> None:
        """In as short a moment as can be had."""
        for domain in self._cluster.members:
            os.killpg(self._cluster.processes(domain).pgid, signal.SIGKILL)
        for domain in self._cluster.members:
            self._cluster.kill(domain)  # waits until nothing is left

    def _signal_core(self, domain: str, number: signal.Signals) -> None:
        pid = part_pid(self._cluster.processes(domain), CORE)
        if pid is not None:
            with suppress(ProcessLookupError):  # it ended while we looked
                os.kill(pid, number)

    def _mend(self) -> None:
        """Everything runs, every link is open, every node has authority."""
        self._cluster.links.heal()
        for domain in self._cluster.members:
            group = self._cluster.processes(domain)
            if group.is_running():
                group.resume()
            else:
                self._cluster.kill(domain)  # what may be left of its processes
                self._cluster.start([domain])
        took_s = self._cluster.wait_ready(timeout_s=READY_TIMEOUT_S)
        self.found.longest_mending_s = max(self.found.longest_mending_s, took_s)
        self._on_whole()

    # -- comparing -----------------------------------------------------------------------------

    def _compare(self, load: Load) -> None:
        """Nobody writes: the ledgers must be one, and hold whatever was acknowledged, once."""
        found = self.found
        for tally in load.tallies():
            found.repeats += tally.repeats
            found.unknown += tally.unknown
            found.problems += tally.problems
        for asked in load.asked():
            found.leases += asked.leases
            found.permits += asked.permits
            found.denials += asked.denials
            found.silent += asked.silent
        told = load.acknowledged()
        found.written += sum(len(writer.written) for writer in load.writers)
        found.acknowledged += len(told)
        found.entries = self._mirror.catch_up(LEVEL_TIMEOUT_S)
        self._acknowledged += told
        self._look_for(told)
        logs = [member.log for member in self._cluster.members.values()]
        found.snapshots = sum(snapshots_installed(log) for log in logs)
        self._tell(
            f"round {found.rounds}: {found.entries:,} entries, the same at every node; "
            f"{found.acknowledged:,} acknowledged commands, {found.snapshots} snapshots installed"
        )

    def _look_for(self, told: list[Acknowledged]) -> None:
        lost, misplaced = not_where_told(told, self._mirror.indexes_of)
        self.found.lost += lost
        self.found.misplaced += misplaced

    def _compare_all(self) -> None:
        """Everything once more, from the beginning: order, proofs, and each node's state."""
        found = self.found
        entries = self._mirror.entries
        found.lost = found.misplaced = 0
        self._look_for(self._acknowledged)
        found.problems += entry_problems(entries, self._genesis, self._acknowledged)
        indexes = self._chance.sample(range(len(entries)), min(PROOFS_A_NODE, len(entries)))
        self._tell(f"asking every node for {len(indexes)} inclusion proofs")
        for operator in self._operators:
            found.problems += false_proofs(operator, self._genesis, entries, indexes)
        self._tell(f"executing {len(entries):,} entries again, and comparing every node's state")
        replay = Replay(self._genesis, entries)
        found.problems += replay.problems
        for operator in self._operators:
            found.problems += replay.differences(operator)


def not_where_told(
    told: Iterable[Acknowledged], indexes_of: Callable[[str], Sequence[int]]
) -> tuple[int, int]:
    """How many acknowledged commands stand nowhere, and how many not once and where it was said."""
    lost = misplaced = 0
    for each in told:
        indexes = list(indexes_of(each.command_id))
        lost += not indexes
        misplaced += bool(indexes) and indexes != [each.ledger_index]
    return lost, misplaced


def snapshots_installed(log: Path) -> int:
    """How often a node says in its log that it has installed a snapshot."""
    with log.open(errors="replace") as lines:
        return sum('"snapshot.installed"' in line for line in lines)
