"""kill -9, again and again, while somebody writes: nothing acknowledged is lost, nothing is
executed twice, and every node's state is what its ledger says."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator

import pytest

from quorate.chaos.cluster import Cluster
from quorate.chaos.mirror import LedgerMirror
from quorate.chaos.processes import wait_until
from quorate.chaos.replay import Replay
from quorate.chaos.workload import Writer
from quorate.consensus.limits import MAX_APPEND_BYTES
from quorate.v1 import governance_pb2

pytestmark = pytest.mark.cluster

SEED = 20_260
PROGRESS_S = 30.0
"""For some commands to be acknowledged while one node of three is down, an election included."""


@pytest.fixture
def writers(cluster: Cluster) -> Iterator[list[Writer]]:
    """Two organisations write, each through all nodes."""
    operators = cluster.operators()
    made = [
        Writer(operator, operators, f"w{number}", SEED + number)
        for number, operator in enumerate(operators[:2])
    ]
    for writer in made:
        writer.start()
    yield made
    for writer in made:
        writer.stop()


def kill_at_once(cluster: Cluster) -> None:
    """SIGKILL to every process of every node, in as short a moment as can be had."""
    for domain in cluster.members:
        os.killpg(cluster.processes(domain).pgid, signal.SIGKILL)
    for domain in cluster.members:
        cluster.kill(domain)  # waits until nothing is left


def test_nothing_acknowledged_is_lost_and_nothing_is_done_twice(
    cluster: Cluster, mirror: LedgerMirror, writers: list[Writer]
):
    chance = random.Random(SEED)  # noqa: S311 - when to kill, no secret
    victims = [*cluster.members, cluster.leader()]
    for victim in victims:
        for writer in writers:
            writer.await_progress(chance.randrange(1, 12), PROGRESS_S)
        cluster.kill(victim)
        for writer in writers:  # the others go on without it
            writer.await_progress(3, PROGRESS_S)
        cluster.start([victim])
        cluster.wait_ready([victim])
    for _ in range(2):
        for writer in writers:
            writer.await_progress(chance.randrange(1, 12), PROGRESS_S)
        kill_at_once(cluster)
        cluster.start()
        cluster.wait_ready()
    for writer in writers:
        writer.await_progress(3, PROGRESS_S)
        writer.stop()
        writer.settle()

    mirror.catch_up()
    for writer in writers:
        tally = writer.tally
        print(f"{tally} written={len(writer.written)}")  # noqa: T201 - shown when it fails
        assert tally.problems == []
        assert tally.unknown > 0, "the kills were felt"
        acknowledged = writer.acknowledged()
        assert len(acknowledged) == len(writer.written)
        for told in acknowledged:
            assert mirror.indexes_of(told.command_id) == [told.ledger_index]
            assert mirror.entry(told.ledger_index)["decision"] == "accepted"
        for told in chance.sample(acknowledged, 10):
            for operator in cluster.operators():
                question = governance_pb2.GetOutcomeRequest(command_id=told.command_id)
                found = operator.ask(operator.governance.GetOutcome, question)
                assert (found.found, found.outcome.ledger_index) == (True, told.ledger_index)

    replay = Replay(cluster.genesis(), mirror.entries)
    assert replay.problems == []
    for operator in cluster.operators():
        assert replay.differences(operator) == []


def test_a_node_that_was_long_away_catches_up_and_dies_while_it_does(
    cluster: Cluster, mirror: LedgerMirror, bulk
):
    away = next(domain for domain in cluster.members if domain != cluster.leader())
    others = [operator for operator in cluster.operators() if operator.domain != away]

    def write_much() -> None:
        """More than two messages carry."""
        size = 0
        while size < 2 * MAX_APPEND_BYTES:
            for operator in others:
                envelope = bulk.envelope(operator)
                request = governance_pb2.SubmitRequest(envelope=envelope)
                operator._settle("submit", operator.governance.Submit, request, PROGRESS_S)
                size += len(envelope)

    had = mirror.catch_up()
    cluster.kill(away)
    write_much()
    cluster.start([away])
    wait_until(
        "the beginning of catching up",
        lambda: (s := cluster.status_or_none(away)) is not None and s.position.size > had,
        PROGRESS_S,
    )
    cluster.kill(away)
    cluster.start([away])
    cluster.wait_ready([away])
    mirror.catch_up()
    replay = Replay(cluster.genesis(), mirror.entries)
    assert replay.problems == []
    assert replay.differences(cluster.operator(away)) == []
