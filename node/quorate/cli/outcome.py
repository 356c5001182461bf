"""`quorate outcome`: what the ledger decided about a command."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from quorate.cli.connection import Connection, choose_target
from quorate.cli.options import (
    DEFAULT_TIMEOUT_MS,
    AddressOption,
    AtLeastOption,
    OptionalClientOption,
    OptionalOrgOption,
    TimeoutOption,
)
from quorate.cli.output import ExitCode, Output, OutputOption, facts, show
from quorate.cli.submit import reason_name, result_json
from quorate.core import ids
from quorate.v1 import governance_pb2

app = typer.Typer(add_completion=False)


@app.command("outcome")
def outcome(
    command_id: Annotated[str, typer.Argument(metavar="COMMAND_ID", help="64 hex digits.")],
    *,
    org: OptionalOrgOption = None,
    client: OptionalClientOption = None,
    at_least: AtLeastOption = 0,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Ask what became of a command. Exits 0 if accepted, 3 if denied, 4 if not (yet) known."""
    ids.check_command_id(command_id)
    with Connection(choose_target(org, client, address)) as connection:
        answer = connection.ask(
            connection.governance.GetOutcome,
            governance_pb2.GetOutcomeRequest(command_id=command_id, minimum_index=at_least),
            timeout,
        )
    decided = answer.outcome
    value = {
        "command_id": command_id,
        "found": answer.found,
        "accepted": decided.accepted if answer.found else None,
        "reason": reason_name(decided.reason),
        "thing": decided.thing,
        "ledger_index": decided.ledger_index if answer.found else None,
        "result": result_json(decided.result),
        "ledger_size": answer.position.size,
    }

    def people(console: Console) -> None:
        if not answer.found:
            console.print(
                "[bold yellow]not executed[/] at ledger size "
                f"{answer.position.size}; it may still be, until its not_after has passed"
            )
            return
        word = "[bold green]accepted[/]" if decided.accepted else "[bold red]denied[/]"
        about = f"{reason_name(decided.reason)} {decided.thing}".strip()
        console.print(f"{word} {escape(about)}".rstrip())
        console.print(facts([("ledger index", decided.ledger_index)]))

    show(output, value, people)
    if not answer.found:
        raise typer.Exit(ExitCode.UNKNOWN)
    if not decided.accepted:
        raise typer.Exit(ExitCode.DENIED)
