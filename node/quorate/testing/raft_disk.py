"""A node's disk in memory, for simulated replicas.

Owns what is durable and what is not: a turn is kept whole by `commit` and lost whole by `abort`.
The ledger beside the log stands for the state machine: what was applied, in order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from quorate.storage.layout import BASE_COMMAND


@dataclass(frozen=True)
class _Meta:
    """probation: the node's token while it may have forgotten promises, else empty."""

    term: int = 0
    voted_for: str | None = None
    applied: int = 0
    probation: str = ""


@dataclass(frozen=True)
class Image:
    """What a disk held at some moment: a backup of it."""

    entries: tuple[tuple[int, bytes], ...]
    ledger: tuple[tuple[int, bytes], ...]
    members: tuple[tuple[int, bytes], ...]
    meta: _Meta
    base: int

    def entry(self, index: int) -> tuple[int, bytes] | None:
        """(term, command) at `index`, or None."""
        at = index - self.base
        return self.entries[at] if 0 <= at < len(self.entries) else None


class MemoryTurn:
    """The current turn on a disk in memory (`quorate.consensus.journal.LogTurn`). Beside the log
    it holds `ledger`, the state machine: what was applied, in order."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, bytes]] = []
        self.ledger: list[tuple[int, bytes]] = []
        self.members: list[tuple[int, bytes]] = []
        self.meta = _Meta()
        self.base = 1
        self.unchanged = 0

    def log_first(self) -> int:
        return self.base

    def log_last(self) -> tuple[int, int]:
        return (self._end() - 1, self.entries[-1][0]) if self.entries else (0, 0)

    def log_get(self, index: int) -> tuple[int, bytes] | None:
        return self.entries[index - self.base] if self.base <= index < self._end() else None

    def _end(self) -> int:
        return self.base + len(self.entries)

    def log_slice(
        self, first: int, last_exclusive: int, max_bytes: int
    ) -> list[tuple[int, int, bytes]]:
        found: list[tuple[int, int, bytes]] = []
        for index in range(max(self.base, first), min(last_exclusive, self._end())):
            term, command = self.entries[index - self.base]
            max_bytes -= len(command)
            if found and max_bytes < 0:
                break
            found.append((index, term, command))
        return found

    def log_append(self, index: int, term: int, command: bytes) -> None:
        assert index == self._end(), "the log has no holes"
        self.entries.append((term, command))

    def log_truncate_from(self, index: int) -> None:
        del self.entries[max(0, index - self.base) :]
        self.unchanged = min(self.unchanged, index - 1)

    def log_drop_below(self, index: int, most: int) -> int:
        dropped = max(0, min(most, index - self.base, len(self.entries) - 1))
        del self.entries[:dropped]
        self.base += dropped
        return dropped

    def log_reset(self, index: int, term: int) -> None:
        assert index >= self.base, "the log's base never moves back"
        self.entries, self.base = [(term, BASE_COMMAND)], index
        self.unchanged = index - 1

    def configurations(self) -> list[tuple[int, bytes]]:
        return list(self.members)

    def put_configuration(self, index: int, data: bytes) -> None:
        kept = [each for each in self.members if each[0] != index]
        self.members = sorted([*kept, (index, data)])

    def drop_configurations_from(self, index: int) -> None:
        self.members = [each for each in self.members if each[0] < index]

    def drop_configurations_below(self, index: int) -> None:
        self.members = [each for each in self.members if each[0] >= index]

    def term(self) -> int:
        return self.meta.term

    def voted_for(self) -> str | None:
        return self.meta.voted_for

    def set_term_and_vote(self, term: int, voted_for: str | None) -> None:
        assert term >= self.meta.term, "a term is never taken back"
        self.meta = replace(self.meta, term=term, voted_for=voted_for)

    @property
    def applied_index(self) -> int:
        return self.meta.applied

    def set_applied(self, index: int) -> None:
        assert index >= self.meta.applied, "an entry is applied once"
        self.meta = replace(self.meta, applied=index)

    def set_probation(self, token: str) -> None:
        self.meta = replace(self.meta, probation=token)

    def install_snapshot(
        self, index: int, term: int, configuration: bytes, ledger: tuple[tuple[int, bytes], ...]
    ) -> None:
        """As `quorate.storage`'s, but that what is installed is given, not staged."""
        assert list(ledger[: len(self.ledger)]) == self.ledger, "a snapshot continues the ledger"
        self.ledger.extend(ledger[len(self.ledger) :])
        self.set_applied(index)
        held = self.log_get(index)
        if held is not None and held[0] == term:
            self.log_drop_below(index, len(self.entries))
            self.drop_configurations_below(index)
        else:
            self.log_reset(index, term)
            self.members = []
        self.put_configuration(index, configuration)


class MemoryLogStore:
    """A disk in memory: what is committed stays, the rest of the turn is lost by `abort`. `base` is
    the index of the first of `entries`; `dropped` is what the last commit took away before it."""

    def __init__(self) -> None:
        self.turn = MemoryTurn()
        self.entries: list[tuple[int, bytes]] = []
        self.ledger: list[tuple[int, bytes]] = []
        self.members: list[tuple[int, bytes]] = []
        self.meta = _Meta()
        self.base = 1
        self.dropped: list[tuple[int, bytes]] = []
        self.commits = 0

    @property
    def last_index(self) -> int:
        return self.base + len(self.entries) - 1

    def entry(self, index: int) -> tuple[int, bytes] | None:
        """(term, command) at `index`, or None; of the base only the term is the log's own."""
        return self.entries[index - self.base] if self.base <= index <= self.last_index else None

    def image(self) -> Image:
        """A copy of what is durable."""
        entries, ledger, members = tuple(self.entries), tuple(self.ledger), tuple(self.members)
        return Image(entries, ledger, members, self.meta, self.base)

    def go_back(self, image: Image, token: str) -> None:
        """The disk is what it was at `image`, and says that it may have forgotten promises."""
        self.entries[:], self.ledger[:] = image.entries, image.ledger
        self.members, self.base = list(image.members), image.base
        self.meta = replace(image.meta, probation=token)
        self.turn.ledger[:] = image.ledger
        self.abort()

    def commit(self) -> None:
        turn = self.turn
        self.dropped = self.entries[: turn.base - self.base]
        del self.entries[: turn.base - self.base]
        self.base = turn.base
        kept = max(0, turn.unchanged + 1 - self.base)
        self.entries[kept:] = turn.entries[kept:]
        self.ledger.extend(turn.ledger[len(self.ledger) :])
        self.members = turn.members
        self.meta = turn.meta
        turn.unchanged = self.last_index
        self.commits += 1

    def abort(self) -> None:
        turn = self.turn
        turn.entries, turn.base = list(self.entries), self.base
        del turn.ledger[len(self.ledger) :]
        turn.members = self.members
        turn.meta = self.meta
        turn.unchanged = self.last_index
