"""`quorate node init`, `add`, `promote`, `demote`, `retire`, `submit`, `list`: the nodes of the
federation, and which of them vote.

Owns what these say. `quorate.cli.node` is where they hang, and loads this module only for them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from quorate.cli.connection import Connection, choose_target
from quorate.cli.govern import govern, hand_in
from quorate.cli.govern import save as save_command
from quorate.cli.options import (
    DEFAULT_TIMEOUT_MS,
    AddressOption,
    AtLeastOption,
    OptionalClientOption,
    OptionalOrgOption,
    OrgOption,
    TimeoutOption,
)
from quorate.cli.output import Output, OutputOption, facts, show, table
from quorate.cli.queries import read_records
from quorate.core import ids
from quorate.core.dsse import key_id
from quorate.core.errors import ConfigurationError, MalformedError
from quorate.core.records import Role
from quorate.node import organisation
from quorate.node.organisation import Organisation
from quorate.v1 import governance_pb2, node_pb2

app = typer.Typer(add_completion=False)

NodeArgument = Annotated[
    str,
    typer.Argument(
        metavar="NODE", help="A node's SPIFFE ID, or the name of one of the own organisation: 2."
    ),
]
SaveOption = Annotated[
    Path | None,
    typer.Option(
        "--save",
        metavar="FILE",
        help="Sign the command, submit it nowhere, and keep it in a new file: for another "
        "organisation to submit.",
    ),
]


def node_id(organisation: Organisation, text: str) -> str:
    """The SPIFFE ID that a person means. Raises MalformedError."""
    name = text.removeprefix("node/")
    spiffe = text if "://" in text else f"spiffe://{organisation.domain}/node/{name}"
    try:
        ids.check_node(spiffe)
    except MalformedError as error:
        raise MalformedError(f"{text}: {error}", hint="write it like 2, or node/2") from error
    return spiffe


@app.command("init")
def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty directory.")],
    *,
    org: OrgOption,
    node: Annotated[str, typer.Option("--node", help="The name of the node, like 2.")],
    peer_address: Annotated[
        str, typer.Option("--peer-address", help="Where the other members reach the node.")
    ],
    governance_address: Annotated[
        str, typer.Option("--governance-address", help="Where operators reach it.")
    ] = "127.0.0.1:7402",
    lease_address: Annotated[
        str, typer.Option("--lease-address", help="Where executors reach it.")
    ] = "127.0.0.1:7403",
    output: OutputOption = Output.TEXT,
) -> None:
    """Make one more node of the organisation: keys, a certificate, node.toml.

    The organisation's CA key is needed, and nothing of it goes into the directory, which is all
    that the node's machine needs. The node is no member until it is added.
    """
    made = organisation.create_node(
        Organisation.load(org),
        directory,
        node=node,
        peer_address=peer_address,
        governance_address=governance_address,
        lease_address=lease_address,
    )
    genesis = directory / organisation.GENESIS_FILE
    value = {
        "directory": str(directory),
        "node_id": made.id,
        "peer_address": made.peer_address,
        "config": str(directory / organisation.CONFIG_FILE),
        "description": str(directory / organisation.NODE_FILE),
        "signing_key_id": key_id(made.signing_key),
        "log_key_id": key_id(made.log_key),
        "has_genesis": genesis.is_file(),
    }

    def people(console: Console) -> None:
        console.print(f"[bold green]made[/] {escape(str(directory))}")
        console.print(facts((name, value[name]) for name in ("node_id", "peer_address", "config")))
        if not genesis.is_file():
            console.print(f"Put the signed genesis at {escape(str(genesis))}.", style="dim")
        console.print(f"Next: quorate node add {directory} --org {org}", style="dim")

    show(output, value, people)


@app.command("add")
def add(
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="NODEDIR", help="What `quorate node init` made, or the node.json in it."
        ),
    ],
    *,
    org: OrgOption,
    role: Annotated[
        Role,
        typer.Option(
            "--role", help="A voter at once only where the organisation has no other; see promote."
        ),
    ] = Role.OBSERVER,
    save: SaveOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Make a node a member of the federation: it is sent the ledger, and may permit.

    Its id and its keys can never be another's.
    """
    node = organisation.read_node(directory)
    owner = ids.SpiffeId.parse(node.id).trust_domain
    domain = Organisation.load(org).domain
    if owner != domain:
        raise ConfigurationError(
            f"{directory} describes a node of {owner}, not of {domain}",
            hint="each organisation adds its own nodes",
        )
    body = {
        "node": node.id,
        "peer_address": node.peer_address,
        "signing_key": node.signing_key.hex(),
        "log_key": node.log_key.hex(),
        "role": role.value,
    }
    if save is not None:
        save_command(org, "node.add", body, save, output)
    else:
        govern(org, "node.add", body, timeout_ms=timeout, output=output, address=address)


@app.command("promote")
def promote(
    node: NodeArgument,
    *,
    org: OrgOption,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Let a node vote, when it has caught up. An organisation has one voter: demote or retire the
    other first."""
    _about("promote", node, org=org, timeout=timeout, address=address, output=output)


@app.command("demote")
def demote(
    node: NodeArgument,
    *,
    org: OrgOption,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Let a node vote no more. It stays a member."""
    _about("demote", node, org=org, timeout=timeout, address=address, output=output)


@app.command("retire")
def retire(
    node: NodeArgument,
    *,
    org: OrgOption,
    save: SaveOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Take a node out of the federation, for ever: its id and keys can never be added again."""
    if save is not None:
        body = {"node": node_id(Organisation.load(org), node)}
        save_command(org, "node.retire", body, save, output)
    else:
        _about("retire", node, org=org, timeout=timeout, address=address, output=output)


@app.command("submit")
def submit(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="What a command with --save has made.")
    ],
    *,
    org: OrgOption,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Submit another organisation's signed command, when it has no node of its own to do so.

    Nothing about it can be changed: the ledger decides about it as its issuer's.
    """
    hand_in(org, file, timeout_ms=timeout, output=output, address=address)


@app.command("list")
def list_nodes(
    *,
    org: OptionalOrgOption = None,
    client: OptionalClientOption = None,
    at_least: AtLeastOption = 0,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """List the nodes of the federation, retired ones too.

    Role and status are what the ledger wants; in force is what the consensus has come to by now, as
    one node sees it: voter, learner, or nothing yet or any more.
    """
    with Connection(choose_target(org, client, address)) as connection:
        records, first, more = read_records(connection, governance_pb2.KIND_NODE, at_least, timeout)
        members = connection.ask(
            connection.node.ListMembers, node_pb2.ListMembersRequest(), timeout
        ).members
    in_force = {member.node_id: member.raft_role for member in members}
    listed = [{**record, "in_force": in_force.get(record["id"], "")} for record in records]
    value = {
        "ledger_size": first.position.size,
        "ledger_time_ms": first.position.ledger_time_ms,
        "records": listed,
        "truncated": more,
    }

    def people(console: Console) -> None:
        columns = ("id", "domain", "role", "status", "in_force", "peer_address", "changed")
        rows = [[record.get(name) for name in columns] for record in listed]
        console.print(table([name.replace("_", " ") for name in columns], rows))
        console.print(f"{len(listed)} at ledger size {first.position.size}", style="dim")

    show(output, value, people)


def _about(act: str, node: str, *, org: Path, timeout: int, address: str, output: Output) -> None:
    body = {"node": node_id(Organisation.load(org), node)}
    govern(org, f"node.{act}", body, timeout_ms=timeout, output=output, address=address)
