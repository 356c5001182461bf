"""What a node says of its program, and what it does when the federation knows better."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.node.nodes import Node, Nodes

from quorate.core import protocol
from quorate.core.errors import UnsupportedProtocolError
from quorate.core.outcome import Outcome, Reason
from quorate.core.records import Node as Record
from quorate.core.records import Role
from quorate.core.state import StateView
from quorate.core.status import Status
from quorate.node.declaration import PATIENCE_S, RETRY_S, Declaration
from quorate.node.lease_commands import LeaseCommands
from quorate.testing.builders import ballot_body, key_for, proposal_body

A, B, C = "a.example", "b.example", "c.example"
FIRST = f"spiffe://{A}/node/1"


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    """Three, of programs that know the second version, in a federation of the first."""
    made = Nodes(tmp_path, (A, B, C), version=protocol.FIRST)
    yield made
    made.close()


def start(nodes: Nodes, *domains: str) -> list[Node]:
    return [nodes.add(nodes.federation[domain].node) for domain in domains]


def versions(at: Node) -> dict[str, int]:
    with at.environment.read() as snapshot:
        return {node.domain: node.protocol for node in StateView(snapshot.state).nodes()}


def protocol_at(at: Node) -> int:
    with at.environment.read() as snapshot:
        return StateView(snapshot.state).federation().protocol


def test_each_says_what_it_knows_once(nodes: Nodes) -> None:
    first, *_ = start(nodes, A, B, C)
    nodes.until(lambda: versions(first) == dict.fromkeys((A, B, C), protocol.LATEST))
    size = len(first.ledger())
    nodes.run_ms(int(2 * RETRY_S * 1000))
    assert len(first.ledger()) == size, "nothing is said twice"


def test_a_node_that_was_away_says_it_when_it_is_back(nodes: Nodes) -> None:
    first, _ = start(nodes, A, B)
    nodes.until(lambda: versions(first)[B] == protocol.LATEST)
    assert versions(first)[C] == protocol.FIRST
    start(nodes, C)
    nodes.until(lambda: versions(first)[C] == protocol.LATEST)


def test_a_federation_that_goes_on_stops_whoever_does_not_know_its_rules(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_ = start(nodes, A, B, C)
    nodes.until(lambda: versions(first) == dict.fromkeys((A, B, C), protocol.LATEST))
    asked = proposal_body("federation.upgrade", {"protocol": protocol.SECOND})
    opened = nodes.order(A, "proposal.open", asked, first)
    nodes.until(first.word_holds)
    monkeypatch.setattr(protocol, "LATEST", protocol.FIRST)  # replaced after it had declared
    ballot = nodes.federation.command(B, "ballot.cast", ballot_body(str(opened.result["id"])))
    key = first.propose(ballot)
    with pytest.raises(UnsupportedProtocolError):
        nodes.until(lambda: key in first.outcomes)
    stopped = next(node for node in nodes.nodes.values() if protocol_at(node) == protocol.SECOND)
    with pytest.raises(UnsupportedProtocolError, match="version 2"):
        stopped.start()
    monkeypatch.undo()
    stopped.start()
    nodes.connect_again(stopped)
    nodes.until(lambda: all(protocol_at(node) == 2 for node in nodes.nodes.values()))
    nodes.until(lambda: all(node.word_holds() for node in nodes.nodes.values()))


class Replica:
    """Takes proposals, and remembers them."""

    def __init__(self) -> None:
        self.proposed: list[bytes] = []
        self.waiting: list[bytes] = []

    def propose(self, key: bytes, envelope: bytes) -> bool:
        self.proposed.append(envelope)
        self.waiting.append(key)
        return True

    def forget(self, key: bytes) -> bool:
        self.waiting.remove(key)
        return False


class Scene:
    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.replica = Replica()
        commands = LeaseCommands("quorate.example/f", FIRST, key_for("signing"))
        self.declaration = Declaration(commands, lambda: self.now_s)

    def tick(self, version: int = protocol.FIRST, *, may_propose: bool = True) -> bool:
        node = Record(FIRST, A, "a:1", "0", "1", Role.VOTER, Status.ACTIVE, 7, version)
        return self.declaration.tick(
            self.replica,  # type: ignore[arg-type]
            node,
            may_propose=may_propose,
            ledger_time_ms=5,
        )


def test_without_authority_nothing_is_said() -> None:
    scene = Scene()
    assert not scene.tick(may_propose=False)
    assert scene.tick()
    assert scene.declaration.next_due_s() == scene.now_s + PATIENCE_S


def test_what_has_no_outcome_is_proposed_anew_as_the_same_command() -> None:
    scene = Scene()
    scene.tick()
    assert not scene.tick()
    scene.now_s += PATIENCE_S
    assert scene.tick()
    assert len(set(scene.replica.proposed)) == 1
    assert len(scene.replica.waiting) == 1, "the first is not tried any more"
    scene.tick(protocol.LATEST)
    assert not scene.replica.waiting


def test_what_was_denied_is_asked_later_as_another_command() -> None:
    scene = Scene()
    scene.tick()
    denied = Outcome(False, Reason.EXPIRED_COMMAND, "", 9, "0" * 64)
    scene.declaration.executed(b"another", denied)
    scene.declaration.executed(scene.replica.waiting[0], denied)
    scene.now_s += RETRY_S - 1
    assert not scene.tick()
    scene.now_s += 1
    assert scene.tick()
    assert len(set(scene.replica.proposed)) == 2
