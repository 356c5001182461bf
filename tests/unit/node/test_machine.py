"""Which commands make a node look again at who is a member."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from quorate.core import codec
from quorate.core.transitions import install_genesis
from quorate.node.machine import LedgerMachine
from quorate.storage import Environment
from quorate.testing.builders import (
    CREATED_MS,
    Federation,
    ballot_body,
    node_body,
    proposal_body,
)

A, B, C = "a.example", "b.example", "c.example"


class Node:
    def __init__(self, path: Path) -> None:
        self.federation = Federation.build((A, B, C))
        self.environment = Environment.open(path, map_size_bytes=8 * 1024 * 1024)
        genesis = self.federation.parsed_genesis()
        self.environment.initialise(genesis.hash, self.federation[A].node)
        deque(self.environment.check(), maxlen=0)
        turn = self.environment.turn
        turn.append_ledger(install_genesis(turn.state, genesis))
        self.environment.commit()
        self.machine = LedgerMachine(self.environment)

    def looks_after(self, issuer: str, kind: str, body: Mapping[str, object]) -> str:
        """Executes the command; whether the node looks again, and the id of what it was about."""
        self.machine.has_changed_members = False
        envelope = self.federation.command(issuer, kind, body)
        self.machine.apply(1, codec.stamp(CREATED_MS, envelope))
        [executed] = self.machine.take_outcomes()
        assert executed.outcome.accepted, executed.outcome
        return executed.outcome.thing if self.machine.has_changed_members else ""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "store")
    yield node
    node.environment.abort()
    node.environment.close()


def test_it_looks_after_what_is_about_members_by_name(node: Node) -> None:
    assert node.looks_after(A, "node.add", node_body(f"spiffe://{A}/node/2"))
    assert node.looks_after(A, "domain.suspend", {"domain": A})
    executor = {"executor": node.federation[B].executor("e")}
    assert not node.looks_after(B, "executor.register", executor)


def test_it_looks_after_the_ballot_that_decides(node: Node) -> None:
    """And else would go on with an expelled domain, and without an admitted one."""
    assert not node.looks_after(A, "proposal.open", proposal_body("domain.expel", {"domain": C}))
    with node.environment.read() as committed:
        assert committed.ledger_size == 1, "this turn is not over"
    body = proposal_body("domain.expel", {"domain": C})
    command = node.federation.command(B, "proposal.open", body)
    node.machine.apply(2, codec.stamp(CREATED_MS, command))
    [opened] = node.machine.take_outcomes()
    assert node.looks_after(A, "ballot.cast", ballot_body(opened.outcome.thing))
