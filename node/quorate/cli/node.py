"""`quorate node`: runs a node, and is where the commands about nodes hang.

Loads the server, which no other command does, and only when a node is run; loads what talks to a
running node only for the commands that do, so that the supervisor of a node never has it.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from quorate.cli.output import ExitCode, Output, OutputOption, print_error
from quorate.core.errors import ConfigurationError
from quorate.node import exit_codes

_MODULES: Final = {
    **dict.fromkeys(("init", "add", "promote", "demote", "retire", "submit", "list"), "membership"),
    "renew": "renew",
    **dict.fromkeys(("backup", "restore", "rejoin", "verify", "outbox"), "store"),
}
"""Where the commands are that this module does not have."""


class NodeGroup(TyperGroup):
    """Imports the module of a command when it is used."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *_MODULES]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _MODULES:
            return super().get_command(ctx, cmd_name)
        module = importlib.import_module(f"quorate.cli.{_MODULES[cmd_name]}")
        group: Any = typer.main.get_command(module.app)
        return group.get_command(ctx, cmd_name)


app = typer.Typer(
    cls=NodeGroup,
    add_completion=False,
    help="Run a node; make, add, promote, demote, retire and list nodes; renew the certificate of "
    "one; back up, restore, begin again and verify its store; see what it has to tell the ledger.",
)


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
