"""The engine's hazards that take a cluster to show: what becomes of bare engines, and of ours, in
the same simulated world. The parameters say how it ends on each side."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.consensus.bare import Member
from tests.unit.consensus.bare_cluster import BareCluster, CompactingCluster, OurCluster

Kind = type[BareCluster] | type[OurCluster]
Cluster = BareCluster | OurCluster
SETTLED_S = 5.0
LOST = (b"a", b"b", b"c")


def with_leader(kind: Kind, size: int = 3, **engine_settings: Any) -> Cluster:
    cluster = kind(1, size, **engine_settings)
    assert cluster.run_until(lambda: cluster.leader() is not None, SETTLED_S)
    cluster.run_for(1)
    return cluster


def depose(cluster: Cluster, values: list[bytes]) -> str:
    """Isolates the leader, lets it take `values`, which nobody else gets, and waits for another
    leader. Returns the name of the deposed."""
    name = cluster.first.node_id
    cluster.isolate(name)
    for value in values:
        cluster.propose(name, value, value)

    def is_replaced() -> bool:
        leader = cluster.leader()
        return leader is not None and leader.node_id != name

    assert cluster.run_until(is_replaced, 2 * SETTLED_S)
    return name


@pytest.mark.parametrize(("kind", "kept"), [(BareCluster, 0), (OurCluster, 100)])
def test_hazards_6_and_7_every_node_loses_power(kind: Kind, kept: int) -> None:
    """Of 100 acknowledged commands. The bare engine's journals are in memory here: as much as a
    power cut leaves of files that it never syncs (test_bare_disk shows that it does not)."""
    cluster = with_leader(kind)
    name = cluster.first.node_id
    for number in range(100):
        cluster.propose(name, b"%03d" % number, b"%03d" % number)
    cluster.run_for(1)
    assert all(cluster.has_outcome(name, b"%03d" % number) for number in range(100))
    for each in cluster.hosts:
        cluster.crash(each)
    cluster.run_for(1)
    for each in cluster.hosts:
        cluster.start(each)
    cluster.run_for(2 * SETTLED_S)
    assert [len(cluster.values(each)) for each in cluster.hosts] == [kept] * 3


@pytest.mark.parametrize(
    ("kind", "caught_up"), [(BareCluster, False), (OurCluster, True), (CompactingCluster, True)]
)
def test_hazard_5_a_deposed_leader_with_much_to_catch_up(kind: Kind, caught_up: bool) -> None:
    """200 KB, when the engine's batches are of 64 KiB. A minute after healing the bare one has
    none of it, and says that it is ready and has a quorum."""
    cluster = with_leader(kind)
    deposed = depose(cluster, [b"lost"])
    for number in range(200):
        value = b"%03d" % number + bytes(1000)
        cluster.propose(cluster.first.node_id, value[:3], value)
    cluster.run_for(SETTLED_S)
    cluster.heal()
    cluster.run_for(SETTLED_S if caught_up else 60.0)
    assert len(cluster.values(cluster.first.node_id)) >= 200
    assert (len(cluster.values(deposed)) >= 200) is caught_up
    if isinstance(cluster, BareCluster):
        machine = cluster.bare(deposed).machine
        assert (machine.hasQuorum, machine.isReady()) == (True, True)


def test_hazard_10_two_halves_commit_side_by_side() -> None:
    """Ours: test_hazards_of_the_bare_engine.test_hazard_10_membership_changes_at_once."""
    cluster = BareCluster(1, 5, dynamicMembershipChange=True)
    assert cluster.run_until(lambda: cluster.leader() is not None, SETTLED_S)
    cluster.run_for(1)
    old = cluster.first.node_id
    mate, *rest = (host.node_id for host in cluster.others())
    cluster.isolate(old, mate)
    for name in rest:
        cluster.bare(old).machine.removeNodeFromCluster(Member(name))
    cluster.propose(old, b"two", b"of two")
    assert cluster.run_until(lambda: cluster.first.node_id in rest, 2 * SETTLED_S)
    cluster.propose(cluster.first.node_id, b"three", b"of three")
    cluster.run_for(1)
    assert cluster.outcomes == {b"two": 0, b"three": 0}, "both succeeded"
    assert [cluster.values(name) for name in (old, mate)] == [[b"of two"]] * 2
    assert [cluster.values(name) for name in rest] == [[b"of three"]] * 3


def deposed_behind_a_snapshot(kind: Kind, delay_s: tuple[float, float]) -> tuple[Cluster, str]:
    """A leader takes three commands that nobody else gets, is deposed, and comes back to a
    federation that has executed thirty others, and has compacted them where it compacts."""
    cluster = with_leader(kind)
    deposed = depose(cluster, list(LOST))
    for number in range(30):
        cluster.propose(cluster.first.node_id, b"%d" % number, b"%d" % number)
    cluster.run_for(1)
    if isinstance(cluster, BareCluster):
        for host in cluster.hosts.values():
            cluster.bare(host.node_id).machine.forceLogCompaction()
    cluster.run_for(1)
    cluster.delay_s = delay_s
    cluster.heal()
    cluster.run_for(60)
    assert set(cluster.values(deposed)) >= {b"%d" % number for number in range(30)}
    return cluster, deposed


def test_hazard_3_success_is_reported_of_what_was_never_committed() -> None:
    """A part of a snapshot commits whatever else the deposed leader's log holds.

    Ours: the next test, where the same commands are executed before anybody is told so.
    """
    cluster, _ = deposed_behind_a_snapshot(BareCluster, (0.001, 0.02))
    assert isinstance(cluster, BareCluster)
    assert [cluster.outcomes[key] for key in LOST] == [0, 0, 0]
    assert not any(set(LOST) & set(cluster.values(name)) for name in cluster.hosts)


@pytest.mark.parametrize(("kind", "told"), [(BareCluster, 0), (CompactingCluster, 3)])
def test_hazard_12_proposals_that_a_snapshot_passes_by(kind: Kind, told: int) -> None:
    """How many of the three proposers have heard anything after a minute."""
    cluster, deposed = deposed_behind_a_snapshot(kind, (0.001, 0.001))
    assert sum(cluster.has_outcome(deposed, key) for key in LOST) == told
    if isinstance(cluster, CompactingCluster):
        assert cluster.happened["a snapshot was installed"] > 0


@pytest.mark.parametrize(("kind", "least", "most"), [(BareCluster, 10, 40), (OurCluster, 0, 0)])
def test_hazard_13_a_member_that_comes_and_goes(kind: Kind, least: int, most: int) -> None:
    """Elections among five, while one is cut off and comes back fifteen times in a minute."""
    cluster = with_leader(kind, size=5)
    flapping = cluster.others()[0].node_id
    before = len(cluster.leaderships)
    for _ in range(15):
        cluster.isolate(flapping)
        cluster.run_for(2)
        cluster.heal()
        cluster.run_for(2)
    assert least <= len(cluster.leaderships) - before <= most


@pytest.mark.parametrize(("kind", "least", "most"), [(BareCluster, 1, 40), (OurCluster, 0, 0)])
def test_hazard_13_a_follower_without_a_link_to_the_leader(
    kind: Kind, least: int, most: int
) -> None:
    """Elections among three in a minute, when all other links are up."""
    cluster = with_leader(kind)
    leader, follower = cluster.first.node_id, cluster.others()[0].node_id
    before = len(cluster.leaderships)
    cluster.cut(leader, follower)
    cluster.cut(follower, leader)
    cluster.run_for(60)
    assert least <= len(cluster.leaderships) - before <= most


def test_hazard_13_a_member_that_hears_nobody_and_is_heard() -> None:
    """A link of the engine carries both directions or none; ours can lose one of them."""
    cluster = OurCluster(1, 5)
    assert cluster.run_until(lambda: cluster.leader() is not None, SETTLED_S)
    cluster.run_for(1)
    deaf = cluster.others()[0].node_id
    before = len(cluster.leaderships)
    for name in cluster.hosts:
        if name != deaf:
            cluster.cut(name, deaf)
    cluster.run_for(60)
    assert len(cluster.leaderships) == before
    cluster.heal()
    cluster.run_for(5)
    assert len(cluster.leaderships) == before


@pytest.mark.parametrize(("kind", "leads"), [(BareCluster, True), (OurCluster, False)])
def test_hazard_14_a_leader_in_a_minority(kind: Kind, leads: bool) -> None:
    """Ten seconds after it was cut off, together with one of four followers."""
    cluster = with_leader(kind, size=5)
    old, follower = cluster.first, cluster.others()[0]
    cluster.isolate(old.node_id, follower.node_id)
    cluster.run_for(10)
    assert old.live.is_leader is leads
    assert cluster.first.node_id not in (old.node_id, follower.node_id)


@pytest.mark.parametrize(
    ("kind", "least_s", "most_s"), [(BareCluster, 0.1, 0.5), (OurCluster, 0.0, 0.02)]
)
def test_hazard_17_how_long_a_command_takes(kind: Kind, least_s: float, most_s: float) -> None:
    """Until all three have applied it, over links of one millisecond; the longest of nine."""
    cluster = with_leader(kind)
    cluster.delay_s = (0.001, 0.001)
    took_s = []
    for number in range(9):
        host = list(cluster.hosts.values())[number % 3]
        cluster.run_for(1.23)
        began = cluster.now
        cluster.propose(host.node_id, b"%d" % number, b"%d" % number)
        assert cluster.run_until(
            lambda: all(len(cluster.values(name)) == number + 1 for name in cluster.hosts),  # noqa: B023
            SETTLED_S,
        )
        took_s.append(cluster.now - began)
    assert least_s <= max(took_s) <= most_s
