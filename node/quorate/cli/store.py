"""`quorate node backup`, `restore`, `rejoin`, `verify`: the store of a node, on its own machine.

Owns what these say. `quorate.cli.node` is where they hang; what they do is in
`quorate.node.store_care`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress as Bars
from rich.table import Table

from quorate.cli.errors import VerificationError
from quorate.cli.output import (
    Output,
    OutputOption,
    console,
    facts,
    moment,
    print_json,
    show,
)
from quorate.core.errors import StorageDamagedError
from quorate.core.lineage import Event, Record
from quorate.node import store_care
from quorate.node.config import load_config
from quorate.node.store_care import Holding, Replaced
from quorate.storage import Progress

app = typer.Typer(add_completion=False)

ConfigOption = Annotated[
    Path, typer.Option("--config", metavar="FILE", help="The node.toml of the node.")
]
ReplaceOption = Annotated[
    bool,
    typer.Option("--replace", help="Move the store that is there aside. Nothing of it is deleted."),
]


@app.command("backup")
def backup(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new directory.")],
    *,
    config: ConfigOption,
    output: OutputOption = Output.TEXT,
) -> None:
    """Copy a node's store, while it runs or not, and verify the copy. Exits 6 when it is damaged.

    The copy is of one moment, and needs no more than what is in use of the store's file. Nothing of
    the node's keys is in it.
    """
    with progress(output) as tell, damage():
        holding = store_care.backup(load_config(config), directory, tell)
    value = {"directory": str(directory), **asdict(holding)}

    def people(on: Console) -> None:
        on.print(f"[bold green]copied and verified[/]: {escape(str(directory))}")
        on.print(_facts(holding))

    show(output, value, people)


@app.command("restore")
def restore(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="What `quorate node backup` made.")
    ],
    *,
    config: ConfigOption,
    replace: ReplaceOption = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Put a backup in the place of a stopped node's store. Exits 6 when the backup is damaged.

    The node then is on probation: it neither votes nor permits before the others have readmitted
    it, because it has forgotten what it promised since.
    """
    with progress(output) as tell, damage():
        replaced = store_care.restore(load_config(config), directory, tell, replace=replace)
    _tell_replaced(output, replaced, "restored")


@app.command("rejoin")
def rejoin(
    *,
    config: ConfigOption,
    replace: ReplaceOption = False,
    output: OutputOption = Output.TEXT,
) -> None:
    """Begin the lost store of a stopped node again, empty; the others send it everything.

    The node then is on probation, as after `quorate node restore`. A node that was never started
    needs none of this.
    """
    with progress(output) as tell, damage():
        replaced = store_care.rejoin(load_config(config), tell, replace=replace)
    _tell_replaced(output, replaced, "begun again")


@app.command("verify")
def verify(*, config: ConfigOption, output: OutputOption = Output.TEXT) -> None:
    """Verify every page, value and leaf in the store of a stopped node. Exits 6 when it is damaged,
    and names what is."""
    with progress(output) as tell, damage():
        holding = store_care.verify(load_config(config), tell)

    def people(on: Console) -> None:
        on.print("[bold green]verified[/]: the store is whole")
        on.print(_facts(holding))

    show(output, {"verified": True, **asdict(holding)}, people)


@app.command("outbox")
def outbox(*, config: ConfigOption, output: OutputOption = Output.TEXT) -> None:
    """Show what a node has to tell the ledger and has not yet: events of its executors' work, and
    what it had to deny without a quorum. The node may run.

    With --output json each record is a DSSE envelope with the node's signature, a line each.
    """
    rows = store_care.outbox(load_config(config))
    if output is Output.JSON:
        for row in rows:
            print_json(row.envelope)
        return
    table = Table("at", "what", "executor", "lease", "about")
    for row in rows:
        table.add_row(*map(escape, _cells(row.record)))
    console().print(table if rows else "nothing: the ledger has all of it")


def _cells(record: Record) -> tuple[str, ...]:
    if isinstance(record, Event):
        about = " ".join(f"{name}={text}" for name, text in record.attributes.items())
        return moment(record.at), record.type, record.executor, record.lease, about
    about = f"{record.count} of {record.method}, since entry {record.ledger_size}: {record.reason}"
    return moment(record.last_at), "denied", record.executor, record.lease, about


def _tell_replaced(output: Output, replaced: Replaced, what: str) -> None:
    former = None if replaced.former is None else str(replaced.former)
    value = {"former": former, **asdict(replaced.holding)}

    def people(on: Console) -> None:
        on.print(f"[bold green]{what}[/], on probation")
        on.print(_facts(replaced.holding))
        if former is not None:
            on.print(f"the store of before is in {escape(former)}")
        on.print(
            "Next: start the node, and see with `quorate status` when it is readmitted.",
            style="dim",
        )

    show(output, value, people)


def _facts(holding: Holding) -> object:
    shown = {**asdict(holding), "ledger_time_ms": moment(holding.ledger_time_ms)}
    if not holding.checkpoint:
        shown["checkpoint"] = "none: the node is on probation, and signs nothing"
    return facts((name.removesuffix("_ms"), value) for name, value in shown.items())


@contextmanager
def damage() -> Iterator[None]:
    """Damage is what these look for: it has the exit code of all that does not verify."""
    try:
        yield
    except StorageDamagedError as error:
        raise VerificationError(str(error), hint=error.hint) from error


@contextmanager
def progress(output: Output) -> Iterator[Callable[[Progress], None]]:
    """A bar for each piece of work, for people at a terminal."""
    stream = console(error=True)
    is_quiet = output is Output.JSON or not stream.is_terminal
    with Bars(console=stream, transient=True, disable=is_quiet) as bars:
        task, now = bars.add_task("", total=None), ""

        def tell(step: Progress) -> None:
            nonlocal task, now
            if step.what != now:
                bars.remove_task(task)
                task, now = bars.add_task(step.what), step.what
            bars.update(task, completed=step.done, total=step.total)

        yield tell
