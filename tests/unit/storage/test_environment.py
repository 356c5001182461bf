"""Opening the environment: whose it is, who may read it, what is refused."""

import stat

import pytest

from quorate.core.errors import ConfigurationError, StorageDamagedError
from quorate.storage import Environment, layout, room

MAP_SIZE_BYTES = 16 * 1024 * 1024
GENESIS = bytes(range(32))
NODE = "spiffe://bank.example/node/1"

READER = """
import sys
from pathlib import Path
from quorate.core.errors import QuorateError
from quorate.storage import Environment
try:
    environment = Environment.open(Path(sys.argv[1]), map_size_bytes=16 << 20, read_only=True)
    environment.verify_identity(bytes.fromhex(sys.argv[2]), sys.argv[3])
except QuorateError as error:
    print(type(error).__name__, flush=True)
    sys.exit()
for line in sys.stdin:
    with environment.read() as snapshot:
        print(snapshot.applied_index, snapshot.ledger_size, snapshot.root().hex(), flush=True)
"""


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_nobody_else_can_read_the_files(environment, path):
    assert mode(path) == 0o700
    assert {mode(path / name) for name in (layout.DATA_FILE, layout.LOCK_FILE)} == {0o600}


def test_modes_that_were_loosened_are_tightened(path):
    Environment.open(path, map_size_bytes=MAP_SIZE_BYTES).close()
    path.chmod(0o755)
    (path / layout.DATA_FILE).chmod(0o644)
    Environment.open(path, map_size_bytes=MAP_SIZE_BYTES).close()
    assert mode(path) == 0o700
    assert mode(path / layout.DATA_FILE) == 0o600


def test_nothing_trades_durability_for_speed(environment):
    flags = environment._lmdb.flags()
    assert flags["sync"]
    assert flags["metasync"]
    assert flags["lock"]
    assert not flags["writemap"]
    assert not flags["map_async"]


def test_the_reader_table_has_its_blocks(environment, path):
    """A sparse table on a full disk would kill the reader that touches a new page of it."""
    status = (path / layout.LOCK_FILE).stat()
    assert environment._lmdb.max_readers() == layout.MAX_READERS
    assert status.st_size == layout.LOCK_FILE_BYTES
    assert status.st_blocks * 512 >= status.st_size


def test_an_environment_is_one_node_s_of_one_federation(environment, path):
    with pytest.raises(ConfigurationError, match="no node yet"):
        environment.verify_identity(GENESIS, NODE)
    environment.initialise(GENESIS, NODE)
    assert environment.commits == 1
    environment.close()

    again = Environment.open(path, map_size_bytes=MAP_SIZE_BYTES)
    again.initialise(GENESIS, NODE)
    assert again.commits == 0
    with pytest.raises(ConfigurationError, match="another federation"):
        again.initialise(bytes(32), NODE)
    with pytest.raises(ConfigurationError, match="belongs to spiffe"):
        again.verify_identity(GENESIS, "spiffe://bank.example/node/2")
    again.close()


def test_reading_alone_makes_nothing(path):
    with pytest.raises(ConfigurationError, match="no store"):
        Environment.open(path, map_size_bytes=MAP_SIZE_BYTES, read_only=True)
    assert not path.exists()
    path.mkdir()
    with pytest.raises(ConfigurationError, match="no store"):
        Environment.open(path, map_size_bytes=MAP_SIZE_BYTES, read_only=True)
    assert list(path.iterdir()) == []


def test_a_file_of_something_else_is_damage(path):
    path.mkdir()
    (path / layout.DATA_FILE).write_bytes(b"something else" * 1000)
    with pytest.raises(StorageDamagedError):
        Environment.open(path, map_size_bytes=MAP_SIZE_BYTES)


def test_a_path_that_cannot_be_a_directory_is_a_configuration_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError) as caught:
        Environment.open(tmp_path / "file" / "data", map_size_bytes=MAP_SIZE_BYTES)
    assert caught.value.hint


def test_a_failed_opening_leaves_nothing_open(environment, path):
    environment.turn._put(environment._dbs.meta, layout.META_FORMAT, layout.number(99))
    environment.commit()
    environment.close()
    for _ in range(2):  # were it still open, the binding would refuse to open it again
        with pytest.raises(ConfigurationError, match="format 99"):
            Environment.open(path, map_size_bytes=MAP_SIZE_BYTES)


def test_a_closed_environment_is_not_used(path):
    environment = Environment.open(path, map_size_bytes=MAP_SIZE_BYTES)
    environment.turn.append_ledger(b"entry")
    environment.close()
    with pytest.raises(StorageDamagedError, match="closed"), environment.read():
        pass
    with pytest.raises(StorageDamagedError, match="closed"):
        environment.turn.append_ledger(b"entry")
    with pytest.raises(StorageDamagedError, match="closed"):
        environment.commit()
    with pytest.raises(StorageDamagedError, match="closed"):
        environment.enforced_through()
    again = Environment.open(path, map_size_bytes=MAP_SIZE_BYTES)
    assert again.turn.ledger_size == 0
    again.close()


def test_another_process_reads_each_commit_whole(environment, path, child):
    environment.initialise(GENESIS, NODE)
    with child(READER, path, GENESIS.hex(), NODE) as reader:
        for index in range(1, 20):
            environment.turn.append_ledger(b"entry %d" % index)
            environment.turn.set_applied(index)
            root = environment.turn.root().hex()
            assert reader.ask().split()[0] == str(index - 1)  # not committed yet
            environment.commit()
            assert reader.ask() == f"{index} {index} {root}"


@pytest.mark.parametrize(
    ("genesis", "node"), [(bytes(32), NODE), (GENESIS, "spiffe://bank.example/node/2")]
)
def test_another_process_finds_out_that_it_is_not_its_own(environment, path, child, genesis, node):
    environment.initialise(GENESIS, NODE)
    with child(READER, path, genesis.hex(), node) as reader:
        assert reader.ask() == "ConfigurationError"


def test_a_store_that_was_emptied_is_damaged_and_not_new(tmp_path):
    """An empty file would make a voter that has forgotten its votes."""
    path = tmp_path / "store"
    Environment.open(path, map_size_bytes=MAP_SIZE_BYTES).close()
    (path / layout.DATA_FILE).write_bytes(b"")
    with pytest.raises(StorageDamagedError, match="is empty"):
        Environment.open(path, map_size_bytes=MAP_SIZE_BYTES)


def test_the_room_is_what_the_map_or_the_disk_has_left(environment, path, monkeypatch):
    began = environment.room_bytes()
    assert MAP_SIZE_BYTES - 1024 * 1024 < began < MAP_SIZE_BYTES
    environment.turn.state.put(b"large", bytes(1024 * 1024))
    environment.commit()
    left = environment.room_bytes()
    assert began - 2 * 1024 * 1024 < left < began - 1024 * 1024
    assert left == MAP_SIZE_BYTES - (path / layout.DATA_FILE).stat().st_size
    monkeypatch.setattr(room, "free_bytes", lambda _directory: 12_345)
    assert environment.room_bytes() == 12_345
