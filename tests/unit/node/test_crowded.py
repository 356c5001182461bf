"""Many members, silent members, and members that are none: none of them may stop the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.node.nodes import Node, Nodes

from quorate.consensus import configuration
from quorate.consensus.messages import AppendReply
from quorate.consensus.wire import encode
from quorate.node import membership
from quorate.testing.builders import node_body

DOMAINS = ("bank.example", "clinic.example", "port.example")
BANK = DOMAINS[0]
FAR_MS = 10**10


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


def leader_of(nodes: Nodes) -> Node:
    nodes.until(lambda: nodes.leader is not None)
    assert nodes.leader is not None
    return nodes.leader


def observer(nodes: Nodes, name: str, port: int) -> Node:
    """One more node of the bank, in the ledger and on the network."""
    node_id = f"spiffe://{BANK}/node/{name}"
    body = node_body(node_id, peer_address=f"127.0.0.1:{port}", role="observer")
    assert nodes.order(BANK, "node.add", body, leader_of(nodes)).accepted
    return nodes.add(node_id)


def test_a_configuration_that_is_full_waits_and_stops_no_leader(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (configuration, membership):
        monkeypatch.setattr(module, "MAX_MEMBERS", 5)
    first, second = observer(nodes, "x1", 7701), observer(nodes, "x2", 7702)
    nodes.until(lambda: first.word_holds() and second.word_holds())
    retire = {"node": first.node_id}
    assert nodes.order(BANK, "node.retire", retire, leader_of(nodes)).accepted
    third = observer(nodes, "x3", 7703)
    nodes.run_ms(300)
    assert third.node_id not in leader_of(nodes).core.replica.members
    nodes.until(third.word_holds)
    assert first.node_id not in leader_of(nodes).core.replica.members


def test_a_leader_puts_nothing_in_force_that_others_cannot_read(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configuration, "MAX_MEMBERS", 3)
    replica = leader_of(nodes).core.replica
    before = replica.configuration
    assert not replica.change_configuration(before.with_learner("spiffe://bank.example/node/x"))
    assert replica.configuration == before


def test_the_clock_of_who_does_not_vote_counts_for_nothing(nodes: Nodes) -> None:
    leader = leader_of(nodes)
    now_ms = nodes.clock.realtime_ns() // 10**6
    member = nodes.others()[0].node_id
    for number in range(4):
        stranger = f"spiffe://{BANK}/node/nobody{number}"
        late = AppendReply(leader.core.replica.term, 0, False, 0, 1, 1, now_ms + FAR_MS)
        for peer in (stranger, member):  # and a member's that answers no question of now
            leader.core.deliver(peer, encode(late))
    leader.core.turn()
    assert abs(leader.core.ledger_clock.stamp_ms() - now_ms) < FAR_MS // 2
    assert leader.core.replica.is_leader


def test_two_that_are_offered_a_snapshot_and_never_pull_do_not_keep_others_from_theirs(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = [observer(nodes, name, 7900 + place) for place, name in enumerate(("a", "b"))]
    nodes.until(lambda: all(node.word_holds() for node in deaf))
    nodes.isolate(*(node.node_id for node in deaf))
    nodes.register(BANK, 40, leader_of(nodes))
    for node in deaf:
        monkeypatch.setattr(node.core, "turn", lambda: None)
        monkeypatch.setattr(node.core, "take_outbox", list)
    nodes.isolate()
    third = observer(nodes, "c", 7950)
    nodes.until(third.word_holds, timeout_ms=30_000)
