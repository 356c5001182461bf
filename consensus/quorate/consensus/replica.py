"""One replica: the engine, the proposals of this node, and the order of a turn.

Owns the rule *persist, then send*: a turn takes in messages, runs the engine, and hands out
messages only when the caller says that the turn is durable. Owns the proposals that this node
waits for, and sends each again when the leader changes, until the caller forgets it; commands are
executed once however often they are proposed (the state machine sees to it), so that repeating is
harmless and an outcome is found by the command's own id. Does not own sockets, storage or time.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from quorate.consensus.configuration import Configuration
from quorate.consensus.engine import CANDIDATE, LEADER, Apply, Engine
from quorate.consensus.errors import PeerError
from quorate.consensus.journal import LogStore
from quorate.consensus.limits import MAX_COMMAND_BYTES, MAX_PENDING_BYTES, MAX_PENDING_PROPOSALS
from quorate.consensus.messages import (
    AppendReply,
    Message,
    Propose,
    ProposeReply,
    Refusal,
    SnapshotOffer,
)
from quorate.consensus.settings import RaftSettings

ROLES = {LEADER: "leader", CANDIDATE: "candidate"}


@dataclass(slots=True)
class _Pending:
    """A proposal of this node that has no outcome yet. `attempted`: it may be in somebody's log, so
    that nobody can promise any more that it will not be executed."""

    payload: bytes
    attempted: bool = False


class Replica:
    """The consensus of one node, sans-I/O.

    In each turn: `receive` what came, `tick`, commit the store, then `take_outbox` and send. When
    anything raised in between, the turn is void: abort the store and build a new Replica.
    """

    def __init__(
        self,
        *,
        node_id: str,
        initial: Configuration,
        settings: RaftSettings,
        store: LogStore,
        apply: Apply,
        stamp: Callable[[bytes], bytes],
        clock: Callable[[], float],
        wall_clock_ms: Callable[[], int],
        chance: random.Random,
        on_wall_clock: Callable[[str, int], None] = lambda _peer, _ms: None,
        may_lead: Callable[[], bool] = lambda: True,
        offer: Callable[[str, int], SnapshotOffer | None] = lambda _peer, _term: None,
        probation: Callable[[], str] = lambda: "",
        source_of: Callable[[str], str] = lambda node_id: node_id,
    ) -> None:
        """initial: the configuration that every log of the federation begins with.
        may_lead: while it says no, this replica votes and follows, and does not lead.
        offer: (follower, term) -> the snapshot for a follower whose next entry is compacted.
        probation: a token while this replica may have forgotten what it promised (its store was
        restored, or began anew): it then neither votes nor campaigns, and tells its leader.
        source_of: whom a node proposes for. Sources take turns at a leader, whatever their number
        of nodes.
        """
        self.node_id = node_id
        self._store = store
        self._settings = settings
        self._clock = clock
        self._on_wall_clock = on_wall_clock
        self._source_of = source_of
        self._outbox: list[tuple[str, Message]] = []
        self._pending: dict[bytes, _Pending] = {}
        self._pending_bytes = 0
        self._unsent: dict[bytes, None] = {}  # keys, in order
        self._refused: OrderedDict[bytes, float] = OrderedDict()  # key -> when to try it again
        self._route: tuple[str, int, int] | None = None
        self._links: dict[str, int] = {}
        self._links_made = 0
        self._engine = Engine(
            node_id=node_id,
            initial=initial,
            settings=settings,
            store=store,
            outbox=self._send,
            apply=apply,
            stamp=stamp,
            clock=clock,
            wall_clock_ms=wall_clock_ms,
            chance=chance,
            may_lead=may_lead,
            offer=offer,
            probation=probation,
        )

    def _send(self, peer: str, message: Message) -> None:
        self._outbox.append((peer, message))

    # -- a turn ------------------------------------------------------------------------------

    def receive(self, peer: str, message: Message) -> None:
        """Takes in one message. Raises PeerError when no correct peer can have sent it."""
        match message:
            case Propose() | ProposeReply() if not self._is_member(peer):
                raise PeerError(f"{peer} is not a member")
            case Propose():
                if not self._engine.propose(self._source_of(peer), message.payload):
                    busy = self._engine.is_leader
                    refusal = Refusal.BUSY if busy else Refusal.NOT_LEADER
                    self._send(peer, ProposeReply(message.key, refusal))
            case ProposeReply():
                if message.key in self._pending:  # once, however often it is refused meanwhile
                    retry_at = self._clock() + self._settings.heartbeat_s
                    self._refused.setdefault(message.key, retry_at)
            case _:
                self._engine.receive(peer, message)
                if isinstance(message, AppendReply) and self._is_of_a_voter(peer, message):
                    self._on_wall_clock(peer, message.wall_clock_ms)

    def _is_member(self, peer: str) -> bool:
        """Also a leader that this replica's log, which is behind, does not know yet."""
        return peer in self._engine.peer_ids or peer == self._engine.leader

    def _is_of_a_voter(self, peer: str, reply: AppendReply) -> bool:
        """Whether this answers what this replica asked as the leader that it is: only then do the
        voters' clocks count, and nobody else's."""
        engine = self._engine
        is_answer = engine.is_leader and reply.request_term == engine.term
        return is_answer and peer in engine.other_voters

    def tick(self) -> None:
        """Runs the engine, and sends or sends again what waits for an outcome."""
        self._propose_pending()
        self._engine.tick()
        if self._engine.last_applied > self._store.turn.applied_index:
            self._store.turn.set_applied(self._engine.last_applied)

    def take_outbox(self) -> list[tuple[str, Message]]:
        """The turn's messages, in order. Call it only when the turn is durable."""
        outbox, self._outbox = self._outbox, []
        return outbox

    def connected(self, peer: str) -> None:
        self._links_made += 1
        self._links[peer] = self._links_made
        self._engine.connected(peer)

    def disconnected(self, peer: str) -> None:
        if peer not in self._engine.peer_ids:
            self._links.pop(peer, None)
        self._engine.disconnected(peer)

    @property
    def has_more(self) -> bool:
        """Whether another turn would get further without any new event."""
        return self._engine.has_more

    def next_timer(self) -> float:
        """When a turn is due without any event, in seconds on the replica's clock."""
        timer = self._engine.next_timer()
        return min(timer, next(iter(self._refused.values()), timer))

    # -- proposals ---------------------------------------------------------------------------

    def propose(self, key: bytes, payload: bytes) -> bool:
        """Takes a proposal, to be tried until `forget(key)`. False when too many wait already."""
        assert len(payload) < MAX_COMMAND_BYTES - 16, "checked where it came in"
        if key in self._pending:
            return True
        size = self._pending_bytes + len(payload)
        if len(self._pending) >= MAX_PENDING_PROPOSALS or size > MAX_PENDING_BYTES:
            return False
        self._pending[key] = _Pending(payload)
        self._pending_bytes = size
        self._unsent[key] = None
        return True

    def forget(self, key: bytes) -> bool:
        """No more tries. Returns whether the proposal may be in a log: when not, it certainly
        will not be executed."""
        pending = self._pending.pop(key, None)
        if pending is None:
            return False
        self._pending_bytes -= len(pending.payload)
        self._unsent.pop(key, None)
        self._refused.pop(key, None)
        return pending.attempted

    def _propose_pending(self) -> None:
        """Sends what has not been sent on the present route: (leader, term, link). On another
        route everything is sent again, for nobody knows what the old one lost."""
        while self._refused and next(iter(self._refused.values())) <= self._clock():
            key, _ = self._refused.popitem(last=False)
            self._unsent[key] = None
        leader = self._engine.leader
        mine = leader == self.node_id
        if leader is None or not (mine or leader in self._engine.connected_ids):
            return
        route = (leader, self._engine.term, self._links.get(leader, 0))
        if route != self._route:
            self._route = route
            self._unsent = dict.fromkeys(self._pending)
            self._refused.clear()
        for key in list(self._unsent):
            pending = self._pending[key]
            if not mine:
                self._send(leader, Propose(key, pending.payload))
            elif not self._engine.propose(self._source_of(self.node_id), pending.payload):
                return
            pending.attempted = True
            del self._unsent[key]

    # -- what others may know ----------------------------------------------------------------

    @property
    def is_leader(self) -> bool:
        return self._engine.is_leader

    @property
    def role(self) -> str:
        return ROLES.get(self._engine.role, "follower")

    @property
    def leader(self) -> str | None:
        return self._engine.leader

    @property
    def term(self) -> int:
        return self._engine.term

    @property
    def commit_index(self) -> int:
        return self._engine.commit_index

    @property
    def applied_index(self) -> int:
        return self._engine.last_applied

    @property
    def last_index(self) -> int:
        """Of its log, committed or not."""
        return self._engine.journal.last_index()

    @property
    def commits_own_term(self) -> bool:
        return self._engine.commits_own_term

    @property
    def configuration(self) -> Configuration:
        """The one in force: the newest in the log, committed or not."""
        return self._engine.configuration

    @property
    def is_settled(self) -> bool:
        """Whether the configuration in force is committed, as far as this replica knows."""
        return self._engine.is_settled

    @property
    def voters(self) -> tuple[str, ...]:
        return self._engine.configuration.voters

    @property
    def members(self) -> tuple[str, ...]:
        """Voters and learners, this replica among them when it takes part."""
        return self._engine.configuration.members

    @property
    def committed_configuration(self) -> Configuration:
        """The newest that this replica knows to be committed."""
        return self._engine.committed_configuration()

    @property
    def committed_members(self) -> tuple[str, ...]:
        """Those of the newest configuration that this replica knows to be committed."""
        return self._engine.committed_configuration().members

    @property
    def peer_ids(self) -> list[str]:
        return self._engine.peer_ids

    @property
    def connected_ids(self) -> set[str]:
        return self._engine.connected_ids

    def holds(self, index: int, term: int) -> bool:
        """Whether the log holds what a snapshot up to this committed entry would bring."""
        return self._engine.holds(index, term)

    def match_index(self, peer: str) -> int:
        return self._engine.match_index(peer)

    # -- as a leader -------------------------------------------------------------------------

    def change_configuration(self, wanted: Configuration) -> bool:
        """Puts a configuration in force, one voter away from the present one. False: not now."""
        return self._engine.change_configuration(wanted)

    def hand_over(self, heir: str | None = None) -> bool:
        """Lets another voter take over, if none is named the one that is nearest to this leader's
        log: within an election timeout, or not at all; meanwhile nothing new is proposed. False
        when there is none."""
        if heir is None:
            able = [peer for peer in self._engine.other_voters if self.is_responsive(peer)]
            heir = max(able, key=self.match_index, default=None)
        return heir is not None and self._engine.hand_over(heir)

    def is_responsive(self, peer: str) -> bool:
        """Whether this leader has heard `peer` within the shortest election timeout, and the peer
        is not on probation."""
        engine = self._engine
        is_heard = engine.heard_within(peer, self._settings.election_min_s)
        return is_heard and peer in engine.connected_ids and not engine.probation_of(peer)

    def probation_of(self, peer: str) -> str:
        """The token with which a follower says that it is on probation; empty when it is not."""
        return self._engine.probation_of(peer)

    def compact(self, floor: int) -> None:
        """Drops what is applied from the front of the log, but for the configured tail and what
        lies at `floor` or behind it."""
        self._engine.compact(self._settings.log_tail_entries, floor)

    # -- the proposals of a replica that another one replaces --------------------------------

    def pending(self) -> dict[bytes, bytes]:
        """The proposals of this node that have no outcome yet, by key."""
        return {key: pending.payload for key, pending in self._pending.items()}

    def take_over(self, before: Replica) -> None:
        """Goes on with the proposals of the replica in whose place this one steps."""
        self._pending, self._pending_bytes = before._pending, before._pending_bytes
        self._unsent = dict.fromkeys(self._pending)
