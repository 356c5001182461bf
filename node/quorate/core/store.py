"""The state as the core sees it: an ordered map of bytes, read and written in one place.

Owns the protocols that storage implements, an overlay that makes one command atomic, and a map in
memory. Knows nothing of what the keys mean (see `quorate.core.keys`).
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
        in ascending order of key. The caller takes as many as it has a limit for, and writes
        nothing while it takes them."""
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
        value: bytes | None = self._map.get(key)
        return value

    def scan(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        end = _prefix_end(prefix)
        low = max(prefix, start)
        if end is not None and low >= end:
            return
        for key in self._map.irange(low, end, inclusive=(True, False)):
            yield key, self._map[key]

    def put(self, key: bytes, value: bytes) -> None:
        self._map[key] = value

    def delete(self, key: bytes) -> None:
        self._map.pop(key, None)

    def items(self) -> list[tuple[bytes, bytes]]:
        """Everything, in order of key."""
        return list(self._map.items())


class Overlay:
    """A `Writer` whose writes reach the store below all at once, or never. For the few writes of
    one command: they are put in order when somebody looks."""

    def __init__(self, below: Writer) -> None:
        self._below = below
        self._changes: dict[bytes, bytes | None] = {}

    def get(self, key: bytes) -> bytes | None:
        if key in self._changes:
            return self._changes[key]
        return self._below.get(key)

    def scan(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        low = max(prefix, start)
        changed = sorted(key for key in self._changes if key >= low and key.startswith(prefix))
        position = 0
        for key, value in self._below.scan(prefix, start):
            while position < len(changed) and changed[position] < key:
                yield from self._changed(changed[position])
                position += 1
            if position < len(changed) and changed[position] == key:
                yield from self._changed(key)
                position += 1
            else:
                yield key, value
        for key in changed[position:]:
            yield from self._changed(key)

    def put(self, key: bytes, value: bytes) -> None:
        self._changes[key] = value

    def delete(self, key: bytes) -> None:
        self._changes[key] = None

    def discard(self) -> None:
        """Forgets every write."""
        self._changes.clear()

    def commit(self) -> None:
        """Writes the changes to the store below, in order of key."""
        for key, value in sorted(self._changes.items()):
            if value is None:
                self._below.delete(key)
            else:
                self._below.put(key, value)
        self._changes.clear()

    def _changed(self, key: bytes) -> Iterator[tuple[bytes, bytes]]:
        value = self._changes[key]
        if value is not None:
            yield key, value


def _prefix_end(prefix: bytes) -> bytes | None:
    """The first key above every key that begins with `prefix`; None when there is none."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes((trimmed[-1] + 1,)) if trimmed else None
