"""The page on resources: the code that it shows refuses who comes too late, and its SQL does."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from quorate.client import StaleFenceError
from quorate.client.fences import DEFAULT_MAX_RESOURCES, MAX_FENCE
from quorate.core.limits import MAX_ID_CHARS

PAGE = "docs/resources.md"


def run(block: str) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    exec(compile(block, PAGE, "exec"), shown)  # noqa: S102 - the page's own code
    return shown


def test_the_inbox_that_is_shown_refuses_late_writers(
    pages: dict[str, Any], tmp_path: Path
) -> None:
    database, _ = pages[PAGE].blocks("python")
    inbox = run(database)["Inbox"](str(tmp_path / "inbox.sqlite"))
    with closing(inbox.db):
        inbox.receive("1", "a", fence=7)
        inbox.receive("1", "a", fence=7)
        inbox.open_for(9)
        with pytest.raises(StaleFenceError):
            inbox.receive("2", "late", fence=8)
        inbox.receive("3", "b", fence=9)
        rows = inbox.db.execute("SELECT id FROM record ORDER BY id").fetchall()
    assert rows == [("1",), ("3",)]


def test_the_valve_that_is_shown_refuses_late_writers(pages: dict[str, Any]) -> None:
    _, memory = pages[PAGE].blocks("python")
    shown = run(memory)
    shown["turn"](30, fence=7)
    shown["turn"](60, fence=9)
    with pytest.raises(StaleFenceError):
        shown["turn"](90, fence=8)
    assert shown["position"][shown["VALVE"]] == 60


def test_the_statements_that_are_shown_change_no_row_for_a_late_writer(
    pages: dict[str, Any],
) -> None:
    in_the_row, in_a_table = pages[PAGE].blocks("sql")
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.execute("CREATE TABLE account (id TEXT, balance INTEGER, fence INTEGER)")
        db.execute("CREATE TABLE fences (resource TEXT, highest INTEGER)")
        db.execute("INSERT INTO account VALUES ('a', 0, 0), ('b', 0, 0)")
        db.execute("INSERT INTO fences VALUES ('a', 0), ('b', 0)")
        for fence, changed in ((7, 1), (7, 1), (9, 1), (8, 0)):
            write = {"id": "a", "balance": 100 + fence, "fence": fence}
            assert db.execute(in_the_row, write).rowcount == changed
            kept = {"resource": "a", "fence": fence}
            assert db.execute(in_a_table, kept).rowcount == changed
        assert db.execute("SELECT * FROM account").fetchall() == [("a", 109, 9), ("b", 0, 0)]
        assert db.execute("SELECT * FROM fences").fetchall() == [("a", 9), ("b", 0)]


def test_numbers_that_are_said_are_the_codes(pages: dict[str, Any]) -> None:
    text = " ".join(pages[PAGE].prose.split())
    assert f"room for {DEFAULT_MAX_RESOURCES:,} resources".replace(",", " ") in text
    assert f"1 to {MAX_ID_CHARS} characters" in text
    assert "1 to 2^63 - 1" in text
    assert MAX_FENCE == 2**63 - 1
