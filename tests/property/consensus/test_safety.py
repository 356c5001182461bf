"""Raft's promises in a simulated cluster: many seeds, checked after every turn and every message.

A failing run names its seed; `run_seed(seed, profile)` is the same run again.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys

import pytest

from quorate.consensus.messages import VoteRequest
from quorate.testing.raft_runs import Profile, SafetyRun, run_seed
from quorate.testing.raft_safety import ViolationError

PROFILES = {
    "three": (Profile(size=3), 20),
    "five": (Profile(size=5), 10),
    "alone": (Profile(size=1), 5),
    "three, rough": (Profile(size=3, rough=True), 10),
    "five, rough": (Profile(size=5, rough=True, seconds=12), 8),
    "five, slow": (Profile(size=5, delay_s=(0.001, 0.25), seconds=12), 6),
    "three, crashing": (Profile(size=3, fault_every_s=0.15, seconds=10), 10),
}


def run_reported(seed: int, profile: Profile) -> SafetyRun:
    try:
        return run_seed(seed, profile)
    except Exception as error:
        error.add_note(f"seed {seed} of {profile}")
        raise


@pytest.mark.parametrize("name", PROFILES)
def test_no_promise_is_broken(name: str) -> None:
    profile, count = PROFILES[name]
    runs = [run_reported(seed, profile) for seed in range(count)]
    applied = sum(run.checker.applied for run in runs)
    faults = sum(run.faults for run in runs)
    assert applied > 20 * count, "the runs did something"
    assert faults > 5 * count, "and something went wrong in them"
    if profile.size > 1:
        assert sum(run.checker.elections for run in runs) > 2 * count


@pytest.mark.parametrize("name", ["three", "five", "three, rough"])
def test_no_promise_is_broken_by_a_seed_that_nobody_has_tried(name: str) -> None:
    run_reported(secrets.randbits(32), PROFILES[name][0])


def test_a_quiet_cluster_elects_once_and_applies_once() -> None:
    run = run_reported(1, Profile(size=3, fault_every_s=0, seconds=15))
    assert run.checker.elections == 1
    assert run.checker.applied == run.proposed


TRACE = (
    "from quorate.testing.raft_runs import Profile, run_seed;"
    "print(run_seed(7, Profile(size=5, seconds=8)).cluster.trace)"
)


def test_a_seed_is_one_trace_in_every_process() -> None:
    here = run_seed(7, Profile(size=5, seconds=8)).cluster.trace
    assert run_seed(8, Profile(size=5, seconds=8)).cluster.trace != here
    there = subprocess.run(
        [sys.executable, "-c", TRACE],
        env={**os.environ, "PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout.strip() == here


def test_the_checker_sees_what_it_is_shown() -> None:
    """A cluster whose host's disk is changed behind its back is not taken for sound."""
    run = SafetyRun(3, Profile(size=3, fault_every_s=0, seconds=3))
    run.run()
    leader = run.cluster.leader()
    assert leader is not None
    with pytest.raises(ViolationError, match="one vote a term"):
        run.checker._count_vote(leader.node_id, leader.live.term, "another")
    with pytest.raises(ViolationError, match="candidacy"):
        run.checker.sent(leader, "n1", VoteRequest(leader.live.term + 1, 1, 1))
    del leader.store.entries[2:]
    with pytest.raises(ViolationError, match="stays on the disks"):
        run.checker.turn_durable(leader, 2, 0)
