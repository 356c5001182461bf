"""`quorate executor`: certificates for executors, and their standing in the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from quorate.cli.connection import Connection, choose_target
from quorate.cli.domain import WaitOption
from quorate.cli.govern import govern
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
from quorate.cli.proofs import read_executor, shown_until
from quorate.cli.queries import list_records
from quorate.cli.submit import Wait
from quorate.core import ids
from quorate.core.errors import MalformedError
from quorate.node import organisation
from quorate.node.organisation import Organisation
from quorate.v1 import governance_pb2

app = typer.Typer(add_completion=False, help="Executors: certificates and standing.")

ExecutorArgument = Annotated[
    str,
    typer.Argument(
        metavar="EXECUTOR",
        help="A SPIFFE ID, or the path of one of the own organisation: agent/payments.",
    ),
]


ContainedArgument = Annotated[
    str,
    typer.Argument(
        metavar="[EXECUTOR]",
        help="A SPIFFE ID, or the path of one of the own organisation: agent/payments.",
        show_default=False,
    ),
]
LeaseOption = Annotated[
    str,
    typer.Option("--lease", metavar="ID", help="One lease, instead of an executor."),
]


def executor_id(organisation: Organisation, text: str) -> str:
    """The SPIFFE ID that a person means. Raises MalformedError."""
    spiffe = text if "://" in text else f"spiffe://{organisation.domain}/{text.strip('/')}"
    try:
        ids.check_executor(spiffe)
    except MalformedError as error:
        raise MalformedError(f"{text}: {error}", hint="write it like agent/payments") from error
    return spiffe


@app.command("issue")
def issue(
    org: Annotated[Path, typer.Argument(metavar="ORGDIR", help="The organisation's directory.")],
    path: Annotated[str, typer.Argument(help="The executor's path, like agent/payments.")],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new or empty directory.")],
    lease_address: Annotated[
        str,
        typer.Option(
            "--lease-address",
            metavar="HOST:PORT|unix:PATH",
            help="Where the executor reaches the node.",
        ),
    ] = "",
    governance_address: Annotated[
        str, typer.Option("--governance-address", help="Where it reads the ledger.")
    ] = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Issue a client certificate for an executor, with what it needs to reach the node.

    The executor can ask for leases once it is registered, too.
    """
    executor = organisation.issue_executor(
        Organisation.load(org),
        path,
        out,
        lease_address=lease_address,
        governance_address=governance_address,
    )
    value = {
        "executor": executor,
        "directory": str(out),
        "config": str(out / organisation.CLIENT_FILE),
    }

    def people(console: Console) -> None:
        console.print(f"[bold green]issued[/] {escape(executor)}")
        console.print(facts([("directory", out)]))
        console.print(f"Next: quorate executor register {path} --org {org}", style="dim")

    show(output, value, people)


@app.command("register")
def register(
    executor: ExecutorArgument,
    *,
    org: OrgOption,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Make an executor known to the federation."""
    _govern("register", executor, org=org, timeout=timeout, address=address, output=output)


@app.command("suspend")
def suspend(
    executor: ExecutorArgument,
    *,
    org: OrgOption,
    wait: WaitOption = Wait.ENFORCED,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Deny an executor everything, until it is reinstated."""
    _govern(
        "suspend", executor, org=org, timeout=timeout, address=address, output=output, wait=wait
    )


@app.command("reinstate")
def reinstate(
    executor: ExecutorArgument,
    *,
    org: OrgOption,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """End an executor's suspension."""
    _govern("reinstate", executor, org=org, timeout=timeout, address=address, output=output)


@app.command("revoke")
def revoke(
    executor: ExecutorArgument,
    *,
    org: OrgOption,
    wait: WaitOption = Wait.ENFORCED,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Deny an executor everything, for ever: its id can never be registered again."""
    _govern("revoke", executor, org=org, timeout=timeout, address=address, output=output, wait=wait)


@app.command("contain")
def contain(
    executor: ContainedArgument = "",
    *,
    lease: LeaseOption = "",
    org: OrgOption,
    wait: WaitOption = Wait.ENFORCED,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Deny an executor, or what is done under a lease, and everything that came from it, in every
    organisation, until that is lifted."""
    body = _contained(org, executor, lease)
    govern(
        org, "executor.contain", body, timeout_ms=timeout, output=output, address=address, wait=wait
    )


@app.command("lift-containment")
def lift_containment(
    executor: ContainedArgument = "",
    *,
    lease: LeaseOption = "",
    org: OrgOption,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """End that. What another organisation contains, too, stays so."""
    govern(
        org,
        "executor.lift_containment",
        _contained(org, executor, lease),
        timeout_ms=timeout,
        output=output,
        address=address,
    )


@app.command("contained")
def list_contained(
    *,
    org: OptionalOrgOption = None,
    client: OptionalClientOption = None,
    at_least: AtLeastOption = 0,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """List what is contained, executors and leases, and by which organisations."""
    list_records(
        governance_pb2.KIND_CONTAINMENT,
        ("id", "by", "since", "changed"),
        org=org,
        client=client,
        address=address,
        at_least=at_least,
        timeout_ms=timeout,
        output=output,
    )


@app.command("list")
def list_executors(
    *,
    org: OptionalOrgOption = None,
    client: OptionalClientOption = None,
    at_least: AtLeastOption = 0,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """List the executors of the federation."""
    list_records(
        governance_pb2.KIND_EXECUTOR,
        ("id", "status", "suspended_for", "changed"),
        org=org,
        client=client,
        address=address,
        at_least=at_least,
        timeout_ms=timeout,
        output=output,
    )


def _contained(org: Path, executor: str, lease: str) -> dict[str, str]:
    """What is named: one of the two. Raises MalformedError."""
    if bool(executor) == bool(lease):
        raise MalformedError(
            "an executor has to be named, or a lease, and not both",
            hint="write agent/payments, or --lease and its id",
        )
    return (
        {"lease": lease} if lease else {"executor": executor_id(Organisation.load(org), executor)}
    )


@app.command("show")
def show_executor(
    executor: Annotated[str, typer.Argument(metavar="EXECUTOR", help="Its SPIFFE ID.")],
    *,
    org: OptionalOrgOption = None,
    client: OptionalClientOption = None,
    at_least: AtLeastOption = 0,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Show an executor: its status, what it has to prove, and until when that is proved."""
    with Connection(choose_target(org, client, address)) as connection:
        shown = read_executor(connection, executor, at_least, timeout)

    def people(console: Console) -> None:
        console.print(facts(list(shown.facts)))
        if shown.proofs:
            rows = [
                [each["reference"], each["evidence"], each["state"], shown_until(each)]
                for each in shown.proofs
            ]
            console.print(table(["has to prove", "by", "state", "counts until"], rows))

    show(output, shown.to_json(), people)


def _govern(
    act: str,
    executor: str,
    *,
    org: Path,
    timeout: int,
    address: str,
    output: Output,
    wait: Wait | None = None,
) -> None:
    body = {"executor": executor_id(Organisation.load(org), executor)}
    govern(
        org,
        f"executor.{act}",
        body,
        timeout_ms=timeout,
        output=output,
        address=address,
        wait=wait,
    )
