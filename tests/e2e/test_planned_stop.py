"""A node that is stopped on purpose hands leadership over first: nobody waits for an election."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.e2e.federations import WAIT_S, registrations, said, same_ledgers

from quorate.chaos.cluster import Cluster
from quorate.chaos.probe import NS_PER_MS, boottime_ns
from quorate.chaos.processes import wait_until
from quorate.chaos.workload import command_id_of, submit_all
from quorate.v1 import decision_pb2, node_pb2

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

ELECTION_MIN_MS = 15_000
"""So long that an election cannot be what is seen here."""
SETTINGS = {"raft": {"election_min_ms": ELECTION_MIN_MS, "election_max_ms": 20_000}}
IN_FLIGHT = 20
AT_ONCE = 40


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("stopping"), settings=SETTINGS) as cluster:
        cluster.prepare()
        cluster.start()
        cluster.wait_ready(timeout_s=WAIT_S)
        yield cluster


class Stream:
    """Commands of one organisation, some in flight at any time, through its own node."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.envelopes: list[bytes] = []
        self.outcomes: list[decision_pb2.Outcome | None] = []
        self._operator = cluster.operator(name)
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.is_set():
            envelopes = registrations(self._operator, AT_ONCE)
            self.outcomes += submit_all(self._operator, envelopes, in_flight=IN_FLIGHT)
            self.envelopes += envelopes

    def await_progress(self) -> None:
        goal = len(self.outcomes) + 2 * AT_ONCE
        wait_until("commands", lambda: len(self.outcomes) >= goal, WAIT_S)

    def stop(self) -> None:
        self._stopping.set()


@pytest.mark.parametrize("round_number", range(2))
def test_the_leader_hands_over_before_it_stops_and_no_command_fails(
    federation: Cluster, round_number: int
):
    leader = federation.leader()
    others = [name for name in federation.names if name != leader]
    term = federation.status(leader).term
    streams = [Stream(federation, name) for name in others]
    with ThreadPoolExecutor(len(streams)) as threads:
        running = [threads.submit(stream.run) for stream in streams]
        for stream in streams:
            stream.await_progress()
        stopped_ns = boottime_ns()
        federation.processes(leader).ask_to_stop()
        wait_until(
            "another leader",
            lambda: any(federation.status(name).role == node_pb2.ROLE_LEADER for name in others),
            WAIT_S,
        )
        took_ms = (boottime_ns() - stopped_ns) / NS_PER_MS
        print(f"\nanother leads {took_ms:.0f} ms after SIGTERM")  # noqa: T201
        assert federation.stop(leader) == 0
        for stream in streams:
            stream.await_progress()
            stream.stop()
        for thread in running:
            thread.result()
    assert took_ms < ELECTION_MIN_MS
    assert federation.status(others[0]).term == term + 1, "nobody else has tried"
    assert said(federation.members[leader].log, "leadership.handed_over") > 0
    for stream in streams:
        assert all(outcome is not None and outcome.accepted for outcome in stream.outcomes)
    federation.start([leader])
    federation.wait_ready(timeout_s=WAIT_S)
    mirror = same_ledgers(federation)
    for stream in streams:
        for envelope, outcome in zip(stream.envelopes, stream.outcomes, strict=True):
            assert outcome is not None
            assert mirror.indexes_of(command_id_of(envelope)) == [outcome.ledger_index]


def test_a_leader_that_nobody_can_take_over_from_stops_all_the_same(federation: Cluster):
    leader = federation.leader()
    for name in federation.names:
        if name != leader:
            federation.kill(name)
    assert federation.stop(leader) == 0
    federation.start()
    federation.wait_ready(timeout_s=WAIT_S)
