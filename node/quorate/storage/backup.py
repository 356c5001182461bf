"""A copy of the environment, while it is in use.

Owns that a copy is whole or not there at all, that it can be opened, and that a failure of it does
no harm to the original. Does not own what may be done with a copy: a node that starts from one has
forgotten what it promised since (`Environment.mark_probation`).
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import lmdb

from quorate.core.errors import ConfigurationError, StorageError, StorageFullError
from quorate.storage import layout
from quorate.storage.health import is_full
from quorate.storage.layout import number
from quorate.storage.progress import Progress
from quorate.storage.seal import seal

WHAT: Final = "copy"
PROGRESS_EVERY_S: Final = 0.1
_PARTIAL: Final = ".partial"
_ROOM_TO_OPEN_BYTES: Final = 4 * 1024 * 1024


def copy(env: lmdb.Environment, to: Path, progress: Callable[[Progress], None]) -> None:
    """Copies the newest commit of `env` to the directory `to`, which is made by this, without the
    pages that are free. Durable when it returns; on an error nothing is there.

    Raises `ConfigurationError` for a directory that is there already or cannot be made,
    `StorageFullError` when there is no room, `StorageError` when the copy fails.
    """
    partial = to.with_name(to.name + _PARTIAL)
    _make(to, partial)
    try:
        data = partial / layout.DATA_FILE
        _write(env, data, progress)
        _own(partial, data.stat().st_size)
        (partial / layout.LOCK_FILE).unlink()
        _sync(partial)
        partial.rename(to)
        _sync(to.parent)
    except lmdb.Error as error:
        raise _failure(error, error.code, to) from error
    except OSError as error:
        raise _failure(error, error.errno, to) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _make(to: Path, partial: Path) -> None:
    if to.exists():
        raise ConfigurationError(f"{to} is there already", hint="name a directory that is not")
    try:
        partial.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise ConfigurationError(
            f"the copy cannot be made: {error}",
            hint="check the path; remove what an interrupted copy has left",
        ) from error


def _write(env: lmdb.Environment, data: Path, progress: Callable[[Progress], None]) -> None:
    """LMDB copies in one go: another thread waits for it, and this one looks at the file."""
    info = env.info()
    total = info["last_pgno"] * env.stat()["psize"]
    failures: list[lmdb.Error] = []
    descriptor = os.open(data, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def work() -> None:
        try:
            env.copyfd(descriptor, compact=True)
        except lmdb.Error as error:
            failures.append(error)

    worker = threading.Thread(target=work, name="copy")
    worker.start()
    try:
        while True:
            worker.join(PROGRESS_EVERY_S)
            progress(Progress(WHAT, os.fstat(descriptor).st_size, total))
            if not worker.is_alive():
                break
    finally:
        worker.join()  # the descriptor is its own until then, whatever `progress` has raised
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    if failures:
        raise failures[0]


def _own(directory: Path, size_bytes: int) -> None:
    """Two transactions of the copy's own, because LMDB counts them anew in a copy, and a store
    says in each of its two newest which it is (`quorate.storage.pages`)."""
    env = lmdb.open(
        os.fspath(directory), map_size=size_bytes + _ROOM_TO_OPEN_BYTES, max_dbs=1, mode=0o600
    )
    try:
        meta = env.open_db(b"meta", create=False)
        key = layout.META_TRANSACTION
        for _ in range(2):
            with env.begin(write=True) as txn:
                txn.put(key, seal(key, number(txn.id())), db=meta)
    finally:
        env.close()


def _failure(error: Exception, code: int | None, to: Path) -> StorageError:
    if is_full(code):
        return StorageFullError(f"no room for the copy in {to}: {error}", hint="free disk space")
    return StorageError(f"the copy to {to} failed: {error}", hint="check the disk it goes to")


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
