"""Writing: the one write transaction that a turn of the node's loop fills.

Owns what a write is made of and the values cached between writes. Does not decide when a turn ends
(see `quorate.storage.environment.Environment.commit`), and never commits by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from quorate.core.store import Writer
from quorate.storage import layout
from quorate.storage.layout import number
from quorate.storage.reads import StateReader
from quorate.storage.receiving import Receiving

MAX_PROBATION_BYTES: Final = 256


class Turn(Receiving):
    """The current turn: reads see the writes before them; all of it is committed, or none.

    There is one object for the life of the environment (see `quorate.storage.writes.Writes` for
    when it begins a transaction, and for what a failed write does to it).

    Used from one thread: LMDB's write lock belongs to the thread that took it.
    """

    __slots__ = ()

    # -- the state ----------------------------------------------------------------------------

    @property
    def state(self) -> Writer:
        return StateWriter(self)

    def set_applied(self, index: int) -> None:
        """The state and the ledger of this turn reflect the Raft log up to `index`."""
        assert index >= self.applied_index, "an entry is applied once"
        self._put(self._dbs.meta, layout.META_APPLIED, number(index))

    # -- the Raft log -------------------------------------------------------------------------

    def log_last(self) -> tuple[int, int]:
        self._check()
        if self._log_last is None:
            self._log_last = super().log_last()
        return self._log_last

    def log_append(self, index: int, term: int, command: bytes) -> None:
        """Appends an entry; `index` follows the last one. An empty log begins anywhere."""
        last, _ = self.log_last()
        assert index > 0, "the log begins at 1"
        assert last in (0, index - 1), "the log has no gaps"
        self._put(self._dbs.log, number(index), number(term) + command, append=True)
        self._log_last = index, term

    def log_truncate_from(self, index: int) -> None:
        """Removes the entries from `index` on."""
        self._delete_range(self._dbs.log, index, None)
        self._log_last = None

    def log_drop_below(self, index: int, most: int) -> int:
        """Removes at most `most` entries below `index` from the front of the log, but never its
        last one; returns how many."""
        last, _ = self.log_last()
        first = self.log_first()
        end = min(index, first + most, last)
        if end <= first:
            return 0
        self._delete_range(self._dbs.log, first, end)
        return end - first

    def log_reset(self, index: int, term: int) -> None:
        """The log becomes one entry that applies nothing: the base behind an installed snapshot."""
        assert index >= self.log_first(), "the log's base never moves back"
        self._clear(self._dbs.log)
        self._log_last = 0, 0
        self.log_append(index, term, layout.BASE_COMMAND)

    def put_configuration(self, index: int, data: bytes) -> None:
        """Keeps the configuration of the log's entry at `index` beside the log."""
        self._put(self._dbs.configurations, number(index), data)

    def drop_configurations_from(self, index: int) -> None:
        self._delete_range(self._dbs.configurations, index, None)

    def drop_configurations_below(self, index: int) -> None:
        self._delete_range(self._dbs.configurations, 0, index)

    def set_term_and_vote(self, term: int, voted_for: str | None) -> None:
        """Both at once, because a vote means nothing without its term."""
        assert term >= self.term(), "a term is never taken back"
        self._put(self._dbs.meta, layout.META_TERM, number(term))
        self._put(self._dbs.meta, layout.META_VOTED_FOR, (voted_for or "").encode())

    def set_commit_index(self, index: int) -> None:
        self._put(self._dbs.meta, layout.META_COMMIT, number(index))

    # -- a snapshot of another node -------------------------------------------------------------

    def install_snapshot(
        self, index: int, term: int, configuration: bytes, ledger_size: int
    ) -> None:
        """The staged snapshot, complete and compared by the caller, becomes the node's own: its
        state and ledger, what is applied, `configuration` as the one at `index`, and a log that
        begins at (index, term).

        A log that holds this very entry keeps what follows it (Raft, section 7): this node may
        have acknowledged it. `clear_idle_slot` frees what is replaced, in a later turn.
        """
        self._install_staged(index, ledger_size)
        self.set_applied(index)
        held = self.log_get(index)
        if held is not None and held[0] == term:
            self._delete_range(self._dbs.log, 0, index)
            self.drop_configurations_below(index)
        else:
            self.log_reset(index, term)
            self._clear(self._dbs.configurations)
        self.put_configuration(index, configuration)

    # -- the node's own -----------------------------------------------------------------------

    def put_meta(self, name: str, value: bytes) -> None:
        """Keeps a value of the node's own under `name`."""
        self._put(self._dbs.meta, layout.META_OTHER + name.encode(), value)

    def set_probation(self, stage: str) -> None:
        """This store may have forgotten what its node promised, and how far it has come since;
        empty: not any more. What waits for the ledger goes: it may be there since, or never have
        been said."""
        assert len(stage.encode()) <= MAX_PROBATION_BYTES
        if stage:
            self.outbox_drop(self.outbox_next())
            self._put(self._dbs.meta, layout.META_PROBATION, stage.encode())
        else:
            self._delete(self._dbs.meta, layout.META_PROBATION)

    def outbox_append(self, row: bytes) -> int:
        """Appends to what waits for the ledger; returns the row's number, counted from 0."""
        seq = self.outbox_next()
        self._put(self._dbs.outbox, number(seq), row, append=True)
        self._put(self._dbs.meta, layout.META_OUTBOX, number(seq + 1))
        return seq

    def outbox_replace(self, seq: int, row: bytes) -> None:
        """Writes a row that is there anew."""
        assert seq < self.outbox_next(), "only what was appended"
        self._put(self._dbs.outbox, number(seq), row)

    def outbox_drop(self, through: int) -> None:
        """Removes the rows up to number `through`."""
        self._delete_range(self._dbs.outbox, 0, through + 1)


class StateWriter(StateReader):
    """The state of the current turn, as `quorate.core.store.Writer`."""

    __slots__ = ("_turn",)

    def __init__(self, turn: Turn) -> None:
        super().__init__(turn)
        self._turn = turn

    def scan(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        # A scan of a read transaction would end when the first write begins the write transaction.
        self._turn._writing()
        return super().scan(prefix, start)

    def put(self, key: bytes, value: bytes) -> None:
        assert 0 < len(key) <= layout.MAX_STATE_KEY_BYTES, "a key of the state has 1 to 511 bytes"
        self._turn._state_put(self._turn._live_slot(), key, value)

    def delete(self, key: bytes) -> None:
        if 0 < len(key) <= layout.MAX_STATE_KEY_BYTES:
            self._turn._state_delete(self._turn._live_slot(), key)
