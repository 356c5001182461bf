"""`quorate lineage`: what came from what, and what relied on a thing, read from a node's graph."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from quorate.cli.connection import Connection, choose_target
from quorate.cli.errors import BusyError
from quorate.cli.options import (
    DEFAULT_TIMEOUT_MS,
    AddressOption,
    AtLeastOption,
    OptionalClientOption,
    OptionalOrgOption,
    TimeoutOption,
)
from quorate.cli.output import Output, OutputOption, moment, show, table
from quorate.core.limits import MAX_RECORDS_PER_PAGE
from quorate.v1 import decision_pb2, lineage_pb2, lineage_pb2_grpc

app = typer.Typer(
    add_completion=False,
    help="What came from what, and what relied on a thing, over organisations.",
)

MAX_SHOWN: Final = 10_000
"""Leases of one answer, and as many pages; what is left out is said."""

PAUSE_S: Final = 0.2
"""Before a node is asked again that has been asked too often."""

LeaseArgument = Annotated[str, typer.Argument(metavar="LEASE", help="The lease's id.")]
AtOption = Annotated[
    int | None,
    typer.Option(
        "--at",
        metavar="INDEX",
        min=0,
        help="How each lease stood just before this entry of the ledger, and with it. "
        "Without it: now.",
    ),
]
StoppedOption = Annotated[
    bool,
    typer.Option("--stopped", help="Only leases that the entry stopped: its blast radius."),
]
GrantsOption = Annotated[
    bool,
    typer.Option("--grants", help="Grants that were passed on of it, or by it, instead of leases."),
]

Page = Callable[[str], Any]
"""Asks for the page that a token stands for."""


@app.command("ancestors")
def ancestors(
    lease: LeaseArgument,
    *,
    at: AtOption = None,
    org: OptionalOrgOption = None,
    client: OptionalClientOption = None,
    at_least: AtLeastOption = 0,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Show the leases that a lease came from, the nearest first."""
    with Connection(choose_target(org, client, address)) as connection:
        answer = _ask(
            connection,
            _stub(connection).Ancestors,
            lineage_pb2.AncestorsRequest(lease_id=lease, at_index=at, minimum_index=at_least),
            timeout,
        )
    leases = [_lease(each) for each in answer.leases]
    value = {**_position(answer), "found": answer.found, "leases": leases}
    value["truncated"] = answer.truncated
    _show(value, output, at)


@app.command("descendants")
def descendants(
    lease: LeaseArgument,
    *,
    at: AtOption = None,
    org: OptionalOrgOption = None,
    client: OptionalClientOption = None,
    at_least: AtLeastOption = 0,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Show the leases that came from a lease, the nearest first."""
    with Connection(choose_target(org, client, address)) as connection:
        stub = _stub(connection)
        first, leases, _, more = _all(
            lambda token: _ask(
                connection,
                stub.Descendants,
                lineage_pb2.DescendantsRequest(
                    lease_id=lease,
                    at_index=at,
                    page_size=MAX_RECORDS_PER_PAGE,
                    page_token=token,
                    minimum_index=at_least,
                ),
                timeout,
            )
        )
    value = {**_position(first), "found": first.found, "leases": leases, "truncated": more}
    _show(value, output, at)


@app.command("dependents")
def dependents(
    thing: Annotated[
        str,
        typer.Argument(
            metavar="KIND:ID",
            help="domain, executor, trust, grant or lease and its id, like "
            "grant:bank.example/books; or contained:ID or frozen:DOMAIN.",
        ),
    ],
    *,
    at: AtOption = None,
    stopped: StoppedOption = False,
    grants: GrantsOption = False,
    org: OptionalOrgOption = None,
    client: OptionalClientOption = None,
    at_least: AtLeastOption = 0,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Show what relied on a thing, in the order of the ledger; with --at, before an entry and after
    it."""
    kind = lineage_pb2.DEPENDENT_KIND_GRANTS if grants else lineage_pb2.DEPENDENT_KIND_LEASES
    with Connection(choose_target(org, client, address)) as connection:
        stub = _stub(connection)
        first, leases, passed_on, more = _all(
            lambda token: _ask(
                connection,
                stub.Dependents,
                lineage_pb2.DependentsRequest(
                    thing=thing,
                    kind=kind,
                    at_index=at,
                    only_stopped=stopped,
                    page_size=MAX_RECORDS_PER_PAGE,
                    page_token=token,
                    minimum_index=at_least,
                ),
                timeout,
            )
        )
    value = {**_position(first), "thing": thing, "truncated": more}
    value |= {"grants": passed_on} if grants else {"leases": leases}
    _show(value, output, at)


def _stub(connection: Connection) -> lineage_pb2_grpc.LineageServiceStub:
    return lineage_pb2_grpc.LineageServiceStub(connection.channel)


def _ask(
    connection: Connection, method: Callable[..., Any], request: object, timeout_ms: int
) -> Any:
    """One page. A node answers nobody without end: whoever reads many pages waits for some of them,
    each for no longer than the timeout."""
    deadline = time.monotonic() + timeout_ms / 1000
    while True:
        try:
            return connection.ask(method, request, timeout_ms)
        except BusyError:
            if time.monotonic() + PAUSE_S > deadline:
                raise
            time.sleep(PAUSE_S)


def _all(page: Page) -> tuple[Any, list[dict[str, Any]], list[dict[str, Any]], bool]:
    """The first answer, all leases and grants of it and those that follow, and whether there are
    more. Pages are read one after the other; each says itself how far the graph goes."""
    leases: list[dict[str, Any]] = []
    grants: list[dict[str, Any]] = []
    first, token = None, ""
    for _ in range(MAX_SHOWN):
        answer = page(token)
        first = first or answer
        leases += [_lease(each) for each in answer.leases]
        grants += [_grant(each) for each in getattr(answer, "grants", ())]
        token = answer.next_page_token
        if not token or len(leases) + len(grants) >= MAX_SHOWN:
            break
    return first, leases, grants, bool(token)


def _position(answer: Any) -> dict[str, Any]:
    position = answer.position
    return {
        "graph_size": position.size,
        "ledger_size": position.ledger_size,
        "at_index": position.at_index,
        "at_time_ms": position.at_time_ms,
    }


def _lease(lease: lineage_pb2.LineageLease) -> dict[str, Any]:
    return {
        "id": lease.lease_id,
        "executor": lease.executor,
        "action": lease.action,
        "resource": lease.resource,
        "acquired_index": lease.acquired_index,
        "depth": lease.depth,
        "before": _standing(lease.before),
        "after": _standing(lease.after),
    }


def _grant(grant: lineage_pb2.DelegatedGrant) -> dict[str, Any]:
    return {
        "id": grant.grant_id,
        "executor": grant.executor,
        "parent": grant.parent,
        "made_index": grant.made_index,
    }


def _standing(standing: lineage_pb2.Standing) -> dict[str, Any]:
    """What this version does not know the name of stands as a number."""
    if standing.in_force:
        return {"in_force": True, "reason": None, "thing": ""}
    names = {number: name for name, number in decision_pb2.Reason.items()}
    reason = names.get(standing.reason, str(standing.reason)).removeprefix("REASON_")
    return {"in_force": False, "reason": reason, "thing": standing.thing}


def _show(value: dict[str, Any], output: Output, at: int | None) -> None:
    def people(console: Console) -> None:
        if value.get("found") is False:
            console.print("[bold]no such lease in the graph[/]")
        elif "grants" in value:
            columns = ("id", "executor", "parent", "made_index")
            rows = [[each[name] for name in columns] for each in value["grants"]]
            console.print(table([name.replace("_", " ") for name in columns], rows))
        else:
            console.print(table(_columns(at), [_row(each, at) for each in value["leases"]]))
        count = len(value.get("grants", value.get("leases", ())))
        where = f"{count}; the graph has {value['graph_size']} of {value['ledger_size']} entries"
        if at is not None:
            where += f"; entry {at} is of {moment(value['at_time_ms'])}"
        console.print(where + (", and there are more" if value["truncated"] else ""), style="dim")

    show(output, value, people)


def _columns(at: int | None) -> Sequence[str]:
    own = ("lease", "executor", "action", "resource", "entry", "stands")
    return own if at is None else (*own[:-1], f"before {at}", f"with {at}")


def _row(lease: dict[str, Any], at: int | None) -> list[object]:
    """Indented by how far it is, as a tree is."""
    far = "  " * (lease["depth"] - 1) if lease["depth"] else ""
    own = [far + lease["id"], lease["executor"], lease["action"], lease["resource"]]
    stands = [_words(lease["after"])]
    if at is not None:
        stands.insert(0, _words(lease["before"]))
    return [*own, lease["acquired_index"], *stands]


def _words(standing: dict[str, Any]) -> str:
    if standing["in_force"]:
        return "in force"
    return "not yet" if standing["reason"] == "UNKNOWN_LEASE" else str(standing["reason"])
