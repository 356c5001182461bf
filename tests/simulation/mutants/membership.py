"""Breaks of who takes part: configurations, learners, probation, and snapshots for who lags."""

from __future__ import annotations

from typing import Any

from tests.simulation.mutants.mutant import Patch, mutant

from quorate.consensus.configuration import CONFIGURATION, Configuration
from quorate.consensus.engine import Engine
from quorate.consensus.followers import Followers
from quorate.consensus.messages import (
    AppendReply,
    AppendRequest,
    SnapshotChunk,
    SnapshotOffer,
    SnapshotPull,
)
from quorate.consensus.pysync import Member
from quorate.core import balloting
from quorate.node import membership
from quorate.node.authority_keeper import AuthorityKeeper
from quorate.node.membership import LedgerFollower
from quorate.node.node_core import NodeCore
from quorate.node.snapshots import SnapshotReceiver, SnapshotSender
from quorate.storage import Environment
from quorate.storage.turn import Turn

# -- configurations --------------------------------------------------------------------------------


class _Hasty:
    """A leader's replica, which believes that all it has appended is committed."""

    is_settled = commits_own_term = True

    def __init__(self, replica: Any) -> None:
        self._replica = replica

    def __getattr__(self, name: str) -> Any:
        return getattr(self._replica, name)


def _hurries(patch: Patch) -> None:
    """A leader appends a configuration without waiting for anything."""
    follow = LedgerFollower.follow

    def change(self: Any, wanted: Configuration) -> bool:
        if not self.is_leader:
            return False
        self.journal.add(CONFIGURATION + wanted.encode(), self.journal.last_index() + 1, self.term)
        self._reconfigure()
        self._followers.spread(self._leading, self.connected_ids)
        return True

    def hurry(self: LedgerFollower, replica: Any, keeper: Any, nodes: Any) -> None:
        follow(self, _Hasty(replica), keeper, nodes)  # type: ignore[arg-type]

    patch.setattr(Engine, "change_configuration", change)
    patch.setattr(LedgerFollower, "follow", hurry)


@mutant("short", 40, "one at a time")
def voters_that_change_at_once(patch: Patch) -> None:
    """A leader changes voters while an earlier change is not committed, or before it has
    committed anything."""
    _hurries(patch)


@mutant("short", 12)
def configurations_that_wait_for_their_commit(patch: Patch) -> None:
    """A configuration is in force from its commit on, not from when it is in the log."""

    def take(self: Any) -> None:
        self.configuration = self.journal.configuration_at(self.commit_index)
        self.peer_ids = [peer for peer in self.configuration.members if peer != self.node_id]
        self.other_voters = [peer for peer in self.configuration.voters if peer != self.node_id]

    begin = Engine._begin_log

    def begin_log(self: Any, store: Any, initial: Configuration) -> None:
        self._SyncObj__raftCommitIndex = max(1, store.turn.applied_index)
        begin(self, store, initial)

    patch.setattr(Engine, "_begin_log", begin_log)
    patch.setattr(Engine, "_take_configuration", take)


@mutant("short", 40)
def configurations_that_a_restart_forgets(patch: Patch) -> None:
    """A restart knows the newest configuration that was applied, and none that came after."""
    original = Turn.configurations
    patch.setattr(Turn, "configurations", lambda self: original(self)[:1])


@mutant("members", 40)
def configurations_that_outlive_their_entry(patch: Patch) -> None:
    """A configuration stays in force when its entry is removed from the log."""
    original = Engine._reconfigure

    def reconfigure(self: Any) -> None:
        now = getattr(self, "configuration", None)
        newest = self.journal.configuration_index
        if now is None or newest >= getattr(self, "_newest", 0) or self.is_leader:
            self._newest = newest
            original(self)

    patch.setattr(Engine, "_reconfigure", reconfigure)


@mutant("short", 40)
def learners_that_count(patch: Patch) -> None:
    """A leader counts learners for its commits, and a candidate for its election."""
    original = Engine._take_configuration

    def take(self: Any) -> None:
        original(self)
        self.other_voters = list(self.peer_ids)

    patch.setattr(Engine, "_take_configuration", take)


@mutant("short", 40)
def learners_that_campaign(patch: Patch) -> None:
    """Who is no voter may be elected."""

    def may_campaign(self: Any) -> bool:
        return not self._probation() and self._may_lead()

    patch.setattr(Engine, "_may_campaign", may_campaign)


@mutant("short", 12)
def retired_nodes_that_go_with_authority(patch: Patch) -> None:
    """A retired node leaves the configuration at once, whatever it was granted."""
    patch.setattr(AuthorityKeeper, "has_lapsed", lambda _self, _member: True)


# -- probation -------------------------------------------------------------------------------------


@mutant("mixed", 24, "on probation")
def probation_that_votes(patch: Patch) -> None:
    """A node that may have forgotten its vote votes."""
    original = Engine._on_vote_request

    def vote(self: Any, peer: str, request: Any) -> None:
        probation, self._probation = self._probation, lambda: ""
        original(self, peer, request)
        self._probation = probation

    patch.setattr(Engine, "_on_vote_request", vote)


@mutant("mixed", 24, "on probation")
def probation_that_confirms(patch: Patch) -> None:
    """A node that may have forgotten whom it followed confirms a leader."""
    original = AuthorityKeeper.receive

    def receive(self: Any, peer: str, message: Any, raft: Any) -> None:
        probation, self.on_probation = self.on_probation, lambda: False
        original(self, peer, message, raft)
        self.on_probation = probation

    patch.setattr(AuthorityKeeper, "receive", receive)


@mutant("disks", 40)
def probation_that_counts(patch: Patch) -> None:
    """A leader counts the acknowledgements of who says that it is on probation."""
    original = Engine._on_append_reply

    def handle(self: Any, peer: str, reply: AppendReply) -> None:
        original(self, peer, reply)
        if self.is_leader and self._followers.knows(peer):
            match_index = self._followers.match_index(peer)
            self._SyncObj__raftMatchIndex[Member(peer)] = match_index

    patch.setattr(Engine, "_on_append_reply", handle)


@mutant("disks", 40)
def backups_that_are_trusted(patch: Patch) -> None:
    """A store that is restored goes on as if it had forgotten nothing."""
    patch.setattr(Environment, "mark_probation", lambda *_: None)


@mutant("mixed", 24)
def probation_over_with_any_configuration(patch: Patch) -> None:
    """A node's probation ends when it finds itself in a committed configuration."""

    def end(self: Any) -> None:
        if self._probation and self.node_id in self.replica.committed_members:
            self.environment.turn.set_probation("")
            self._probation = ""

    patch.setattr(NodeCore, "_end_probation", end)


@mutant("mixed", 40)
def disks_that_are_taken_for_whole(patch: Patch) -> None:
    """A leader still takes for held what a node held before it lost its disk."""

    def acknowledged(self: Any, peer: str, reply: AppendReply) -> None:
        self._tokens[peer] = reply.probation
        if self._progress[peer].acknowledged(reply):
            self._has_room[peer] = None

    patch.setattr(Followers, "acknowledged", acknowledged)


# -- snapshots -------------------------------------------------------------------------------------


@mutant("short", 40, "durable")
def offers_that_are_acknowledged(patch: Patch) -> None:
    """A follower says that it holds a snapshot when it is offered one."""
    original = Engine._on_snapshot_offer

    def on_offer(self: Any, peer: str, offer: SnapshotOffer) -> None:
        original(self, peer, offer)
        if offer.term == self.term:
            probe = AppendRequest(offer.term, offer.index, offer.index_term, 0, ())
            self._reply(peer, probe, success=True, match_index=offer.index)

    patch.setattr(Engine, "_on_snapshot_offer", on_offer)


@mutant("short", 40)
def snapshots_of_two_states(patch: Patch) -> None:
    """A part of a snapshot is read from the newest state, not from the one that was announced."""
    original = SnapshotSender.on_pull

    def on_pull(self: Any, peer: str, pull: SnapshotPull) -> SnapshotChunk | None:
        sending = self._sending.get(peer)
        if sending is None:
            return None
        announced = sending.snapshot
        with self._environment.read() as sending.snapshot:
            chunk = original(self, peer, pull)
        sending.snapshot = announced
        return chunk

    patch.setattr(SnapshotSender, "on_pull", on_pull)


@mutant("short", 40)
def snapshots_of_two_states_unseen(patch: Patch) -> None:
    """A part of a snapshot is read from the newest state, and whoever receives it does not compare
    what it has got with what was announced."""
    snapshots_of_two_states.breaks(patch)
    patch.setattr(SnapshotReceiver, "_check", lambda _self, _peer, _offer: None)


@mutant("short", 12)
def everything_at_once(patch: Patch) -> None:
    """A leader goes to the configuration that the ledger names in one step, and others follow."""

    def leap(view: Any, nodes: Any) -> Any:
        active = [node for node in nodes.values() if not node.retired]
        voters = tuple(sorted(node.id for node in active if node.votes))
        learners = tuple(sorted(node.id for node in active if not node.votes))
        wanted = Configuration(voters, learners)
        return wanted if wanted != view.configuration and view.node_id in voters else None

    patch.setattr(membership, "next_step", leap)
    patch.setattr(Configuration, "is_one_step_to", lambda _self, _other: True)


# -- ballots ---------------------------------------------------------------------------------------


@mutant("members", 12)
def expelled_domains_that_keep_their_nodes(patch: Patch) -> None:
    """A domain is expelled, and its nodes go on."""
    patch.setattr(balloting, "_retire_all", lambda _turn, _domain: None)


MUTANTS = (
    expelled_domains_that_keep_their_nodes,
    voters_that_change_at_once,
    everything_at_once,
    configurations_that_wait_for_their_commit,
    configurations_that_a_restart_forgets,
    configurations_that_outlive_their_entry,
    learners_that_count,
    learners_that_campaign,
    retired_nodes_that_go_with_authority,
    probation_that_votes,
    probation_that_confirms,
    probation_over_with_any_configuration,
    probation_that_counts,
    backups_that_are_trusted,
    disks_that_are_taken_for_whole,
    offers_that_are_acknowledged,
    snapshots_of_two_states,
    snapshots_of_two_states_unseen,
)
