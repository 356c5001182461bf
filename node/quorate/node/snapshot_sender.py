"""The leader's side of a snapshot's transfer: what is offered, and the parts that are asked for.

Owns which snapshots are open, for whom, and for how long: each is a read transaction of the store,
and while it is open LMDB uses none of its pages again, and the log is kept from its index on. So
there are few, and each ends when nobody pulls from it, or when whoever pulls gets no further. One
whose follower is away is kept a while longer, as long as it costs nobody anything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from quorate.consensus.limits import MAX_CHUNK_BYTES, MAX_CHUNK_ITEMS
from quorate.consensus.messages import SnapshotChunk, SnapshotOffer, SnapshotPull
from quorate.storage import Environment, Snapshot

log = structlog.get_logger(__name__)

MAX_SENDING: Final = 2
"""Snapshots that a leader holds open at once, each for one follower; others wait their turn."""
AWAY_S: Final = 60.0
"""A snapshot that nobody pulls from for this long is given up: whoever was away for less goes on
where it was."""
IDLE_S: Final = 10.0
"""It is after this, when another follower waits for its place, or when the store has filled up
meanwhile."""
_FILLING_UP: Final = 0.5
"""The share of the room which there was at the offer that is left of a store that fills up."""
MAX_STALLED_S: Final = 600.0
"""As is one from which nothing new was pulled for this long, however often the same part was."""
WANTED_S: Final = 2.0
"""Who has not been in want of a snapshot for this long waits for none: one is offered with each
heartbeat."""

_Place = tuple[bool, bytes, int]
"""How far a transfer has come, in order: (is_ledger, state_after, ledger_from) of a pull."""
_BEGIN: Final[_Place] = (False, b"", 0)


@dataclass(slots=True)
class _Sending:
    """reached: where the furthest part ends that was sent, of those that followed one another.
    room_bytes: how far the store could grow when this was offered."""

    snapshot: Snapshot
    offer: SnapshotOffer
    used_at: float
    advanced_at: float
    room_bytes: int
    reached: _Place = _BEGIN


class SnapshotSender:
    """Times are seconds of the node's boot clock."""

    def __init__(
        self,
        environment: Environment,
        clock: Callable[[], float],
        sign: Callable[[int, bytes], str],
    ) -> None:
        """sign: (ledger size, root) -> this node's signed checkpoint."""
        self._environment = environment
        self._clock = clock
        self._sign = sign
        self._sending: dict[str, _Sending] = {}
        self._wanted_at: dict[str, float] = {}
        self._given_up_at: dict[str, float] = {}

    def offer(self, peer: str, term: int) -> SnapshotOffer | None:
        """What `peer` is to install: the newest durable state, or the one that it pulls already."""
        sending = self._sending.get(peer)
        if sending is not None and sending.offer.term == term:
            return sending.offer
        self._end(peer)
        if not self._is_its_turn(peer):
            return None
        snapshot = self._environment.read_aside()  # for as long as the follower needs
        snapshot.__enter__()
        offer = self._describe(snapshot, term)
        now, room_bytes = self._clock(), self._environment.room_bytes()
        self._sending[peer] = _Sending(snapshot, offer, now, now, room_bytes)
        log.info("snapshot.offered", peer=peer, index=offer.index, entries=offer.ledger_size)
        return offer

    def _is_its_turn(self, peer: str) -> bool:
        """Whether there is room, also for those who have waited longer: who was offered one and
        did not take it waits behind who was not."""
        now = self._clock()
        self._wanted_at[peer] = now
        self._wanted_at = {each: at for each, at in self._wanted_at.items() if now - at < WANTED_S}
        never = float("-inf")
        given_up_at = self._given_up_at.get(peer, never)
        before = [
            each
            for each in self._wanted_at
            if each not in self._sending and self._given_up_at.get(each, never) < given_up_at
        ]
        return len(self._sending) + len(before) < MAX_SENDING

    def _describe(self, snapshot: Snapshot, term: int) -> SnapshotOffer:
        index, size = snapshot.applied_index, snapshot.ledger_size
        held = snapshot.log_get(index)
        assert held is not None, "the log keeps its newest applied entry"
        configuration = max(each for each in snapshot.configurations() if each[0] <= index)[1]
        digest = snapshot.state_digest()
        return SnapshotOffer(
            term=term,
            index=index,
            index_term=held[0],
            configuration=configuration,
            ledger_size=size,
            checkpoint=self._sign(size, snapshot.root()),
            state_count=digest.count,
            state_digest=digest.encode(),
        )

    def on_pull(self, peer: str, pull: SnapshotPull) -> SnapshotChunk | None:
        """The part that was asked for; None when this snapshot is not (any more) held: the next
        offer tells the follower. One part a peer and turn, of MAX_CHUNK_BYTES or one item: so many
        bytes, times MAX_SENDING, are read and sent in a turn, whatever is asked for."""
        sending = self._sending.get(peer)
        if sending is None or (pull.term, pull.index) != (sending.offer.term, sending.offer.index):
            return None
        sending.used_at = self._clock()
        snapshot, size = sending.snapshot, sending.offer.ledger_size
        pairs: tuple[tuple[bytes, bytes], ...] = ()
        entries: tuple[bytes, ...] = ()
        if pull.is_ledger:
            page = snapshot.ledger_page(pull.ledger_from, size, MAX_CHUNK_BYTES)
            entries = tuple(page[:MAX_CHUNK_ITEMS])
            end = pull.ledger_from + len(entries)
            is_last = end >= size
            self._advance(sending, pull, (True, b"", end))
        else:
            state = snapshot.state_page(pull.state_after or None, MAX_CHUNK_BYTES)
            pairs = tuple(state[:MAX_CHUNK_ITEMS])
            is_last = not pairs or not snapshot.state_page(pairs[-1][0], 1)
            self._advance(sending, pull, (False, pairs[-1][0] if pairs else pull.state_after, 0))
        return SnapshotChunk(
            term=pull.term,
            index=pull.index,
            is_ledger=pull.is_ledger,
            state_after=pull.state_after,
            ledger_from=pull.ledger_from,
            pairs=pairs,
            entries=entries,
            is_last=is_last,
        )

    def _advance(self, sending: _Sending, pull: SnapshotPull, end: _Place) -> None:
        """Only a part that follows the furthest one is an advance: a transfer in parts that overlap
        could be drawn out for ever."""
        begin = (pull.is_ledger, pull.state_after, pull.ledger_from)
        if begin >= sending.reached and end > begin:
            sending.reached, sending.advanced_at = end, self._clock()

    def floor(self, otherwise: int) -> int:
        """The log is kept from here on: who installs a snapshot goes on with the log behind it."""
        return min([otherwise, *(each.offer.index for each in self._sending.values())])

    def tidy(self, installed: Callable[[str, int], bool]) -> None:
        """Gives up what nobody pulls any more. installed: (peer, index) -> whether it has it."""
        now = self._clock()
        for peer, sending in list(self._sending.items()):
            if installed(peer, sending.offer.index):
                self._given_up_at.pop(peer, None)
                self._end(peer)
            elif now - sending.advanced_at > MAX_STALLED_S or self._is_idle(sending):
                self._given_up_at[peer] = now
                self._end(peer)

    def _is_idle(self, sending: _Sending) -> bool:
        """Whether nobody pulls from it for longer than may be."""
        idle_s = self._clock() - sending.used_at
        if idle_s <= IDLE_S:
            return False
        room_bytes = self._environment.room_bytes()
        is_filling_up = room_bytes < _FILLING_UP * sending.room_bytes
        return idle_s > AWAY_S or is_filling_up or self._is_in_the_way()

    def _is_in_the_way(self) -> bool:
        """Whether somebody waits for one to end."""
        now = self._clock()
        waits = any(
            now - at < WANTED_S and each not in self._sending
            for each, at in self._wanted_at.items()
        )
        return waits and len(self._sending) >= MAX_SENDING

    def close(self) -> None:
        """Gives up everything: this node leads no longer, or ends."""
        for peer in list(self._sending):
            self._end(peer)
        self._wanted_at.clear()
        self._given_up_at.clear()

    def _end(self, peer: str) -> None:
        sending = self._sending.pop(peer, None)
        if sending is not None:
            sending.snapshot.__exit__(None, None, None)
