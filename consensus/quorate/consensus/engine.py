"""The Raft engine: PySyncObj 0.3.17, the only module that imports it.

Kept of the engine: elections and their timers, the commit rule, the step-down of a leader that
hears nobody, the loop that applies what is committed. Ours, through overridden methods: the
handling of every message and the sending of entries (`rules`), the journal, the taking of
proposals, the applying of one command. Cut off: pickling, dumps, compaction, read-only nodes,
utility messages, large-entry transmissions, code versions, the engine's own sockets and threads.
docs/adr/0003-own-message-handling.md has the reasons, docs/consensus.md the hazards one by one.

The class is sans-I/O: messages come in through `receive`, go out through `Outbox`; time and chance
come from the caller. An engine that raised is not used again: it is built anew from the store.
"""

from __future__ import annotations

import random
import types
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

import pysyncobj.syncobj as _module
from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from quorate.consensus.errors import PeerError, SafetyViolationError
from quorate.consensus.followers import Followers, Leading
from quorate.consensus.journal import EngineEntry, Journal, LogStore
from quorate.consensus.limits import (
    MAX_APPENDS_PER_TURN,
    MAX_APPLY_BYTES,
    MAX_APPLY_ENTRIES,
    MAX_COMMAND_BYTES,
    MAX_QUEUED_APPEND_BYTES,
    MAX_QUEUED_APPENDS,
    MAX_TERM,
    MAX_TERM_STEP,
)
from quorate.consensus.messages import (
    AppendReply,
    AppendRequest,
    Message,
    Outbox,
    VoteReply,
    VoteRequest,
)
from quorate.consensus.rules import (
    Conflict,
    check_shape,
    committed_by,
    fit_append,
    grants_vote,
    has_majority,
)
from quorate.consensus.settings import RaftSettings

FOLLOWER: Final = 0
CANDIDATE: Final = 1
LEADER: Final = 2
_REGULAR: Final = b"\x00"
_NO_OP: Final = b"\x01"

Apply = Callable[[int, bytes], None]
"""What is done with a committed command: (log index, payload). Must be total."""


# -- the engine's module-level dependencies, replaced ------------------------------------------


class _NoPickle:
    """Stands where the engine's `pickle` stood: nothing is ever unpickled."""

    @staticmethod
    def _refuse(*_: object, **__: object) -> NoReturn:
        raise SafetyViolationError("the engine tried to pickle or unpickle")

    loads = dumps = load = dump = _refuse


class _NoPoller:
    """Stands where the engine's poller stood: the engine has no sockets."""

    def subscribe(self, *_: object) -> None:
        """No descriptor is ever watched."""

    def unsubscribe(self, *_: object) -> None:
        """No descriptor is ever watched."""

    def poll(self, _timeout: float) -> None:
        """Nothing to wait for: the caller decides when the next turn is."""


class _Now:
    """The engine asks its module for time and chance; this passes on those of the engine that is
    running, so that many can live in one process under clocks of their own."""

    def __init__(self) -> None:
        self.clock: Callable[[], float] = lambda: 0.0
        self.chance = random.Random(0)  # noqa: S311 - spreads election timeouts, no secret

    def time(self) -> float:
        return self.clock()

    def random(self) -> float:
        return self.chance.random()


_now = _Now()
_module.pickle = _NoPickle()
_module.monotonicTime = _now.time
_module.random = _now
_module.createPoller = lambda _kind: _NoPoller()


class _Member(Node):  # type: ignore[misc]
    """A node of the engine. Its hash does not depend on PYTHONHASHSEED, so that sets of members
    are walked in the same order in every process (a simulation's seed decides everything)."""

    def __hash__(self) -> int:
        return int.from_bytes(str(self.id).encode()[-7:], "big")


class _OutboxTransport(Transport):  # type: ignore[misc]
    """The engine's view of the network: a place to put messages."""

    def __init__(self, outbox: Outbox) -> None:
        super().__init__(None, None, None)
        self._outbox = outbox

    def send(self, node: Node, message: Message | dict[str, object]) -> bool:
        if isinstance(message, dict):  # the engine's kept election code sends this one form
            assert message["type"] == "request_vote", message["type"]
            message = VoteRequest(
                term=_int(message["term"]),
                last_log_index=_int(message["last_log_index"]),
                last_log_term=_int(message["last_log_term"]),
            )
        self._outbox(node.id, message)
        return True


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value


# -- the engine ---------------------------------------------------------------------------------


class Engine(SyncObj):  # type: ignore[misc]
    """One replica's Raft state machine.

    Attributes whose names begin with `_SyncObj__` are the engine's own, reached by their mangled
    names; a test pins the version and the shape of every method relied upon.
    """

    def __init__(
        self,
        *,
        node_id: str,
        peers: Sequence[str],
        settings: RaftSettings,
        store: LogStore,
        outbox: Outbox,
        apply: Apply,
        stamp: Callable[[bytes], bytes],
        clock: Callable[[], float],
        wall_clock_ms: Callable[[], int],
        chance: random.Random,
        may_lead: Callable[[], bool],
    ) -> None:
        self._apply_payload = apply
        self._may_lead = may_lead
        self._stamp = stamp
        self._clock = clock
        self._wall_clock_ms = wall_clock_ms
        self._chance = chance
        self._outbox = outbox
        self._proposals: deque[bytes] = deque()
        self._proposal_bytes = 0
        self.peer_ids = sorted(peers)
        self.connected_ids: set[str] = set()
        self._voters_for_me: set[str] = set()
        self._want_send = False
        self._enter()
        self._begin_log(store)
        self._followers = Followers(self.journal, outbox)
        conf = SyncObjConf(
            autoTick=False,
            dynamicMembershipChange=False,
            fullDumpFile=None,
            journalFile=None,
            appendEntriesUseBatch=True,
            appendEntriesPeriod=settings.heartbeat_s,
            raftMinTimeout=settings.election_min_s,
            raftMaxTimeout=settings.election_max_s,
            leaderFallbackTimeout=settings.election_min_s,
            connectionTimeout=settings.election_max_s,
        )
        members = [_Member(peer) for peer in self.peer_ids]
        super().__init__(_Member(node_id), members, conf, transport=_OutboxTransport(outbox))
        self._restore(store)

    def _begin_log(self, store: LogStore) -> None:
        turn = store.turn
        if turn.log_last()[0] == 0:  # the entry that every log begins with, and nobody disputes
            turn.log_append(1, 0, _NO_OP)
            turn.set_applied(1)
        self.journal = Journal(store)

    def _restore(self, store: LogStore) -> None:
        """Puts our journal and what it remembers in the place of the engine's empty one."""
        turn = store.turn
        self._SyncObj__raftLog = self.journal
        self._SyncObj__raftCurrentTerm = max(turn.term(), self.journal[-1][2])
        self._SyncObj__votedForNodeId = turn.voted_for()
        self._SyncObj__raftLastApplied = turn.applied_index
        self._SyncObj__raftCommitIndex = turn.applied_index
        if turn.applied_index > self.journal.last_index():
            raise SafetyViolationError("the state is ahead of the log that made it")

    def _enter(self) -> None:
        _now.clock, _now.chance = self._clock, self._chance

    # -- what the replica calls --------------------------------------------------------------

    def tick(self) -> None:
        """Runs timers, commits, applies, takes proposals, and sends what is due."""
        self._enter()
        if not self._may_lead():
            if self.role != FOLLOWER:
                self._become_follower()
            self._postpone_election()
        was_leader = self.is_leader
        commit_index = self.commit_index
        self._want_send = False
        if self._is_cut_off and self._SyncObj__raftElectionDeadline < self._clock():
            self._postpone_election()  # the engine would let it pass, and ask for a turn for ever
        self.doTick(0.0)
        if was_leader and not self.is_leader:
            self._become_follower()
        if self.is_leader and (self._want_send or self.commit_index > commit_index):
            self._followers.spread(self._leading, self.connected_ids)

    def receive(self, peer: str, message: Message) -> None:
        """Takes in one Raft message. Raises PeerError when no correct peer can have sent it."""
        self._enter()
        self._SyncObj__onMessageReceived(_Member(peer), message)

    def connected(self, peer: str) -> None:
        """The link to `peer` is up: what is sent will probably arrive."""
        self._enter()
        if peer in self.peer_ids:
            if self._is_cut_off:  # it could hear nobody: that is no sign that there is no leader
                self._postpone_election()
            self._SyncObj__onNodeConnected(_Member(peer))
            self.connected_ids.add(peer)
            self._followers.link_changed(peer)

    def disconnected(self, peer: str) -> None:
        """The link to `peer` is down: what was in flight may be lost."""
        self._SyncObj__onNodeDisconnected(_Member(peer))
        self.connected_ids.discard(peer)
        self._followers.link_changed(peer)

    def propose(self, payload: bytes) -> bool:
        """Queues a command for this leader's log. False: not the leader, or the queue is full."""
        assert len(payload) < MAX_COMMAND_BYTES
        is_full = (
            len(self._proposals) >= MAX_QUEUED_APPENDS
            or self._proposal_bytes + len(payload) > MAX_QUEUED_APPEND_BYTES
        )
        if is_full or not self.is_leader:
            return False
        self._proposals.append(payload)
        self._proposal_bytes += len(payload)
        return True

    def _drop_proposals(self) -> None:
        """Each proposer sees that the leader has changed, and asks again."""
        self._proposals.clear()
        self._proposal_bytes = 0

    @property
    def is_leader(self) -> bool:
        return bool(self._SyncObj__raftState == LEADER)

    @property
    def role(self) -> int:
        return int(self._SyncObj__raftState)

    @property
    def leader(self) -> str | None:
        """Whom this replica takes for the leader of its term; may be wrong, never authority."""
        leader = self._SyncObj__raftLeader
        return None if leader is None else str(leader.id)

    @property
    def term(self) -> int:
        return int(self._SyncObj__raftCurrentTerm)

    @property
    def commit_index(self) -> int:
        return int(self._SyncObj__raftCommitIndex)

    @property
    def last_applied(self) -> int:
        return int(self._SyncObj__raftLastApplied)

    @property
    def commits_own_term(self) -> bool:
        """Whether an entry of this term is committed: only then does a leader know what is
        committed (Raft 8, and thesis 6.4)."""
        return self.journal.term_at(self.commit_index) == self.term

    @property
    def _is_cut_off(self) -> bool:
        return bool(self.peer_ids) and not self.connected_ids

    def match_index(self, peer: str) -> int:
        return self._followers.match_index(peer)

    @property
    def has_more(self) -> bool:
        """Whether another turn would get further without any new event."""
        return (
            self.commit_index > self.last_applied
            or bool(self._proposals and self.is_leader)
            or (self.is_leader and not self.peer_ids and self._uncommitted)
        )

    @property
    def _uncommitted(self) -> bool:
        return self.commit_index < self.journal.last_index()

    def next_timer(self) -> float:
        """When the engine next has something to do of itself, on its clock, in seconds."""
        if self.is_leader:
            return float(self._SyncObj__newAppendEntriesTime)
        return float(self._SyncObj__raftElectionDeadline)

    # -- overridden: applying ----------------------------------------------------------------

    def _SyncObj__doApplyCommand(self, command: bytes) -> None:  # noqa: N802
        if command[:1] == _REGULAR:
            self._apply_payload(self.last_applied + 1, command[1:])

    def _SyncObj__getEntries(  # noqa: N802
        self, first: int, count: int | None = None, _max_bytes: int | None = None
    ) -> list[EngineEntry]:
        """Bounded: a replica that has much to apply does it over several turns."""
        wanted = MAX_APPLY_ENTRIES if count is None else min(count, MAX_APPLY_ENTRIES)
        return self.journal.slice(first, wanted, MAX_APPLY_BYTES)

    # -- overridden: taking proposals --------------------------------------------------------

    def _checkCommandsToApply(self) -> None:  # noqa: N802
        """Writes queued proposals to the leader's log. Called at the end of the engine's tick."""
        if not self.is_leader:
            self._drop_proposals()
            return
        for _ in range(min(len(self._proposals), MAX_APPENDS_PER_TURN)):
            payload = self._proposals.popleft()
            self._proposal_bytes -= len(payload)
            command = _REGULAR + self._stamp(payload)
            self.journal.add(command, self.journal.last_index() + 1, self.term)
            self._want_send = True

    def _applyCommand(self, *_: object) -> NoReturn:  # noqa: N802
        raise SafetyViolationError("the engine's own command queue is not used")

    # -- overridden: sending entries ---------------------------------------------------------

    def _SyncObj__onBecomeLeader(self) -> None:  # noqa: N802
        self._followers.begin(self.peer_ids)
        self._drop_proposals()
        SyncObj._SyncObj__onBecomeLeader(self)

    def _SyncObj__sendAppendEntries(self) -> None:  # noqa: N802
        """The engine's heartbeat: to every connected follower, with entries or without."""
        self._SyncObj__newAppendEntriesTime = self._clock() + self.conf.appendEntriesPeriod
        self._followers.heartbeat(self._leading, self.connected_ids)

    @property
    def _leading(self) -> Leading:
        return Leading(self.term, self.commit_index)

    # -- overridden: messages ----------------------------------------------------------------

    def _SyncObj__onMessageReceived(self, node: Node, message: Message) -> None:  # noqa: N802
        peer = str(node.id)
        if peer not in self.peer_ids:
            raise PeerError(f"{peer} is not a member")
        if isinstance(message, VoteRequest | VoteReply | AppendRequest | AppendReply):
            self._observe_term(message.term)
        match message:
            case VoteRequest():
                self._on_vote_request(peer, message)
            case VoteReply():
                self._on_vote_reply(peer, message)
            case AppendRequest():
                self._on_append_request(peer, message)
            case AppendReply():
                self._on_append_reply(peer, message)
            case _:
                raise PeerError("not a message of Raft")

    def _observe_term(self, term: int) -> None:
        """Raft 5.1: whoever sees a later term follows it. Raises PeerError for one that no number
        of elections can have led to."""
        if term > min(self.term + MAX_TERM_STEP, MAX_TERM):
            raise PeerError(f"term {term} is far beyond this replica's {self.term}")
        if term > self.term:
            self._SyncObj__setCurrentTerm(term, None)
            self._become_follower()

    def _become_follower(self) -> None:
        if self._followers.end():  # its election deadline dates from before it led
            self._postpone_election()
        self._SyncObj__setState(FOLLOWER)
        self._SyncObj__raftLeader = None

    def _follow(self, leader: str) -> None:
        setattr(self, "_SyncObj__raftLeader", _Member(leader))  # noqa: B010 - typed as None there

    def _postpone_election(self) -> None:
        timeout = self._SyncObj__generateRaftTimeout()
        self._SyncObj__raftElectionDeadline = self._clock() + timeout

    def _on_vote_request(self, peer: str, request: VoteRequest) -> None:
        granted = (
            grants_vote(
                request=request,
                candidate=peer,
                term=self.term,
                voted_for=self._SyncObj__votedForNodeId,
                log=self.journal,
            )
            and self.role == FOLLOWER
        )
        if granted:
            self._SyncObj__setCurrentTerm(self.term, peer)
            self._postpone_election()
        self._outbox(peer, VoteReply(self.term, granted, request.term))

    def _on_vote_reply(self, peer: str, reply: VoteReply) -> None:
        if not reply.granted or reply.voted_term != self.term or self.role != CANDIDATE:
            return
        self._voters_for_me.add(peer)
        self._SyncObj__votesCount = 1 + len(self._voters_for_me)
        if has_majority(self._SyncObj__votesCount, len(self.peer_ids) + 1):
            self._SyncObj__onBecomeLeader()

    def _SyncObj__setCurrentTerm(self, term: int, voted_for: str | None) -> None:  # noqa: N802
        if term < self.term:
            raise SafetyViolationError("the term would go back")
        if term > self.term:
            self._voters_for_me = set()
        SyncObj._SyncObj__setCurrentTerm(self, term, voted_for)

    def _on_append_request(self, peer: str, request: AppendRequest) -> None:
        check_shape(request)
        if request.term < self.term:  # its leader learns that it is none (hazard 14)
            self._reply(peer, request, success=False, hint_index=request.prev_log_index)
            return
        if self.leader not in (None, peer):
            raise PeerError(f"{peer} leads term {self.term}, and so does {self.leader}")
        self._SyncObj__setState(FOLLOWER)
        self._follow(peer)
        self._postpone_election()
        fit = fit_append(request, log=self.journal, commit_index=self.commit_index)
        if isinstance(fit, Conflict):
            self._reply(peer, request, success=False, hint_index=fit.hint_index)
            return
        if fit.truncate_from is not None:
            self.journal.truncate_from(fit.truncate_from)
        for entry in fit.append:
            self.journal.add(entry.command, entry.index, entry.term)
        self._SyncObj__raftCommitIndex = committed_by(request, fit.match_index, self.commit_index)
        self._reply(peer, request, success=True, match_index=fit.match_index)

    def _reply(
        self,
        peer: str,
        request: AppendRequest,
        *,
        success: bool,
        match_index: int = 0,
        hint_index: int = 0,
    ) -> None:
        self._outbox(
            peer,
            AppendReply(
                term=self.term,
                request_term=request.term,
                success=success,
                match_index=match_index,
                hint_index=hint_index,
                prev_log_index=request.prev_log_index,
                wall_clock_ms=self._wall_clock_ms(),
            ),
        )

    def _on_append_reply(self, peer: str, reply: AppendReply) -> None:
        if not self.is_leader or reply.request_term != self.term:
            return  # meant for another leadership (hazard 4)
        if reply.match_index > self.journal.last_index():
            raise PeerError(f"{peer} acknowledges entries that were never sent")
        self._SyncObj__lastResponseTime[_Member(peer)] = self._clock()
        can_send_more = self._followers.acknowledged(peer, reply)
        self._SyncObj__raftMatchIndex[_Member(peer)] = self._followers.match_index(peer)
        if can_send_more:
            self._followers.send_more(peer, self._leading)

    # -- cut off -----------------------------------------------------------------------------

    def _SyncObj__tryLogCompaction(self) -> None:  # noqa: N802
        """The log is not compacted by dumps: state and log live in one store (hazards 8, 9)."""

    def _SyncObj__loadDumpFile(self, clearJournal: bool) -> NoReturn:  # noqa: N802, N803
        raise SafetyViolationError("there are no dumps")


def engine_module() -> types.ModuleType:
    """The engine's module, for the tests that pin it."""
    module = _module
    assert isinstance(module, types.ModuleType)
    return module
