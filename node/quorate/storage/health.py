"""What a failure of LMDB means: full, or damaged.

Owns the mapping to typed errors, and the rule that a damaged environment is not used again: after
a failed fsync nobody knows what is on the disk, and a second fsync that succeeds proves nothing of
what was written before the first. (`quorate.storage.room` has the one failure that may be such a
fsync and is not taken for damage, and why nothing is then believed of it.)
"""

from __future__ import annotations

import errno
from typing import Final

import lmdb

from quorate.core.errors import StorageDamagedError, StorageError, StorageFullError

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def is_full(code: int | None) -> bool:
    """Whether an errno says that there is no room."""
    return code in _FULL


class Health:
    """Whether one environment may be used."""

    __slots__ = ("_problem",)

    def __init__(self) -> None:
        self._problem = ""

    def check(self) -> None:
        """Raises `StorageDamagedError` once the environment has been found damaged, or closed."""
        if self._problem:
            raise StorageDamagedError(self._problem)

    def condemn(self, problem: str) -> StorageDamagedError:
        """The environment is not used from here on. Returns the error to raise."""
        self._problem = self._problem or problem
        return StorageDamagedError(problem)

    def failure(self, error: lmdb.Error) -> StorageError:
        """The typed error for one of LMDB's. Anything not known to be harmless is damage."""
        if error.code == 0:
            # The binding's own: a transaction, or a scan of it, was used after its end.
            raise AssertionError(str(error)) from error
        if isinstance(error, lmdb.MapFullError):
            return StorageFullError(f"the map of the environment is full ({error})")
        if is_full(error.code):
            return StorageFullError(f"the disk is full ({error})")
        if isinstance(error, lmdb.ReadersFullError):
            return StorageError(
                f"too many snapshots are open at once ({error})",
                hint="run fewer edge processes, or bound the calls that each serves at once",
            )
        return self.condemn(f"the store failed: {error}")
