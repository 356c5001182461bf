"""All mutants on all cores, as a table: `make sim-mutants`.

    python -m tests.simulation.mutants                      all of them
    python -m tests.simulation.mutants --only signatures    those whose name contains this
    python -m tests.simulation.mutants --output json

Each is run on seeds 0, 1, ... until one of them breaks a promise that the mutant may break, or its
number of seeds is used up: then it has survived, and the simulator is not finished.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from tests.simulation.mutants import MUTANTS, Mutant

from quorate.testing.simulation.fleet import WorkerError, run_fleet

CAUGHT, SURVIVED, UNKNOWN = 0, 1, 2
_WIDTH: Final = 150
"""Of the table where the output is no terminal."""


@dataclass(frozen=True)
class Result:
    """What became of a mutant. seed: that of the run that has seen it, None when none has.
    runs: how many there were."""

    mutant: Mutant
    runs: int
    cpu_s: float
    seed: int | None = None
    promise: str = ""

    @property
    def is_caught(self) -> bool:
        return self.seed is not None

    @property
    def replay(self) -> str:
        """The command that shows the run, from the repository's folder."""
        broken = f"--profile {self.mutant.profile} --patches {self.mutant.patches}"
        seeds = f"--seeds 0-{self.mutant.within - 1}" if self.seed is None else ""
        again = seeds or f"--replay {self.seed}"
        return f"PYTHONPATH=. .venv/bin/quorate chaos sim {again} {broken}"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.mutant.name,
            "what": self.mutant.what,
            "profile": self.mutant.profile,
            "within": self.mutant.within,
            "caught": self.is_caught,
            "seed": self.seed,
            "promise": self.promise,
            "runs": self.runs,
            "cpu_s": round(self.cpu_s, 1),
            "replay": self.replay,
        }


async def hunt(mutant: Mutant) -> Result:
    """Runs one seed after the other in a process of its own until one has seen the mutant."""
    runs, cpu_s = 0, 0.0
    results = run_fleet(range(mutant.within), mutant.profile, 1, mutant.patches)
    async with aclosing(results):  # type: ignore[type-var]  # it is a generator
        async for found in results:
            runs, cpu_s = runs + 1, cpu_s + found["cpu_s"]
            failure = found["failure"]
            if failure is not None and mutant.shows_in(failure["promise"]):
                return Result(mutant, runs, cpu_s, found["seed"], failure["promise"])
    return Result(mutant, runs, cpu_s)


async def hunt_all(mutants: Sequence[Mutant], jobs: int, progress: Progress) -> list[Result]:
    """So many at a time; the results in the order of the list."""
    bar = progress.add_task("breaking", total=len(mutants))
    free = asyncio.Semaphore(jobs)
    survived = 0

    async def one(mutant: Mutant) -> Result:
        nonlocal survived
        async with free:
            result = await hunt(mutant)
        survived += not result.is_caught
        said = f"[red]{survived} survived" if survived else "breaking"
        progress.update(bar, advance=1, description=said)
        return result

    return list(await asyncio.gather(*map(one, mutants)))


def table(results: Sequence[Result]) -> Table:
    """One row for each mutant."""
    shown = Table(show_lines=False, header_style="bold", expand=True)
    shown.add_column("broken on purpose", ratio=5)
    shown.add_column("caught by", ratio=4)
    shown.add_column("runs", no_wrap=True)
    shown.add_column("seed", justify="right")
    shown.add_column("of", justify="right")
    for result in results:
        mutant = result.mutant
        shown.add_row(
            f"[bold]{mutant.name}[/]: {escape(mutant.what)}",
            escape(result.promise) if result.is_caught else "[bold red]nothing: it survived[/]",
            mutant.profile,
            "" if result.seed is None else str(result.seed),
            str(mutant.within),
        )
    return shown


def show(results: Sequence[Result], took_s: float) -> None:
    """The table, how each is replayed, and the verdict."""
    width = None if sys.stdout.isatty() else _WIDTH
    console = Console(highlight=False, width=width)
    console.print(table(results))
    console.print("\nTo see one again:\n")
    for result in results:
        console.print(f"  {escape(result.replay)}", soft_wrap=True)
    survived = [result.mutant.name for result in results if not result.is_caught]
    runs, cpu_s = sum(each.runs for each in results), sum(each.cpu_s for each in results)
    console.print(
        f"\n{len(results) - len(survived)} of {len(results)} breaks caught, in {runs} runs "
        f"({cpu_s:.0f} s of computing, {took_s:.0f} s)"
    )
    if survived:
        console.print(f"[bold red]survived:[/] {', '.join(survived)}")


def main() -> int:
    """Exits 0 if every mutant was caught, 1 if one survived, 2 if nothing is known: `--only`
    names none, or a process has ended."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--only", default="", metavar="NAME", help="those that have this in it")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutants at a time")
    parser.add_argument("--output", choices=("text", "json"), default="text")
    arguments = parser.parse_args()
    mutants = [mutant for mutant in MUTANTS if arguments.only in mutant.name]
    if not mutants:
        sys.stderr.write(f"no mutant has {arguments.only!r} in its name\n")
        return UNKNOWN
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    began = time.monotonic()
    with Progress(
        *columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True
    ) as progress:
        try:
            results = asyncio.run(hunt_all(mutants, arguments.jobs, progress))
        except WorkerError as error:
            sys.stderr.write(f"{error}\n")
            return UNKNOWN
    if arguments.output == "json":
        sys.stdout.write(json.dumps([result.to_json() for result in results]) + "\n")
    else:
        show(results, time.monotonic() - began)
    return CAUGHT if all(result.is_caught for result in results) else SURVIVED


if __name__ == "__main__":
    sys.exit(main())
