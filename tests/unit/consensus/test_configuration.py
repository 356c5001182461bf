"""Configurations: the value, its bytes, and what one replica does with those in its log."""

from __future__ import annotations

import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from quorate.consensus import PeerError, RaftSettings, Replica
from quorate.consensus.configuration import CONFIGURATION, Configuration
from quorate.consensus.limits import (
    MAX_COMMAND_BYTES,
    MAX_MEMBER_ID_BYTES,
    MAX_MEMBERS,
    MAX_TOKEN_CHARACTERS,
)
from quorate.consensus.messages import (
    AppendReply,
    AppendRequest,
    Entry,
    Message,
    PreVoteReply,
    VoteReply,
)
from quorate.core import codec
from quorate.testing.raft_disk import MemoryLogStore

SETTINGS = RaftSettings()
THREE = Configuration(("a", "b", "c"))

names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=8)
tokens = st.text("0123456789abcdef", min_size=1, max_size=MAX_TOKEN_CHARACTERS)


@st.composite
def configurations(draw: st.DrawFn) -> Configuration:
    members = draw(st.lists(names, min_size=1, max_size=9, unique=True))
    count = draw(st.integers(1, len(members)))
    learners = members[count:]
    readmitted = [(each, draw(tokens)) for each in learners if draw(st.booleans())]
    return Configuration(
        tuple(sorted(members[:count])), tuple(sorted(learners)), tuple(sorted(readmitted))
    )


# -- the value -----------------------------------------------------------------------------------


@given(configurations())
def test_it_comes_back_as_it_went(configuration: Configuration) -> None:
    data = configuration.encode()
    assert Configuration.decode(data) == configuration
    assert Configuration.decode(data).encode() == data


@given(configurations(), names, tokens)
def test_a_step_moves_one_member(now: Configuration, node: str, token: str) -> None:
    assume(now.voters != (node,))
    for after, role in (
        (now.with_learner(node, token), "learner"),
        (now.with_voter(node), "voter"),
    ):
        assert after.role_of(node) == role
        assert set(after.members) == {*now.members, node}
        assert all(after.role_of(each) == now.role_of(each) for each in now.members if each != node)
        assert now.is_one_step_to(after)
        assert after.is_one_step_to(now)
        assert Configuration.decode(after.encode()) == after
        assert after.token_of(node) == (token if role == "learner" else "")


@given(configurations(), names)
def test_who_goes_leaves_nothing_behind(now: Configuration, node: str) -> None:
    if now.voters == (node,):
        with pytest.raises(AssertionError, match="somebody"):
            now.without(node)
        return
    after = now.without(node)
    assert after.role_of(node) == ""
    assert after.token_of(node) == ""
    assert now.is_one_step_to(after)
    assert Configuration.decode(after.encode()) == after


@given(configurations(), configurations())
def test_any_two_majorities_that_are_one_step_apart_have_a_voter_in_common(
    a: Configuration, b: Configuration
) -> None:
    """Counted: two majorities without a voter in common need as many voters as there are."""
    everybody = len(set(a.voters) | set(b.voters))
    smallest = len(a.voters) // 2 + len(b.voters) // 2 + 2
    if a.is_one_step_to(b):
        assert smallest > everybody
    assert a.is_one_step_to(b) == b.is_one_step_to(a)


def test_two_at_once_are_no_step() -> None:
    assert not THREE.is_one_step_to(Configuration(("a", "b", "c", "d", "e")))
    assert not THREE.is_one_step_to(Configuration(("a", "b", "d")))
    assert THREE.is_one_step_to(Configuration(("a", "b"), ("c", "d", "e")))


# -- the bytes -----------------------------------------------------------------------------------


def encoded(voters: object, learners: object = (), readmitted: object = ()) -> bytes:
    return codec.encode({"voters": voters, "learners": learners, "readmitted": readmitted})


MANY = [f"n{number:03}" for number in range(MAX_MEMBERS + 1)]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        codec.encode({"voters": ["a"], "learners": []}),
        codec.encode({"voters": ["a"], "learners": [], "readmitted": [], "more": 1}),
        encoded([]),
        encoded([], ["a"]),
        encoded(["b", "a"]),
        encoded(["a", "a"]),
        encoded(["a"], ["a"]),
        encoded(["a", 1]),
        encoded([""]),
        encoded("a"),
        encoded(["a" * (MAX_MEMBER_ID_BYTES + 1)]),
        encoded(MANY),
        encoded(MANY[:40], MANY[40:]),
        encoded(["a"], ["b"], [["a", "t"]]),
        encoded(["a"], ["b"], [["c", "t"]]),
        encoded(["a"], ["b"], [["b", ""]]),
        encoded(["a"], ["b"], [["b", "t" * (MAX_TOKEN_CHARACTERS + 1)]]),
        encoded(["a"], ["b"], [["b", "t"], ["b", "u"]]),
        encoded(["a"], ["b", "c"], [["c", "t"], ["b", "t"]]),
        encoded(["a"], ["b"], [["b"]]),
        encoded(["a"], ["b"], {"b": "t"}),
    ],
)
def test_what_encode_does_not_make_accuses_the_peer(data: bytes) -> None:
    with pytest.raises(PeerError):
        Configuration.decode(data)


@given(st.binary(max_size=80))
def test_garbage_is_refused_or_canonical(data: bytes) -> None:
    try:
        found = Configuration.decode(data)
    except PeerError:
        return
    assert found.encode() == data


def test_as_many_members_as_can_be_fit_into_an_entry() -> None:
    members = sorted(f"{number:03}" + "x" * (MAX_MEMBER_ID_BYTES - 3) for number in range(72))
    assert len(members) == MAX_MEMBERS
    largest = Configuration((members[0],), tuple(members[1:]))
    assert len(CONFIGURATION + largest.encode()) <= MAX_COMMAND_BYTES


# -- one replica -----------------------------------------------------------------------------------


class Node:
    def __init__(self, store: MemoryLogStore | None = None, node_id: str = "a") -> None:
        self.now = 100.0
        self.store = store or MemoryLogStore()
        self.replica = Replica(
            node_id=node_id,
            initial=THREE,
            settings=SETTINGS,
            store=self.store,
            apply=lambda index, payload: self.store.turn.ledger.append((index, payload)),
            stamp=lambda payload: payload,
            clock=lambda: self.now,
            wall_clock_ms=lambda: 0,
            chance=random.Random(1),  # noqa: S311
        )
        for peer in "abcdef":
            if peer != node_id:
                self.replica.connected(peer)

    def turn(self, *received: tuple[str, Message]) -> list[tuple[str, Message]]:
        for peer, message in received:
            self.replica.receive(peer, message)
        self.replica.tick()
        self.store.commit()
        return self.replica.take_outbox()

    def lead(self) -> int:
        self.now += 2 * SETTINGS.election_max_s
        self.turn()
        term = self.replica.term
        self.turn(*((peer, PreVoteReply(term, True, term)) for peer in "bc"))
        term = self.replica.term
        self.turn(*((peer, VoteReply(term, True, term)) for peer in "bc"))
        assert self.replica.is_leader
        return term

    def acknowledge(
        self, *peers: str, index: int, probation: str = "", readmitted: bool = False
    ) -> None:
        term = self.replica.term
        answer = AppendReply(term, term, True, index, 0, index, 0, probation, readmitted)
        self.turn(*((peer, answer) for peer in peers))

    def change(self, wanted: Configuration) -> bool:
        taken = self.replica.change_configuration(wanted)
        self.store.commit()
        return taken


@pytest.fixture
def leader() -> Node:
    """Has committed the first entry of its term, at index 2."""
    node = Node()
    node.lead()
    node.acknowledge("b", "c", index=2)
    assert node.replica.commits_own_term
    return node


def test_every_log_begins_with_the_first_configuration() -> None:
    node = Node()
    assert node.store.turn.log_get(1) == (0, CONFIGURATION + THREE.encode())
    assert node.store.turn.configurations() == [(1, THREE.encode())]
    assert node.replica.committed_configuration == node.replica.configuration == THREE


def test_a_change_is_in_force_before_it_is_committed(leader: Node) -> None:
    four = THREE.with_voter("d")
    assert leader.change(four)
    assert leader.replica.configuration == four
    assert leader.replica.committed_configuration == THREE
    assert (leader.store.last_index, leader.store.members[-1]) == (3, (3, four.encode()))
    leader.acknowledge("b", index=3)
    assert leader.replica.commit_index == 2, "of four voters, two are no majority"
    leader.acknowledge("d", index=3)
    assert leader.replica.commit_index == 3
    assert leader.replica.committed_configuration == four


def test_of_fewer_voters_fewer_are_a_majority(leader: Node) -> None:
    leader.change(THREE.without("c"))
    leader.acknowledge("c", index=3)
    assert leader.replica.commit_index == 2, "who votes no more counts no more"
    leader.acknowledge("b", index=3)
    assert leader.replica.commit_index == 3


def test_a_learner_is_sent_everything_and_counts_for_nothing(leader: Node) -> None:
    leader.change(THREE.with_learner("d"))
    sent = leader.turn()
    assert leader.replica.voters == ("a", "b", "c")
    leader.now += SETTINGS.heartbeat_s * 1.1
    sent = leader.turn()
    assert "d" in {peer for peer, message in sent if isinstance(message, AppendRequest)}
    leader.acknowledge("d", index=3)
    assert leader.replica.match_index("d") == 3
    assert leader.replica.commit_index == 2


def test_what_a_learner_has_counts_from_its_promotion_on(leader: Node) -> None:
    leader.change(THREE.with_learner("d"))
    leader.acknowledge("b", "d", index=3)
    leader.change(THREE.with_voter("d"))
    leader.acknowledge("b", "d", index=4)
    assert leader.replica.commit_index == 4


def test_one_at_a_time(leader: Node) -> None:
    assert leader.change(THREE.with_voter("d"))
    assert not leader.change(THREE.with_voter("d").with_voter("e"))
    leader.acknowledge("b", "d", index=3)
    assert leader.change(THREE.with_voter("d").with_voter("e"))


def test_none_before_an_entry_of_the_own_term_is_committed() -> None:
    """Or two leaders of different terms could each make a change that the other does not know."""
    node = Node()
    node.lead()
    assert not node.change(THREE.with_voter("d"))
    node.acknowledge("b", index=2)
    assert node.change(THREE.with_voter("d"))


def test_only_a_leader_changes_anything() -> None:
    assert not Node().change(THREE.with_voter("d"))


@pytest.mark.parametrize("wanted", [Configuration(("b", "c")), Configuration(("a", "d"))])
def test_a_leader_neither_removes_itself_nor_takes_two_steps(
    leader: Node, wanted: Configuration
) -> None:
    with pytest.raises(AssertionError):
        leader.change(wanted)


def test_who_was_removed_and_comes_back_begins_anew(leader: Node) -> None:
    """What it acknowledged before counts for nothing: its disk may be another one."""
    leader.acknowledge("c", index=2)
    leader.change(THREE.without("c"))
    leader.acknowledge("b", index=3)
    leader.change(THREE)
    assert leader.replica.match_index("c") == 0
    leader.acknowledge("b", index=4)
    assert leader.replica.commit_index == 4


def test_acknowledgements_of_a_node_on_probation_count_for_nothing(leader: Node) -> None:
    leader.replica.propose(b"k", b"v")
    leader.turn()
    leader.acknowledge("b", index=3, probation="token")
    assert leader.replica.commit_index == 2
    assert leader.replica.probation_of("b") == "token"
    assert not leader.replica.is_responsive("b")
    readmitted = THREE.with_learner("b", "token")
    assert leader.change(readmitted)
    leader.acknowledge("b", index=4)
    assert leader.replica.commit_index == 2
    leader.acknowledge("c", index=4)
    assert leader.replica.committed_configuration.token_of("b") == "token"


def test_an_acknowledgement_from_before_does_not_end_a_probation(leader: Node) -> None:
    """One that comes late: what was said on probation would count with it."""
    leader.replica.propose(b"k", b"v")
    leader.turn()
    leader.acknowledge("b", index=3, probation="token")
    leader.acknowledge("b", index=2)
    assert leader.replica.commit_index == 2
    assert leader.replica.probation_of("b") == "token"
    leader.acknowledge("b", index=3)
    assert leader.replica.commit_index == 2
    leader.acknowledge("c", index=3)
    leader.change(THREE.with_learner("b", "token"))
    leader.acknowledge("c", index=4)
    leader.acknowledge("b", index=3)
    assert leader.replica.probation_of("b") == "token", "only who was readmitted can say so"
    leader.acknowledge("b", index=4, probation="another", readmitted=True)
    assert leader.replica.probation_of("b") == "token"
    leader.acknowledge("b", index=4, probation="token", readmitted=True)
    assert leader.replica.probation_of("b") == ""
    assert leader.replica.is_responsive("b")


def test_what_was_said_on_probation_does_not_begin_it_again(leader: Node) -> None:
    """A reply that comes late, when the node votes again: it would lose its vote once more, at a
    time when it may be needed."""
    leader.acknowledge("b", index=2, probation="token")
    leader.change(THREE.with_learner("b", "token"))
    leader.acknowledge("c", index=3)
    leader.acknowledge("b", index=3, probation="token", readmitted=True)
    leader.change(THREE)
    leader.acknowledge("b", index=4)
    leader.acknowledge("b", index=2, probation="token")
    assert leader.replica.probation_of("b") == ""
    assert (leader.replica.match_index("b"), leader.replica.commit_index) == (4, 4)
    leader.acknowledge("b", index=2, probation="another token")
    assert leader.replica.probation_of("b") == "another token"


def test_who_was_readmitted_under_another_leader_is_counted(leader: Node) -> None:
    """It says so for as long as the configuration names it; the new leader has not heard before."""
    leader.replica.propose(b"k", b"v")
    leader.turn()
    leader.acknowledge("b", index=3, probation="token", readmitted=True)
    assert leader.replica.probation_of("b") == ""
    assert leader.replica.commit_index == 3


def test_who_is_put_on_probation_twice_is_known_for_nothing_again(leader: Node) -> None:
    """The second time its store may have lost what it acknowledged after the first."""
    leader.acknowledge("b", index=2, probation="first")
    assert leader.replica.match_index("b") == 2
    term = leader.replica.term
    leader.turn(("b", AppendReply(term, term, False, 0, 1, 2, 0, "second")))
    assert leader.replica.probation_of("b") == "second"
    assert leader.replica.match_index("b") == 0


def test_a_node_back_on_the_same_probation_over_a_new_link_is_believed(leader: Node) -> None:
    """Its machine was put back to then. Not to hear it would leave it behind for good."""
    leader.acknowledge("b", index=2, probation="token")
    leader.change(THREE.with_learner("b", "token"))
    leader.acknowledge("c", index=3)
    leader.acknowledge("b", index=3, probation="token", readmitted=True)
    assert leader.replica.probation_of("b") == ""
    leader.replica.disconnected("b")
    leader.replica.connected("b")
    leader.acknowledge("b", index=2, probation="token")
    assert leader.replica.probation_of("b") == "token"


def test_a_leader_that_hears_only_nodes_on_probation_steps_down(leader: Node) -> None:
    for _ in range(4):
        leader.now += 0.3 * SETTINGS.election_min_s
        leader.acknowledge("b", "c", index=2, probation="token")
    assert not leader.replica.is_leader


def test_a_node_whose_disk_went_back_is_sent_what_it_lost(leader: Node) -> None:
    """Under the leader that had its acknowledgement of more."""
    leader.replica.propose(b"k", b"v")
    leader.turn()
    leader.acknowledge("b", "c", index=3)
    term = leader.replica.term
    refusal = AppendReply(term, term, False, 0, 2, 3, 0, "token")
    leader.turn(("b", refusal))
    assert leader.replica.match_index("b") == 0
    leader.now += 1.1 * SETTINGS.heartbeat_s
    leader.turn(("b", AppendReply(term, term, False, 0, 2, 3, 0, "token")))
    leader.now += 1.1 * SETTINGS.heartbeat_s
    sent = leader.turn()
    [to_b] = [m for peer, m in sent if peer == "b" and isinstance(m, AppendRequest)]
    assert [entry.index for entry in to_b.entries] == [2, 3]


def entry(index: int, term: int, configuration: Configuration) -> Entry:
    return Entry(index, term, CONFIGURATION + configuration.encode())


def test_a_follower_goes_by_the_newest_in_its_log_and_back_when_it_is_replaced() -> None:
    node = Node()
    four = THREE.with_voter("d")
    node.turn(("b", AppendRequest(1, 1, 0, 1, (entry(2, 1, four),))))
    assert node.replica.configuration == four
    assert node.replica.committed_configuration == THREE
    node.turn(("c", AppendRequest(2, 1, 0, 1, (Entry(2, 2, b"\x01"),))))
    assert node.replica.configuration == THREE
    assert node.store.members == [(1, THREE.encode())]


def test_one_that_replaces_another_is_in_force_at_once() -> None:
    node = Node()
    node.turn(("b", AppendRequest(1, 1, 0, 1, (entry(2, 1, THREE.with_voter("d")),))))
    node.turn(("c", AppendRequest(2, 1, 0, 1, (entry(2, 2, THREE.without("b")),))))
    assert node.replica.voters == ("a", "c")


@pytest.mark.parametrize(
    "bad",
    [
        (entry(2, 1, Configuration(("a", "b", "c", "d", "e"))),),
        (entry(2, 1, THREE.with_voter("d")), entry(3, 1, Configuration(("a", "b")))),
        (Entry(2, 1, CONFIGURATION + b"{}"),),
    ],
)
def test_two_steps_at_once_or_none_that_can_be_read_accuse_the_leader(
    bad: tuple[Entry, ...],
) -> None:
    node = Node()
    with pytest.raises(PeerError):
        node.replica.receive("b", AppendRequest(1, 1, 0, 1, bad))
    node.store.commit()
    assert (node.store.last_index, node.replica.configuration) == (1, THREE)


def test_a_restart_knows_the_newest() -> None:
    node = Node()
    four = THREE.with_voter("d")
    node.turn(("b", AppendRequest(1, 1, 0, 1, (entry(2, 1, four),))))
    again = Node(node.store)
    assert again.replica.configuration == four
    assert again.replica.committed_configuration == THREE


def test_a_restart_that_has_yet_to_apply_what_was_committed_knows_what_is_applied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a crash the commit index is the applied one, and a configuration is in force there."""
    monkeypatch.setattr("quorate.consensus.engine.MAX_APPLY_ENTRIES", 2)
    node = Node()
    four = THREE.with_voter("d")
    entries = [Entry(index, 1, b"\x00x") for index in range(2, 8)]
    entries.append(entry(8, 1, four))
    node.turn(("b", AppendRequest(1, 1, 0, 8, tuple(entries))))
    assert (node.replica.commit_index, node.replica.applied_index) == (8, 3)
    again = Node(node.store)
    assert again.replica.commit_index == 3
    assert again.replica.committed_configuration == THREE
    assert again.replica.configuration == four


def test_those_before_the_applied_one_are_forgotten() -> None:
    node = Node()
    four, five = THREE.with_voter("d"), THREE.with_voter("d").with_voter("e")
    changes = (entry(2, 1, four), entry(3, 1, five))
    node.turn(("b", AppendRequest(1, 1, 0, 2, changes)))
    assert [index for index, _ in node.store.members] == [2, 3]
    node.turn(("b", AppendRequest(1, 3, 1, 3, ())))
    assert [index for index, _ in node.store.members] == [3]


def test_who_is_no_voter_does_not_campaign() -> None:
    for configuration in (THREE.with_learner("a"), THREE.without("a")):
        node = Node()
        node.turn(("b", AppendRequest(1, 1, 0, 2, (entry(2, 1, configuration),))))
        for _ in range(20):
            node.now += SETTINGS.election_max_s
            assert node.turn() == []
        assert (node.replica.term, node.replica.role) == (1, "follower")


def test_a_node_that_is_not_in_the_first_configuration_takes_part_when_it_is_told() -> None:
    node = Node(node_id="d")
    assert node.turn() == []
    node.turn(("b", AppendRequest(1, 1, 0, 2, (entry(2, 1, THREE.with_voter("d")),))))
    assert node.replica.voters == ("a", "b", "c", "d")
    node.now += 2 * SETTINGS.election_max_s
    assert {peer for peer, _ in node.turn()} == {"a", "b", "c"}
