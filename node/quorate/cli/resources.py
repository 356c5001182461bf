"""`quorate resources`: an organisation freezes what may be done to its own, and ends that."""

from __future__ import annotations

from typing import Annotated

import typer

from quorate.cli.domain import WaitOption
from quorate.cli.govern import govern
from quorate.cli.options import DEFAULT_TIMEOUT_MS, AddressOption, OrgOption, TimeoutOption
from quorate.cli.output import Output, OutputOption
from quorate.cli.submit import Wait

app = typer.Typer(
    add_completion=False, help="Freeze what may be done to the organisation's own resources."
)

AllowOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="ACTION",
        help="What may still be done: an action, or a pattern like payments.* or *. Repeatable. "
        "Without it, nothing.",
    ),
]


@app.command("freeze")
def freeze(
    *,
    org: OrgOption,
    allow: AllowOption = None,
    wait: WaitOption = Wait.ENFORCED,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Deny everything on the organisation's resources but the actions that are named."""
    body = {"actions": allow or []}
    govern(
        org, "resources.freeze", body, timeout_ms=timeout, output=output, address=address, wait=wait
    )


@app.command("thaw")
def thaw(
    *,
    org: OrgOption,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """End that. What all organisations have frozen together stays so."""
    govern(org, "resources.thaw", {}, timeout_ms=timeout, output=output, address=address)
