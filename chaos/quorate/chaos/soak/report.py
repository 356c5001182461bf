"""What a person and a program get of a soak.

Owns the claims on what was found, the progress, the table and the document. What is claimed of the
samples is `bounds`'.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from quorate.chaos.demo.claims import Claim, at_least, at_most, equal
from quorate.chaos.soak.bounds import Bounds
from quorate.chaos.soak.plan import Fault
from quorate.chaos.soak.run import Found

SHOWN_PROBLEMS: Final = 10
LEAST_COMMANDS_A_SECOND: Final = 1
MENDING_S: Final = 60.0


def found_claims(found: Found, seconds: float) -> list[Claim]:
    """Nothing was lost, nothing done twice; and there was enough that could have been."""
    return [
        equal("loss.lost", "acknowledged commands that are in no ledger", found.lost, 0),
        equal(
            "loss.misplaced",
            "acknowledged commands that stand twice, or not where it was said",
            found.misplaced,
            0,
        ),
        equal("loss.problems", "contradictions of any other kind", len(found.problems), 0),
        at_least(
            "loss.acknowledged",
            "acknowledged commands",
            found.acknowledged,
            int(seconds * LEAST_COMMANDS_A_SECOND),
        ),
        at_least("loss.unknown", "commands whose outcome a fault kept back", found.unknown, 1),
        at_least("snapshots", "snapshots installed by nodes that were behind", found.snapshots, 1),
        *(at_least(f"fault.{fault.name}", fault, found.faults[fault], 1) for fault in _WANTED),
        at_most(
            "mending.longest",
            "longest time from a fault's end to authority at every node",
            found.longest_mending_s,
            MENDING_S,
            "s",
        ),
    ]


_WANTED: Final = (Fault.KILL_NODE, Fault.KILL_CORE, Fault.KILL_ALL)


class Teller:
    """Says what happens, each line with the seconds since the beginning, over a bar on a terminal.

    output: "text" on standard output; with "json" the story goes to standard error.
    """

    def __init__(self, output: str, seconds: float) -> None:
        self._console = Console(stderr=output == "json", highlight=False, soft_wrap=True)
        self._start = time.monotonic()
        self._progress = Progress(
            TextColumn("soak"),
            BarColumn(),
            TextColumn("{task.percentage:.0f} %"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task("soak", total=seconds)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._start

    def tell(self, words: str) -> None:
        """One line of plain words."""
        self._progress.update(self._task, completed=self.elapsed_s)
        self._console.print(f"[dim]{self.elapsed_s:7.1f}s[/]  {escape(words)}")

    def summary(self, claims: list[Claim], found: Found, problem: str, *, holds: bool) -> None:
        """The table of all claims, and what went wrong."""
        table = Table(title="What was claimed, and what was measured", title_justify="left")
        for name in ("", "claim", "measured", "bound"):
            table.add_column(name, justify="right" if name in ("measured", "bound") else "left")
        for claim in claims:
            table.add_row(
                "[green]holds[/]" if claim.holds else "[bold red]FAILS[/]",
                escape(claim.statement),
                escape(f"{claim.measured} {claim.unit}".rstrip()),
                escape(f"{claim.relation} {claim.bound} {claim.unit}".rstrip()),
            )
        self._console.print(table, soft_wrap=False)
        for each in found.problems[:SHOWN_PROBLEMS]:
            self._console.print(f"[red]{escape(each)}[/]")
        if problem:
            self._console.print(f"[bold red]The soak could not go on:[/] {escape(problem)}")
        word = "[bold green]Every claim held[/]" if holds else "[bold red]Not every claim held[/]"
        self._console.print(f"{word} ({len(claims)} claims, {self.elapsed_s:.0f} s).")


def document(
    claims: list[Claim],
    found: Found,
    *,
    holds: bool,
    problem: str,
    seed: int,
    bounds: Bounds,
    duration_s: float,
) -> dict[str, Any]:
    """The result for programs."""
    counted = asdict(found) | {
        "faults": {fault.name: number for fault, number in sorted(found.faults.items())},
        "problems": found.problems[:SHOWN_PROBLEMS],
        "problems_found": len(found.problems),
    }
    return {
        "holds": holds,
        "problem": problem,
        "again": f"quorate chaos soak --minutes {bounds.seconds / 60:g} --seed {seed} "
        f"--log-tail {bounds.log_tail} --max-log-entries {bounds.max_log_entries}",
        "seed": seed,
        "seconds": bounds.seconds,
        "duration_s": round(duration_s, 1),
        "found": counted,
        "claims": [claim.to_json() for claim in claims],
    }
