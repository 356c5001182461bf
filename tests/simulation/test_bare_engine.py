"""The comparison of the engine as it comes with ours (`make sim-bare` runs more of it)."""

from __future__ import annotations

import pytest
from tests.simulation import bare_engine
from tests.simulation.bare_engine import LOST, OUT_OF_STEP, TWO_STATES, Report, Run
from tests.unit.consensus.bare_cluster import CompactingCluster, OurCluster

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.mark.parametrize(
    ("compaction", "kinds"), [(True, {TWO_STATES, LOST}), (False, {OUT_OF_STEP})]
)
def test_the_bare_engine_does_not_survive_twelve_seeds(compaction: bool, kinds: set[str]) -> None:
    seen: set[str] = set()
    for seed in range(12):
        if not kinds <= seen:
            seen |= set(bare_engine.run_bare(seed, compaction=compaction).violations)
    assert kinds <= seen


@pytest.mark.parametrize("compaction", [True, False])
@pytest.mark.parametrize("seed", range(2))
def test_ours_survives_them(seed: int, compaction: bool) -> None:
    report = bare_engine.run_ours(seed, compaction=compaction)
    assert report.violations == {}
    assert report.executed > 300
    assert report.elections > 1, "there were faults"


def test_ours_installs_snapshots_in_them() -> None:
    cluster = CompactingCluster(0, bare_engine.SIZE)
    assert Run(0, cluster).run().violations == {}
    assert cluster.happened["a snapshot was installed"] > 0


def test_a_seed_is_one_run() -> None:
    assert bare_engine.run_bare(3, compaction=True) == bare_engine.run_bare(3, compaction=True)


class Broken(OurCluster):
    """What is executed last at `n1` is forgotten."""

    def values(self, name: str) -> list[bytes]:
        held = super().values(name)
        return held[:-1] if name == "n1" else held

    def state(self, name: str) -> tuple[int, bytes]:
        index, digest = super().state(name)
        return (index, b"other") if name == "n1" and self.values(name) else (index, digest)


def test_the_checks_see_what_is_broken() -> None:
    violations = Run(0, Broken(0, bare_engine.SIZE)).run().violations
    assert {TWO_STATES, OUT_OF_STEP} <= set(violations)


def test_the_table_counts_runs_and_kinds() -> None:
    bad = Report(1, violations={LOST: "", TWO_STATES: ""}, elections=2, executed=3)
    lines = bare_engine.table([("bare", bad), ("bare", Report(2)), ("ours", Report(1))]).split("\n")
    assert lines[2] == "| bare | 2 | 1 | 0 | 1 | 1 | 0 | 2 | 3 |"
    assert lines[4] == "| ours | 1 | 0 | 0 | 0 | 0 | 0 | 0 | 0 |"
