"""A snapshot is held against the state that its receiver has, a part at a time, whatever happens to
that state meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.node.nodes import Node, Nodes

from quorate.consensus import PeerError
from quorate.core import state
from quorate.core.records import Executor
from quorate.core.state import StateView
from quorate.core.status import Status
from quorate.node import snapshots
from quorate.node.snapshot_sender import SnapshotSender
from quorate.node.snapshots import SnapshotReceiver
from quorate.storage.reads import StateReader
from quorate.storage.receiving import Staged

DOMAINS = ("bank.example", "clinic.example", "port.example")
BANK = DOMAINS[0]
PAIRS_A_TURN = 50
MOST_READS_A_TURN = 400
"""Each pair is looked at with a handful of reads of others; and a turn does other things as well,
such as to execute the commands behind an installed snapshot."""


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path, DOMAINS)
    for domain in DOMAINS:
        nodes.add(nodes.federation[domain].node)
    nodes.until(lambda: nodes.leader is not None)
    nodes.run_ms(1_000)
    yield nodes
    nodes.close()


def numbered(number: int, status: Status = Status.ACTIVE) -> Executor:
    return Executor(f"spiffe://{BANK}/agent/{number:05}", BANK, status, 1)


def populate(nodes: Nodes, count: int) -> None:
    """Every node has so many executors, as if they had been registered."""
    for node in nodes.nodes.values():
        turn = node.environment.turn
        had = StateView(turn.state).executor_count(BANK)
        for number in range(count):
            state.save_executor(turn.state, numbered(number))
        state.count_executor(turn.state, BANK, had + count)
        node.environment.commit()


def lagging(nodes: Nodes) -> Node:
    assert nodes.leader is not None
    behind = nodes.others()[0]
    nodes.isolate(behind.node_id)
    nodes.register(BANK, 60, nodes.leader)
    nodes.run_ms(100)
    return behind


def same(nodes: Nodes) -> bool:
    ledgers = [node.ledger() for node in nodes.nodes.values()]
    return all(ledger == ledgers[0] for ledger in ledgers)


class Reads:
    """How many pairs of any state the turns of one node have read, each by itself."""

    def __init__(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        self.of_turns: list[int] = []
        self._count = 0
        get, scan, turn = StateReader.get, StateReader.scan, node.turn

        def counted_get(reader: StateReader, key: bytes) -> bytes | None:
            self._count += 1
            return get(reader, key)

        def counted_scan(
            reader: StateReader, prefix: bytes, start: bytes = b""
        ) -> Iterator[tuple[bytes, bytes]]:
            for pair in scan(reader, prefix, start):
                self._count += 1
                yield pair

        def counted_turn() -> None:
            self._count = 0
            turn()
            self.of_turns.append(self._count)

        monkeypatch.setattr(StateReader, "get", counted_get)
        monkeypatch.setattr(StateReader, "scan", counted_scan)
        monkeypatch.setattr(node, "turn", counted_turn)


def test_no_turn_reads_the_more_the_larger_the_state_is(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "MAX_VETTED", PAIRS_A_TURN)
    populate(nodes, 3_000)
    behind = lagging(nodes)
    reads = Reads(behind, monkeypatch)
    nodes.isolate()
    nodes.until(lambda: same(nodes) and behind.word_holds())
    assert behind.log_first() > 2, "it was a snapshot"
    assert sum(reads.of_turns) > 2 * 3_000, "all of it was looked at"
    assert max(reads.of_turns) < MOST_READS_A_TURN


# -- the present state changes meanwhile ---------------------------------------------------------


class Comparing:
    """A node that has received everything, and looks at it a thing at a time."""

    def __init__(self, nodes: Nodes) -> None:
        populate(nodes, 20)
        self.behind = lagging(nodes)
        assert nodes.leader is not None
        leader = nodes.leader
        self.receiver = self.behind.core._snapshots.receiver
        self.environment = self.behind.environment
        self.environment.commit()
        sender = SnapshotSender(leader.environment, leader.core.now_s, leader.core._sign_checkpoint)
        offer = sender.offer(self.behind.node_id, 9)
        assert offer is not None
        self.receiver.on_offer(leader.node_id, offer, self.behind.core.nodes)
        while (asked := self.receiver.next_pull()) is not None:
            chunk = sender.on_pull(self.behind.node_id, asked[1])
            assert chunk is not None
            self.receiver.on_chunk(leader.node_id, chunk)
            if self.environment.turn.staged() == self._whole():
                break
        self.environment.commit()
        sender.close()
        while not self.receiver._is_vetted:
            self.receiver.vet()

    def _whole(self) -> Staged | None:
        staged = self.environment.turn.staged()
        return staged if staged is not None and staged.is_complete else None

    def vet(self, times: int) -> None:
        for _ in range(times):
            assert self.receiver.is_vetting
            assert not self.receiver.is_complete()
            self.receiver.vet()

    def vet_all(self) -> int:
        """How many steps that took."""
        steps = 0
        while self.receiver.is_vetting:
            self.receiver.vet()
            steps += 1
            assert steps < 1_000, "it ends"
        assert self.receiver.is_complete()
        return steps

    def execute(self, executor: Executor) -> None:
        """Something that this node has learnt from the log only now."""
        turn = self.environment.turn
        state.save_executor(turn.state, executor)
        turn.set_applied(turn.applied_index + 1)
        self.environment.commit()

    def is_revoked(self, number: int) -> bool:
        found = StateView(self.environment.turn.state).executor(numbered(number).id)
        return found is not None and found.status is Status.REVOKED


@pytest.fixture
def comparing(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> Comparing:
    monkeypatch.setattr(snapshots, "MAX_VETTED", 1)
    return Comparing(nodes)


THINGS = 3 + 4 + 20
"""Three domains, four nodes and the twenty executors."""


def test_it_is_compared_once_when_nothing_changes(comparing: Comparing) -> None:
    assert THINGS - 2 <= comparing.vet_all() <= THINGS + 2
    comparing.receiver.install()
    comparing.environment.commit()


@pytest.mark.parametrize("compared", [0, 1, 10, 26], ids="{} compared".format)
def test_what_changes_meanwhile_is_compared_too(comparing: Comparing, compared: int) -> None:
    """A revocation of what was compared already, which the snapshot does not have."""
    comparing.vet(compared)
    comparing.execute(numbered(0, Status.REVOKED))
    comparing.vet_all()
    before = comparing.environment.turn.state_digest()
    with pytest.raises(PeerError, match=r"00000 was revoked, and has changed"):
        comparing.receiver.install()
    comparing.environment.commit()
    assert comparing.environment.turn.state_digest() == before
    assert comparing.environment.turn.staged() is None
    assert comparing.is_revoked(0)


def test_what_changes_after_the_comparison_is_compared_too(comparing: Comparing) -> None:
    comparing.vet_all()
    comparing.execute(numbered(0, Status.REVOKED))
    assert not comparing.receiver.is_complete()
    with pytest.raises(AssertionError):
        comparing.receiver.install()
    comparing.vet_all()
    with pytest.raises(PeerError, match=r"00000 was revoked, and has changed"):
        comparing.receiver.install()
    assert comparing.is_revoked(0)


def test_a_change_that_contradicts_nothing_costs_another_comparison(comparing: Comparing) -> None:
    once = comparing.vet_all()
    comparing.execute(numbered(0, Status.SUSPENDED))
    comparing.vet(10)
    comparing.execute(numbered(1, Status.SUSPENDED))
    assert comparing.vet_all() == once
    assert not comparing.receiver._problem


def test_a_contradiction_is_found_wherever_it_is(comparing: Comparing) -> None:
    comparing.execute(numbered(19, Status.REVOKED))
    comparing.vet_all()
    with pytest.raises(PeerError, match=r"does not follow from here.*00019 was revoked"):
        comparing.receiver.install()


def test_a_comparison_ends_when_the_log_brings_what_the_snapshot_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot was received of one leader; the next one still has the log."""
    monkeypatch.setattr(snapshots, "MAX_VETTED", 1)
    nodes = Nodes(tmp_path, DOMAINS)
    short, nodes.settings = nodes.settings, replace(nodes.settings, log_tail_entries=10_000)
    keeper = nodes.add(nodes.federation[DOMAINS[1]].node)
    nodes.settings = short
    others = [nodes.add(nodes.federation[domain].node) for domain in (BANK, DOMAINS[2])]
    nodes.until(lambda: nodes.leader in others)
    nodes.run_ms(500)
    populate(nodes, 2_000)
    leader = nodes.leader
    assert leader is not None
    [behind] = [node for node in others if node is not leader]
    nodes.isolate(behind.node_id)
    nodes.register(BANK, 60, leader)
    nodes.run_ms(100)
    nodes.isolate()
    receiver = behind.core._snapshots.receiver
    nodes.until(lambda: receiver._succession is not None)
    installed: list[str] = []
    monkeypatch.setattr(SnapshotReceiver, "install", lambda _: installed.append("a snapshot"))
    nodes.isolate(leader.node_id)
    nodes.until(lambda: nodes.leader is keeper)
    nodes.until(lambda: behind.word_holds() and keeper.ledger() == behind.ledger())
    assert not receiver.is_vetting
    assert not receiver.is_complete()
    nodes.isolate()
    nodes.until(lambda: same(nodes))
    assert not installed
    assert not behind.problems
    nodes.close()
