"""What lies where in the environment: databases, keys, and the names in `meta`.

Every value is sealed (`quorate.storage.seal`), but for those of `ledger`, which the tree vouches
for. A change here that an older node would misread raises `FORMAT`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import lmdb

FORMAT: Final = 3
MAX_READERS: Final = 512
"""Slots of LMDB's reader table, over all processes; one is held a thread or task that reads."""
DATA_FILE: Final = "data.mdb"
LOCK_FILE: Final = "lock.mdb"
BYSTANDER_FILE: Final = "bystander.lock"
LOCK_FILE_BYTES: Final = 192 + (MAX_READERS - 1) * 64
"""As LMDB 0.9 computes it: a header with the first slot, and a cache line a slot."""
MAX_STATE_KEY_BYTES: Final = 511
"""LMDB's own limit."""
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
META_OUTBOX: Final = b"outbox_appended"
META_TRANSACTION: Final = b"transaction"
"""LMDB's id of the transaction that wrote it: every one does. It ties what a transaction left to
the page that makes it the newest."""
META_SLOT: Final = b"state_slot"
"""Which slot the state is in; absent: the first."""
META_DIGEST: Final = b"state_digest/"
"""Begins the names of the digests of the slots."""
META_STAGING: Final = b"staging"
"""The snapshot that is being received (`quorate.storage.receiving`)."""
META_LEDGER_STAGED: Final = b"ledger_staged"
"""How far entries of the ledger lie in place, which nobody reads beyond `ledger_size`."""
META_PROBATION: Final = b"probation"
META_OTHER: Final = b"other/"
"""Begins the names of `put_meta`, so that none of them meets one of the names above."""

SLOTS: Final = (b"a", b"b")

META_NAMES: Final = frozenset(
    {
        META_FORMAT,
        META_GENESIS_HASH,
        META_NODE_ID,
        META_APPLIED,
        META_LEDGER_SIZE,
        META_TERM,
        META_VOTED_FOR,
        META_COMMIT,
        META_OUTBOX,
        META_TRANSACTION,
        META_SLOT,
        *(META_DIGEST + slot for slot in SLOTS),
        META_STAGING,
        META_LEDGER_STAGED,
        META_PROBATION,
    }
)
"""All of them, but for those of `put_meta`."""


@dataclass(frozen=True, slots=True)
class Table:
    """One named database of the open environment."""

    name: str
    handle: lmdb._Database


@dataclass(frozen=True, slots=True)
class Databases:
    """All of them. A fresh environment gets all in one transaction, so that one that has some of
    them only is damaged."""

    log: Table
    meta: Table
    state_a: Table
    state_b: Table
    ledger: Table
    tree: Table
    outbox: Table
    configurations: Table

    def state(self, slot: bytes) -> Table:
        return self.state_a if slot == SLOTS[0] else self.state_b


DATABASES: Final = tuple(field.name.encode() for field in fields(Databases))
DATABASES_OF_OLDER_FORMATS: Final = frozenset({b"state", b"denials"})
"""Are in environments of formats 1 and 2, and in none of this."""


def number(value: int) -> bytes:
    """8 bytes, big-endian: sorts as the number does. Raises `OverflowError` outside [0, 2^64)."""
    return value.to_bytes(8, "big")


def tree_key(level: int, index: int) -> bytes:
    return bytes((level,)) + index.to_bytes(8, "big")


def key_text(table: Table, key: bytes) -> str:
    """A key as people read it, to name what is damaged."""
    if table.name == "tree" and len(key) == len(tree_key(0, 0)):
        return f"node ({key[0]}, {int.from_bytes(key[1:], 'big')})"
    if table.name in ("log", "ledger", "outbox", "configurations") and len(key) == len(number(0)):
        return f"entry {int.from_bytes(key, 'big')}"
    return "key " + ascii(key)[1:]
