"""Whoever leads meanwhile, a lease ends when it was said to end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.node.nodes import Node
from tests.unit.node.reporters import DOMAINS, Reporters

from quorate.core.outcome import Deny, Permit, Reason
from quorate.core.state import StateView
from quorate.lease.check import CheckQuery, LeaseChecker
from quorate.testing.builders import acquire_body

LIFE_MS = 20_000


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Reporters]:
    nodes = Reporters(tmp_path, DOMAINS)
    yield nodes
    nodes.close()


def acquire(nodes: Reporters, domain: str) -> tuple[str, int]:
    """A lease, and when it ends, in ledger time, which is the time of all clocks here."""
    node, executor = nodes.node(domain), nodes.executor(domain)
    body = acquire_body(executor, "act", f"//{domain}/thing", ttl_ms=LIFE_MS)
    outcome = nodes.order(node.node_id, "lease.acquire", body, node)
    lease = StateView(node.environment.turn.state).lease(str(outcome.result["id"]))
    assert lease is not None
    return lease.id, lease.expires_at


def ended_ms(nodes: Reporters, node: Node, query: CheckQuery) -> int:
    """Lets time pass until a check of the lease is denied because it is over; when that is. While
    nobody leads a node may have no authority; it has to be back long before the end."""
    checker = LeaseChecker(node.word, lambda: node.environment, nodes.clock, b"0123456789abcdef")
    was_permitted = False
    for _ in range(2 * LIFE_MS // 10):
        nodes.run_ms(10)
        decision = checker.check(query).decision
        if isinstance(decision, Deny) and decision.reason is Reason.LEASE_EXPIRED:
            assert was_permitted, "it was good just before"
            return nodes.clock.realtime_ns() // 1_000_000
        was_permitted = isinstance(decision, Permit)
    raise AssertionError("it never ended")


@pytest.mark.parametrize("changes", [0, 1, 3])
def test_no_change_of_leader_makes_a_lease_longer_or_shorter(
    nodes: Reporters, changes: int
) -> None:
    domain = next(
        domain
        for domain in DOMAINS
        if nodes.leader is not None and nodes.node(domain) is not nodes.leader
    )
    node = nodes.node(domain)
    lease_id, expires_ms = acquire(nodes, domain)
    for _ in range(changes):
        before = nodes.leader
        assert before is not None
        nodes.isolate(before.node_id)
        rest = [each for each in nodes.nodes.values() if each is not before]
        nodes.until(lambda rest=rest: any(each.core.replica.is_leader for each in rest))
        nodes.isolate()
        nodes.until(lambda before=before: not before.core.replica.is_leader)
    found_ms = ended_ms(nodes, node, CheckQuery(lease_id, nodes.executor(domain)))
    # Early by what the clocks of two machines may drift apart since the last grant, and by a step.
    drift_ms = node.core.parameters.authority_period_ms * node.core.parameters.rho_ppm // 10**6
    assert expires_ms - drift_ms - 20 <= found_ms <= expires_ms + 10
