"""How a node that lags too far gets the state instead of the log: the follower's side, and both.

Owns what is pulled, checked and installed. The receiver pulls one part at a time and makes each
durable, in the turns of its loop, so that neither side holds more than a part in memory, a broken
link costs one part, and a crash at any point leaves the state that was there before. Does not own
what is sent (`snapshot_sender`), how parts are kept (`quorate.storage`), nor when a follower needs
one (`quorate.consensus.followers`).

What is received is used only if its ledger continues this node's own (the Merkle root over both is
the one in the sender's signed checkpoint), if its state is the one that was announced, if every
record of that can be one (`quorate.core.vetting`), and if it can have become of this node's state
(`quorate.core.succession`). The last two are looked at in steps, beforehand: to install is a
matter of a few bytes. Else the sender is refused, what was received is given up, and the node goes
on with what it has. The state itself rests on the sender's word, as its log does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import structlog

from quorate.consensus import PeerError, Replica
from quorate.consensus.configuration import Configuration
from quorate.consensus.messages import (
    Message,
    SnapshotChunk,
    SnapshotMessage,
    SnapshotOffer,
    SnapshotPull,
)
from quorate.core import dsse
from quorate.core.errors import MalformedError, StorageFullError
from quorate.core.records import Node
from quorate.core.state import StateView
from quorate.core.succession import Succession
from quorate.core.vetting import Vetting, read_node
from quorate.node.snapshot_sender import SnapshotSender
from quorate.proofs.checkpoint import Checkpoint, open_checkpoint
from quorate.storage import Environment

__all__ = ["SnapshotReceiver", "SnapshotSender", "Snapshots"]

log = structlog.get_logger(__name__)

MAX_DISCARDED: Final = 1024
"""Entries of the ledger that one turn takes back."""
MAX_VETTED: Final = 500
"""Pairs of the state that one turn looks at, or things that it compares: some 15 ms."""
PULL_AGAIN_S: Final = 1.0
"""A pull without an answer, or without one that can be, is sent again after this."""
REFUSED_S: Final = 10.0
"""How long whoever has sent a whole state that is none is asked for no other: it cost both much."""
NO_ROOM_S: Final = 5.0
"""A snapshot for which there was no room is not begun again before this."""
_STEPS_OF_GIVING_UP: Final = 16
"""Transactions in which `give_up` takes away what it can, before it leaves the rest for later."""


class SnapshotReceiver:
    """The follower's side."""

    def __init__(
        self,
        environment: Environment,
        clock: Callable[[], float],
        origin: str,
        node_id: str,
        own_keys: tuple[bytes, bytes],
    ) -> None:
        """own_keys: of signing and log, the public ones of this node, which every state that knows
        it must give it."""
        self._environment = environment
        self._clock = clock
        self._origin = origin
        self._node_id = node_id
        self._own_keys = own_keys[0].hex(), own_keys[1].hex()
        self._from: str | None = None
        self._offer: SnapshotOffer | None = None
        self._announced: bytes | None = None  # the digest of the state that is staged, if known
        self._asked_at = float("-inf")
        self._has_asked = False
        self._vetting: Vetting | None = None
        self._is_vetted = False
        self._succession: Succession | None = None
        self._compared_at = -1  # the applied index of the state that it is compared with
        self._is_compared = False
        self._problem = ""  # of what is staged; it is refused in a turn of its own
        self._is_tidy = False
        self._not_before = float("-inf")
        self._refused: dict[str, float] = {}  # whose snapshots were of no use, and when

    @property
    def sender(self) -> str:
        """Whose snapshot is being received; empty: nobody's."""
        return self._from or ""

    def on_offer(self, peer: str, offer: SnapshotOffer, nodes: Mapping[str, Node]) -> None:
        """The leader offers what this node lacks. The same snapshot goes on where it stopped, also
        from another leader; another one begins anew, but for the ledger, which only grows. Raises
        PeerError for an offer that cannot be."""
        turn = self._environment.turn
        is_known = self._offer == offer and self._from == peer
        if is_known and turn.staged() is not None:  # else what was staged was something else
            return
        self._is_tidy = False
        if turn.has_remains or self._clock() < self._not_before:
            return  # `tidy` takes away what was given up, first
        if self._clock() - self._refused.get(peer, float("-inf")) < REFUSED_S:
            return
        _check_extent(offer, turn.applied_index, turn.ledger_size)
        Configuration.decode(offer.configuration)
        if peer in nodes:
            self._checkpoint(offer, nodes[peer])
        staged = turn.staged()
        held = None if staged is None else (staged.index, staged.ledger_size)
        is_same_state = self._announced in (None, offer.state_digest)
        if held != (offer.index, offer.ledger_size) or not is_same_state:
            turn.stage_begin(offer.index, offer.ledger_size)
            log.info("snapshot.begun", peer=peer, index=offer.index, entries=offer.ledger_size)
        self._from, self._offer, self._has_asked = peer, offer, False
        self._announced = offer.state_digest
        self._vet_anew()
        self._meet_sender(peer, offer)

    def _meet_sender(self, peer: str, offer: SnapshotOffer) -> None:
        """Once the state is here, it knows its sender, also one that this node has not met: the
        checkpoint is good before any entry of the ledger is taken in."""
        turn = self._environment.turn
        staged = turn.staged()
        if staged is None or not staged.is_state_complete:
            return
        try:
            sender = read_node(turn.staged_state, peer)
            if sender is None:
                raise PeerError("a snapshot in which its sender is no member")
            self._checkpoint(offer, sender)
        except MalformedError as error:
            self._refuse()
            raise PeerError(f"a snapshot with an odd record of its sender: {error}") from error
        except PeerError:
            self._refuse()
            raise

    def _checkpoint(self, offer: SnapshotOffer, sender: Node) -> Checkpoint:
        try:
            log_key = dsse.parse_public_key(sender.log_key)
            checkpoint = open_checkpoint(offer.checkpoint, self._origin, log_key)
        except MalformedError as error:
            raise PeerError(f"a snapshot with no good checkpoint: {error}") from error
        if checkpoint.size != offer.ledger_size:
            raise PeerError("a snapshot whose checkpoint is of another ledger size")
        return checkpoint

    def on_chunk(self, peer: str, chunk: SnapshotChunk) -> None:
        """Takes in the part that was asked for; any other is dropped. Raises PeerError for a part
        that cannot be."""
        turn = self._environment.turn
        staged, wanted, offer = turn.staged(), self._next_part(), self._offer
        if offer is None or staged is None or peer != self._from or not self._has_asked:
            return
        if wanted is None or _position(chunk) != _position(wanted) or staged.is_complete:
            return
        if not chunk.entries and not chunk.pairs and (chunk.is_ledger or not chunk.is_last):
            raise PeerError("a part of a snapshot that leads nowhere")
        if turn.staged_state_digest().count + len(chunk.pairs) > offer.state_count:
            self._refuse()
            raise PeerError("a snapshot of more records than were announced")
        try:
            if chunk.is_ledger:
                turn.stage_ledger(chunk.ledger_from, chunk.entries)
            else:
                turn.stage_state(chunk.pairs, done=chunk.is_last)
        except MalformedError as error:
            raise PeerError(f"a part of a snapshot that cannot be: {error}") from error
        self._has_asked = False
        if not chunk.is_ledger:
            self._vet_anew()
            self._meet_sender(peer, offer)

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
        """When all is here, and the state is still being looked at, what is behind the last part:
        for whoever pulls, the sender keeps the log from this snapshot on."""
        staged, offer = self._environment.turn.staged(), self._offer
        if staged is None or offer is None:
            return None
        if not staged.is_state_complete:
            return SnapshotPull(offer.term, offer.index, False, staged.after_key or b"", 0)
        if staged.ledger_next < offer.ledger_size or self.is_vetting:
            return SnapshotPull(offer.term, offer.index, True, b"", staged.ledger_next)
        return None

    # -- before it is used -------------------------------------------------------------------

    @property
    def is_vetting(self) -> bool:
        """Whether there is a state to be looked at, and more of it."""
        if self._offer is None or self._is_good or self._problem:
            return False
        staged = self._environment.turn.staged()
        return staged is not None and staged.is_state_complete

    @property
    def _is_good(self) -> bool:
        """Whether the state was looked at, and compared with the one that this node has now."""
        is_newest = self._compared_at == self._environment.turn.applied_index
        return self._is_vetted and self._is_compared and is_newest

    def vet(self) -> None:
        """Looks at the next part of a state that has come in whole, while the ledger still does:
        first by itself, then beside the state that this node has."""
        if not self.is_vetting:
            return
        if self._vetting is None:
            assert self._offer is not None, "or there is nothing to be looked at"
            staged = self._environment.turn.staged_state
            self._vetting = Vetting(staged, self._offer.ledger_size)
        try:
            if self._is_vetted:
                self._compare()
            else:
                self._is_vetted = self._vetting.step(MAX_VETTED)
        except MalformedError as error:
            which = "that does not follow from here" if self._is_vetted else "whose state is none"
            self._problem = f"a snapshot {which}: {error}"

    def _compare(self) -> None:
        """What was compared with a state that has changed since is compared anew. Each time, this
        node has executed at least an entry more; when that of the snapshot is among them, the
        snapshot is overtaken. So it ends, with the one or the other."""
        turn = self._environment.turn
        if self._succession is None or self._compared_at != turn.applied_index:
            self._succession = Succession(turn.present_state, turn.staged_state)
            self._compared_at = turn.applied_index
        self._is_compared = self._succession.step(MAX_VETTED)

    def _vet_anew(self) -> None:
        self._vetting, self._is_vetted, self._problem = None, False, ""
        self._succession, self._compared_at, self._is_compared = None, -1, False

    def is_complete(self) -> bool:
        """Whether everything is here and was looked at, or enough to know that it will not do; once
        that is durable, `install` it before anything else."""
        offer = self._offer
        if offer is None:
            return False
        staged = self._environment.turn.staged()
        if staged is None or staged.index != offer.index:
            return False
        return bool(self._problem) or (staged.is_complete and self._is_good)

    def is_overtaken(self, replica: Replica) -> bool:
        """Whether the log has brought meanwhile what the snapshot would."""
        offer = self._offer
        return offer is not None and replica.holds(offer.index, offer.index_term)

    def install(self) -> None:
        """Puts the snapshot in the place of state and log, in the store's turn: the caller commits
        it, alone, and builds everything anew that knew the old ones. Raises PeerError, having
        given up what was received, when it is not what it should be."""
        offer, peer = self._offer, self._from
        assert offer is not None
        assert peer is not None
        assert self.is_complete(), "nothing has changed since it was looked at"
        try:
            if self._problem:
                self._refused[peer] = self._clock()
                raise PeerError(self._problem)
            self._check(peer, offer)
        except PeerError:
            self._refuse()
            raise
        self.abandon()
        self._announced = None
        self._environment.turn.install_snapshot(
            offer.index, offer.index_term, offer.configuration, offer.ledger_size
        )
        log.info("snapshot.installed", peer=peer, index=offer.index, entries=offer.ledger_size)

    def _check(self, peer: str, offer: SnapshotOffer) -> None:
        """Holds what is here, whoever sent its parts, against what this sender has announced and
        signed, and against what this node has itself."""
        turn = self._environment.turn
        # Again: this node's ledger has grown meanwhile, and an honest offer still leads on.
        _check_extent(offer, turn.applied_index, turn.ledger_size)
        if turn.staged_state_digest().encode() != offer.state_digest:
            raise PeerError("a snapshot whose state is not the one that was announced")
        view = StateView(turn.staged_state)
        own, sender = view.node(self._node_id), view.node(peer)
        if own is not None and (own.signing_key, own.log_key) != self._own_keys:
            raise PeerError("a snapshot in which this node has another key")
        if sender is None:
            raise PeerError("a snapshot in which its sender is no member")
        checkpoint = self._checkpoint(offer, sender)
        if turn.staged_root(offer.ledger_size) != checkpoint.root:
            raise PeerError("a snapshot whose ledger does not continue this node's own")

    # -- an end ------------------------------------------------------------------------------

    def tidy(self) -> None:
        """Clears away what is of no use, a part at a time: what was given up, and the state that an
        installed one has replaced."""
        turn = self._environment.turn
        if turn.has_remains:
            turn.discard_staging(MAX_DISCARDED)
        elif self._offer is None and not self._is_tidy:
            self._is_tidy = not turn.clear_idle_slot()

    def abandon(self) -> None:
        """The link or the leader is gone; what is staged stays for another offer."""
        self._from = self._offer = None
        self._has_asked = False

    def _refuse(self) -> None:
        """What was received is of no use, to whoever offers it again either."""
        self.abandon()
        self._announced = None
        self._environment.turn.discard_staging(MAX_DISCARDED)

    def give_up(self) -> None:
        """The storage is full: what was received goes, for it can be sent again. In transactions of
        its own, as far as so many get; where one finds no room, a smaller one is tried."""
        self.abandon()
        self._announced = None
        turn, most = self._environment.turn, MAX_DISCARDED
        for _ in range(_STEPS_OF_GIVING_UP):
            if turn.staged() is None and not turn.has_remains:
                return
            self._not_before = self._clock() + NO_ROOM_S
            try:
                turn.discard_staging(most)
                self._environment.commit()
                most = MAX_DISCARDED
            except StorageFullError:
                self._environment.abort()
                if most == 0:
                    return
                most //= 8


def _check_extent(offer: SnapshotOffer, applied_index: int, ledger_size: int) -> None:
    """Raises PeerError for what this node's ledger cannot grow to: each command makes one entry of
    it, at most."""
    if offer.index <= applied_index or offer.ledger_size < ledger_size:
        raise PeerError("a snapshot that leads back")
    if offer.ledger_size - ledger_size > offer.index - applied_index:
        raise PeerError("a snapshot with more entries than there were commands")


def _position(part: SnapshotPull | SnapshotChunk) -> tuple[int, int, bool, bytes, int]:
    return part.term, part.index, part.is_ledger, part.state_after, part.ledger_from


class Snapshots:
    """Both sides of one node: what its turns need of them."""

    def __init__(self, sender: SnapshotSender, receiver: SnapshotReceiver) -> None:
        self.sender = sender
        self.receiver = receiver
        self._pulls: dict[str, SnapshotPull] = {}
        self._outbox: list[tuple[str, SnapshotMessage]] = []

    @property
    def has_more(self) -> bool:
        """Whether another turn would get further without any new event."""
        return self.receiver.is_vetting or self.receiver.is_complete()

    def receive(
        self, peer: str, message: Message, replica: Replica, nodes: Mapping[str, Node]
    ) -> None:
        """Takes in a message that Raft has taken in before; of a peer's pulls, the newest is
        answered in this turn. Raises PeerError."""
        match message:
            case SnapshotPull() if replica.is_leader and message.term == replica.term:
                self._pulls[peer] = message
            case SnapshotOffer() if peer == replica.leader and message.term == replica.term:
                if not replica.holds(message.index, message.index_term):
                    self.receiver.on_offer(peer, message, nodes)
            case SnapshotChunk() if peer == replica.leader and message.term == replica.term:
                self.receiver.on_chunk(peer, message)
            case _:
                pass

    def tick(self, replica: Replica) -> None:
        """Sends and asks for what comes next, and gives up what is of no use any more."""
        pulls, self._pulls = self._pulls, {}
        if replica.is_leader:
            self.sender.tidy(lambda peer, index: replica.match_index(peer) >= index)
            for peer, pull in pulls.items():
                chunk = self.sender.on_pull(peer, pull)
                if chunk is not None:
                    self._outbox.append((peer, chunk))
        else:
            self.sender.close()
        if self.receiver.is_overtaken(replica):
            self.receiver.abandon()
        self.receiver.tidy()
        self.receiver.vet()
        wanted = self.receiver.next_pull()
        if wanted is not None:
            self._outbox.append(wanted)

    def take_outbox(self) -> list[tuple[str, SnapshotMessage]]:
        """The turn's messages. Call it only when the turn is durable."""
        outbox, self._outbox = self._outbox, []
        return outbox

    def storage_failed(self) -> None:
        """The turn is void, and this node leads no longer: what it keeps open to send holds pages
        of a store that has no room."""
        self.sender.close()
        self._pulls.clear()
        self._outbox.clear()
