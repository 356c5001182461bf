"""The processes of one node: whichever of them stops, hangs or dies, the node denies in time and
comes back by itself."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Iterator

import pytest

from quorate.chaos.cluster import Cluster
from quorate.chaos.crew import Crew, Probing
from quorate.chaos.probe import NS_PER_MS, boottime_ns
from quorate.chaos.processes import wait_until
from quorate.v1 import governance_pb2

pytestmark = pytest.mark.cluster

WORK_S = 20.0
RECOVERY_S = 30.0
WINDOW_MS = 1_000


@pytest.fixture
def authority_ms(cluster: Cluster) -> int:
    """L."""
    return cluster.genesis().parameters.authority_period_ms


@pytest.fixture
def follower(cluster: Cluster) -> str:
    leader = cluster.leader()
    return next(domain for domain in cluster.members if domain != leader)


class Pair:
    """Two probes at one node: of a lease that stays good, and of one whose grant can be taken."""

    def __init__(self, crew: Crew, domain: str, owner: str) -> None:
        self.owner = owner
        self.grant = f"taken-{secrets.token_hex(4)}"
        worker = crew.workers[domain]
        crew.grant(owner, self.grant, worker, f"{self.grant}/*")
        self.good = crew.probe(domain, worker.lease(f"//{owner}/records/kept").id)
        self.doomed = crew.probe(domain, worker.lease(f"//{owner}/{self.grant}/book").id)

    def both(self) -> tuple[Probing, Probing]:
        return self.good, self.doomed


@pytest.fixture
def pair(cluster: Cluster, crew: Crew, follower: str) -> Iterator[Pair]:
    owner = cluster.leader()
    pair = Pair(crew, follower, owner)
    wait_until("permits", lambda: all(p.journal.permits() for p in pair.both()), WORK_S)
    yield pair
    for probing in pair.both():
        assert probing.process.stop() == 0


def await_permit(probing: Probing, since_ns: int) -> float:
    """Waits for a permit asked for later than `since_ns`; returns milliseconds to it."""
    wait_until(
        f"permits again at {probing.domain}",
        lambda: bool(probing.journal.permits(since_ns)),
        RECOVERY_S,
    )
    return (probing.journal.permits(since_ns)[0].sent_ns - since_ns) / NS_PER_MS


def let_pass_until(moment_ns: int) -> None:
    left_s = max(0.0, (moment_ns - boottime_ns()) / 1e9)
    wait_until("the end of the window", lambda: boottime_ns() >= moment_ns, left_s + 10)


def last_permit_ms(probing: Probing, from_ns: int, until_ns: int) -> float:
    sent = [asked.sent_ns for asked in probing.journal.permits() if asked.sent_ns <= until_ns]
    return (max(sent) - from_ns) / NS_PER_MS


def test_a_hung_core_is_denied_by_its_edge_and_resumes_on_new_authority_only(
    cluster: Cluster, pair: Pair, follower: str, node_processes, authority_ms: int
):
    node_processes.signal(follower, "core", signal.SIGSTOP)
    stopped_ns = boottime_ns()
    # The rest of the federation enforces a revocation without the node that hangs: its authority
    # lapses, and the leader knows when.
    revoked = cluster.operator(pair.owner).revoke(
        "grant.revoke", {"grant": pair.grant}, governance_pb2.WAIT_LEVEL_ENFORCED
    )
    enforced_ns = boottime_ns()
    assert revoked.reached == governance_pb2.WAIT_LEVEL_ENFORCED
    let_pass_until(stopped_ns + (authority_ms + WINDOW_MS) * NS_PER_MS)
    resumed_ns = boottime_ns()
    for probing in pair.both():
        assert last_permit_ms(probing, stopped_ns, resumed_ns) <= authority_ms
        lapsed = probing.journal.since(stopped_ns + authority_ms * NS_PER_MS)
        assert {(a.code, a.reason) for a in lapsed} == {("OK", "INQUORATE")}

    node_processes.signal(follower, "core", signal.SIGCONT)
    back_ms = await_permit(pair.good, resumed_ns)
    print(f"\npermits {back_ms:.0f} ms after the core goes on")  # noqa: T201
    wait_until(
        "the revocation at the node that hung",
        lambda: bool(pair.doomed.journal.denials("GRANT_REVOKED", resumed_ns)),
        RECOVERY_S,
    )
    # Whoever was answered ENFORCED may rely on it: also at the node that knew nothing of it.
    assert pair.doomed.journal.permits(enforced_ns) == []


def test_a_dead_core_is_denied_by_its_edge_and_restarted(
    cluster: Cluster, pair: Pair, follower: str, node_processes, authority_ms: int
):
    edge = node_processes.pid(follower, "edge")
    core = node_processes.signal(follower, "core", signal.SIGKILL)
    killed_ns = boottime_ns()
    node_processes.wait_other(follower, "core", core, RECOVERY_S)
    wait_until(
        "authority after the restart",
        lambda: (s := cluster.status_or_none(follower)) is not None and s.has_authority,
        RECOVERY_S,
    )
    back_ns = boottime_ns()
    await_permit(pair.good, back_ns)
    assert node_processes.pid(follower, "edge") == edge
    # Through death and restart the edge answered every question, with status OK.
    answers = pair.good.journal.since(killed_ns)
    assert {a.code for a in answers} == {"OK"}
    assert {a.reason for a in answers if a.is_denial} <= {"INQUORATE"}
    denied = [a for a in answers if a.is_denial]
    if denied:
        span = (denied[-1].answered_ns - denied[0].sent_ns) / NS_PER_MS
        print(f"\ndenied for {span:.0f} ms around the restart")  # noqa: T201


def test_a_dead_edge_is_restarted_and_knows_its_node_s_authority(
    cluster: Cluster, pair: Pair, follower: str, node_processes
):
    core = node_processes.pid(follower, "core")
    edge = node_processes.signal(follower, "edge", signal.SIGKILL)
    killed_ns = boottime_ns()
    node_processes.wait_other(follower, "edge", edge, RECOVERY_S)
    print(f"\npermits {await_permit(pair.good, killed_ns):.0f} ms after")  # noqa: T201
    assert node_processes.pid(follower, "core") == core
    permits, codes = 0, set()
    for asked in pair.good.journal.since(killed_ns):
        permits += asked.is_permit
        codes.add(asked.code)
    assert permits > 0
    assert codes <= {"OK", "UNAVAILABLE", "DEADLINE_EXCEEDED"}, "refused, not misled"


def test_a_hung_leader_is_replaced(
    cluster: Cluster, crew: Crew, node_processes, authority_ms: int, mirror
):
    leader = cluster.leader()
    others = [domain for domain in cluster.members if domain != leader]
    probes = {probing.domain: probing for probing in crew.probe_all()}
    wait_until("permits", lambda: all(p.journal.permits() for p in probes.values()), WORK_S)
    node_processes.signal(leader, "core", signal.SIGSTOP)
    stopped_ns = boottime_ns()
    late_ns = stopped_ns + authority_ms * NS_PER_MS
    let_pass_until(late_ns)
    for domain in others:
        await_permit(probes[domain], late_ns)
    outcome = cluster.operator(others[0]).order(
        "executor.register", {"executor": f"spiffe://{others[0]}/agent/{secrets.token_hex(8)}"}
    )
    resumed_ns = boottime_ns()
    assert last_permit_ms(probes[leader], stopped_ns, resumed_ns) <= authority_ms
    node_processes.signal(leader, "core", signal.SIGCONT)
    await_permit(probes[leader], resumed_ns)
    for probing in probes.values():
        assert probing.process.stop() == 0
    mirror.catch_up()
    assert mirror.indexes_of(outcome.command_id) == [outcome.ledger_index]


def test_nothing_of_a_node_outlives_its_supervisor(cluster: Cluster, follower: str, node_processes):
    group = cluster.processes(follower)
    assert len(group.members()) == 3
    node_processes.signal(follower, "supervisor", signal.SIGKILL)
    wait_until("the end of core and edge", lambda: not group.members(), RECOVERY_S)
    cluster.kill(follower)
    cluster.start([follower])
