"""What the engine does with messages when left alone, and what ours does with the same.

Each hazard is told once and played on both sides (`bare.Bare`, `ours.Ours`); the parameters say how
it ends on each. When a bare case fails, the engine has mended that hazard. The numbers are those of
docs/consensus.md; test_bare_unpickling, test_bare_disk and test_bare_cluster have the others.
"""

from __future__ import annotations

import socket
from typing import Any

import pytest
from tests.unit.consensus import bare
from tests.unit.consensus.bare import TICK_S, Bare, command
from tests.unit.consensus.ours import Ours

from quorate.consensus import wire
from quorate.consensus.messages import AppendRequest, Entry

Side = type[Bare] | type[Ours]
NO_OP = bare.NO_OP
ENTRIES = [(command("x"), 2, 1), (command("y"), 3, 1), (command("z"), 4, 1)]


@pytest.mark.parametrize(("side", "kept"), [(Bare, 2), (Ours, 4)])
def test_hazard_2_a_late_append(side: Side, kept: int) -> None:
    """The engine erases what it has acknowledged."""
    node = side()
    node.append("b", 1, 1, 0, *ENTRIES)
    assert node.last_index == 4
    node.append("b", 1, 1, 0, *ENTRIES[:1])
    assert node.last_index == kept


@pytest.mark.parametrize(("side", "committed"), [(Bare, 4), (Ours, 1)])
def test_hazard_3_a_commit_index_without_entries(side: Side, committed: int) -> None:
    """The engine commits, and would apply, a tail that the new leader has never seen."""
    node = side()
    node.append("b", 1, 1, 0, *ENTRIES)
    node.snapshot_to_come("c", 2, 4)
    assert node.commit_index == committed


@pytest.mark.parametrize(("side", "committed"), [(Bare, 3), (Ours, 1)])
def test_hazard_4_acknowledgements_of_an_older_leadership(side: Side, committed: int) -> None:
    """What they acknowledged was replaced; the engine commits what now stands in its place, and
    nobody else has it."""
    node = side()
    first = node.lead()
    node.put("old")
    node.tick()
    assert node.last_index == 3
    node.append("c", first + 1, 1, 0, (NO_OP, 2, first + 1))
    assert (node.is_leader, node.last_index) == (False, 2)
    node.lead()
    assert node.last_index >= 3
    for peer in ("b", "c"):
        node.acknowledge(peer, 3, of_term=first)
    node.tick()
    assert node.commit_index == committed


@pytest.mark.parametrize(("side", "behind"), [(Bare, 1), (Ours, 3)])
def test_hazard_5_a_late_refusal(side: Side, behind: int) -> None:
    """The engine sends again what the follower has acknowledged since, and with hazard 2 the
    follower erases what came after it."""
    node = side()
    node.lead()
    node.put("x")
    node.tick()
    node.acknowledge("b", 3)
    node.refuse("b", 2, 2)
    assert node.sends_next_behind("b") == behind


@pytest.mark.parametrize(("side", "taken"), [(Bare, ["c", "d", "e"]), (Ours, ["c"])])
def test_hazard_10_membership_changes_at_once(side: Side, taken: list[str]) -> None:
    """A leader that can reach one member of four removes the others: the engine then commits with
    two of five, while the other three elect a leader of their own."""
    node = side(dynamicMembershipChange=True) if side is Bare else side()
    node.lead()
    for peer in ("b", "c"):
        node.acknowledge(peer, 2)
    node.tick()
    assert node.commit_index == 2
    assert [peer for peer in ("c", "d", "e") if node.remove(peer)] == taken
    node.put("x")
    node.tick()
    node.acknowledge("b", node.last_index)
    node.tick()
    assert node.commit_index == (node.last_index if side is Bare else 2)


def test_hazard_11_a_command_that_raises_is_tried_for_ever() -> None:
    """Ours: what is applied cannot raise (tests/unit/core/test_transitions.py,
    test_a_fault_inside_is_recorded_and_changes_nothing)."""
    node = Bare()
    node.append("b", 1, 1, 0, (command("poison"), 2, 1), (command("fine"), 3, 1), commit_index=3)
    for _ in range(20):
        with pytest.raises(ValueError, match="cannot be applied"):
            node.tick(after_s=TICK_S)
    assert (node.engine.raftLastApplied, node.values) == (1, [])


@pytest.mark.parametrize(("side", "answers"), [(Bare, 0), (Ours, 1)])
def test_hazard_14_a_message_of_an_older_term(side: Side, answers: int) -> None:
    """Unanswered, its sender goes on believing that it leads."""
    node = side()
    node.append("b", 7, 1, 0)
    node.tick()
    node.append("c", 3, 1, 0)
    assert [peer for peer, _ in node.tick()] == ["c"] * answers


@pytest.mark.parametrize(("side", "least_s", "most_s"), [(Bare, 30.0, 31.0), (Ours, 0.0, 0.7)])
def test_hazard_14_a_leader_that_nobody_answers(side: Side, least_s: float, most_s: float) -> None:
    """Its links look up to it for as long as it waits, and so `hasQuorum` says yes."""
    node = side()
    node.lead()
    elected = node.now
    while node.is_leader:
        assert isinstance(node, Ours) or node.engine.hasQuorum
        node.tick(after_s=TICK_S)
    assert least_s <= node.now - elected <= most_s


@pytest.mark.parametrize(("side", "leads"), [(Bare, True), (Ours, False)])
def test_hazard_15_one_vote_that_arrives_twice(side: Side, leads: bool) -> None:
    """Of five, a candidate needs two others."""
    node = side()
    node.campaign()
    for _ in range(2):
        node.grant("b")
    assert node.is_leader is leads
    node.grant("c")
    assert node.is_leader


@pytest.mark.parametrize(("side", "least_s", "most_s"), [(Bare, 0.05, 0.15), (Ours, 0.0, 0.0)])
def test_hazard_17_how_long_a_command_stays_at_an_idle_leader(
    side: Side, least_s: float, most_s: float
) -> None:
    """The engine logs it in its next tick, and sends it with the next heartbeat."""
    node = side()
    node.lead()
    for peer in node.peers:
        node.acknowledge(peer, 2)
    node.tick(after_s=0.2)
    node.tick(after_s=0.01)
    node.put("x")
    began = node.now
    while not any(has_entry(message, 3) for _, message in node.tick()):
        node.now += 0.01
        assert node.now < began + 10
    assert least_s <= node.now - began <= most_s


def has_entry(message: Any, index: int) -> bool:
    if isinstance(message, dict):
        return any(entry[1] == index for entry in message.get("entries", ()))
    return isinstance(message, AppendRequest) and any(e.index == index for e in message.entries)


def test_hazard_17_every_message_is_compressed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours: the next test."""
    module = bare.module("tcp_connection")
    compressed: list[bytes] = []

    def compress(data: bytes, level: int) -> bytes:
        compressed.append(data)
        return bytes(zlib_compress(data, level))

    zlib_compress = module.zlib.compress
    monkeypatch.setattr(module.zlib, "compress", compress)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        connection = module.TcpConnection(bare.module("poller").createPoller("auto"), socket=ours)
        for _ in range(3):
            connection.send({"type": "next_node_idx"})
    assert len(compressed) == 3


def test_hazard_17_nothing_of_ours_is_compressed() -> None:
    """Bare: the test before."""
    data = bytes(1000)
    message = AppendRequest(1, 1, 0, 1, (Entry(2, 1, b"\x00" + data),))
    assert data in wire.encode(message).SerializeToString()
