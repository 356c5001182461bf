"""`quorate node renew` and `quorate operator renew`: a certificate in the place of one whose time
is nearly over. Needs the organisation's CA key, and no node."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from quorate.cli.options import OrgOption
from quorate.cli.output import Output, OutputOption, facts, moment, show
from quorate.node import renewal
from quorate.node.organisation import Organisation
from quorate.node.renewal import Renewed

app = typer.Typer(add_completion=False)
operator_app = typer.Typer(add_completion=False, help="Operators: their certificates.")


@app.callback()
def _node() -> None:
    """Keeps `renew` a command of its own."""


@app.command("renew")
def renew(
    directory: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DIR]",
            help="The node's directory. By default that of the organisation.",
            show_default=False,
        ),
    ] = None,
    *,
    org: OrgOption,
    output: OutputOption = Output.TEXT,
) -> None:
    """Give a node a new certificate with a new key, from the organisation's CA.

    A node that runs takes them within seconds, and denies nobody meanwhile. One that runs elsewhere
    needs both files: the key first, then the certificate.
    """
    made = renewal.renew_node(Organisation.load(org), org if directory is None else directory)
    _show(made, "a node that runs takes it by itself", output)


@operator_app.callback()
def _operator() -> None:
    """Keeps `renew` a command of its own."""


@operator_app.command("renew")
def renew_operator(*, org: OrgOption, output: OutputOption = Output.TEXT) -> None:
    """Give the organisation's operator a new certificate with a new key, from its CA."""
    _show(renewal.renew_operator(Organisation.load(org)), "", output)


def _show(made: Renewed, note: str, output: Output) -> None:
    ends_ms = int(made.ends.timestamp() * 1000)
    value = {
        "spiffe_id": made.spiffe_id,
        "certificate": str(made.certificate),
        "private_key": str(made.private_key),
        "not_after_ms": ends_ms,
    }

    def people(console: Console) -> None:
        console.print(f"[bold green]renewed[/] {escape(made.spiffe_id)}")
        files = [(name, value[name]) for name in ("certificate", "private_key")]
        console.print(facts([*files, ("not_after", moment(ends_ms))]))
        if note:
            console.print(note, style="dim")

    show(output, value, people)
