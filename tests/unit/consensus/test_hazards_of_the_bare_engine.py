"""What the engine does when left alone: why its handlers are not used.

Each case is the hazard of that number in docs/consensus.md, shown on the engine's own handler; its
counterpart, on ours, is named beside it. When one of these fails, the engine has mended a hazard.
"""

from __future__ import annotations

from typing import Any

from pysyncobj import SyncObj, SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport

import quorate.consensus.engine  # noqa: F401 - replaces the clock of the engine's module

FOLLOWER, CANDIDATE, LEADER = 0, 1, 2


class Wire(Transport):
    def __init__(self) -> None:
        super().__init__(None, None, None)
        self.sent: list[dict[str, Any]] = []

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        self.sent.append(message)
        return True


class Bare:
    """The engine as it comes, with node `a` and peers `b` to `e`."""

    def __init__(self, peers: str = "bcde") -> None:
        self.wire = Wire()
        conf = SyncObjConf(autoTick=False, dynamicMembershipChange=False)
        self.engine: Any = SyncObj(Node("a"), [Node(p) for p in peers], conf, transport=self.wire)

    def receive(self, peer: str, **message: Any) -> None:
        self.engine._SyncObj__onMessageReceived(Node(peer), message)

    def append(
        self, peer: str, term: int, prev: int, prev_term: int, *entries: Any, **more: Any
    ) -> None:
        message = {"prevLogIdx": prev, "prevLogTerm": prev_term, "entries": entries}
        message = {"type": "append_entries", "term": term, "commit_index": 1} | message | more
        self.receive(peer, **message)

    @property
    def last_index(self) -> int:
        return int(self.engine._SyncObj__raftLog[-1][1])

    def lead(self, term: int) -> None:
        self.engine._SyncObj__setCurrentTerm(term, "a")
        self.engine._SyncObj__onBecomeLeader()


ENTRIES = [(b"\x00x", 2, 1), (b"\x00y", 3, 1), (b"\x00z", 4, 1)]


def test_hazard_2_a_late_append_erases_acknowledged_entries() -> None:
    """Ours: test_replica.test_hazard_2_a_late_append_erases_nothing."""
    bare = Bare()
    bare.append("b", 1, 1, 0, *ENTRIES)
    assert bare.last_index == 4
    bare.append("b", 1, 1, 0, *ENTRIES[:1])
    assert bare.last_index == 2


def test_hazard_3_a_heartbeat_commits_an_unverified_tail() -> None:
    """Ours: test_replica.test_hazard_3_a_heartbeat_does_not_commit_an_unverified_tail."""
    bare = Bare()
    bare.append("b", 1, 1, 0, *ENTRIES)
    bare.receive("c", type="append_entries", term=2, commit_index=4, serialized=None)
    assert bare.engine.raftCommitIndex == 4


def test_hazard_4_an_acknowledgement_of_an_older_leadership_counts() -> None:
    """Ours: test_replica.test_hazard_4_an_acknowledgement_of_an_older_leadership_is_not_counted."""
    bare = Bare()
    bare.lead(term=5)
    bare.receive("b", type="next_node_idx", next_node_idx=3, reset=False, success=True)
    assert bare.engine._SyncObj__raftMatchIndex[Node("b")] == 2


def test_hazard_5_a_late_refusal_moves_the_leader_back() -> None:
    """Ours: test_rules.test_hazard_5_a_late_refusal_moves_nothing."""
    bare = Bare()
    bare.lead(term=5)
    bare.receive("b", type="next_node_idx", next_node_idx=3, reset=False, success=True)
    bare.receive("b", type="next_node_idx", next_node_idx=1, reset=True, success=False)
    assert bare.engine._SyncObj__raftNextIndex[Node("b")] == 1


def test_hazard_14_a_message_of_an_older_term_is_not_answered() -> None:
    """Ours: test_replica.test_hazard_14_an_old_leader_is_answered_and_steps_down."""
    bare = Bare()
    bare.append("b", 7, 1, 0)
    bare.wire.sent.clear()
    bare.append("c", 3, 1, 0)
    assert bare.wire.sent == []


def test_hazard_15_votes_are_counted_per_message() -> None:
    """Ours: test_replica.test_hazard_15_a_vote_counts_once_however_often_it_arrives."""
    bare = Bare()
    bare.engine._SyncObj__setCurrentTerm(3, "a")
    bare.engine._SyncObj__raftState = CANDIDATE
    bare.engine._SyncObj__votesCount = 1
    for _ in range(2):
        bare.receive("b", type="response_vote", term=3)
    assert bare.engine._SyncObj__raftState == LEADER
