"""A node whose store was restored, or begun again, promises nothing before it is readmitted."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.node.nodes import MAP_SIZE_BYTES, Node, Nodes

from quorate.consensus import RaftSettings
from quorate.consensus.messages import PreVoteReply, PreVoteRequest, VoteReply, VoteRequest
from quorate.consensus.wire import decode, encode
from quorate.core.errors import ProbationError
from quorate.core.transitions import install_genesis
from quorate.lease.authority import Ask
from quorate.lease.confirm import ConfirmReply
from quorate.node.authority_wire import decode as decode_authority
from quorate.storage import Environment
from quorate.v1.peer_pb2 import PeerMessage

DOMAINS = ("bank.example", "clinic.example", "port.example")
BANK, CLINIC, PORT = DOMAINS
BOUND_MS = 3_000
"""More than L and rho of the federation, and than every election timeout."""


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path, DOMAINS)
    for domain in DOMAINS:
        nodes.add(nodes.federation[domain].node)
    nodes.until(lambda: nodes.leader is not None)
    nodes.until(lambda: all(node.word_holds() for node in nodes.nodes.values()))
    yield nodes
    nodes.close()


def restore(nodes: Nodes, node: Node) -> None:
    """As if its store had been put back, and the node started on it."""
    nodes.isolate(*nodes.nodes)
    node.environment.abort()
    node.environment.mark_probation(secrets.token_hex(16))
    node.start()
    nodes.connect_again(node)


def said(node: Node) -> list[object]:
    """What the node says in one turn."""
    node.core.turn()
    messages = [message for _, message in node.core.take_outbox()]
    return [decode_authority(message) or decode(message) for message in messages]


@pytest.fixture
def restored(nodes: Nodes) -> Node:
    """A follower that was restored, and hears nobody yet."""
    node = nodes.others()[0]
    restore(nodes, node)
    nodes.run_ms(BOUND_MS)
    return node


@pytest.fixture
def peer(nodes: Nodes, restored: Node) -> str:
    return next(name for name in nodes.nodes if name != restored.node_id)


def test_it_votes_for_nobody_and_does_not_promise_to(restored: Node, peer: str) -> None:
    replica = restored.core.replica
    later = replica.term + 1
    restored.core.deliver(peer, encode(PreVoteRequest(later, 10_000, later)))
    restored.core.deliver(peer, encode(VoteRequest(later, 10_000, later)))
    answers = said(restored)
    assert [type(each) for each in answers] == [PreVoteReply, VoteReply]
    assert not any(each.granted for each in answers)  # type: ignore[attr-defined]
    assert restored.environment.turn.voted_for() is None


def test_it_does_not_campaign(nodes: Nodes, restored: Node, peer: str) -> None:
    term = restored.core.replica.term
    restored.core.connected(peer)
    for _ in range(BOUND_MS // 100):
        nodes.clock.advance_ms(100)
        asked = [each for each in said(restored) if isinstance(each, PreVoteRequest | VoteRequest)]
        assert asked == []
    assert restored.core.replica.term == term


def test_it_signs_no_checkpoint(nodes: Nodes, restored: Node) -> None:
    with pytest.raises(ProbationError) as refused:
        restored.core.checkpoint()
    assert "docs/recovery.md" in refused.value.hint
    nodes.isolate()
    nodes.until(lambda: not restored.core.is_on_probation)
    assert restored.core.checkpoint()


def test_with_a_leader_it_confirms_nothing_asks_for_nothing_and_permits_nothing(
    nodes: Nodes,
) -> None:
    """It follows the log; until it is readmitted, that is all."""
    node, third = nodes.others()
    leader = nodes.leader
    assert leader is not None
    restore(nodes, node)
    # The leader keeps its majority with the third, and is kept from readmitting anybody.
    leader.core.replica.change_configuration = lambda wanted: False  # type: ignore[method-assign]
    heard: list[object] = []
    deliver = leader.core.deliver

    def listen(peer: str, message: PeerMessage) -> None:
        if peer == node.node_id:
            heard.append(decode_authority(message))
        deliver(peer, message)

    leader.core.deliver = listen  # type: ignore[method-assign]
    before = node.core.durable_applied
    nodes.isolate()
    nodes.register(BANK, 1, leader)
    nodes.run_ms(BOUND_MS)
    assert third.word_holds()
    assert node.core.durable_applied > before
    assert node.core.is_on_probation
    assert not any(isinstance(each, Ask | ConfirmReply) for each in heard)
    assert not node.word_holds()
    assert node.core.keeper.next_timer_ns(node.core.replica) is None


def test_it_is_readmitted_and_permits_and_votes_again(nodes: Nodes, restored: Node) -> None:
    nodes.isolate()
    nodes.until(lambda: not restored.core.is_on_probation)
    nodes.until(lambda: all(len(node.voters) == 3 for node in nodes.nodes.values()))
    nodes.until(restored.word_holds)
    # Its vote counts again: with one of the others it is a majority.
    gone = next(n for n in nodes.others() if n is not restored)
    nodes.isolate(gone.node_id)
    leader = nodes.leader
    assert leader is not None
    nodes.register(CLINIC, 1, leader)


def begin_again(nodes: Nodes, node: Node) -> None:
    """Its store is gone, and it starts on an empty one, under the leader of before."""
    nodes.isolate(node.node_id)
    path = node.environment._path
    node.environment.abort()
    node.core.close()
    node.environment.close()
    shutil.rmtree(path)
    node.environment = Environment.open(path, map_size_bytes=MAP_SIZE_BYTES)
    genesis = nodes.federation.parsed_genesis()
    node.environment.initialise(genesis.hash, node.node_id)
    turn = node.environment.turn
    turn.append_ledger(install_genesis(turn.state, genesis))
    node.environment.commit()
    node.environment.mark_probation(secrets.token_hex(16))
    node.start()


@pytest.mark.parametrize("log_tail_entries", [1_000, 5])
def test_a_store_that_is_begun_again_is_filled_by_the_leader_of_before(
    tmp_path: Path, log_tail_entries: int
) -> None:
    """By log or by snapshot: the leader knows that the node held more, and that it is gone."""
    nodes = Nodes(tmp_path, DOMAINS, RaftSettings(log_tail_entries=log_tail_entries))
    for domain in DOMAINS:
        nodes.add(nodes.federation[domain].node)
    nodes.until(lambda: nodes.leader is not None)
    leader = nodes.leader
    assert leader is not None
    nodes.register(BANK, 60, leader)
    nodes.run_ms(1_000)
    again = nodes.others()[0]
    begin_again(nodes, again)
    nodes.register(BANK, 1, leader)
    nodes.isolate()
    nodes.until(lambda: not again.core.is_on_probation)
    nodes.until(lambda: len(leader.voters) == 3 and again.word_holds())
    assert again.ledger() == leader.ledger()
    assert nodes.leader is leader
    nodes.close()


def test_probation_outlasts_a_restart(nodes: Nodes, restored: Node) -> None:
    restored.start()
    assert restored.core.is_on_probation
