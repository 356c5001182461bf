"""`quorate trust`: which organisations' executors may have grants on the own resources at all."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from quorate.cli.domain import WaitOption
from quorate.cli.govern import govern
from quorate.cli.options import (
    DEFAULT_TIMEOUT_MS,
    ActionsOption,
    AddressOption,
    AtLeastOption,
    OptionalClientOption,
    OptionalOrgOption,
    OrgOption,
    ResourcesOption,
    TimeoutOption,
)
from quorate.cli.output import Output, OutputOption
from quorate.cli.queries import list_records
from quorate.cli.submit import Wait
from quorate.core.limits import MAX_DEPTH
from quorate.v1 import governance_pb2

app = typer.Typer(add_completion=False, help="Trust in other organisations.")

EdgeArgument = Annotated[
    str, typer.Argument(metavar="EDGE", help="The own name for it, like clinic-payments.")
]


@app.command("open")
def open_edge(
    edge: EdgeArgument,
    *,
    org: OrgOption,
    trustee: Annotated[str, typer.Option("--trustee", help="The organisation that is trusted.")],
    actions: ActionsOption,
    resources: ResourcesOption,
    max_depth: Annotated[
        int,
        typer.Option(
            "--max-depth",
            min=0,
            max=MAX_DEPTH,
            help="By how many further edges the trustee, and those whom it trusts, may pass it on.",
        ),
    ] = 0,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Trust another organisation's executors with some actions on some own resources, or on those
    of an organisation that lets this one pass its trust on.

    That permits nothing by itself: a grant of the resources' owner must follow.
    """
    body: dict[str, Any] = {
        "edge": edge,
        "trustee": trustee,
        "actions": actions,
        "resources": resources,
    }
    if max_depth:
        body["max_depth"] = max_depth
    govern(org, "trust.open", body, timeout_ms=timeout, output=output, address=address)


@app.command("narrow")
def narrow(
    edge: EdgeArgument,
    *,
    org: OrgOption,
    actions: ActionsOption,
    resources: ResourcesOption,
    wait: WaitOption = Wait.ENFORCED,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Trust with less than now: with these actions on these resources, and nothing else.

    All of it must be covered already. Every lease beyond it ends; the others go on.
    """
    body = {"edge": edge, "actions": actions, "resources": resources}
    govern(org, "trust.narrow", body, timeout_ms=timeout, output=output, address=address, wait=wait)


@app.command("close")
def close(
    edge: EdgeArgument,
    *,
    org: OrgOption,
    wait: WaitOption = Wait.ENFORCED,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Stop trusting, for ever under this name, and end every lease that relies on it."""
    body = {"edge": edge}
    govern(org, "trust.close", body, timeout_ms=timeout, output=output, address=address, wait=wait)


@app.command("list")
def list_edges(
    *,
    org: OptionalOrgOption = None,
    client: OptionalClientOption = None,
    at_least: AtLeastOption = 0,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """List who trusts whom with what."""
    list_records(
        governance_pb2.KIND_TRUST,
        ("id", "trustee", "status", "actions", "resources", "max_depth", "changed"),
        org=org,
        client=client,
        address=address,
        at_least=at_least,
        timeout_ms=timeout,
        output=output,
    )
