"""`quorate chaos`: federations that are hurt on purpose, on this machine."""

from __future__ import annotations

import importlib
import secrets
from pathlib import Path
from typing import Annotated

import typer

from quorate.cli.output import Output, OutputOption

app = typer.Typer(
    add_completion=False, help="Hurt federations on this machine, and check what must be true."
)


@app.callback()
def _group() -> None:
    """Makes this a group, however many commands it has."""


@app.command("soak")
def soak(
    *,
    minutes: Annotated[float, typer.Option("--minutes", min=3.0, help="How long.")] = 30.0,
    seed: Annotated[
        int | None,
        typer.Option("--seed", min=0, help="Which faults, and when; else one drawn by chance."),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option("--directory", metavar="DIR", help="Where to make it; else a temporary one."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="Write the result and all samples as JSON."),
    ] = None,
    log_tail: Annotated[
        int,
        typer.Option(
            "--log-tail",
            min=1,
            help="Entries of its Raft log that each node keeps for those that are behind.",
        ),
    ] = 100,
    max_log_entries: Annotated[
        int | None,
        typer.Option(
            "--max-log-entries",
            min=1,
            help="Fail when a node has more of them; else 2,000 above --log-tail.",
        ),
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Load three real nodes, and kill and stop them at random: no loss, bounded memory and disk.

    Exits 0 only if every claim held.
    """
    module = importlib.import_module("quorate.chaos.soak")
    code = module.run_soak(
        seconds=minutes * 60,
        seed=secrets.randbelow(2**31) if seed is None else seed,
        output=output.value,
        directory=directory,
        report=report,
        log_tail=log_tail,
        max_log_entries=max_log_entries,
    )
    raise typer.Exit(int(code))


@app.command("sim")
def sim(
    *,
    seeds: Annotated[
        str,
        typer.Option("--seeds", metavar="A-B|N", help="These seeds; or so many fresh ones."),
    ] = "100",
    profile: Annotated[
        str, typer.Option("--profile", help="What kind of runs; docs/simulation.md lists them.")
    ] = "mixed",
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Runs at a time; else one a core.")
    ] = None,
    replay: Annotated[
        int | None, typer.Option("--replay", metavar="SEED", help="Show all of this seed's run.")
    ] = None,
    shrink: Annotated[
        int | None,
        typer.Option("--shrink", metavar="SEED", help="Look for less that breaks the same."),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option("--plan", metavar="FILE", help="Replay what --shrink has written."),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1.0, help="How long --shrink looks.")
    ] = 120.0,
    patches: Annotated[
        str,
        typer.Option("--patches", metavar="MODULE:FUNCTION", help="Break a part on purpose."),
    ] = "",
    require_all: Annotated[
        bool,
        typer.Option(
            "--require-all", help="Also fail when some of what has to happen in a range never did."
        ),
    ] = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Simulate whole federations, one for each seed, and hold them to every promise.

    Exits 0 if all held, 1 if one was broken, 6 if `--require-all` is given and something never
    happened.
    """
    module = importlib.import_module("quorate.chaos.simulate")
    if profile not in module.PROFILES:
        names = ", ".join(module.PROFILES)
        raise typer.BadParameter(f"{profile} is none of: {names}", param_hint="--profile")
    if require_all and (plan, replay, shrink) != (None, None, None):
        raise typer.BadParameter("is about a range of seeds", param_hint="--require-all")
    if plan is not None:
        code = module.replay(module.read_plan(plan), output=output.value, patches=patches)
    elif replay is not None:
        wanted = module.plan_of(replay, profile)
        code = module.replay(wanted, output=output.value, patches=patches)
    elif shrink is not None:
        code = module.shrink_plan(
            module.plan_of(shrink, profile),
            seconds=seconds,
            file=Path(f"quorate-{profile}-{shrink}.json"),
            output=output.value,
            patches=patches,
        )
    else:
        code = module.run_seeds(
            seeds=seeds,
            jobs=jobs,
            profile=profile,
            output=output.value,
            patches=patches,
            require_all=require_all,
        )
    raise typer.Exit(int(code))
