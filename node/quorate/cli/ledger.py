"""`quorate ledger`: reading the ledger, and verifying that a node's is what it signed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import Progress

from quorate.cli.connection import Connection, Target, choose_target, read_json
from quorate.cli.ledger_check import (
    Checked,
    check_consistency,
    check_ledger,
    command_payload,
    fetch_entries,
)
from quorate.cli.options import (
    DEFAULT_TIMEOUT_MS,
    AddressOption,
    OptionalClientOption,
    OptionalOrgOption,
    TimeoutOption,
)
from quorate.cli.output import Output, OutputOption, console, facts, moment, show, table
from quorate.cli.signed_by import signed_by
from quorate.core.errors import MalformedError
from quorate.core.genesis import Genesis
from quorate.node.organisation import CONFIG_FILE, Organisation, read_genesis
from quorate.v1 import ledger_pb2

app = typer.Typer(add_completion=False, help="The append-only ledger.")

app.command("signed-by")(signed_by)

MAX_SHOWN: Final = 10_000

GenesisOption = Annotated[
    Path | None,
    typer.Option(
        "--genesis",
        metavar="FILE",
        help="What to verify against, with --client; with --org it is the node's own.",
    ),
]


@app.command("show")
def show_ledger(
    *,
    org: OptionalOrgOption = None,
    client: OptionalClientOption = None,
    start: Annotated[
        int | None,
        typer.Option("--start", min=0, help="The first entry; else the last --limit are shown."),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=MAX_SHOWN, help="How many entries at most.")
    ] = 20,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Show entries of the ledger. They are read, not verified: see `quorate ledger verify`."""
    with Connection(choose_target(org, client, address)) as connection:
        size = connection.ask(
            connection.ledger.ListEntries, ledger_pb2.ListEntriesRequest(start=0, limit=1), timeout
        ).size
        first = max(0, size - limit) if start is None else start
        raw = list(fetch_entries(connection, first, min(size, first + limit), timeout))
    entries = [read_json(data) for data in raw]
    value = {"size": size, "start": first, "entries": entries}

    def people(on: Console) -> None:
        columns = ("seq", "time", "type", "decision", "issuer", "about", "reason")
        on.print(table(columns, (_row(entry) for entry in entries)))
        on.print(f"{len(entries)} of {size} entries", style="dim")

    show(output, value, people)


def _row(entry: dict[str, Any]) -> tuple[object, ...]:
    payload = command_payload(entry)
    body = payload.get("body", {})
    about = next((body[name] for name in _ABOUT if body.get(name)), payload.get("origin", ""))
    time_ms = entry.get("time")
    return (
        entry.get("seq"),
        moment(time_ms) if isinstance(time_ms, int) else "-",
        entry.get("type"),
        entry.get("decision"),
        payload.get("issuer", ""),
        about,
        f"{entry.get('reason', '')} {entry.get('thing', '')}".strip(),
    )


_ABOUT: Final = ("edge", "grant", "lease", "action", "executor", "node", "domain")


@app.command("verify")
def verify(
    *,
    org: OptionalOrgOption = None,
    client: OptionalClientOption = None,
    genesis: GenesisOption = None,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            metavar="DIR",
            help="The directory of another organisation or executor: prove that its node's ledger "
            "is the same one.",
        ),
    ] = None,
    timeout: TimeoutOption = DEFAULT_TIMEOUT_MS,
    address: AddressOption = "",
    output: OutputOption = Output.TEXT,
) -> None:
    """Fetch the whole ledger and verify it. Exits 6 if anything does not hold.

    Every leaf and the root are computed again and compared with the checkpoint that the node
    signed; each entry's inclusion proof is verified, and who signed each accepted command.
    """
    target = choose_target(org, client, address)
    federation = choose_genesis(org, genesis)
    quiet = output is Output.JSON
    with Connection(target) as connection, progress_bar(quiet=quiet) as progress:
        task = progress.add_task("verifying", total=None)
        checked, members = check_ledger(
            connection,
            federation,
            timeout,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
        value = {"verified": True, "origin": federation.origin, **checked.to_json()}
        if against is not None:
            other = _target_of(against)
            with Connection(other) as second:
                value["against"] = check_consistency(
                    (connection, checked), second, members, timeout
                )
    show(output, value, lambda on: _print_verified(on, target, checked, value.get("against")))


def choose_genesis(org: Path | None, genesis: Path | None) -> Genesis:
    if genesis is not None:
        return read_genesis(genesis)
    if org is None:
        raise MalformedError(
            "what should the ledger be verified against?",
            hint="with --client, give the federation's genesis.json as --genesis FILE",
        )
    return Organisation.load(org).genesis()


def _target_of(directory: Path) -> Target:
    if (directory / CONFIG_FILE).is_file():
        return choose_target(directory, None, "")
    return choose_target(None, directory, "")


def progress_bar(*, quiet: bool) -> Progress:
    stream = console(error=True)
    return Progress(console=stream, transient=True, disable=quiet or not stream.is_terminal)


def _print_verified(on: Console, target: Target, checked: Checked, against: object) -> None:
    on.print(f"[bold green]verified[/]: the ledger of the node of {target.domain}")
    on.print(
        facts(
            [
                ("entries", checked.size),
                ("root", checked.root.hex()),
                ("inclusion proofs", checked.proofs),
                ("command signatures", checked.signatures),
            ]
        )
    )
    if isinstance(against, dict):
        on.print(
            f"[bold green]consistent[/] with the ledger of the node of {against['domain']} "
            f"(size {against['size']})"
        )
