"""A node's disk in memory, for simulated replicas.

Owns what is durable and what is not: a turn is kept whole by `commit` and lost whole by `abort`.
The ledger beside the log stands for the state machine: what was applied, in order.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class _Meta:
    term: int = 0
    voted_for: str | None = None
    applied: int = 0


class MemoryTurn:
    """The current turn on a disk in memory (`quorate.consensus.journal.LogTurn`). Beside the log
    it holds `ledger`, the state machine: what was applied, in order."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, bytes]] = []
        self.ledger: list[tuple[int, bytes]] = []
        self.meta = _Meta()
        self.unchanged = 0

    def log_first(self) -> int:
        return 1

    def log_last(self) -> tuple[int, int]:
        return (len(self.entries), self.entries[-1][0]) if self.entries else (0, 0)

    def log_get(self, index: int) -> tuple[int, bytes] | None:
        return self.entries[index - 1] if 1 <= index <= len(self.entries) else None

    def log_slice(
        self, first: int, last_exclusive: int, max_bytes: int
    ) -> list[tuple[int, int, bytes]]:
        found: list[tuple[int, int, bytes]] = []
        for index in range(max(1, first), min(last_exclusive, len(self.entries) + 1)):
            term, command = self.entries[index - 1]
            max_bytes -= len(command)
            if found and max_bytes < 0:
                break
            found.append((index, term, command))
        return found

    def log_append(self, index: int, term: int, command: bytes) -> None:
        assert index == len(self.entries) + 1, "the log has no holes"
        self.entries.append((term, command))

    def log_truncate_from(self, index: int) -> None:
        del self.entries[index - 1 :]
        self.unchanged = min(self.unchanged, index - 1)

    def term(self) -> int:
        return self.meta.term

    def voted_for(self) -> str | None:
        return self.meta.voted_for

    def set_term_and_vote(self, term: int, voted_for: str | None) -> None:
        assert term >= self.meta.term, "a term is never taken back"
        self.meta = _Meta(term, voted_for, self.meta.applied)

    @property
    def applied_index(self) -> int:
        return self.meta.applied

    def set_applied(self, index: int) -> None:
        assert index >= self.meta.applied, "an entry is applied once"
        self.meta = _Meta(self.meta.term, self.meta.voted_for, index)


class MemoryLogStore:
    """A disk in memory: what is committed stays, the rest of the turn is lost by `abort`."""

    def __init__(self) -> None:
        self.turn = MemoryTurn()
        self.entries: list[tuple[int, bytes]] = []
        self.ledger: list[tuple[int, bytes]] = []
        self.meta = _Meta()
        self.commits = 0

    def commit(self) -> None:
        turn = self.turn
        self.entries[turn.unchanged :] = turn.entries[turn.unchanged :]
        self.ledger.extend(turn.ledger[len(self.ledger) :])
        self.meta = turn.meta
        turn.unchanged = len(self.entries)
        self.commits += 1

    def abort(self) -> None:
        turn = self.turn
        turn.entries[turn.unchanged :] = self.entries[turn.unchanged :]
        del turn.ledger[len(self.ledger) :]
        turn.meta = self.meta
        turn.unchanged = len(self.entries)
