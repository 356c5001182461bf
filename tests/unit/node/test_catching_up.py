"""A node that lags too far, or is new, gets the state instead of the log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.nodes import Node, Nodes

from quorate.consensus.messages import SnapshotChunk
from quorate.core.errors import StorageDamagedError
from quorate.core.records import Federation
from quorate.core.state import StateView
from quorate.node import snapshots
from quorate.node.snapshots import SnapshotReceiver

DOMAINS = ("bank.example", "clinic.example", "port.example")
BANK = DOMAINS[0]


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


def lagging(nodes: Nodes, count: int = 60) -> Node:
    """A follower that was cut off while so much was executed that the log does not reach back."""
    assert nodes.leader is not None
    behind = nodes.others()[0]
    nodes.isolate(behind.node_id)
    nodes.register(BANK, count, nodes.leader)
    nodes.run_ms(100)
    assert nodes.leader.log_first() > behind.core.durable_applied + 1
    return behind


def same(nodes: Nodes) -> bool:
    ledgers = [node.ledger() for node in all_of(nodes)]
    return all(ledger == ledgers[0] for ledger in ledgers)


def test_the_log_keeps_a_tail_and_the_ledger_everything(nodes: Nodes) -> None:
    assert nodes.leader is not None
    nodes.register(BANK, 60, nodes.leader)
    nodes.until(lambda: same(nodes))
    for node in all_of(nodes):
        with node.environment.read() as snapshot:
            last, _ = snapshot.log_last()
            assert last - snapshot.log_first() <= 2 * nodes.settings.log_tail_entries
            assert snapshot.ledger_size == 61


def test_a_node_that_lags_too_far_installs_a_snapshot_and_goes_on(nodes: Nodes) -> None:
    behind = lagging(nodes)
    nodes.isolate()
    nodes.until(lambda: same(nodes) and behind.word_holds())
    assert behind.log_first() > 2
    assert not any(node.problems for node in all_of(nodes))
    nodes.register(BANK, 5, behind)
    nodes.until(lambda: same(nodes))


def test_it_permits_nothing_between_the_old_state_and_the_new(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = lagging(nodes)
    install = SnapshotReceiver.install
    held: list[bool] = []

    def watch(receiver: SnapshotReceiver) -> None:
        held.append(behind.word_holds())
        install(receiver)

    monkeypatch.setattr(SnapshotReceiver, "install", watch)
    nodes.isolate()
    nodes.until(lambda: held)
    assert held == [False]


def test_a_transfer_goes_on_where_a_link_broke(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "MAX_CHUNK_BYTES", 2_000)
    pulled: list[tuple[bool, bytes, int]] = []
    on_chunk = SnapshotReceiver.on_chunk

    def watch(receiver: SnapshotReceiver, peer: str, chunk: SnapshotChunk) -> None:
        pulled.append((chunk.is_ledger, chunk.state_after, chunk.ledger_from))
        on_chunk(receiver, peer, chunk)

    monkeypatch.setattr(SnapshotReceiver, "on_chunk", watch)
    behind = lagging(nodes)
    nodes.isolate()
    nodes.until(lambda: len(pulled) >= 5)
    nodes.isolate(behind.node_id)
    nodes.run_ms(200)
    behind.start()
    nodes.isolate()
    nodes.connect_again(behind)
    nodes.until(lambda: same(nodes))
    assert len(pulled) > 10
    assert len(set(pulled)) >= len(pulled) - 2, "no part but the one under way is sent again"


def test_a_chunk_of_small_records_holds_no_more_than_a_peer_takes(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 KiB can hold more records than a receiver lets in."""
    monkeypatch.setattr(snapshots, "MAX_CHUNK_ITEMS", 7)
    sizes: list[int] = []
    on_chunk = SnapshotReceiver.on_chunk

    def watch(receiver: SnapshotReceiver, peer: str, chunk: SnapshotChunk) -> None:
        sizes.append(max(len(chunk.pairs), len(chunk.entries)))
        on_chunk(receiver, peer, chunk)

    monkeypatch.setattr(SnapshotReceiver, "on_chunk", watch)
    behind = lagging(nodes)
    nodes.isolate()
    nodes.until(lambda: same(nodes) and behind.word_holds())
    assert max(sizes) == 7


def test_a_proposal_that_a_snapshot_skips_has_its_outcome(nodes: Nodes) -> None:
    assert nodes.leader is not None
    leader, behind = nodes.leader, nodes.others()[0]
    envelope = nodes.federation.command(
        BANK, "executor.register", {"executor": f"spiffe://{BANK}/agent/skipped"}
    )
    nodes.isolate(behind.node_id)
    key = behind.propose(envelope)
    assert leader.propose(envelope) == key
    nodes.register(BANK, 60, leader)
    nodes.isolate()
    nodes.until(lambda: key in behind.outcomes)
    assert behind.outcomes[key].accepted
    assert behind.outcomes[key].index == leader.outcomes[key].index


@pytest.mark.parametrize("lie", ["state", "ledger"])
def test_what_is_not_what_was_announced_is_not_used(
    nodes: Nodes, lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = lagging(nodes)
    before = behind.core.durable_applied
    honest = snapshots.SnapshotSender.on_pull

    def lies(sender: snapshots.SnapshotSender, peer: str, pull: object) -> SnapshotChunk | None:
        chunk = honest(sender, peer, pull)  # type: ignore[arg-type]
        if chunk is None or chunk.is_ledger != (lie == "ledger"):
            return chunk
        if chunk.is_ledger:
            return SnapshotChunk(
                chunk.term,
                chunk.index,
                True,
                b"",
                chunk.ledger_from,
                (),
                (*chunk.entries[:-1], chunk.entries[-1] + b" "),
                chunk.is_last,
            )
        pairs = (*chunk.pairs[:-1], (chunk.pairs[-1][0], chunk.pairs[-1][1] + b" "))
        return SnapshotChunk(
            chunk.term, chunk.index, False, chunk.state_after, 0, pairs, (), chunk.is_last
        )

    with monkeypatch.context() as patch:
        patch.setattr(snapshots.SnapshotSender, "on_pull", lies)
        nodes.isolate()
        nodes.until(lambda: behind.problems)
        assert behind.core.durable_applied == before
        assert not behind.word_holds()
    nodes.until(lambda: same(nodes) and behind.word_holds())


def test_records_that_cannot_be_read_are_the_senders_fault_and_stop_nobody(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unreadable(StateView):
        def federation(self) -> Federation:
            raise StorageDamagedError("the record of the federation is damaged")

    behind = lagging(nodes)
    before = behind.core.durable_applied
    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "StateView", Unreadable)
        nodes.isolate()
        nodes.until(lambda: behind.problems)
        assert "a record that is none" in behind.problems[0]
        assert behind.core.durable_applied == before
        assert not behind.word_holds()
    nodes.until(lambda: same(nodes) and behind.word_holds())


def test_nobody_keeps_a_snapshot_open_for_ever(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A follower that pulls and pulls, and never has enough, would keep pages from reuse."""
    behind = lagging(nodes)
    offered: list[int] = []
    on_offer = SnapshotReceiver.on_offer

    def never_pulls_on(receiver: SnapshotReceiver, peer: str, offer: Any, known: Any) -> None:
        offered.append(offer.index)
        on_offer(receiver, peer, offer, known)

    monkeypatch.setattr(SnapshotReceiver, "on_offer", never_pulls_on)
    monkeypatch.setattr(SnapshotReceiver, "on_chunk", lambda *_: None)
    monkeypatch.setattr(snapshots, "MAX_AGE_S", 5.0)
    nodes.isolate()
    nodes.until(lambda: offered)
    assert nodes.leader is not None
    nodes.register(BANK, 30, nodes.leader)
    nodes.until(lambda: len(set(offered)) > 1)
    assert not behind.word_holds()
