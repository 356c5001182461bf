"""`quorate grant`: what an executor may do to the own resources."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from quorate.cli.delegation import delegate, recall
from quorate.cli.domain import WaitOption
from quorate.cli.executor import ExecutorArgument, executor_id
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
    WhenOption,
    conditions_of,
    duration_ms,
    expiry_ms,
    now_ms,
)
from quorate.cli.output import Output, OutputOption
from quorate.cli.queries import list_records
from quorate.cli.submit import Wait
from quorate.core.limits import MAX_DEPTH
from quorate.node.organisation import Organisation
from quorate.v1 import governance_pb2

app = typer.Typer(add_completion=False, help="Grants to executors.")
app.command("delegate")(delegate)
app.command("recall")(recall)

_COLUMNS: Final = ("id", "executor", "status", "actions", "resources", "not_after", "uses")

GrantArgument = Annotated[
    str, typer.Argument(metavar="GRANT", help="The own name for it, like payroll-2030.")
]


@app.command("issue")
def issue(
    grant: GrantArgument,
    executor: ExecutorArgument,
    *,
    org: OrgOption,
    actions: ActionsOption,
    resources: ResourcesOption,
    not_after: Annotated[
        str, typer.Option("--not-after", help="When it ends: 30d, or 2030-12-31T00:00:00Z.")
    ] = "30d",
    max_lease_ttl: Annotated[
        int,
        typer.Option(
            "--max-lease-ttl",
            parser=duration_ms,
            metavar="DURATION",
            show_default="1h",
            help="The longest life of a lease: 60s, 1h.",
        ),
    ] = 3_600_000,
    max_uses: Annotated[
        int, typer.Option("--max-uses", min=0, help="How many leases in all; 0: no limit.")
    ] = 0,
    max_concurrent: Annotated[
        int, typer.Option("--max-concurrent", min=0, help="How many leases at once; 0: no limit.")
    ] = 0,
    max_depth: Annotated[
        int,
        typer.Option(
            "--max-depth",
            min=0,
            max=MAX_DEPTH,
            help="How often executors may pass it on, and on; 0: not at all.",
        ),
    ] = 0,
    when: WhenOption = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Grant an executor, of whatever organisation, some actions on some own resources."""
    conditions = [each.to_json() for each in conditions_of(when)]
    body = {
        "grant": grant,
        "executor": executor_id(Organisation.load(org), executor),
        "actions": actions,
        "resources": resources,
        "not_after": expiry_ms(not_after, now_ms()),
        "max_lease_ttl_ms": max_lease_ttl,
        "max_uses": max_uses,
        "max_concurrent": max_concurrent,
        **({"max_depth": max_depth} if max_depth else {}),
        **({"conditions": conditions} if conditions else {}),
    }
    govern(org, "grant.issue", body, timeout_ms=timeout, output=output, address=address)


@app.command("suspend")
def suspend(
    grant: GrantArgument,
    *,
    org: OrgOption,
    wait: WaitOption = Wait.ENFORCED,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Deny everything under a grant, until it is reinstated."""
    _govern("suspend", grant, org=org, timeout=timeout, address=address, output=output, wait=wait)


@app.command("reinstate")
def reinstate(
    grant: GrantArgument,
    *,
    org: OrgOption,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """End a grant's suspension."""
    _govern("reinstate", grant, org=org, timeout=timeout, address=address, output=output)


@app.command("revoke")
def revoke(
    grant: GrantArgument,
    *,
    org: OrgOption,
    wait: WaitOption = Wait.ENFORCED,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """End a grant, for ever under this name, and every lease under it."""
    _govern("revoke", grant, org=org, timeout=timeout, address=address, output=output, wait=wait)


@app.command("list")
def list_grants(
    *,
    org: OptionalOrgOption = None,
    client: OptionalClientOption = None,
    at_least: AtLeastOption = 0,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """List the grants of the federation."""
    list_records(
        governance_pb2.KIND_GRANT,
        (
            "id",
            "executor",
            "status",
            "actions",
            "resources",
            "conditions",
            "not_after",
            "uses",
            "parent",
            "changed",
        ),
        org=org,
        client=client,
        address=address,
        at_least=at_least,
        timeout_ms=timeout,
        output=output,
    )


def _govern(
    act: str,
    grant: str,
    *,
    org: Path,
    timeout: int,
    address: str,
    output: Output,
    wait: Wait | None = None,
) -> None:
    govern(
        org,
        f"grant.{act}",
        {"grant": grant},
        timeout_ms=timeout,
        output=output,
        address=address,
        wait=wait,
    )
