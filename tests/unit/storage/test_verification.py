"""What a store is compared with: each database by itself, and named."""

import pytest

from quorate.core.errors import StorageDamagedError
from quorate.proofs import merkle
from quorate.storage import layout
from quorate.storage.layout import number, tree_key
from quorate.storage.seal import seal


@pytest.fixture
def filled(environment):
    turn = environment.turn
    for index in range(1, 31):
        turn.log_append(index, index // 10, b"command")
        turn.state.put(b"key %d" % (index % 20), b"value %d" % index)
        turn.append_ledger(b"entry %d" % index)
        turn.outbox_append(b"denial")
    turn.state.delete(b"key 3")
    turn.outbox_drop(4)
    turn.put_configuration(1, b"configuration")
    environment.commit()
    turn.stage_begin(40, 35)
    turn.stage_state([(b"staged", b"value"), (b"staged too", b"value")], done=False)
    turn.stage_ledger(30, [b"entry 31"])
    environment.commit()
    return environment


def changed(environment, table, key, value):
    """Writes past the turn; None removes."""
    handle = getattr(environment._dbs, table).handle
    with environment._lmdb.begin(write=True) as txn:
        if value is None:
            assert txn.delete(key, db=handle)
        else:
            txn.put(key, value, db=handle)


def sealed(key, body):
    return key, seal(key, body)


def test_a_sound_store_is_found_sound_and_says_how_far_it_is(filled):
    for steps in (list(filled.check()), list(filled.verify())):
        assert all(0 <= step.done <= step.total for step in steps)
        assert {"meta", "log", "outbox", "state_a", "state_b", "ledger", "tree"} <= {
            step.what for step in steps
        }
    assert not filled.turn.writes


DAMAGES = {
    "database meta: key 'other'": ("meta", *sealed(b"other", b"")),
    "database meta: key 'term'": ("meta", b"term", seal(b"other/term", number(4))),
    "database log: entry 7 is missing": ("log", number(7), None),
    "database log: entry 12 does not match": ("log", number(12), seal(number(13), b"")),
    "database log: entry 12 has an older term": ("log", *sealed(number(12), number(0) + b"")),
    "database configurations: entry 1 does not": ("configurations", number(1), b"short"),
    "database outbox: entry 9 is missing": ("outbox", number(9), None),
    "database outbox: entry 29 is missing": ("outbox", number(29), None),
    "database outbox: entry 31 is missing": ("outbox", *sealed(number(30), b"denial")),
    "database state_a: key 'key 2'": ("state_a", b"key 2", seal(b"key 1", b"value 21")),
    "database state_a: its 18 pairs are not the 19": ("state_a", b"key 2", None),
    "database state_a: its 19 pairs are not the 19": ("state_a", *sealed(b"key 2", b"value 2")),
    "database state_a: its 20 pairs are not the 19": ("state_a", *sealed(b"key 3", b"value 3")),
    "database state_b: its 1 pairs are not the 2": ("state_b", b"staged", None),
    "database ledger: it holds 30 values": ("ledger", number(30), None),
    "database ledger: it holds 32 values": ("ledger", number(31), b"entry"),
    "database ledger: entry 29 does not match its leaf": ("ledger", number(29), b"entry"),
    "database tree: node \\(0, 29\\)": ("tree", tree_key(0, 29), bytes(36)),
    "database tree: it holds": ("tree", tree_key(9, 9), bytes(36)),
}


@pytest.mark.parametrize("named", DAMAGES)
def test_damage_is_named_by_the_quick_check(filled, named):
    changed(filled, *DAMAGES[named])
    with pytest.raises(StorageDamagedError, match=named) as caught:
        list(filled.check())
    assert caught.value.hint
    with pytest.raises(StorageDamagedError):
        filled.turn.term()  # nothing more is read


def test_an_old_entry_is_compared_when_it_is_read_or_all_is_verified(filled, monkeypatch):
    monkeypatch.setattr("quorate.storage.verification.NEWEST_ENTRIES", 5)
    changed(filled, "ledger", number(3), b"forged")
    list(filled.check())
    with pytest.raises(StorageDamagedError, match="ledger: entry 3"), filled.read() as snapshot:
        snapshot.ledger_entry(3)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_the_whole_tree_is_computed_anew(filled, level):
    """A forged node with a good checksum is found by what lies below it."""
    key = tree_key(level, 1)
    changed(filled, "tree", *sealed(key, merkle.leaf_hash(b"forged")))
    with pytest.raises(StorageDamagedError, match=rf"tree: node \({level}, 1\) is not of"):
        list(filled.verify())


def test_the_slot_of_the_state_is_one_of_two(filled):
    changed(filled, "meta", *sealed(layout.META_SLOT, b"c"))
    with pytest.raises(StorageDamagedError, match="slot"):
        list(filled.check())


def test_a_store_is_verified_while_it_is_written(filled):
    """What is seen is one commit, whatever the writer does to the file meanwhile."""
    seen = 0
    for step in filled.verify():
        filled.turn.state.put(b"more %d" % seen, b"x" * 3000)
        filled.turn.append_ledger(b"entry 31" if filled.turn.ledger_size == 30 else b"more")
        filled.turn.log_drop_below(20, 1)
        filled.commit()
        seen += step.what == "ledger"
    assert seen
    list(filled.verify())
