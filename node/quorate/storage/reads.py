"""Reading: everything that one transaction of the environment shows.

Owns `Reads`, which a snapshot and a turn share, so that both answer alike. A `Snapshot` is one LMDB
read transaction: it sees one commit, whole, for as long as it is open, and while it is open LMDB
keeps that commit's pages; hold it for a request, not for a session.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Protocol

import lmdb

from quorate.core.store import Reader
from quorate.proofs import merkle
from quorate.storage import layout
from quorate.storage.health import Health
from quorate.storage.layout import Databases, number, tree_key


class LogView(Protocol):
    """The Raft log, to read."""

    def log_first(self) -> int: ...

    def log_last(self) -> tuple[int, int]: ...

    def log_get(self, index: int) -> tuple[int, bytes] | None: ...

    def log_slice(
        self, first: int, last_exclusive: int, max_bytes: int
    ) -> list[tuple[int, int, bytes]]: ...


class Reads:
    """What can be read in a transaction, whichever it is."""

    __slots__ = ("_dbs", "_health")

    def __init__(self, dbs: Databases, health: Health) -> None:
        self._dbs = dbs
        self._health = health

    def _transaction(self) -> lmdb.Transaction[bytes]:
        """The transaction that reads go to."""
        raise NotImplementedError

    # -- the ledger and its tree ---------------------------------------------------------------

    @property
    def ledger_size(self) -> int:
        """How many entries the ledger has."""
        return self._number(layout.META_LEDGER_SIZE)

    def ledger_entry(self, seq: int) -> bytes | None:
        """The bytes of entry `seq`, exactly as they were appended."""
        return self._get(self._dbs.ledger, number(seq)) if seq >= 0 else None

    def ledger_entries(self, first: int, limit: int) -> list[bytes]:
        """At most `limit` entries from `first` on, in order, without a gap."""
        return [value for _, value in self._page(self._dbs.ledger, first, limit)]

    def node(self, level: int, index: int) -> bytes:
        """A node of the tree (`quorate.proofs.merkle.NodeReader`)."""
        digest = self._get(self._dbs.tree, tree_key(level, index))
        if digest is None or len(digest) != merkle.HASH_BYTES:
            raise self._health.condemn(f"the tree has no node ({level}, {index})")
        return digest

    def root(self) -> bytes:
        """The root hash of the whole ledger."""
        return merkle.root(self, self.ledger_size)

    # -- the state ----------------------------------------------------------------------------

    @property
    def state(self) -> Reader:
        return StateReader(self)

    @property
    def applied_index(self) -> int:
        """The Raft index of the last entry that the state and the ledger reflect; 0: none."""
        return self._number(layout.META_APPLIED)

    # -- the Raft log -------------------------------------------------------------------------

    @property
    def log(self) -> LogView:
        return self

    def log_first(self) -> int:
        """The index at which the log begins; 1 when it is empty."""
        cursor = self._cursor(self._dbs.log)
        return int.from_bytes(cursor.key(), "big") if self._seek(cursor, b"") else 1

    def log_last(self) -> tuple[int, int]:
        """Index and term of the last entry; (0, 0) when the log is empty."""
        cursor = self._cursor(self._dbs.log)
        try:
            if not cursor.last():
                return 0, 0
            key, value = cursor.item()
        except lmdb.Error as error:
            raise self._health.failure(error) from error
        return int.from_bytes(key, "big"), int.from_bytes(value[:8], "big")

    def log_get(self, index: int) -> tuple[int, bytes] | None:
        """Term and command of the entry at `index`, or None when the log does not hold it."""
        value = self._get(self._dbs.log, number(index)) if index >= 0 else None
        return None if value is None else (int.from_bytes(value[:8], "big"), value[8:])

    def log_slice(
        self, first: int, last_exclusive: int, max_bytes: int
    ) -> list[tuple[int, int, bytes]]:
        """(index, term, command) of the entries in [first, last_exclusive), in order.

        Stops before the commands exceed `max_bytes` altogether, but holds at least one entry if
        there is one, so that whoever asks again makes progress.
        """
        entries: list[tuple[int, int, bytes]] = []
        size_bytes = 0
        for index, value in self._ascending(self._dbs.log, first):
            size_bytes += len(value) - 8
            if index >= last_exclusive or (entries and size_bytes > max_bytes):
                break
            entries.append((index, int.from_bytes(value[:8], "big"), value[8:]))
        return entries

    def configurations(self) -> list[tuple[int, bytes]]:
        """(log index, bytes) of the Raft configurations that are kept beside the log, ascending."""
        return list(self._ascending(self._dbs.configurations, 0))

    def term(self) -> int:
        """Raft's current term; 0 before the first."""
        return self._number(layout.META_TERM)

    def voted_for(self) -> str | None:
        """The node that got this node's vote in `term()`, if any."""
        value = self._get(self._dbs.meta, layout.META_VOTED_FOR)
        return value.decode() if value else None

    def commit_index(self) -> int:
        """The highest Raft index that this node durably knows to be committed."""
        return self._number(layout.META_COMMIT)

    # -- the node's own -----------------------------------------------------------------------

    def get_meta(self, name: str) -> bytes | None:
        """A value of `Turn.put_meta`."""
        return self._get(self._dbs.meta, layout.META_OTHER + name.encode())

    def identity(self) -> tuple[bytes, str] | None:
        """Genesis hash and node id for which the environment was made; None: for none yet."""
        genesis_hash = self._get(self._dbs.meta, layout.META_GENESIS_HASH)
        node_id = self._get(self._dbs.meta, layout.META_NODE_ID)
        if genesis_hash is None or node_id is None:
            return None
        return genesis_hash, node_id.decode()

    def format_version(self) -> int | None:
        value = self._get(self._dbs.meta, layout.META_FORMAT)
        return None if value is None else int.from_bytes(value, "big")

    def denials(self, first: int, limit: int) -> list[tuple[int, bytes]]:
        """At most `limit` (number, record) pairs of the journal of denials, from `first` on."""
        return list(self._page(self._dbs.denials, first, limit))

    # -- beneath ------------------------------------------------------------------------------

    def _get(self, db: lmdb._Database, key: bytes) -> bytes | None:
        try:
            return self._transaction().get(key, db=db)
        except lmdb.Error as error:
            raise self._health.failure(error) from error

    def _number(self, name: bytes) -> int:
        value = self._get(self._dbs.meta, name)
        return 0 if value is None else int.from_bytes(value, "big")

    def _cursor(self, db: lmdb._Database) -> lmdb.Cursor[bytes]:
        try:
            return self._transaction().cursor(db=db)
        except lmdb.Error as error:
            raise self._health.failure(error) from error

    def _seek(self, cursor: lmdb.Cursor[bytes], key: bytes) -> bool:
        """Moves to the first key that is not below `key`."""
        try:
            return cursor.set_range(key) if key else cursor.first()
        except lmdb.Error as error:
            raise self._health.failure(error) from error

    def _items(self, db: lmdb._Database, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        cursor = self._cursor(db)
        found = self._seek(cursor, start)
        while found:
            try:
                item = cursor.item()
            except lmdb.Error as error:
                raise self._health.failure(error) from error
            yield item
            try:
                found = cursor.next()
            except lmdb.Error as error:
                raise self._health.failure(error) from error

    def _ascending(self, db: lmdb._Database, first: int) -> Iterator[tuple[int, bytes]]:
        for key, value in self._items(db, number(max(first, 0))):
            yield int.from_bytes(key, "big"), value

    def _page(self, db: lmdb._Database, first: int, limit: int) -> Iterator[tuple[int, bytes]]:
        if limit <= 0:
            return
        for taken, item in enumerate(self._ascending(db, first), start=1):
            yield item
            if taken == limit:
                return


class StateReader:
    """The state of one transaction, as `quorate.core.store.Reader`."""

    __slots__ = ("_reads",)

    def __init__(self, reads: Reads) -> None:
        self._reads = reads

    def get(self, key: bytes) -> bytes | None:
        if not 0 < len(key) <= layout.MAX_STATE_KEY_BYTES:
            return None  # such a key cannot have been put
        return self._reads._get(self._reads._dbs.state, key)

    def scan(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        for key, value in self._reads._items(self._reads._dbs.state, max(prefix, start)):
            if not key.startswith(prefix):
                return
            yield key, value


class Snapshot(Reads):
    """One commit, to read: a context manager, entered once."""

    __slots__ = ("_env", "_txn", "txn_id")

    def __init__(self, env: lmdb.Environment, dbs: Databases, health: Health) -> None:
        super().__init__(dbs, health)
        self._env = env
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
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._txn is not None
        self._txn.abort()  # its slot of the reader table goes back to the pool
        self._txn = None

    def _transaction(self) -> lmdb.Transaction[bytes]:
        assert self._txn is not None, "a snapshot is read inside its `with`"
        return self._txn
