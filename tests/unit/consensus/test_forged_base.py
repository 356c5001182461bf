"""A follower whose log begins beyond its leader's end: nothing of it counts, and that is said."""

from __future__ import annotations

import random

import pytest
from tests.unit.consensus.ours import Ours

from quorate.consensus import PeerError, RaftSettings, Replica
from quorate.consensus.configuration import Configuration
from quorate.consensus.messages import AppendReply, AppendRequest, Entry, Message, SnapshotOffer
from quorate.testing.raft_disk import MemoryLogStore

FAR = 10**9
THREE = Configuration(("a", "b", "c"))


class Victim:
    """The follower `b`, into which somebody has put a snapshot of a log that there never was."""

    def __init__(self, base: int, term: int) -> None:
        store = MemoryLogStore()
        store.turn.log_append(1, 0, b"\2" + THREE.encode())
        store.turn.install_snapshot(base, term, THREE.encode(), ())
        store.turn.set_term_and_vote(term, None)
        store.commit()
        self.store = store
        self.replica = Replica(
            node_id="b",
            initial=THREE,
            settings=RaftSettings(),
            store=store,
            apply=lambda _index, _payload: None,
            stamp=lambda payload: payload,
            clock=lambda: 100.0,
            wall_clock_ms=lambda: 0,
            chance=random.Random(1),  # noqa: S311
        )

    def answer(self, message: Message) -> AppendReply:
        self.replica.receive("a", message)
        self.replica.tick()
        self.store.commit()
        [(_, reply)] = self.replica.take_outbox()
        assert isinstance(reply, AppendReply)
        return reply


def appends(sent: list[tuple[str, Message]], peer: str) -> list[AppendRequest]:
    return [m for name, m in sent if name == peer and isinstance(m, AppendRequest)]


def test_it_counts_for_nothing_and_accuses_itself_with_every_answer() -> None:
    leader = Ours("bc")
    term = leader.lead()
    victim = Victim(FAR, term)
    accused = 0
    for number in range(20):
        leader.put(f"value {number}")
        for request in appends(leader.tick(after_s=leader.settings.heartbeat_s), "b"):
            with pytest.raises(PeerError, match="never sent"):
                leader.receive("b", victim.answer(request))
            accused += 1
        if not leader.is_leader:
            break
    assert accused >= 3
    assert leader.known_of("b") == 0
    assert leader.commit_index == 1, "nothing is committed with it alone"
    assert not leader.is_leader, "nor is a leadership confirmed"


def test_the_others_go_on_without_it() -> None:
    leader = Ours("bc")
    victim = Victim(FAR, leader.lead())
    for number in range(20):
        leader.put(f"value {number}")
        sent = leader.tick(after_s=leader.settings.heartbeat_s)
        for request in appends(sent, "b"):
            with pytest.raises(PeerError):
                leader.receive("b", victim.answer(request))
        leader.acknowledge("c", leader.last_index)
    assert (leader.commit_index, leader.known_of("b")) == (leader.last_index, 0)


@pytest.mark.parametrize("last", [1, 2, 5, 9])
def test_whatever_lies_before_a_base_is_answered_with_the_base(last: int) -> None:
    """Nothing of it can be verified, and it is committed here: no leader may lack it."""
    victim = Victim(10, 1)
    entries = tuple(Entry(index, 1, b"\x00x") for index in range(2, last + 1))
    reply = victim.answer(AppendRequest(1, 1, 0, last, entries))
    assert (reply.success, reply.match_index, reply.prev_log_index) == (True, 10, 1)
    assert (victim.store.base, victim.replica.commit_index) == (10, 10)


@pytest.mark.parametrize("index", [2, 9, 10])
def test_an_offer_of_what_lies_before_a_base_is_answered_with_the_base(index: int) -> None:
    reply = Victim(10, 1).answer(SnapshotOffer(1, index, 1, THREE.encode(), 0, "", 0, b""))
    assert (reply.success, reply.match_index, reply.prev_log_index) == (True, 10, index)


@pytest.mark.parametrize("kind", ["append", "offer"])
def test_a_leader_that_contradicts_the_base_is_accused(kind: str) -> None:
    victim = Victim(10, 1)
    said: dict[str, Message] = {
        "append": AppendRequest(3, 10, 2, 10, ()),
        "offer": SnapshotOffer(3, 10, 2, THREE.encode(), 0, "", 0, b""),
    }
    with pytest.raises(PeerError, match="replace committed entry 10"):
        victim.answer(said[kind])


def test_an_honest_leader_goes_on_from_the_base() -> None:
    """It begins before it, having compacted less: one answer brings it there."""
    leader = Ours("bc")
    term = leader.lead()
    for number in range(12):
        leader.put(f"value {number}")
    leader.acknowledge("c", leader.last_index)
    victim = Victim(10, term)  # the very entry that the leader holds there
    leader.refuse("b", 2, 3)
    [probe, *_] = appends(leader.tick(after_s=leader.settings.heartbeat_s), "b")
    assert probe.prev_log_index < 10
    late = AppendReply(term, term, True, 4, 0, 4, 0)
    leader.receive("b", victim.answer(AppendRequest(term, 1, 0, 1, probe.entries[:1])))
    leader.receive("b", late)
    assert leader.known_of("b") == 10, "a late answer takes nothing back"
    [request] = appends(leader.tick(), "b")
    assert (request.prev_log_index, victim.answer(request).match_index) == (10, leader.last_index)
