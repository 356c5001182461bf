"""What a node was told, when its core ends, or finds no room: all of it is there, or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.nodes import Node
from tests.unit.node.reporters import (
    DOMAINS,
    Reporters,
    denied,
    follower,
    heal,
    lose_quorum,
    numbers,
    rows,
)

from quorate.core.errors import StorageFullError
from quorate.core.lineage import NO_HEAD, Stage
from quorate.storage.turn import Turn

BANK = DOMAINS[0]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Reporters]:
    nodes = Reporters(tmp_path, DOMAINS)
    yield nodes
    nodes.close()


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Reporters]:
    """A federation of one: its node's own turns are all that happens."""
    nodes = Reporters(tmp_path, (BANK,))
    yield nodes
    nodes.close()


# -- crashes -------------------------------------------------------------------------------------


class Crashing:
    """Ends one node's core in the turn of this number, counted from now, at this moment."""

    MOMENTS = ("before the commit", "after the commit", "after sending")

    def __init__(self, nodes: Reporters, node: Node, at: int, moment: str) -> None:
        self.nodes, self.node, self.moment = nodes, node, moment
        self.left = at
        node.turn = self.turn  # type: ignore[method-assign]

    def turn(self) -> None:
        self.left -= 1
        if self.left != 0:
            self.node.core.turn()
            return
        if self.moment == "before the commit":
            self.node.core.decide()
        else:
            self.node.core.turn()
        if self.moment == "after sending":
            for peer, message in self.node.core.take_outbox():
                self.nodes.nodes[peer].core.deliver(self.node.node_id, message)
        self.nodes.crash(self.node)


@pytest.mark.parametrize("is_leader", [True, False], ids=["leads", "follows"])
@pytest.mark.parametrize("moment", Crashing.MOMENTS)
def test_a_crash_in_any_turn_loses_and_repeats_nothing(
    nodes: Reporters, moment: str, is_leader: bool
) -> None:
    """Before it is proposed, on its way, in the turn that executes it, after it; again and again
    on the same store."""
    for at in range(1, 13):
        nodes.settle()
        domain = next(each for each in DOMAINS if (nodes.node(each) is nodes.leader) == is_leader)
        node = nodes.node(domain)
        last = numbers(node, node.node_id)
        first = len(last)
        nodes.say(domain, first, first + 1)
        node.core.turn()  # durable, and perhaps proposed
        said = node.core.take_outbox()
        for peer, message in said:
            nodes.nodes[peer].core.deliver(node.node_id, message)
        crash = Crashing(nodes, node, at, moment)
        nodes.until(lambda: crash.left < 0)  # noqa: B023
        node.turn = node.core.turn  # type: ignore[method-assign]
        nodes.until(nodes.emptied)
        assert numbers(node, node.node_id) == [*last, first, first + 1]


def test_what_was_not_durable_is_gone_with_the_core(alone: Reporters) -> None:
    node = alone.node(BANK)
    alone.say(BANK, 0)
    alone.crash(node)
    assert node.core.outbox.waiting == 0
    alone.settle()
    alone.say(BANK, 0, 1)
    alone.until(alone.emptied)
    assert numbers(node, node.node_id) == [0, 1]


def test_what_waits_is_there_after_a_restart_without_a_quorum(nodes: Reporters) -> None:
    """The ledger has nothing of this node, and no row is sealed: none of them is done."""
    lose_quorum(nodes)
    domain, node = follower(nodes)
    nodes.say(domain, 0)
    node.core.outbox.deny([nodes.denials(domain)])
    node.core.turn()
    for _ in range(2):
        nodes.crash(node)
        assert node.core.outbox.waiting == 2
        node.core.turn()
        assert rows(node) == 2
    later = nodes.say(domain, 1)
    assert later.stage is Stage.STARTED, "it knows what it was told before"
    heal(nodes)
    assert numbers(node, node.node_id) == [0, 1]
    assert denied(node, node.node_id) == 1


# -- storage that is full ------------------------------------------------------------------------


def full(*_: Any) -> None:
    raise StorageFullError("no room")


@pytest.mark.parametrize("name", ["outbox_append", "outbox_replace", "commit"])
def test_what_finds_no_room_is_not_kept_and_nothing_of_it_is_there(
    alone: Reporters, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    node = alone.node(BANK)
    alone.say(BANK, 0)
    alone.until(alone.emptied)
    kept = node.kept_through
    releases = node.releases
    with monkeypatch.context() as patch:
        owner: Any = node.environment if name == "commit" else Turn
        patch.setattr(owner, name, full)
        taken = alone.say(BANK, 1, 2)
        node.core.turn()
        assert node.core.storage_problem
    assert node.releases == releases + 1, "who waits is told"
    assert (node.kept_through, kept < taken.ticket) == (kept, True)
    assert (rows(node), node.core.outbox.waiting) == (0, 0)
    node.core.probe_storage()
    alone.settle()
    again = alone.say(BANK, 1, 2)
    alone.until(alone.emptied)
    assert node.kept_through >= again.ticket > taken.ticket
    assert numbers(node, node.node_id) == [0, 1, 2]


def test_what_was_durable_before_the_storage_was_full_is_kept(
    nodes: Reporters, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_quorum(nodes)
    domain, node = follower(nodes)
    first = nodes.say(domain, 0, after=NO_HEAD)
    node.core.turn()
    with monkeypatch.context() as patch:
        patch.setattr(Turn, "outbox_append", full)
        nodes.say(domain, 1)
        node.core.turn()
        assert node.core.storage_problem
    assert node.core.outbox.waiting == 1
    node.core.probe_storage()
    nodes.connect_again(node)
    again = nodes.say(domain, 0, after=NO_HEAD)
    assert again.head == first.head
    node.core.turn()
    assert node.kept_through >= again.ticket, "a repeat of what is durable is acknowledged"
    heal(nodes)
    assert numbers(node, node.node_id) == [0]
