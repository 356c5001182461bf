"""`quorate domain`: an organisation suspends and reinstates itself; who is a member."""

from __future__ import annotations

from typing import Annotated

import typer

from quorate.cli.expiring import warning_of
from quorate.cli.govern import govern
from quorate.cli.key_sets import set_keys, show_keys
from quorate.cli.options import (
    DEFAULT_TIMEOUT_MS,
    AddressOption,
    AtLeastOption,
    OptionalClientOption,
    OptionalOrgOption,
    OrgOption,
    TimeoutOption,
)
from quorate.cli.output import Output, OutputOption, print_warning
from quorate.cli.queries import list_records
from quorate.cli.rekey import rekey
from quorate.cli.set_ca import set_ca
from quorate.cli.submit import Wait
from quorate.node.organisation import Organisation
from quorate.v1 import governance_pb2

app = typer.Typer(
    add_completion=False, help="Suspend, reinstate and rekey the own organisation; who is a member."
)
app.command("rekey")(rekey)
app.command("set-keys")(set_keys)
app.command("keys")(show_keys)
app.command("set-ca")(set_ca)

WaitOption = Annotated[
    Wait,
    typer.Option(
        "--wait",
        help="Return when it is durable on a quorum, when no node decides otherwise any more, or "
        "when no executor holds a permit from before.",
    ),
]


@app.command("suspend")
def suspend(
    *,
    org: OrgOption,
    wait: WaitOption = Wait.ENFORCED,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Deny everything that the organisation, its executors or its resources are part of."""
    body = {"domain": Organisation.load(org).domain}
    govern(
        org, "domain.suspend", body, timeout_ms=timeout, output=output, address=address, wait=wait
    )


@app.command("reinstate")
def reinstate(
    *,
    org: OrgOption,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """End the organisation's suspension of itself."""
    body = {"domain": Organisation.load(org).domain}
    govern(org, "domain.reinstate", body, timeout_ms=timeout, output=output, address=address)


@app.command("list")
def list_domains(
    *,
    org: OptionalOrgOption = None,
    client: OptionalClientOption = None,
    at_least: AtLeastOption = 0,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """List the organisations of the federation, and what each has frozen of its own resources."""
    records, ledger_time = list_records(
        governance_pb2.KIND_DOMAIN,
        ("id", "status", "suspended_by", "changed", "frozen", "keys"),
        org=org,
        client=client,
        address=address,
        at_least=at_least,
        timeout_ms=timeout,
        output=output,
    )
    for record in records:
        if (warning := warning_of(record, ledger_time)) != "":
            print_warning(warning, output=output)
