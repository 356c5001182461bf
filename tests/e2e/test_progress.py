"""A node is stopped and cannot hear of a revocation: the others say that it is open and until when
at the latest, and so it is. What a narrowing leaves out ends as soon, and nothing else does.

The bounds are exact, with no allowance for a slow machine: the caller's, the nodes' and the probe's
clock are one, and the bound counts from when the caller has the answer.
"""

from __future__ import annotations

import queue
import secrets
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from quorate.chaos.cluster import Cluster
from quorate.chaos.crew import ACTION, ACTIONS, Crew, Probing, Worker
from quorate.chaos.probe import NS_PER_MS, boottime_ns
from quorate.chaos.processes import wait_until
from quorate.client import Denied, Gate, Lease, Reason, WatchEvent, WatchNotice
from quorate.v1 import governance_pb2

pytestmark = pytest.mark.cluster

WORK_S = 20.0
TIMEOUT_MS = 15_000
HEARD_MS = 1_000
"""That a level is reached is told by the leader, on a busy machine."""
ENFORCED = governance_pb2.WAIT_LEVEL_ENFORCED
DRAINED = governance_pb2.WAIT_LEVEL_DRAINED


@dataclass(frozen=True)
class Doomed:
    """A probe at the node `at` of a lease whose grant `owner` can take; neither of them leads."""

    probing: Probing
    at: str
    owner: str
    grant: str


@pytest.fixture
def doomed(cluster: Cluster, crew: Crew) -> Iterator[Doomed]:
    at, owner = (domain for domain in cluster.domains if domain != cluster.leader())
    grant = f"taken-{secrets.token_hex(4)}"
    worker = crew.workers[at]
    crew.grant(owner, grant, worker, f"{grant}/*")
    probing = crew.probe(at, worker.lease(f"//{owner}/{grant}/book").id)
    wait_until("permits", lambda: bool(probing.journal.permits()), WORK_S)
    yield Doomed(probing, at, owner, grant)
    assert probing.process.stop() == 0


@pytest.mark.parametrize("wait", [ENFORCED, DRAINED], ids=["enforced", "drained"])
def test_a_stopped_node_is_named_and_acts_no_longer_than_was_promised(
    cluster: Cluster, doomed: Doomed, node_processes, wait: governance_pb2.WaitLevel.ValueType
):
    parameters = cluster.genesis().parameters
    longest_ms = -(-parameters.authority_period_ms * (10**6 + 3 * parameters.rho_ppm) // 10**6)
    stopped = cluster.members[doomed.at].node_id
    operator = cluster.operator(doomed.owner)
    request = governance_pb2.RevokeRequest(
        envelope=operator.sign("grant.revoke", {"grant": doomed.grant}),
        wait=wait,
        timeout_ms=TIMEOUT_MS,
    )
    node_processes.signal(doomed.at, "core", signal.SIGSTOP)
    told = [
        (boottime_ns(), progress)
        for progress in operator.governance.RevokeWithProgress(request, timeout=TIMEOUT_MS / 500)
    ]
    node_processes.signal(doomed.at, "core", signal.SIGCONT)
    since_ns, first = told[0]
    end_ns, last = told[-1]
    shown = [
        f"{(at - since_ns) / NS_PER_MS:.0f} ms: level {each.so_far.reached}, bound "
        f"{each.so_far.bound_ms}, open {[(n.node_id, n.lacks, n.within_ms) for n in each.open]}"
        for at, each in told
    ]
    print("", *shown, sep="\n")  # noqa: T201 - shown with -s, and when a test fails

    # Who is open is said, by a node that had to ask the leader, and nobody else in the end.
    assert first.so_far.outcome.accepted
    assert 0 < first.so_far.bound_ms <= longest_ms
    named = [{node.node_id for node in each.open} for _, each in told if each.open]
    assert named[-1] == {stopped}
    for _, each in told[:-1]:
        assert not each.is_last
        assert all(node.within_ms <= each.so_far.bound_ms for node in each.open)
    # It ends with the level, when what the stopped node was granted has lapsed.
    assert (last.is_last, last.so_far.reached) == (True, wait)
    assert (end_ns - since_ns) / NS_PER_MS <= first.so_far.bound_ms + HEARD_MS

    # What was promised at each moment holds for every permit that the node has given.
    wait_until("a denial", lambda: bool(doomed.probing.journal.denials("GRANT_REVOKED")), WORK_S)
    permits = doomed.probing.journal.permits()
    sent_ns = max(asked.sent_ns for asked in permits)
    used_ns = max(asked.good_until_ns for asked in permits)
    for at, each in told:
        assert used_ns <= at + each.so_far.bound_ms * NS_PER_MS
        assert sent_ns <= at + each.so_far.nodes_bound_ms * NS_PER_MS
    assert sent_ns > since_ns, "the stopped node knew nothing, and went on permitting"
    print(  # noqa: T201
        f"last permit {(sent_ns - since_ns) / NS_PER_MS:.0f} ms after the first answer, good until "
        f"{(used_ns - since_ns) / NS_PER_MS:.0f} ms; bound {first.so_far.bound_ms} ms"
    )


def test_when_all_are_well_nothing_is_promised_for_later(cluster: Cluster, doomed: Doomed):
    operator = cluster.operator(doomed.owner)
    request = governance_pb2.RevokeRequest(
        envelope=operator.sign("grant.revoke", {"grant": doomed.grant}),
        wait=ENFORCED,
        timeout_ms=TIMEOUT_MS,
    )
    answer = operator.governance.Revoke(request, timeout=TIMEOUT_MS / 500)
    at = boottime_ns()
    assert answer.reached == ENFORCED
    assert answer.nodes_bound_ms == 0
    parameters = cluster.genesis().parameters
    assert answer.bound_ms <= parameters.max_permit_ttl_ms * 1.02 + 1
    wait_until("a denial", lambda: bool(doomed.probing.journal.denials("GRANT_REVOKED")), WORK_S)
    permits = doomed.probing.journal.permits()
    assert max(asked.sent_ns for asked in permits) <= at
    assert max(asked.good_until_ns for asked in permits) <= at + answer.bound_ms * NS_PER_MS


@pytest.fixture
def second(cluster: Cluster) -> Iterator[Worker]:
    """Another executor of the first organisation."""
    home = cluster.domains[0]
    worker = Worker(home, cluster.issue_executor(home, f"agent/second-{secrets.token_hex(4)}"))
    cluster.operator(home).order("executor.register", {"executor": worker.id})
    yield worker
    worker.close()


def test_a_narrowed_edge_ends_what_it_leaves_out_and_nothing_else(
    cluster: Cluster, crew: Crew, second: Worker
):
    home, owner = cluster.domains[:2]
    first, operator = crew.workers[home], cluster.operator(owner)
    name = f"a-narrow-{secrets.token_hex(4)}"  # before those that are there already
    scope = {"actions": [ACTIONS], "resources": [f"//{owner}/{name}/*"]}
    operator.order("trust.open", {"edge": name, "trustee": home} | scope)
    told: queue.Queue[tuple[int, WatchNotice]] = queue.Queue()
    with Gate.open(first.client) as leaving, Gate.open(second.client) as staying:
        leases = []
        for gate, worker, book in ((leaving, first, "out"), (staying, second, "in")):
            crew.grant(owner, f"{name}-{book}", worker, f"{name}/*")
            lease = gate.acquire(ACTION, f"//{owner}/{name}/{book}")
            assert isinstance(lease, Lease), lease
            assert lease.trust_edge == f"{owner}/{name}"
            leases.append(lease)
        out, kept = leases
        watches = [
            gate.on_change([lease], lambda notice: told.put((boottime_ns(), notice)))
            for gate, lease in ((leaving, out), (staying, kept))
        ]
        probing = crew.probe(home, out.id)
        wait_until("permits", lambda: bool(probing.journal.permits()), WORK_S)
        kept.require()

        narrower = {"edge": name, "actions": [ACTION], "resources": [kept.resource]}
        request = governance_pb2.RevokeRequest(
            envelope=operator.sign("trust.narrow", narrower), wait=DRAINED, timeout_ms=TIMEOUT_MS
        )
        answers = [
            (boottime_ns(), progress.so_far)
            for progress in operator.governance.RevokeWithProgress(
                request, timeout=TIMEOUT_MS / 500
            )
        ]
        index = answers[0][1].outcome.ledger_index
        assert answers[-1][1].reached == DRAINED
        assert answers[-1][1].bound_ms == 0
        kept.require()

        # Who is left out is told of the entry, and acts no longer than was promised.
        wait_until("a denial", lambda: bool(probing.journal.denials("NO_TRUST")), WORK_S)
        used_ns = max(asked.good_until_ns for asked in probing.journal.permits())
        for at, each in answers:
            assert used_ns <= at + each.bound_ms * NS_PER_MS
        assert isinstance(out.check(), Denied)
        heard: list[tuple[int, WatchNotice]] = []
        while not any(notice.event is WatchEvent.INTERRUPTED for _, notice in heard):
            heard.append(told.get(timeout=WORK_S))
        at, notice = heard[-1]
        assert (notice.lease_id, notice.reason) == (out.id, Reason.NO_TRUST)
        assert (notice.thing, notice.ledger_size) == (f"{owner}/{name}", index + 1)
        assert at <= answers[0][0] + (answers[0][1].bound_ms + HEARD_MS) * NS_PER_MS
        # The other goes on, and is told nothing.
        kept.require()
        for watch in watches:
            watch.close()
    interrupted = {each.lease_id for _, each in heard if each.event is WatchEvent.INTERRUPTED}
    while not told.empty():
        _, each = told.get()
        interrupted |= {each.lease_id} if each.event is WatchEvent.INTERRUPTED else set()
    assert interrupted == {out.id}
    assert probing.process.stop() == 0
