"""Raft's invariants, checked after every durable turn and on every message, and seeded runs.

Owns the checks (Raft paper, Figure 3, and what this project adds: persist before send, no commit
without a durable quorum) and the drawing of faults. Does not own the simulated world (`raft`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from quorate.consensus import RaftSettings
from quorate.consensus.messages import (
    AppendReply,
    AppendRequest,
    Message,
    VoteReply,
    VoteRequest,
)
from quorate.testing.raft import Host, RaftCluster, TurnFault

FORGOTTEN_ONE_IN = 10
LIVENESS_S = 20.0
KEY_BYTES = 16
HEALED_DELAY_S = (0.001, 0.01)


class ViolationError(AssertionError):
    """One of Raft's promises was broken."""


def _require(holds: bool, promise: str, *details: object) -> None:
    if not holds:
        raise ViolationError(f"{promise}: {' '.join(map(str, details))}")


@dataclass
class _Seen:
    """What a host has shown so far. `held`: up to here its disk holds the committed log."""

    term: int = 0
    applied: int = 0
    commit: int = 0
    ledger: int = 0
    held: int = 0


@dataclass
class SafetyChecker:
    """Looks on (`quorate.testing.raft.Watcher`) and raises ViolationError."""

    hosts: dict[str, Host] = field(default_factory=dict)
    seen: dict[str, _Seen] = field(default_factory=dict)
    leaders: dict[int, str] = field(default_factory=dict)
    votes: dict[tuple[str, int], str] = field(default_factory=dict)
    entries: dict[tuple[int, int], tuple[bytes, int]] = field(default_factory=dict)
    committed: list[tuple[int, bytes]] = field(default_factory=list)
    applied: dict[int, bytes] = field(default_factory=dict)
    elections: int = 0

    def started(self, host: Host) -> None:
        self.hosts[host.node_id] = host
        self.committed = self.committed or host.store.turn.entries[:1]  # committed from the start
        seen = self.seen.setdefault(host.node_id, _Seen())
        _require(host.store.meta.applied >= seen.applied, "applied entries survive", host.node_id)
        seen.commit = host.live.commit_index

    def turn_durable(self, host: Host, unchanged: int, _applied: int) -> None:
        self._check_term_and_vote(host)
        self._check_log(host, unchanged)
        self._check_leader(host)
        self._check_commit(host)
        self._check_ledger(host)

    def _check_term_and_vote(self, host: Host) -> None:
        meta, seen = host.store.meta, self.seen[host.node_id]
        _require(meta.term >= seen.term, "terms never fall", host.node_id, meta.term)
        _require(meta.term == host.live.term, "the term is durable", host.node_id, meta)
        seen.term = meta.term
        if meta.voted_for is not None:
            self._count_vote(host.node_id, meta.term, meta.voted_for)

    def _count_vote(self, voter: str, term: int, candidate: str) -> None:
        first = self.votes.setdefault((voter, term), candidate)
        _require(first == candidate, "one vote a term", voter, term, first, candidate)

    def _check_log(self, host: Host, unchanged: int) -> None:
        """Log matching, by induction: an (index, term) has one command and one predecessor."""
        log, seen = host.store.entries, self.seen[host.node_id]
        for index in range(unchanged + 1, len(log) + 1):
            term, command = log[index - 1]
            before = log[index - 2][0] if index > 1 else 0
            first = self.entries.setdefault((index, term), (command, before))
            _require(first == (command, before), "log matching", host.node_id, index, term)
        if unchanged < seen.held:
            _require(
                log[unchanged : seen.held] == self.committed[unchanged : seen.held],
                "what is committed stays on the disks that held it",
                host.node_id,
                f"{unchanged + 1}..{seen.held}",
            )

    def _check_leader(self, host: Host) -> None:
        if not host.live.is_leader:
            return
        term = host.live.term
        if term not in self.leaders:
            self.elections += 1
            committed = self.committed
            _require(host.store.entries[: len(committed)] == committed, "leader completeness", term)
        first = self.leaders.setdefault(term, host.node_id)
        _require(first == host.node_id, "election safety", term, first, host.node_id)

    def _check_commit(self, host: Host) -> None:
        seen, log, commit = self.seen[host.node_id], host.store.entries, host.live.commit_index
        _require(commit >= seen.commit, "commits never fall", host.node_id, commit)
        _require(commit <= len(log), "commits are in the log", host.node_id, commit)
        seen.commit = commit
        while len(self.committed) < commit:
            index = len(self.committed) + 1
            entry = log[index - 1]
            holders = sum(
                len(other.store.entries) >= index and other.store.entries[index - 1] == entry
                for other in self.hosts.values()
            )
            _require(
                holders * 2 > len(self.hosts),
                "a commit is on the disks of a quorum",
                index,
                holders,
            )
            self.committed.append(entry)
        _require(
            log[seen.held : commit] == self.committed[seen.held : commit],
            "one committed log",
            host.node_id,
            commit,
        )
        while seen.held < min(len(log), len(self.committed)):
            if log[seen.held] != self.committed[seen.held]:
                break
            seen.held += 1

    def _check_ledger(self, host: Host) -> None:
        """State machine safety: everybody applies the same at an index, in order, durably."""
        seen, ledger = self.seen[host.node_id], host.store.ledger
        _require(len(ledger) >= seen.ledger, "what is applied stays", host.node_id)
        for position in range(seen.ledger, len(ledger)):
            index, payload = ledger[position]
            first = self.applied.setdefault(index, payload)
            _require(first == payload, "state machine safety", host.node_id, index)
            _require(
                position == 0 or ledger[position - 1][0] < index, "applied in order", host.node_id
            )
            _require(self.committed[index - 1][1][1:] == payload, "only what is committed", index)
        seen.ledger = len(ledger)
        _require(host.store.meta.applied >= seen.applied, "applied never falls", host.node_id)
        seen.applied = host.store.meta.applied
        _require(seen.applied <= host.live.commit_index, "applied after committed", host.node_id)

    def sent(self, host: Host, peer: str, message: Message) -> None:
        """Persist, then send: what a message says is on the disk that it speaks for."""
        meta, log = host.store.meta, host.store.entries
        match message:
            case VoteReply(granted=True, voted_term=term):
                self._count_vote(host.node_id, term, peer)
                durable = meta.term > term or (meta.term == term and meta.voted_for == peer)
                _require(durable, "a vote is durable before it is sent", host.node_id, term)
            case VoteRequest(term=term):
                durable = meta.term > term or meta.voted_for == host.node_id
                _require(meta.term >= term and durable, "a candidacy is durable", host.node_id)
            case AppendReply(success=True, request_term=term, match_index=match):
                durable = meta.term > term or (meta.term == term and len(log) >= match)
                _require(durable, "an acknowledged entry is durable", host.node_id, match)
            case AppendRequest(term=term, entries=entries) if meta.term == term and entries:
                _require(
                    len(log) >= entries[-1].index, "a sent entry is durable", host.node_id, term
                )


@dataclass(frozen=True)
class Profile:
    """What a seeded run may do. `fault_every_s`: the mean time between faults; 0: none."""

    size: int = 3
    seconds: float = 20.0
    fault_every_s: float = 0.7
    propose_every_s: float = 0.03
    rough: bool = False
    delay_s: tuple[float, float] = (0.001, 0.03)
    settings: RaftSettings | None = None


class SafetyRun:
    """One seed: proposals and faults for a while, then everything is healed and must settle."""

    def __init__(
        self, seed: int, profile: Profile, cluster_type: type[RaftCluster] = RaftCluster
    ) -> None:
        self.profile = profile
        self.chance = random.Random(seed)  # noqa: S311 - a simulation's chance, no secret
        self.checker = SafetyChecker()
        self.cluster = cluster_type(
            seed,
            profile.size,
            settings=profile.settings,
            delay_s=profile.delay_s,
            rough=profile.rough,
            watchers=(self.checker, self),
        )
        self.proposed = 0
        self.faults = 0
        self.finished: set[tuple[str, bytes]] = set()
        self.never: set[bytes] = set()
        self._is_over = False

    def run(self) -> None:
        cluster = self.cluster
        self._propose_later()
        if self.profile.fault_every_s:
            self._fault_later()
        cluster.run_for(self.profile.seconds)
        self._is_over = True
        self._heal()
        self._check_liveness()

    # -- the proposers: they look on, and forget what has its outcome ---------------------------

    def started(self, host: Host) -> None:
        """A new replica waits for nothing."""

    def sent(self, host: Host, peer: str, message: Message) -> None:
        """Messages are the checker's business."""

    def turn_durable(self, host: Host, _unchanged: int, applied: int) -> None:
        for _, payload in host.store.ledger[applied:]:
            host.live.forget(payload[:KEY_BYTES])
            self.finished.add((host.node_id, payload))

    def _propose_later(self) -> None:
        when = self.cluster.now + self.chance.expovariate(1 / self.profile.propose_every_s)
        self.cluster.at(when, self._propose)

    def _propose(self) -> None:
        if self._is_over:
            return
        self._propose_later()
        host = self.chance.choice(list(self.cluster.hosts.values()))
        if host.replica is None or host.paused:
            return
        key = self._next_key()
        payload = key * self.chance.choice((1, 1, 1, 1, 50))
        self.cluster.propose(host.node_id, key, payload)
        if self.chance.randrange(FORGOTTEN_ONE_IN) == 0:
            replica, when = host.replica, self.cluster.now + self.chance.uniform(0, 1)
            self.cluster.at(when, lambda: self._forget(host, replica, key, payload))

    def _next_key(self) -> bytes:
        self.proposed += 1
        return b"%0*d" % (KEY_BYTES, self.proposed)

    def _forget(self, host: Host, replica: object, key: bytes, payload: bytes) -> None:
        if host.replica is not replica or (host.node_id, payload) in self.finished:
            return
        if not host.live.forget(key):
            self.never.add(payload)

    def _fault_later(self) -> None:
        when = self.cluster.now + self.chance.expovariate(1 / self.profile.fault_every_s)
        self.cluster.at(when, self._fault)

    def _fault(self) -> None:
        if self._is_over:
            return
        self._fault_later()
        self.faults += 1
        cluster, chance = self.cluster, self.chance
        names = list(cluster.hosts)
        a, *others = chance.sample(names, len(names))
        leader = cluster.leader()
        if leader is not None and chance.random() < 0.4:
            a, others = leader.node_id, [name for name in others if name != leader.node_id] or []
        running = cluster.hosts[a].replica is not None
        draw = chance.randrange(9)
        if not running:
            cluster.start(a)
        elif draw == 0:
            cluster.crash(a)
            cluster.at(cluster.now + chance.uniform(0.01, 3), lambda: self._restart(a))
        elif draw in (1, 2, 3):
            cluster.hosts[a].turn_fault = list(TurnFault)[draw - 1]
        elif draw == 4:
            cluster.pause(a, chance.uniform(0.05, 3))
        elif draw == 5 and others:
            cluster.isolate(a, *others[: chance.randrange(len(others))])
        elif draw == 6 and others:
            cluster.cut(a, chance.choice(others))
        elif draw == 7 and others:
            cluster.reset_link(a, chance.choice(others))
        else:
            cluster.heal()

    def _restart(self, name: str) -> None:
        if self.cluster.hosts[name].replica is None:
            self.cluster.start(name)

    def _heal(self) -> None:
        cluster = self.cluster
        cluster.rough, cluster.delay_s = False, HEALED_DELAY_S
        cluster.heal()
        for host in cluster.hosts.values():
            host.turn_fault = None
            if host.replica is None:
                cluster.start(host.node_id)
            elif host.paused:
                cluster.resume(host.node_id)

    def _check_liveness(self) -> None:
        """Healed, every node takes proposals, and all apply the same."""
        cluster = self.cluster
        last = {name: self._next_key() for name in cluster.hosts}
        for name, key in last.items():
            cluster.propose(name, key, key)

        def settled() -> bool:
            hosts = list(cluster.running())
            ledgers = [host.store.ledger for host in hosts]
            return (
                set(last.values()) <= {payload for _, payload in ledgers[0]}
                and all(ledger == ledgers[0] for ledger in ledgers)
                and all(host.store.entries == hosts[0].store.entries for host in hosts)
            )

        _require(cluster.run_until(settled, LIVENESS_S), "a healed cluster settles")
        _require(not cluster.peer_errors, "correct peers are not accused", *cluster.peer_errors[:3])
        executed = {payload for _, payload in cluster.hosts["n1"].store.ledger}
        _require(not executed & self.never, "what was refused for good is not executed")


def run_seed(
    seed: int, profile: Profile, cluster_type: type[RaftCluster] = RaftCluster
) -> SafetyRun:
    """One seeded run. Raises ViolationError, or whatever a replica raised."""
    run = SafetyRun(seed, profile, cluster_type)
    run.run()
    return run
