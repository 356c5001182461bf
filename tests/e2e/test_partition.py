"""The quorum is lost at the network, every process alive: all deny, by themselves, within L; and
nothing but a new authority brings permits back.

The bound is exact, with no allowance for a slow machine: nodes and probes share one boot clock, and
a permit whose question was sent later than L after the cut was decided later than that.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence

import pytest

from quorate.chaos.cluster import Cluster
from quorate.chaos.crew import Crew, Probing
from quorate.chaos.links import Way
from quorate.chaos.mirror import LedgerMirror
from quorate.chaos.probe import NS_PER_MS, boottime_ns
from quorate.chaos.processes import wait_until
from quorate.v1 import decision_pb2, governance_pb2

pytestmark = pytest.mark.cluster

FRESH_MS = 500
WORK_S = 20.0
"""For permits to be had at a node that is whole."""
RECOVERY_S = 20.0
"""From healing to permits everywhere: links dial again, an election, a grant; on a busy machine."""
WINDOW_MS = 1_500
"""How long after L it is watched that nothing is permitted."""


@pytest.fixture
def authority_ms(cluster: Cluster) -> int:
    """L."""
    return cluster.genesis().parameters.authority_period_ms


@pytest.fixture
def probes(cluster: Cluster, crew: Crew) -> Iterator[dict[str, Probing]]:
    """At each node one executor that asks without pause, and is permitted to act just now."""
    started = {probing.domain: probing for probing in crew.probe_all()}
    await_work(started.values())
    yield started
    for probing in started.values():
        assert probing.process.stop() == 0
        assert all_ok(probing, 0), "a denial is an answer: every status was OK"


def await_work(probes: Sequence[Probing]) -> None:
    def all_work() -> bool:
        since = boottime_ns() - FRESH_MS * NS_PER_MS
        return all(probing.journal.permits(since) for probing in probes)

    wait_until("permits at every node", all_work, WORK_S)


def all_ok(probing: Probing, since_ns: int) -> bool:
    return all(asked.is_permit or asked.is_denial for asked in probing.journal.since(since_ns))


def let_pass_until(moment_ns: int) -> None:
    """Waits for a moment of the boot clock: a window in which nothing may happen."""
    left_s = max(0.0, (moment_ns - boottime_ns()) / 1e9)
    wait_until("the end of the window", lambda: boottime_ns() >= moment_ns, left_s + 10)


def assert_bound(probing: Probing, cut_ns: int, authority_ms: int, until_ns: int) -> float:
    """No permit was decided, and none lived, later than L after the cut; denials say why. Returns
    when the last permit was asked for, in milliseconds after the cut."""
    limit_ns = cut_ns + authority_ms * NS_PER_MS
    permits = [asked for asked in probing.journal.permits() if asked.sent_ns <= until_ns]
    last = max(permits, key=lambda asked: asked.sent_ns)
    assert last.sent_ns <= limit_ns, f"{probing.domain}: a permit after the bound: {last}"
    longest = max(permits, key=lambda asked: asked.good_until_ns)
    assert longest.good_until_ns <= limit_ns, f"{probing.domain}: lives too long: {longest}"
    after = [asked for asked in probing.journal.since(limit_ns) if asked.sent_ns <= until_ns]
    assert after, "the node was asked after the bound"
    for asked in after:
        assert (asked.code, asked.verdict, asked.reason) == ("OK", "VERDICT_DENY", "INQUORATE")
    return (last.sent_ns - cut_ns) / NS_PER_MS


def await_permits(probes: Sequence[Probing], since_ns: int) -> dict[str, float]:
    """Waits for a permit of each whose question was sent after `since_ns`; milliseconds to it."""
    wait_until(
        "permits again at every node",
        lambda: all(probing.journal.permits(since_ns) for probing in probes),
        RECOVERY_S,
    )
    return {
        p.domain: (p.journal.permits(since_ns)[0].sent_ns - since_ns) / NS_PER_MS for p in probes
    }


def shown(what: str, times_ms: dict[str, float]) -> None:
    figures = ", ".join(f"{domain} {ms:.0f}" for domain, ms in times_ms.items())
    print(f"\n{what}, ms: {figures}")  # noqa: T201 - shown with -s, and when a test fails


@pytest.mark.parametrize("round_number", range(2))
def test_every_node_denies_within_the_bound_when_the_quorum_is_lost(
    cluster: Cluster, crew: Crew, probes: dict[str, Probing], authority_ms: int, round_number: int
):
    cluster.links.partition([])  # two nodes are cut off from the third, and from each other
    cut_ns = boottime_ns()
    let_pass_until(cut_ns + (authority_ms + WINDOW_MS // 2) * NS_PER_MS)

    # Not only checks: nothing else is obtained of a node either, and every answer has status OK.
    for domain, worker in crew.workers.items():
        answer = worker.acquire(f"//{domain}/records/cut")
        assert answer.verdict == decision_pb2.VERDICT_DENY
        assert answer.reason == decision_pb2.REASON_INQUORATE
        status = cluster.status(domain)
        assert (status.has_authority, status.authority_remaining_ms) == (False, 0)
        assert status.authority_reason == decision_pb2.REASON_INQUORATE
        operator = cluster.operator(domain)
        envelope = operator.sign(
            "executor.register", {"executor": f"spiffe://{domain}/agent/{secrets.token_hex(8)}"}
        )
        told = operator.governance.Submit(
            governance_pb2.SubmitRequest(envelope=envelope, timeout_ms=200), timeout=5
        )
        assert not told.HasField("outcome")
        assert told.unknown or told.reason == decision_pb2.REASON_INQUORATE

    let_pass_until(cut_ns + (authority_ms + WINDOW_MS) * NS_PER_MS)
    end_ns = boottime_ns()
    cluster.links.heal()
    last = {d: assert_bound(p, cut_ns, authority_ms, end_ns) for d, p in probes.items()}
    shown(f"last permit after the cut (L = {authority_ms})", last)
    shown("first permit after healing", await_permits(probes.values(), end_ns))


def test_an_isolated_leader_denies_and_the_others_go_on(
    cluster: Cluster, probes: dict[str, Probing], mirror: LedgerMirror, authority_ms: int
):
    leader = cluster.leader()
    others = [probe for domain, probe in probes.items() if domain != leader]
    cluster.links.isolate(leader)
    cut_ns = boottime_ns()
    let_pass_until(cut_ns + (authority_ms + WINDOW_MS) * NS_PER_MS)
    # Permits so late rest on grants of the new leader alone.
    late_ns = cut_ns + authority_ms * NS_PER_MS
    shown("permits under the new leader, after L", await_permits(others, late_ns))
    assert cluster.leader() != leader or cluster.status(leader).term < max(
        cluster.status(probe.domain).term for probe in others
    )

    # The old leader takes a proposal in, but cannot promise anything; the others can.
    lonely, busy = cluster.operator(leader), cluster.operator(others[0].domain)
    envelope = lonely.sign(
        "executor.register", {"executor": f"spiffe://{leader}/agent/{secrets.token_hex(8)}"}
    )
    told = lonely.governance.Submit(
        governance_pb2.SubmitRequest(envelope=envelope, timeout_ms=300), timeout=5
    )
    assert not told.HasField("outcome")
    committed = busy.order(
        "executor.register", {"executor": f"spiffe://{busy.domain}/agent/{secrets.token_hex(8)}"}
    )
    end_ns = boottime_ns()
    cluster.links.heal()
    shown(
        f"last permit of the isolated leader (L = {authority_ms})",
        {leader: assert_bound(probes[leader], cut_ns, authority_ms, end_ns)},
    )
    shown("first permit after healing", await_permits([probes[leader]], end_ns))
    mirror.catch_up()
    assert mirror.indexes_of(committed.command_id) == [committed.ledger_index]
    settled = lonely._settle(
        "submit",
        lonely.governance.Submit,
        governance_pb2.SubmitRequest(envelope=envelope),
        RECOVERY_S,
    ).outcome
    mirror.catch_up()
    assert mirror.indexes_of(settled.command_id) == [settled.ledger_index]


def cut_away(cluster: Cluster, leader: str, follower: str) -> None:
    """What the leader sends to one follower is lost; what the follower sends arrives."""
    cluster.links.cut(leader, follower)


def cut_towards(cluster: Cluster, leader: str, follower: str) -> None:
    """What one follower sends to the leader is lost; what the leader sends arrives."""
    cluster.links.cut(follower, leader)


def cut_half(cluster: Cluster, leader: str, follower: str) -> None:
    """The connections' replies alone are lost, in both directions of dialling."""
    cluster.links.cut(leader, follower, ways=[Way.BACKWARD])
    cluster.links.cut(follower, leader, ways=[Way.BACKWARD])


@pytest.mark.parametrize("cut", [cut_away, cut_towards, cut_half], ids=lambda cut: cut.__name__)
def test_a_one_way_cut_stops_one_node_at_most(
    cluster: Cluster,
    probes: dict[str, Probing],
    authority_ms: int,
    cut: Callable[[Cluster, str, str], None],
):
    leader = cluster.leader()
    follower = next(domain for domain in probes if domain != leader)
    term = cluster.status(leader).term
    cut(cluster, leader, follower)
    cut_ns = boottime_ns()
    let_pass_until(cut_ns + (authority_ms + WINDOW_MS) * NS_PER_MS)
    late_ns = boottime_ns()

    def working() -> set[str]:
        return {domain for domain, probe in probes.items() if probe.journal.permits(late_ns)}

    wait_until("permits at two nodes", lambda: len(working()) >= 2, RECOVERY_S)
    let_pass_until(late_ns + WINDOW_MS * NS_PER_MS)
    assert len(working()) >= 2
    terms = {domain: cluster.status(domain).term for domain in probes}
    print(f"\nworking: {sorted(working())}, term {term}, then {terms}")  # noqa: T201
    heal_ns = boottime_ns()
    cluster.links.heal()
    shown("first permit after healing", await_permits(probes.values(), heal_ns))
