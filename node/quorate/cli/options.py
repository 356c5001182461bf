"""Options and values that several commands share."""

from __future__ import annotations

import re
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from quorate.core.conditions import Condition, check_conditions
from quorate.core.errors import MalformedError
from quorate.core.limits import MAX_INTEGER

_UNITS_MS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION: Final = re.compile(r"([0-9]{1,15})(ms|s|m|h|d)")
MAX_TIMEOUT_MS: Final = 3_600_000

DEFAULT_TIMEOUT_MS: Final = 10_000


def duration_ms(text: str | int) -> int:
    """`500ms`, `10s`, `5m`, `2h`, `30d`, in milliseconds. Raises MalformedError."""
    if isinstance(text, int):  # a default that was parsed before
        return text
    match = _DURATION.fullmatch(text)
    length = int(match[1]) * _UNITS_MS[match[2]] if match else -1
    if not 0 <= length <= MAX_INTEGER:
        raise MalformedError(
            f"{text} is no length of time", hint="write it like 500ms, 10s, 5m, 2h or 30d"
        )
    return length


def timeout_ms(text: str | int) -> int:
    """A length of time that a person waits for. Raises MalformedError."""
    length = duration_ms(text)
    if not 0 < length <= MAX_TIMEOUT_MS:
        raise MalformedError(f"a timeout of {text}", hint="give one between 1ms and 1h")
    return length


def expiry_ms(text: str, now_ms: int) -> int:
    """The moment at which something ends: a length of time from now, or an RFC 3339 time.

    Raises MalformedError.
    """
    if _DURATION.fullmatch(text):
        return now_ms + duration_ms(text)
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise MalformedError(
            f"{text} is no moment", hint="write it like 30d or 2030-12-31T00:00:00Z"
        ) from error
    if at.tzinfo is None:
        raise MalformedError(f"{text} names no time zone", hint="add Z for UTC, or +01:00")
    return int(at.timestamp() * 1000)


def now_ms() -> int:
    """The wall clock, milliseconds since the epoch: an estimate of ledger time."""
    return time.time_ns() // 1_000_000


OrgOption = Annotated[
    Path,
    typer.Option(
        "--org",
        envvar="QUORATE_ORG",
        metavar="DIR",
        help="The organisation's directory, made by `quorate init`.",
    ),
]
OptionalOrgOption = Annotated[
    Path | None,
    typer.Option(
        "--org",
        envvar="QUORATE_ORG",
        metavar="DIR",
        help="Ask as the operator of the organisation in this directory...",
    ),
]
OptionalClientOption = Annotated[
    Path | None,
    typer.Option(
        "--client",
        envvar="QUORATE_CLIENT",
        metavar="DIR",
        help="...or as the executor whose directory `quorate executor issue` made.",
    ),
]
ClientOption = Annotated[
    Path,
    typer.Option(
        "--client",
        envvar="QUORATE_CLIENT",
        metavar="DIR",
        help="The executor's directory (or its client.toml), made by `quorate executor issue`.",
    ),
]
AddressOption = Annotated[
    str,
    typer.Option("--address", metavar="HOST:PORT", help="Where the node is, if not as configured."),
]
LeaseAddressOption = Annotated[
    str,
    typer.Option(
        "--address",
        metavar="HOST:PORT|unix:PATH",
        help="Where the node is, if not as configured.",
    ),
]
TimeoutOption = Annotated[
    int,
    typer.Option(
        "--timeout",
        parser=timeout_ms,
        metavar="DURATION",
        show_default="10s",
        help="How long to wait: 500ms, 10s, 5m.",
    ),
]
ActionsOption = Annotated[
    list[str],
    typer.Option("--action", help="An action, or a pattern like payments.* or *. Repeatable."),
]
ResourcesOption = Annotated[
    list[str],
    typer.Option("--resource", help="A resource, or a pattern like //bank.example/*. Repeatable."),
]

AtLeastOption = Annotated[
    int,
    typer.Option(
        "--at-least",
        min=0,
        max=MAX_INTEGER,
        metavar="INDEX",
        help="Answer only from a ledger that holds this index: that of an earlier write.",
    ),
]

ContextOption = Annotated[
    list[str] | None,
    typer.Option(
        "--context",
        metavar="NAME=TEXT",
        help="What the executor says of the work, for grants and policies to ask about: "
        "ticket=OPS-1. Repeatable.",
    ),
]
WhenOption = Annotated[
    list[str] | None,
    typer.Option(
        "--when",
        metavar="NAME=TEXT,...",
        help="Only for work of which the executor says one of these: ticket=OPS-1,OPS-2 or "
        "ticket=OPS-*. Repeatable, for more names or texts.",
    ),
]


def context_of(said: list[str] | None) -> dict[str, str]:
    """What `--context` says, by name. Raises MalformedError."""
    given: dict[str, str] = {}
    for each in said or ():
        name, sign, text = each.partition("=")
        if not sign:
            raise MalformedError(f"{each!r} is no context", hint="write it like ticket=OPS-1")
        if name in given:
            raise MalformedError(f"{name} is said twice in the context", hint="say each name once")
        given[name] = text
    return given


def conditions_of(said: list[str] | None) -> list[Condition]:
    """What `--when` asks for, in the ledger's order. Raises MalformedError."""
    values: dict[str, set[str]] = {}
    for each in said or ():
        name, sign, texts = each.partition("=")
        if not sign:
            raise MalformedError(f"{each!r} is no condition", hint="write it like ticket=OPS-1")
        values.setdefault(name, set()).update(texts.split(","))
    conditions = [Condition(name, tuple(sorted(values[name]))) for name in sorted(values)]
    try:
        check_conditions(conditions)
    except MalformedError as error:
        hint = "a * stands at the end of a text, and no text is empty"
        raise MalformedError(f"a condition {error.problem}", hint=hint) from error
    return conditions
