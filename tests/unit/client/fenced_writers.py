"""Who writes under fences in the tests of fences: threads, and processes that may be killed."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

from quorate.client.fences import SQLiteFenceGuard, StaleFenceError

RESOURCE = "//bank.example/books/inbox"
TIMEOUT_S = 60.0


def climbing(threads: int, rounds: int) -> list[list[int]]:
    """For each thread fences that climb as the others' do, now and then a step back."""
    return [
        [step * threads + mine - (9 if step % 5 == 4 else 0) for step in range(3, rounds)]
        for mine in range(threads)
    ]


def write_together(
    plans: list[list[int]], writing: Callable[[int], AbstractContextManager[None]]
) -> list[int]:
    """Writes in as many threads as there are plans; the fences as they were written."""
    done: list[int] = []
    start = threading.Barrier(len(plans))

    def run(plan: list[int]) -> None:
        start.wait(TIMEOUT_S)
        for fence in plan:
            try:
                with writing(fence):
                    done.append(fence)
            except StaleFenceError:
                pass

    with ThreadPoolExecutor(len(plans)) as pool:
        list(pool.map(run, plans))
    return done


def connect(file: Path, **settings: object) -> sqlite3.Connection:
    return sqlite3.connect(file, **({"timeout": TIMEOUT_S} | settings))


def create(file: Path, journal: str = "wal") -> None:
    """A database with a table that is written to: `number` grows with each row."""
    connection = connect(file)
    connection.execute(f"PRAGMA journal_mode={journal}")
    connection.execute("CREATE TABLE written (number INTEGER PRIMARY KEY, fence INTEGER)")
    connection.close()


def write(guard: SQLiteFenceGuard, connection: sqlite3.Connection, fence: int) -> None:
    """One act of two statements."""
    with guard.writing(RESOURCE, fence):
        connection.execute("INSERT INTO written (fence) VALUES (?)", (fence,))
        connection.execute("INSERT INTO written (fence) VALUES (?)", (fence,))


def written(file: Path) -> list[int]:
    """The fences of what was written, in order."""
    connection = connect(file)
    rows = connection.execute("SELECT fence FROM written ORDER BY number").fetchall()
    connection.close()
    return [fence for (fence,) in rows]


def highest(file: Path) -> int:
    connection = connect(file)
    found = SQLiteFenceGuard(connection).highest(RESOURCE)
    connection.close()
    return found


def write_all(file: Path, fences: list[int], start: Barrier, told: Connection) -> None:
    """Writes under one fence after the other; tells how many were admitted."""
    connection = connect(file)
    guard = SQLiteFenceGuard(connection)
    start.wait(TIMEOUT_S)
    admitted = 0
    for fence in fences:
        try:
            write(guard, connection, fence)
            admitted += 1
        except StaleFenceError:
            pass
    told.send(admitted)


def die_at(file: Path, fence: int, statement: int) -> None:
    """Writes under a fence, and is killed with -9 as the `statement`-th statement begins."""
    connection = connect(file)
    guard = SQLiteFenceGuard(connection)
    begun = 0

    def begins(_: str) -> None:
        nonlocal begun
        begun += 1
        if begun == statement:
            os.kill(os.getpid(), signal.SIGKILL)

    connection.set_trace_callback(begins)
    write(guard, connection, fence)


def hang_within(file: Path, fence: int, told: Connection) -> None:
    """Writes under a fence, says so, and never ends the block."""
    connection = connect(file)
    guard = SQLiteFenceGuard(connection)
    with guard.writing(RESOURCE, fence):
        connection.execute("INSERT INTO written (fence) VALUES (?)", (fence,))
        told.send("within")
        signal.pause()


def write_on(file: Path, told: Connection) -> None:
    """Writes under ever higher fences and tells each, until it is killed."""
    connection = connect(file)
    guard = SQLiteFenceGuard(connection)
    fence = 0
    while True:
        fence += 1
        write(guard, connection, fence)
        told.send(fence)
