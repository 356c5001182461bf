"""`quorate init`: a new organisation's keys, certificates and configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from quorate.cli.output import Output, OutputOption, facts, show
from quorate.core.dsse import key_id
from quorate.node import organisation

app = typer.Typer(add_completion=False)


@app.command("init")
def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty directory.")],
    *,
    domain: Annotated[str, typer.Option("--domain", help="The organisation, like bank.example.")],
    node: Annotated[str, typer.Option("--node", help="The name of its node.")] = "1",
    peer_address: Annotated[
        str, typer.Option("--peer-address", help="Where the other members reach the node.")
    ] = "127.0.0.1:7401",
    governance_address: Annotated[
        str, typer.Option("--governance-address", help="Where operators reach it.")
    ] = "127.0.0.1:7402",
    lease_address: Annotated[
        str, typer.Option("--lease-address", help="Where executors reach it.")
    ] = "127.0.0.1:7403",
    output: OutputOption = Output.TEXT,
) -> None:
    """Make an organisation's keys, certificates, signed descriptor and node.toml.

    Private keys are files of mode 0600. Nothing that exists is overwritten.
    """
    made = organisation.create(
        directory,
        domain=domain,
        node=node,
        peer_address=peer_address,
        governance_address=governance_address,
        lease_address=lease_address,
    )
    descriptor = made.descriptor()
    value = {
        "directory": str(directory),
        "domain": made.domain,
        "node_id": made.config.node.id,
        "descriptor": str(directory / organisation.DESCRIPTOR_FILE),
        "config": str(directory / organisation.CONFIG_FILE),
        "governance_key": descriptor.governance_key.hex(),
        "cosigner_key": descriptor.cosigner_key.hex(),
        "governance_key_id": key_id(descriptor.governance_key),
        "signing_key_id": key_id(descriptor.node.signing_key),
        "log_key_id": key_id(descriptor.node.log_key),
    }

    def people(console: Console) -> None:
        console.print(f"[bold green]made[/] {escape(str(directory))}")
        told = ("domain", "node_id", "descriptor", *(name for name in value if "_key_id" in name))
        console.print(facts((name, value[name]) for name in told))
        console.print(
            "Next: give the descriptor to whoever drafts the genesis, or to a member that proposes "
            "to admit it.",
            style="dim",
        )

    show(output, value, people)
