"""A node that lags too far, or is new, gets the state instead of the log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.node.nodes import Node, Nodes

from quorate.consensus import snapshot_wire, wire
from quorate.consensus.messages import (
    AppendReply,
    AppendRequest,
    SnapshotChunk,
    SnapshotOffer,
    SnapshotPull,
)
from quorate.node import snapshot_sender
from quorate.node.snapshots import SnapshotReceiver, SnapshotSender
from quorate.v1 import peer_pb2

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
    monkeypatch.setattr(snapshot_sender, "MAX_CHUNK_BYTES", 2_000)
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


@pytest.mark.parametrize("is_too_long", [False, True], ids=["less than that", "longer"])
def test_who_is_away_goes_on_where_it_was_for_as_long_as_is_said(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch, is_too_long: bool
) -> None:
    """Then the state is begun anew, as it is by then; of the ledger nothing is sent twice."""
    monkeypatch.setattr(snapshot_sender, "MAX_CHUNK_BYTES", 2_000)
    monkeypatch.setattr(snapshot_sender, "AWAY_S", 6.0)
    monkeypatch.setattr(snapshot_sender, "IDLE_S", 1.0)
    states: list[tuple[int, bytes]] = []
    entries: list[int] = []
    on_chunk = SnapshotReceiver.on_chunk

    def watch(receiver: SnapshotReceiver, peer: str, chunk: SnapshotChunk) -> None:
        if chunk.is_ledger:
            entries.extend(range(chunk.ledger_from, chunk.ledger_from + len(chunk.entries)))
        else:
            states.append((chunk.index, chunk.state_after))
        on_chunk(receiver, peer, chunk)

    monkeypatch.setattr(SnapshotReceiver, "on_chunk", watch)
    behind = lagging(nodes)
    leader = nodes.leader
    assert leader is not None
    nodes.isolate()
    nodes.until(lambda: len(entries) >= 5)
    begun = {index for index, _ in states}
    nodes.isolate(behind.node_id)
    nodes.register(BANK, 30, leader)
    nodes.run_ms(7_000 if is_too_long else 5_000)
    assert bool(leader.core._snapshots.sender._sending) == (not is_too_long)
    assert (leader.log_first() > max(begun)) == is_too_long, "the log is kept no longer either"
    nodes.isolate()
    nodes.until(lambda: same(nodes) and behind.word_holds())
    assert len({index for index, _ in states}) == (2 if is_too_long else 1)
    assert len(states) == len(set(states)), "no part of one state comes twice"
    assert len(set(entries)) >= len(entries) - 5, "no part but the one under way"


def test_a_chunk_of_small_records_holds_no_more_than_a_peer_takes(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 KiB can hold more records than a receiver lets in."""
    monkeypatch.setattr(snapshot_sender, "MAX_CHUNK_ITEMS", 7)
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
    honest = SnapshotSender.on_pull

    def lies(sender: SnapshotSender, peer: str, pull: object) -> SnapshotChunk | None:
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
        patch.setattr(SnapshotSender, "on_pull", lies)
        nodes.isolate()
        nodes.until(lambda: behind.problems)
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
    monkeypatch.setattr(snapshot_sender, "MAX_STALLED_S", 5.0)
    nodes.isolate()
    nodes.until(lambda: offered)
    assert nodes.leader is not None
    nodes.register(BANK, 30, nodes.leader)
    nodes.until(lambda: len(set(offered)) > 1)
    assert not behind.word_holds()


def test_a_transfer_that_gets_on_is_never_begun_anew(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes, while the ledger goes on."""
    monkeypatch.setattr(snapshot_sender, "MAX_CHUNK_BYTES", 600)
    monkeypatch.setattr(snapshot_sender, "MAX_STALLED_S", 0.2)
    behind = lagging(nodes, 150)
    leader = nodes.leader
    assert leader is not None
    begun: set[int] = set()
    nodes.isolate()
    started = nodes.clock.boottime_ns()
    for _ in range(400):
        nodes.register(BANK, 1, leader)
        nodes.run_ms(50)
        staged = behind.environment.turn.staged()
        if staged is not None:
            begun.add(staged.index)
        if behind.core.durable_applied + 5 > leader.core.durable_applied:
            break
    assert len(begun) == 1
    assert nodes.clock.boottime_ns() - started > 10**9, "it took several times as long"


# -- what a sender does for one who asks ---------------------------------------------------------


class Asking:
    """A sender, and one follower that asks it as it likes."""

    def __init__(self, nodes: Nodes) -> None:
        leader = nodes.leader
        assert leader is not None
        self.now = 0.0
        self.sender = SnapshotSender(
            leader.environment, lambda: self.now, leader.core._sign_checkpoint
        )
        self.offered = self.offer()

    def offer(self) -> SnapshotOffer:
        offer = self.sender.offer("it", 1)
        assert offer is not None
        return offer

    def pull(self, is_ledger: bool, after: bytes = b"", first: int = 0) -> SnapshotChunk:
        pull = SnapshotPull(1, self.offered.index, is_ledger, after, first)
        chunk = self.sender.on_pull("it", pull)
        assert chunk is not None
        return chunk

    def is_open(self, after_s: float) -> bool:
        """Whether it still is, so much later, having been pulled from meanwhile."""
        self.now += after_s
        if self.sender._sending:
            self.sender._sending["it"].used_at = self.now
        self.sender.tidy(lambda _peer, _index: False)
        return bool(self.sender._sending)

    def is_kept(self, away_s: float) -> bool:
        """Whether it still is, so much later, of who is away."""
        self.now += away_s
        self.sender.tidy(lambda _peer, _index: False)
        return "it" in self.sender._sending


@pytest.fixture
def asking(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asking]:
    monkeypatch.setattr(snapshot_sender, "MAX_CHUNK_BYTES", 600)
    assert nodes.leader is not None
    nodes.register(BANK, 20, nodes.leader)
    asking = Asking(nodes)
    yield asking
    asking.sender.close()


MOST_S = snapshot_sender.MAX_STALLED_S


def test_each_part_that_follows_gives_time_for_the_next(asking: Asking) -> None:
    after, parts = b"", 0
    while True:
        chunk = asking.pull(False, after)
        parts += 1
        assert asking.is_open(0.9 * MOST_S)
        if chunk.is_last:
            break
        after = chunk.pairs[-1][0]
    first = 0
    while first < asking.offered.ledger_size:
        first += len(asking.pull(True, first=first).entries)
        parts += 1
        assert asking.is_open(0.9 * MOST_S)
    assert parts > 10
    asking.pull(True, first=first)
    assert not asking.is_open(0.2 * MOST_S), "there is no more to get"


def test_the_same_part_again_gives_no_time(asking: Asking) -> None:
    asking.pull(False)
    assert asking.is_open(0.9 * MOST_S)
    asking.pull(False)
    assert not asking.is_open(0.2 * MOST_S)


def test_parts_that_overlap_give_no_time(asking: Asking) -> None:
    """Or a snapshot could be drawn out, a record at a time."""
    chunk = asking.pull(False)
    while len(chunk.pairs) < 2:
        chunk = asking.pull(False, chunk.pairs[-1][0])
    assert asking.is_open(0.9 * MOST_S)
    asking.pull(False, chunk.pairs[-2][0])
    assert not asking.is_open(0.2 * MOST_S)


def test_a_transfer_that_another_leader_began_goes_on(asking: Asking) -> None:
    asking.pull(True, first=7)
    assert asking.is_open(0.9 * MOST_S)
    asking.pull(True, first=0)
    assert not asking.is_open(0.2 * MOST_S), "but not back"


AWAY_S, IDLE_S = snapshot_sender.AWAY_S, snapshot_sender.IDLE_S


def test_who_is_away_keeps_its_place_for_a_while_and_no_longer(asking: Asking) -> None:
    assert asking.is_kept(0.9 * AWAY_S)
    asking.pull(False)
    assert asking.is_kept(0.9 * AWAY_S)
    assert not asking.is_kept(0.2 * AWAY_S)
    assert asking.sender.floor(10**9) == 10**9, "the log is kept for it no longer"


def test_who_is_away_makes_room_for_who_is_here(asking: Asking) -> None:
    """Two are held open at once."""
    assert asking.sender.offer("another", 1) is not None
    asking.pull(False)
    assert asking.sender.offer("a third", 1) is None
    assert asking.is_kept(0.9 * IDLE_S), "it may be but slow"
    asking.now += 0.2 * IDLE_S
    assert asking.sender.offer("a third", 1) is None
    assert not asking.is_kept(0.0)
    assert asking.sender.offer("a third", 1) is not None


def test_who_has_had_its_place_is_in_nobodys_way(asking: Asking) -> None:
    """Also at the very moment at which it gives it back: two were there."""
    asking.now += 1.1 * IDLE_S
    assert asking.sender.offer("another", 1) is not None
    asking.sender._end("another")
    assert asking.is_kept(0.0)


def test_who_is_away_keeps_no_pages_when_the_store_fills_up(
    asking: Asking, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert nodes.leader is not None
    had = asking.sender._sending["it"].room_bytes
    assert 0 < had < 64 << 20, "what is left of the map"
    left = had // 2 + 1
    monkeypatch.setattr(nodes.leader.environment, "room_bytes", lambda: left)
    assert asking.is_kept(1.1 * IDLE_S)
    left = had // 2 - 1
    assert not asking.is_kept(0.0)


def test_who_pulls_is_not_given_up_because_the_store_fills_up(
    asking: Asking, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transfer that gets on is worth its room: what has none at all gives it up."""
    assert nodes.leader is not None
    monkeypatch.setattr(nodes.leader.environment, "room_bytes", lambda: 0)
    asking.pull(False)
    assert asking.is_open(0.9 * MOST_S)


def test_one_part_a_turn_is_sent_to_whoever_asks_for_many(nodes: Nodes) -> None:
    """Pulls are small, and parts are not: a member must not be able to fill its leader's memory."""
    behind = lagging(nodes)
    leader = nodes.leader
    assert leader is not None
    nodes.cut = set()
    leader.core.connected(behind.node_id)
    index = 0

    def pulls(place: int) -> peer_pb2.PeerMessage:
        return snapshot_wire.encode(SnapshotPull(leader.core.replica.term, index, True, b"", place))

    def said(node: Node) -> list[Any]:
        """What the leader says to it in one turn, and the others answer."""
        nodes.clock.advance_ms(10)
        leader.core.turn()
        mine = []
        for peer, message in leader.core.take_outbox():
            if peer == node.node_id:
                mine.append(message)
            else:
                nodes.nodes[peer].core.deliver(leader.node_id, message)
        for other in nodes.others():
            if other is not node:
                other.core.turn()
                for peer, message in other.core.take_outbox():
                    if peer == leader.node_id:
                        leader.core.deliver(other.node_id, message)
        return mine

    def refuse(message: peer_pb2.PeerMessage) -> None:
        request = wire.decode(message)
        if isinstance(request, AppendRequest) and request.prev_log_index > 1:
            reply = AppendReply(request.term, request.term, False, 0, 2, request.prev_log_index, 0)
            leader.core.deliver(behind.node_id, wire.encode(reply))

    for _ in range(400):
        for message in said(behind):
            if message.WhichOneof("body") == "snapshot_offer":
                index = message.snapshot_offer.index
            elif message.WhichOneof("body") == "append_request":
                refuse(message)
        if index:
            break
    assert index
    for place in (*range(500), 5):
        leader.core.deliver(behind.node_id, pulls(place))
    chunks = [
        message.snapshot_chunk
        for message in said(behind)
        if message.WhichOneof("body") == "snapshot_chunk"
    ]
    assert [chunk.ledger_from for chunk in chunks] == [5], "the newest"
    assert not any(message.WhichOneof("body") == "snapshot_chunk" for message in said(behind))
