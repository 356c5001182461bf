"""An organisation's book of records, which defends itself.

Owns one SQLite file: an outbox, an inbox, and for each the fences that were presented. A write with
a lower fence comes from a holder whose lease is over, however it came to be so late, and is refused
in the same transaction. The book knows nothing of leases, nodes or quorums.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from quorate.client import SQLiteFenceGuard

OUTBOX: Final = "outbox"
INBOX: Final = "inbox"
BUSY_TIMEOUT_S: Final = 10.0

_SCHEMA: Final = """
CREATE TABLE outbox (id TEXT PRIMARY KEY, body TEXT NOT NULL, sent_under INTEGER);
CREATE INDEX unsent ON outbox (id) WHERE sent_under IS NULL;
CREATE TABLE inbox (id TEXT PRIMARY KEY, body TEXT NOT NULL, received_under INTEGER NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Record:
    id: str
    body: str


class Book:
    """One open book. For one thread; other processes may have it open too."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        # The books are not what is shown here: their safety against power loss would only load
        # the disk that the nodes' own promises rest on.
        self._db.execute("PRAGMA synchronous=OFF")
        self._fences = SQLiteFenceGuard(self._db)

    @classmethod
    def create(cls, path: Path, domain: str, records: int, what: str) -> Self:
        """A new book with `records` records in its outbox."""
        book = cls(path)
        book._db.executescript(_SCHEMA)
        book._db.execute("BEGIN")
        book._db.executemany(
            "INSERT INTO outbox VALUES (?, ?, NULL)",
            ((f"{domain}/{number:06}", f"{what} no. {number}") for number in range(records)),
        )
        book._db.execute("COMMIT")
        return book

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    def next_unsent(self) -> Record | None:
        """The first record that is not marked as sent."""
        row = self._db.execute(
            "SELECT id, body FROM outbox WHERE sent_under IS NULL ORDER BY id LIMIT 1"
        ).fetchone()
        return Record(*row) if row else None

    def receive(self, record: Record, *, fence: int) -> None:
        """Puts a record into the inbox, once however often it is sent. Raises StaleFenceError."""
        with self._fences.writing(INBOX, fence):
            self._db.execute(
                "INSERT OR IGNORE INTO inbox VALUES (?, ?, ?)", (record.id, record.body, fence)
            )

    def mark_sent(self, record: Record, *, fence: int) -> None:
        """Notes in the outbox that a record has arrived. Raises StaleFenceError."""
        with self._fences.writing(OUTBOX, fence):
            self._db.execute("UPDATE outbox SET sent_under = ? WHERE id = ?", (fence, record.id))

    def highest_fence(self, shelf: str) -> int:
        """The highest fence that was presented for a shelf; 0 when there was none."""
        return self._fences.highest(shelf)

    def sent(self) -> set[Record]:
        """The records that are marked as sent."""
        rows = self._db.execute("SELECT id, body FROM outbox WHERE sent_under IS NOT NULL")
        return {Record(*row) for row in rows}

    def received(self) -> set[Record]:
        """The records in the inbox."""
        return {Record(*row) for row in self._db.execute("SELECT id, body FROM inbox")}
