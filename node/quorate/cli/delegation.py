"""`quorate grant delegate` and `recall`: as an executor that passes on what it was granted."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from quorate.cli.connection import Connection, executor_target
from quorate.cli.options import (
    DEFAULT_TIMEOUT_MS,
    ActionsOption,
    ClientOption,
    LeaseAddressOption,
    ResourcesOption,
    TimeoutOption,
    WhenOption,
    conditions_of,
    duration_ms,
    expiry_ms,
    now_ms,
)
from quorate.cli.output import ExitCode, Output, OutputOption, facts, moment, show
from quorate.cli.settling import new_request_id, settle
from quorate.cli.submit import reason_name
from quorate.core.limits import MAX_CONCURRENT_LEASES, MAX_DEPTH
from quorate.v1 import decision_pb2, lease_pb2

RequestIdOption = Annotated[
    str,
    typer.Option(
        "--request-id", help="Makes a repeat of this request harmless. Random if not given."
    ),
]


def delegate(
    grant: Annotated[
        str,
        typer.Argument(metavar="GRANT", help="One to this executor, like bank.example/payroll."),
    ],
    to: Annotated[
        str,
        typer.Argument(metavar="EXECUTOR", help="Whom it is passed on to, by its SPIFFE ID."),
    ],
    *,
    client: ClientOption,
    actions: ActionsOption,
    resources: ResourcesOption,
    not_after: Annotated[
        str, typer.Option("--not-after", help="When it ends: 1h, or 2030-12-31T00:00:00Z.")
    ] = "1h",
    max_lease_ttl: Annotated[
        int,
        typer.Option(
            "--max-lease-ttl",
            parser=duration_ms,
            metavar="DURATION",
            show_default="1m",
            help="The longest life of a lease: 60s, 1h.",
        ),
    ] = 60_000,
    max_uses: Annotated[
        int,
        typer.Option("--max-uses", min=0, help="How many leases in all; 0: any."),
    ] = 0,
    max_concurrent: Annotated[
        int,
        typer.Option(
            "--max-concurrent",
            min=0,
            max=MAX_CONCURRENT_LEASES,
            help="How many leases at once; 0: no limit of its own.",
        ),
    ] = 0,
    max_depth: Annotated[
        int,
        typer.Option(
            "--max-depth", min=0, max=MAX_DEPTH, help="How often it may be passed on, and on."
        ),
    ] = 0,
    when: WhenOption = None,
    request_id: RequestIdOption = "",
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: LeaseAddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Pass a part of an own grant on to another executor, of whatever organisation.

    In no respect more than the grant has. It ends with the grant, with this executor, and when it
    is recalled.
    """
    # In whole seconds, so that a person can say the same again.
    ends_ms = expiry_ms(not_after, now_ms()) // 1000 * 1000
    wished = lease_pb2.DelegateRequest(
        grant=grant,
        to=to,
        actions=actions,
        resources=resources,
        not_after_ms=ends_ms,
        max_lease_ttl_ms=max_lease_ttl,
        max_uses=max_uses,
        max_concurrent=max_concurrent,
        max_depth=max_depth,
        conditions=_asked(when),
        request_id=request_id or new_request_id(),
    )
    with Connection(executor_target(client, address, lease=True)) as connection:
        same = f"--not-after {moment(ends_ms).replace(' ', 'T')}"
        answer = settle(connection, connection.leases.Delegate, wished, timeout, same=same)
    _show(answer, answer.grant, "passed on", output)


def _asked(when: list[str] | None) -> list[lease_pb2.Condition]:
    said = conditions_of(when)
    return [lease_pb2.Condition(name=each.name, values=each.values) for each in said]


def recall(
    grant: Annotated[
        str,
        typer.Argument(metavar="GRANT", help="One that this executor has passed on, by its id."),
    ],
    *,
    client: ClientOption,
    request_id: RequestIdOption = "",
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: LeaseAddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Take back what was passed on, for good, with all that was made of it and every lease."""
    wished = lease_pb2.RecallRequest(grant=grant, request_id=request_id or new_request_id())
    with Connection(executor_target(client, address, lease=True)) as connection:
        answer = settle(connection, connection.leases.Recall, wished, timeout)
    _show(answer, grant, "recalled", output)


def _show(answer: Any, grant: str, done: str, output: Output) -> None:
    accepted = answer.verdict == decision_pb2.VERDICT_PERMIT and answer.outcome.accepted
    reason = reason_name(answer.reason or answer.outcome.reason)
    thing = answer.thing or answer.outcome.thing
    value = {
        "verdict": "permit" if accepted else "deny",
        "reason": reason,
        "thing": thing,
        "grant": grant if accepted else "",
        "ledger_index": answer.outcome.ledger_index if answer.HasField("outcome") else None,
        "command_id": answer.outcome.command_id,
    }

    def people(on: Console) -> None:
        if not accepted:
            why = escape(f"{reason or 'UNSPECIFIED'} {thing}".strip())
            on.print(f"[bold red]denied[/] {why}")
            return
        on.print(f"[bold green]{done}[/]")
        on.print(facts([("grant", grant), ("entry", value["ledger_index"])]))

    show(output, value, people)
    if not accepted:
        raise typer.Exit(ExitCode.DENIED)
