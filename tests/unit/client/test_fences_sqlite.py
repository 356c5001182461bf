"""A fence in a database shares the fate of the write that it guards, whatever ends the writer."""

from __future__ import annotations

import multiprocessing
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.unit.client import fenced_writers
from tests.unit.client.fenced_writers import (
    RESOURCE,
    TIMEOUT_S,
    climbing,
    connect,
    highest,
    write_together,
    written,
)

from quorate.client import SQLiteFenceGuard, StaleFenceError
from quorate.client.fences import FenceGuardError

SPAWN = multiprocessing.get_context("spawn")
MODES: list[dict[str, Any]] = [
    {},
    {"isolation_level": None},
    {"isolation_level": "IMMEDIATE"},
    {"isolation_level": "EXCLUSIVE"},
]
HAS_AUTOCOMMIT = sys.version_info >= (3, 12)
if HAS_AUTOCOMMIT:
    MODES.append({"autocommit": True})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "resource.sqlite"
    fenced_writers.create(file)
    return file


@pytest.fixture
def opened(file: Path) -> Iterator[Callable[..., tuple[sqlite3.Connection, SQLiteFenceGuard]]]:
    """Opens connections to the file, each with its guard; waits for no lock unless told to."""
    connections: list[sqlite3.Connection] = []

    def open_one(**settings: Any) -> tuple[sqlite3.Connection, SQLiteFenceGuard]:
        connection = connect(file, **({"timeout": 0} | settings))
        connections.append(connection)
        return connection, SQLiteFenceGuard(connection)

    yield open_one
    for connection in connections:
        connection.close()


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_write_and_fence_are_one_transaction(opened: Any, file: Path, mode: dict[str, Any]) -> None:
    connection, guard = opened(**mode)
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    fenced_writers.write(guard, connection, 7)
    firsts = [statement.split()[0] for statement in statements]
    assert firsts == ["BEGIN", "INSERT", "SAVEPOINT", "INSERT", "INSERT", "RELEASE", "COMMIT"]
    assert statements[0] == "BEGIN IMMEDIATE"
    assert "quorate_fence" in statements[1]
    assert not connection.in_transaction
    assert (written(file), highest(file)) == ([7, 7], 7)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_of_a_block_that_fails_nothing_is_left(
    opened: Any, file: Path, mode: dict[str, Any]
) -> None:
    connection, guard = opened(**mode)
    fenced_writers.write(guard, connection, 3)
    for failure in (LookupError, KeyboardInterrupt):
        with pytest.raises(failure), guard.writing(RESOURCE, 7):
            connection.execute("INSERT INTO written (fence) VALUES (7)")
            raise failure
        assert not connection.in_transaction
        assert (written(file), highest(file)) == ([3, 3], 3)
    fenced_writers.write(guard, connection, 4)
    assert written(file) == [3, 3, 4, 4]


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_of_a_stale_write_nothing_is_left(opened: Any, file: Path, mode: dict[str, Any]) -> None:
    connection, guard = opened(**mode)
    fenced_writers.write(guard, connection, 9)
    with pytest.raises(StaleFenceError):
        fenced_writers.write(guard, connection, 8)
    assert not connection.in_transaction
    assert (written(file), highest(file)) == ([9, 9], 9)


def test_nobody_comes_between_the_comparison_and_the_write(opened: Any, file: Path) -> None:
    (slow, slow_guard), (fast, fast_guard) = opened(), opened()
    statements: list[str] = []
    fast.set_trace_callback(statements.append)
    with slow_guard.writing(RESOURCE, 5):
        with pytest.raises(FenceGuardError, match="busy") as busy:
            fenced_writers.write(fast_guard, fast, 6)
        assert statements == ["BEGIN IMMEDIATE"]
        assert "timeout" in busy.value.hint
        assert not fast.in_transaction
        slow.execute("INSERT INTO written (fence) VALUES (5)")
    fenced_writers.write(fast_guard, fast, 6)
    with pytest.raises(StaleFenceError):
        fenced_writers.write(slow_guard, slow, 5)
    assert written(file) == [5, 6, 6]


def test_a_database_that_is_busy_at_the_commit_admits_nothing(tmp_path: Path) -> None:
    file = tmp_path / "rollback.sqlite"
    fenced_writers.create(file, journal="delete")
    reader, connection = connect(file), connect(file, timeout=0)
    guard = SQLiteFenceGuard(connection)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM written").fetchall()
    with pytest.raises(FenceGuardError, match="busy"):
        fenced_writers.write(guard, connection, 7)
    assert not connection.in_transaction
    reader.execute("COMMIT")
    assert (written(file), highest(file)) == ([], 0)
    fenced_writers.write(guard, connection, 6)
    reader.close()
    connection.close()


def test_a_database_that_is_busy_gets_no_table(file: Path) -> None:
    holder, late = connect(file), connect(file, timeout=0)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(FenceGuardError, match="busy"):
        SQLiteFenceGuard(late)
    holder.close()
    SQLiteFenceGuard(late).admit(RESOURCE, 1)
    late.close()


def test_a_restart_forgets_nothing(opened: Any, file: Path) -> None:
    connection, guard = opened()
    fenced_writers.write(guard, connection, 9)
    connection.close()
    _, again = opened()
    with pytest.raises(StaleFenceError):
        again.admit(RESOURCE, 8)
    assert again.highest(RESOURCE) == 9


@pytest.mark.parametrize("begin", ["BEGIN", "BEGIN IMMEDIATE"])
def test_a_transaction_that_was_begun_elsewhere_is_not_joined(
    opened: Any, file: Path, begin: str
) -> None:
    connection, guard = opened()
    connection.execute(begin)
    connection.execute("INSERT INTO written (fence) VALUES (1)")
    for ask in (guard.admit, lambda *asked: guard.writing(*asked).__enter__()):
        with pytest.raises(FenceGuardError, match="within a transaction") as refused:
            ask(RESOURCE, 7)
        assert "admit_within" in refused.value.hint
    connection.execute("COMMIT")  # and it is left alone
    assert (written(file), highest(file)) == ([1], 0)


def commit_and_go_on(connection: sqlite3.Connection) -> None:
    connection.commit()
    connection.execute("INSERT INTO written (fence) VALUES (77)")


def roll_back_and_go_on(connection: sqlite3.Connection) -> None:
    connection.rollback()
    connection.execute("INSERT INTO written (fence) VALUES (77)")


def use_as_context(connection: sqlite3.Connection) -> None:
    with connection:
        connection.execute("INSERT INTO written (fence) VALUES (7)")


def use_script(connection: sqlite3.Connection) -> None:
    connection.executescript("CREATE TABLE more (x)")


@pytest.mark.parametrize(
    "end",
    [commit_and_go_on, roll_back_and_go_on, use_as_context, use_script, sqlite3.Connection.close],
)
def test_a_block_that_ends_the_transaction_itself_is_an_error(
    opened: Any, file: Path, end: Callable[[sqlite3.Connection], None]
) -> None:
    connection, guard = opened()
    ended = pytest.raises(FenceGuardError, match="ended the transaction")
    with ended, guard.writing(RESOURCE, 7):
        end(connection)
    assert 77 not in written(file)
    assert highest(file) == (0 if end in (roll_back_and_go_on, sqlite3.Connection.close) else 7)


# -- in the caller's transaction -----------------------------------------------------------------


@pytest.mark.parametrize("begin", ["BEGIN", "BEGIN IMMEDIATE"])
def test_a_fence_admitted_within_a_transaction_shares_its_fate(
    opened: Any, file: Path, begin: str
) -> None:
    connection, guard = opened(isolation_level=None)
    for end, expected in (("ROLLBACK", ([], 0)), ("COMMIT", ([7], 7))):
        connection.execute(begin)
        guard.admit_within(RESOURCE, 7)
        assert guard.highest(RESOURCE) == 7
        connection.execute("INSERT INTO written (fence) VALUES (7)")
        connection.execute(end)
        assert (written(file), highest(file)) == expected
    connection.execute(begin)
    with pytest.raises(StaleFenceError):
        guard.admit_within(RESOURCE, 6)
    with pytest.raises(ValueError, match="whole number"):
        guard.admit_within(RESOURCE, 0)
    assert connection.in_transaction
    connection.execute("ROLLBACK")
    assert highest(file) == 7


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_nothing_is_admitted_within_no_transaction(
    opened: Any, file: Path, mode: dict[str, Any]
) -> None:
    _, guard = opened(**mode)
    with pytest.raises(FenceGuardError, match="not within a transaction"):
        guard.admit_within(RESOURCE, 7)
    assert highest(file) == 0


def test_a_transaction_begun_before_a_newer_write_does_not_admit_an_older(
    opened: Any, file: Path
) -> None:
    (slow, slow_guard), (fast, fast_guard) = opened(), opened()
    for has_read, expected in ((False, StaleFenceError), (True, FenceGuardError)):
        slow.execute("BEGIN")
        if has_read:  # it sees the database as of now, until it ends
            slow.execute("SELECT * FROM written").fetchall()
        fenced_writers.write(fast_guard, fast, 9)
        with pytest.raises(expected):
            slow_guard.admit_within(RESOURCE, 8)
        slow.rollback()
    assert highest(file) == 9


def test_once_a_fence_is_admitted_nobody_else_writes_until_the_end(opened: Any) -> None:
    (slow, slow_guard), (_, fast_guard) = opened(), opened()
    slow_guard.admit(RESOURCE, 5)
    slow.execute("BEGIN")
    slow_guard.admit_within(RESOURCE, 5)  # an equal fence changes nothing, and holds the lock
    with pytest.raises(FenceGuardError, match="busy"):
        fast_guard.admit(RESOURCE, 6)
    slow.rollback()


@pytest.mark.skipif(not HAS_AUTOCOMMIT, reason="connections have no autocommit before 3.12")
def test_a_connection_that_is_always_within_a_transaction_admits_within(
    opened: Any, file: Path
) -> None:
    connection, guard = opened(autocommit=False)
    connection.commit()  # the guard's table
    with pytest.raises(FenceGuardError, match="autocommit is False"):
        guard.admit(RESOURCE, 7)
    guard.admit_within(RESOURCE, 7)
    connection.execute("INSERT INTO written (fence) VALUES (7)")
    connection.rollback()
    assert (written(file), highest(file)) == ([], 0)
    guard.admit_within(RESOURCE, 7)
    connection.commit()
    assert highest(file) == 7


# -- the table -----------------------------------------------------------------------------------

NAME = "quorate_fence"


@pytest.mark.parametrize(
    "other",
    [
        f"CREATE TABLE {NAME} (resource TEXT, highest INTEGER)",
        f"CREATE TABLE {NAME} (resource TEXT NOT NULL PRIMARY KEY COLLATE NOCASE, "
        "highest INTEGER NOT NULL CHECK (typeof(highest) = 'integer')) WITHOUT ROWID",
        f"CREATE TABLE {NAME} (shelf TEXT PRIMARY KEY)",
        f"CREATE VIEW {NAME} AS SELECT 'x' AS resource, 1 AS highest",
    ],
)
def test_a_table_of_another_shape_is_an_error(file: Path, other: str) -> None:
    connection = connect(file)
    connection.execute(other)
    with pytest.raises(FenceGuardError, match="not the table") as refused:
        SQLiteFenceGuard(connection)
    assert refused.value.hint
    connection.close()


def test_the_table_is_made_once_and_beside_any_other(opened: Any, file: Path) -> None:
    connection, guard = opened()
    guard.admit(RESOURCE, 9)
    assert SQLiteFenceGuard(connection).highest(RESOURCE) == 9
    connection.execute(f"CREATE TEMP TABLE {NAME} (resource TEXT PRIMARY KEY, highest INTEGER)")
    with pytest.raises(StaleFenceError):
        SQLiteFenceGuard(connection).admit(RESOURCE, 8)


def test_a_table_that_was_taken_away_admits_nothing(opened: Any) -> None:
    connection, guard = opened()
    connection.execute(f"DROP TABLE {NAME}")
    with pytest.raises(FenceGuardError, match="no such table"):
        guard.admit(RESOURCE, 7)
    assert not connection.in_transaction


def test_rows_may_be_made_as_the_resource_likes(opened: Any) -> None:
    connection, guard = opened()
    connection.row_factory = lambda cursor, row: {"first": row[0]}
    connection.text_factory = bytes
    guard.admit(RESOURCE, 9)
    with pytest.raises(StaleFenceError, match="8 is older than 9"):
        SQLiteFenceGuard(connection).admit(RESOURCE, 8)


def test_a_connection_that_is_closed_or_anothers_admits_nothing(opened: Any) -> None:
    connection, guard = opened()
    with ThreadPoolExecutor(1) as pool, pytest.raises(FenceGuardError, match="thread"):
        pool.submit(guard.admit, RESOURCE, 7).result()
    connection.close()
    with pytest.raises(FenceGuardError, match="closed"):
        guard.admit(RESOURCE, 7)
    with pytest.raises(FenceGuardError, match="closed"):
        guard.highest(RESOURCE)


# -- many writers, and sudden ends ---------------------------------------------------------------


def test_threads_that_share_a_connection_write_in_the_order_of_their_fences(
    opened: Any, file: Path
) -> None:
    connection, guard = opened(check_same_thread=False)
    connection.execute("PRAGMA synchronous=OFF")
    plans = climbing(threads=4, rounds=60)
    done = write_together(plans, lambda fence: guard.writing(RESOURCE, fence))
    assert done == sorted(done)
    assert done[-1] == highest(file) == max(map(max, plans))


def test_processes_write_in_the_order_of_their_fences(file: Path) -> None:
    plans = climbing(threads=4, rounds=60)
    start = SPAWN.Barrier(len(plans))
    writers, answers = [], []
    for plan in plans:
        answer, told = SPAWN.Pipe(duplex=False)
        process = SPAWN.Process(
            target=fenced_writers.write_all, args=(file, plan, start, told), daemon=True
        )
        process.start()
        writers.append(process)
        answers.append(answer)
    admitted = 0
    for answer in answers:
        assert answer.poll(TIMEOUT_S)
        admitted += answer.recv()
    for process in writers:
        process.join(TIMEOUT_S)
        assert process.exitcode == 0
    order = written(file)
    assert order == sorted(order)
    assert len(order) == 2 * admitted
    assert order[-1] == highest(file) == max(map(max, plans))


# The statements of a guarded write as in test_write_and_fence_are_one_transaction; 8 is none.
@pytest.mark.parametrize("statement", range(1, 9))
@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_whenever_a_writer_is_killed_write_and_fence_are_both_there_or_neither(
    tmp_path: Path, journal: str, statement: int
) -> None:
    file = tmp_path / "killed.sqlite"
    fenced_writers.create(file, journal)
    connection = connect(file)
    guard = SQLiteFenceGuard(connection)
    fenced_writers.write(guard, connection, 3)
    process = SPAWN.Process(target=fenced_writers.die_at, args=(file, 9, statement))
    process.start()
    process.join(TIMEOUT_S)
    is_whole = statement == 8
    assert process.exitcode == (0 if is_whole else -signal.SIGKILL)
    assert (written(file), highest(file)) == (([3, 3, 9, 9], 9) if is_whole else ([3, 3], 3))
    if is_whole:
        with pytest.raises(StaleFenceError):
            fenced_writers.write(guard, connection, 8)
    else:
        fenced_writers.write(guard, connection, 8)
    connection.close()


def test_a_writer_that_is_killed_in_its_block_leaves_nothing_and_blocks_nobody(
    opened: Any, file: Path
) -> None:
    connection, guard = opened()
    answer, told = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=fenced_writers.hang_within, args=(file, 9, told))
    process.start()
    assert answer.poll(TIMEOUT_S)
    assert answer.recv() == "within"
    with pytest.raises(FenceGuardError, match="busy"):
        guard.admit(RESOURCE, 8)
    process.kill()
    process.join(TIMEOUT_S)
    assert process.exitcode == -signal.SIGKILL
    assert (written(file), highest(file)) == ([], 0)
    fenced_writers.write(guard, connection, 8)


def test_a_writer_that_is_killed_at_any_moment_leaves_whole_writes(file: Path) -> None:
    answer, told = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=fenced_writers.write_on, args=(file, told))
    process.start()
    for _ in range(20):
        assert answer.poll(TIMEOUT_S)
        acknowledged = answer.recv()
    process.kill()
    process.join(TIMEOUT_S)
    last = highest(file)
    assert last >= acknowledged
    assert written(file) == [fence for fence in range(1, last + 1) for _ in range(2)]
