"""Up to where no snapshot in use, in any process, is older.

Owns the history of this process's commits and the reading of LMDB's reader table. Conservative:
what it does not know, it does not report.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from typing import Final

from quorate.core.errors import StorageDamagedError

MAX_COMMITS_KEPT: Final = 4_096


class Enforcement:
    """Which Raft index every reader is known to have reached."""

    def __init__(self, txn_id: int, applied_index: int) -> None:
        self._commits = [(txn_id, applied_index)]  # ascending
        self._through = 0

    def committed(self, txn_id: int, applied_index: int) -> None:
        """A commit of this process."""
        self._commits.append((txn_id, applied_index))
        if len(self._commits) > MAX_COMMITS_KEPT:
            # One reader holds everything back. A commit left out makes the report smaller, never
            # too large, because the one before it stands in.
            self._commits = self._commits[:-1:2] + self._commits[-1:]

    def through(self, oldest_reader: int | None) -> int:
        """The largest applied index that no reader is older than. `oldest_reader` is the smallest
        transaction in use, None when there is none.

        Never smaller than an earlier answer: a new reader begins at the newest commit.
        """
        keep = 0
        for position, (txn_id, applied_index) in enumerate(self._commits):
            if oldest_reader is not None and txn_id > oldest_reader:
                break
            keep = position
            self._through = max(self._through, applied_index)
        del self._commits[:keep]
        return self._through


def oldest_reader(
    table: str, *, ignored_pid: int | None = None, aside: Iterable[int] = ()
) -> int | None:
    """The smallest transaction id in the text of `lmdb.Environment.readers`; None: no reader.

    Two kinds of reader are left out, because nobody is permitted anything by what they read: those
    of the process `ignored_pid`, and one of this process for each of the transactions `aside`.

    A slot whose transaction is `-` is not in use. Raises `StorageDamagedError` for a table that is
    not what LMDB prints: to guess would be to claim that a revocation holds.
    """
    if table.startswith("(no "):
        return None
    heading, *rows = table.splitlines()
    if heading.split() != ["pid", "thread", "txnid"]:
        raise StorageDamagedError(f"unknown form of the reader table: {heading!r}")
    left_out = Counter((str(os.getpid()), str(txn_id)) for txn_id in aside)
    ids = []
    for row in rows:
        fields = row.split()
        if len(fields) != 3 or not (fields[2] == "-" or fields[2].isdecimal()):
            raise StorageDamagedError(f"unknown form of the reader table: {row!r}")
        pid, _, txn_id = fields
        if txn_id == "-" or pid == str(ignored_pid):
            continue
        if left_out[pid, txn_id]:
            left_out[pid, txn_id] -= 1
        else:
            ids.append(int(txn_id))
    return min(ids, default=None)
