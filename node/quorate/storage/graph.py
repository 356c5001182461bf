"""The graph of lineage on disk: an LMDB environment of its own, beside that of the node.

Owns where it lies, and nothing of what it says (`quorate.core.graph`). It can be made anew from the
ledger at any time, so that whatever is wrong with it ends in its removal, never in that of the
node: no error of it is a `StorageError`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import lmdb

from quorate.core.errors import QuorateError
from quorate.core.store import Reader, Writer

DIRECTORY: Final = "lineage"
FORMAT: Final = b"1"
_FORMAT_KEY: Final = b"\x00format"
_OWNER_KEY: Final = b"\x00owner"
_MAX_READERS: Final = 64
LEAST_FREE_BYTES: Final = 256 * 1024 * 1024
"""Of the file system: what is left below this is for the node's own data."""


class GraphError(QuorateError):
    """The graph cannot be read or written. It can be made anew."""


class _View:
    """One transaction, as the core reads and writes the state (`quorate.core.store`)."""

    def __init__(self, transaction: lmdb.Transaction[bytes]) -> None:
        self._transaction = transaction

    def get(self, key: bytes) -> bytes | None:
        return self._transaction.get(key)

    def scan(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        with self._transaction.cursor() as cursor:
            is_there = cursor.set_range(max(prefix, start))
            while is_there and cursor.key().startswith(prefix):
                yield cursor.key(), cursor.value()
                is_there = cursor.next()

    def put(self, key: bytes, value: bytes) -> None:
        self._transaction.put(key, value)

    def delete(self, key: bytes) -> None:
        self._transaction.delete(key)


class GraphStore:
    """One writer and any number of readers, all of one process."""

    def __init__(self, env: lmdb.Environment, path: Path) -> None:
        """For `open` alone."""
        self._env = env
        self._path = path

    @classmethod
    def open(cls, data_dir: Path, owner: bytes, *, map_size_bytes: int) -> GraphStore:
        """The graph of the node whose data lies there. owner: of which ledger (its genesis hash);
        what is there of another, or of another format, or cannot be read, is removed first. Raises
        GraphError when none can be made."""
        path = data_dir / DIRECTORY
        try:
            store = cls._open(path, map_size_bytes)
            if not store._is_of(owner):
                store.close()
                with _told_files():
                    shutil.rmtree(path)
                store = cls._open(path, map_size_bytes)
                store._is_of(owner)
        except lmdb.Error:
            shutil.rmtree(path, ignore_errors=True)
            with _told():
                store = cls._open(path, map_size_bytes)
                store._is_of(owner)
        return store

    @classmethod
    def _open(cls, path: Path, map_size_bytes: int) -> GraphStore:
        with _told_files():
            path.mkdir(mode=0o700, exist_ok=True)
        env = lmdb.open(str(path), map_size=map_size_bytes, max_readers=_MAX_READERS, mode=0o600)
        return cls(env, path)

    def _is_of(self, owner: bytes) -> bool:
        """Whether it is this ledger's; a new one becomes it."""
        with self._env.begin(write=True) as transaction:
            said = transaction.get(_FORMAT_KEY), transaction.get(_OWNER_KEY)
            if said == (None, None) and transaction.stat()["entries"] == 0:
                transaction.put(_FORMAT_KEY, FORMAT)
                transaction.put(_OWNER_KEY, owner)
                return True
        return said == (FORMAT, owner)

    def is_roomy(self) -> bool:
        """Whether it may grow: the node's own data comes first. Raises GraphError."""
        with _told_files():
            return shutil.disk_usage(self._path).free >= LEAST_FREE_BYTES

    @contextmanager
    def read(self) -> Iterator[Reader]:
        """Raises GraphError."""
        with _told(), self._env.begin() as transaction:
            yield _View(transaction)

    def write(self, fill: Callable[[Writer], None]) -> None:
        """What `fill` writes, all of it durable, or none. Raises GraphError, and what it raises."""
        with _told(), self._env.begin(write=True) as transaction:
            fill(_View(transaction))

    def clear(self) -> None:
        """Empties it, but for whose it is. Raises GraphError."""
        with _told(), self._env.begin(write=True) as transaction:
            said = transaction.get(_FORMAT_KEY) or b"", transaction.get(_OWNER_KEY) or b""
            transaction.drop(self._env.open_db(None, txn=transaction), delete=False)
            transaction.put(_FORMAT_KEY, said[0])
            transaction.put(_OWNER_KEY, said[1])

    def close(self) -> None:
        self._env.close()


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except lmdb.Error as error:
        raise GraphError(f"the graph of lineage: {error}") from error


@contextmanager
def _told_files() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise GraphError(f"the graph of lineage: {error.strerror}") from error
