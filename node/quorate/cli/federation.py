"""`quorate federation`: where the commands about the federation as a whole hang.

Loads what recovery stands on, which is much of a node, only when one of its commands is used.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

import typer
from rich.console import Console
from typer.core import TyperGroup

from quorate.cli.connection import Connection, choose_target
from quorate.cli.errors import RefusedError
from quorate.cli.options import (
    DEFAULT_TIMEOUT_MS,
    AddressOption,
    AtLeastOption,
    OptionalClientOption,
    OptionalOrgOption,
    TimeoutOption,
)
from quorate.cli.output import (
    Output,
    OutputOption,
    facts,
    frozen_words,
    moment,
    rate_words,
    show,
)
from quorate.cli.queries import read_records
from quorate.core.errors import MalformedError
from quorate.core.records import Federation, Rates
from quorate.core.thresholds import thresholds_from_json, thresholds_to_json
from quorate.v1 import governance_pb2

_RECOVER: Final = "recover"


class FederationGroup(TyperGroup):
    """Imports `quorate.cli.recover` when one of its commands is used."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), _RECOVER]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name != _RECOVER:
            return super().get_command(ctx, cmd_name)
        group: Any = typer.main.get_command(importlib.import_module("quorate.cli.recover").app)
        group.name = _RECOVER
        return group


app = typer.Typer(cls=FederationGroup, add_completion=False, help="The federation as a whole.")


@app.callback()
def _federation() -> None:
    """The federation as a whole: what it has agreed on, and recovery."""


@app.command("show")
def show_federation(
    *,
    org: OptionalOrgOption = None,
    client: OptionalClientOption = None,
    at_least: AtLeastOption = 0,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Show what the organisations have agreed on: parameters, thresholds, version, freeze."""
    with Connection(choose_target(org, client, address)) as connection:
        records, first, _ = read_records(
            connection, governance_pb2.KIND_FEDERATION, at_least, timeout
        )
    said = records[0] if records else {}
    try:
        held, rules = Federation.from_json(said), thresholds_from_json(said.get("thresholds"))
    except MalformedError as error:
        raise RefusedError(f"this version cannot read the node's answer: {error}") from error
    widest = held.bounding.to_json()

    def people(console: Console) -> None:
        pairs: list[tuple[str, object]] = [
            ("origin", held.origin),
            ("since", moment(held.created)),
            ("protocol", held.protocol),
            ("frozen", frozen_words(None if held.frozen is None else held.frozen.actions)),
        ]
        for name, value in held.parameters.to_json().items():
            more = f" (once {widest[name]})" if widest[name] != value else ""
            pairs.append((name.replace("_", " "), f"{value}{more}"))
        for name, value in (held.rates or Rates(0, 0)).to_json().items():
            pairs.append((name.replace("_", " "), rate_words(value)))
        pairs += [(f"threshold of {act}", rule) for act, rule in thresholds_to_json(rules).items()]
        console.print(facts(pairs))
        console.print(f"at ledger size {first.position.size}", style="dim")

    show(output, {"ledger_size": first.position.size, **said}, people)
