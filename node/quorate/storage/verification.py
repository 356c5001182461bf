"""Whether a store holds together: every database against its checksums, counts and digests.

Owns the comparison, of one snapshot, in slices between which the caller may do something else.
Does not own the pages that the databases lie in (`quorate.storage.pages`), nor the checksums and
leaves that every single read is held to (`quorate.storage.reads`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from quorate.core.errors import StorageDamagedError
from quorate.proofs import merkle
from quorate.storage import layout
from quorate.storage.layout import Table, key_text, number
from quorate.storage.progress import Progress
from quorate.storage.seal import RunningDigest, StateDigest
from quorate.storage.snapshot import Snapshot

ITEMS_PER_SLICE: Final = 1_000
NEWEST_ENTRIES: Final = 1_000
"""How many entries of the ledger a quick check reads: those that the next proofs are about."""


def check(snapshot: Snapshot, *, newest_entries: int | None) -> Iterator[Progress]:
    """Reads everything but the ledger, and of that the newest entries; None: all of it, and the
    whole tree computed anew.

    Raises `StorageDamagedError` that names a database and a key.
    """
    yield from _check_names(snapshot)
    yield from _check_log(snapshot)
    yield from _check_outbox(snapshot)
    for slot in layout.SLOTS:
        yield from _check_state(snapshot, slot)
    yield from _check_counts(snapshot)
    if newest_entries is None:
        yield from _check_ledger(snapshot)
    else:
        yield from _check_newest(snapshot, newest_entries)


def _damaged(snapshot: Snapshot, table: Table, problem: str) -> StorageDamagedError:
    return snapshot._health.condemn(f"database {table.name}: {problem}")


def _check_names(snapshot: Snapshot) -> Iterator[Progress]:
    """`meta` has known names only, and the numbers that go together do."""
    meta = snapshot._dbs.meta
    for name, _ in snapshot._bodies(meta, b""):
        if name not in layout.META_NAMES and not name.startswith(layout.META_OTHER):
            raise _damaged(snapshot, meta, f"{key_text(meta, name)} is no name of this format")
    if snapshot._live_slot() not in layout.SLOTS:
        raise _damaged(snapshot, meta, "the state is in a slot that does not exist")
    yield Progress("meta", 1, 1)


def _check_log(snapshot: Snapshot) -> Iterator[Progress]:
    """The log and the configurations beside it."""
    log, expected, least = snapshot._dbs.log, snapshot.log_first(), 0
    total = snapshot._count(log)
    for done, (key, body) in enumerate(snapshot._bodies(log, b""), start=1):
        if key != number(expected):
            raise _damaged(snapshot, log, f"entry {expected} is missing")
        term = int.from_bytes(body[:8], "big")
        if term < least:
            raise _damaged(snapshot, log, f"{key_text(log, key)} has an older term than the last")
        expected, least = expected + 1, term
        if done % ITEMS_PER_SLICE == 0:
            yield Progress(log.name, done, total)
    snapshot.configurations()
    yield Progress(log.name, total, total)


def _check_outbox(snapshot: Snapshot) -> Iterator[Progress]:
    """The outbox has no gap and ends where it should."""
    table = snapshot._dbs.outbox
    total = snapshot._count(table)
    expected: int | None = None
    for done, (seq, _) in enumerate(snapshot._ascending(table, 0), start=1):
        if expected not in (None, seq):
            raise _damaged(snapshot, table, f"entry {expected} is missing")
        expected = seq + 1
        if done % ITEMS_PER_SLICE == 0:
            yield Progress(table.name, done, total)
    end = snapshot.outbox_next()
    if expected not in (None, end):
        raise _damaged(snapshot, table, f"entry {expected} is missing, or should not be counted")
    yield Progress(table.name, total, total)


def _check_state(snapshot: Snapshot, slot: bytes) -> Iterator[Progress]:
    """One slot, live or staged, against its digest."""
    table = snapshot._dbs.state(slot)
    expected = snapshot._digest_of(slot)
    running = RunningDigest(StateDigest())
    for done, (key, value) in enumerate(snapshot._bodies(table, b""), start=1):
        running.add(key, value)
        if done % ITEMS_PER_SLICE == 0:
            yield Progress(table.name, done, expected.count)
    if running.digest() != expected:
        raise _damaged(
            snapshot,
            table,
            f"its {running.digest().count} pairs are not the {expected.count} that its digest "
            "was made of",
        )
    yield Progress(table.name, expected.count, expected.count)


def _check_counts(snapshot: Snapshot) -> Iterator[Progress]:
    """How many entries the ledger has, staged ones among them, and how many nodes their tree."""
    size = _size_on_disk(snapshot)
    nodes = 2 * size - size.bit_count()
    for table, expected in ((snapshot._dbs.ledger, size), (snapshot._dbs.tree, nodes)):
        count = snapshot._count(table)
        if count != expected:
            raise _damaged(snapshot, table, f"it holds {count} values, where {expected} belong")
        yield Progress(table.name, 0, count)


def _check_newest(snapshot: Snapshot, count: int) -> Iterator[Progress]:
    size = _size_on_disk(snapshot)
    for done, _ in enumerate(snapshot._entries(max(0, size - count), size), start=1):
        if done % ITEMS_PER_SLICE == 0:
            yield Progress("ledger", done, count)
    merkle.root(snapshot, size)
    snapshot.root()
    yield Progress("ledger", count, count)


def _check_ledger(snapshot: Snapshot) -> Iterator[Progress]:
    """Each entry against its leaf, and each node of the tree against the two below it. Above what
    is staged, nodes may be of what was replaced since: nobody reads them before it is compared."""
    size, own = _size_on_disk(snapshot), snapshot.ledger_size
    open_nodes: list[bytes] = []  # of the complete subtrees that no larger one covers yet
    for seq, entry in snapshot._entries(0, size):
        if seq < own:
            level, index, digest = 0, seq, merkle.leaf_hash(entry)
            while index & 1:
                digest = merkle.node_hash(open_nodes.pop(), digest)
                level, index = level + 1, index >> 1
                if snapshot.node(level, index) != digest:
                    raise _damaged(
                        snapshot,
                        snapshot._dbs.tree,
                        f"node ({level}, {index}) is not of its leaves",
                    )
            open_nodes.append(digest)
        if seq % ITEMS_PER_SLICE == 0:
            yield Progress("ledger", seq, size)
    yield Progress("ledger", size, size)


def _size_on_disk(snapshot: Snapshot) -> int:
    return max(snapshot.ledger_size, snapshot._number(layout.META_LEDGER_STAGED))
