"""What goes to stdout and stderr, and the exit codes.

Owns the two forms of every result: colour and tables for people, one JSON value for programs.
Results go to stdout, errors to stderr; colour is rich's business (it honours NO_COLOR, and knows
a terminal from a pipe).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

PIPE_WIDTH: Final = 2_000
"""Columns, where nobody looks: enough for any row of ours."""


class ExitCode(IntEnum):
    """Documented, and never renumbered."""

    OK = 0
    ERROR = 1
    USAGE = 2
    DENIED = 3
    UNKNOWN = 4
    UNREACHABLE = 5
    VERIFICATION = 6
    INTERRUPTED = 130


class Output(StrEnum):
    TEXT = "text"
    JSON = "json"


OutputOption = Annotated[
    Output, typer.Option("--output", "-o", help="For people, or one JSON value for programs.")
]


def console(*, error: bool = False) -> Console:
    """A console on the stream of this moment. In a pipe or file lines are as long as they are: an
    id that is cut or broken in two can neither be compared nor searched for."""
    stream = sys.stderr if error else sys.stdout
    width = None if stream.isatty() else PIPE_WIDTH
    return Console(file=stream, highlight=False, soft_wrap=True, width=width)


def show(output: Output, value: Mapping[str, object], people: Callable[[Console], None]) -> None:
    """Prints a result in the form that was asked for."""
    if output is Output.JSON:
        print_json(value)
    else:
        people(console())


def print_json(value: object) -> None:
    """One line a value, so that a stream of them can be read line by line."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def fields_of(message: Any) -> dict[str, Any]:
    """A flat protobuf message as JSON. protobuf's own JSON makes texts of 64-bit numbers; ours all
    lie within what every JSON reader counts exactly."""
    return {
        field.name: list(value) if field.is_repeated else value
        for field in message.DESCRIPTOR.fields
        for value in (getattr(message, field.name),)
    }


def print_error(
    kind: str,
    message: str,
    hint: str,
    code: ExitCode,
    *,
    output: Output,
    details: Mapping[str, object] | None = None,
) -> ExitCode:
    """Tells one error on stderr; returns `code`."""
    if output is Output.JSON:
        error = {"kind": kind, "message": message, "hint": hint, **(details or {})}
        sys.stderr.write(json.dumps({"error": error}, ensure_ascii=False) + "\n")
    else:
        stream = console(error=True)
        stream.print(f"[bold red]error:[/] {escape(' '.join(message.split()))}")
        if hint:
            stream.print(f"[bold]hint:[/] {escape(hint)}")
    return code


def print_warning(message: str, *, output: Output) -> None:
    """Tells on stderr what went wrong beside what was asked for."""
    if output is Output.JSON:
        warning = {"warning": {"message": message}}
        sys.stderr.write(json.dumps(warning, ensure_ascii=False) + "\n")
    else:
        console(error=True).print(f"[bold yellow]warning:[/] {escape(' '.join(message.split()))}")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> Table:
    """A plain table; every cell is text, never markup."""
    made = Table(title=escape(title) or None, title_justify="left", header_style="bold", box=None)
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(escape(cell(value)) for value in row))
    return made


def facts(pairs: Iterable[tuple[str, object]]) -> Table:
    """Two columns: what, and its value."""
    made = Table(show_header=False, box=None)
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs:
        made.add_row(name, escape(cell(value)))
    return made


def cell(value: Any) -> str:
    """A value as a person reads it."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " ".join(cell(item) for item in value)
    if isinstance(value, dict):
        return " ".join(f"{key}={cell(item)}" for key, item in value.items())
    return str(value)


def moment(time_ms: int) -> str:
    """A ledger time as a person reads it, in UTC. The ledger counts further than calendars do."""
    if not time_ms:
        return "-"
    try:
        return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}Z"
    except (OverflowError, ValueError):
        return f"{time_ms} ms"


def frozen_words(actions: Sequence[str] | None) -> str:
    """What is frozen, with the actions that are let through; None: nothing is."""
    if actions is None:
        return "nothing"
    return f"all but {', '.join(actions)}" if actions else "all"


def conditions_words(conditions: Sequence[Mapping[str, Any]]) -> str:
    """Conditions of a grant, each as `--when` takes it."""
    words = (f"{each.get('name')}={','.join(each.get('values', ()))}" for each in conditions)
    return "; ".join(words)


def rate_words(rate: object) -> str:
    """A rate a minute; 0: there is none."""
    return str(rate) if rate else "no limit"
