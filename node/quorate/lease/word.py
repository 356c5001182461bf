"""The authority word: one small record in shared memory that says until when this node may permit.

Owns its form and how it is shared; core alone writes it, edges read it. Decides nothing: whether a
record gives authority now is for `quorate.lease.check`. Anything that is not a whole record, just
written by a live writer, reads as None, and None permits nothing.

Whole: a sequence number is odd while a record is being written, and a checksum covers it together
with the record. A writer that dies half-way, or a reader that is stopped half-way, leaves or sees
an odd number, two numbers that differ, or a checksum that does not fit. No memory barrier is
needed for safety: whatever mix of old and new bytes a reader gets, the checksum is over the mix.

The memory is a memfd. Its size is sealed, so that no mapping of it can fault. Writing is *not*
sealed (F_SEAL_FUTURE_WRITE): the supervisor makes the memfd before it starts core, and a core that
is started again must be able to map it for writing, which that seal would forbid from the first
core on. Instead an edge is given a descriptor that is open for reading only (`reader_fd`), through
which it cannot write.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import zlib
from dataclasses import dataclass
from typing import Final

from quorate.core.errors import ConfigurationError
from quorate.core.outcome import Reason
from quorate.lease.clock import BOOT_ID_BYTES

READ_ATTEMPTS: Final = 64
"""A write takes about 2 us; a reader that meets one this often in a row meets a dead writer."""

_MAGIC: Final = b"QRMWORD\x01"
_NAME: Final = "quorate-authority"
_REASON_BYTES: Final = 32
_SEQUENCE: Final = struct.Struct("<Q")
_RECORD: Final = struct.Struct(f"<{BOOT_ID_BYTES}s8Q{_REASON_BYTES}s")
_CHECKSUM: Final = struct.Struct("<I")
_SEQUENCE_AT: Final = len(_MAGIC)
_RECORD_AT: Final = _SEQUENCE_AT + _SEQUENCE.size
_CHECKSUM_AT: Final = _RECORD_AT + _RECORD.size
_END: Final = _CHECKSUM_AT + _CHECKSUM.size
WORD_BYTES: Final = mmap.PAGESIZE

_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_HINT: Final = "the supervisor passes the descriptor of the word; start `quorate node run`"


@dataclass(frozen=True, slots=True)
class AuthorityRecord:
    """What core tells the edges. Times are of this machine's clocks.

    boot_id: the start of the machine for which `deadline_ns` means anything.
    deadline_ns: CLOCK_BOOTTIME from which on there is no authority; 0 when there is none.
    granted_at_boottime_ns, granted_at_realtime_ns: both clocks when the node asked (t0).
    term, index: the leader's term, and the Raft index that a snapshot must have applied.
    ledger_time_ms: the leader's ledger time when it answered.
    max_permit_ttl_ms, rho_ppm: the federation's parameters.
    reason: why there is no authority; None when there is.
    """

    boot_id: bytes
    deadline_ns: int
    granted_at_boottime_ns: int
    granted_at_realtime_ns: int
    term: int
    index: int
    ledger_time_ms: int
    max_permit_ttl_ms: int
    rho_ppm: int
    reason: Reason | None = None

    def __post_init__(self) -> None:
        assert len(self.boot_id) == BOOT_ID_BYTES
        assert self.reason is None or self.deadline_ns == 0, "no authority has no deadline"


class AuthorityWord:
    """One process's mapping of the word."""

    __slots__ = ("_map", "_writable", "fd")

    def __init__(self, fd: int, memory: mmap.mmap, *, writable: bool) -> None:
        """For `create` and `open` alone."""
        self.fd = fd
        """The descriptor that was mapped. Not inheritable; pass it on with `pass_fds`."""
        self._map = memory
        self._writable = writable

    @classmethod
    def create(cls) -> AuthorityWord:
        """Makes the memory, and maps it for writing. It holds no record."""
        fd = os.memfd_create(_NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, WORD_BYTES)
            os.pwrite(fd, _MAGIC, 0)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            return cls(fd, _mapped(fd, writable=True), writable=True)
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def open(cls, fd: int, writable: bool) -> AuthorityWord:
        """Maps the memory behind `fd`, which stays the caller's until `close`.

        Raises `ConfigurationError` for a descriptor that is not of a word, or that does not allow
        what is asked.
        """
        try:
            sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS
            sized = os.fstat(fd).st_size == WORD_BYTES
            if not sealed or not sized or os.pread(fd, len(_MAGIC), 0) != _MAGIC:
                raise ConfigurationError(f"descriptor {fd} is no authority word", hint=_HINT)
            return cls(fd, _mapped(fd, writable=writable), writable=writable)
        except OSError as error:
            raise ConfigurationError(
                f"descriptor {fd} is no authority word: {error}", hint=_HINT
            ) from error

    def reader_fd(self) -> int:
        """A new descriptor of the same memory, open for reading only: what an edge is given. The
        caller closes it."""
        return os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)

    def read(self) -> AuthorityRecord | None:
        """The newest whole record; None when there is none, or none can be had now."""
        for _ in range(READ_ATTEMPTS):
            image = self._map[:_END]
            sequence = _sequence_of(image)
            if sequence == 0:
                return None  # never written
            record = decode(image)
            if record is not None and _sequence_of(self._map[:_RECORD_AT]) == sequence:
                return record
        return None

    def write(self, record: AuthorityRecord) -> None:
        """Replaces the record. One writer at a time."""
        assert self._writable, "an edge never writes the word"
        # Even after a writer that died half-way, whose number is odd.
        sequence = (_sequence_of(self._map[:_END]) | 1) + 1
        image = encode(record, sequence)
        _SEQUENCE.pack_into(self._map, _SEQUENCE_AT, sequence - 1)
        self._map[_RECORD_AT:_END] = image[_RECORD_AT:]
        _SEQUENCE.pack_into(self._map, _SEQUENCE_AT, sequence)

    def clear(self, reason: Reason) -> None:
        """Takes the authority away: what core does first when it starts, and whenever it stops
        serving."""
        self.write(AuthorityRecord(bytes(BOOT_ID_BYTES), 0, 0, 0, 0, 0, 0, 0, 0, reason))

    def close(self) -> None:
        """Ends the mapping and closes the descriptor."""
        self._map.close()
        os.close(self.fd)


def encode(record: AuthorityRecord, sequence: int) -> bytes:
    """The memory with a whole record in it; `sequence` is even."""
    reason = record.reason.value if record.reason else ""
    body = _RECORD.pack(
        record.boot_id,
        record.deadline_ns,
        record.granted_at_boottime_ns,
        record.granted_at_realtime_ns,
        record.term,
        record.index,
        record.ledger_time_ms,
        record.max_permit_ttl_ms,
        record.rho_ppm,
        reason.encode("ascii").ljust(_REASON_BYTES, b"\x00"),
    )
    covered = _SEQUENCE.pack(sequence) + body
    return _MAGIC + covered + _CHECKSUM.pack(zlib.crc32(covered))


def decode(image: bytes) -> AuthorityRecord | None:
    """The record in the memory; None unless it is whole."""
    covered = image[_SEQUENCE_AT:_CHECKSUM_AT]
    (checksum,) = _CHECKSUM.unpack_from(image, _CHECKSUM_AT)
    sequence = _sequence_of(image)
    if sequence == 0 or sequence & 1 or zlib.crc32(covered) != checksum:
        return None
    boot_id, deadline, boottime, realtime, term, index, ledger_time, ttl, rho, padded = (
        _RECORD.unpack_from(image, _RECORD_AT)
    )
    try:
        name = padded.rstrip(b"\x00").decode("ascii")
        reason = Reason(name) if name else None
    except ValueError:
        return None  # a reason that this version does not know
    if reason is not None and deadline:
        return None  # no authority, until then
    return AuthorityRecord(
        boot_id, deadline, boottime, realtime, term, index, ledger_time, ttl, rho, reason
    )


def _sequence_of(image: bytes) -> int:
    (sequence,) = _SEQUENCE.unpack_from(image, _SEQUENCE_AT)
    return int(sequence)


def _mapped(fd: int, *, writable: bool) -> mmap.mmap:
    protection = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
    return mmap.mmap(fd, WORD_BYTES, flags=mmap.MAP_SHARED, prot=protection)
