"""A snapshot: one commit, to read, and to be sent to another node page by page.

Owns the read transaction. It sees one commit, whole, for as long as it is open, and while it is
open LMDB keeps that commit's pages: hold it for a request, not for a session.
"""

from __future__ import annotations

from types import TracebackType

import lmdb

from quorate.storage.health import Health
from quorate.storage.layout import Databases
from quorate.storage.reads import Reads


class Snapshot(Reads):
    """One commit, to read: a context manager, entered once."""

    __slots__ = ("_aside", "_env", "_txn", "txn_id")

    def __init__(
        self,
        env: lmdb.Environment,
        dbs: Databases,
        health: Health,
        aside: list[int] | None = None,
    ) -> None:
        """aside: where it is on record that this one decides nothing, while it is open."""
        super().__init__(dbs, health)
        self._env = env
        self._aside = aside
        self._txn: lmdb.Transaction[bytes] | None = None
        self.txn_id = 0
        """The LMDB transaction whose commit this shows."""

    def __enter__(self) -> Snapshot:
        self._health.check()
        assert self._txn is None, "a snapshot is entered once"
        try:
            self._txn = self._env.begin(buffers=False)
            self.txn_id = self._txn.id()
        except lmdb.Error as error:
            raise self._health.failure(error) from error
        if self._aside is not None:
            self._aside.append(self.txn_id)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._txn is not None
        if self._aside is not None:
            self._aside.remove(self.txn_id)  # first: for a moment, it counts
        self._txn.abort()  # its slot of the reader table goes back to the pool
        self._txn = None

    def state_page(self, after: bytes | None, max_bytes: int) -> list[tuple[bytes, bytes]]:
        """The (key, value) pairs of the state behind the key `after` (None: from the first on), in
        order of key.

        Stops before keys and values exceed `max_bytes` altogether, but holds at least one pair if
        there is one. An empty page: the state ends at `after`.
        """
        page: list[tuple[bytes, bytes]] = []
        size_bytes = 0
        start = b"" if after is None else after + b"\0"
        for key, value in self._bodies(self._live(), start):
            size_bytes += len(key) + len(value)
            if page and size_bytes > max_bytes:
                break
            page.append((key, value))
        return page

    def state_count(self) -> int:
        """How many pairs the state has."""
        return self.state_digest().count

    def ledger_page(self, first: int, last_exclusive: int, max_bytes: int) -> list[bytes]:
        """The entries in [first, last_exclusive) as far as the ledger goes, in order, bounded as in
        `state_page`."""
        page: list[bytes] = []
        size_bytes = 0
        for _, entry in self._entries(first, min(last_exclusive, self.ledger_size)):
            size_bytes += len(entry)
            if page and size_bytes > max_bytes:
                break
            page.append(entry)
        return page

    def _transaction(self) -> lmdb.Transaction[bytes]:
        assert self._txn is not None, "a snapshot is read inside its `with`"
        return self._txn
