"""The state as the core sees it: an ordered map of bytes, read and written in one place.

Owns the protocols that storage implements, an overlay that makes one command atomic, and a map in
memory. Knows nothing of what the keys mean (see `quorate.core.state`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from sortedcontainers import SortedDict


class Reader(Protocol):
    """A consistent view of the state."""

    def get(self, key: bytes) -> bytes | None: ...

    def scan(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yields the (key, value) pairs whose key begins with `prefix` and is not below `start`,
        in ascending order of key. The caller takes as many as it has a limit for."""
        ...


class Writer(Reader, Protocol):
    """The state within a turn: reads see the writes before them."""

    def put(self, key: bytes, value: bytes) -> None: ...

    def delete(self, key: bytes) -> None: ...


class MemoryStore:
    """A `Writer` in memory, for tests, tools and the simulator."""

    def __init__(self) -> None:
        self._map: SortedDict[bytes, bytes] = SortedDict()

    def get(self, key: bytes) -> bytes | None:
        return self._map.get(key)

    def scan(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        for key in list(self._map.irange(max(prefix, start))):
            if not key.startswith(prefix):
                return
            yield key, self._map[key]

    def put(self, key: bytes, value: bytes) -> None:
        self._map[key] = value

    def delete(self, key: bytes) -> None:
        self._map.pop(key, None)

    def items(self) -> list[tuple[bytes, bytes]]:
        """Everything, in order of key."""
        return list(self._map.items())
