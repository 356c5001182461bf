"""Deliberate breaks of Raft, each of which the simulation must catch: the proof that it can fail.

A mutant is a change of one rule. It counts as caught when one of the stated seeds ends in a broken
promise (or in an assertion of the store or the replica, which are promises too).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest

from quorate.consensus import (
    RaftSettings,
    Replica,
    SafetyViolationError,
    elections,
    engine,
    followers,
    rules,
)
from quorate.consensus.engine import Engine
from quorate.consensus.limits import MAX_APPEND_ENTRIES, MAX_INFLIGHT_APPENDS
from quorate.consensus.messages import AppendReply, AppendRequest, VoteReply
from quorate.consensus.rules import Accepted, Conflict
from quorate.testing.raft import Host, RaftCluster, TurnFault
from quorate.testing.raft_disk import MemoryLogStore, MemoryTurn
from quorate.testing.raft_runs import Profile, run_seed
from quorate.testing.raft_safety import SafetyChecker, ViolationError

Patch = pytest.MonkeyPatch
FIVE = Profile(size=5, fault_every_s=0.4, seconds=12)
THREE = Profile(size=3, fault_every_s=0.4, seconds=12)
ROUGH = replace(FIVE, rough=True)
QUICK = RaftSettings(heartbeat_ms=15, election_min_ms=50, election_max_ms=150)
RESTLESS = replace(FIVE, settings=QUICK, seconds=3, fault_every_s=0.08, propose_every_s=0.02)
STRAGGLING = replace(ROUGH, fault_every_s=0.15, delay_s=(0.001, 0.2))
RESTLESS_ROUGH = replace(RESTLESS, rough=True)
"""Elections are quicker than the network's stragglers: messages outlive leaderships."""


# -- what must go wrong in just one order, as a script --------------------------------------------


WINDOW = MAX_INFLIGHT_APPENDS - 2


class Script:
    """Five nodes with quick elections; what happens in between is the seed's."""

    def __init__(self, seed: int) -> None:
        self.checker = SafetyChecker()
        self.cluster = RaftCluster(
            seed, 5, settings=QUICK, delay_s=(0.001, 0.004), watchers=(self.checker,)
        )
        self.until(lambda: self.cluster.leader() is not None)
        self.propose(self.leader, 3)
        self.until(lambda: len({len(host.store.ledger) for host in self.hosts}) == 1)
        self.until(lambda: all(host.store.ledger for host in self.hosts))

    @property
    def hosts(self) -> list[Host]:
        return list(self.cluster.running())

    @property
    def leader(self) -> str:
        leader = self.cluster.leader()
        assert leader is not None
        return leader.node_id

    def others(self, *names: str) -> list[str]:
        return [name for name in self.cluster.hosts if name not in names]

    def until(self, reached: Callable[[], bool], timeout_s: float = 5.0) -> None:
        if not self.cluster.run_until(reached, timeout_s):
            raise RuntimeError("the script does not go as it is written")

    def leads(self, *names: str) -> bool:
        leader = self.cluster.leader()
        return leader is not None and leader.node_id in names

    def make_leader(self, name: str) -> None:
        """Leaders hand over until it is this one's turn."""
        for _ in range(20):
            self.until(self._logs_agree)
            leader = self.cluster.leader()
            assert leader is not None
            if leader.node_id == name:
                return
            leader.live.hand_over(name)
            self.until(partial(self._leads_after, leader.live.term))
        raise RuntimeError("the script does not go as it is written")

    def _logs_agree(self) -> bool:
        logs = [host.store.entries for host in self.hosts]
        return self.cluster.leader() is not None and all(log == logs[0] for log in logs)

    def _leads_after(self, term: int) -> bool:
        return any(host.live.is_leader and host.live.term > term for host in self.hosts)

    def propose(self, name: str, count: int) -> list[bytes]:
        when = int(self.cluster.now * 1e6)
        keys = [b"%s %d %d" % (name.encode(), when, number) for number in range(count)]
        for key in keys:
            self.cluster.propose(name, key, key)
        return keys

    def finish(self) -> None:
        for name, host in self.cluster.hosts.items():
            if host.replica is None:
                self.cluster.start(name)
        self.cluster.heal()
        self.propose("n1", 1)
        self.until(lambda: len({tuple(host.store.ledger) for host in self.hosts}) == 1)
        assert not self.cluster.peer_errors


def late_acknowledgements(seed: int) -> None:
    """Acknowledgements of one leadership arrive in the next one of the same node (hazard 4)."""
    script = Script(seed)
    cluster = script.cluster
    a, b, *rest = script.leader, *script.others(script.leader)
    cluster.cut(b, a)
    cluster.isolate(a, b)
    length = len(cluster.hosts[a].store.entries) + WINDOW
    lost = script.propose(a, WINDOW)
    script.until(lambda: len(cluster.hosts[b].store.entries) == length)
    for key in lost:
        cluster.hosts[a].live.forget(key)  # or they would be proposed again
    cluster.cut(a, b)
    script.until(lambda: script.leads(*rest))
    for x, y in [(x, y) for x in cluster.hosts for y in cluster.hosts if x != y]:
        if (x, y) != (b, a):
            cluster.restore(x, y)
    script.make_leader(a)
    for name in script.others(a, rest[0]):
        cluster.cut(a, name)
    script.propose(a, 20)
    cluster.run_for(0.02)
    cluster.restore(b, a)
    cluster.run_for(0.1)
    script.finish()


def figure_8(seed: int) -> None:
    """Raft paper, 5.4.2: an entry of an older term, on a majority, is replaced all the same."""
    script = Script(seed)
    cluster = script.cluster
    a, b, *rest = script.leader, *script.others(script.leader)
    cluster.isolate(a, b)
    script.propose(a, 1)
    length = len(cluster.hosts[a].store.entries) + 1
    script.until(lambda: len(cluster.hosts[b].store.entries) == length)
    cluster.crash(a)
    cluster.crash(b)
    script.until(lambda: script.leads(*rest))
    last = script.leader
    cluster.crash(last)  # its own first entry is on its disk only
    cluster.heal()
    cluster.start(a)
    cluster.start(b)
    script.until(lambda: script.leads(a, b))
    third = cluster.hosts[script.leader]
    script.until(lambda: third.replica is None or third.live.commit_index >= length)
    cluster.crash(a)
    cluster.crash(b)
    cluster.start(last)
    cluster.run_for(1)
    script.finish()


def long_tail(seed: int) -> None:
    """Raft paper, 5.4.1: a long tail of an older term, which nobody else has, is behind a shorter
    log of a later one."""
    script = Script(seed)
    cluster = script.cluster
    a = script.leader
    rest = script.others(a)
    cluster.isolate(a)
    script.propose(a, WINDOW)
    script.until(lambda: script.leads(*rest))
    second = script.leader
    done = len(cluster.hosts[second].store.ledger) + 2
    script.propose(second, 2)
    script.until(lambda: all(len(cluster.hosts[x].store.ledger) >= done for x in rest))
    cluster.crash(second)
    cluster.heal()
    cluster.run_for(1)
    script.finish()


# -- mutants --------------------------------------------------------------------------------------


def truncates_without_conflict(patch: Patch) -> None:  # hazard 2
    def fit(request: AppendRequest, *, log: Any, commit_index: int) -> Accepted | Conflict:
        found = rules.fit_append(request, log=log, commit_index=commit_index)
        if isinstance(found, Conflict) or found.truncate_from or found.append:
            return found
        beyond = found.match_index + 1
        return replace(found, truncate_from=beyond if beyond <= log.last_index() else None)

    patch.setattr(engine, "fit_append", fit)


def commits_an_unverified_tail(patch: Patch) -> None:  # hazard 3
    original = Engine._on_append_request

    def handle(self: Any, peer: str, request: AppendRequest) -> None:
        original(self, peer, request)
        if request.term == self.term:
            claimed = min(request.commit_index, self.journal.last_index())
            self._SyncObj__raftCommitIndex = max(self.commit_index, claimed)

    patch.setattr(Engine, "_on_append_request", handle)


def acknowledges_an_unverified_tail(patch: Patch) -> None:
    original = Engine._reply

    def reply(self: Any, peer: str, request: AppendRequest, **answer: Any) -> None:
        if answer["success"]:
            answer["match_index"] = self.journal.last_index()
        original(self, peer, request, **answer)

    patch.setattr(Engine, "_reply", reply)


def counts_stale_acknowledgements(patch: Patch) -> None:  # hazard 4
    original = Engine._on_append_reply

    def handle(self: Any, peer: str, reply: AppendReply) -> None:
        match = min(reply.match_index, self.journal.last_index())
        original(self, peer, replace(reply, request_term=self.term, match_index=match))

    patch.setattr(Engine, "_on_append_reply", handle)


def forgets_votes(patch: Patch) -> None:  # hazard 6
    original = MemoryLogStore.commit

    def commit(self: MemoryLogStore) -> None:
        original(self)
        self.meta = replace(self.meta, voted_for=None)

    patch.setattr(MemoryLogStore, "commit", commit)


def forgets_terms(patch: Patch) -> None:  # hazard 6
    original = MemoryTurn.set_term_and_vote

    def keep(self: MemoryTurn, term: int, voted_for: str | None) -> None:
        if voted_for is not None:
            original(self, term, voted_for)

    patch.setattr(MemoryTurn, "set_term_and_vote", keep)


def loses_entries_in_crashes(patch: Patch) -> None:  # hazards 6 to 9
    original = MemoryLogStore.abort

    def abort(self: MemoryLogStore) -> None:
        original(self)
        lost = max(self.meta.applied, len(self.entries) - 1)
        del self.entries[lost:], self.turn.entries[lost:]
        self.turn.unchanged = len(self.entries)

    patch.setattr(MemoryLogStore, "abort", abort)


def sends_before_durable(patch: Patch) -> None:  # hazard 7
    original = RaftCluster.finish_turn

    def finish(self: RaftCluster, host: Host, fault: TurnFault | None) -> None:
        self.send(host)
        original(self, host, fault)

    patch.setattr(RaftCluster, "finish_turn", finish)


def counts_votes_per_message(patch: Patch) -> None:  # hazard 15
    def handle(self: Any, _peer: str, reply: VoteReply) -> None:
        if reply.granted and reply.voted_term == self.term and self.role == engine.CANDIDATE:
            self._SyncObj__votesCount += 1
            if rules.has_majority(self._SyncObj__votesCount, len(self.other_voters) + 1):
                self._SyncObj__onBecomeLeader()

    patch.setattr(Engine, "_on_vote_reply", handle)


def votes_for_any_log(patch: Patch) -> None:
    def grants(*, request: Any, candidate: str, term: int, voted_for: str | None, log: Any) -> bool:
        return request.term == term and voted_for in (None, candidate)

    patch.setattr(engine, "grants_vote", grants)
    patch.setattr(elections, "is_up_to_date", lambda *_: True)


def votes_for_the_longer_log(patch: Patch) -> None:  # Raft 5.4.1
    def longer(_last_term: int, last_index: int, log: Any) -> bool:
        return bool(last_index >= log.last_index())

    patch.setattr(rules, "is_up_to_date", longer)
    patch.setattr(elections, "is_up_to_date", longer)


def votes_for_everybody(patch: Patch) -> None:
    def grants(*, request: Any, candidate: str, term: int, voted_for: str | None, log: Any) -> bool:
        return rules.grants_vote(
            request=request, candidate=candidate, term=term, voted_for=None, log=log
        )

    patch.setattr(engine, "grants_vote", grants)


def elects_by_a_minority(patch: Patch) -> None:
    for module in (engine, elections):
        patch.setattr(module, "has_majority", lambda count, voters: count >= voters // 2)


def accepts_whatever_precedes(patch: Patch) -> None:
    def fit(request: AppendRequest, *, log: Any, commit_index: int) -> Accepted | Conflict:
        held = log.term_at(request.prev_log_index)
        if held is not None:
            request = replace(request, prev_log_term=held)
        return rules.fit_append(request, log=log, commit_index=commit_index)

    patch.setattr(engine, "fit_append", fit)


def keeps_conflicting_entries(patch: Patch) -> None:
    def fit(request: AppendRequest, *, log: Any, commit_index: int) -> Accepted | Conflict:
        found = rules.fit_append(request, log=log, commit_index=commit_index)
        if isinstance(found, Conflict) or found.truncate_from is None:
            return found
        missing = tuple(entry for entry in found.append if entry.index > log.last_index())
        return replace(found, truncate_from=None, append=missing)

    patch.setattr(engine, "fit_append", fit)


def commits_entries_of_older_terms(patch: Patch) -> None:  # Raft 5.4.2, Figure 8
    original = Engine._SyncObj__getEntries

    def entries(self: Any, first: int, count: int | None = None, _max: int | None = None) -> Any:
        found = original(self, first, count)
        return [(found[0][0], first, self.term)] if found and count == 1 else found

    patch.setattr(Engine, "_SyncObj__getEntries", entries)


def promises_too_much_when_forgetting(patch: Patch) -> None:  # hazard 12
    original = Replica.forget

    def forget(self: Replica, key: bytes) -> bool:
        original(self, key)
        return False

    patch.setattr(Replica, "forget", forget)


def never_proposes_again(patch: Patch) -> None:
    """What is refused once, or lost with a leader, stays lost."""
    original = Replica._propose_pending

    def propose(self: Any) -> None:
        attempted = {key for key, pending in self._pending.items() if pending.attempted}
        for key in attempted:
            self.forget(key)
        original(self)

    patch.setattr(Replica, "_propose_pending", propose)


def goes_before_the_log_when_a_link_is_lost(patch: Patch) -> None:
    def restart(self: rules.Progress) -> None:
        self.probing, self.inflight, self.next_index = True, 0, self.match_index + 1

    patch.setattr(rules.Progress, "restart", restart)


@dataclass(frozen=True)
class Mutant:
    """`seeds`: how many may be needed. `batch`: entries in one message."""

    apply: Callable[[Patch], None]
    world: Profile | Callable[[int], None]
    seeds: int
    batch: int = MAX_APPEND_ENTRIES

    def run(self, seed: int) -> None:
        if isinstance(self.world, Profile):
            run_seed(seed, self.world)
        else:
            self.world(seed)


MUTANTS = [
    Mutant(truncates_without_conflict, RESTLESS_ROUGH, 5),
    Mutant(commits_an_unverified_tail, FIVE, 60),
    Mutant(acknowledges_an_unverified_tail, RESTLESS, 40, batch=2),
    Mutant(counts_stale_acknowledgements, late_acknowledgements, 5),
    Mutant(forgets_votes, FIVE, 5),
    Mutant(forgets_terms, THREE, 5),
    Mutant(loses_entries_in_crashes, THREE, 20),
    Mutant(sends_before_durable, THREE, 5),
    Mutant(counts_votes_per_message, STRAGGLING, 200),
    Mutant(votes_for_any_log, THREE, 20),
    Mutant(votes_for_the_longer_log, long_tail, 20),
    Mutant(votes_for_everybody, STRAGGLING, 20),
    Mutant(elects_by_a_minority, FIVE, 10),
    Mutant(accepts_whatever_precedes, FIVE, 40),
    Mutant(keeps_conflicting_entries, FIVE, 20),
    Mutant(commits_entries_of_older_terms, figure_8, 10, batch=1),
    Mutant(promises_too_much_when_forgetting, THREE, 5),
    Mutant(never_proposes_again, THREE, 10),
    Mutant(goes_before_the_log_when_a_link_is_lost, THREE, 40),
]
CAUGHT = (ViolationError, SafetyViolationError, AssertionError)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.apply.__name__)
def test_a_break_is_caught(mutant: Mutant, monkeypatch: Patch) -> None:
    monkeypatch.setattr(followers, "MAX_APPEND_ENTRIES", mutant.batch)
    mutant.apply(monkeypatch)
    for seed in range(mutant.seeds):
        try:
            mutant.run(seed)
        except CAUGHT:
            return
    pytest.fail(f"{mutant.seeds} seeds did not catch it")


@pytest.mark.parametrize(
    ("script", "batch"),
    [(late_acknowledgements, MAX_APPEND_ENTRIES), (figure_8, 1), (long_tail, 1)],
)
def test_the_scripts_hold_without_a_break(
    script: Callable[[int], None], batch: int, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(followers, "MAX_APPEND_ENTRIES", batch)
    for seed in range(10):
        script(seed)


def test_restless_clusters_hold_without_a_break(monkeypatch: Patch) -> None:
    monkeypatch.setattr(followers, "MAX_APPEND_ENTRIES", 2)
    for seed in range(10):
        run_seed(seed, RESTLESS)
