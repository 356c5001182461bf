"""The authority word: whole records or none, and an edge that cannot write."""

import fcntl
import mmap
import os
import subprocess
import sys
import zlib
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.core.errors import ConfigurationError
from quorate.core.outcome import Reason
from quorate.lease import word
from quorate.lease.word import AuthorityRecord, AuthorityWord

# Writes records of which every number is derived from one, for ever.
WRITER = """
import sys
from quorate.lease.word import AuthorityRecord, AuthorityWord
word = AuthorityWord.open(int(sys.argv[1]), True)
number = 0
while True:
    number += 1
    word.write(AuthorityRecord(number.to_bytes(16, "big"), *(number * k for k in range(1, 9))))
    if number == 1:
        print("started", flush=True)
"""


def record(number, reason=None):
    return AuthorityRecord(number.to_bytes(16, "big"), *(number * k for k in range(1, 9)), reason)


@pytest.fixture
def shared():
    shared = AuthorityWord.create()
    yield shared
    shared.close()


def test_a_new_word_holds_nothing(shared):
    assert shared.read() is None


def test_what_is_written_is_read_by_every_mapping(shared):
    with ExitStack() as stack:
        edge = AuthorityWord.open(shared.reader_fd(), False)
        stack.callback(edge.close)
        core = AuthorityWord.open(os.dup(shared.fd), True)
        stack.callback(core.close)
        for number in range(1, 300):
            core.write(record(number))
            assert edge.read() == shared.read() == record(number)


def test_clearing_takes_the_deadline_and_gives_the_reason(shared):
    shared.write(record(7))
    shared.clear(Reason.INQUORATE)
    cleared = shared.read()
    assert cleared.reason is Reason.INQUORATE
    assert cleared.deadline_ns == 0


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_fits(shared, reason):
    shared.clear(reason)
    assert shared.read().reason is reason


def test_a_record_with_a_reason_has_no_deadline():
    with pytest.raises(AssertionError):
        record(7, Reason.INQUORATE)


def test_a_record_that_contradicts_itself_is_none():
    """A deadline, and a reason why there is none, with a checksum that fits."""
    image = bytearray(word.encode(record(7), 2))
    reason = Reason.INQUORATE.value.encode()
    begin = word._CHECKSUM_AT - 32
    image[begin : begin + len(reason)] = reason
    covered = image[word._SEQUENCE_AT : word._CHECKSUM_AT]
    word._CHECKSUM.pack_into(image, word._CHECKSUM_AT, zlib.crc32(covered))
    assert word.decode(bytes(image)) is None


def test_an_edge_cannot_write(shared):
    fd = shared.reader_fd()
    edge = AuthorityWord.open(fd, False)
    with pytest.raises(AssertionError):
        edge.write(record(1))
    with pytest.raises(TypeError):
        edge._map[0:1] = b"x"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(fd, b"x", 0)
    with pytest.raises(PermissionError):
        mmap.mmap(fd, word.WORD_BYTES, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    with pytest.raises(ConfigurationError) as caught:
        AuthorityWord.open(fd, True)
    assert caught.value.hint
    edge.close()


def test_the_size_is_sealed_so_that_no_mapping_can_fault(shared):
    for size in (0, word.WORD_BYTES * 2):
        with pytest.raises(PermissionError):
            os.ftruncate(shared.fd, size)
    with pytest.raises(PermissionError):  # nor can anybody forbid core to write
        fcntl.fcntl(shared.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


def test_only_a_word_is_opened(tmp_path):
    file = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    os.ftruncate(file, word.WORD_BYTES)
    unsealed = os.memfd_create("other", os.MFD_ALLOW_SEALING)
    os.ftruncate(unsealed, word.WORD_BYTES)
    other = os.memfd_create("other", os.MFD_ALLOW_SEALING)
    os.ftruncate(other, word.WORD_BYTES)
    fcntl.fcntl(other, fcntl.F_ADD_SEALS, word._SEALS)
    small = os.memfd_create("other", os.MFD_ALLOW_SEALING)
    fcntl.fcntl(small, fcntl.F_ADD_SEALS, word._SEALS)
    reading, writing = os.pipe()
    for fd in (file, unsealed, other, small, reading, writing):
        with pytest.raises(ConfigurationError):
            AuthorityWord.open(fd, False)
        os.close(fd)
    with pytest.raises(ConfigurationError):
        AuthorityWord.open(reading, False)


def test_a_writer_that_died_half_way_leaves_no_authority(shared):
    shared.write(record(1))
    image = word.encode(record(2), 4)
    # As `write` does it: the odd number first, then the record, of which only a part arrives.
    shared._map[8:16] = (3).to_bytes(8, "little")
    for cut in range(word._RECORD_AT, word._END):
        shared._map[cut : cut + 1] = image[cut : cut + 1]
        assert shared.read() is None
    shared.write(record(3))  # the next writer goes on from an odd number
    assert shared.read() == record(3)


def test_authority_is_gone_before_the_record_changes(shared):
    class Dying(bytearray):
        def __setitem__(self, at, value):
            raise InterruptedError

    memory = Dying(word.encode(record(1), 2).ljust(word.WORD_BYTES, b"\x00"))
    dying = AuthorityWord(shared.fd, memory, writable=True)
    assert dying.read() == record(1)
    with pytest.raises(InterruptedError):
        dying.write(record(2))
    assert dying.read() is None


def test_a_damaged_bit_anywhere_leaves_no_authority(shared):
    shared.write(record(5))
    for at in range(word._SEQUENCE_AT, word._END):
        for bit in range(8):
            shared._map[at] ^= 1 << bit
            assert shared.read() is None
            shared._map[at] ^= 1 << bit
    assert shared.read() == record(5)


def test_a_reason_of_a_later_version_leaves_no_authority():
    image = word.encode(record(0, Reason.INQUORATE), 2).replace(b"INQUORATE", b"LATERWORD")
    covered = image[word._SEQUENCE_AT : word._CHECKSUM_AT]
    resealed = image[: word._CHECKSUM_AT] + word._CHECKSUM.pack(word.zlib.crc32(covered))
    assert word.decode(resealed) is None


@given(
    chosen=st.lists(st.booleans(), min_size=word._END, max_size=word._END),
    numbers=st.tuples(st.integers(0, 2**32), st.integers(0, 2**32)),
    sequence=st.integers(1, 2**62).map(lambda half: half * 2),
    writing=st.booleans(),
)
def test_a_mix_of_two_records_reads_as_one_of_them_or_none(chosen, numbers, sequence, writing):
    old = word.encode(record(numbers[0]), sequence)
    new = word.encode(record(numbers[1]), sequence + 2)
    if writing:  # the odd number of the write between them is in place
        odd = (sequence + 1).to_bytes(8, "little")
        old = old[: word._SEQUENCE_AT] + odd + old[word._RECORD_AT :]
    mixed = bytes(b if take else a for a, b, take in zip(old, new, chosen, strict=True))
    decoded = word.decode(mixed)
    if decoded is not None:
        assert mixed in (old, new)
        assert not (writing and mixed == old)


def test_readers_of_a_busy_word_never_see_a_mix(shared):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(shared.fd)],
        pass_fds=[shared.fd],
        stdout=subprocess.PIPE,
        text=True,
    )
    edge = AuthorityWord.open(shared.reader_fd(), False)
    with process:
        assert process.stdout.readline() == "started\n"
        previous, reads, changes = 0, 0, 0
        while reads < 40_000 or changes < 500:  # both were at work, however they were scheduled
            reads += 1
            seen = edge.read()
            if seen is None:
                continue  # 64 writes in a row were met: allowed, and never a permit
            number = int.from_bytes(seen.boot_id, "big")
            assert seen == record(number)
            assert number >= previous
            changes += number > previous
            previous = number
        process.kill()
    edge.close()
