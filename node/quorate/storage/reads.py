"""Reading: everything that one transaction of the environment shows.

Owns `Reads`, which a snapshot and a turn share, so that both answer alike, and the rule that
nothing damaged is handed out: each value is held against its checksum when it is read, each entry
of the ledger against its leaf.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

import lmdb

from quorate.core.store import Reader
from quorate.proofs import merkle
from quorate.storage import layout
from quorate.storage.health import Health
from quorate.storage.layout import Databases, Table, key_text, number, tree_key
from quorate.storage.seal import StateDigest, opened

_TERM_BYTES: Final = 8


class LogView(Protocol):
    """The Raft log, to read."""

    def log_first(self) -> int: ...

    def log_last(self) -> tuple[int, int]: ...

    def log_get(self, index: int) -> tuple[int, bytes] | None: ...

    def log_slice(
        self, first: int, last_exclusive: int, max_bytes: int
    ) -> list[tuple[int, int, bytes]]: ...


class Reads:
    """What can be read in a transaction, whichever it is. A value that does not match its checksum
    ends the use of the environment: `StorageDamagedError` names its database and key."""

    __slots__ = ("_dbs", "_health", "_ledger_size", "_slot")

    def __init__(self, dbs: Databases, health: Health) -> None:
        self._dbs = dbs
        self._health = health
        self._ledger_size: int | None = None  # None: to be read from the disk
        self._slot: bytes | None = None

    def _transaction(self) -> lmdb.Transaction[bytes]:
        """The transaction that reads go to."""
        raise NotImplementedError

    def _check(self) -> None:
        """Raises when nothing may be read."""
        self._health.check()

    # -- the ledger and its tree ---------------------------------------------------------------

    @property
    def ledger_size(self) -> int:
        """How many entries the ledger has. What lies behind them is nobody's to read."""
        self._check()
        if self._ledger_size is None:
            self._ledger_size = self._number(layout.META_LEDGER_SIZE)
        return self._ledger_size

    def ledger_entry(self, seq: int) -> bytes | None:
        """The bytes of entry `seq`, exactly as they were appended; None when there is none."""
        if not 0 <= seq < self.ledger_size:
            return None
        entry = self._get(self._dbs.ledger, number(seq))
        if entry is None:
            raise self._health.condemn(f"database ledger: entry {seq} is missing")
        return self._vouched_for(seq, entry)

    def ledger_entries(self, first: int, limit: int) -> list[bytes]:
        """At most `limit` entries from `first` on, in order, without a gap."""
        end = min(first + limit, self.ledger_size)
        return [entry for _, entry in self._entries(first, end)]

    def node(self, level: int, index: int) -> bytes:
        """A node of the tree (`quorate.proofs.merkle.NodeReader`)."""
        digest = self._read(self._dbs.tree, tree_key(level, index))
        if digest is None or len(digest) != merkle.HASH_BYTES:
            raise self._health.condemn(f"the tree has no node ({level}, {index})")
        return digest

    def root(self) -> bytes:
        """The root hash of the whole ledger."""
        return merkle.root(self, self.ledger_size)

    def _entries(self, first: int, end: int) -> Iterator[tuple[int, bytes]]:
        """The entries in [first, end), all of which must be there."""
        items = self._items(self._dbs.ledger, number(first)) if first < end else iter(())
        for seq in range(first, end):
            key, entry = next(items, (b"", b""))
            if key != number(seq):
                raise self._health.condemn(f"database ledger: entry {seq} is missing")
            yield seq, self._vouched_for(seq, entry)

    def _vouched_for(self, seq: int, entry: bytes) -> bytes:
        if merkle.leaf_hash(entry) != self.node(0, seq):
            raise self._health.condemn(f"database ledger: entry {seq} does not match its leaf")
        return entry

    # -- the state ----------------------------------------------------------------------------

    @property
    def state(self) -> Reader:
        return StateReader(self)

    @property
    def applied_index(self) -> int:
        """The Raft index of the last entry that the state and the ledger reflect; 0: none."""
        return self._number(layout.META_APPLIED)

    def state_digest(self) -> StateDigest:
        """The digest of the whole state, as every write kept it: finds damage, not malice."""
        return self._digest_of(self._live_slot())

    def _live_slot(self) -> bytes:
        if self._slot is None:
            self._slot = self._read(self._dbs.meta, layout.META_SLOT) or layout.SLOTS[0]
        return self._slot

    def _idle_slot(self) -> bytes:
        return layout.SLOTS[1 - layout.SLOTS.index(self._live_slot())]

    def _live(self) -> Table:
        """The database that the state is in."""
        return self._dbs.state(self._live_slot())

    def _digest_of(self, slot: bytes) -> StateDigest:
        data = self._read(self._dbs.meta, layout.META_DIGEST + slot)
        return StateDigest() if data is None else StateDigest.decode(data)

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
        term, _ = _entry(self._opened(self._dbs.log, key, value))
        return int.from_bytes(key, "big"), term

    def log_get(self, index: int) -> tuple[int, bytes] | None:
        """Term and command of the entry at `index`, or None when the log does not hold it."""
        body = self._read(self._dbs.log, number(index)) if index >= 0 else None
        return None if body is None else _entry(body)

    def log_slice(
        self, first: int, last_exclusive: int, max_bytes: int
    ) -> list[tuple[int, int, bytes]]:
        """(index, term, command) of the entries in [first, last_exclusive), in order.

        Stops before the commands exceed `max_bytes` altogether, but holds at least one entry if
        there is one, so that whoever asks again makes progress.
        """
        entries: list[tuple[int, int, bytes]] = []
        size_bytes = 0
        for index, body in self._ascending(self._dbs.log, first):
            size_bytes += len(body) - _TERM_BYTES
            if index >= last_exclusive or (entries and size_bytes > max_bytes):
                break
            entries.append((index, *_entry(body)))
        return entries

    def configurations(self) -> list[tuple[int, bytes]]:
        """(log index, bytes) of the Raft configurations that are kept beside the log, ascending."""
        return list(self._ascending(self._dbs.configurations, 0))

    def term(self) -> int:
        """Raft's current term; 0 before the first."""
        return self._number(layout.META_TERM)

    def voted_for(self) -> str | None:
        """The node that got this node's vote in `term()`, if any."""
        value = self._read(self._dbs.meta, layout.META_VOTED_FOR)
        return value.decode() if value else None

    def commit_index(self) -> int:
        """The highest Raft index that this node durably knows to be committed."""
        return self._number(layout.META_COMMIT)

    # -- the node's own -----------------------------------------------------------------------

    def get_meta(self, name: str) -> bytes | None:
        """A value of `Turn.put_meta`."""
        return self._read(self._dbs.meta, layout.META_OTHER + name.encode())

    def identity(self) -> tuple[bytes, str] | None:
        """Genesis hash and node id for which the environment was made; None: for none yet."""
        genesis_hash = self._read(self._dbs.meta, layout.META_GENESIS_HASH)
        node_id = self._read(self._dbs.meta, layout.META_NODE_ID)
        if genesis_hash is None or node_id is None:
            return None
        return genesis_hash, node_id.decode()

    def probation(self) -> str:
        """What `Turn.set_probation` left; empty: this store has forgotten nothing."""
        return (self._read(self._dbs.meta, layout.META_PROBATION) or b"").decode()

    def format_version(self) -> int | None:
        """The version of the format; None for an environment that belongs to no node yet."""
        return self._number(layout.META_FORMAT) or None

    def outbox(self, first: int, limit: int) -> list[tuple[int, bytes]]:
        """At most `limit` (number, row) pairs of what waits for the ledger, from `first` on."""
        return list(self._page(self._dbs.outbox, first, limit))

    def outbox_next(self) -> int:
        """The number of the next row of the outbox; never one that was used."""
        return self._number(layout.META_OUTBOX)

    # -- beneath ------------------------------------------------------------------------------

    def _get(self, table: Table, key: bytes) -> bytes | None:
        """What lies there, unchecked."""
        try:
            return self._transaction().get(key, db=table.handle)
        except lmdb.Error as error:
            raise self._health.failure(error) from error

    def _read(self, table: Table, key: bytes) -> bytes | None:
        """The body of the sealed value at `key`."""
        value = self._get(table, key)
        return None if value is None else self._opened(table, key, value)

    def _opened(self, table: Table, key: bytes, value: bytes) -> bytes:
        body = opened(key, value)
        if body is None:
            raise self._health.condemn(
                f"database {table.name}: {key_text(table, key)} does not match its checksum"
            )
        return body

    def _number(self, name: bytes) -> int:
        return int.from_bytes(self._read(self._dbs.meta, name) or b"", "big")

    def _count(self, table: Table) -> int:
        """How many values a database has."""
        try:
            return self._transaction().stat(db=table.handle)["entries"]
        except lmdb.Error as error:
            raise self._health.failure(error) from error

    def _cursor(self, table: Table) -> lmdb.Cursor[bytes]:
        try:
            return self._transaction().cursor(db=table.handle)
        except lmdb.Error as error:
            raise self._health.failure(error) from error

    def _seek(self, cursor: lmdb.Cursor[bytes], key: bytes) -> bool:
        """Moves to the first key that is not below `key`."""
        try:
            return cursor.set_range(key) if key else cursor.first()
        except lmdb.Error as error:
            raise self._health.failure(error) from error

    def _items(self, table: Table, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        """What lies there, unchecked, from `start` on."""
        cursor = self._cursor(table)
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

    def _bodies(self, table: Table, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        """(key, body) of the sealed values from `start` on."""
        for key, value in self._items(table, start):
            yield key, self._opened(table, key, value)

    def _ascending(self, table: Table, first: int) -> Iterator[tuple[int, bytes]]:
        for key, body in self._bodies(table, number(max(first, 0))):
            yield int.from_bytes(key, "big"), body

    def _page(self, table: Table, first: int, limit: int) -> Iterator[tuple[int, bytes]]:
        if limit <= 0:
            return
        for taken, item in enumerate(self._ascending(table, first), start=1):
            yield item
            if taken == limit:
                return


class StateReader:
    """The state of one transaction, as `quorate.core.store.Reader`; or the one that is staged."""

    __slots__ = ("_is_staged", "_reads")

    def __init__(self, reads: Reads, *, is_staged: bool = False) -> None:
        self._reads = reads
        self._is_staged = is_staged

    def _table(self) -> Table:
        reads = self._reads
        return reads._dbs.state(reads._idle_slot()) if self._is_staged else reads._live()

    def get(self, key: bytes) -> bytes | None:
        if not 0 < len(key) <= layout.MAX_STATE_KEY_BYTES:
            return None  # such a key cannot have been put
        return self._reads._read(self._table(), key)

    def scan(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        for key, value in self._reads._bodies(self._table(), max(prefix, start)):
            if not key.startswith(prefix):
                return
            yield key, value


def _entry(body: bytes) -> tuple[int, bytes]:
    """Term and command of an entry of the log."""
    return int.from_bytes(body[:_TERM_BYTES], "big"), body[_TERM_BYTES:]
