"""The data file, page by page, without LMDB.

LMDB trusts its file: of a page that a flipped bit has made senseless it reads beyond the page, or
ends the process. So the whole structure is walked before LMDB opens the file for writing. Owns
what makes it sound: that all pages of every B-tree are there, of the kind and in the order they
should be, each in one place only, or else on the list of free pages; and that the page that names
the newest transaction names the newest. Values are not looked at: they have checksums of their own
(`quorate.storage.seal`).

The layout is that of LMDB 0.9 on a 64-bit little-endian machine (mdb.c: MDB_page, MDB_node, MDB_db,
MDB_meta). Reads with `pread`, not through a map: a file that is cut off is an error, not a signal.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from struct import Struct
from typing import Final

from quorate.core.errors import ConfigurationError, StorageDamagedError
from quorate.storage import layout
from quorate.storage.progress import Progress
from quorate.storage.seal import opened

WHAT: Final = "pages"
PAGES_PER_SLICE: Final = 1_024

_HEADER: Final = Struct("<QHHHH")  # number, pad, flags, lower, upper
_OVERFLOW: Final = Struct("<QHHI")  # number, pad, flags, pages
_NODE: Final = Struct("<HHHH")  # size (low, high), flags, size of the key
_NUMBER: Final = Struct("<Q")
_TREE: Final = Struct("<IHHQQQQQ")
_META: Final = Struct("<QHHHHIIQQ48s48sQQ")
_BRANCH, _LEAF, _OVERFLOWING, _IS_META = 1, 2, 4, 8  # kinds of page
_BIG, _SUBTREE = 1, 2  # kinds of node
_INTEGER_KEYS: Final = 8
_MAGIC: Final = 0xBEEFC0DE
_VERSION: Final = 1
_NOWHERE: Final = 2**64 - 1
_METAS: Final = 2
_PAGE_SIZES: Final = tuple(2**power for power in range(9, 16))
_MAX_DEPTH: Final = 32
_MAX_PAGES_BEHIND_THE_END: Final = 1 << 20
"""LMDB counts pages that it took and freed in one transaction, and never writes them."""


@dataclass(frozen=True, slots=True)
class Tree:
    """What the file says of one B-tree (MDB_db)."""

    pad: int
    flags: int
    depth: int
    branch_pages: int
    leaf_pages: int
    overflow_pages: int
    entries: int
    root: int

    @property
    def is_empty(self) -> bool:
        return self == Tree(self.pad, self.flags, 0, 0, 0, 0, 0, _NOWHERE)


@dataclass(frozen=True, slots=True)
class Meta:
    """One of the two pages that say where a transaction's trees begin (MDB_meta)."""

    page_bytes: int
    free: Tree
    main: Tree
    pages: int
    txn_id: int

    @property
    def is_unused(self) -> bool:
        return self.txn_id == 0 and self.free.is_empty and self.main.is_empty


Node = tuple[bytes, int, int, int]
"""key, flags, size of the data, where the data begins in the page."""


def check_file(path: Path, *, pinned: int | None = None) -> Iterator[Progress]:
    """Walks the data file of an environment; progress is in pages.

    While somebody writes the environment, `pinned` is the transaction that a snapshot shows which
    is open all the while: its pages stay as they are. Nothing else of the file is looked at then.

    Raises `StorageDamagedError` for what LMDB cannot have written, `ConfigurationError` for a file
    of an older format, or that cannot be read, `OvertakenError` when the pinned transaction is
    neither of the two newest any more.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigurationError(
            f"the store cannot be read: {error}", hint="check the path and its owner"
        ) from error
    try:
        file = _File(descriptor, path)
        if pinned is None:
            older, newest = _metas(file)
            if not newest.is_unused:
                _check_transaction(file, older, newest)
        else:
            newest = _pinned_meta(file, pinned)
        if not newest.is_unused:
            yield from _Walk(file, newest).run()
    finally:
        os.close(descriptor)


class OvertakenError(Exception):
    """The transaction to look at is not on record any more. Begin with a newer one."""


class _File:
    """Pages, and the error for what is wrong with them."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor = descriptor
        self._path = path
        self.size_bytes = os.fstat(descriptor).st_size
        self.page_bytes = _PAGE_SIZES[0]  # until the first page has said

    def read(self, page: int, size_bytes: int) -> bytes:
        position = page * self.page_bytes
        is_there = position + size_bytes <= self.size_bytes
        data = os.pread(self._descriptor, size_bytes, position) if is_there else b""
        if len(data) != size_bytes:
            raise self.damaged(page, "is not in the file: cut off, or no page of it")
        return data

    def damaged(self, page: int, problem: str) -> StorageDamagedError:
        return StorageDamagedError(f"{self._path}: page {page} {problem}")

    # -- B-trees -----------------------------------------------------------------------------

    def nodes(self, page: int, kind: int) -> list[Node]:
        """The nodes of a page, in the order that it says; together they fill it."""
        data = self.read(page, self.page_bytes)
        number, _, flags, lower, upper = _HEADER.unpack_from(data)
        if number != page or flags != kind:
            raise self.damaged(page, f"is not the page that belongs there ({number}, {flags:#x})")
        if lower % 2 or not _HEADER.size < lower <= upper <= self.page_bytes:
            raise self.damaged(page, "has senseless bounds")
        found: list[Node] = []
        spans: list[tuple[int, int]] = []
        for (offset,) in Struct("<H").iter_unpack(data[_HEADER.size : lower]):
            if not upper <= offset <= self.page_bytes - _NODE.size:
                raise self.damaged(page, "has a node outside its bounds")
            low, high, node_flags, key_bytes = _NODE.unpack_from(data, offset)
            key_at = offset + _NODE.size
            data_at = end = key_at + key_bytes
            size = low | high << 16
            if kind == _LEAF:
                end += _NUMBER.size if node_flags & _BIG else size
            else:
                size |= node_flags << 32  # the number of the page below
            spans.append((offset, end + end % 2))
            found.append((data[key_at:data_at], node_flags, size, data_at))
        spans.sort()
        filled = [upper, *(end for _, end in spans)]
        if filled[:-1] != [begin for begin, _ in spans] or filled[-1] != self.page_bytes:
            raise self.damaged(page, "has nodes that overlap, or gaps between them")
        return found

    def get(self, tree: Tree, key: bytes) -> bytes | None:
        """The value at `key` of a tree whose keys are bytes; values that lie on pages of their own
        are not looked for."""
        page = tree.root
        if page == _NOWHERE:
            return None
        for _ in range(min(tree.depth, _MAX_DEPTH) - 1):
            nodes = self.nodes(page, _BRANCH)
            page = [nodes[0], *(node for node in nodes[1:] if node[0] <= key)][-1][2]
        for found, flags, size, data_at in self.nodes(page, _LEAF):
            if found == key and not flags & _BIG:
                return self.read(page, self.page_bytes)[data_at : data_at + size]
        return None


def _metas(file: _File) -> tuple[Meta, Meta]:
    """The older and the newest, if they can be the two that LMDB leaves."""
    first = _meta(file, 0)
    if first.page_bytes not in _PAGE_SIZES:
        raise file.damaged(0, f"says that pages have {first.page_bytes} bytes")
    file.page_bytes = first.page_bytes
    metas = first, _meta(file, 1)
    older, newest = sorted(metas, key=lambda meta: meta.txn_id)
    for page, meta in enumerate(metas):
        if meta.page_bytes != file.page_bytes:
            raise file.damaged(page, f"says that pages have {meta.page_bytes} bytes")
        if meta.txn_id == 0 and not meta.is_unused:
            raise file.damaged(page, "is of no transaction")
        if meta.txn_id % 2 != page and not meta.is_unused:
            raise file.damaged(page, f"is of transaction {meta.txn_id}, which has the other page")
    if newest.txn_id - older.txn_id != 1 and not newest.is_unused:
        raise file.damaged(
            metas.index(newest), f"is of transaction {newest.txn_id}, after {older.txn_id}"
        )
    _check_pages(file, newest)
    return older, newest


def _check_pages(file: _File, meta: Meta) -> None:
    """As many as it says are counted in memory: no more than can be."""
    in_file = file.size_bytes // file.page_bytes
    if not _METAS <= meta.pages <= in_file + _MAX_PAGES_BEHIND_THE_END:
        raise file.damaged(meta.txn_id % _METAS, f"says that there are {meta.pages} pages")


def _pinned_meta(file: _File, txn_id: int) -> Meta:
    file.page_bytes = _meta(file, 0).page_bytes
    if file.page_bytes not in _PAGE_SIZES:
        raise file.damaged(0, f"says that pages have {file.page_bytes} bytes")
    meta = _meta(file, txn_id % _METAS)
    if meta.txn_id != txn_id:
        raise OvertakenError
    _check_pages(file, meta)
    return meta


def _meta(file: _File, page: int) -> Meta:
    fields = _META.unpack(file.read(page, _META.size))
    number, _, flags, _, _, magic, version, _, _, free, main, last_page, txn_id = fields
    if (number, flags, magic, version) != (page, _IS_META, _MAGIC, _VERSION):
        raise file.damaged(page, "does not begin as a store does")
    free, main = Tree(*_TREE.unpack(free)), Tree(*_TREE.unpack(main))
    if (free.flags, main.flags, main.pad) != (_INTEGER_KEYS, 0, 0):
        raise file.damaged(page, f"has flags {free.flags:#x}, {main.flags:#x}, {main.pad:#x}")
    return Meta(free.pad, free, main, last_page + 1, txn_id)


def _check_transaction(file: _File, older: Meta, newest: Meta) -> None:
    """Each transaction leaves its own id in the store. If a page is of another, it was changed, and
    LMDB may take the older for the newest. A copy's first transaction has the id of the original.
    """
    left = [_transaction_in(file, meta) for meta in (older, newest)]
    if left[1] is None and left[0] is None:
        return  # made, and belongs to no node yet
    if newest.txn_id == 1 and older.is_unused:
        return
    if left[1] != newest.txn_id or left[0] not in (None, older.txn_id):
        raise file.damaged(
            newest.txn_id % _METAS,
            f"names transaction {newest.txn_id} the newest, which says of itself that it is "
            f"{left[1]}, after {left[0]}",
        )


def _transaction_in(file: _File, meta: Meta) -> int | None:
    record = file.get(meta.main, b"meta")
    if record is None or len(record) != _TREE.size:
        return None
    key = layout.META_TRANSACTION
    value = file.get(Tree(*_TREE.unpack(record)), key)
    body = None if value is None else opened(key, value)
    return None if body is None else int.from_bytes(body, "big")


class _Walk:
    """All pages of one transaction."""

    def __init__(self, file: _File, meta: Meta) -> None:
        self._file = file
        self._meta = meta
        self._taken = bytearray(meta.pages)
        self._done = 0
        self._lists: list[bytes] = []
        self._records: dict[bytes, Tree] = {}

    def run(self) -> Iterator[Progress]:
        yield from self._tree("free pages", self._meta.free)
        yield from self._tree("main", self._meta.main)
        self._check_names()
        for name, tree in self._records.items():
            if tree.flags or tree.pad:
                raise self._damaged(self._meta.main.root, f"has database {name!r} of another kind")
            yield from self._tree(ascii(name)[2:-1], tree)
        for numbers in self._lists:
            self._take_free(numbers)
        forgotten = self._taken.find(0, _METAS)
        if forgotten >= 0:
            raise self._damaged(forgotten, "is neither in use nor free")
        yield Progress(WHAT, self._meta.pages, self._meta.pages)

    def _damaged(self, page: int, problem: str) -> StorageDamagedError:
        return self._file.damaged(page, problem)

    def _check_names(self) -> None:
        names = set(self._records)
        if layout.DATABASES_OF_OLDER_FORMATS & names:
            raise ConfigurationError(
                f"the data directory has an older format, this version knows {layout.FORMAT}",
                hint="run the version of Quorate that wrote it, or start from an empty one",
            )
        wrong = names ^ set(layout.DATABASES)
        if wrong:
            raise self._damaged(self._meta.main.root, f"should name {sorted(wrong)}, or should not")

    def _take(self, page: int, by: int) -> None:
        if not _METAS <= page < len(self._taken):
            raise self._damaged(by, f"leads to page {page}, which is none")
        if self._taken[page]:
            raise self._damaged(page, f"is used twice, the second time by page {by}")
        self._taken[page] = 1
        self._done += 1

    def _tree(self, name: str, tree: Tree) -> Iterator[Progress]:
        if tree.root == _NOWHERE:
            if not tree.is_empty:
                raise self._damaged(_METAS - 1, f"says that database {name} begins nowhere")
            return
        if not 0 < tree.depth <= _MAX_DEPTH:
            raise self._damaged(tree.root, f"begins database {name}, {tree.depth} pages deep")
        counts = [0, 0, 0, 0]  # as in `Tree`: branch, leaf and overflow pages, entries
        self._take(tree.root, tree.root)
        rest: list[tuple[int, int, bytes, bytes | None]] = [(tree.root, tree.depth, b"", None)]
        while rest:
            page, height, low, high = rest.pop()
            is_leaf = height == 1
            nodes = self._file.nodes(page, _LEAF if is_leaf else _BRANCH)
            keys = [self._ordered(tree, node[0]) for node in nodes[not is_leaf :]]
            if not _is_within(keys, low, high):
                raise self._damaged(page, f"of database {name} has keys out of order")
            if is_leaf:
                counts[1] += 1
                counts[2] += self._leaf(tree, page, nodes)
                counts[3] += len(nodes)
            else:
                counts[0] += 1
                for number, below, above in zip(
                    [node[2] for node in nodes], [low, *keys], [*keys, high], strict=True
                ):
                    self._take(number, page)
                    rest.append((number, height - 1, below, above))
            if sum(counts[:2]) % PAGES_PER_SLICE == 0:
                yield Progress(WHAT, self._done, self._meta.pages)
        expected = [tree.branch_pages, tree.leaf_pages, tree.overflow_pages, tree.entries]
        if counts != expected:
            raise self._damaged(
                tree.root, f"begins database {name} with {counts} instead of {expected}"
            )

    def _ordered(self, tree: Tree, key: bytes) -> bytes:
        """A key as it sorts: numbers of transactions lie there in the machine's order."""
        return key[::-1] if tree is self._meta.free else key

    def _leaf(self, tree: Tree, page: int, nodes: list[Node]) -> int:
        """Takes what the nodes of a leaf lead to; returns how many pages of values there are."""
        taken = 0
        is_free, is_main = tree is self._meta.free, tree is self._meta.main
        for key, flags, size, data_at in nodes:
            if not (flags or is_free or is_main):
                continue
            value = self._file.read(page, self._file.page_bytes)[data_at:]
            if flags == _BIG and not is_main:
                (first,) = _NUMBER.unpack_from(value)
                taken += self._take_extent(first, size, page)
                if is_free:
                    value = self._file.read(first, _HEADER.size + size)[_HEADER.size :]
            elif flags != (_SUBTREE if is_main else 0):
                raise self._damaged(page, f"has a node of kind {flags:#x}")
            if is_free:
                self._lists.append(value[:size])
            elif is_main:
                if size != _TREE.size:
                    raise self._damaged(page, "names a database and does not describe it")
                self._records[key] = Tree(*_TREE.unpack(value[:size]))
        return taken

    def _take_extent(self, first: int, size: int, by: int) -> int:
        """The pages of one large value. There may be more than it needs: it has replaced one."""
        self._take(first, by)
        header = self._file.read(first, _OVERFLOW.size)
        number, _, flags, pages = _OVERFLOW.unpack(header)
        count = int(pages)
        if (number, flags) != (first, _OVERFLOWING):
            raise self._damaged(first, "is not the value that belongs there")
        needed = (_HEADER.size - 1 + size) // self._file.page_bytes + 1
        if not needed <= count <= len(self._taken):
            raise self._damaged(first, f"has a value of {needed} pages in {count}")
        if (first + needed) * self._file.page_bytes > self._file.size_bytes:
            raise self._damaged(first, "has a value behind the end of the file, which is cut off")
        for page in range(first + 1, first + count):
            self._take(page, by)
        return count

    def _take_free(self, numbers: bytes) -> None:
        """A list of free pages (MDB_IDL): how many, then their numbers."""
        is_whole = len(numbers) % _NUMBER.size == 0
        listed = [number for (number,) in _NUMBER.iter_unpack(numbers)] if is_whole else []
        if not listed or listed[0] >= len(listed):
            raise self._damaged(self._meta.free.root, "begins lists of free pages, one senseless")
        for page in listed[1 : listed[0] + 1]:
            self._take(page, self._meta.free.root)


def _is_within(keys: list[bytes], low: bytes, high: bytes | None) -> bool:
    """Whether keys ascend, none below `low`, all below `high`."""
    if not keys:
        return True
    ascending = all(one < other for one, other in pairwise(keys))
    return ascending and low <= keys[0] and (high is None or keys[-1] < high)
