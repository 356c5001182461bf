"""The environment: opening it, whose it is, and when a turn becomes durable.

Owns the life of the LMDB environment. Durability is LMDB's own: no flag that weakens it is set, so
that one commit is one transaction, its data synced before the page that makes it the newest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Final

import lmdb

from quorate.core.errors import (
    ConfigurationError,
    QuorateError,
    StorageDamagedError,
    StorageError,
    StorageFullError,
)
from quorate.storage import backup, bystander, enforced, layout, pages, room, verification
from quorate.storage.health import Health, is_full
from quorate.storage.layout import Databases, Table, number
from quorate.storage.progress import Progress
from quorate.storage.snapshot import Snapshot
from quorate.storage.turn import Turn

_SPARE_READ_TRANSACTIONS: Final = 16
_TRIES_TO_PIN: Final = 100


class Environment:
    """A node's environment: one writing process (core), any number of reading ones (edges).

    In one process it is opened once at a time: LMDB's locks belong to the process. The writer is
    used from one thread, snapshots from any.
    """

    def __init__(
        self, env: lmdb.Environment, dbs: Databases, health: Health, *, read_only: bool
    ) -> None:
        """For `open` alone."""
        self._lmdb = env
        self._dbs = dbs
        self._health = health
        self._turn = Turn(self._begin, dbs, health)
        self._read_only = read_only
        self._path = Path(env.path())
        self._aside_txns: list[int] = []
        self.commits = 0
        """How many turns were made durable: one fsync each."""
        with self.read() as snapshot:
            version = snapshot.format_version()
            if version not in (None, layout.FORMAT):
                raise ConfigurationError(
                    f"the data directory has format {version}, this version knows {layout.FORMAT}",
                    hint="run the version of Quorate that wrote it, or start from an empty one",
                )
            self._enforcement = enforced.Enforcement(snapshot.txn_id, snapshot.applied_index)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        map_size_bytes: int,
        read_only: bool = False,
        progress: Callable[[Progress], None] = lambda _: None,
    ) -> Environment:
        """Opens the environment in the directory `path`; makes it, unless `read_only`.

        To write, it walks the pages of the file first (some 300 MB a second), because LMDB trusts
        them; `progress` is told. To read alone is for a process beside the one that has done so.

        Raises `ConfigurationError` for a directory that cannot be used as it is,
        `StorageFullError` when there is no room for the first page, `StorageDamagedError` for
        files that are not a whole LMDB environment.
        """
        if not read_only:
            _prepare(path)
        elif not (path / layout.DATA_FILE).is_file():
            raise ConfigurationError(
                f"there is no store in {path}", hint="start the node's core process first"
            )
        _refuse_emptied(path)
        if not read_only and (path / layout.DATA_FILE).exists():
            for step in pages.check_file(path / layout.DATA_FILE):
                progress(step)
        health = Health()
        try:
            env = _open_files(path, map_size_bytes, read_only=read_only)
        except lmdb.Error as error:
            raise health.failure(error) from error
        try:
            dbs = _open_databases(env, read_only=read_only)
            if not read_only:
                _secure(path)
            return cls(env, dbs, health, read_only=read_only)
        except lmdb.NotFoundError as error:
            env.close()
            raise ConfigurationError(
                f"the store in {path} is not set up yet", hint="start the node's core process first"
            ) from error
        except lmdb.Error as error:
            env.close()
            raise health.failure(error) from error
        except QuorateError:
            env.close()
            raise

    # -- whose it is --------------------------------------------------------------------------

    def initialise(self, genesis_hash: bytes, node_id: str) -> None:
        """Makes an empty environment that of this node and federation, durably; does what
        `verify_identity` does for one that belongs to a node already."""
        assert not self._turn.writes
        if self._turn.identity() is None:
            self._turn._put(self._dbs.meta, layout.META_FORMAT, number(layout.FORMAT))
            self._turn._put(self._dbs.meta, layout.META_GENESIS_HASH, genesis_hash)
            self._turn._put(self._dbs.meta, layout.META_NODE_ID, node_id.encode())
            self.commit()
        self.verify_identity(genesis_hash, node_id)

    def verify_identity(self, genesis_hash: bytes, node_id: str) -> None:
        """Raises `ConfigurationError` when the environment is another federation's or node's."""
        with self.read() as snapshot:
            identity = snapshot.identity()
        if identity is None:
            raise ConfigurationError(
                "the data directory belongs to no node yet",
                hint="start the node's core process first",
            )
        if identity[0] != genesis_hash:
            raise ConfigurationError(
                "the data directory belongs to another federation",
                hint="a new genesis needs an empty data directory",
            )
        if identity[1] != node_id:
            raise ConfigurationError(
                f"the data directory belongs to {identity[1]}",
                hint="each node needs a data directory of its own; never start it from a copy",
            )

    # -- reading ------------------------------------------------------------------------------

    def read(self) -> Snapshot:
        """A snapshot of the newest commit: `with environment.read() as snapshot`."""
        return Snapshot(self._lmdb, self._dbs, self._health)

    def read_aside(self) -> Snapshot:
        """As `read`, for what takes long and permits nobody anything, such as sending a snapshot to
        another node: no revocation waits for it (`enforced_through`)."""
        return Snapshot(self._lmdb, self._dbs, self._health, self._aside_txns)

    # -- writing ------------------------------------------------------------------------------

    @property
    def turn(self) -> Turn:
        """What is being written. The same object always; begun by its first use."""
        assert not self._read_only, "an edge never writes"
        return self._turn

    def commit(self) -> bool:
        """Makes the turn durable; False when it wrote nothing. What depends on it may be sent when
        this has returned, and not before.

        Raises `StorageFullError` when there was no room: nothing of the turn was written, and the
        next turn may be tried. Raises `StorageDamagedError` for every other failure, and for
        everything after it: whether the turn is on the disk is then unknown.
        """
        taken = self._turn.take()
        if taken is None:
            return False
        txn, txn_id, applied_index = taken
        try:
            txn.commit()
        except lmdb.Error as error:
            txn.abort()  # LMDB has done so already; this tells the binding
            self._turn.end()
            if not room.goes_on(self._lmdb):
                raise self._health.condemn(f"the store failed: {error}") from error
            if room.was_short_write(self._lmdb, error):
                raise StorageFullError(
                    f"the disk is full (a write was cut short: {error})"
                ) from error
            raise self._health.failure(error) from error
        self.commits += 1
        self._enforcement.committed(txn_id, applied_index)
        return True

    def abort(self) -> None:
        """Gives up the turn: whatever it wrote is as if it had never been."""
        self._turn.end()

    def room_bytes(self) -> int:
        """By how much the file can grow yet: the rest of the map, or of the disk. There may be free
        pages in it beside."""
        self._health.check()
        info = self._lmdb.info()
        page_bytes = self._lmdb.stat()["psize"]
        rest_bytes = info["map_size"] - (info["last_pgno"] + 1) * page_bytes
        return max(0, min(rest_bytes, room.free_bytes(self._path)))

    # -- whether it holds together --------------------------------------------------------------

    def check(self) -> Iterator[Progress]:
        """What a node does before it uses its store: reads everything but the ledger, and of that
        the newest entries. A generator; between its slices the caller may do something else.

        Raises `StorageDamagedError`, which names database and key.
        """
        with self.read() as snapshot:
            yield from verification.check(snapshot, newest_entries=verification.NEWEST_ENTRIES)

    def verify(self) -> Iterator[Progress]:
        """Reads everything: each page, each value, the ledger against its tree, and the tree
        computed anew. As `check` otherwise.

        Of a store that is in use it shows one commit, the newest at the beginning. What another
        process verifies, if it has opened the store to read alone, holds up nobody.
        """
        with self._pinned() as (snapshot, structure), self._aside():
            yield from structure
            yield from verification.check(snapshot, newest_entries=None)

    def backup(self, to: Path, progress: Callable[[Progress], None] = lambda _: None) -> None:
        """Copies the newest commit to the new directory `to`, which nobody else may read; the
        writer goes on meanwhile. See `quorate.storage.backup.copy`."""
        with self.read(), self._aside():
            backup.copy(self._lmdb, to, progress)

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """A process that only reads, and does this, decides nothing meanwhile. In a snapshot:
        LMDB lets no two living processes read under one process id, of whichever containers."""
        if not self._read_only:
            yield
            return
        with bystander.declared(self._path):
            yield

    @contextmanager
    def _pinned(self) -> Iterator[tuple[Snapshot, Iterator[Progress]]]:
        """A snapshot, and the walk of its pages, begun before they could be overtaken."""
        for _ in range(_TRIES_TO_PIN):
            with self.read_aside() as snapshot:
                walk = pages.check_file(self._path / layout.DATA_FILE, pinned=snapshot.txn_id)
                try:
                    first = next(walk)
                except pages.OvertakenError:
                    continue
                yield snapshot, chain((first,), walk)
                return
        raise StorageError("the store is written too fast to be verified", hint="try again")

    # -- what it may have forgotten -----------------------------------------------------------

    def mark_probation(self, stage: str) -> None:
        """Says durably that this store may have forgotten what its node promised: it was restored,
        or began anew. `stage` is kept as it is, for `Reads.probation`."""
        assert stage, "no stage is the end of it"
        self._set_probation(stage)

    def clear_probation(self) -> None:
        """Says durably that nothing which may have been forgotten counts any more."""
        self._set_probation("")

    def probation(self) -> str:
        """The stage that was marked; empty: none."""
        with self.read() as snapshot:
            return snapshot.probation()

    def _set_probation(self, stage: str) -> None:
        assert not self._turn.writes, "by itself, and at once"
        self._turn.set_probation(stage)
        self.commit()

    # -- who still reads what -----------------------------------------------------------------

    def last_txn_id(self) -> int:
        """The transaction id of the newest commit."""
        self._health.check()
        return self._lmdb.info()["last_txnid"]

    def oldest_reader_txn(self) -> int | None:
        """The oldest transaction that any process still reads; None when nobody reads.

        A reader that is just beginning may not show yet; LMDB makes it begin at the newest commit.
        """
        return enforced.oldest_reader(self._readers())

    def enforced_through(self) -> int:
        """The largest Raft index such that no reader of any process uses an older snapshot; what
        is applied but not yet committed does not count. The writer's to ask."""
        assert not self._read_only, "the writer alone knows its commits"
        oldest = self.oldest_reader_txn()
        if oldest is not None and oldest < self.last_txn_id():
            # Somebody holds it back: perhaps a process that died and left its slot taken.
            try:
                self._lmdb.reader_check()
            except lmdb.Error as error:
                raise self._health.failure(error) from error
            table = self._readers()
            # In this order: who is in the table and declared now was declared, or is dead; and
            # what began aside since the table was read shows the newest commit.
            pid = bystander.declared_pid(self._path)
            oldest = enforced.oldest_reader(table, ignored_pid=pid, aside=self._aside_txns)
        return self._enforcement.through(oldest)

    def _readers(self) -> str:
        """LMDB's reader table, of all processes."""
        self._health.check()
        try:
            return self._lmdb.readers()
        except lmdb.Error as error:
            raise self._health.failure(error) from error

    def close(self) -> None:
        """Gives up the turn and closes the files. Snapshots must have ended."""
        self._turn.end()
        self._health.condemn("the store is closed")
        self._lmdb.close()

    # -- beneath ------------------------------------------------------------------------------

    def _begin(self, write: bool) -> lmdb.Transaction[bytes]:
        return self._lmdb.begin(write=write, buffers=False)


def _open_files(path: Path, map_size_bytes: int, *, read_only: bool) -> lmdb.Environment:
    """No flag that trades durability for speed: LMDB then syncs the data before the meta page."""
    return lmdb.open(
        os.fspath(path),
        map_size=map_size_bytes,
        readonly=read_only,
        create=not read_only,
        lock=True,
        mode=0o600,
        max_readers=layout.MAX_READERS,
        max_dbs=len(layout.DATABASES),
        max_spare_txns=_SPARE_READ_TRANSACTIONS,
        readahead=False,  # lookups are at random: reading ahead would push other pages out
    )


def _open_databases(env: lmdb.Environment, *, read_only: bool) -> Databases:
    names = [field.name for field in fields(Databases)]
    if not read_only:
        with env.begin(write=True) as txn:  # a crash leaves all of them, or none
            for name in names:
                env.open_db(name.encode(), txn=txn)
    return Databases(
        **{name: Table(name, env.open_db(name.encode(), create=False)) for name in names}
    )


def _refuse_emptied(path: Path) -> None:
    """LMDB takes an empty file for a new store. Here it may be one that has lost its votes."""
    data = path / layout.DATA_FILE
    if data.is_file() and data.stat().st_size == 0:
        raise StorageDamagedError(
            f"{data} is empty",
            hint="if this node has never run, remove the file; else its store is lost, and a voter "
            "that starts anew can break what it has promised",
        )


def _prepare(path: Path) -> None:
    """Makes the directory, and room for the reader table. LMDB maps that file without giving it
    blocks: on a full disk, the first reader to touch a new page of it would die of SIGBUS.

    Before LMDB opens the file: closing a descriptor of it drops this process's locks on it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(path / layout.LOCK_FILE, flags, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, layout.LOCK_FILE_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        if is_full(error.errno):
            raise StorageFullError(f"no room for the store in {path}: {error}") from error
        raise ConfigurationError(
            f"the data directory cannot be made: {error}", hint="check its path and its owner"
        ) from error


def _secure(path: Path) -> None:
    """Keeps others out, and makes the files' names durable: LMDB syncs the files alone."""
    path.chmod(0o700)
    for name in (layout.DATA_FILE, layout.LOCK_FILE):
        (path / name).chmod(0o600)
    for directory in (path, path.parent):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
