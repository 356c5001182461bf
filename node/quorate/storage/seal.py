"""What damage is recognised by: a checksum in every value, and a digest of the state.

Owns both computations. They find what a device or a person did to the files by accident; whoever
means to forge them can, so that nothing that comes from another node is trusted for their sake.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

CHECKSUM_BYTES: Final = 4
_DIGEST_MODULUS: Final = 2**64
_NUMBER_BYTES: Final = 8


def seal(key: bytes, body: bytes) -> bytes:
    """The value to store under `key`: CRC-32 of key and body, then the body."""
    return zlib.crc32(body, zlib.crc32(key)).to_bytes(CHECKSUM_BYTES, "big") + body


def opened(key: bytes, value: bytes) -> bytes | None:
    """The body of a value that `seal` made for `key`; None when it is not one."""
    body = value[CHECKSUM_BYTES:]
    checksum = zlib.crc32(body, zlib.crc32(key)).to_bytes(CHECKSUM_BYTES, "big")
    return body if value[:CHECKSUM_BYTES] == checksum else None


@dataclass(frozen=True, slots=True)
class StateDigest:
    """A whole state in two numbers: the sum of a 64-bit hash of each pair, and their number."""

    total: int = 0
    count: int = 0

    def encode(self) -> bytes:
        """16 bytes: the sum, the count, each big-endian."""
        numbers = (self.total, self.count)
        return b"".join(each.to_bytes(_NUMBER_BYTES, "big") for each in numbers)

    @classmethod
    def decode(cls, data: bytes) -> StateDigest:
        """Of 16 bytes that `encode` made; the caller has checked where they come from."""
        assert len(data) == 2 * _NUMBER_BYTES
        total, count = data[:_NUMBER_BYTES], data[_NUMBER_BYTES:]
        return cls(int.from_bytes(total, "big"), int.from_bytes(count, "big"))


class RunningDigest:
    """A digest while pairs come and go. A sum needs no order: each write changes it by what it
    replaces and by what it puts."""

    __slots__ = ("_count", "_total")

    def __init__(self, begin: StateDigest) -> None:
        self._total = begin.total
        self._count = begin.count

    def add(self, key: bytes, value: bytes) -> None:
        self._total += _hash(key, value)
        self._count += 1

    def remove(self, key: bytes, value: bytes) -> None:
        self._total -= _hash(key, value)
        self._count -= 1

    def digest(self) -> StateDigest:
        assert self._count >= 0, "nothing is removed that was not added"
        return StateDigest(self._total % _DIGEST_MODULUS, self._count)


def _hash(key: bytes, value: bytes) -> int:
    pair = len(key).to_bytes(2, "big") + key + value
    return int.from_bytes(blake2b(pair, digest_size=_NUMBER_BYTES).digest(), "big")
