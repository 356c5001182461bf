"""Receiving a snapshot of another node: staged a part at a time, then installed at once.

Owns what is staged and that nobody sees it before it is installed: the state in the slot that is
not live, the ledger behind its own end. Everything staged is durable with its turn, so that a
crash costs no more than the last part, and a turn that is given up leaves what was there before.
Does not own whether a snapshot is to be trusted: the caller compares root and digest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from quorate.core.errors import MalformedError
from quorate.core.store import Reader
from quorate.proofs import merkle
from quorate.storage import layout
from quorate.storage.layout import number, tree_key
from quorate.storage.reads import StateReader
from quorate.storage.seal import StateDigest
from quorate.storage.writes import Writes

_NUMBER_BYTES: Final = 8
_IS_COMPLETE: Final = b"\x01"


@dataclass(frozen=True, slots=True)
class Staged:
    """How far a snapshot has come.

    index: the Raft index that it reflects. ledger_size: how many entries its ledger has.
    after_key: the last key of the state that is staged; None: none is yet.
    ledger_next: the entry of the ledger that is to be staged next.
    """

    index: int
    ledger_size: int
    after_key: bytes | None
    is_state_complete: bool
    ledger_next: int

    @property
    def is_complete(self) -> bool:
        """Whether everything is there, so that it can be compared and installed."""
        return self.is_state_complete and self.ledger_next >= self.ledger_size


class Receiving(Writes):
    """What a turn does with a snapshot that comes in, and with the ledger's end."""

    __slots__ = ()

    # -- the ledger ---------------------------------------------------------------------------

    def append_ledger(self, entry: bytes) -> int:
        """Appends an entry and its leaf; returns its seq.

        What was staged there is what somebody has sent, and nobody has vouched for. It is replaced;
        when it was something else, all that was staged is given up, and `has_remains`.
        """
        seq, end = self.ledger_size, self._ledger_next()
        if seq < end and self._get(self._dbs.ledger, number(seq)) != entry:
            self.discard_staging(0)
        self._put_entry(seq, entry, append=seq >= end)
        self._put(self._dbs.meta, layout.META_LEDGER_SIZE, number(seq + 1))
        self._ledger_size = seq + 1
        return seq

    def _put_entry(self, seq: int, entry: bytes, *, append: bool) -> None:
        """Writes every node of the tree that the entry completes, also where it was staged: those
        above its leaf may be of what another has replaced."""
        self._put_raw(self._dbs.ledger, number(seq), entry, append=append)
        merkle.append(self, seq, merkle.leaf_hash(entry))

    def _ledger_next(self) -> int:
        """The end of the ledger as it lies on the disk, staged entries and all."""
        return max(self.ledger_size, self._number(layout.META_LEDGER_STAGED))

    # -- staging ------------------------------------------------------------------------------

    def staged(self) -> Staged | None:
        """The snapshot that is being received, durably begun; None: there is none."""
        record = self._read(self._dbs.meta, layout.META_STAGING)
        if record is None:
            return None
        numbers, rest = record[: 2 * _NUMBER_BYTES], record[2 * _NUMBER_BYTES :]
        return Staged(
            index=int.from_bytes(numbers[:_NUMBER_BYTES], "big"),
            ledger_size=int.from_bytes(numbers[_NUMBER_BYTES:], "big"),
            after_key=rest[1:] or None,
            is_state_complete=rest[:1] == _IS_COMPLETE,
            ledger_next=self._ledger_next(),
        )

    def stage_begin(self, index: int, ledger_size: int) -> None:
        """Begins a snapshot. One that was begun before is forgotten; entries of the ledger that it
        staged stay staged, for every snapshot has the same."""
        assert index > self.applied_index, "a snapshot leads further than the store is"
        assert ledger_size >= self.ledger_size, "the ledger never shrinks"
        assert not self.has_remains, "what was given up is gone"
        self._state_clear(self._idle_slot())
        self._put_staging(index, ledger_size, None, is_complete=False)

    def stage_state(self, pairs: Sequence[tuple[bytes, bytes]], *, done: bool) -> None:
        """Stages the next pairs of the state; `done`: they are the last.

        Raises `MalformedError`, with nothing written, for keys that do not ascend from what is
        staged, or that no state can have.
        """
        staged = self.staged()
        assert staged is not None, "a snapshot is being received"
        assert not staged.is_state_complete, "its state is not whole yet"
        last = staged.after_key or b""
        for key, _ in pairs:
            if not last < key or len(key) > layout.MAX_STATE_KEY_BYTES:
                raise MalformedError("keys of the state do not ascend, or are too long")
            last = key
        slot = self._idle_slot()
        for key, value in pairs:
            self._state_put(slot, key, value)
        self._put_staging(staged.index, staged.ledger_size, last or None, is_complete=done)

    def stage_ledger(self, first: int, entries: Sequence[bytes]) -> None:
        """Stages the next entries of the ledger, the first of them being entry `first`.

        Raises `MalformedError`, with nothing written, when they are not what comes next, or lead
        beyond the snapshot.
        """
        staged = self.staged()
        assert staged is not None, "a snapshot is being received"
        if first != staged.ledger_next or first + len(entries) > staged.ledger_size:
            raise MalformedError("entries of the ledger are not those that come next")
        for seq, entry in enumerate(entries, start=first):
            self._put_entry(seq, entry, append=True)
        end = first + len(entries)
        self._put(self._dbs.meta, layout.META_LEDGER_STAGED, number(end))

    def staged_root(self, size: int) -> bytes:
        """The root of the first `size` entries, staged ones among them."""
        assert size <= self._ledger_next(), "no more is staged"
        return merkle.root(self, size)

    @property
    def staged_state(self) -> Reader:
        """The state as far as it is staged, to be looked at before it is used."""
        return StateReader(self, is_staged=True)

    @property
    def present_state(self) -> Reader:
        """The state that the staged one is to replace, to be held against it. To look at it begins
        no write transaction."""
        return StateReader(self)

    def staged_state_digest(self) -> StateDigest:
        """The digest of the state as far as it is staged."""
        return self._digest_of(self._idle_slot())

    # -- an end -------------------------------------------------------------------------------

    def _install_staged(self, index: int, ledger_size: int) -> None:
        """Makes the staged state and ledger those that everybody reads."""
        staged = self.staged()
        assert staged is not None, "a snapshot is being received"
        assert staged.is_complete, "all of it is there"
        assert (staged.index, staged.ledger_size) == (index, ledger_size), "it is this snapshot"
        assert ledger_size >= self.ledger_size, "the ledger never shrinks"
        slot = self._idle_slot()
        self._put(self._dbs.meta, layout.META_SLOT, slot)
        self._slot = slot
        self._put(self._dbs.meta, layout.META_LEDGER_SIZE, number(ledger_size))
        self._ledger_size = ledger_size
        self._delete(self._dbs.meta, layout.META_STAGING)

    def clear_idle_slot(self) -> bool:
        """Frees the pages of the state that an installed snapshot has replaced; False when there
        is nothing to free. For a turn of its own, after that of the installation."""
        slot = self._idle_slot()
        if self.staged() is not None or self._digest_of(slot) == StateDigest():
            return False
        self._state_clear(slot)
        return True

    @property
    def has_remains(self) -> bool:
        """Whether entries of the ledger are left of a snapshot that was given up. They are nobody's
        to use: `discard_staging` takes them away."""
        return self._ledger_next() > self.ledger_size and self.staged() is None

    def discard_staging(self, most: int) -> bool:
        """Forgets the snapshot that was being received, and removes at most `most` of the staged
        entries of the ledger, the newest first. True when none is left: call it until then."""
        if self.staged() is not None:
            self._delete(self._dbs.meta, layout.META_STAGING)
            self._state_clear(self._idle_slot())
        end = self._ledger_next()
        begin = max(self.ledger_size, end - most)
        for seq in reversed(range(begin, end)):
            self._remove_last(seq)
        if begin < end:
            self._put(self._dbs.meta, layout.META_LEDGER_STAGED, number(begin))
        return begin == self.ledger_size

    def _remove_last(self, seq: int) -> None:
        """Takes back what appending entry `seq` wrote."""
        self._delete(self._dbs.ledger, number(seq))
        level, index = 0, seq
        self._delete(self._dbs.tree, tree_key(level, index))
        while index & 1:
            level, index = level + 1, index >> 1
            self._delete(self._dbs.tree, tree_key(level, index))

    def _put_staging(
        self, index: int, ledger_size: int, after_key: bytes | None, *, is_complete: bool
    ) -> None:
        state = (_IS_COMPLETE if is_complete else b"\0") + (after_key or b"")
        record = number(index) + number(ledger_size) + state
        self._put(self._dbs.meta, layout.META_STAGING, record)
