"""A full disk costs one turn; any other failure ends the use of the environment."""

import errno
import os
import subprocess
from contextlib import ExitStack, contextmanager
from pathlib import Path

import lmdb
import pytest

from quorate.core.errors import StorageDamagedError, StorageFullError
from quorate.storage import Environment


def failure(code, kind=lmdb.DiskError):
    error = kind("injected")
    error.code = code  # the C code sets it
    return error


class FailingTransaction:
    """A write transaction that one operation of fails."""

    def __init__(self, real, operation, error):
        self.real, self.operation, self.error = real, operation, error

    def __getattr__(self, name):
        if name == self.operation:
            self.real.abort()  # as LMDB does

            def fail(*_args, **_named):
                raise self.error

            return fail
        return getattr(self.real, name)


@contextmanager
def failing(environment, operation, error):
    """The write transactions begun in here fail at `operation`."""
    begin = environment.turn._begin
    environment.turn._begin = lambda write: (
        FailingTransaction(begin(write), operation, error) if write else begin(write)
    )
    yield
    environment.turn._begin = begin


def fill(environment, index):
    """One turn of every kind of write, all of it derived from `index`."""
    turn = environment.turn
    turn.log_append(index, 1, b"x" * 3000)
    turn.append_ledger(b"entry %d" % index)
    turn.state.put(b"last", b"%d" % index)
    turn.set_applied(index)


def fill_and_commit(environment, index):
    fill(environment, index)
    environment.commit()


def assert_at(environment, index):
    """The disk and the caches of the turn hold the turns up to `index`, and nothing of the next."""
    with environment.read() as snapshot:
        for reads in (snapshot, environment.turn):
            assert reads.log_last() == (index, 1 if index else 0)
            assert reads.ledger_size == index
            assert reads.applied_index == index
            assert reads.state.get(b"last") == (b"%d" % index if index else None)
            assert reads.root()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_room_at_the_commit_costs_one_turn(environment, code):
    fill(environment, 1)
    environment.commit()
    with failing(environment, "commit", failure(code)):
        fill(environment, 2)
        with pytest.raises(StorageFullError) as caught:
            environment.commit()
    assert caught.value.hint
    assert environment.commits == 1
    assert environment.enforced_through() == 1
    assert_at(environment, 1)
    fill(environment, 2)
    assert environment.commit()
    assert_at(environment, 2)


@pytest.mark.parametrize(
    "error",
    [
        failure(errno.EIO),
        failure(errno.ENOMEM, lmdb.MemoryError),
        failure(-30795, lmdb.PanicError),
        failure(-30796, lmdb.CorruptedError),
        failure(errno.EINVAL, lmdb.InvalidParameterError),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("operation", ["commit", "put", "id"])
def test_any_other_failure_ends_the_use_of_the_environment(environment, error, operation):
    fill(environment, 1)
    environment.commit()
    with failing(environment, operation, error), pytest.raises(StorageDamagedError):
        fill_and_commit(environment, 2)
    uses = (
        environment.turn.log_last,
        lambda: environment.turn.append_ledger(b"x"),
        environment.commit,
        environment.enforced_through,
        environment.last_txn_id,
        lambda: environment.read().__enter__(),
    )
    for use in uses:
        with pytest.raises(StorageDamagedError):
            use()
    environment.abort()  # does not bring it back
    with pytest.raises(StorageDamagedError):
        environment.turn.term()


@pytest.mark.parametrize("end", ["abort", "commit"])
def test_a_failed_write_takes_its_whole_turn_with_it(environment, end):
    """Whoever swallowed the error and went on would commit the second half of the turn."""
    fill(environment, 1)
    environment.commit()
    with failing(environment, "replace", failure(errno.ENOSPC)), pytest.raises(StorageFullError):
        environment.turn.state.put(b"first half", b"")
    for use in (
        lambda: environment.turn.state.put(b"second half", b""),
        lambda: environment.turn.state.get(b"first half"),
        lambda: environment.turn.ledger_size,
        environment.turn.log_last,
    ):
        with pytest.raises(StorageFullError):
            use()
    if end == "abort":
        environment.abort()
    else:
        with pytest.raises(StorageFullError):
            environment.commit()
    assert_at(environment, 1)
    fill(environment, 2)
    assert environment.commit()
    assert_at(environment, 2)


def grow(environment):
    """Commits turns until there is no room; returns the last one committed."""
    index = environment.turn.applied_index
    while True:
        try:
            fill_and_commit(environment, index + 1)
        except StorageFullError:
            environment.abort()
            return index
        index += 1


def test_a_full_map_keeps_every_commit_and_serves_reads(path):
    environment = Environment.open(path, map_size_bytes=512 * 1024)
    last = grow(environment)
    assert last > 10
    assert_at(environment, last)
    assert grow(environment) == last  # again and again
    environment.close()
    larger = Environment.open(path, map_size_bytes=1024 * 1024)
    assert_at(larger, last)
    fill(larger, last + 1)
    larger.commit()
    assert_at(larger, last + 1)
    larger.close()


@pytest.mark.root
def test_a_full_disk_keeps_every_commit_and_heals_with_room(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount here: {mounted.stderr}")
    try:
        environment = Environment.open(disk / "data", map_size_bytes=64 * 1024 * 1024)
        last = grow(environment)
        assert last > 10
        assert_at(environment, last)
        assert grow(environment) == last
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        fill(environment, last + 1)
        assert environment.commit()
        assert_at(environment, last + 1)
        environment.close()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.root
def test_no_room_for_the_first_page_is_said_at_the_opening(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount here: {mounted.stderr}")
    try:
        with pytest.raises(StorageFullError):
            Environment.open(disk / "data", map_size_bytes=64 * 1024 * 1024)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def no_room(_descriptor, _offset, _size):
    raise OSError(errno.ENOSPC, "injected")


def test_a_write_cut_short_by_a_full_disk_costs_one_turn(environment, monkeypatch):
    """LMDB says EIO of it, as of a failing device."""
    fill(environment, 1)
    environment.commit()
    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with failing(environment, "commit", failure(errno.EIO)):
        fill(environment, 2)
        with pytest.raises(StorageFullError):
            environment.commit()
    assert_at(environment, 1)
    fill(environment, 2)
    assert environment.commit()
    assert_at(environment, 2)


def test_an_io_error_with_room_to_spare_is_damage(environment):
    with failing(environment, "commit", failure(errno.EIO)):
        fill(environment, 1)
        with pytest.raises(StorageDamagedError):
            environment.commit()
    assert not list(environment_directory(environment).glob("room.probe"))


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_an_environment_that_lmdb_gave_up_is_damaged_however_full_the_disk(
    environment, monkeypatch, code
):
    """The page that makes a transaction the newest found no room: it may be on the disk or not."""
    monkeypatch.setattr(os, "posix_fallocate", no_room)
    monkeypatch.setattr("quorate.storage.room.goes_on", lambda _env: False)
    with failing(environment, "commit", failure(code)):
        fill(environment, 1)
        with pytest.raises(StorageDamagedError):
            environment.commit()


def environment_directory(environment):
    return Path(environment._lmdb.path())


@pytest.mark.root
def test_a_real_disk_cuts_a_write_short(tmp_path):
    """Some pages are free, and one write needs more."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount here: {mounted.stderr}")
    with ExitStack() as stack:
        stack.callback(subprocess.run, ["umount", str(disk)], check=True)
        environment = Environment.open(disk / "data", map_size_bytes=64 * 1024 * 1024)
        stack.callback(environment.close)
        fill(environment, 1)
        environment.commit()
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(free - 5 * 4096))
        for _ in range(3):
            fill(environment, 2)
            environment.turn.state.put(b"large", bytes(64 * 1024))  # pages that lie together
            with pytest.raises(StorageFullError):
                environment.commit()
            environment.abort()
            assert_at(environment, 1)
        ballast.unlink()
        fill(environment, 2)
        environment.turn.state.put(b"large", bytes(64 * 1024))
        assert environment.commit()
        assert_at(environment, 2)
