"""A node whose wall clock is far off says so, and leaves leading to others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.unit.node.nodes import Node, Nodes

from quorate.lease.clock import Clock

DOMAINS = ("bank.example", "clinic.example", "port.example")
LONG_MS = 20_000
"""Several elections."""


class WrongClock:
    """A machine's clock whose wall clock is so far ahead."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.ahead_ms = 0

    def boottime_ns(self) -> int:
        return self._clock.boottime_ns()

    def realtime_ns(self) -> int:
        return self._clock.realtime_ns() + self.ahead_ms * 1_000_000


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path, DOMAINS)
    for domain in DOMAINS:
        node = nodes.add(nodes.federation[domain].node)
        node.clock = WrongClock(nodes.clock)
        node.start()
        nodes.connect_again(node)
    nodes.until(lambda: all(node.word_holds() for node in nodes.nodes.values()))
    yield nodes
    nodes.close()


def step(node: Node, ahead_ms: int) -> None:
    assert isinstance(node.clock, WrongClock)
    node.clock.ahead_ms = ahead_ms


def others_than(nodes: Nodes, node: Node) -> list[Node]:
    return [each for each in nodes.nodes.values() if each is not node]


def leader(nodes: Nodes) -> Node:
    assert nodes.leader is not None
    return nodes.leader


@pytest.mark.parametrize("sign", [1, -1])
def test_who_is_further_off_than_is_allowed_does_not_lead(nodes: Nodes, sign: int) -> None:
    wrong = leader(nodes)
    most_ms = wrong.core.parameters.max_skew_ms
    step(wrong, sign * most_ms)
    nodes.run_ms(LONG_MS)
    assert leader(nodes) is wrong, "as far off as is allowed"

    with capture_logs() as logs:
        step(wrong, sign * (most_ms + 1))
        nodes.until(lambda: nodes.leader is not None and nodes.leader is not wrong)
        for _ in range(LONG_MS // 100):
            nodes.run_ms(100)
            assert not wrong.core.replica.is_leader
    skewed = [entry for entry in logs if entry["event"] == "clock.skewed"]
    assert [entry["offset_ms"] for entry in skewed] == [sign * (most_ms + 1)], "said once"
    assert [entry["log_level"] for entry in skewed] == ["error"]
    assert wrong.core.ledger_clock.own_offset_ms() == sign * (most_ms + 1), "what the status says"
    assert all(node.word_holds() for node in nodes.nodes.values()), "also the wrong one follows"


def test_who_is_right_again_may_lead(nodes: Nodes) -> None:
    wrong = leader(nodes)
    step(wrong, wrong.core.parameters.max_skew_ms + 1)
    nodes.until(lambda: nodes.leader is not None and nodes.leader is not wrong)
    with capture_logs() as logs:
        step(wrong, 0)
        nodes.run_ms(LONG_MS)
    assert [entry["event"] for entry in logs if entry["event"].startswith("clock.")] == [
        "clock.near"
    ]
    for _ in range(20):
        before = leader(nodes)
        if before is wrong:
            break
        nodes.isolate(before.node_id)
        rest = others_than(nodes, before)
        nodes.until(lambda rest=rest: any(node.core.replica.is_leader for node in rest))
        nodes.isolate()
        nodes.until(lambda before=before: not before.core.replica.is_leader)
    assert leader(nodes) is wrong
