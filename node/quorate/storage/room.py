"""How much room there is, and whether a commit failed for want of it where LMDB does not say so.

A file system that fills up takes a write in part before it refuses one, and of a write that was
taken in part LMDB says EIO (mdb_page_flush: "short write, filesystem full?"). It says the same when
the device fails, at a write or at the sync of the data (mdb_env_sync): nothing tells the three
apart. Where there is room the store is stopped; where there is none, the turn is void and tried
again. That relies on no sync that has failed: the pages of the failed transaction were free before
it and are free again, no meta page names them, and the next transaction writes each page that it
names anew, whole, before it syncs (ADR 0008). It would not hold with `writemap`.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Final

import lmdb

from quorate.storage.health import is_full

ROOM_BYTES: Final = 4 * 1024 * 1024
"""More than LMDB writes at once: 64 pages or values, of which an entry is the largest."""
_PROBE: Final = "room.probe"


def was_short_write(env: lmdb.Environment, error: lmdb.Error) -> bool:
    """Whether the commit that failed with `error`, in an environment that `goes_on`, is to be taken
    as one without room: the file system has none now. In doubt it has: the store is then stopped,
    which is the safe side."""
    return error.code == errno.EIO and not _has_room(Path(env.path()))


def goes_on(env: lmdb.Environment) -> bool:
    """Whether LMDB goes on with the environment after a commit that has failed: it does not when
    the page that makes a transaction the newest was in doubt, for whatever reason. Else the
    transaction is as if it had never been."""
    try:
        with env.begin(write=True) as txn:
            txn.abort()
    except lmdb.Error:
        return False
    return True


def free_bytes(directory: Path) -> int:
    """What the file system has left for this process."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def _has_room(directory: Path) -> bool:
    probe = directory / _PROBE
    try:
        descriptor = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, ROOM_BYTES)
        finally:
            os.close(descriptor)
    except OSError as problem:
        return not is_full(problem.errno)
    finally:
        with contextlib.suppress(OSError):  # not even room for the file, perhaps
            probe.unlink()
    return True
