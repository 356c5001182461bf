"""What lies where in the environment: databases, keys, and the names in `meta`.

A change here that an older node would misread raises `FORMAT`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import lmdb

FORMAT: Final = 2
MAX_READERS: Final = 512
"""Slots of LMDB's reader table, over all processes; one is held a thread or task that reads."""
DATA_FILE: Final = "data.mdb"
LOCK_FILE: Final = "lock.mdb"
LOCK_FILE_BYTES: Final = 192 + (MAX_READERS - 1) * 64
"""As LMDB 0.9 computes it: a header with the first slot, and a cache line a slot."""
MAX_STATE_KEY_BYTES: Final = 511
"""LMDB's own limit."""
MAX_DENIALS_KEPT: Final = 100_000
"""The journal of denials drops its oldest record beyond this: it must not fill the disk while the
quorum is lost."""

DATABASES: Final = (b"log", b"meta", b"state", b"ledger", b"tree", b"denials", b"configurations")

BASE_COMMAND: Final = b"\x01"
"""The command of a log's base after `log_reset`: an entry that applies nothing."""

# Names in `meta`; numbers are 8 bytes, big-endian.
META_FORMAT: Final = b"format"
META_GENESIS_HASH: Final = b"genesis_hash"
META_NODE_ID: Final = b"node_id"
META_APPLIED: Final = b"applied_index"
META_LEDGER_SIZE: Final = b"ledger_size"
META_TERM: Final = b"term"
META_VOTED_FOR: Final = b"voted_for"
META_COMMIT: Final = b"commit_index"
META_DENIALS: Final = b"denials_appended"
META_OTHER: Final = b"other/"
"""Begins the names of `put_meta`, so that none of them meets one of the names above."""


@dataclass(frozen=True, slots=True)
class Databases:
    """The handles of the named databases of one open environment."""

    log: lmdb._Database
    meta: lmdb._Database
    state: lmdb._Database
    ledger: lmdb._Database
    tree: lmdb._Database
    denials: lmdb._Database
    configurations: lmdb._Database


def number(value: int) -> bytes:
    """8 bytes, big-endian: sorts as the number does. Raises `OverflowError` outside [0, 2^64)."""
    return value.to_bytes(8, "big")


def tree_key(level: int, index: int) -> bytes:
    return bytes((level,)) + index.to_bytes(8, "big")
