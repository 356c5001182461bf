"""A node's whole part in the authority protocol: asking, granting, confirming, enforcing.

Owns the glue between the pure state machines of `quorate.lease` and one node: which message goes
to which of them, and when the authority word is written. Sans-I/O like they are; the core loop
carries its messages and calls `publish` only when the turn is durable.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from quorate.consensus import PeerError
from quorate.core.limits import MAX_INTEGER
from quorate.core.outcome import Reason
from quorate.core.records import Parameters
from quorate.lease.authority import Ask, Authority, AuthorityHolder, FederationTime, Grant
from quorate.lease.clock import Clock
from quorate.lease.confirm import Confirm, ConfirmReply, ConfirmRounds, Leadership, confirms
from quorate.lease.enforcement import Enforcement, OwnPermits, OwnReaders
from quorate.lease.word import AuthorityRecord, AuthorityWord
from quorate.node.authority_wire import (
    AuthorityMessage,
    EnforcedReport,
    EnforcedWatermark,
    OpenAsk,
    OpenMember,
    OpenReply,
)
from quorate.node.open_members import OpenMembers

_NS_PER_MS = 1_000_000
_RETRY_NS = 100 * _NS_PER_MS
_NONE = (0, 0, 0)
FIRST_SEQ_BITS = 62
"""Where a process begins to count its asks is drawn from so many: no two processes of a node ever
count over the same numbers, and none runs out of the 64 bits on the wire."""


@dataclass(frozen=True, slots=True)
class AuthorityTerms:
    """The federation's parameters of authority, as the ledger holds them."""

    period_ms: int
    max_permit_ttl_ms: int
    rho_ppm: int

    @classmethod
    def of(cls, parameters: Parameters) -> AuthorityTerms:
        return cls(parameters.authority_period_ms, parameters.max_permit_ttl_ms, parameters.rho_ppm)


class AuthorityKeeper:
    """One node's authority: its own, and as the leader, everybody's."""

    def __init__(
        self,
        *,
        node_id: str,
        peers: Sequence[str],
        terms: AuthorityTerms,
        clock: Clock,
        boot_id: bytes,
        word: AuthorityWord,
        federation_time: Callable[[], FederationTime],
        first_seq: int | None = None,
    ) -> None:
        """`terms`: see `follow` for those of a federation that has changed them. `first_seq` is for
        simulations; by default it is drawn anew for each process."""
        self._node_id = node_id
        self._peers = tuple(peers)
        self._followed: tuple[Collection[str], ...] = ()
        self._retired: frozenset[str] = frozenset()
        self._terms = terms
        self._clock = clock
        self._boot_id = boot_id
        self._word = word
        self._federation_time = federation_time
        self._holder = AuthorityHolder(
            clock,
            terms.period_ms,
            secrets.randbits(FIRST_SEQ_BITS) if first_seq is None else first_seq,
        )
        self._rounds = ConfirmRounds(node_id, peers)
        self._readers = OwnReaders(terms.period_ms)
        self._permits = OwnPermits(terms.max_permit_ttl_ms, terms.rho_ppm)
        self._enforcement = Enforcement([node_id, *peers], terms.period_ms, terms.rho_ppm)
        # A permit ends with its node's authority, as the executor's clock has it: two clocks more.
        self._drainage = Enforcement([node_id, *peers], terms.period_ms, 3 * terms.rho_ppm)
        self._open = OpenMembers(clock)
        self._outbox: list[tuple[str, AuthorityMessage]] = []
        self._led_term: int | None = None
        self._begins_at = (0, 0)
        self._reported: tuple[str | None, int, int] = (None, 0, 0)
        self._told = (0, 0)
        self._claimed = (0, 0, 0)
        self.watermark = 0
        """The Raft index up to which everything is enforced, on all nodes."""
        self.drained = 0
        """The one up to which everything is drained, on all nodes."""
        self.on_probation: Callable[[], bool] = lambda: False
        """Whether this node may have forgotten which leader it followed: then it confirms none, and
        asks for no authority of its own."""
        self.on_round: Callable[[int], None] = lambda _took_ns: None
        """Is told how long each confirm round took, from its start to its majority."""
        self.current: Authority | None = None
        self._deadline_ns = 0
        word.clear(Reason.INQUORATE)

    def follow(self, terms: AuthorityTerms, widest: AuthorityTerms) -> None:
        """The federation's parameters, in a state that is durable here. What is permitted, and
        granted, goes by those in force; whoever waits until something is over counts by the largest
        that ever were. They are told together: this node grants nothing for longer than it counts.
        """
        changed, self._terms = terms != self._terms, terms
        self._holder.follow(terms.period_ms)
        self._readers.follow(widest.period_ms)
        self._permits.follow(widest.max_permit_ttl_ms, widest.rho_ppm)
        self._enforcement.follow(widest.period_ms, widest.rho_ppm)
        self._drainage.follow(widest.period_ms, 3 * widest.rho_ppm)
        if changed and self.current is not None:
            # What was published goes by them, too. It ends a whole `L` from here, not from its
            # ask: that was as long ago as the `L` of before allowed, and nobody is to be denied
            # because of a new one. Whoever loses the quorum from now on has lost it by then.
            here = self._clock.boottime_ns() + terms.period_ms * _NS_PER_MS
            self._write(self.current, min(self._deadline_ns, here))

    # -- a turn ------------------------------------------------------------------------------

    def receive(self, peer: str, message: AuthorityMessage, raft: Leadership) -> None:
        """Takes in one message of a member. Raises PeerError for what no correct one can say."""
        match message:
            case Ask():
                self._on_report(peer, message, raft, message.applied_index)
                self._rounds.on_ask(peer, message)
            case Grant():
                said = message.time.ledger_ms, message.time.clocks_ms, message.period_ms
                if all(0 <= each <= MAX_INTEGER for each in said):
                    self._holder.on_grant(peer, message, raft.term)
            case Confirm():
                reply = None if self.on_probation() else confirms(peer, message, raft)
                if reply is not None:
                    self._outbox.append((peer, reply))
            case ConfirmReply():
                self._rounds.on_reply(peer, message)
            case EnforcedReport():
                self._on_report(peer, message, raft)
            case EnforcedWatermark():
                if peer == raft.leader:
                    _, enforced, drained = self._claimed if self._claimed[0] == raft.term else _NONE
                    self._claimed = (
                        raft.term,
                        max(enforced, message.enforced_index),
                        max(drained, message.drained_index),
                    )
            case OpenAsk():
                self._answer_open(peer, raft)
            case OpenReply():
                self._open.on_reply(peer, message, raft)

    def _on_report(
        self, peer: str, report: Ask | EnforcedReport, raft: Leadership, applied_index: int = 0
    ) -> None:
        """What a member has applied was committed, and a leader's log has all of that. Who claims
        more has a state that is none of this federation's, and would permit on it."""
        claimed = max(applied_index, report.enforced_index, report.drained_index)
        if raft.is_leader and claimed > raft.last_index:
            raise PeerError(
                f"{peer} says that it has applied {claimed}; the log ends at {raft.last_index}"
            )
        self._enforcement.reported(peer, min(report.enforced_index, raft.commit_index))
        self._drainage.reported(peer, min(report.drained_index, raft.commit_index))

    def tick(
        self, raft: Leadership, applied_index: int, enforced_index: int, edges_index: int = 0
    ) -> None:
        """Asks when an ask is due, and leads the rounds when this node leads. `applied_index` is
        this node's own, durable one; `enforced_index` that of its oldest snapshot in use;
        `edges_index` what is drained as all its edges say."""
        self._follow_configuration(raft)
        now = self._clock.boottime_ns()
        enforced_index = self._readers.enforced(now, applied_index, enforced_index)
        drained_index = self._permits.drained(now, enforced_index, edges_index)
        leader = raft.leader if self._may_ask else None
        ask = self._holder.ask(leader, applied_index, enforced_index, drained_index)
        if ask is not None and raft.leader == self._node_id:
            self._rounds.on_ask(self._node_id, ask)
        elif ask is not None and raft.leader is not None:
            self._outbox.append((raft.leader, ask))
        now = self._clock.boottime_ns()  # after this node's own ask: a grant is never older
        self._outbox.extend(self._rounds.start_round(raft, now))
        if raft.is_leader:
            self._grant(raft, now)
        self._report(raft.leader, enforced_index, drained_index)
        self._believe_watermark(raft)
        self._enforce(raft, now, applied_index)

    def _grant(self, raft: Leadership, now: int) -> None:
        for took_ns in self._rounds.take_durations_ns(now):
            self.on_round(took_ns)
        at = self._federation_time(), self._terms.period_ms
        for node, grant in self._rounds.grants(raft, *at):
            self._enforcement.granted(node, now)
            self._drainage.granted(node, now)
            if node == self._node_id:
                self._holder.on_grant(self._node_id, grant, raft.term)
            else:
                # With each grant the watermark again: told alone, it may have come before the
                # member knew this leader, or have been lost with a link.
                self._outbox += [(node, grant), (node, self._watermarks())]

    @property
    def _may_ask(self) -> bool:
        return self._node_id not in self._retired and not self.on_probation()

    def _follow_configuration(self, raft: Leadership) -> None:
        # Who is a member only of what is not committed yet is granted nothing: the next leader may
        # not know it, and would not wait for its authority to lapse.
        followed = raft.members, raft.voters, raft.committed_members, self._retired
        if followed == self._followed:
            return
        self._followed = followed
        askers = frozenset(raft.members) & frozenset(raft.committed_members) - self._retired
        other_voters = tuple(voter for voter in raft.voters if voter != self._node_id)
        self._peers = tuple(member for member in raft.members if member != self._node_id)
        self._rounds.reconfigure(other_voters, askers)
        self._enforcement.reconfigure(raft.members)
        self._drainage.reconfigure(raft.members)

    def retire(self, nodes: Collection[str]) -> None:
        """These nodes are granted no authority any more; this one, if it is among them, gives up
        what it has, and asks no more."""
        self._retired = frozenset(nodes)
        if self._node_id in self._retired:
            self.surrender(Reason.NODE_RETIRED)

    def has_lapsed(self, member: str) -> bool:
        """Whether this node, as the leader, knows that `member` holds no authority, nor any
        executor a permit of it."""
        return self._drainage.has_lapsed(member, self._clock.boottime_ns())

    def _believe_watermark(self, raft: Leadership) -> None:
        """Takes the leader's word for what everybody enforces, as far as this node itself knows
        that it is committed, and while that leader's term lasts."""
        term, enforced, drained = self._claimed
        if term == raft.term:
            self.watermark = max(self.watermark, min(enforced, raft.commit_index))
            self.drained = max(self.drained, min(drained, raft.commit_index))

    def _enforce(self, raft: Leadership, now: int, applied_index: int) -> None:
        if self._led_term is not None and (not raft.is_leader or self._led_term != raft.term):
            # Also when no turn saw the end of that leadership: whoever led in between may have
            # granted authority of which this node knows nothing.
            self._enforcement.end()
            self._drainage.end()
            self._led_term = None
        if not raft.is_leader or not raft.commits_own_term:
            return
        if self._led_term is None:
            if self._begins_at[0] != raft.term:
                self._begins_at = raft.term, raft.commit_index
            if applied_index < self._begins_at[1]:
                return  # how long others were granted authority for may stand in what is left
            self._led_term = raft.term
            self._enforcement.begin(now)
            self._drainage.begin(now)
        at = now, raft.commit_index, self._rounds.pending_read_index
        self.watermark = max(self.watermark, self._enforcement.watermark(*at))
        self.drained = max(self.drained, self._drainage.watermark(*at))
        if (self.watermark, self.drained) != self._told:
            self._told = self.watermark, self.drained
            self._outbox.extend((peer, self._watermarks()) for peer in self._peers)

    def _watermarks(self) -> EnforcedWatermark:
        return EnforcedWatermark(self.watermark, self.drained)

    def _report(self, leader: str | None, enforced_index: int, drained_index: int) -> None:
        if leader is None or self._reported == (leader, enforced_index, drained_index):
            return
        self._reported = (leader, enforced_index, drained_index)
        if leader == self._node_id:
            self._enforcement.reported(self._node_id, enforced_index)
            self._drainage.reported(self._node_id, drained_index)
        else:
            self._outbox.append((leader, EnforcedReport(enforced_index, drained_index)))

    def publish(self, applied_index: int) -> Authority | None:
        """Writes the authority word when a grant has come for a state that this node has applied;
        returns what was published. Call it only when that state is durable, and so visible to the
        edge."""
        authority = self._holder.take(applied_index)
        if authority is None:
            return None
        # An `L` that was shortened counts from when it was known, for what was held then. What was
        # asked for before that must not take it away.
        held_ns = 0 if self.current is None else self._deadline_ns
        self.current = authority
        self._write(authority, max(held_ns, self._end_of(authority)))
        return authority

    def _end_of(self, authority: Authority) -> int:
        """When it ends, on the boot clock, by the shorter of the leader's `L` and this node's."""
        period_ms = min(self._terms.period_ms, authority.period_ms)
        return authority.asked_boottime_ns + period_ms * _NS_PER_MS

    def _write(self, authority: Authority, deadline_ns: int) -> None:
        self._deadline_ns = deadline_ns
        self._word.write(
            AuthorityRecord(
                boot_id=self._boot_id,
                deadline_ns=self._deadline_ns,
                granted_at_boottime_ns=authority.asked_boottime_ns,
                granted_at_realtime_ns=authority.asked_realtime_ns,
                term=authority.term,
                index=authority.read_index,
                ledger_time_ms=authority.time.ledger_ms,
                max_permit_ttl_ms=self._terms.max_permit_ttl_ms,
                rho_ppm=self._terms.rho_ppm,
                reason=None,
            )
        )

    def take_outbox(self) -> list[tuple[str, AuthorityMessage]]:
        """The turn's messages. Call it only when the turn is durable."""
        outbox, self._outbox = self._outbox, []
        return outbox

    def connected(self, peer: str) -> None:
        """The link to `peer` is new: what was told before may be lost."""
        self._reported = (None, 0, 0)
        if self._led_term is not None:
            self._outbox.append((peer, self._watermarks()))

    def surrender(self, reason: Reason) -> None:
        """Gives authority up at once: the node can no longer vouch for its state."""
        self._word.clear(reason)
        self.current = None
        self._holder.forget()
        self._outbox.clear()

    # -- what others may know ----------------------------------------------------------------

    def next_timer_ns(self, raft: Leadership) -> int | None:
        """When a turn is due without any event, on the boot clock; None: not before an event."""
        if raft.leader is None or not self._may_ask:
            return None
        due = self._holder.next_ask_ns()
        return min(due, self._clock.boottime_ns() + _RETRY_NS) if raft.is_leader else due

    def remaining_ms(self) -> int:
        """What is left of this node's authority, milliseconds; 0 without any."""
        if self.current is None:
            return 0
        return max(0, (self._deadline_ns - self._clock.boottime_ns()) // _NS_PER_MS)

    def enforced_by(self, member: str) -> int:
        """As this node, the leader, was told."""
        return self._enforcement.of_member(member)

    # -- who holds changes up ----------------------------------------------------------------

    def ask_open(self, raft: Leadership) -> bool:
        """Asks the leader which members hold changes up, unless it is this node, or was asked a
        moment ago. For somebody who waits here; returns whether there is a message to send."""
        leader = raft.leader
        if leader in (None, self._node_id) or not self._open.may_ask(leader):
            return False
        self._outbox.append((leader, OpenAsk()))
        return True

    def open_members(self, raft: Leadership) -> Sequence[OpenMember] | None:
        """Those that hold something up that is committed: as this node, the leader, counts them, or
        as the leader has told it a moment ago. None: nobody here knows. To be shown, never to be
        relied on."""
        if not raft.is_leader:
            return self._open.told(raft)
        if self._led_term != raft.term or not raft.commits_own_term:
            return None
        at = (
            self._clock.boottime_ns(),
            raft.commit_index,
            self._rounds.pending_read_index,
        )
        enforced, drained = self._enforcement.by_member(*at), self._drainage.by_member(*at)
        return [
            OpenMember(member, reached, drained[member])
            for member, reached in enforced.items()
            if min(reached, drained[member]) < raft.commit_index
        ]

    def _answer_open(self, peer: str, raft: Leadership) -> None:
        if not raft.is_leader or not self._open.may_answer(peer, self._peers):
            return
        members = self.open_members(raft)
        if members is not None:
            self._outbox.append((peer, OpenReply(raft.term, tuple(members))))
