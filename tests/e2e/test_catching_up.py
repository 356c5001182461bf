"""A node that was away for longer than the others' logs reach back is sent the state: under load,
through crashes of both sides, and without a permit before it has everything. What was compacted
stays readable, and the files of the nodes do not grow with the log."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from tests.e2e.federations import (
    CLINIC,
    WAIT_S,
    assert_fresh,
    authority_ms,
    await_permit,
    large_grants,
    log_entries,
    probe,
    register,
    registrations,
    same_ledgers,
    snapshots,
    verify_everywhere,
    write_all,
)

from quorate.chaos.cluster import Cluster
from quorate.chaos.crew import Crew
from quorate.chaos.freshness import Watch
from quorate.chaos.probe import boottime_ns
from quorate.chaos.processes import wait_until
from quorate.chaos.replay import Replay
from quorate.chaos.soak.samples import DiskSample, read_store
from quorate.chaos.workload import Writer

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

TAIL = 20
SETTINGS = {"raft": {"log_tail_entries": TAIL, "election_min_ms": 1_000, "election_max_ms": 2_000}}
LARGE = 500
"""Grants that make the state 3 MB and the ledger 6: some thirty parts of a snapshot."""
SLOW_LINK_MS = 60.0
"""Each way: a part of a snapshot takes twice as long at least, so that there is a middle of it."""
MIDDLE_BYTES = 2_000_000
MANY = 1_200
"""Large commands: so many times what a log may hold."""
MOST_LOG_ENTRIES = 10 * TAIL
"""Compaction goes in steps, and leaves for a while what a transfer may need."""
LOG_ENTRY_BYTES = 3 * 4_096
"""Of a large command: the pages that it takes in the log."""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("catching-up"), settings=SETTINGS) as cluster:
        cluster.prepare()
        cluster.start()
        cluster.wait_ready(timeout_s=WAIT_S)
        yield cluster


@pytest.fixture(scope="module")
def crew(federation: Cluster) -> Iterator[Crew]:
    crew = Crew(federation)
    yield crew
    crew.close()


@pytest.fixture
def whole(federation: Cluster) -> Iterator[Cluster]:
    """The federation; whatever a test leaves of it is made whole."""
    yield federation
    federation.links.heal()
    for name in federation.names:
        if not federation.processes(name).is_running():
            federation.kill(name)
            federation.start([name])
    federation.wait_ready(timeout_s=WAIT_S)


@pytest.fixture
def writers(whole: Cluster) -> Iterator[list[Writer]]:
    """Every organisation writes, through all nodes."""
    made = [
        Writer(operator, whole.operators(), f"w{secrets.token_hex(4)}", number, pace_s=0.02)
        for number, operator in enumerate(whole.operators())
    ]
    for writer in made:
        writer.start()
    yield made
    for writer in made:
        writer.stop()


def a_follower(cluster: Cluster) -> str:
    leader = cluster.leader()
    return next(name for name in cluster.names if name != leader)


def passed(cluster: Cluster, sender: str, receiver: str) -> int:
    """What went over the link on which one node sends to another, in bytes."""
    return cluster.links.state(sender, receiver).bytes_passed


def fill(cluster: Cluster) -> None:
    """Makes the state large, and the gap of whoever is away longer than every tail."""
    leader = cluster.operator(cluster.leader())
    for operator in map(cluster.operator, cluster.domains):
        executor = f"spiffe://{operator.domain}/agent/{secrets.token_hex(8)}"
        registering = operator.sign("executor.register", {"executor": executor})
        write_all(leader, [registering])
        write_all(leader, large_grants(operator, LARGE // len(cluster.domains), executor))


def await_middle(cluster: Cluster, receiver: str, before: dict[str, int]) -> str:
    """Waits until a node is in the middle of taking in a snapshot; returns who sends it."""
    senders = [name for name in cluster.names if name != receiver]

    def sending() -> list[str]:
        return [s for s in senders if passed(cluster, s, receiver) - before[s] > MIDDLE_BYTES]

    wait_until("the middle of a snapshot", lambda: bool(sending()), WAIT_S)
    return sending()[0]


def test_who_was_away_too_long_is_sent_the_state_under_load_and_permits_only_then(
    whole: Cluster, crew: Crew, writers: list[Writer]
):
    away = a_follower(whole)
    others = [name for name in whole.names if name != away]
    probes = probe(crew, *whole.names)
    doomed = f"doomed-{secrets.token_hex(4)}"
    crew.grant(CLINIC, doomed, crew.workers[away], f"{doomed}/*")
    lease = crew.workers[away].lease(f"//{CLINIC}/{doomed}/book")
    probes["doomed"] = crew.probe(away, lease.id)
    await_permit(probes["doomed"], 0)
    had = snapshots(whole, away)
    watch = Watch(whole.names, whole.status_or_none)
    watch.start()
    try:
        whole.kill(away)
        killed_ns = boottime_ns()
        clinic = whole.operator(CLINIC)
        revoking = clinic.sign("grant.revoke", {"grant": doomed})
        through = whole.operator(others[0])
        write_all(through, [revoking, *registrations(clinic, 10 * TAIL)])
        for writer in writers:
            writer.await_progress(5, WAIT_S)
        start_ns = boottime_ns()
        whole.start([away])
        await_permit(probes[away], start_ns)
        for writer in writers:
            writer.await_progress(5, WAIT_S)
    finally:
        watch.stop()
    assert snapshots(whole, away) > had
    period_ms = authority_ms(whole)
    assert watch.deluded(period_ms) == []
    assert_fresh(probes.values(), watch.sizes(), period_ms)
    assert probes["doomed"].journal.permits(killed_ns) == [], "revoked while it was away"
    for probing in probes.values():
        assert probing.process.stop() == 0
    for writer in writers:
        writer.stop()
        writer.settle()
        assert writer.tally.problems == []
    mirror = same_ledgers(whole)
    for writer in writers:
        for told in writer.acknowledged():
            assert mirror.indexes_of(told.command_id) == [told.ledger_index]


@pytest.mark.parametrize("victim", ["receiver", "sender"])
@pytest.mark.long
def test_a_transfer_survives_the_death_of_either_side(whole: Cluster, crew: Crew, victim: str):
    receiver = a_follower(whole)
    others = [name for name in whole.names if name != receiver]
    probing = probe(crew, receiver)[receiver]
    had = snapshots(whole, receiver)
    whole.kill(receiver)
    killed_ns = boottime_ns()
    fill(whole)
    before = {name: passed(whole, name, receiver) for name in others}
    for name in others:
        whole.links.delay(name, receiver, SLOW_LINK_MS)
        whole.links.delay(receiver, name, SLOW_LINK_MS)
    whole.start([receiver])
    sender = await_middle(whole, receiver, before)
    assert snapshots(whole, receiver) == had, "it has just begun"
    dead = receiver if victim == "receiver" else sender
    whole.kill(dead)
    dead_ns = boottime_ns()
    assert [a for a in probing.journal.permits(killed_ns) if a.sent_ns <= dead_ns] == []
    if victim == "receiver":
        whole.start([receiver])
    whole.wait_ready([name for name in whole.names if name != dead], timeout_s=WAIT_S)
    if victim == "sender":
        # Of three, the one that took in the snapshot was needed for this.
        register(whole.operator(receiver))
        whole.start([sender])
    whole.links.heal()
    whole.wait_ready(timeout_s=WAIT_S)
    await_permit(probing, dead_ns)
    assert snapshots(whole, receiver) > had
    assert probing.process.stop() == 0
    mirror = same_ledgers(whole)
    replay = Replay(whole.genesis(), mirror.entries)
    assert replay.problems == []
    for operator in whole.operators():
        assert replay.differences(operator) == []


@pytest.mark.long
def test_the_whole_ledger_can_be_read_and_verified_when_the_log_was_compacted(whole: Cluster):
    size = len(same_ledgers(whole).entries)
    for name in whole.names:
        assert log_entries(whole, name) < size / 2, "there is something that the log lacks"
    assert set(verify_everywhere(whole).values()) == {size}


@pytest.mark.long
def test_a_store_grows_with_the_ledger_and_not_with_the_log(whole: Cluster):
    def stores() -> dict[str, DiskSample]:
        same_ledgers(whole)
        directories = {name: whole.members[name].store.parent for name in whole.names}
        return {name: read_store(path, name, 0.0) for name, path in directories.items()}

    def write(count: int) -> None:
        operator = whole.operator(whole.leader())
        write_all(operator, large_grants(operator, count), accepted=False)

    write(MANY // 4)  # which takes up the room that is free
    before = stores()
    write(MANY)
    for name, after in stores().items():
        was = before[name]
        assert after.ledger_entries - was.ledger_entries >= MANY
        assert after.log_entries <= MOST_LOG_ENTRIES
        assert after.log_bytes <= MOST_LOG_ENTRIES * LOG_ENTRY_BYTES
        kept = (after.used_bytes - after.log_bytes) - (was.used_bytes - was.log_bytes)
        assert after.file_bytes - was.file_bytes <= kept + MOST_LOG_ENTRIES * LOG_ENTRY_BYTES
