"""The disks of simulated machines: a real LMDB environment each, and what is known to be on it.

Owns the faults of a disk, and `Shadow`, a copy of what has become durable, so that promises can be
checked turn by turn without reading everything back; `Disk.compare` holds the copy to the truth.
The LMDB environment is opened once for each machine: a crash throws away the objects above it and
everything that was not committed, which is all that a process loses.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Final

import lmdb

from quorate.consensus.configuration import CONFIGURATION, Configuration
from quorate.core.errors import StorageFullError
from quorate.storage import Environment, Snapshot
from quorate.storage.health import Health
from quorate.storage.layout import Databases
from quorate.storage.turn import Turn
from quorate.testing.simulation.world import require

_MAP_BYTES: Final = 256 * 1024 * 1024
_READ_BACK: Final = 8


class Full(Enum):
    """Where a full disk shows."""

    NOT = "not"
    AT_WRITE = "at write"
    AT_COMMIT = "at commit"


@dataclass
class Shadow:
    """What is durable. `entries`: (term, command) of the log from `base` on. `dropped`: what the
    last commits took from the front of the log. `staged`: entries of the ledger that came with a
    snapshot and do not count yet."""

    base: int = 1
    entries: list[tuple[int, bytes]] = field(default_factory=list)
    dropped: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    term: int = 0
    voted_for: str | None = None
    applied: int = 0
    ledger: list[bytes] = field(default_factory=list)
    staged: dict[int, bytes] = field(default_factory=dict)

    @property
    def last_index(self) -> int:
        return self.base + len(self.entries) - 1

    def entry(self, index: int) -> tuple[int, bytes] | None:
        """The entry at `index`, also when it was dropped just now."""
        position = index - self.base
        if 0 <= position < len(self.entries):
            return self.entries[position]
        return self.dropped.get(index)

    def configurations_after(self, index: int) -> Iterator[Configuration]:
        """Those in the log beyond `index`."""
        for _, command in self.entries[max(0, index + 1 - self.base) :]:
            if command[:1] == CONFIGURATION:
                yield Configuration.decode(command[1:])

    def drop_front(self, count: int) -> None:
        for position in range(count):
            self.dropped[self.base + position] = self.entries[position]
        del self.entries[:count]
        self.base += count

    def copy(self) -> Shadow:
        """The same by itself; what was dropped just now is no part of it."""
        return replace(
            self,
            entries=list(self.entries),
            dropped={},
            ledger=list(self.ledger),
            staged=dict(self.staged),
        )


@dataclass(frozen=True, slots=True)
class Backup:
    """What an operator has of a disk as it was after one commit. path: the store, which nobody
    opens; whoever restores it copies it. shadow: what was durable then."""

    path: Path
    shadow: Shadow


_Change = Callable[[Shadow], None]


class RecordingTurn(Turn):
    """A turn that notes what it writes."""

    __slots__ = ("changes", "disk", "installed", "lowest")

    def __init__(
        self,
        begin: Callable[[bool], lmdb.Transaction[bytes]],
        dbs: Databases,
        health: Health,
        disk: Disk,
    ) -> None:
        super().__init__(begin, dbs, health)
        self.disk = disk
        self.changes: list[_Change] = []
        self.lowest: int | None = None
        self.installed = False

    def _note(self, change: _Change) -> None:
        if self.disk.full is Full.AT_WRITE:
            self.end()
            self._failed = StorageFullError("the map of the environment is full")
            raise self._failed
        self.changes.append(change)

    def _changes_log_from(self, index: int) -> None:
        self.lowest = index if self.lowest is None else min(self.lowest, index)

    # -- the log -----------------------------------------------------------------------------

    def log_append(self, index: int, term: int, command: bytes) -> None:
        super().log_append(index, term, command)
        self._changes_log_from(index)
        self._note(lambda shadow: shadow.entries.append((term, command)))

    def log_truncate_from(self, index: int) -> None:
        super().log_truncate_from(index)
        self._changes_log_from(index)

        def truncate(shadow: Shadow) -> None:
            del shadow.entries[max(0, index - shadow.base) :]

        self._note(truncate)

    def log_drop_below(self, index: int, most: int) -> int:
        count = super().log_drop_below(index, most)
        if count:
            self._note(lambda shadow: shadow.drop_front(count))
        return count

    def log_reset(self, index: int, term: int) -> None:
        def reset(shadow: Shadow) -> None:
            shadow.entries, shadow.base = [], index

        self._note(reset)
        super().log_reset(index, term)

    def set_term_and_vote(self, term: int, voted_for: str | None) -> None:
        super().set_term_and_vote(term, voted_for)

        def set_both(shadow: Shadow) -> None:
            shadow.term, shadow.voted_for = term, voted_for

        self._note(set_both)

    # -- state and ledger --------------------------------------------------------------------

    def append_ledger(self, entry: bytes) -> int:
        seq = super().append_ledger(entry)
        self._note(lambda shadow: shadow.ledger.append(entry))
        return seq

    def set_applied(self, index: int) -> None:
        super().set_applied(index)

        def set_it(shadow: Shadow) -> None:
            shadow.applied = index

        self._note(set_it)

    def stage_ledger(self, first: int, entries: Sequence[bytes]) -> None:
        super().stage_ledger(first, entries)
        held = dict(enumerate(entries, first))
        self._note(lambda shadow: shadow.staged.update(held))

    def install_snapshot(
        self, index: int, term: int, configuration: bytes, ledger_size: int
    ) -> None:
        held = self.log_get(index)
        first = self.log_first()
        super().install_snapshot(index, term, configuration, ledger_size)
        self.installed = True
        if held is not None and held[0] == term:
            self._note(lambda shadow: shadow.drop_front(index - first))

        def install(shadow: Shadow) -> None:
            for seq in range(len(shadow.ledger), ledger_size):
                shadow.ledger.append(shadow.staged[seq])

        self._note(install)

    def end(self) -> None:
        super().end()
        self.changes = []
        self.lowest = None
        self.installed = False


class SimulatedEnvironment(Environment):
    """One process's environment on a `Disk`, for writing."""

    _turn: RecordingTurn

    def __init__(self, disk: Disk) -> None:
        health = Health()
        super().__init__(disk.lmdb, disk.dbs, health, read_only=False)
        self._turn = RecordingTurn(self._begin, disk.dbs, health, disk)
        self._disk = disk

    def room_bytes(self) -> int:
        """The same whatever there is on the disk of the machine that simulates."""
        return _MAP_BYTES

    def commit(self) -> bool:
        disk, turn = self._disk, self._turn
        if disk.full is not Full.NOT and turn.writes:
            self.abort()
            raise StorageFullError("the disk is full (No space left on device)")
        changes, lowest, installed = turn.changes, turn.lowest, turn.installed
        turn.changes, turn.lowest, turn.installed = [], None, False
        if super().commit():
            disk.changed(changes, lowest, installed)
            return True
        return False


class Disk:
    """One machine's disk."""

    def __init__(self, path: Path, sometimes: Counter[str]) -> None:
        opened = Environment.open(path, map_size_bytes=_MAP_BYTES)
        self.lmdb, self.dbs = opened._lmdb, opened._dbs
        self._opened = opened
        self._sometimes = sometimes
        self.shadow = Shadow()
        self.full = Full.NOT
        self.environment: SimulatedEnvironment | None = None
        self.committed: Callable[[], None] = lambda: None
        """Called after every commit; may raise, as if the process ended there."""
        self.lowest_change: int | None = None
        """The lowest index at which the log has changed since somebody looked."""
        self.was_lost = False
        """Whether it stands in the place of one that was lost, or that knew more."""

    @classmethod
    def restored(cls, backup: Backup, path: Path, sometimes: Counter[str]) -> Disk:
        """A disk that holds what the backup does."""
        shutil.copytree(backup.path, path)
        disk = cls(path, sometimes)
        disk.shadow = backup.shadow.copy()
        return disk

    def back_up(self, to: Path) -> Backup:
        """Copies the newest commit, whatever the process is doing, to the new directory `to`."""
        self._opened.backup(to)
        return Backup(to, self.shadow.copy())

    def mount(self) -> SimulatedEnvironment:
        """For a new process: what was not committed is gone."""
        self.unmount()
        self.environment = SimulatedEnvironment(self)
        return self.environment

    def unmount(self) -> None:
        """The process is gone."""
        if self.environment is not None:
            self.environment.abort()
            self.environment = None

    def reader(self) -> Environment:
        """For an edge."""
        return Environment(self.lmdb, self.dbs, Health(), read_only=True)

    def close(self) -> None:
        self.unmount()
        self._opened.close()

    def changed(self, changes: list[_Change], lowest: int | None, installed: bool) -> None:
        """A transaction was committed."""
        shadow = self.shadow
        if lowest is not None:
            is_truncated = lowest <= shadow.last_index and not installed
            self._sometimes["uncommitted entries truncated"] += is_truncated
            known = self.lowest_change
            self.lowest_change = lowest if known is None else min(known, lowest)
        self._sometimes["snapshot installed"] += installed
        base = shadow.base
        for change in changes:
            change(shadow)
        self._sometimes["log compacted"] += shadow.base > base and not installed
        self.committed()

    def take_change(self) -> int | None:
        """The lowest index at which the log has changed since the last call; None: it has not."""
        lowest, self.lowest_change = self.lowest_change, None
        self.shadow.dropped.clear()
        return lowest

    # -- the copy and the truth --------------------------------------------------------------

    def compare(self, owner: str, *, whole: bool = False) -> None:
        """Requires that the disk holds what was made durable; looks at the last few entries, or at
        all."""
        with self.reader().read() as snapshot:
            self._compare_meta(owner, snapshot)
            most = len(self.shadow.entries) if whole else _READ_BACK
            first = max(self.shadow.base, self.shadow.last_index - most + 1)
            held = snapshot.log_slice(first, self.shadow.last_index + 1, 2**40)
            expected = [
                (first + place, *entry)
                for place, entry in enumerate(self.shadow.entries[first - self.shadow.base :])
            ]
            require(held == expected, "the log is what was made durable", owner)
            start = 0 if whole else max(0, len(self.shadow.ledger) - _READ_BACK)
            entries = snapshot.ledger_entries(start, len(self.shadow.ledger))
            require(entries == self.shadow.ledger[start:], "the ledger is durable", owner)

    def _compare_meta(self, owner: str, snapshot: Snapshot) -> None:
        shadow = self.shadow
        held = (
            *(snapshot.term(), snapshot.voted_for(), snapshot.applied_index),
            *(snapshot.ledger_size, snapshot.log_first(), snapshot.log_last()[0]),
        )
        expected = (
            *(shadow.term, shadow.voted_for, shadow.applied, len(shadow.ledger)),
            *(shadow.base, shadow.last_index if shadow.entries else 0),
        )
        require(
            held == expected,
            "term, vote, log and ledger are what was made durable",
            owner,
            f"{held}, not {expected}",
        )
