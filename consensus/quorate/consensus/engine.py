"""The Raft engine: PySyncObj 0.3.17, as `quorate.consensus.pysync` lets it run.

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
from collections.abc import Callable
from typing import Any, Final, NoReturn

from quorate.consensus.configuration import COMMAND, CONFIGURATION, Configuration
from quorate.consensus.elections import Elections
from quorate.consensus.errors import PeerError, SafetyViolationError
from quorate.consensus.fairness import FairQueue
from quorate.consensus.followers import Followers, Leading
from quorate.consensus.journal import EngineEntry, Journal, LogStore
from quorate.consensus.limits import (
    COMPACTION_STEP,
    MAX_APPENDS_PER_TURN,
    MAX_APPLY_BYTES,
    MAX_APPLY_ENTRIES,
    MAX_COMMAND_BYTES,
    MAX_TERM,
    MAX_UNCOMMITTED_APPENDS,
)
from quorate.consensus.messages import (
    AppendReply,
    AppendRequest,
    Message,
    Outbox,
    PreVoteReply,
    PreVoteRequest,
    RaftMessage,
    SnapshotChunk,
    SnapshotOffer,
    SnapshotPull,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from quorate.consensus.pysync import Member, Node, OutboxTransport, SyncObj, SyncObjConf, now
from quorate.consensus.rules import (
    Accepted,
    Conflict,
    check_configurations,
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
_NO_OP: Final = b"\x01"
_REPLIES: Final = (VoteReply, PreVoteReply, AppendReply, SnapshotPull)
_OF_A_KNOWN_TERM: Final = (PreVoteRequest, TimeoutNow, SnapshotPull, SnapshotChunk)
"""What no correct peer sends to who has not come to its term yet, and pre-votes: it moves none."""

Apply = Callable[[int, bytes], None]
"""What is done with a committed command: (log index, payload). Must be total."""


class Engine(SyncObj):  # type: ignore[misc]
    """One replica's Raft state machine.

    Attributes whose names begin with `_SyncObj__` are the engine's own, reached by their mangled
    names; a test pins the version and the shape of every method relied upon.
    """

    def __init__(
        self,
        *,
        node_id: str,
        initial: Configuration,
        settings: RaftSettings,
        store: LogStore,
        outbox: Outbox,
        apply: Apply,
        stamp: Callable[[bytes], bytes],
        clock: Callable[[], float],
        wall_clock_ms: Callable[[], int],
        chance: random.Random,
        may_lead: Callable[[], bool],
        offer: Callable[[str, int], SnapshotOffer | None],
        probation: Callable[[], str],
    ) -> None:
        """initial: the configuration that every log of the federation begins with. offer: see
        `Followers`. probation: this replica's token while it is on probation, else empty."""
        self.node_id = node_id
        self._apply_payload = apply
        self._may_lead = may_lead
        self._stamp = stamp
        self._clock = clock
        self._wall_clock_ms = wall_clock_ms
        self._chance = chance
        self._outbox = outbox
        self._probation = probation
        self._proposals = FairQueue()
        self.connected_ids: set[str] = set()
        self._voters_for_me: set[str] = set()
        self._want_send = False
        self._handlers: dict[type, Callable[[str, Any], None]] = {
            AppendRequest: self._on_append_request,
            AppendReply: self._on_append_reply,
            PreVoteRequest: self._on_pre_vote_request,
            PreVoteReply: self._on_pre_vote_reply,
            VoteRequest: self._on_vote_request,
            VoteReply: self._on_vote_reply,
            TimeoutNow: self._on_timeout_now,
            SnapshotOffer: self._on_snapshot_offer,
            SnapshotPull: self._on_snapshot_pull,
            SnapshotChunk: self._on_snapshot_chunk,
        }
        self._enter()
        self._begin_log(store, initial)
        self.elections = Elections(clock, settings, chance)
        self._followers = Followers(self.journal, outbox, offer)
        self._take_configuration()
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
        transport = OutboxTransport(outbox, self.elections)
        super().__init__(Member(node_id), [], conf, transport=transport)
        self._restore(store)

    def _begin_log(self, store: LogStore, initial: Configuration) -> None:
        turn = store.turn
        is_new = turn.log_last()[0] == 0
        if is_new:  # the entry that every log begins with, and nobody disputes
            data = initial.encode()
            turn.log_append(1, 0, CONFIGURATION + data)
            turn.put_configuration(1, data)
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
        if turn.applied_index < self.journal.first_index():
            raise SafetyViolationError("the log begins behind the state that it made")
        self._reconfigure()

    def _reconfigure(self) -> None:
        """The configuration in force is another one: the engine counts its voters, and a leader
        sends to all of its members."""
        self._take_configuration()
        self._followers.reconfigure(self.peer_ids)
        others = [Member(peer) for peer in self.other_voters]
        self._SyncObj__otherNodes = set(others)
        for member in others:
            counts = not self._followers.token(str(member.id))
            match_index = self._followers.match_index(str(member.id)) if counts else 0
            self._SyncObj__raftMatchIndex[member] = match_index
            self._SyncObj__raftNextIndex.setdefault(member, match_index + 1)
            self._SyncObj__lastResponseTime.setdefault(member, self._clock())

    def _take_configuration(self) -> None:
        self.configuration = self.journal.configuration
        self.peer_ids = [peer for peer in self.configuration.members if peer != self.node_id]
        self.other_voters = [peer for peer in self.configuration.voters if peer != self.node_id]

    def _enter(self) -> None:
        now.clock, now.chance = self._clock, self._chance

    # -- what the replica calls --------------------------------------------------------------

    def tick(self) -> None:
        """Runs timers, commits, applies, takes proposals, and sends what is due."""
        self._enter()
        may_campaign = self._may_campaign()
        if not may_campaign and self.role != FOLLOWER:
            self._become_follower()
        if self._is_election_due and self.role != LEADER:
            self._SyncObj__raftLeader = None  # not heard for so long
            if may_campaign and not self._is_cut_off and self.term < MAX_TERM:
                self._seek_pre_votes()
            else:  # the engine would let it pass, and ask for a turn for ever
                self._postpone_election()
                self.elections.over()
        was_leader = self.is_leader
        commit_index = self.commit_index
        self._want_send = False
        self.doTick(0.0)
        if was_leader and not self.is_leader:
            self._become_follower()
        if self.elections.is_called and self.role != FOLLOWER:
            self.elections.over()
        self.journal.settle_configurations(self.last_applied)
        if self.is_leader:
            if self._want_send or self.commit_index > commit_index:
                self._followers.spread(self._leading, self.connected_ids)
            self._followers.send_more(self._leading)
            self._tell_heir()

    def compact(self, keep: int, floor: int) -> None:
        """Removes what is applied from the front of the log, but for the last `keep` entries and
        what lies at `floor` or behind it."""
        below = min(self.last_applied - keep, floor)
        if below - self.journal.first_index() >= min(keep, COMPACTION_STEP):
            self.journal.compact(below)

    def change_configuration(self, wanted: Configuration) -> bool:
        """Puts a configuration in force, as a leader, one voter away from the present one. False:
        not now (not the leader, or an earlier change is not committed yet), or never (it has more
        members than followers let in)."""
        self._enter()
        assert self.node_id in wanted.voters, "a leader that is to go hands over first"
        assert self.configuration.is_one_step_to(wanted), "voters change one at a time"
        entry = CONFIGURATION + wanted.encode()
        if not self.is_leader or not self.commits_own_term or not self.is_settled:
            return False
        if len(entry) > MAX_COMMAND_BYTES or not wanted.is_within_limits:
            return False
        self.journal.add(entry, self.journal.last_index() + 1, self.term)
        self._reconfigure()
        self._followers.spread(self._leading, self.connected_ids)
        return True

    def hand_over(self, heir: str) -> bool:
        """Lets another voter take over from this leader; False when it cannot."""
        able = self.is_leader and heir in self.other_voters and heir in self.connected_ids
        if able and not self.elections.is_handing_over:
            self.elections.hand_over(heir)
        return able

    def _tell_heir(self) -> None:
        heir = self.elections.heir_to_tell(self.journal.last_index(), self.match_index)
        if heir is not None:
            self._outbox(heir, TimeoutNow(self.term))

    def receive(self, peer: str, message: Message) -> None:
        """Takes in one Raft message. Raises PeerError when no correct peer can have sent it."""
        self._enter()
        self._SyncObj__onMessageReceived(Member(peer), message)

    def connected(self, peer: str) -> None:
        """The link to `peer` is up: what is sent will probably arrive."""
        self._enter()
        if self._is_cut_off:  # it could hear nobody: that is no sign that there is no leader
            self._postpone_election()
        self._SyncObj__onNodeConnected(Member(peer))
        self.connected_ids.add(peer)
        self._followers.link_changed(peer)

    def disconnected(self, peer: str) -> None:
        """The link to `peer` is down: what was in flight may be lost."""
        self._SyncObj__onNodeDisconnected(Member(peer))
        self.connected_ids.discard(peer)
        self._followers.link_changed(peer)

    def propose(self, source: str, payload: bytes) -> bool:
        """Queues a command for this leader's log. False: not the leader, or too many of this
        source's wait already."""
        if not self.is_leader or self.elections.is_handing_over:
            return False
        return self._proposals.add(source, payload)

    def _drop_proposals(self) -> None:
        """Each proposer sees that the leader has changed, and asks again."""
        self._proposals.clear()

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

    def committed_configuration(self) -> Configuration:
        """The newest that this replica knows to be committed."""
        return self.journal.configuration_at(self.commit_index)

    @property
    def is_settled(self) -> bool:
        """Whether the configuration in force is committed, as far as this replica knows."""
        return self.journal.configuration_index <= self.commit_index

    @property
    def _is_cut_off(self) -> bool:
        return bool(self.other_voters) and not self.connected_ids

    @property
    def _is_election_due(self) -> bool:
        return bool(self._SyncObj__raftElectionDeadline < self._clock())

    def _may_campaign(self) -> bool:
        is_voter = self.node_id in self.configuration.voters
        return is_voter and not self._probation() and self._may_lead()

    def holds(self, index: int, term: int) -> bool:
        """Whether the log holds what a snapshot up to this committed entry would bring."""
        return index <= self.commit_index or self.journal.term_at(index) == term

    def match_index(self, peer: str) -> int:
        return self._followers.match_index(peer)

    def probation_of(self, peer: str) -> str:
        """The token with which a follower says to this leader that it is on probation."""
        return self._followers.token(peer)

    def heard_within(self, peer: str, seconds: float) -> bool:
        """Whether this leader had an answer of `peer` within the last `seconds`."""
        heard = self._SyncObj__lastResponseTime.get(Member(peer), 0.0)  # begins with its own rise
        return self._followers.has_answered(peer) and self._clock() - float(heard) < seconds

    @property
    def has_more(self) -> bool:
        """Whether another turn would get further without any new event."""
        return (
            self.commit_index > self.last_applied
            or (self.is_leader and bool(self._proposals) and self._room > 0)
            or (self.is_leader and not self.other_voters and self._uncommitted)
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
        if command[:1] == COMMAND:
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
        for _ in range(min(len(self._proposals), MAX_APPENDS_PER_TURN, self._room)):
            command = COMMAND + self._stamp(self._proposals.take())
            self.journal.add(command, self.journal.last_index() + 1, self.term)
            self._want_send = True

    @property
    def _room(self) -> int:
        """How many proposals the log takes: what waits in the queue still takes turns, and what
        waits in the log does not. What the engine adds for itself asks for none. Each answer that
        commits something is a turn, in which this is asked behind the commit: nothing has to wake
        a leader that had none.
        """
        if self.elections.is_handing_over:
            return 0
        uncommitted = self.journal.last_index() - self.commit_index
        return max(0, MAX_UNCOMMITTED_APPENDS - uncommitted)

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
        if not isinstance(message, RaftMessage):
            raise PeerError("not a message of Raft")
        if isinstance(message, _REPLIES) and peer not in self.peer_ids:
            return  # to a question that this replica never put to it
        is_called = isinstance(message, VoteRequest) and message.transfer
        is_called = is_called and peer in self.other_voters
        if isinstance(message, VoteRequest) and self._is_content and not is_called:
            # Before its term is: nobody who hears a leader is talked into a newer term.
            self._outbox(peer, VoteReply(self.term, False, message.term))
            return
        is_pre_vote = isinstance(message, PreVoteReply) and message.granted
        if not is_pre_vote and not isinstance(message, _OF_A_KNOWN_TERM):
            self._observe_term(message.term)
            if message.term > self.term:
                return  # still out of reach; it will be said again
        self._handlers[type(message)](peer, message)

    def _observe_term(self, term: int) -> None:
        """Raft 5.1: whoever sees a later term follows it, or as far as it may: a term may be
        entered at any time, without a vote. Raises PeerError for one beyond the last."""
        if term > MAX_TERM:
            raise PeerError(f"term {term} is beyond the last")
        reached = self.elections.reach(self.term, term)
        if reached > self.term:  # else the vote would be taken back
            self._SyncObj__setCurrentTerm(reached, None)
            self._become_follower()

    def _become_follower(self) -> None:
        if self._followers.end():  # its election deadline dates from before it led
            self._postpone_election()
        self.elections.leads_no_more()
        self._SyncObj__setState(FOLLOWER)
        self._SyncObj__raftLeader = None

    def _follow(self, leader: str) -> None:
        """Raft 5.2: who speaks as the leader of this replica's term is its leader."""
        if self.leader not in (None, leader):
            raise PeerError(f"{leader} leads term {self.term}, and so does {self.leader}")
        self._SyncObj__setState(FOLLOWER)
        setattr(self, "_SyncObj__raftLeader", Member(leader))  # noqa: B010 - typed as None there
        self._hear()

    def _hear(self) -> None:
        self.elections.heard_leader()
        self._postpone_election()

    def _postpone_election(self) -> None:
        timeout = self._SyncObj__generateRaftTimeout()
        self._SyncObj__raftElectionDeadline = self._clock() + timeout

    @property
    def _is_content(self) -> bool:
        """Whether this replica leads, or hears who does (Raft thesis, 4.2.3)."""
        return self.is_leader or self.elections.hears_a_leader

    def _seek_pre_votes(self) -> None:
        """Asks whether a majority would vote for this replica; the engine campaigns only then."""
        if self.elections.is_called or not self.other_voters:
            return
        request = self.elections.ask(self.term, self.journal)
        self._SyncObj__raftElectionDeadline = self._clock() + self.elections.ask_again_s()
        for peer in self.other_voters:
            self._outbox(peer, request)

    def _on_pre_vote_request(self, peer: str, request: PreVoteRequest) -> None:
        granted = (
            not self.is_leader
            and not self._probation()
            and self.elections.would_vote(request, self.term, self.journal)
        )
        self._outbox(peer, PreVoteReply(self.term, granted, request.term))

    def _on_pre_vote_reply(self, peer: str, reply: PreVoteReply) -> None:
        if self.role != LEADER and self.elections.on_reply(
            peer, reply, self.term, self.other_voters
        ):
            self._campaign_now()

    def _on_timeout_now(self, peer: str, message: TimeoutNow) -> None:
        if message.term == self.term and peer == self.leader and self._may_campaign():
            self.elections.call_by_leader()
            self._campaign_now()

    def _campaign_now(self) -> None:
        """The engine's next tick, in this turn, finds its election timeout over."""
        self._SyncObj__raftElectionDeadline = float("-inf")

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
            and not self._probation()
        )
        if granted:
            self._SyncObj__setCurrentTerm(self.term, peer)
            self._postpone_election()
        self._outbox(peer, VoteReply(self.term, granted, request.term))

    def _on_vote_reply(self, peer: str, reply: VoteReply) -> None:
        if not reply.granted or reply.voted_term != self.term or self.role != CANDIDATE:
            return
        if peer not in self.other_voters:
            return
        self._voters_for_me.add(peer)
        self._SyncObj__votesCount = 1 + len(self._voters_for_me)
        if has_majority(self._SyncObj__votesCount, len(self.other_voters) + 1):
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
        self._follow(peer)
        fit = fit_append(request, log=self.journal, commit_index=self.commit_index)
        if isinstance(fit, Conflict):
            self._reply(peer, request, success=False, hint_index=fit.hint_index)
            return
        if fit.append:
            in_force = self.journal.configuration_at(fit.append[0].index - 1)
            check_configurations(fit.append, in_force)
        if fit.truncate_from is not None:
            self.journal.truncate_from(fit.truncate_from)
        for entry in fit.append:
            self.journal.add(entry.command, entry.index, entry.term)
        if self.journal.configuration is not self.configuration:
            self._reconfigure()
        self._SyncObj__raftCommitIndex = committed_by(request, fit.match_index, self.commit_index)
        self._reply(peer, request, success=True, match_index=fit.match_index)

    def _on_snapshot_offer(self, peer: str, offer: SnapshotOffer) -> None:
        """Who holds all that is offered says so, as of an append; the rest is the node's."""
        if offer.term == self.term:
            self._follow(peer)
        probe = AppendRequest(offer.term, offer.index, offer.index_term, 0, ())
        if offer.term < self.term:
            self._reply(peer, probe, success=False)
            return
        fit = fit_append(probe, log=self.journal, commit_index=self.commit_index)
        if isinstance(fit, Accepted):
            self._reply(peer, probe, success=True, match_index=fit.match_index)

    def _on_snapshot_pull(self, peer: str, pull: SnapshotPull) -> None:
        """A follower that takes in a snapshot is a follower that is heard."""
        counts = self._followers.knows(peer) and not self._followers.token(peer)
        if self.is_leader and pull.term == self.term and counts:
            self._SyncObj__lastResponseTime[Member(peer)] = self._clock()

    def _on_snapshot_chunk(self, peer: str, chunk: SnapshotChunk) -> None:
        if chunk.term == self.term and peer == self.leader:
            self._hear()

    def _reply(
        self,
        peer: str,
        request: AppendRequest,
        *,
        success: bool,
        match_index: int = 0,
        hint_index: int = 0,
    ) -> None:
        probation = self._probation()
        readmitted_by = "" if probation else self.configuration.token_of(self.node_id)
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
                probation=probation or readmitted_by,
                readmitted=bool(readmitted_by),
            ),
        )

    def _on_append_reply(self, peer: str, reply: AppendReply) -> None:
        if not self.is_leader or reply.request_term != self.term:
            return  # meant for another leadership (hazard 4)
        if not self._followers.knows(peer):
            return  # it takes no part any more
        if reply.match_index > self.journal.last_index():
            raise PeerError(f"{peer} acknowledges entries that were never sent")
        self._followers.acknowledged(peer, reply)
        counts = not self.probation_of(peer)  # else it may have promised more to a later leader
        if counts:
            self._SyncObj__lastResponseTime[Member(peer)] = self._clock()
        match_index = self._followers.match_index(peer) if counts else 0
        self._SyncObj__raftMatchIndex[Member(peer)] = match_index

    # -- cut off -----------------------------------------------------------------------------

    def _SyncObj__tryLogCompaction(self) -> None:  # noqa: N802
        """The log is not compacted by dumps: state and log live in one store (hazards 8, 9)."""

    def _SyncObj__loadDumpFile(self, clearJournal: bool) -> NoReturn:  # noqa: N802, N803
        raise SafetyViolationError("there are no dumps")
