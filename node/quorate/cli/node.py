"""`quorate node`: runs a node. Loads the server, which no other command does."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated

import typer

from quorate.cli.output import ExitCode, Output, OutputOption, print_error
from quorate.core.errors import ConfigurationError
from quorate.node import exit_codes

app = typer.Typer(add_completion=False, help="Run a node.")


@app.callback()
def _node() -> None:
    """Keeps `run` a command of its own."""


@app.command("run")
def run(
    config: Annotated[
        Path, typer.Option("--config", metavar="FILE", help="The node.toml of the node.")
    ],
    output: OutputOption = Output.TEXT,
) -> None:
    """Run a node until it is stopped (SIGTERM, or Ctrl-C).

    Every setting of the file can be overridden: QUORATE_LISTEN__PEER=0.0.0.0:7401. --output is for
    what keeps the node from starting; a running node logs as [log] says. Exit codes are for a
    service manager: 0 stopped, 76 damaged store, 78 configuration; neither is to be started again.
    """
    supervisor = importlib.import_module("quorate.node.supervisor")
    try:
        code = int(supervisor.run(config))
    except ConfigurationError as error:
        print_error("configuration", str(error), error.hint, ExitCode.ERROR, output=output)
        code = exit_codes.CONFIGURATION
    raise typer.Exit(code)
