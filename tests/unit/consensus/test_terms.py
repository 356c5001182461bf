"""Terms far beyond a replica's own: who may move it, how far, and that no distance parts nodes."""

from __future__ import annotations

import random

import pytest
from tests.unit.consensus.ours import Ours

from quorate.consensus import PeerError, RaftSettings
from quorate.consensus.limits import MAX_TERM, MAX_TERM_STEP, MAX_TERMS_PER_S
from quorate.consensus.messages import (
    AppendReply,
    AppendRequest,
    Message,
    PreVoteReply,
    PreVoteRequest,
    SnapshotChunk,
    SnapshotOffer,
    SnapshotPull,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from quorate.testing.raft import RaftCluster
from quorate.testing.raft_members import MembersCluster
from quorate.testing.raft_safety import SafetyChecker

FAR = 2**40


def following(term: int = 5) -> Ours:
    """A follower of `b`."""
    node = Ours("bc")
    node.append("b", term, 1, 0)
    node.now += 0.1
    assert (node.replica.leader, node.replica.term) == ("b", term)
    return node


def saying(term: int) -> dict[str, Message]:
    """Of every kind that may move a term, one message that does."""
    return {
        "append": AppendRequest(term, 1, 0, 1, ()),
        "its answer": AppendReply(term, 5, False, 0, 1, 1, 0),
        "a vote's refusal": VoteReply(term, False, 5),
        "a pre-vote's refusal": PreVoteReply(term, False, 5),
        "a called candidate": VoteRequest(term, 1, 0, transfer=True),
        "an offer": SnapshotOffer(term, 400, 4, b"\x01", 0, "", 0, b""),
    }


# -- who may move a term ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        TimeoutNow(6),
        TimeoutNow(5 + 2**24),
        PreVoteRequest(9, 9, 9),
        PreVoteReply(9, True, 9),
        SnapshotPull(9, 400, False, b"", 0),
        SnapshotChunk(9, 400, False, b"", 0, (), (), is_last=True),
    ],
    ids=lambda message: type(message).__name__,
)
@pytest.mark.parametrize("peer", ["b", "c", "x"])
def test_what_no_later_term_calls_for_moves_no_term(message: Message, peer: str) -> None:
    """Only the leader of a replica's present term calls it; pre-votes change nothing; a part of a
    snapshot is of the term in which it was asked for."""
    node = following()
    node.receive(peer, message)
    assert (node.replica.term, node.replica.leader, node.store.meta.term) == (5, "b", 5)


@pytest.mark.parametrize("name", saying(0))
def test_a_later_term_within_reach_is_followed_at_once(name: str) -> None:
    node = following()
    node.receive("c", saying(5 + 2**24 + 1)[name])
    assert node.replica.term == node.store.meta.term == 5 + 2**24 + 1


# -- how far ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", saying(0))
def test_a_term_far_beyond_is_approached_and_the_message_is_dropped(name: str) -> None:
    node = following()
    node.tick()
    node.receive("c", saying(FAR)[name])
    assert node.tick() == [], "nobody is answered"
    assert (node.replica.term, node.replica.role) == (5 + MAX_TERM_STEP, "follower")
    assert node.replica.leader is None
    assert (node.store.meta.term, node.store.meta.voted_for) == (5 + MAX_TERM_STEP, None)


def test_the_term_that_it_has_come_to_is_durable_and_has_its_one_vote_left() -> None:
    node = following()
    node.receive("c", saying(FAR)["append"])
    node.start()
    term = node.replica.term
    assert term == 5 + MAX_TERM_STEP
    node.receive("c", VoteRequest(term, 9, 9))
    node.receive("b", VoteRequest(term, 9, 9))
    assert [(peer, m.granted) for peer, m in node.tick() if isinstance(m, VoteReply)] == [
        ("c", True),
        ("b", False),
    ]


def test_a_message_that_moves_the_term_no_further_takes_no_vote_back() -> None:
    """Else whoever says a far term could have a second vote cast in the same term."""
    node = following()
    node.receive("c", saying(FAR)["append"])
    node.receive("c", VoteRequest(node.replica.term, 9, 9, transfer=True))
    assert node.store.meta.voted_for == "c"
    for message in saying(FAR).values():
        node.receive("b", message)
    assert (node.replica.term, node.store.meta.voted_for) == (5 + MAX_TERM_STEP, "c")


def test_however_much_is_said_terms_pass_at_a_bounded_pace() -> None:
    """What is said a thousand times is followed as far as what is said once."""
    node = following()
    began, seconds = node.now, 100
    while node.now < began + seconds:
        for _ in range(30):
            node.receive("b", saying(MAX_TERM)["append"])
        node.tick(after_s=0.25)
    assert node.replica.term - 5 <= MAX_TERM_STEP + seconds * MAX_TERMS_PER_S
    assert node.replica.term - 5 >= seconds * MAX_TERMS_PER_S, "and at no lower one"
    assert MAX_TERM / MAX_TERMS_PER_S > 30 * 24 * 3600, "they last for a month of it"


def test_a_leader_that_hears_of_a_far_term_leads_no_more() -> None:
    node = Ours("bc")
    term = node.lead()
    node.receive("c", AppendReply(FAR, term, False, 0, 1, 1, 0))
    assert (node.is_leader, node.replica.term) == (False, term + MAX_TERM_STEP)


@pytest.mark.parametrize("name", saying(0))
def test_beyond_the_last_term_there_is_none(name: str) -> None:
    node = following()
    for term in (MAX_TERM + 1, 2**63 - 1):
        with pytest.raises(PeerError, match="beyond the last"):
            node.receive("c", saying(term)[name])
    assert (node.replica.term, node.replica.leader) == (5, "b")


def test_nobody_campaigns_beyond_the_last_term() -> None:
    node = Ours("bc")
    node.store.turn.set_term_and_vote(MAX_TERM, None)
    node.store.commit()
    node.start()
    for _ in range(20):
        node.tick(after_s=2 * node.settings.election_max_s)
        assert node.replica.next_timer() > node.now, "the loop would spin"
        for peer in "bc":
            node.grant(peer)
    assert (node.replica.term, node.replica.role) == (MAX_TERM, "follower")
    node.append("b", MAX_TERM, 1, 0)
    assert node.replica.leader == "b", "who leads in it is followed"


# -- that nobody is parted -------------------------------------------------------------------------

SLOW = RaftSettings(heartbeat_ms=400, election_min_ms=1500, election_max_ms=3000)
"""What is waited for here takes minutes; with fewer messages the test does not."""


def set_back(cluster: RaftCluster, terms: dict[str, int]) -> None:
    """Everybody dies, and starts again with a term of its own."""
    for name in terms:
        cluster.crash(name)
    for name, term in terms.items():
        cluster.hosts[name].store.turn.set_term_and_vote(term, None)
        cluster.hosts[name].store.commit()
        cluster.start(name)


def pace_s(distance: int) -> float:
    """What a distance takes that is not closed at once, in seconds; and then an election."""
    return max(0, distance - MAX_TERM_STEP) / MAX_TERMS_PER_S


def executes(cluster: RaftCluster, within_s: float) -> None:
    """Everybody executes a command, in a term of all."""
    name = next(iter(cluster.hosts))
    cluster.propose(name, b"key", b"payload")

    def is_executed() -> bool:
        ledgers = [dict(host.store.ledger) for host in cluster.running()]
        is_one_term = len({host.live.term for host in cluster.running()}) == 1
        return is_one_term and all(b"payload" in each.values() for each in ledgers)

    assert cluster.run_until(is_executed, within_s), {
        host.node_id: (host.live.term, host.live.role) for host in cluster.running()
    }
    assert not cluster.peer_errors, cluster.peer_errors[:3]


@pytest.mark.parametrize(
    "terms",
    [
        (2**25, 0, 0),
        (2**25, 2**26, 0),
        (0, 2**31, 2**32),
        (0, 0, FAR),
        (0, FAR // 3, FAR),
        (FAR, FAR, 0),
    ],
    ids=str,
)
@pytest.mark.parametrize("seed", [1, 2])
def test_three_nodes_of_any_terms_find_one(terms: tuple[int, int, int], seed: int) -> None:
    cluster = RaftCluster(seed, 3, settings=SLOW, watchers=(SafetyChecker(),))
    set_back(cluster, dict(zip(cluster.hosts, terms, strict=True)))
    executes(cluster, 60 + 2 * pace_s(max(terms) - min(terms)))


def test_a_voter_that_was_pushed_ahead_alone_is_back_at_once() -> None:
    """Two steps of 2**24 were too many, when a step was the most that was ever followed."""
    cluster = RaftCluster(3, 3, watchers=(SafetyChecker(),))
    assert cluster.run_until(lambda: cluster.leader() is not None, 10)
    host = next(host for host in cluster.running() if not host.live.is_leader)
    set_back(cluster, {host.node_id: host.live.term + 2**25})
    executes(cluster, 30)


@pytest.mark.parametrize("term", [2 * 10**7, FAR])
def test_a_newcomer_joins_a_federation_of_any_term(term: int) -> None:
    cluster = MembersCluster(4, 3, settings=SLOW, watchers=(SafetyChecker(),))
    set_back(cluster, dict.fromkeys(list(cluster.hosts), term))
    cluster.run_for(30)
    leader = cluster.leader()
    assert leader is not None
    assert leader.live.commits_own_term
    new = cluster.join()
    cluster.ask(leader.node_id, lambda replica: replica.configuration.with_learner(new))
    executes(cluster, 60 + 2 * pace_s(term))
    leader = cluster.leader()
    assert leader is not None
    assert new in leader.live.committed_configuration.learners


@pytest.mark.parametrize("seed", range(4))
def test_whoever_pushes_breaks_no_promise_and_parts_nobody(seed: int) -> None:
    """For half a minute everybody is told of terms of all sizes, in a network that loses, repeats
    and delays."""
    cluster = RaftCluster(seed, 3, rough=True, watchers=(SafetyChecker(),))
    chance = random.Random(seed)  # noqa: S311

    def push() -> None:
        host = chance.choice(list(cluster.running()))
        said = VoteReply(2 ** chance.randrange(50), False, 0)
        host.inbox.append((chance.choice(host.live.peer_ids), said))
        cluster._wake(host, cluster.now)
        if cluster.now < 30:
            cluster.at(cluster.now + chance.expovariate(2), push)

    push()
    cluster.run_for(30)
    terms = [host.live.term for host in cluster.running()]
    assert max(terms) > 2 * MAX_TERM_STEP, "it came to something"
    executes(cluster, 60 + 2 * pace_s(max(terms) - min(terms)))
