"""One replica: the engine, the proposals of this node, and the order of a turn.

Owns the rule *persist, then send*: a turn takes in messages, runs the engine, and hands out
messages only when the caller says that the turn is durable. Owns the proposals that this node
waits for, and sends each again when the leader changes, until the caller forgets it; commands are
executed once however often they are proposed (the state machine sees to it), so that repeating is
harmless and an outcome is found by the command's own id. Does not own sockets, storage or time.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
        peers: Sequence[str],
        settings: RaftSettings,
        store: LogStore,
        apply: Apply,
        stamp: Callable[[bytes], bytes],
        clock: Callable[[], float],
        wall_clock_ms: Callable[[], int],
        chance: random.Random,
        on_wall_clock: Callable[[str, int], None] = lambda _peer, _ms: None,
        may_lead: Callable[[], bool] = lambda: True,
    ) -> None:
        """may_lead: while it says no, this replica votes and follows, and does not lead."""
        self.node_id = node_id
        self._store = store
        self._settings = settings
        self._clock = clock
        self._on_wall_clock = on_wall_clock
        self._outbox: list[tuple[str, Message]] = []
        self._pending: dict[bytes, _Pending] = {}
        self._pending_bytes = 0
        self._unsent: dict[bytes, None] = {}  # keys, in order
        self._refused: deque[tuple[float, bytes]] = deque()
        self._route: tuple[str, int, int] | None = None
        self._links: dict[str, int] = {}
        self._engine = Engine(
            node_id=node_id,
            peers=peers,
            settings=settings,
            store=store,
            outbox=self._send,
            apply=apply,
            stamp=stamp,
            clock=clock,
            wall_clock_ms=wall_clock_ms,
            chance=chance,
            may_lead=may_lead,
        )

    def _send(self, peer: str, message: Message) -> None:
        self._outbox.append((peer, message))

    # -- a turn ------------------------------------------------------------------------------

    def receive(self, peer: str, message: Message) -> None:
        """Takes in one message. Raises PeerError when no correct peer can have sent it."""
        match message:
            case Propose() | ProposeReply() if peer not in self._engine.peer_ids:
                raise PeerError(f"{peer} is not a member")
            case Propose():
                if not self._engine.propose(message.payload):
                    busy = self._engine.is_leader
                    refusal = Refusal.BUSY if busy else Refusal.NOT_LEADER
                    self._send(peer, ProposeReply(message.key, refusal))
            case ProposeReply():
                if message.key in self._pending:
                    retry_at = self._clock() + self._settings.heartbeat_s
                    self._refused.append((retry_at, message.key))
            case _:
                self._engine.receive(peer, message)
                if isinstance(message, AppendReply):
                    self._on_wall_clock(peer, message.wall_clock_ms)

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
        self._links[peer] = self._links.get(peer, 0) + 1
        self._engine.connected(peer)

    def disconnected(self, peer: str) -> None:
        self._engine.disconnected(peer)

    @property
    def has_more(self) -> bool:
        """Whether another turn would get further without any new event."""
        return self._engine.has_more

    def next_timer(self) -> float:
        """When a turn is due without any event, in seconds on the replica's clock."""
        timer = self._engine.next_timer()
        return min(timer, self._refused[0][0]) if self._refused else timer

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
        return pending.attempted

    def _propose_pending(self) -> None:
        """Sends what has not been sent on the present route: (leader, term, link). On another
        route everything is sent again, for nobody knows what the old one lost."""
        while self._refused and self._refused[0][0] <= self._clock():
            key = self._refused.popleft()[1]
            if key in self._pending:
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
            elif not self._engine.propose(pending.payload):
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
    def commits_own_term(self) -> bool:
        return self._engine.commits_own_term

    @property
    def peer_ids(self) -> list[str]:
        return self._engine.peer_ids

    @property
    def connected_ids(self) -> set[str]:
        return self._engine.connected_ids

    def match_index(self, peer: str) -> int:
        return self._engine.match_index(peer)
