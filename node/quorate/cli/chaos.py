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
