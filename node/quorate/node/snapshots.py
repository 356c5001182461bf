"""How a node that lags too far gets the state instead of the log: both sides of the transfer.

Owns what is offered, pulled, checked and installed. The receiver pulls one part at a time and makes
each durable, in the turns of its loop, so that neither side holds more than a part in memory, a
broken link costs one part, and a crash at any point leaves the state that was there before. The
sender reads from a read transaction of its store: nobody waits for it. Does not own how parts are
kept (`quorate.storage`) nor when a follower needs one (`quorate.consensus.followers`).

What is received is used only if its ledger continues this node's own (the Merkle root over both is
the one in the sender's signed checkpoint), if its state is the one that was announced, and if that
state belongs to this federation. The state itself rests on the sender's word, as its log does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from quorate.consensus import PeerError, Replica
from quorate.consensus.configuration import Configuration
from quorate.consensus.limits import MAX_CHUNK_BYTES, MAX_CHUNK_ITEMS
from quorate.consensus.messages import (
    Message,
    SnapshotChunk,
    SnapshotMessage,
    SnapshotOffer,
    SnapshotPull,
)
from quorate.core.errors import MalformedError, StorageDamagedError
from quorate.core.records import Node
from quorate.core.state import StateView
from quorate.proofs.checkpoint import Checkpoint, open_checkpoint
from quorate.storage import Environment, Snapshot

log = structlog.get_logger(__name__)

MAX_SENDING: Final = 2
"""Snapshots that a leader holds open at once, each for one follower; others wait their turn."""
IDLE_S: Final = 10.0
"""A snapshot that nobody pulls from for this long is given up: it keeps its pages from reuse."""
MAX_AGE_S: Final = 600.0
"""However diligently it is pulled: the newest state is offered then, the ledger goes on."""
WANTED_S: Final = 2.0
"""Who has not been in want of a snapshot for this long waits for none: one is offered with each
heartbeat."""
MAX_DISCARDED: Final = 1024
"""Entries of the ledger that one turn takes back."""
PULL_AGAIN_S: Final = 1.0
"""A pull without an answer is sent again after this."""


@dataclass(slots=True)
class _Sending:
    snapshot: Snapshot
    offer: SnapshotOffer
    begun_at: float
    used_at: float


class SnapshotSender:
    """The leader's side. Times are seconds of the node's boot clock."""

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
        self._sending[peer] = _Sending(snapshot, offer, self._clock(), self._clock())
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
        offer tells the follower."""
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
            is_last = pull.ledger_from + len(entries) >= size
        else:
            state = snapshot.state_page(pull.state_after or None, MAX_CHUNK_BYTES)
            pairs = tuple(state[:MAX_CHUNK_ITEMS])
            is_last = not pairs or not snapshot.state_page(pairs[-1][0], 1)
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

    def floor(self, otherwise: int) -> int:
        """The log is kept from here on: who installs a snapshot goes on with the log behind it."""
        return min([otherwise, *(each.offer.index for each in self._sending.values())])

    def tidy(self, installed: Callable[[str, int], bool]) -> None:
        """Gives up what nobody pulls any more. installed: (peer, index) -> whether it has it."""
        now = self._clock()
        for peer, sending in list(self._sending.items()):
            is_stale = now - sending.used_at > IDLE_S or now - sending.begun_at > MAX_AGE_S
            if installed(peer, sending.offer.index):
                self._given_up_at.pop(peer, None)
                self._end(peer)
            elif is_stale:
                self._given_up_at[peer] = now
                self._end(peer)

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


class SnapshotReceiver:
    """The follower's side."""

    def __init__(
        self, environment: Environment, clock: Callable[[], float], origin: str, genesis_hash: str
    ) -> None:
        self._environment = environment
        self._clock = clock
        self._origin = origin
        self._genesis_hash = genesis_hash
        self._from: str | None = None
        self._offer: SnapshotOffer | None = None
        self._asked_at = float("-inf")
        self._has_asked = False
        self._is_discarding = False
        self._is_tidy = False

    @property
    def is_receiving(self) -> bool:
        return self._offer is not None

    def on_offer(self, peer: str, offer: SnapshotOffer, nodes: Mapping[str, Node]) -> None:
        """The leader offers what this node lacks. The same snapshot goes on where it stopped, also
        from another leader; another one begins anew, but for the ledger, which only grows. Raises
        PeerError for an offer that cannot be."""
        turn = self._environment.turn
        is_known = self._offer == offer and self._from == peer
        if is_known and turn.staged() is not None:  # else what was staged was something else
            return
        self._is_tidy = False
        if self._is_discarding:
            return
        if offer.index <= turn.applied_index or offer.ledger_size < turn.ledger_size:
            raise PeerError("a snapshot that leads back")
        Configuration.decode(offer.configuration)
        sender = nodes.get(peer)
        if sender is not None:
            self._checkpoint(offer, bytes.fromhex(sender.log_key))
        staged = turn.staged()
        if staged is None or (staged.index, staged.ledger_size) != (offer.index, offer.ledger_size):
            turn.stage_begin(offer.index, offer.ledger_size)
            log.info("snapshot.begun", peer=peer, index=offer.index, entries=offer.ledger_size)
        self._from, self._offer, self._has_asked = peer, offer, False

    def _checkpoint(self, offer: SnapshotOffer, log_key: bytes) -> Checkpoint:
        try:
            checkpoint = open_checkpoint(offer.checkpoint, self._origin, log_key)
        except MalformedError as error:
            raise PeerError(f"a snapshot with no good checkpoint: {error}") from error
        if checkpoint.size != offer.ledger_size:
            raise PeerError("a snapshot whose checkpoint is of another ledger size")
        return checkpoint

    def on_chunk(self, peer: str, chunk: SnapshotChunk) -> None:
        """Takes in the part that was asked for; any other is dropped. Raises PeerError for a part
        that cannot be."""
        wanted = self._next_part()
        offer = self._offer
        if offer is None or wanted is None or peer != self._from or not self._has_asked:
            return
        if _position(chunk) != _position(wanted):
            return
        self._has_asked = False
        if not chunk.entries and not chunk.pairs and (chunk.is_ledger or not chunk.is_last):
            raise PeerError("a part of a snapshot that leads nowhere")
        try:
            if chunk.is_ledger:
                self._environment.turn.stage_ledger(chunk.ledger_from, chunk.entries)
            else:
                self._environment.turn.stage_state(chunk.pairs, done=chunk.is_last)
        except MalformedError as error:
            raise PeerError(f"a part of a snapshot that cannot be: {error}") from error

    def next_pull(self) -> tuple[str, SnapshotPull] | None:
        """The question for the next part, once, and again when it was not answered."""
        if self._from is None:
            return None
        now = self._clock()
        if self._has_asked and now - self._asked_at < PULL_AGAIN_S:
            return None
        pull = self._next_part()
        if pull is None:
            return None
        self._has_asked, self._asked_at = True, now
        return self._from, pull

    def next_due_s(self) -> float:
        """When a pull has to be sent again; never, when nothing is received."""
        waits = self._offer is not None and self._has_asked
        return self._asked_at + PULL_AGAIN_S if waits else float("inf")

    def _next_part(self) -> SnapshotPull | None:
        staged, offer = self._environment.turn.staged(), self._offer
        if staged is None or offer is None:
            return None
        if not staged.is_state_complete:
            return SnapshotPull(offer.term, offer.index, False, staged.after_key or b"", 0)
        if staged.ledger_next < offer.ledger_size:
            return SnapshotPull(offer.term, offer.index, True, b"", staged.ledger_next)
        return None

    def is_complete(self) -> bool:
        """Whether everything is here; once that is durable, `install` it before anything else."""
        offer = self._offer
        if offer is None:
            return False
        staged = self._environment.turn.staged()
        return staged is not None and staged.is_complete and staged.index == offer.index

    def is_overtaken(self, replica: Replica) -> bool:
        """Whether the log has brought meanwhile what the snapshot would."""
        offer = self._offer
        return offer is not None and replica.holds(offer.index, offer.index_term)

    def install(self) -> None:
        """Puts the snapshot in the place of state and log, in the store's turn: the caller commits
        it, alone, and builds everything anew that knew the old ones. Raises PeerError, having
        dropped what was received, when it is not what it should be."""
        offer, self._offer, peer, self._from = self._offer, None, self._from, None
        assert offer is not None
        assert peer is not None
        turn = self._environment.turn
        try:
            self._check(peer, offer)
        except PeerError:
            self._is_discarding = True
            raise
        turn.install_snapshot(offer.index, offer.index_term, offer.configuration, offer.ledger_size)
        log.info("snapshot.installed", peer=peer, index=offer.index, entries=offer.ledger_size)

    def _check(self, peer: str, offer: SnapshotOffer) -> None:
        turn = self._environment.turn
        view = StateView(turn.staged_state)
        if turn.staged_state_digest().encode() != offer.state_digest:
            raise PeerError("a snapshot whose state is not the one that was announced")
        if not view.installed():
            raise PeerError("a snapshot of no federation")
        try:
            federation, sender = view.federation(), view.node(peer)
        except StorageDamagedError as error:  # of what was sent: this node's own state is whole
            raise PeerError(f"a snapshot with a record that is none: {error}") from error
        if (federation.origin, federation.genesis_hash) != (self._origin, self._genesis_hash):
            raise PeerError("a snapshot of another federation")
        if sender is None:
            raise PeerError("a snapshot in which its sender is no member")
        checkpoint = self._checkpoint(offer, bytes.fromhex(sender.log_key))
        if turn.staged_root(offer.ledger_size) != checkpoint.root:
            raise PeerError("a snapshot whose ledger does not continue this node's own")

    def tidy(self) -> None:
        """Clears away what is of no use, a part at a time: what was received and is wrong, and the
        state that an installed one has replaced."""
        turn = self._environment.turn
        if self._is_discarding:
            self._is_discarding = not turn.discard_staging(MAX_DISCARDED)
        elif self._offer is None and not self._is_tidy:
            self._is_tidy = not turn.clear_idle_slot()

    def abandon(self) -> None:
        """The link or the leader is gone; what is staged stays for another offer."""
        self._from = self._offer = None
        self._has_asked = False


def _position(part: SnapshotPull | SnapshotChunk) -> tuple[int, int, bool, bytes, int]:
    return part.term, part.index, part.is_ledger, part.state_after, part.ledger_from


class Snapshots:
    """Both sides of one node: what its turns need of them."""

    def __init__(self, sender: SnapshotSender, receiver: SnapshotReceiver) -> None:
        self.sender = sender
        self.receiver = receiver
        self._outbox: list[tuple[str, SnapshotMessage]] = []

    def receive(
        self, peer: str, message: Message, replica: Replica, nodes: Mapping[str, Node]
    ) -> None:
        """Takes in a message that Raft has taken in before. Raises PeerError."""
        match message:
            case SnapshotPull() if replica.is_leader and message.term == replica.term:
                chunk = self.sender.on_pull(peer, message)
                if chunk is not None:
                    self._outbox.append((peer, chunk))
            case SnapshotOffer() if peer == replica.leader and message.term == replica.term:
                if not replica.holds(message.index, message.index_term):
                    self.receiver.on_offer(peer, message, nodes)
            case SnapshotChunk() if peer == replica.leader and message.term == replica.term:
                self.receiver.on_chunk(peer, message)
            case _:
                pass

    def tick(self, replica: Replica) -> None:
        """Asks for the next part, and gives up what is of no use any more."""
        if replica.is_leader:
            self.sender.tidy(lambda peer, index: replica.match_index(peer) >= index)
        else:
            self.sender.close()
        if self.receiver.is_overtaken(replica):
            self.receiver.abandon()
        self.receiver.tidy()
        pull = self.receiver.next_pull()
        if pull is not None:
            self._outbox.append(pull)

    def take_outbox(self) -> list[tuple[str, SnapshotMessage]]:
        """The turn's messages. Call it only when the turn is durable."""
        outbox, self._outbox = self._outbox, []
        return outbox
