"""The walk of the data file: what it finds that no read would, and that it finds nothing else."""

import os
import random
import struct
from contextlib import contextmanager

import pytest

from quorate.core.errors import StorageDamagedError
from quorate.storage import Environment, layout, pages

MAP_SIZE_BYTES = 64 << 20
PAGE_BYTES = 4096
HEADER_BYTES = 16
ENTRIES_AT = 32
"""Where the record of a tree says how many entries it has."""


@pytest.fixture
def data(path):
    """The file of a sound store, with branches, large values, and pages that are free."""
    environment = Environment.open(path, map_size_bytes=MAP_SIZE_BYTES)
    for turn in range(8):
        for number in range(150):
            environment.turn.state.put(b"key %d" % number, b"%d" % turn * 100)
            environment.turn.append_ledger(b"entry %d" % number)
        environment.turn.log_append(turn + 1, 1, b"x" * 20_000)
        environment.commit()
    environment.turn.log_drop_below(7, 100)
    environment.commit()
    environment.close()
    return path / layout.DATA_FILE


@contextmanager
def looked_at(data):
    descriptor = os.open(data, os.O_RDONLY)
    try:
        yield pages._File(descriptor, data)
    finally:
        os.close(descriptor)


def tree_of(data, name):
    """The newest record of a tree; None names the list of free pages."""
    with looked_at(data) as file:
        _, newest = pages._metas(file)
        if name is None:
            return newest.free
        return pages.Tree(*pages._TREE.unpack(file.get(newest.main, name)))


def leaf_of(data, name):
    """The number of a leaf of a tree, and where its nodes begin in the file, by key."""
    tree = tree_of(data, name)
    page, height = tree.root, tree.depth
    with looked_at(data) as file:
        pages._metas(file)
        while height > 1:
            page, height = file.nodes(page, pages._BRANCH)[0][2], height - 1
    (lower,) = struct.unpack_from("<H", data.read_bytes(), page * PAGE_BYTES + 12)
    return page, (lower - HEADER_BYTES) // 2


def changed(data, position, form, value):
    """Writes a number; returns what was there."""
    (before,) = struct.unpack_from(form, data.read_bytes(), position)
    with data.open("r+b") as file:
        file.seek(position)
        file.write(struct.pack(form, value))
    return before


def read(data, position, form):
    return struct.unpack_from(form, data.read_bytes(), position)[0]


def refused(data, problem):
    with pytest.raises(StorageDamagedError, match=problem) as caught:
        list(pages.check_file(data))
    assert str(data) in str(caught.value)


def first_list(data):
    """Where a list of free pages begins, which has some."""
    page, count = leaf_of(data, None)
    assert count
    for place in range(count):
        node = page * PAGE_BYTES + read(data, page * PAGE_BYTES + HEADER_BYTES + 2 * place, "<H")
        begin = node + 8 + read(data, node + 6, "<H")
        if read(data, begin, "<Q") > 1:
            return begin
    raise AssertionError("no page is free")


def test_a_free_page_that_is_forgotten_is_found(data):
    begin = first_list(data)
    changed(data, begin, "<Q", read(data, begin, "<Q") - 1)
    refused(data, "neither in use nor free")


def test_a_page_in_use_on_the_list_of_free_ones_is_found(data):
    """LMDB would write over it."""
    changed(data, first_list(data) + 8, "<Q", tree_of(data, b"tree").root)
    refused(data, "used twice")


def test_a_list_that_says_that_it_is_longer_than_it_is_is_found(data):
    changed(data, first_list(data), "<Q", 2**40)
    refused(data, "lists of free pages")


def test_a_list_of_half_a_number_is_found(data):
    """The first of the page's nodes loses two bytes, and moves up by as many: there is no gap."""
    page, count = leaf_of(data, None)
    begin = page * PAGE_BYTES
    pointers = [begin + HEADER_BYTES + 2 * place for place in range(count)]
    pointer = min(pointers, key=lambda each: read(data, each, "<H"))
    node = begin + read(data, pointer, "<H")
    low, high, flags, key_bytes = struct.unpack_from("<HHHH", data.read_bytes(), node)
    key = data.read_bytes()[node + 8 : node + 8 + key_bytes]
    with data.open("r+b") as file:
        file.seek(node + 2)
        file.write(struct.pack("<HHHH", low - 2, high, flags, key_bytes) + key)
    for place in (pointer, begin + 14):
        changed(data, place, "<H", read(data, place, "<H") + 2)
    refused(data, "lists of free pages")


@pytest.mark.parametrize("last", [1 << 40, 2**64 - 1])
def test_more_pages_than_can_be_are_found_while_somebody_writes_too(data, last):
    """They would all be counted in memory first."""
    with looked_at(data) as file:
        _, newest = pages._metas(file)
    changed(data, newest.txn_id % 2 * PAGE_BYTES + HEADER_BYTES + 136 - 16, "<Q", last)
    refused(data, "says that there are")
    with pytest.raises(StorageDamagedError, match="says that there are"):
        list(pages.check_file(data, pinned=newest.txn_id))


def test_nodes_that_changed_places_are_found(data):
    page, _ = leaf_of(data, b"state_a")
    at = page * PAGE_BYTES + HEADER_BYTES
    first, second = read(data, at, "<H"), read(data, at + 2, "<H")
    changed(data, at, "<H", second)
    changed(data, at + 2, "<H", first)
    refused(data, "state_a has keys out of order")


def test_two_pointers_to_one_node_are_found(data):
    page, _ = leaf_of(data, b"tree")
    at = page * PAGE_BYTES + HEADER_BYTES
    changed(data, at, "<H", read(data, at + 2, "<H"))
    refused(data, "overlap, or gaps")


def test_a_branch_that_leads_to_one_page_twice_is_found(data):
    root = tree_of(data, b"ledger").root * PAGE_BYTES
    first, second = (read(data, root + HEADER_BYTES + 2 * place, "<H") for place in (0, 1))
    changed(data, root + first, "<H", read(data, root + second, "<H"))
    refused(data, "used twice")


def test_a_branch_whose_keys_are_not_those_of_its_leaves_is_found(data):
    """LMDB would look for a key in the wrong leaf, and not find it."""
    root = tree_of(data, b"ledger").root * PAGE_BYTES
    node = root + read(data, root + HEADER_BYTES + 2, "<H")
    changed(data, node + 8 + 7, "<B", read(data, node + 8 + 7, "<B") + 1)
    refused(data, "ledger has keys out of order")


@pytest.mark.parametrize(
    ("name", "entries", "problem"),
    [(b"outbox", 1, "outbox begins nowhere"), (b"ledger", 1199, "begins database ledger with")],
)
def test_a_tree_with_another_number_of_entries_is_found(data, name, entries, problem):
    with looked_at(data) as file:
        _, newest = pages._metas(file)
        nodes = file.nodes(newest.main.root, pages._LEAF)
    record = next(begin for key, _, _, begin in nodes if key == name)
    changed(data, newest.main.root * PAGE_BYTES + record + ENTRIES_AT, "<Q", entries)
    refused(data, problem)


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        (-3, "which has the other page"),
        (-2, "is of transaction"),
        (2, "which says of itself"),
        (4, "is of transaction"),
        (2**40, "is of transaction"),
    ],
)
def test_transactions_that_do_not_follow_each_other_are_found(data, step, problem):
    with looked_at(data) as file:
        older, _ = pages._metas(file)
    page = older.txn_id % 2
    position = page * PAGE_BYTES + HEADER_BYTES + 136 - 8
    changed(data, position, "<Q", older.txn_id + step)
    refused(data, problem)


def test_a_size_of_pages_that_cannot_be_is_found(data):
    for value in (0, 1000, 2**31, 8192):
        changed(data, HEADER_BYTES + 24, "<I", value)
        refused(data, "pages have|does not begin as a store does")


@pytest.mark.parametrize("seed", range(3))
def test_a_sound_store_is_found_sound_whatever_it_went_through(path, seed):
    """Large and small values that replace each other, cleared databases, trees that grow and
    shrink: what LMDB leaves is what the walk expects."""
    chance = random.Random(seed)  # noqa: S311
    environment = Environment.open(path, map_size_bytes=MAP_SIZE_BYTES)
    sizes = (0, 1, 90, 500, 1900, 2100, 4080, 9000, 70_000)
    for _ in range(60):
        state = environment.turn.state
        for _ in range(chance.choice((1, 10, 200))):
            key = b"k" * chance.choice((1, 8, 400)) + b"%d" % chance.randrange(150)
            if chance.random() < 0.45:
                state.delete(key)
            else:
                state.put(key, bytes(chance.choice(sizes)))
            if chance.random() < 0.3:
                state.put(key, bytes(chance.choice(sizes)))  # again, in the same transaction
        if chance.random() < 0.05:
            environment.turn._state_clear(b"a")
        if chance.random() < 0.2:
            environment.abort()
        else:
            environment.commit()
        if chance.random() < 0.3:
            environment.close()
            environment = Environment.open(path, map_size_bytes=MAP_SIZE_BYTES)
    list(environment.verify())
    environment.close()
