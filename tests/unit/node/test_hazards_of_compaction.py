"""The engine's hazards in compacting and in sending state (8, 9 and 16 of docs/consensus.md), which
ours does not have. tests/unit/consensus/test_bare_disk.py shows them on the engine as it comes;
test_catching_up has the rest of what a snapshot promises, and hazard 12."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import pytest
from tests.unit.node.nodes import MAP_SIZE_BYTES, Node, Nodes

from quorate.consensus import snapshot_wire
from quorate.node import snapshot_sender
from quorate.storage import Environment, layout
from quorate.v1 import peer_pb2

DOMAINS = ("bank.example", "clinic.example", "port.example")
BANK = DOMAINS[0]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path / "nodes", DOMAINS)
    (tmp_path / "nodes").mkdir()
    for domain in DOMAINS:
        nodes.add(nodes.federation[domain].node)
    nodes.until(lambda: nodes.leader is not None and all(n.word_holds() for n in all_of(nodes)))
    yield nodes
    nodes.close()


def all_of(nodes: Nodes) -> list[Node]:
    return list(nodes.nodes.values())


def lagging(nodes: Nodes) -> Node:
    """A follower that was cut off while the log moved on, beyond where it stopped."""
    assert nodes.leader is not None
    behind = nodes.others()[0]
    nodes.isolate(behind.node_id)
    nodes.register(BANK, 60, nodes.leader)
    nodes.run_ms(100)
    return behind


class Crashes:
    """The file of a node's store as a kill -9 would leave it, before and after each commit that
    writes; each copy is opened as a restart would."""

    def __init__(self, node: Node, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._source = Path(node.environment._lmdb.path()) / layout.DATA_FILE
        self._folder = folder
        self.count = 0
        commit = Environment.commit

        def copying(environment: Environment) -> bool:
            if environment is not node.environment:
                return commit(environment)
            self._copy()
            return commit(environment)

        monkeypatch.setattr(Environment, "commit", copying)

    def _copy(self) -> None:
        copy = self._folder / f"{self.count:04}"
        copy.mkdir(parents=True)
        shutil.copy(self._source, copy)
        self.count += 1

    def restarts(self) -> Iterator[tuple[int, int, int, list[bytes]]]:
        """(first and last entry of the log, applied index, ledger) of each, in order."""
        for number in range(self.count):
            path = self._folder / f"{number:04}"
            environment = Environment.open(path, map_size_bytes=MAP_SIZE_BYTES)
            with environment.read() as snapshot:
                ledger = snapshot.ledger_entries(0, snapshot.ledger_size)
                last, _ = snapshot.log_last()
                yield snapshot.log_first(), last, snapshot.applied_index, ledger
            environment.close()
            shutil.rmtree(path)


def assert_sound(restarts: list[tuple[int, int, int, list[bytes]]], whole: list[bytes]) -> None:
    """A log that reaches back to the state, a ledger that is everybody's, and nothing less than
    before."""
    for first, last, applied, ledger in restarts:
        assert first <= applied <= last
        assert ledger == whole[: len(ledger)]
    for (_, _, applied, ledger), (_, later_last, later_applied, longer) in pairwise(restarts):
        assert later_last >= later_applied >= applied
        assert len(longer) >= len(ledger)


def test_hazard_8_a_crash_at_any_commit_of_compaction_loses_nothing(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bare: test_bare_disk.test_hazard_8_a_crash_in_compaction_loses_what_was_acknowledged."""
    node = nodes.others()[0]
    assert nodes.leader is not None
    with monkeypatch.context() as patch:
        crashes = Crashes(node, tmp_path / "crashes", patch)
        for _ in range(12):
            nodes.register(BANK, 3, nodes.leader)
    restarts = list(crashes.restarts())
    assert_sound(restarts, nodes.leader.ledger())
    assert all(later[1] >= earlier[1] for earlier, later in pairwise(restarts)), "the log's end"
    assert len({first for first, *_ in restarts}) > 3, "its front was removed several times"


def test_hazard_9_a_crash_at_any_commit_of_an_installation_leaves_log_and_state_in_step(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bare: test_bare_disk.test_hazard_9_a_kill_between_dump_and_compaction_loses_what_was
    _acknowledged."""
    behind = lagging(nodes)
    assert nodes.leader is not None
    before = len(behind.ledger())
    with monkeypatch.context() as patch:
        patch.setattr(snapshot_sender, "MAX_CHUNK_BYTES", 4_000)
        crashes = Crashes(behind, tmp_path / "crashes", patch)
        nodes.isolate()
        nodes.until(lambda: nodes.leader is not None and behind.ledger() == nodes.leader.ledger())
        nodes.run_ms(500)
    restarts = list(crashes.restarts())
    assert_sound(restarts, nodes.leader.ledger())
    sizes = [len(ledger) for *_, ledger in restarts]
    assert sizes.count(before) > 5, "there were crashes in the transfer"
    assert max(sizes) > before + 50, "and behind it"


def test_hazard_16_state_is_sent_without_a_fork_and_without_stopping(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a follower takes in a snapshot, commands are executed, and no turn says more to it
    than a request is answered with.

    Bare: test_bare_disk.test_hazard_16_a_process_with_threads_is_forked, and
    test_hazard_16_a_leader_spins_while_its_dump_is_written.
    """

    def fork() -> NoReturn:
        raise AssertionError("something forks")

    monkeypatch.setattr(os, "fork", fork)
    monkeypatch.setattr(snapshot_sender, "MAX_CHUNK_BYTES", 500)
    behind = lagging(nodes)
    leader = nodes.leader
    assert leader is not None
    most = 0
    take_outbox = leader.core.take_outbox

    def counting() -> list[tuple[str, peer_pb2.PeerMessage]]:
        nonlocal most
        sent = take_outbox()
        to_it = [message for peer, message in sent if peer == behind.node_id]
        most = max(most, sum(snapshot_wire.decode(message) is not None for message in to_it))
        return sent

    monkeypatch.setattr(leader.core, "take_outbox", counting)
    begun = len(behind.ledger())
    nodes.isolate()
    nodes.run_ms(200)
    nodes.register(BANK, 1, leader)
    assert len(behind.ledger()) == begun, "the command did not wait for the snapshot"
    nodes.until(lambda: behind.ledger() == leader.ledger())
    assert 1 <= most <= 2
