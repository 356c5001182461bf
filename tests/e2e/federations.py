"""What the tests of membership, catching up and healing have in common: each has federations of its
own, for it changes who is a member, or how nodes are configured."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from quorate.chaos.cluster import Cluster
from quorate.chaos.crew import Crew, Probing
from quorate.chaos.freshness import Known, stale_permits
from quorate.chaos.mirror import LedgerMirror
from quorate.chaos.operator import Operator
from quorate.chaos.probe import NS_PER_MS, boottime_ns
from quorate.chaos.processes import wait_until
from quorate.chaos.soak.run import snapshots_installed
from quorate.chaos.soak.samples import read_store
from quorate.chaos.workload import submit_all
from quorate.v1 import node_pb2

BANK, CLINIC, FREIGHT = "bank.example", "clinic.example", "freight.example"

WAIT_S = 120.0
"""For what has no bound of its own here: a busy machine may take long, and a fault for ever."""
RESOURCE_CHARS = 180
RESOURCES = 32
"""Of one grant: the largest that fits a command."""


def authority_ms(cluster: Cluster) -> int:
    """L."""
    return cluster.genesis().parameters.authority_period_ms


def roles(cluster: Cluster, name: str) -> dict[str, str]:
    """What each node is in the configuration in force, as one node sees it, by SPIFFE ID."""
    operator = cluster.operator(name)
    answer = operator.ask(operator.node.ListMembers, node_pb2.ListMembersRequest())
    return {member.node_id: member.raft_role for member in answer.members if member.raft_role}


def await_roles(cluster: Cluster, wanted: dict[str, str], at: Iterable[str]) -> None:
    """Waits until each node at `at` sees exactly these roles in force. wanted: by name."""
    expected = {cluster.members[name].node_id: role for name, role in wanted.items()}
    for name in at:
        wait_until(
            f"{wanted} in force at {name}",
            lambda name=name: roles(cluster, name) == expected,
            WAIT_S,
        )


def register(operator: Operator) -> str:
    """A command that succeeds; the executor that it registers."""
    executor = f"spiffe://{operator.domain}/agent/{secrets.token_hex(8)}"
    operator.order("executor.register", {"executor": executor})
    return executor


def registrations(operator: Operator, count: int) -> list[bytes]:
    """So many small commands that succeed."""
    return [
        operator.sign(
            "executor.register",
            {"executor": f"spiffe://{operator.domain}/agent/{secrets.token_hex(8)}"},
        )
        for _ in range(count)
    ]


def large_grants(operator: Operator, count: int, executor: str = "") -> list[bytes]:
    """So many commands that are nearly as large as they may be: each is about 6 KiB in the state, 9
    in the log and 12 in the ledger. Without an executor that is registered they are denied."""
    owner = operator.domain
    executor = executor or f"spiffe://{owner}/agent/nobody"
    return [
        operator.sign(
            "grant.issue",
            {
                "grant": name,
                "executor": executor,
                "actions": ["records.*"],
                "resources": [
                    f"//{owner}/{name}/{n:02d}/{'x' * RESOURCE_CHARS}" for n in range(RESOURCES)
                ],
                "not_after": time.time_ns() // 1_000_000 + 3_600_000,
                "max_lease_ttl_ms": 1_000,
                "max_uses": 0,
                "max_concurrent": 0,
            },
        )
        for name in (f"large-{secrets.token_hex(8)}" for _ in range(count))
    ]


def write_all(node: Operator, envelopes: Sequence[bytes], *, accepted: bool = True) -> int:
    """Has all of these decided through one node, as expected; returns their bytes."""
    left = list(envelopes)
    while left:  # what was told nothing about is submitted again, which executes nothing twice
        outcomes = submit_all(node, left)
        for outcome in outcomes:
            assert outcome is None or outcome.accepted is accepted, outcome
        left = [each for each, outcome in zip(left, outcomes, strict=True) if outcome is None]
    return sum(map(len, envelopes))


def log_entries(cluster: Cluster, name: str) -> int:
    """How many entries the Raft log of a node holds."""
    return read_store(cluster.members[name].store.parent, name, 0.0).log_entries


def snapshots(cluster: Cluster, name: str) -> int:
    """How many snapshots a node has installed since it was made."""
    return snapshots_installed(cluster.members[name].log)


def said(path: Path, *words: str) -> int:
    """How many lines of a log hold all of these words."""
    with path.open(errors="replace") as lines:
        return sum(all(word in line for word in words) for line in lines)


def verify_everywhere(cluster: Cluster) -> dict[str, int]:
    """Has the whole ledger of every node verified by the command line; their sizes."""
    sizes = {}
    for name in cluster.names:
        told = json.loads(cluster.cli_at(name, "ledger", "verify", "--output", "json"))
        assert told["verified"], told
        sizes[name] = told["size"]
    return sizes


def same_ledgers(cluster: Cluster) -> LedgerMirror:
    """Waits until every node has the same ledger, entry by entry."""
    mirror = LedgerMirror(cluster.operators(), cluster.genesis())
    mirror.catch_up(WAIT_S)
    return mirror


def verified_ledgers(cluster: Cluster) -> LedgerMirror:
    """Every node has the same ledger, which the command line verifies there, whole. A node that has
    denied something may tell the ledger meanwhile."""
    mirror = same_ledgers(cluster)
    least = len(mirror.entries)
    sizes = verify_everywhere(cluster).values()
    most = mirror.catch_up(WAIT_S)
    assert all(least <= size <= most for size in sizes), (least, sizes, most)
    return mirror


# -- probes ----------------------------------------------------------------------------------


def probe(crew: Crew, *names: str) -> dict[str, Probing]:
    """Probes at these nodes that are permitted to act just now."""
    probes = {name: crew.probe_neighbour(name) for name in names}
    for probing in probes.values():
        await_permit(probing, boottime_ns())
    return probes


def await_permit(probing: Probing, since_ns: int) -> float:
    """Waits for a permit that was asked for later than `since_ns`; milliseconds from then to it."""
    wait_until(
        f"permits at {probing.domain}", lambda: bool(probing.journal.permits(since_ns)), WAIT_S
    )
    return (probing.journal.permits(since_ns)[0].sent_ns - since_ns) / NS_PER_MS


def let_pass_until(moment_ns: int) -> None:
    """Waits for a moment of the boot clock: a window in which nothing may happen."""
    left_s = max(0.0, (moment_ns - boottime_ns()) / 1e9)
    wait_until("the end of the window", lambda: boottime_ns() >= moment_ns, left_s + 10)


def assert_fresh(probes: Iterable[Probing], committed: Known, period_ms: int) -> None:
    """No permit rested on a state that lacks what was committed more than L before."""
    for probing in probes:
        stale = stale_permits(probing.journal.all(), committed, period_ms)
        assert not stale, f"{probing.domain}: {len(stale)} stale permits: {stale[:2]}"
