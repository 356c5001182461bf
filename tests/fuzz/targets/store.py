"""What this node finds on its own disk and in shared memory, which may be damaged."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.fuzz.harness import HERE, SEPARATOR, Bounds, attempt, target

from quorate.core import dsse
from quorate.core.errors import ConfigurationError, StorageDamagedError
from quorate.core.lineage import encoded
from quorate.lease import word
from quorate.node.outbox import Row
from quorate.storage import pages, seal

STORE = HERE / "store.z"
"""The data file of a sound store, compressed; `tests.fuzz.seeds` makes it."""
MAX_CHANGES = 32
OFFSET_BYTES = 4


@contextmanager
def file_of(data: bytes) -> Iterator[Path]:
    """A file that is nowhere on a disk."""
    descriptor = os.memfd_create("fuzz", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, data)
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


@cache
def sound_store() -> bytes:
    return zlib.decompress(STORE.read_bytes())


def damaged_store(data: bytes) -> bytes:
    """The store as an input leaves it: its parts say where (4 bytes, big-endian), and what is there
    now; nothing: the file ends there."""
    image = bytearray(sound_store())
    for part in data.split(SEPARATOR)[:MAX_CHANGES]:
        at = int.from_bytes(part[:OFFSET_BYTES], "big") % (len(image) + 1)
        put = part[OFFSET_BYTES:]
        if put:
            image[at : at + len(put)] = put
        else:
            del image[at:]
    return bytes(image)


@target(
    "quorate.storage.pages", bounds=Bounds(steps=(60_000, 100), allocated=(4 * 1024 * 1024, 400))
)
def store_file(data: bytes) -> None:
    """Alone, and while somebody writes it."""
    expected = (StorageDamagedError, ConfigurationError)
    with file_of(damaged_store(data)) as path:
        attempt(expected, lambda: list(pages.check_file(path)))
        for txn_id in _transactions():
            overtaken = (*expected, pages.OvertakenError)
            attempt(overtaken, lambda txn_id=txn_id: list(pages.check_file(path, pinned=txn_id)))


@cache
def _transactions() -> tuple[int, ...]:
    """Those that the sound store is of."""
    with file_of(sound_store()) as path:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            return tuple(meta.txn_id for meta in pages._metas(pages._File(descriptor, path)))
        finally:
            os.close(descriptor)


@target("quorate.node.outbox", "quorate.core.lineage")
def outbox_row(data: bytes) -> None:
    row = attempt(StorageDamagedError, Row.parse, 7, data)
    if row is not None:
        assert row.to_bytes() == data
        assert (row.payload, len(row.signature)) == (encoded(row.record), dsse.SIGNATURE_BYTES)


@target("quorate.lease.word")
def authority_word(data: bytes) -> None:
    """As it lies there, and with the checksum that its writer would have put."""
    image = data[: word._END].ljust(word.WORD_BYTES, b"\x00")
    covered = image[word._SEQUENCE_AT : word._CHECKSUM_AT]
    checksum = word._CHECKSUM.pack(zlib.crc32(covered))
    for each in (image, word._MAGIC + covered + checksum):
        record = word.decode(each)
        if record is not None:
            written = word.encode(record, word._sequence_of(each))
            assert written[word._SEQUENCE_AT :] == each[word._SEQUENCE_AT : word._END]


@target("quorate.storage.seal")
def sealed_value(data: bytes) -> None:
    """An input is the key, with its length before it, and the value."""
    end = 1 + (data[0] if data else 0)
    key, value = data[1:end], data[end:]
    body = seal.opened(key, value)
    assert body is None or seal.seal(key, body) == value
    assert seal.opened(key, seal.seal(key, value)) == value
    if len(value) == 16:
        assert seal.StateDigest.decode(value).encode() == value
