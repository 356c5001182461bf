"""A copy of a store in use: whole, private, and a store of its own; and who waits for it."""

import errno
import stat
import subprocess

import lmdb
import pytest
from tests.syncs import Steps

from quorate.core.errors import (
    ConfigurationError,
    StorageDamagedError,
    StorageError,
    StorageFullError,
)
from quorate.storage import Environment, bystander, layout, pages

MAP_SIZE_BYTES = 16 << 20
GENESIS = bytes(range(32))
NODE = "spiffe://bank.example/node/1"

BYSTANDER = """
import sys
from pathlib import Path
from quorate.storage import Environment
environment = Environment.open(Path(sys.argv[1]), map_size_bytes=16 << 20, read_only=True)
steps = environment.verify() if sys.argv[2] == "verify" else iter(())
with environment.read():
    print(next(steps, None) is not None, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def filled(environment):
    environment.initialise(GENESIS, NODE)
    for index in range(1, 200):
        environment.turn.append_ledger(b"entry %d" % index)
        environment.turn.state.put(b"key %d" % (index % 50), b"x" * 500)
        environment.turn.log_append(index, 1, b"command")
        environment.turn.set_applied(index)
        if index % 20 == 0:
            environment.commit()
    environment.commit()
    return environment


@pytest.fixture
def to(tmp_path):
    return tmp_path / "backups" / "monday"


def shown(environment):
    with environment.read() as snapshot:
        return (
            list(snapshot.state.scan(b"")),
            snapshot.root(),
            snapshot.log_slice(1, 1000, 1 << 20),
            snapshot.applied_index,
            snapshot.identity(),
            snapshot.probation(),
        )


def test_a_copy_is_a_store_of_its_own(filled, to):
    before, commits = shown(filled), filled.commits
    filled.turn.state.put(b"not committed", b"")
    filled.backup(to)
    filled.turn.append_ledger(b"more")
    filled.commit()
    copy = Environment.open(to, map_size_bytes=MAP_SIZE_BYTES)
    list(copy.verify())
    assert shown(copy) == before
    copy.verify_identity(GENESIS, NODE)
    copy.turn.append_ledger(b"other")
    copy.commit()
    copy.close()
    again = Environment.open(to, map_size_bytes=MAP_SIZE_BYTES)
    assert again.turn.ledger_size == 200
    again.close()
    assert filled.commits == commits + 1  # nothing was written for the copy's sake


def test_a_copy_is_private_and_nothing_is_left_beside_it(filled, to):
    filled.backup(to)
    assert [file.name for file in to.iterdir()] == [layout.DATA_FILE]
    assert stat.S_IMODE(to.stat().st_mode) == 0o700
    assert stat.S_IMODE((to / layout.DATA_FILE).stat().st_mode) == 0o600
    assert [file.name for file in to.parent.iterdir()] == [to.name]
    list(pages.check_file(to / layout.DATA_FILE))


def test_a_copy_is_durable_before_it_has_its_name(filled, to, monkeypatch):
    steps = Steps(monkeypatch)
    filled.backup(to)
    steps.assert_put_in_place(to, layout.DATA_FILE)


def test_progress_is_told_and_may_end_it(filled, to):
    steps = []
    filled.backup(to, steps.append)
    assert steps
    assert steps[-1].done > 0

    def enough(_step):
        raise KeyboardInterrupt

    other = to.with_name("tuesday")
    with pytest.raises(KeyboardInterrupt):
        filled.backup(other, enough)
    assert [file.name for file in to.parent.iterdir()] == [to.name]


def test_what_is_there_already_is_not_written_over(filled, to):
    to.mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="there already"):
        filled.backup(to)
    assert list(to.iterdir()) == []
    left = to.with_name("tuesday.partial")
    left.mkdir()
    with pytest.raises(ConfigurationError, match="cannot be made"):
        filled.backup(to.with_name("tuesday"))
    assert left.exists()


@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, StorageFullError), (errno.EIO, None)])
def test_a_copy_that_fails_does_the_original_no_harm(filled, to, monkeypatch, code, kind):
    error = lmdb.DiskError("injected")
    error.code = code

    def fail(*_arguments):
        raise error

    monkeypatch.setattr("quorate.storage.backup._write", fail)
    with pytest.raises(kind or StorageError) as caught:
        filled.backup(to)
    assert not isinstance(caught.value, StorageDamagedError)
    assert caught.value.hint
    assert list(to.parent.iterdir()) == []
    filled.turn.append_ledger(b"more")
    assert filled.commit()


@pytest.mark.root
def test_a_copy_to_a_full_disk_leaves_nothing(filled, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount here: {mounted.stderr}")
    try:
        with pytest.raises(StorageError):
            filled.backup(disk / "copy")
        assert list(disk.iterdir()) == []
        filled.turn.append_ledger(b"more")
        assert filled.commit()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# -- who waits for whom -----------------------------------------------------------------------


def test_revocations_do_not_wait_for_a_process_that_only_looks(filled, path, child):
    with child(BYSTANDER, path, "verify") as looking:
        assert looking.process.stdout.readline() == "True\n"
        for index in (200, 201):
            filled.turn.set_applied(index)
            filled.commit()
            assert filled.enforced_through() == index
        assert filled.oldest_reader_txn() < filled.last_txn_id()
        with pytest.raises(ConfigurationError, match="another process"), bystander.declared(path):
            pass


def test_revocations_wait_for_every_other_process(filled, path, child):
    with child(BYSTANDER, path, "read") as reading:
        assert reading.process.stdout.readline() == "False\n"
        filled.turn.set_applied(200)
        filled.commit()
        assert filled.enforced_through() == 199
        with child(BYSTANDER, path, "verify") as looking:
            assert looking.process.stdout.readline() == "True\n"
            filled.turn.set_applied(201)
            filled.commit()
            assert filled.enforced_through() == 199  # another one looks: that changes nothing
        reading.ask()
    assert filled.enforced_through() == 201


def test_a_process_is_no_bystander_any_more_when_it_has_died(filled, path, child):
    with child(BYSTANDER, path, "verify") as looking:
        assert looking.process.stdout.readline() == "True\n"
        assert bystander.declared_pid(path) == looking.process.pid
        looking.process.kill()
        looking.process.wait()
        assert bystander.declared_pid(path) is None
        with bystander.declared(path):
            assert bystander.declared_pid(path) is None  # this process is not left out


# -- what a copy has forgotten ----------------------------------------------------------------


def test_probation_is_kept_until_it_is_cleared(filled, to):
    assert filled.probation() == ""
    filled.backup(to)
    copy = Environment.open(to, map_size_bytes=MAP_SIZE_BYTES)
    for stage in ("restored", "demoted"):
        copy.mark_probation(stage)
        copy.close()
        copy = Environment.open(to, map_size_bytes=MAP_SIZE_BYTES)
        assert copy.probation() == stage
    assert copy.turn.probation() == "demoted"
    copy.clear_probation()
    assert copy.probation() == ""
    copy.close()
    assert filled.probation() == ""
