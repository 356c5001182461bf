"""What a turn writes with: its transactions, and what is kept beside every write.

Owns when the write transaction begins and ends, what a failed write does to the turn, the seal of
each value, and the digest of each slot of the state. Does not own what is written (`turn`,
`receiving`).
"""

from __future__ import annotations

from collections.abc import Callable

import lmdb

from quorate.core.errors import StorageError
from quorate.storage import layout
from quorate.storage.health import Health
from quorate.storage.layout import Databases, Table, number, tree_key
from quorate.storage.reads import Reads
from quorate.storage.seal import RunningDigest, StateDigest, seal


class Writes(Reads):
    """The transactions of one turn after the other. It reads through a read transaction until its
    first write: a turn that wrote nothing costs no write transaction and no fsync.

    A write that fails abandons the turn at once, and the turn then refuses everything, with the
    same error, until `Environment.abort` (or `commit`, which raises it): otherwise whoever went on
    after the error would commit the second half of a turn without its first.
    """

    __slots__ = ("_begin", "_digests", "_failed", "_log_last", "_read_txn", "_write_txn")

    def __init__(
        self,
        begin: Callable[[bool], lmdb.Transaction[bytes]],
        dbs: Databases,
        health: Health,
    ) -> None:
        super().__init__(dbs, health)
        self._begin = begin
        self._read_txn: lmdb.Transaction[bytes] | None = None
        self._write_txn: lmdb.Transaction[bytes] | None = None
        self._failed: StorageError | None = None
        self._digests: dict[bytes, RunningDigest] = {}  # of the slots that this turn has changed
        self._log_last: tuple[int, int] | None = None

    # -- the state, by slot -------------------------------------------------------------------

    def _state_put(self, slot: bytes, key: bytes, value: bytes) -> None:
        table = self._dbs.state(slot)
        try:
            replaced = self._writing().replace(key, seal(key, value), db=table.handle)
        except lmdb.Error as error:
            raise self._abandon(error) from error
        digest = self._running(slot)
        if replaced is not None:
            digest.remove(key, self._opened(table, key, replaced))
        digest.add(key, value)

    def _state_delete(self, slot: bytes, key: bytes) -> None:
        table = self._dbs.state(slot)
        try:
            removed = self._writing().pop(key, db=table.handle)
        except lmdb.Error as error:
            raise self._abandon(error) from error
        if removed is not None:
            self._running(slot).remove(key, self._opened(table, key, removed))

    def _state_clear(self, slot: bytes) -> None:
        self._clear(self._dbs.state(slot))
        self._digests[slot] = RunningDigest(StateDigest())

    def _running(self, slot: bytes) -> RunningDigest:
        running = self._digests.get(slot)
        if running is None:
            running = self._digests[slot] = RunningDigest(super()._digest_of(slot))
        return running

    def _digest_of(self, slot: bytes) -> StateDigest:
        running = self._digests.get(slot)
        return super()._digest_of(slot) if running is None else running.digest()

    # -- the tree -----------------------------------------------------------------------------

    def put_node(self, level: int, index: int, digest: bytes) -> None:
        """A node of the tree (`quorate.proofs.merkle.NodeStore`)."""
        self._put(self._dbs.tree, tree_key(level, index), digest)

    # -- values -------------------------------------------------------------------------------

    def _put(self, table: Table, key: bytes, body: bytes, *, append: bool = False) -> None:
        """Seals a value and puts it."""
        self._put_raw(table, key, seal(key, body), append=append)

    def _put_raw(self, table: Table, key: bytes, value: bytes, *, append: bool = False) -> None:
        try:
            done = self._writing().put(key, value, db=table.handle, append=append)
        except lmdb.Error as error:
            raise self._abandon(error) from error
        if not done:  # there is a key that is not below the one to append
            raise self._health.condemn(
                f"database {table.name} holds more than its own count says: "
                f"{layout.key_text(table, key)} is not its end"
            )

    def _delete(self, table: Table, key: bytes) -> None:
        try:
            self._writing().delete(key, db=table.handle)
        except lmdb.Error as error:
            raise self._abandon(error) from error

    def _delete_range(self, table: Table, first: int, last_exclusive: int | None) -> None:
        try:
            cursor = self._writing().cursor(db=table.handle)
            found = cursor.set_range(number(first))
            while found:
                key = int.from_bytes(cursor.key(), "big")
                if last_exclusive is not None and key >= last_exclusive:
                    return
                found = cursor.delete()
        except lmdb.Error as error:
            raise self._abandon(error) from error

    def _clear(self, table: Table) -> None:
        """Empties a database: its pages are freed, not its entries one by one."""
        try:
            self._writing().drop(table.handle, delete=False)
        except lmdb.Error as error:
            raise self._abandon(error) from error

    # -- transactions -------------------------------------------------------------------------

    @property
    def writes(self) -> bool:
        """Whether there is something to commit."""
        return self._write_txn is not None

    def _check(self) -> None:
        self._health.check()
        if self._failed is not None:
            raise self._failed

    def _transaction(self) -> lmdb.Transaction[bytes]:
        self._check()
        if self._write_txn is not None:
            return self._write_txn
        if self._read_txn is None:
            self._read_txn = self._started(write=False)
        return self._read_txn

    def _writing(self) -> lmdb.Transaction[bytes]:
        """The write transaction. There is one writer, so it begins at what the reads so far saw."""
        self._check()
        if self._write_txn is None:
            self._end_reading()
            self._write_txn = self._started(write=True)
        return self._write_txn

    def _started(self, *, write: bool) -> lmdb.Transaction[bytes]:
        try:
            return self._begin(write)
        except lmdb.Error as error:
            raise self._health.failure(error) from error

    def _end_reading(self) -> None:
        if self._read_txn is not None:
            self._read_txn.abort()
            self._read_txn = None

    def _abandon(self, error: lmdb.Error) -> StorageError:
        failure = self._health.failure(error)
        self.end()
        self._failed = failure
        return failure

    def _finish(self) -> int:
        """Writes what every transaction ends with; returns LMDB's id of this one."""
        try:
            txn_id = self._writing().id()
        except lmdb.Error as error:
            raise self._abandon(error) from error
        for slot, running in self._digests.items():
            self._put(self._dbs.meta, layout.META_DIGEST + slot, running.digest().encode())
        self._digests.clear()
        self._put(self._dbs.meta, layout.META_TRANSACTION, number(txn_id))
        return txn_id

    def take(self) -> tuple[lmdb.Transaction[bytes], int, int] | None:
        """For `Environment.commit` alone: hands over the write transaction, if the turn wrote, with
        its id and the applied index that it leaves, and ends the turn. The cached values stay: they
        are what is about to be on the disk."""
        self._health.check()
        self._end_reading()
        try:
            self._check()
            if self._write_txn is None:
                return None
            applied_index = self.applied_index
            txn_id = self._finish()
        finally:
            self._failed = None
        write, self._write_txn = self._write_txn, None
        return write, txn_id, applied_index

    def end(self) -> None:
        """For `Environment` alone: gives up what the turn wrote, and what is cached of it."""
        self._end_reading()
        write, self._write_txn = self._write_txn, None
        self._failed = None
        self._ledger_size = None
        self._slot = None
        self._log_last = None
        self._digests.clear()
        if write is not None:
            write.abort()
