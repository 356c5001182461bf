"""The replicated log as the engine sees it, over the node's store.

Owns the mapping from the engine's journal interface to one transaction a turn, a cache of the log's
newest part, and the configurations that lie in the log. Does not own durability: `replica` commits
the turn, and nothing that reflects it leaves before (hazards 6 to 9 of docs/consensus.md).
"""

from __future__ import annotations

from typing import Protocol

from quorate.consensus.configuration import CONFIGURATION, Configuration
from quorate.consensus.limits import CACHED_LOG_BYTES, MAX_COMPACTED_PER_TURN

EngineEntry = tuple[bytes, int, int]
"""As the engine holds an entry: (command, index, term)."""


class LogTurn(Protocol):
    """The store's current write transaction, as consensus uses it."""

    def log_first(self) -> int: ...

    def log_last(self) -> tuple[int, int]: ...

    def log_get(self, index: int) -> tuple[int, bytes] | None: ...

    def log_slice(
        self, first: int, last_exclusive: int, max_bytes: int
    ) -> list[tuple[int, int, bytes]]: ...

    def log_append(self, index: int, term: int, command: bytes) -> None: ...

    def log_truncate_from(self, index: int) -> None: ...

    def log_drop_below(self, index: int, most: int) -> int: ...

    def configurations(self) -> list[tuple[int, bytes]]: ...

    def put_configuration(self, index: int, data: bytes) -> None: ...

    def drop_configurations_from(self, index: int) -> None: ...

    def drop_configurations_below(self, index: int) -> None: ...

    def term(self) -> int: ...

    def voted_for(self) -> str | None: ...

    def set_term_and_vote(self, term: int, voted_for: str | None) -> None: ...

    @property
    def applied_index(self) -> int: ...

    def set_applied(self, index: int) -> None: ...


class LogStore(Protocol):
    """The store, as consensus uses it: all that a turn writes is committed in one transaction."""

    @property
    def turn(self) -> LogTurn: ...


class Journal:
    """The engine's journal. Indexes are the log's own, not positions in a list, but for the two
    positions that the engine's kept code asks for: 0 (the first entry) and -1 (the last).

    What the store holds is the truth; `_cache` holds the newest entries, contiguous to the end.
    """

    def __init__(self, store: LogStore) -> None:
        self._store = store
        turn = store.turn
        self._first = turn.log_first()
        self._last = turn.log_last()
        self._cache: list[EngineEntry] = []
        self._cached_bytes = 0
        self._configurations = [
            (index, Configuration.decode(data)) for index, data in turn.configurations()
        ]

    # -- what the engine's kept code calls ---------------------------------------------------

    def __len__(self) -> int:
        return self._last[0] - self._first + 1

    def __getitem__(self, position: int) -> EngineEntry:
        if position == -1:
            return b"", self._last[0], self._last[1]
        assert position == 0, "the engine's kept code asks for the first and last entry only"
        return b"", self._first, 0

    def add(self, command: bytes, idx: int, term: int) -> None:
        assert idx == self._last[0] + 1, "the log has no holes"
        self._store.turn.log_append(idx, term, command)
        if command[:1] == CONFIGURATION:
            self._configurations.append((idx, Configuration.decode(command[1:])))
            self._store.turn.put_configuration(idx, command[1:])
        self._last = idx, term
        self._cache.append((command, idx, term))
        self._cached_bytes += len(command)
        if self._cached_bytes > CACHED_LOG_BYTES:
            older_half = len(self._cache) // 2
            self._cached_bytes -= sum(len(entry[0]) for entry in self._cache[:older_half])
            del self._cache[:older_half]

    def setCurrentTerm(self, term: int, voted_for: str | None) -> None:  # noqa: N802
        self._store.turn.set_term_and_vote(term, voted_for)

    def setRaftCommitIndex(self, _index: int) -> None:  # noqa: N802
        """The commit index is not kept: Raft lets it be lost (Figure 2, volatile state), and the
        applied index, which never passes it, is durable with the state itself."""

    def onOneSecondTimer(self) -> None:  # noqa: N802
        """The engine's hook for lazy writing; nothing here is lazy."""

    def _destroy(self) -> None:
        """The store is closed by whoever opened it."""

    # -- what ours calls ---------------------------------------------------------------------

    def first_index(self) -> int:
        return self._first

    def last_index(self) -> int:
        return self._last[0]

    def term_at(self, index: int) -> int | None:
        if index == self._last[0]:
            return self._last[1]
        if index < self._first or index > self._last[0]:
            return None
        cached = self._cached(index)
        if cached is not None:
            return cached[2]
        held = self._store.turn.log_get(index)
        return None if held is None else held[0]

    def slice(self, first: int, count: int, max_bytes: int) -> list[EngineEntry]:
        """Up to `count` entries from `first` on; at least one when there is one, then as many as
        stay within `max_bytes`."""
        last = min(self._last[0], first + count - 1)
        if first < self._first or first > last:
            return []
        if self._cached(first) is None:
            held = self._store.turn.log_slice(first, last + 1, max_bytes)
            return [(command, index, term) for index, term, command in held]
        entries: list[EngineEntry] = []
        size = 0
        for index in range(first, last + 1):
            entry = self._cached(index)
            assert entry is not None, "the cache is contiguous to the end"
            size += len(entry[0])
            if entries and size > max_bytes:
                break
            entries.append(entry)
        return entries

    def truncate_from(self, index: int) -> None:
        """Removes the entry at `index` and all behind it."""
        assert index > self._first, "the first entry is never in doubt"
        self._store.turn.log_truncate_from(index)
        if self._configurations[-1][0] >= index:
            self._store.turn.drop_configurations_from(index)
            self._configurations = [each for each in self._configurations if each[0] < index]
        while self._cache and self._cache[-1][1] >= index:
            self._cached_bytes -= len(self._cache.pop()[0])
        if self._cache:
            self._last = self._cache[-1][1], self._cache[-1][2]
        else:
            self._last = self._store.turn.log_last()

    def compact(self, below: int) -> None:
        """Removes entries below `below`, a bounded number of them; the first that stays is the
        log's base. Only what is applied may go."""
        if below > self._first:
            self._store.turn.log_drop_below(below, MAX_COMPACTED_PER_TURN)
            self._first = self._store.turn.log_first()

    # -- configurations ----------------------------------------------------------------------

    @property
    def configuration(self) -> Configuration:
        """The one in force: the newest in the log."""
        return self._configurations[-1][1]

    @property
    def configuration_index(self) -> int:
        """Where the one in force lies in the log."""
        return self._configurations[-1][0]

    def configuration_at(self, index: int) -> Configuration:
        """The newest at or below `index`."""
        return next(each for at, each in reversed(self._configurations) if at <= index)

    def settle_configurations(self, applied_index: int) -> None:
        """Forgets those that nothing can bring back: all before the newest that is applied. That
        one stays: a restart knows no commit beyond it, and a snapshot names it."""
        if len(self._configurations) > 1 and self._configurations[1][0] <= applied_index:
            newest = max(at for at, _ in self._configurations if at <= applied_index)
            self._store.turn.drop_configurations_below(newest)
            self._configurations = [each for each in self._configurations if each[0] >= newest]

    def _cached(self, index: int) -> EngineEntry | None:
        if not self._cache:
            return None
        position = index - self._cache[0][1]
        return self._cache[position] if 0 <= position < len(self._cache) else None
