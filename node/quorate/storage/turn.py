"""Writing: the one write transaction that a turn of the node's loop fills.

Owns what a write is made of and the values cached between writes. Does not decide when a turn ends
(see `quorate.storage.environment.Environment.commit`), and never commits by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import lmdb

from quorate.core.errors import StorageError
from quorate.core.store import Writer
from quorate.proofs import merkle
from quorate.storage import layout
from quorate.storage.health import Health
from quorate.storage.layout import Databases, number, tree_key
from quorate.storage.reads import Reads, StateReader


class Turn(Reads):
    """The current turn: reads see the writes before them; all of it is committed, or none.

    There is one object for the life of the environment. It reads through a read transaction until
    its first write: a turn that wrote nothing costs no write transaction and no fsync.

    A write that fails abandons the turn at once, and the turn then refuses everything, with the
    same error, until `Environment.abort` (or `commit`, which raises it): otherwise whoever went on
    after the error would commit the second half of a turn without its first.

    Used from one thread: LMDB's write lock belongs to the thread that took it.
    """

    __slots__ = ("_begin", "_failed", "_ledger_size", "_log_last", "_read", "_write")

    def __init__(
        self,
        begin: Callable[[bool], lmdb.Transaction[bytes]],
        dbs: Databases,
        health: Health,
    ) -> None:
        super().__init__(dbs, health)
        self._begin = begin
        self._read: lmdb.Transaction[bytes] | None = None
        self._write: lmdb.Transaction[bytes] | None = None
        self._failed: StorageError | None = None
        self._ledger_size: int | None = None  # None: to be read from the disk
        self._log_last: tuple[int, int] | None = None

    # -- the state ----------------------------------------------------------------------------

    @property
    def state(self) -> Writer:
        return StateWriter(self)

    def set_applied(self, index: int) -> None:
        """The state and the ledger of this turn reflect the Raft log up to `index`."""
        assert index >= self.applied_index, "an entry is applied once"
        self._put(self._dbs.meta, layout.META_APPLIED, number(index))

    # -- the ledger ---------------------------------------------------------------------------

    @property
    def ledger_size(self) -> int:
        self._check()
        if self._ledger_size is None:
            self._ledger_size = self._number(layout.META_LEDGER_SIZE)
        return self._ledger_size

    def append_ledger(self, entry: bytes) -> int:
        """Appends an entry and its leaf; returns its seq."""
        seq = self.ledger_size
        self._put(self._dbs.ledger, number(seq), entry, append=True)
        merkle.append(self, seq, merkle.leaf_hash(entry))
        self._put(self._dbs.meta, layout.META_LEDGER_SIZE, number(seq + 1))
        self._ledger_size = seq + 1
        return seq

    def put_node(self, level: int, index: int, digest: bytes) -> None:
        """A node of the tree (`quorate.proofs.merkle.NodeStore`)."""
        self._put(self._dbs.tree, tree_key(level, index), digest)

    # -- the Raft log -------------------------------------------------------------------------

    def log_last(self) -> tuple[int, int]:
        self._check()
        if self._log_last is None:
            self._log_last = super().log_last()
        return self._log_last

    def log_append(self, index: int, term: int, command: bytes) -> None:
        """Appends an entry; `index` follows the last one. An empty log begins anywhere."""
        last, _ = self.log_last()
        assert index > 0, "the log begins at 1"
        assert last in (0, index - 1), "the log has no gaps"
        self._put(self._dbs.log, number(index), number(term) + command, append=True)
        self._log_last = index, term

    def log_truncate_from(self, index: int) -> None:
        """Removes the entries from `index` on."""
        self._delete_range(self._dbs.log, index, None)
        self._log_last = None

    def log_drop_below(self, index: int, most: int) -> int:
        """Removes at most `most` entries below `index` from the front of the log, but never its
        last one; returns how many."""
        last, _ = self.log_last()
        first = self.log_first()
        end = min(index, first + most, last)
        if end <= first:
            return 0
        self._delete_range(self._dbs.log, first, end)
        return end - first

    def log_reset(self, index: int, term: int) -> None:
        """The log becomes one entry that applies nothing: the base behind an installed snapshot."""
        assert index >= self.log_first(), "the log's base never moves back"
        self._clear(self._dbs.log)
        self._log_last = 0, 0
        self.log_append(index, term, layout.BASE_COMMAND)

    def put_configuration(self, index: int, data: bytes) -> None:
        """Keeps the configuration of the log's entry at `index` beside the log."""
        self._put(self._dbs.configurations, number(index), data)

    def drop_configurations_from(self, index: int) -> None:
        self._delete_range(self._dbs.configurations, index, None)

    def drop_configurations_below(self, index: int) -> None:
        self._delete_range(self._dbs.configurations, 0, index)

    def set_term_and_vote(self, term: int, voted_for: str | None) -> None:
        """Both at once, because a vote means nothing without its term."""
        assert term >= self.term(), "a term is never taken back"
        self._put(self._dbs.meta, layout.META_TERM, number(term))
        self._put(self._dbs.meta, layout.META_VOTED_FOR, (voted_for or "").encode())

    def set_commit_index(self, index: int) -> None:
        self._put(self._dbs.meta, layout.META_COMMIT, number(index))

    # -- the node's own -----------------------------------------------------------------------

    def put_meta(self, name: str, value: bytes) -> None:
        """Keeps a value of the node's own under `name`."""
        self._put(self._dbs.meta, layout.META_OTHER + name.encode(), value)

    def append_denial(self, record: bytes) -> int:
        """Appends to the journal of denials; returns the record's number, counted from 0. Beyond
        `MAX_DENIALS_KEPT` the oldest record goes."""
        seq = self._number(layout.META_DENIALS)
        self._put(self._dbs.denials, number(seq), record, append=True)
        self._put(self._dbs.meta, layout.META_DENIALS, number(seq + 1))
        self.forget_denials(seq - layout.MAX_DENIALS_KEPT)
        return seq

    def forget_denials(self, through: int) -> None:
        """Removes the records of the journal of denials up to number `through`."""
        if through >= 0:
            self._delete_range(self._dbs.denials, 0, through + 1)

    # -- beneath ------------------------------------------------------------------------------

    @property
    def writes(self) -> bool:
        """Whether there is something to commit."""
        return self._write is not None

    def _check(self) -> None:
        self._health.check()
        if self._failed is not None:
            raise self._failed

    def _transaction(self) -> lmdb.Transaction[bytes]:
        self._check()
        if self._write is not None:
            return self._write
        if self._read is None:
            self._read = self._started(write=False)
        return self._read

    def _writing(self) -> lmdb.Transaction[bytes]:
        """The write transaction. There is one writer, so it begins at what the reads so far saw."""
        self._check()
        if self._write is None:
            self._end_reading()
            self._write = self._started(write=True)
        return self._write

    def _started(self, *, write: bool) -> lmdb.Transaction[bytes]:
        try:
            return self._begin(write)
        except lmdb.Error as error:
            raise self._health.failure(error) from error

    def _end_reading(self) -> None:
        if self._read is not None:
            self._read.abort()
            self._read = None

    def _put(self, db: lmdb._Database, key: bytes, value: bytes, *, append: bool = False) -> None:
        try:
            done = self._writing().put(key, value, db=db, append=append)
        except lmdb.Error as error:
            raise self._abandon(error) from error
        if not done:  # there is a key that is not below the one to append
            raise self._health.condemn("the store holds more than its own count says")

    def _delete(self, db: lmdb._Database, key: bytes) -> None:
        try:
            self._writing().delete(key, db=db)
        except lmdb.Error as error:
            raise self._abandon(error) from error

    def _delete_range(self, db: lmdb._Database, first: int, last_exclusive: int | None) -> None:
        try:
            cursor = self._writing().cursor(db=db)
            found = cursor.set_range(number(first))
            while found:
                key = int.from_bytes(cursor.key(), "big")
                if last_exclusive is not None and key >= last_exclusive:
                    return
                found = cursor.delete()
        except lmdb.Error as error:
            raise self._abandon(error) from error

    def _clear(self, db: lmdb._Database) -> None:
        """Empties a database: the pages are freed, not the entries one by one."""
        try:
            self._writing().drop(db, delete=False)
        except lmdb.Error as error:
            raise self._abandon(error) from error

    def _abandon(self, error: lmdb.Error) -> StorageError:
        failure = self._health.failure(error)
        self.end()
        self._failed = failure
        return failure

    def take(self) -> lmdb.Transaction[bytes] | None:
        """For `Environment.commit` alone: hands over the write transaction, if the turn wrote, and
        ends the turn. The cached values stay: they are what is about to be on the disk."""
        self._health.check()
        self._end_reading()
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed
        write, self._write = self._write, None
        return write

    def end(self) -> None:
        """For `Environment` alone: gives up what the turn wrote, and what is cached of it."""
        self._end_reading()
        write, self._write = self._write, None
        self._failed = None
        self._ledger_size = None
        self._log_last = None
        if write is not None:
            write.abort()


class StateWriter(StateReader):
    """The state of the current turn, as `quorate.core.store.Writer`."""

    __slots__ = ("_turn",)

    def __init__(self, turn: Turn) -> None:
        super().__init__(turn)
        self._turn = turn

    def scan(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        # A scan of a read transaction would end when the first write begins the write transaction.
        self._turn._writing()
        return super().scan(prefix, start)

    def put(self, key: bytes, value: bytes) -> None:
        assert 0 < len(key) <= layout.MAX_STATE_KEY_BYTES, "a key of the state has 1 to 511 bytes"
        self._turn._put(self._turn._dbs.state, key, value)

    def delete(self, key: bytes) -> None:
        if 0 < len(key) <= layout.MAX_STATE_KEY_BYTES:
            self._turn._delete(self._turn._dbs.state, key)
