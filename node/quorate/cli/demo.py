"""`quorate demo`: a federation of three organisations on this machine, narrated."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer

from quorate.cli.output import Output, OutputOption

app = typer.Typer(add_completion=False)


@app.command("demo")
def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the federation running at the end.")
    ] = False,
    directory: Annotated[
        Path | None,
        typer.Option("--directory", metavar="DIR", help="Where to make it; else a temporary one."),
    ] = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show a federation at work: permits, a revocation, a lost quorum, recovery.

    Exits 0 only if every claim held.
    """
    module = importlib.import_module("quorate.chaos.demo")
    raise typer.Exit(int(module.run_demo(output=output.value, keep=keep, directory=directory)))
