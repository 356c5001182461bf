"""`quorate chaos sim`: seeds of the simulated federation, on all cores, and one of them to read.

Owns what is shown. What a run is, is `quorate.testing.simulation`'s.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from quorate.core.errors import ConfigurationError
from quorate.testing.simulation.fleet import Summary, run_fleet
from quorate.testing.simulation.plan import PROFILES, Plan, make_plan
from quorate.testing.simulation.run import Report, run_plan
from quorate.testing.simulation.shrink import shrink
from quorate.testing.simulation.trace import Trace
from quorate.testing.simulation.worker import load_patches, to_json

HELD, BROKEN, UNSEEN = 0, 1, 6
_FRESH_SEEDS_BELOW = 2**32
_SHOWN_EVENTS = 40


def seeds_of(text: str) -> list[int]:
    """`A-B`: these seeds. `N`: so many that nobody has tried. Raises ConfigurationError."""
    first, dash, last = text.partition("-")
    try:
        if dash:
            seeds = list(range(int(first), int(last) + 1))
        else:
            begin = secrets.randbelow(_FRESH_SEEDS_BELOW)
            seeds = list(range(begin, begin + int(first)))
    except ValueError:
        seeds = []
    if not seeds:
        raise ConfigurationError(f"{text} names no seeds", hint="give 1-1000, or how many: 1000")
    return seeds


def replay_command(seed: int, profile: str, patches: str = "") -> str:
    """The line that runs a seed again and shows all of it."""
    broken = f" --patches {patches}" if patches else ""
    return f"quorate chaos sim --profile {profile} --replay {seed}{broken}"


def run_seeds(
    *,
    seeds: str,
    jobs: int | None,
    profile: str,
    output: str,
    patches: str = "",
    require_all: bool = False,
) -> int:
    """Runs seeds, shows what they have shown, and returns the exit code. require_all: promises that
    nothing has tried have not held; `sometimes.EXPECTED` lists what has to have happened."""
    wanted = seeds_of(seeds)
    console = Console(stderr=True, highlight=False)
    console.print(
        f"seeds {wanted[0]}-{wanted[-1]} of [bold]{escape(profile)}[/], "
        f"{jobs or os.cpu_count() or 1} at a time"
    )
    summary = asyncio.run(_run(wanted, jobs or os.cpu_count() or 1, profile, console, patches))
    if output == "json":
        sys.stdout.write(json.dumps(summary.to_json()) + "\n")
    else:
        _show(summary, profile, patches, len(wanted))
    if summary.failed:
        return BROKEN
    return UNSEEN if require_all and summary.never else HELD


async def _run(
    seeds: Sequence[int], jobs: int, profile: str, console: Console, patches: str
) -> Summary:
    summary = Summary(profile, seeds=f"{seeds[0]}-{seeds[-1]}")
    columns = (
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
        *(TextColumn("{task.fields[rate]}"), TimeRemainingColumn()),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("simulating", total=len(seeds), rate="")
        async for result in run_fleet(seeds, profile, jobs, patches):
            summary.add(result)
            hours = summary.simulated_s / 3600
            progress.update(
                bar,
                advance=1,
                rate=f"{hours:.1f} h, {summary.rate:.0f} s/s a core",
                description="[red]broken" if summary.failed else "simulating",
            )
            if result["failure"] is not None:
                _show_failure(result, profile, patches, console)
    return summary


def _show_failure(result: dict[str, Any], profile: str, patches: str, console: Console) -> None:
    failure = result["failure"]
    console.print(f"[bold red]broken:[/] {escape(failure['message'])}")
    console.print(f"seed {result['seed']}, {failure['at_s']:.3f} s into the run; the last events:")
    for line in failure["trace"][-_SHOWN_EVENTS:]:
        console.print(f"  {escape(line)}", soft_wrap=True)
    console.print(
        f"again: [bold]{escape(replay_command(result['seed'], profile, patches))}[/]",
        soft_wrap=True,
    )


def _show(summary: Summary, profile: str, patches: str, wanted: int) -> None:
    console = Console(highlight=False)
    verdict = "[bold red]broken[/]" if summary.failed else "[bold green]every promise held[/]"
    console.print(
        f"{verdict}: {summary.runs} of {wanted} runs, {summary.simulated_s / 3600:.2f} simulated "
        f"hours, {summary.rate:.1f} simulated seconds per second of one core"
    )
    console.print(f"longest until all was well again, once repaired: {summary.slowest_s:.1f} s")
    for result in summary.failed:
        line = replay_command(result["seed"], profile, patches)
        promise = escape(result["failure"]["promise"])
        console.print(f"  [red]{promise}[/]: {escape(line)}", soft_wrap=True)
    seen = ", ".join(f"{name} {count}" for name, count in sorted(summary.sometimes.items()))
    console.print(f"[dim]seen: {escape(seen)}[/]", soft_wrap=True)
    if summary.never:
        console.print(f"[yellow]never seen: {escape(', '.join(summary.never))}[/]")


# -- one run -----------------------------------------------------------------------------------


def read_plan(file: Path) -> Plan:
    """A plan that `--shrink` wrote. Raises ConfigurationError."""
    try:
        return Plan.from_json(json.loads(file.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{file} holds no plan: {error}", hint="give a file that `--shrink` has written"
        ) from error


def replay(plan: Plan, *, output: str, patches: str = "") -> int:
    """Runs one plan, and shows every event of it."""
    trace = Trace(tell=print if output != "json" else None)
    report = run_plan(plan, trace=trace, patches=load_patches(patches))
    return _tell(report, output)


def shrink_plan(plan: Plan, *, seconds: float, file: Path, output: str, patches: str = "") -> int:
    """Looks for a smaller run that breaks the same promise, and writes its plan to a file."""
    console = Console(stderr=True, highlight=False)
    broken = load_patches(patches)
    report = run_plan(plan, patches=broken)
    if report.failure is None:
        console.print("this run keeps every promise: there is nothing to make smaller")
        return HELD
    console.print(f"[red]{escape(report.failure.message)}[/]")
    console.print(f"{len(plan.events)} events; looking for fewer, for {seconds:.0f} s")
    smallest = shrink(
        report,
        seconds=seconds,
        patches=broken,
        tell=lambda found: console.print(
            f"{len(found.plan.events)} events, {found.simulated_s:.1f} s"
        ),
    )
    file.write_text(json.dumps(smallest.plan.to_json()) + "\n")
    if output != "json" and smallest.failure is not None:
        for line in smallest.failure.trace:
            console.print(f"  {escape(line)}", soft_wrap=True)
        for event in smallest.plan.events:
            console.print(f"  {event.at / 1e9:10.3f} s  {event.kind} {event.who}")
    console.print(f"again: [bold]quorate chaos sim --plan {escape(str(file))}[/]", soft_wrap=True)
    return _tell(smallest, output)


def _tell(report: Report, output: str) -> int:
    if output == "json":
        sys.stdout.write(json.dumps(to_json(report, report.real_s)) + "\n")
    else:
        console = Console(highlight=False)
        failure = report.failure
        said = (
            "[bold green]every promise held[/]"
            if failure is None
            else f"[bold red]broken:[/] {escape(failure.message)}"
        )
        console.print(f"{said} (digest {report.digest[:16]}, {report.simulated_s:.1f} s)")
    return HELD if report.failure is None else BROKEN


def plan_of(seed: int, profile: str) -> Plan:
    """The plan of one seed."""
    return make_plan(seed, PROFILES[profile])
