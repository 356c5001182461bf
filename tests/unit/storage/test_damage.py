"""Files that were damaged, cut off or rolled back: named at the start, never served, no crash."""

import random
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from quorate.core.errors import ConfigurationError, StorageDamagedError
from quorate.storage import Environment, layout, pages
from quorate.storage.seal import seal

MAP_SIZE_BYTES = 16 << 20
VICTIMS = Path(__file__).with_name("victims.py")
FIXED_SEED = 20261122
SAMPLES = 100
PAGE_BYTES = 4096
TXN_ID_AT = 16 + 136 - 8
"""Where a page that names a transaction has its id."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A sound store of everything; made by another process, as it must not be open here."""
    path = tmp_path_factory.mktemp("sound") / "store"
    source = f"import sys; sys.path.insert(0, {str(VICTIMS.parent)!r}); import victims; "
    source += f"from pathlib import Path; victims.made(Path({str(path)!r})).close()"
    subprocess.run([sys.executable, "-c", source], check=True)
    return path


@pytest.fixture
def copied(store, tmp_path):
    path = tmp_path / "store"
    path.mkdir()
    shutil.copy(store / layout.DATA_FILE, path)
    return path


def outcomes(store, damages):
    run = subprocess.run(
        [sys.executable, str(VICTIMS), str(store)],
        input="".join(f"{damage}\n" for damage in damages),
        capture_output=True,
        text=True,
        check=True,
    )
    said = dict(zip(damages, run.stdout.splitlines(), strict=True))
    assert {damage: what for damage, what in said.items() if what.startswith("WRONG")} == {}
    return list(said.values())


def opened(path):
    Environment.open(path, map_size_bytes=MAP_SIZE_BYTES).close()


@pytest.mark.parametrize(
    "seed", [FIXED_SEED, random.SystemRandom().randrange(2**32)], ids=["fixed", "fresh"]
)
def test_a_flipped_byte_is_named_or_changes_nothing(store, seed):
    chance = random.Random(seed)  # noqa: S311
    size = (store / layout.DATA_FILE).stat().st_size
    damages = {
        f"flip {chance.randrange(size)} {chance.randrange(1, 256)}": None for _ in range(SAMPLES)
    }
    said = outcomes(store, list(damages))
    assert any("StorageDamagedError" in what for what in said)
    assert "same" in said  # pages that are free, and the ends of others


def test_a_flipped_bit_in_what_pages_are_made_of_is_named_or_changes_nothing(store):
    """The two pages that name transactions, and the headers of the others."""
    chance = random.Random(FIXED_SEED)  # noqa: S311
    size = (store / layout.DATA_FILE).stat().st_size
    positions = [16 + 128 + 7, 16 + 96 + 8 + 7]  # the highest bytes of numbers of pages
    positions += chance.sample([*range(152), *range(PAGE_BYTES, PAGE_BYTES + 152)], 150)
    for _ in range(100):
        positions.append(
            chance.randrange(2, size // PAGE_BYTES) * PAGE_BYTES + chance.randrange(40)
        )
    damages = dict.fromkeys(f"flip {at} {1 << chance.randrange(8)}" for at in positions)
    outcomes(store, list(damages))


def test_a_file_that_is_cut_off_is_named(store):
    size = (store / layout.DATA_FILE).stat().st_size
    cuts = [f"cut {at}" for at in range(0, size, PAGE_BYTES)]
    cuts += [f"cut {at}" for at in (1, 100, PAGE_BYTES - 1, 2 * PAGE_BYTES - 1)]
    said = outcomes(store, cuts)
    assert all(what == "same" or what.startswith("StorageDamagedError") for what in said)
    assert said.count("same") <= 2  # pages at the end that are free


def newest_and_older(path):
    """The numbers of the two pages that name transactions, the newest first."""
    data = (path / layout.DATA_FILE).read_bytes()
    ids = [struct.unpack_from("<Q", data, page * PAGE_BYTES + TXN_ID_AT)[0] for page in (0, 1)]
    return sorted((0, 1), key=lambda page: -ids[page]), ids


def test_a_store_that_names_the_transaction_before_the_newest_is_damaged(copied):
    """One flipped bit can make LMDB take the older of the two: a vote would be forgotten."""
    (newest, older), ids = newest_and_older(copied)
    with (copied / layout.DATA_FILE).open("r+b") as file:
        file.seek(newest * PAGE_BYTES + TXN_ID_AT)
        file.write(struct.pack("<Q", ids[older] - 1))
    with pytest.raises(StorageDamagedError, match="which says of itself that it is"):
        opened(copied)


def test_a_store_of_another_format_is_not_touched(tmp_path):
    env = lmdb.open(str(tmp_path / "store"), max_dbs=8)
    for name in (b"log", b"meta", b"state", b"ledger", b"tree", b"outbox"):
        env.open_db(name)
    env.close()
    before = (tmp_path / "store" / layout.DATA_FILE).read_bytes()
    with pytest.raises(ConfigurationError, match="older format"):
        opened(tmp_path / "store")
    assert (tmp_path / "store" / layout.DATA_FILE).read_bytes() == before


def test_a_store_that_lacks_a_database_is_damaged_and_not_completed(copied):
    env = lmdb.open(str(copied), max_dbs=8)
    with env.begin(write=True) as txn:
        txn.drop(env.open_db(b"log", txn=txn))
        name = layout.META_TRANSACTION
        txn.put(name, seal(name, layout.number(txn.id())), db=env.open_db(b"meta", txn=txn))
    env.close()
    with pytest.raises(StorageDamagedError, match="b'log'"):
        opened(copied)


def test_what_was_damaged_after_the_start_is_not_handed_out(environment):
    """Every read compares; a value of another key does not pass for this one's."""
    turn = environment.turn
    for number in range(3):
        turn.state.put(b"key %d" % number, b"value")
        turn.append_ledger(b"entry %d" % number)
        turn.outbox_append(b"denial %d" % number)
        turn.log_append(number + 1, 1, b"command %d" % number)
        turn.put_configuration(number, b"configuration")
    environment.commit()
    dbs = environment._dbs
    for table in (dbs.state_a, dbs.outbox, dbs.log, dbs.configurations, dbs.ledger):
        with environment._lmdb.begin(write=True) as txn:
            items = list(txn.cursor(db=table.handle))
            txn.put(items[1][0], items[2][1][:-1] + b"!", db=table.handle)
    reads = {
        "state_a: key 'key 1'": lambda snapshot: snapshot.state.get(b"key 1"),
        "outbox: entry 1": lambda snapshot: snapshot.outbox(0, 10),
        "log: entry 2": lambda snapshot: snapshot.log_slice(1, 10, 1000),
        "configurations: entry 1": lambda snapshot: snapshot.configurations(),
        "ledger: entry 1": lambda snapshot: snapshot.ledger_entries(0, 2),
    }
    for named, read in reads.items():
        environment._health._problem = ""  # each by itself
        with pytest.raises(StorageDamagedError, match=named), environment.read() as snapshot:
            read(snapshot)


def test_the_walk_of_a_file_goes_by_without_lmdb(copied):
    steps = list(pages.check_file(copied / layout.DATA_FILE))
    assert steps[-1].done == steps[-1].total > 20
    assert not (copied / layout.LOCK_FILE).exists()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        list(pages.check_file(copied / "other.mdb"))
