"""Reading governed things from a node, a page at a time.

Owns the printing of records: which fields of each kind make the columns of a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from quorate.cli.connection import Connection, choose_target, read_json
from quorate.cli.expiring import key_words
from quorate.cli.output import Output, conditions_words, frozen_words, moment, show, table
from quorate.core.limits import MAX_RECORDS_PER_PAGE
from quorate.v1 import governance_pb2

MAX_RECORDS: Final = 100_000
"""More than a person reads, or a script should hold; the answer then says that it is cut."""
_TIMES: Final = ("not_after", "expires_at")


def list_records(
    kind: governance_pb2.Kind.ValueType,
    columns: Sequence[str],
    *,
    org: Path | None,
    client: Path | None,
    address: str,
    at_least: int,
    timeout_ms: int,
    output: Output,
) -> tuple[list[dict[str, Any]], int]:
    """Prints every record of one kind; returns them, and ledger time. Pages are read one after the
    other: each is true at its own ledger size, and the first one's is what is told. at_least: an
    index that all of them hold."""
    with Connection(choose_target(org, client, address)) as connection:
        records, first, more = read_records(connection, kind, at_least, timeout_ms)
    value = {
        "ledger_size": first.position.size,
        "ledger_time_ms": first.position.ledger_time_ms,
        "records": records,
        "truncated": more,
    }

    def people(console: Console) -> None:
        rows = [[_shown(record, name) for name in columns] for record in records]
        console.print(table([name.replace("_", " ") for name in columns], rows))
        position = f"{len(records)} at ledger size {first.position.size}"
        console.print(position + (", and more that are not shown" if more else ""), style="dim")

    show(output, value, people)
    return records, first.position.ledger_time_ms


def read_records(
    connection: Connection, kind: governance_pb2.Kind.ValueType, at_least: int, timeout_ms: int
) -> tuple[list[dict[str, Any]], governance_pb2.ListStateResponse, bool]:
    """The records of one kind, the first page's answer, and whether there are more of them."""
    records: list[dict[str, Any]] = []
    token, first = "", None
    while len(records) < MAX_RECORDS:
        page = connection.ask(
            connection.governance.ListState,
            governance_pb2.ListStateRequest(
                kind=kind,
                page_size=MAX_RECORDS_PER_PAGE,
                page_token=token,
                minimum_index=at_least,
            ),
            timeout_ms,
        )
        first = first or page
        records += [read_json(record.encode()) for record in page.records]
        if not page.next_page_token or not page.records:
            return records, first, False
        token = page.next_page_token
    assert first is not None
    return records, first, True


def _shown(record: dict[str, Any], name: str) -> object:
    value = record.get(name)
    if name == "keys":
        return key_words(record)
    if name == "frozen" and isinstance(value, dict):
        return frozen_words(value.get("actions", ()))
    if name == "conditions" and isinstance(value, list):
        return conditions_words(value)
    return moment(value) if name in _TIMES and isinstance(value, int) else value
