"""What others make a node hold is bounded: what it has not read yet, and what it keeps open."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.node.nodes import Node, Nodes

from quorate.consensus.limits import MAX_INBOX_BYTES, MAX_INBOX_MESSAGES
from quorate.node.snapshot_sender import SnapshotSender
from quorate.v1.peer_pb2 import PeerMessage

DOMAINS = ("bank.example", "clinic.example", "port.example")


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path, DOMAINS)
    for domain in DOMAINS:
        nodes.add(nodes.federation[domain].node)
    nodes.until(lambda: nodes.leader is not None)
    yield nodes
    nodes.close()


@pytest.fixture
def leader(nodes: Nodes) -> Node:
    assert nodes.leader is not None
    return nodes.leader


def forward(size_bytes: int) -> PeerMessage:
    message = PeerMessage()
    message.propose.payload = bytes(size_bytes)
    return message


@pytest.mark.parametrize(
    ("size_bytes", "count"),
    [(0, MAX_INBOX_MESSAGES), (1024 * 1024, MAX_INBOX_BYTES // (1024 * 1024))],
    ids=["messages", "bytes"],
)
def test_an_inbox_that_is_full_has_no_room_until_a_turn_has_taken_it_in(
    nodes: Nodes, leader: Node, size_bytes: int, count: int
) -> None:
    core, message = leader.core, forward(size_bytes)
    peer = next(name for name in nodes.nodes if name != leader.node_id)
    core.turn()
    for _ in range(count - 1):
        core.deliver(peer, message)
    assert core.has_room
    core.deliver(peer, message)
    assert not core.has_room
    core.turn()
    assert core.has_room


def test_two_snapshots_are_held_open_and_a_third_follower_waits(leader: Node) -> None:
    """Each keeps pages of the store from being used again, and costs every turn a read."""
    sender = SnapshotSender(leader.environment, lambda: 0.0, lambda _size, _root: "")
    try:
        assert sender.offer("a", 1) is not None
        assert sender.offer("b", 1) is not None
        assert sender.offer("c", 1) is None
        assert sender.offer("a", 1) is not None, "what it has, it keeps"
        sender.tidy(lambda peer, _index: peer == "a")
        assert sender.offer("c", 1) is not None
    finally:
        sender.close()
