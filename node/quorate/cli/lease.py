"""`quorate lease`: asking for permission as an executor. A script's `quorate.client`."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final

import grpc
import typer
from rich.console import Console
from rich.markup import escape

from quorate.cli.connection import Connection, executor_target
from quorate.cli.errors import (
    InterruptedOutcomeError,
    UnknownOutcomeError,
    UnreachableError,
    interruptions,
)
from quorate.cli.lease_check import ask_once
from quorate.cli.options import (
    DEFAULT_TIMEOUT_MS,
    ClientOption,
    ContextOption,
    LeaseAddressOption,
    TimeoutOption,
    duration_ms,
    timeout_ms,
)
from quorate.cli.output import (
    ExitCode,
    Output,
    OutputOption,
    console,
    facts,
    fields_of,
    moment,
    print_json,
    show,
)
from quorate.cli.settling import new_request_id, settle
from quorate.cli.submit import (
    NEVER_EXECUTED,
    QUERY_TIMEOUT_MS,
    reason_name,
)
from quorate.client.lineage import VARIABLE, current_lineage
from quorate.core.errors import MalformedError
from quorate.core.limits import DEFAULT_MAX_PERMIT_TTL_MS, MAX_INTEGER
from quorate.core.lineage import EventType
from quorate.v1 import decision_pb2, lease_pb2

app = typer.Typer(add_completion=False, help="Leases, as an executor.")

_NS_PER_MS: Final = 1_000_000

LeaseArgument = Annotated[str, typer.Argument(metavar="LEASE", help="The id of the lease.")]
TtlOption = Annotated[
    int,
    typer.Option(
        "--ttl",
        parser=duration_ms,
        metavar="DURATION",
        show_default="the longest that the grant allows",
        help="The wished life of the lease: 60s, 1h.",
    ),
]
RequestIdOption = Annotated[
    str,
    typer.Option(
        "--request-id", help="Makes a repeat of this request harmless. Random if not given."
    ),
]


@app.command("acquire")
def acquire(
    action: Annotated[str, typer.Argument(help="Like payments.transfer.")],
    resource: Annotated[str, typer.Argument(help="Like //bank.example/accounts/payroll.")],
    *,
    client: ClientOption,
    ttl: TtlOption = 0,
    parents: Annotated[
        list[str] | None,
        typer.Option(
            "--parent",
            metavar="LEASE",
            show_default=f"those in {VARIABLE}",
            help="A lease, of any organisation, that the work comes from; up to 8.",
        ),
    ] = None,
    context: ContextOption = None,
    request_id: RequestIdOption = "",
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: LeaseAddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Ask for a lease. A quorum decides before there is an answer."""
    wished = lease_pb2.AcquireRequest(
        action=action,
        resource=resource,
        ttl_ms=ttl,
        request_id=request_id or new_request_id(),
        parents=sorted(set(parents or current_lineage())),
        context=context or [],
    )
    with Connection(executor_target(client, address, lease=True)) as connection:
        answer = settle(connection, connection.leases.Acquire, wished, timeout)
    _show_lease(answer, "granted", output)


@app.command("renew")
def renew(
    lease: LeaseArgument,
    *,
    client: ClientOption,
    ttl: TtlOption = 0,
    request_id: RequestIdOption = "",
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: LeaseAddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Extend a lease."""
    wished = lease_pb2.RenewRequest(
        lease_id=lease, ttl_ms=ttl, request_id=request_id or new_request_id()
    )
    with Connection(executor_target(client, address, lease=True)) as connection:
        answer = settle(connection, connection.leases.Renew, wished, timeout)
    _show_lease(answer, "renewed", output)


@app.command("release")
def release(
    lease: LeaseArgument,
    *,
    client: ClientOption,
    request_id: RequestIdOption = "",
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: LeaseAddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Give a lease back."""
    wished = lease_pb2.ReleaseRequest(lease_id=lease, request_id=request_id or new_request_id())
    with Connection(executor_target(client, address, lease=True)) as connection:
        answer = settle(connection, connection.leases.Release, wished, timeout)
    _show_lease(answer, "released", output)


@app.command("report")
def report(
    lease: LeaseArgument,
    event: Annotated[str, typer.Argument(metavar="EVENT", help="|".join(EventType))],
    *,
    client: ClientOption,
    attributes: Annotated[
        list[str] | None,
        typer.Option("--attribute", "-a", metavar="NAME=TEXT", help="More about it; up to 16."),
    ] = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: LeaseAddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Say what became of the work under a lease. It is in the ledger as soon as there is a quorum.

    The node has it, durably, when this exits 0, with or without a quorum. What is out of order is
    denied: work is started, then completed, or interrupted.
    """
    told = lease_pb2.Event(type=event, attributes=dict(map(_attribute, attributes or ())))
    request = lease_pb2.ReportRequest(lease_id=lease, events=[told])
    with Connection(executor_target(client, address, lease=True)) as connection:
        connection.probe(min(timeout, QUERY_TIMEOUT_MS))
        answer = _said(connection, request, timeout)
    denied = answer.verdict != decision_pb2.VERDICT_PERMIT
    reason = reason_name(answer.reason)
    value = {
        "verdict": "deny" if denied else "permit",
        "reason": reason,
        "thing": answer.thing,
        "lease_id": lease,
        "stage": answer.stage,
        "head": answer.head,
    }

    def people(on: Console) -> None:
        if denied:
            on.print(f"[bold red]denied[/] {_why(reason, answer.thing)}")
        else:
            on.print(f"[bold green]reported[/]: the work is {escape(answer.stage)}")

    show(output, value, people)
    if denied:
        raise typer.Exit(ExitCode.DENIED)


def _said(connection: Connection, request: lease_pb2.ReportRequest, timeout: int) -> Any:
    """Once: nothing here says which head it follows, so a repeat would be another event. Raises
    UnknownOutcomeError when the node may have it."""
    message = "it is not known whether the node has the event"
    hint = "look for it in the ledger before it is said again"
    details: dict[str, object] = {"lease_id": request.lease_id}
    with interruptions(
        lambda: InterruptedOutcomeError(f"interrupted: {message}", hint=hint, details=details)
    ):
        try:
            return connection.leases.Report(request, timeout=timeout / 1000)
        except grpc.RpcError as error:
            problem = connection.explain(error)
            call: Any = error
            if call.code() in NEVER_EXECUTED:
                raise problem from error
            raise UnknownOutcomeError(
                f"{message} ({problem})", hint=hint, details=details
            ) from error


def _attribute(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise MalformedError(f"{text!r} is no attribute", hint="write NAME=TEXT")
    return name, value


@app.command("check")
def check(
    lease: LeaseArgument,
    *,
    client: ClientOption,
    action: Annotated[str, typer.Option("--action", help="Deny if the lease is not for it.")] = "",
    resource: Annotated[
        str, typer.Option("--resource", help="Deny if the lease is not for it.")
    ] = "",
    minimum_index: Annotated[
        int,
        typer.Option(
            "--minimum-index",
            "--at-least",
            min=0,
            max=MAX_INTEGER,
            metavar="INDEX",
            help="Deny unless the node's ledger holds this index: that of an earlier write.",
        ),
    ] = 0,
    timeout: Annotated[
        int,
        typer.Option(
            "--timeout",
            parser=timeout_ms,
            metavar="DURATION",
            show_default="1s",
            help="No longer than the federation's longest permit.",
        ),
    ] = DEFAULT_MAX_PERMIT_TTL_MS,
    address: LeaseAddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """May the lease be acted on now? Exits 0 on a permit that is good at this moment, else not 0.

    The permit is for one act, at once: no later answer follows from this one.
    """
    request = lease_pb2.CheckRequest(
        lease_id=lease, action=action, resource=resource, minimum_index=minimum_index
    )
    with Connection(executor_target(client, address, lease=True)) as connection:
        checked = ask_once(connection, request, timeout)
    permit = checked.permit
    value = {
        "verdict": "deny" if permit is None else "permit",
        "reason": checked.reason,
        "thing": checked.thing,
        "lease_id": lease,
        "fence": None if permit is None else permit.fence,
        "remaining_ms": round(checked.remaining_ms, 1),
        "ledger_size": checked.ledger_size,
        "round_trip_ms": round(checked.round_trip_ms, 2),
    }

    def people(on: Console) -> None:
        if permit is not None:
            left = f"{checked.remaining_ms:.0f} ms"
            on.print(f"[bold green]permit[/] for {left}, fence {permit.fence}")
        else:
            on.print(f"[bold red]deny[/] {_why(checked.reason, checked.thing)}")

    show(output, value, people)
    if permit is None:
        raise typer.Exit(ExitCode.DENIED)


@app.command("watch")
def watch(
    leases: Annotated[list[str], typer.Argument(metavar="LEASE...", help="The leases' ids.")],
    *,
    client: ClientOption,
    until_interrupted: Annotated[
        bool,
        typer.Option("--until-interrupted", help="Exit 3 as soon as one of them is not good."),
    ] = False,
    after_size: Annotated[
        int,
        typer.Option(
            "--after-size",
            metavar="SIZE",
            min=0,
            max=MAX_INTEGER,
            show_default=False,
            help="Tell first what happened since the ledger had so many entries.",
        ),
    ] = 0,
    address: LeaseAddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Tell at once when leases stop, or resume, being good. Runs until Ctrl-C.

    When the node is lost it exits 5: then nothing may be acted on. A later watch goes on with the
    ledger_size of the last notice; of several leases with one less, because one entry can concern
    them all.
    """
    request = lease_pb2.WatchRequest(lease_ids=leases, after_size=after_size)
    with Connection(executor_target(client, address, lease=True)) as connection:
        try:
            for notice in connection.leases.Watch(iter([request])):
                good = notice.event in (
                    lease_pb2.WATCH_EVENT_ACTIVE,
                    lease_pb2.WATCH_EVENT_RESTORED,
                )
                _tell(notice, good, output)
                if until_interrupted and not good:
                    raise typer.Exit(ExitCode.DENIED)
        except grpc.RpcError as error:
            raise connection.explain(error) from error
    raise UnreachableError("the node ended the watch", hint="stop the work; watch again")


def _tell(notice: lease_pb2.WatchResponse, good: bool, output: Output) -> None:
    known = lease_pb2.WatchEvent.DESCRIPTOR.values_by_number.get(notice.event)
    event = known.name.removeprefix("WATCH_EVENT_") if known is not None else "UNSPECIFIED"
    value = {
        "time_ms": time.time_ns() // _NS_PER_MS,
        "lease_id": notice.lease_id,
        "event": event,
        "reason": reason_name(notice.reason),
        "thing": notice.thing,
        "ledger_size": notice.position.size,
    }
    if output is Output.JSON:
        print_json(value)
        return
    colour = "green" if good else "red"
    about = escape(f"{value['reason']} {notice.thing}".strip())
    now = time.strftime("%H:%M:%S")
    console().print(f"{now} [bold {colour}]{event}[/] {escape(notice.lease_id)} {about}".rstrip())


def _why(reason: str, thing: str) -> str:
    return escape(f"{reason or 'UNSPECIFIED'} {thing}".strip())


def _show_lease(answer: Any, done: str, output: Output) -> None:
    permitted = answer.verdict == decision_pb2.VERDICT_PERMIT and answer.outcome.accepted
    reason = reason_name(answer.reason or answer.outcome.reason)
    thing = answer.thing or answer.outcome.thing
    lease = getattr(answer, "lease", None)
    value = {
        "verdict": "permit" if permitted else "deny",
        "reason": reason,
        "thing": thing,
        "lease": fields_of(lease) if lease is not None and permitted else None,
        "ledger_index": answer.outcome.ledger_index if answer.HasField("outcome") else None,
        "command_id": answer.outcome.command_id,
    }

    def people(on: Console) -> None:
        if not permitted:
            on.print(f"[bold red]denied[/] {_why(reason, thing)}")
            return
        on.print(f"[bold green]{done}[/]")
        if lease is not None:
            on.print(
                facts(
                    [
                        ("lease", lease.id),
                        ("fence", lease.fence),
                        ("expires", moment(lease.expires_at_ms)),
                        ("grant", lease.grant),
                        ("trust", ", ".join([lease.trust_edge, *lease.passed_on])),
                        ("parents", ", ".join(lease.parents)),
                        ("context", ", ".join(lease.context)),
                    ]
                )
            )

    show(output, value, people)
    if not permitted:
        raise typer.Exit(ExitCode.DENIED)
