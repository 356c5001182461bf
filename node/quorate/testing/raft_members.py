"""Simulated clusters whose members come and go, whose logs are compacted, and whose disks go back.

Owns what a node does around its replica, made as small as can be: changes of the configuration that
are asked of a leader, compaction in every turn, snapshots (one offer, one pull, one chunk; the
state machine's ledger stands for the state), probation and its end. Does not own what is asked and
when (`raft_runs`), nor the real node's part (`quorate.node`, which the federation's simulation
runs).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from quorate.consensus import RaftSettings, Replica
from quorate.consensus.configuration import Configuration
from quorate.consensus.messages import Message, SnapshotChunk, SnapshotOffer, SnapshotPull
from quorate.testing.raft import Host, RaftCluster, Watcher
from quorate.testing.raft_disk import Image

TAIL = RaftSettings(log_tail_entries=5)
"""So short a log that whoever is away for a moment needs a snapshot."""
_IDLE_S = 10.0

Ask = Callable[[Replica], Configuration | None]
"""The configuration that this leader is to put in force; None: none."""


@dataclass
class _Sending:
    offer: SnapshotOffer
    used_at: float


@dataclass
class _Receiving:
    peer: str
    offer: SnapshotOffer
    is_whole: bool = False


@dataclass
class _Around:
    """What a node's process holds beside its replica; lost in a crash."""

    sending: dict[str, _Sending] = field(default_factory=dict)
    receiving: _Receiving | None = None
    pulls: list[tuple[str, Message]] = field(default_factory=list)
    asks: list[Ask] = field(default_factory=list)


class MembersCluster(RaftCluster):
    """A cluster that also changes its configuration, compacts its logs, and sends snapshots.

    `happened` counts what did: a run in which nothing changed proves nothing about changes.
    """

    def __init__(
        self,
        seed: int,
        size: int,
        *,
        settings: RaftSettings | None = None,
        delay_s: tuple[float, float] = (0.001, 0.02),
        rough: bool = False,
        watchers: tuple[Watcher, ...] = (),
    ) -> None:
        self.happened: Counter[str] = Counter()
        self._around: dict[str, _Around] = {}
        self._ledgers: dict[SnapshotOffer, tuple[tuple[int, bytes], ...]] = {}
        self._tokens = 0
        super().__init__(
            seed, size, settings=settings or TAIL, delay_s=delay_s, rough=rough, watchers=watchers
        )

    # -- machines ----------------------------------------------------------------------------

    def join(self) -> str:
        """One more machine, with an empty disk; it is a member when a leader makes it one."""
        name = f"n{len(self.hosts) + 1}"
        self.note("join", name)
        self.add_host(name)
        self.start(name)
        return name

    def crash(self, name: str) -> None:
        self._around.pop(name, None)
        super().crash(name)

    def go_back(self, name: str, image: Image) -> None:
        """A machine that is down gets an older disk, and is on probation from here on."""
        host = self.hosts[name]
        assert host.replica is None
        self.note("go back", name)
        self._tokens += 1
        before = host.store.image()
        host.store.go_back(image, f"{self._tokens:032x}")
        self.happened["a disk went back"] += 1
        for watcher in self._watchers:
            watcher.went_back(host, before)

    def _build(self, host: Host) -> None:
        around = self._of(host.node_id)
        around.sending, around.pulls = {}, []
        super()._build(host)

    def ask(self, name: str, *asks: Ask) -> None:
        """In its next turn `name`, if it leads, changes the configuration."""
        self._of(name).asks.extend(asks)
        self._wake(self.hosts[name], self.now)

    def _of(self, name: str) -> _Around:
        return self._around.setdefault(name, _Around())

    # -- a turn ------------------------------------------------------------------------------

    def begin_turn(self, host: Host) -> None:
        around = self._of(host.node_id)
        receiving = around.receiving
        if receiving is None or not receiving.is_whole:
            return
        around.receiving = None
        offer, ledger = receiving.offer, self._ledgers[receiving.offer]
        if host.live.holds(offer.index, offer.index_term):
            return
        turn = host.store.turn
        turn.install_snapshot(offer.index, offer.index_term, offer.configuration, ledger)
        host.store.commit()
        self.note(host.node_id, "installed", offer.index)
        before, inbox = host.live, host.inbox
        self._build(host)
        host.inbox += inbox
        host.live.take_over(before)
        self.happened["a snapshot was installed"] += 1

    def take_in(self, host: Host, peer: str, message: Message) -> None:
        super().take_in(host, peer, message)
        replica, around = host.live, self._of(host.node_id)
        receiving = around.receiving
        match message:
            case SnapshotOffer() if peer == replica.leader and message.term == replica.term:
                if replica.holds(message.index, message.index_term):
                    return
                if receiving is None or (receiving.peer, receiving.offer) != (peer, message):
                    around.receiving = _Receiving(peer, message)
                pull = SnapshotPull(message.term, message.index, False, b"", 0)
                around.pulls.append((peer, pull))
            case SnapshotPull() if replica.is_leader and message.term == replica.term:
                sending = around.sending.get(peer)
                if sending is not None and sending.offer.index == message.index:
                    sending.used_at = self.now
                    chunk = SnapshotChunk(
                        message.term, message.index, False, b"", 0, (), (), is_last=True
                    )
                    around.pulls.append((peer, chunk))
            case SnapshotChunk() if receiving is not None and receiving.peer == peer:
                offer = receiving.offer
                if (message.term, message.index) == (offer.term, offer.index):
                    receiving.is_whole = True
            case _:
                pass

    def end_turn(self, host: Host) -> None:
        replica, around, meta = host.live, self._of(host.node_id), host.store.turn.meta
        asks, around.asks = around.asks, []
        if replica.is_leader:
            self._readmit(host)
            for ask in asks:
                wanted = ask(replica)
                if wanted is not None and replica.change_configuration(wanted):
                    self.happened["the configuration was changed"] += 1
        token = replica.committed_configuration.token_of(host.node_id)
        if meta.probation and token == meta.probation:
            host.store.turn.set_probation("")
            self.happened["a probation was over"] += 1
        self._tidy(host)
        base = host.store.turn.base
        replica.compact(
            min([replica.applied_index, *(s.offer.index for s in around.sending.values())])
        )
        self.happened["a log was compacted"] += host.store.turn.base > base

    def _readmit(self, host: Host) -> None:
        """As `quorate.node.membership`: who is on probation votes no more, and is told so."""
        replica = host.live
        now = replica.configuration
        for member in now.members:
            token = replica.probation_of(member) if member != host.node_id else ""
            if not token or now.token_of(member) == token:
                continue
            wanted = now.with_learner(member, token)
            there = sum(v == host.node_id or replica.is_responsive(v) for v in wanted.voters)
            if 2 * there > len(wanted.voters) and replica.change_configuration(wanted):
                self.happened["a member was readmitted"] += 1
                return

    def _tidy(self, host: Host) -> None:
        """Gives up snapshots that nobody wants any more, on either side."""
        replica, around = host.live, self._of(host.node_id)
        for peer, sending in list(around.sending.items()):
            has_it = replica.match_index(peer) >= sending.offer.index
            if not replica.is_leader or has_it or self.now - sending.used_at > _IDLE_S:
                del around.sending[peer]
        receiving = around.receiving
        if receiving is not None:
            offer = receiving.offer
            if replica.holds(offer.index, offer.index_term):
                around.receiving = None
            elif receiving.is_whole:  # another turn follows this one, and installs it
                self.at(self.now, lambda: self._wake(host, self.now))

    def send(self, host: Host) -> None:
        around = self._of(host.node_id)
        pulls, around.pulls = around.pulls, []
        super().send(host)
        for peer, message in pulls:
            self.note(host.node_id, peer, message)
            self._carry(host.node_id, peer, message)

    # -- snapshots ---------------------------------------------------------------------------

    def offer(self, host: Host, peer: str, term: int) -> SnapshotOffer | None:
        """Of what is durable, as the real sender's read transaction; the same one to `peer` until
        it has it."""
        sending = self._of(host.node_id).sending
        if peer in sending and sending[peer].offer.term == term:
            return sending[peer].offer
        store = host.store
        index = store.meta.applied
        held = store.entry(index)
        assert held is not None, "the log keeps its newest applied entry"
        configuration = max(each for each in store.members if each[0] <= index)[1]
        ledger = tuple(store.ledger)
        offer = SnapshotOffer(term, index, held[0], configuration, len(ledger), "", 0, b"")
        self._ledgers[offer] = ledger
        sending[peer] = _Sending(offer, self.now)
        return offer
