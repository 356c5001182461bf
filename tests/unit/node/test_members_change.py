"""The ledger decides who takes part; the leader follows it, one step at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.node.nodes import Node, Nodes

from quorate.core.outcome import Reason
from quorate.testing.builders import node_body

DOMAINS = ("bank.example", "clinic.example", "port.example")
BANK, CLINIC, PORT = DOMAINS
SECOND = f"spiffe://{BANK}/node/2"
BOUND_MS = 3_000
"""More than L and rho of the federation: what was granted before has lapsed."""


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path, DOMAINS)
    for domain in DOMAINS:
        nodes.add(nodes.federation[domain].node)
    nodes.until(lambda: nodes.leader is not None and all(n.word_holds() for n in all_of(nodes)))
    yield nodes
    nodes.close()


def all_of(nodes: Nodes) -> list[Node]:
    return list(nodes.nodes.values())


def lead(nodes: Nodes, node_id: str) -> Node:
    """Leadership is handed over until it is this node's."""
    for _ in range(10):
        leader = nodes.leader
        if leader is not None and leader.node_id == node_id:
            return leader
        if leader is not None:
            leader.core.replica.hand_over(node_id)
        nodes.run_ms(700)
    raise AssertionError(f"{node_id} was not elected")


def test_leadership_is_handed_over_within_an_election_timeout(nodes: Nodes) -> None:
    leader = nodes.leader
    assert leader is not None
    term = leader.core.replica.term
    assert leader.core.hand_over()
    nodes.run_ms(nodes.settings.election_min_ms)
    assert nodes.leader is not None
    assert nodes.leader is not leader
    assert nodes.leader.core.replica.term == term + 1


def test_a_new_observer_gets_everything_and_authority_and_no_vote(nodes: Nodes) -> None:
    assert nodes.leader is not None
    nodes.register(BANK, 40, nodes.leader)
    outcome = nodes.order(BANK, "node.add", node_body(SECOND, role="observer"), nodes.leader)
    assert outcome.accepted
    second = nodes.add(SECOND)
    nodes.until(lambda: second.word_holds() and second.ledger() == all_of(nodes)[0].ledger())
    nodes.run_ms(1_000)
    for node in all_of(nodes):
        assert SECOND in node.core.replica.configuration.learners
        assert len(node.voters) == 3


def test_a_node_is_replaced_by_another_of_its_domain(nodes: Nodes) -> None:
    bank = nodes.federation[BANK].node
    leader = lead(nodes, nodes.federation[CLINIC].node)
    assert nodes.order(BANK, "node.add", node_body(SECOND, role="observer"), leader).accepted
    second = nodes.add(SECOND)
    nodes.until(second.word_holds)
    assert nodes.order(BANK, "node.retire", {"node": bank}, leader).accepted
    assert nodes.order(BANK, "node.promote", {"node": SECOND}, leader).accepted
    nodes.until(lambda: leader.voters == tuple(sorted((SECOND, *others(nodes, BANK)))))
    nodes.isolate(bank, nodes.federation[PORT].node)
    nodes.register(CLINIC, 3, second)
    assert not nodes.nodes[bank].word_holds()


def others(nodes: Nodes, domain: str) -> list[str]:
    return [nodes.federation[each].node for each in DOMAINS if each != domain]


def test_a_retired_node_permits_nothing_once_it_knows_and_goes_when_it_must_have_lapsed(
    nodes: Nodes,
) -> None:
    port = nodes.federation[PORT].node
    leader = lead(nodes, nodes.federation[BANK].node)
    nodes.isolate(port)
    assert nodes.order(PORT, "node.retire", {"node": port}, leader).accepted
    nodes.run_ms(1_000)
    assert port in leader.voters, "it may still hold authority"
    nodes.run_ms(BOUND_MS)
    assert port not in leader.voters
    assert not nodes.nodes[port].word_holds()
    nodes.isolate()
    nodes.run_ms(BOUND_MS)
    assert not nodes.nodes[port].word_holds()
    assert not nodes.nodes[port].core.replica.is_leader


def test_who_knows_of_its_retirement_gives_authority_up_at_once(nodes: Nodes) -> None:
    port = nodes.nodes[nodes.federation[PORT].node]
    leader = lead(nodes, nodes.federation[BANK].node)
    assert nodes.order(PORT, "node.retire", {"node": port.node_id}, port).accepted
    assert not port.word_holds()
    record = port.word.read()
    assert record is not None
    assert record.reason is Reason.NODE_RETIRED
    nodes.until(lambda: port.node_id not in leader.voters)


def test_a_leader_can_retire_itself(nodes: Nodes) -> None:
    leader = nodes.leader
    assert leader is not None
    domain = leader.node_id.removeprefix("spiffe://").partition("/")[0]
    assert nodes.order(domain, "node.retire", {"node": leader.node_id}, leader).accepted
    rest = [node for node in all_of(nodes) if node is not leader]
    nodes.until(lambda: all(leader.node_id not in node.voters for node in rest))
    assert all(node.word_holds() for node in rest)
    nodes.register(domain, 2, rest[0])


def test_members_change_one_at_a_time_and_survive_a_restart(nodes: Nodes) -> None:
    leader = lead(nodes, nodes.federation[CLINIC].node)
    bank = nodes.federation[BANK].node
    assert nodes.order(BANK, "node.demote", {"node": bank}, leader).accepted
    nodes.until(lambda: all(bank not in node.voters for node in all_of(nodes)))
    behind = nodes.nodes[bank]
    behind.start()
    nodes.connect_again(behind)
    assert bank not in behind.voters, "known before it takes part in anything"
    assert nodes.order(BANK, "node.promote", {"node": bank}, leader).accepted
    nodes.until(lambda: all(bank in node.voters for node in all_of(nodes)))


def test_an_unreachable_learner_does_not_cost_the_quorum(nodes: Nodes) -> None:
    leader = lead(nodes, nodes.federation[CLINIC].node)
    bank = nodes.federation[BANK].node
    assert nodes.order(BANK, "node.add", node_body(SECOND, role="observer"), leader).accepted
    assert nodes.order(BANK, "node.retire", {"node": bank}, leader).accepted
    assert nodes.order(BANK, "node.promote", {"node": SECOND}, leader).accepted
    nodes.until(lambda: bank not in leader.voters)
    nodes.run_ms(BOUND_MS)
    assert SECOND in leader.core.replica.configuration.learners, "nobody has heard it yet"
    nodes.register(CLINIC, 1, leader)


def test_who_may_have_forgotten_neither_votes_nor_counts_until_it_is_readmitted(
    nodes: Nodes,
) -> None:
    leader = lead(nodes, nodes.federation[BANK].node)
    clinic, port = (nodes.nodes[nodes.federation[each].node] for each in (CLINIC, PORT))
    port.environment.abort()
    port.environment.mark_probation("a token")
    port.start()
    nodes.isolate(clinic.node_id)
    nodes.connect_again(port)
    nodes.run_ms(BOUND_MS)
    assert nodes.leader is None, "a leader that only this one follows is none"
    assert not any(node.word_holds() for node in all_of(nodes))
    assert port.core.is_on_probation
    nodes.isolate()
    nodes.until(lambda: all(len(node.voters) == 2 for node in (leader, clinic)))
    nodes.until(lambda: not port.core.is_on_probation)
    nodes.until(lambda: all(len(node.voters) == 3 for node in all_of(nodes)))
    nodes.isolate(clinic.node_id)
    nodes.until(port.word_holds)


def test_an_edge_has_followed_no_more_than_is_durable(nodes: Nodes) -> None:
    node = next(iter(nodes.nodes.values()))
    node.core.edge_drained(0, 2**60)
    assert node.core.edges.drained == node.core.durable_applied
