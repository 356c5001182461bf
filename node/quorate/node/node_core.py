"""A node without its sockets: one turn takes in messages, decides, makes durable, and only then
says.

Owns the order of a turn over consensus, ledger, authority and store, and what becomes of them when
the storage is full. Sans-I/O but for the store: no event loop, no sockets; time, chance and
messages come from the caller. `core_loop` runs it in a process, `quorate.testing.simulation` in a
simulated federation. Does not own Raft, authority or the ledger, which it drives.

Storage that is full is treated as a crash that the process survives: the turn is void, authority is
given up, and consensus is built anew from the store when there is room again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from quorate.consensus import PeerError, RaftSettings, Replica
from quorate.consensus.limits import MAX_INBOX_BYTES, MAX_INBOX_MESSAGES
from quorate.consensus.wire import decode as decode_raft
from quorate.consensus.wire import encode as encode_raft
from quorate.core import codec, ids, protocol
from quorate.core.errors import ProbationError, StorageFullError
from quorate.core.outcome import Outcome, Reason
from quorate.core.records import Node
from quorate.core.state import StateView
from quorate.core.status import Status
from quorate.core.transitions import outcome_of
from quorate.lease.clock import Clock
from quorate.lease.enforcement import EdgeReports
from quorate.lease.word import AuthorityWord
from quorate.node.authority_keeper import AuthorityKeeper, AuthorityTerms
from quorate.node.authority_wire import decode as decode_authority
from quorate.node.authority_wire import encode as encode_authority
from quorate.node.declaration import Declaration
from quorate.node.lease_commands import LeaseCommands
from quorate.node.ledger_clock import LedgerClock
from quorate.node.machine import LedgerMachine
from quorate.node.membership import LedgerFollower, first_configuration
from quorate.node.newcomer import Newcomer
from quorate.node.outbox import Outbox
from quorate.node.snapshots import SnapshotReceiver, Snapshots, SnapshotSender
from quorate.proofs.checkpoint import Checkpoint, sign_checkpoint
from quorate.proofs.signing import SigningKey
from quorate.storage import Environment
from quorate.v1 import peer_pb2 as pb

log = structlog.get_logger(__name__)

STORAGE_PROBE_S: Final = 0.5
"""How often `probe_storage` should be tried while the storage is full."""

_NS_PER_S: Final = 1_000_000_000
_NS_PER_MS: Final = 1_000_000
_PROBE_BYTES: Final = 256 * 1024
_PROBE_NAME: Final = "probe"


class Observer(Protocol):
    """Who is told what a turn has brought. Everything told is durable."""

    def executed(self, key: bytes, outcome: Outcome) -> None:
        """The envelope of this proposal key (`machine.proposal_key`) has its outcome."""
        ...

    def kept(self, ticket: int) -> None:
        """What the outbox took in up to this ticket is durable."""
        ...

    def grown(self) -> None:
        """The ledger has new entries."""
        ...

    def enforced(self, watermark: int, drained: int) -> None:
        """The Raft indexes up to which everything is enforced, and drained. Told every turn."""
        ...

    def round_confirmed(self, took_ns: int) -> None:
        """A confirm round took so long, from its start to its majority. Told within the turn."""
        ...

    def released(self) -> None:
        """No outcome will be told for the proposals that wait: this node can no longer learn it
        in time."""
        ...

    def members_changed(self) -> None:
        """The state's nodes or domains may be others than before."""
        ...

    def refused(self, peer: str, error: PeerError) -> None:
        """A message that no correct peer can have sent was dropped."""
        ...


class NodeCore:
    """The core of one node.

    Each turn is `decide`, `settle`, `take_outbox`; `turn` does the first two. Another is due at
    once while `has_more`, else at `next_due_s`. While `storage_problem` is not empty there are no
    turns; `probe_storage` ends it. An error that is raised stops the node for good.
    """

    def __init__(
        self,
        *,
        node_id: str,
        settings: RaftSettings,
        environment: Environment,
        word: AuthorityWord,
        clock: Clock,
        boot_id: bytes,
        chance: random.Random,
        first_seq: int,
        signing_key: SigningKey,
        log_key: SigningKey,
        observer: Observer,
        edges: int,
        is_newcomer: Callable[[], bool] = lambda: False,
    ) -> None:
        """chance: spreads election timeouts. first_seq: where asks for authority are counted from,
        drawn anew for every process (see `AuthorityHolder`). is_newcomer: whether
        some may not know who vouches for it (see `Newcomer`)."""
        self.node_id, self.environment = node_id, environment
        self.links_up: set[str] = set()
        self.storage_problem = ""
        self._settings, self._clock, self._chance = settings, clock, chance
        self._log_key = log_key
        self._cached_checkpoint: tuple[int, str] = (-1, "")
        self._observer = observer
        self.edges = EdgeReports(edges)
        self._machine = LedgerMachine(environment)
        self.nodes: dict[str, Node] = {}
        """Every node of the state, retired ones among them."""
        self._inbox: list[tuple[str, pb.PeerMessage]] = []
        self._inbox_bytes = 0
        self._again = True
        self._is_clock_near = True
        with environment.read() as snapshot:
            self._initial = first_configuration(StateView(snapshot.state).nodes())
            self.ledger_clock = LedgerClock(clock, len(self._initial.voters))
            self._probation = snapshot.probation()
            federation = StateView(snapshot.state).federation()
            self.origin = federation.origin
            self.ledger_clock.not_before(federation.ledger_time)
            self.ledger_size = snapshot.ledger_size
            self.durable_applied = snapshot.applied_index
        self.keeper = AuthorityKeeper(
            node_id=node_id,
            peers=[node for node in self._initial.members if node != node_id],
            terms=AuthorityTerms.of(federation.parameters),
            clock=clock,
            boot_id=boot_id,
            word=word,
            federation_time=self.ledger_clock.time,
            first_seq=first_seq,
        )
        self._members = LedgerFollower(self.now_s)
        self._newcomer = Newcomer(node_id, self.now_s, is_newcomer)
        self.keeper.on_probation = lambda: bool(self._probation)
        self.keeper.on_round = observer.round_confirmed
        own_keys = signing_key.public, log_key.public
        self._snapshots = Snapshots(
            SnapshotSender(environment, self.now_s, self._sign_checkpoint),
            SnapshotReceiver(environment, self.now_s, self.origin, node_id, own_keys),
        )
        self.commands = LeaseCommands(self.origin, node_id, signing_key)
        self.outbox = Outbox(environment.turn, self.commands, signing_key, self.now_s)
        self._declaration = Declaration(self.commands, self.now_s)
        self.replica = self._new_replica()
        self._read_members()
        if self._probation:
            log.warning("probation.begins", waits_for="a leader that readmits this node")

    def _new_replica(self) -> Replica:
        replica = Replica(
            node_id=self.node_id,
            initial=self._initial,
            settings=self._settings,
            store=self.environment,
            apply=self._machine.apply,
            stamp=self._stamp,
            clock=self.now_s,
            wall_clock_ms=lambda: self._clock.realtime_ns() // _NS_PER_MS,
            chance=self._chance,
            on_wall_clock=self.ledger_clock.heard,
            may_lead=self._may_lead,
            offer=self._snapshots.sender.offer,
            probation=lambda: self._probation,
            source_of=lambda node: ids.SpiffeId.parse(node).trust_domain,
        )
        for peer in sorted(self.links_up):
            replica.connected(peer)
        return replica

    def _stamp(self, envelope: bytes) -> bytes:
        return codec.stamp(self.ledger_clock.stamp_ms(), envelope)

    def _may_lead(self) -> bool:
        """A node whose wall clock is far off the federation's time leaves leading to others."""
        offset_ms = self.ledger_clock.own_offset_ms()
        is_near = abs(offset_ms) <= self.parameters.max_skew_ms
        if is_near != self._is_clock_near:
            self._is_clock_near = is_near
            told = log.info if is_near else log.error
            told("clock.near" if is_near else "clock.skewed", offset_ms=offset_ms)
        return is_near

    def now_s(self) -> float:
        """The boot clock, in seconds."""
        return self._clock.boottime_ns() / _NS_PER_S

    # -- what comes in -----------------------------------------------------------------------

    def edge_drained(self, slot: int, index: int) -> None:
        """An edge says up to which Raft index everything is drained there."""
        if self.edges.reported(slot, min(index, self.durable_applied)):
            self._again = True

    @property
    def has_room(self) -> bool:
        """Whether messages may be delivered; while not, their streams must wait."""
        return len(self._inbox) < MAX_INBOX_MESSAGES and self._inbox_bytes < MAX_INBOX_BYTES

    def deliver(self, peer: str, message: pb.PeerMessage) -> None:
        """Takes in one message of a peer, for the next turn."""
        self._inbox.append((peer, message))
        self._inbox_bytes += message.ByteSize()

    def connected(self, peer: str) -> None:
        """The link to `peer` is up."""
        self.links_up.add(peer)
        self.replica.connected(peer)
        self.keeper.connected(peer)
        self._again = True

    def disconnected(self, peer: str) -> None:
        """The link to `peer` is down: what was on its way may be lost."""
        self.links_up.discard(peer)
        self.replica.disconnected(peer)
        self._again = True

    def propose(self, key: bytes, envelope: bytes) -> bool:
        """Proposes until `forget(key)`. False when too many proposals wait already."""
        self._again = True
        return self.replica.propose(key, envelope)

    def forget(self, key: bytes) -> bool:
        """No more tries; returns whether the command may be in a log. When not, it certainly will
        not be executed."""
        return self.replica.forget(key)

    # -- a turn ------------------------------------------------------------------------------

    @property
    def has_more(self) -> bool:
        """Whether another turn would get further without any new event."""
        return (
            bool(self._inbox)
            or self._again
            or self.replica.has_more
            or self._snapshots.has_more
            or self.outbox.has_more
        )

    def next_due_s(self) -> float:
        """When a turn is due without any event, on the boot clock."""
        due_s = self.replica.next_timer()
        due_s = min(
            due_s,
            self._snapshots.receiver.next_due_s(),
            self.outbox.next_due_s(),
            self._declaration.next_due_s(),
        )
        asking_ns = self.keeper.next_timer_ns(self.replica)
        return due_s if asking_ns is None else min(due_s, asking_ns / _NS_PER_S)

    def turn(self) -> None:
        """One turn: nothing that it decides is seen by anybody before it is durable."""
        if self.decide():
            self.settle()

    def decide(self) -> bool:
        """Takes in what came and runs consensus; nothing of it is durable or said. Returns False
        when the turn is void, for want of room."""
        assert not self.storage_problem
        self._again = False
        try:
            if self._snapshots.receiver.is_complete():
                self._install_snapshot()
            self._take_in()
            self.replica.tick()
            self.ledger_clock.reconfigure(self.replica.voters)
            self._members.follow(self.replica, self.keeper, self.nodes)
            self._newcomer.look(self.replica, self.links_up)
            self._end_probation()
            self._snapshots.tick(self.replica)
            self._report()
            self.replica.compact(self._snapshots.sender.floor(self.replica.applied_index))
            enforced = self.environment.enforced_through()
            self.keeper.tick(self.replica, self.durable_applied, enforced, self.edges.drained)
        except StorageFullError as error:
            self._storage_failed(error)
            return False
        return True

    def _report(self) -> None:
        """Moves on what this node has to tell the ledger. While it holds authority: it is in touch
        with a quorum, and known to be a member."""
        may_propose = not self._probation and self.keeper.remaining_ms() > 0
        time_ms = self.ledger_clock.now_ms()
        if self.outbox.tick(self.replica, may_propose=may_propose, ledger_time_ms=time_ms):
            self._again = True
        own = self.nodes.get(self.node_id)
        told = self._declaration.tick(
            self.replica, own, may_propose=may_propose, ledger_time_ms=time_ms
        )
        self._again |= told

    def settle(self) -> None:
        """Makes durable what `decide` has decided, and publishes what follows from it."""
        try:
            wrote = self.environment.commit()
        except StorageFullError as error:
            self._storage_failed(error)
            return
        if wrote:
            self._after_commit()
        self._observer.kept(self.outbox.kept)  # a repeat of what is durable writes nothing
        authority = self.keeper.publish(self.durable_applied)
        if authority is not None and not self.replica.is_leader:
            self.ledger_clock.told(authority.time.clocks_ms, authority.asked_realtime_ns)
        self._observer.enforced(self.keeper.watermark, self.keeper.drained)

    # -- catching up -------------------------------------------------------------------------

    def _install_snapshot(self) -> None:
        """Steps from the state that this node has to one that it was sent, in a transaction of its
        own. Authority goes first: no deadline of before may meet a state of after."""
        self.keeper.surrender(Reason.INQUORATE)
        sender = self._snapshots.receiver.sender
        try:
            self._snapshots.receiver.install()
        except PeerError as error:
            self._observer.refused(sender, error)
        self.environment.commit()
        before, self.replica = self.replica, self._new_replica()
        self.replica.take_over(before)
        self.durable_applied = self.replica.applied_index
        self.ledger_size = self.environment.turn.ledger_size
        with self.environment.read() as snapshot:
            view = StateView(snapshot.state)
            self.ledger_clock.not_before(view.ledger_time())
            known = {
                key: outcome_of(view, envelope) for key, envelope in self.replica.pending().items()
            }
        for key, outcome in known.items():
            if outcome is not None:
                self.replica.forget(key)
                self.outbox.executed(key, outcome)
                self._observer.executed(key, outcome)
        self._read_members()
        self._observer.grown()

    def checkpoint(self) -> str:
        """This node's signed checkpoint of its ledger, as a note. Raises ProbationError."""
        if self._probation:
            raise ProbationError("this node may have forgotten what it has signed before")
        with self.environment.read() as snapshot:
            size = snapshot.ledger_size
            if size != self._cached_checkpoint[0]:
                self._cached_checkpoint = size, self._sign_checkpoint(size, snapshot.root())
        return self._cached_checkpoint[1]

    def _sign_checkpoint(self, size: int, root: bytes) -> str:
        return sign_checkpoint(Checkpoint(self.origin, size, root), self._log_key)

    # -- membership --------------------------------------------------------------------------

    def _read_members(self) -> None:
        """Raises UnsupportedProtocolError when the federation has gone on to other rules."""
        with self.environment.read() as snapshot:
            view = StateView(snapshot.state)
            federation = view.federation_record()
            protocol.check(federation.protocol)
            self.nodes = {node.id: node for node in view.nodes()}
        retired = [node.id for node in self.nodes.values() if node.status is Status.REVOKED]
        self.keeper.retire(retired)
        self.parameters, self.bounding = federation.parameters, federation.bounding
        self.keeper.follow(*map(AuthorityTerms.of, (self.parameters, self.bounding)))
        self._observer.members_changed()

    def _end_probation(self) -> None:
        """A committed configuration that readmits this node with its token was made by a majority
        without it: what it may have promised and forgotten counts for nothing any more."""
        token = self.replica.committed_configuration.token_of(self.node_id)
        if self._probation and token == self._probation:
            self.environment.turn.set_probation("")
            self._probation = ""
            log.info("probation.over")

    @property
    def is_on_probation(self) -> bool:
        """Whether this node may have forgotten promises, and waits to be readmitted."""
        return bool(self._probation)

    def hand_over(self) -> bool:
        """Lets another node lead, if this one does; False when it does not, or none could."""
        self._again = True
        return self.replica.hand_over()

    def take_outbox(self) -> list[tuple[str, pb.PeerMessage]]:
        """The messages of the turn that was settled, in order."""
        said = [*self.replica.take_outbox(), *self._snapshots.take_outbox()]
        raft = [(peer, encode_raft(message)) for peer, message in said]
        return raft + [(peer, encode_authority(note)) for peer, note in self.keeper.take_outbox()]

    def _take_in(self) -> None:
        arrived, self._inbox, self._inbox_bytes = self._inbox, [], 0
        for peer, message in arrived:
            try:
                self._receive(peer, message)
            except PeerError as error:
                self._observer.refused(peer, error)

    def _receive(self, peer: str, message: pb.PeerMessage) -> None:
        authority = decode_authority(message)
        if authority is not None:
            self.keeper.receive(peer, authority, self.replica)
            return
        raft = decode_raft(message)
        if raft is None:
            raise PeerError("a message of no known kind")
        self.replica.receive(peer, raft)
        self._snapshots.receive(peer, raft, self.replica, self.nodes)

    def _after_commit(self) -> None:
        if self.replica.applied_index > self.durable_applied:
            self.durable_applied = self.replica.applied_index
            self.ledger_clock.not_before(self._machine.latest_stamp_ms)
            self._again = True  # another turn tells the leader what this node now enforces
        if self._machine.has_changed_members:
            self._machine.has_changed_members = False
            self._read_members()
        if not (executed := self._machine.take_outcomes()):
            return
        self.ledger_size = self.environment.turn.ledger_size
        for command in executed:
            self.replica.forget(command.key)
            self.outbox.executed(command.key, command.outcome)
            self._declaration.executed(command.key, command.outcome)
            self._observer.executed(command.key, command.outcome)
        self._observer.grown()

    def surrender(self, reason: Reason) -> None:
        """Gives authority up, and everybody who waits for an outcome."""
        self.keeper.surrender(reason)
        self._observer.released()

    def close(self) -> None:
        """Lets go of what the store has lent; then it may be closed."""
        self._snapshots.sender.close()

    # -- storage that is full ----------------------------------------------------------------

    def _storage_failed(self, error: StorageFullError) -> None:
        log.error("storage.full", problem=str(error), hint=error.hint)
        self.storage_problem = f"{error} ({error.hint})"
        self.keeper.surrender(Reason.STORAGE_FULL)
        self.environment.abort()
        self._machine.forget()
        self.outbox.load()
        self._snapshots.storage_failed()
        self._probation = self.environment.probation()
        self._observer.released()
        try:
            self.replica = self._new_replica()
        except StorageFullError:  # not even the first entry of a log has room
            self.environment.abort()

    def probe_storage(self) -> None:
        """Tries a write that needs room; when it lasts, the node serves again. What came from
        peers meanwhile is dropped, as by a node that is down: they will say it again. What was
        received of a snapshot is given up: it may be what has filled the storage."""
        self._inbox, self._inbox_bytes = [], 0
        self._snapshots.receiver.give_up()
        try:
            self.environment.turn.put_meta(_PROBE_NAME, bytes(_PROBE_BYTES))
            self.environment.commit()
            self.environment.turn.put_meta(_PROBE_NAME, b"")
            self.environment.commit()
            self.replica = self._new_replica()
        except StorageFullError:
            self.environment.abort()
            return
        log.info("storage.recovered")
        self.storage_problem = ""
        self._again = True
