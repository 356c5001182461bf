"""A node that was cut off comes back into step, whatever its log and the others' hold by then:
fast, under load, and without a permit before it is. No state of links and logs leaves a node behind
that believes that all is well.

Times are CLOCK_BOOTTIME, from the moment before the links heal. They end when the node holds
authority again and has applied what the others had committed by then.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator, Sequence

import pytest
from tests.e2e.federations import (
    BANK,
    WAIT_S,
    assert_fresh,
    authority_ms,
    await_permit,
    large_grants,
    let_pass_until,
    log_entries,
    probe,
    registrations,
    write_all,
)

from quorate.chaos.cluster import Cluster
from quorate.chaos.crew import Crew, Probing
from quorate.chaos.freshness import Watch
from quorate.chaos.links import Way
from quorate.chaos.mirror import LedgerMirror
from quorate.chaos.probe import NS_PER_MS, boottime_ns
from quorate.chaos.processes import wait_until
from quorate.chaos.workload import Writer, command_id_of, submit_all

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
LONG = pytest.mark.long

IN_STEP_MS = 10_000
"""The bound for every gap."""
SMALL_MS = 2_000
"""For small ones: two of the longest election timeouts, with the default settings."""
STUBBORN = {"raft": {"election_min_ms": 50_000, "election_max_ms": 60_000}}
"""Of one node: a leader that hears nobody goes on leading for as long, and its log grows. The
others have the default."""
UNHEARD_MS = 1_000
"""How long a command waits that cannot be committed."""
PACE_S = 0.05
LIFETIME_MS = 3_600_000
LARGE_BYTES = 9_300
"""Of a large command."""
STEPS = 12
DELAY_MS = 300.0


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("healing")) as cluster:
        cluster.prepare()
        cluster.start()
        cluster.wait_ready(timeout_s=WAIT_S)
        yield cluster


@pytest.fixture(scope="module")
def stubborn(federation: Cluster) -> str:
    """A node that is stubborn from here on: for the last tests of this file."""
    federation.configure(BANK, STUBBORN)
    federation.restart(BANK)
    federation.wait_ready(timeout_s=WAIT_S)
    return BANK


@pytest.fixture(scope="module")
def crew(federation: Cluster) -> Iterator[Crew]:
    crew = Crew(federation)
    yield crew
    crew.close()


@pytest.fixture(scope="module")
def mirror(federation: Cluster) -> LedgerMirror:
    return LedgerMirror(federation.operators(), federation.genesis())


class Round:
    """What runs while nodes are cut off and come back: load through the others, questions at every
    node."""

    def __init__(self, cluster: Cluster, crew: Crew, away: Sequence[str]) -> None:
        self.cluster = cluster
        self.away = away
        self.others = [name for name in cluster.names if name not in away] or cluster.names
        self.watch = Watch(cluster.names, cluster.status_or_none)
        self.probes: dict[str, Probing] = probe(crew, *cluster.names)
        operators = [cluster.operator(name) for name in self.others]
        self.writers = [
            Writer(
                operator,
                operators,
                f"w{secrets.token_hex(4)}",
                number,
                pace_s=PACE_S,
                lifetime_ms=LIFETIME_MS,
            )
            for number, operator in enumerate(operators)
        ]

    def __enter__(self) -> Round:
        self.watch.start()
        for writer in self.writers:
            writer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cluster.links.heal()
        for writer in self.writers:
            writer.stop()
        self.watch.stop()
        for probing in self.probes.values():
            probing.process.stop()

    def heal(self, *, resume: bool = False) -> float:
        """Opens every link; milliseconds until each node that was away is in step."""
        committed = max(self.cluster.status(name).commit_index for name in self.others)
        healed_ns = boottime_ns()
        self.cluster.links.heal(resume=resume)
        behind = set(self.away)

        def in_step() -> bool:
            for name in sorted(behind):
                sample = self.watch.take(name)
                if sample is None or sample.sent_ns <= healed_ns:
                    continue
                if sample.remaining_ms > 0 and sample.applied_index >= committed:
                    behind.discard(name)
            return not behind

        wait_until(f"{self.away} in step", in_step, WAIT_S)
        took_ms = (boottime_ns() - healed_ns) / NS_PER_MS
        for writer in self.writers:
            writer.await_progress(3, WAIT_S)
        for name in self.away:
            await_permit(self.probes[name], healed_ns)
        return took_ms

    def judge(self) -> None:
        """When it is over: nothing that any node permitted or believed was out of date."""
        period_ms = authority_ms(self.cluster)
        assert self.watch.deluded(period_ms) == []
        assert_fresh(self.probes.values(), self.watch.sizes(), period_ms)
        for writer in self.writers:
            writer.settle()
            assert writer.tally.problems == []


def let_lead(cluster: Cluster, name: str) -> None:
    """Leadership is handed over, by stopping who has it while nobody else could take it."""
    for _ in range(10):
        leader = cluster.leader()
        if leader == name:
            return
        third = next(each for each in cluster.names if each not in (name, leader))
        cluster.stop(third)
        cluster.stop(leader)
        cluster.start([leader, third])
        cluster.wait_ready(timeout_s=WAIT_S)
    raise AssertionError(f"{name} does not lead")


def shown(what: str, took_ms: float) -> None:
    print(f"\n{what}: in step after {took_ms:.0f} ms")  # noqa: T201 - with -s, and on failure


@pytest.mark.parametrize(
    "gap_bytes", [100_000, *(pytest.param(gap, marks=LONG) for gap in (1_000, 10**6, 10**7))]
)
def test_a_follower_that_missed_something_gets_it(
    federation: Cluster, crew: Crew, mirror: LedgerMirror, gap_bytes: int
):
    leader = federation.leader()
    away = next(name for name in federation.names if name != leader)
    operator = federation.operator(leader)
    large = large_grants(operator, gap_bytes // LARGE_BYTES)
    with Round(federation, crew, [away]) as round_:
        federation.links.isolate(away)
        cut_ns = boottime_ns()
        written = write_all(operator, registrations(operator, 1))
        written += write_all(operator, large, accepted=False)
        let_pass_until(cut_ns + authority_ms(federation) * NS_PER_MS)
        took_ms = round_.heal()
    round_.judge()
    shown(f"a gap of {written} bytes", took_ms)
    assert took_ms <= (SMALL_MS if gap_bytes <= 100_000 else IN_STEP_MS)
    mirror.catch_up(WAIT_S)


def disturb(cluster: Cluster, chance: random.Random) -> str:
    """Does something to a link, or to several; says what."""
    one, other = chance.sample(cluster.names, 2)
    links = cluster.links
    match chance.randrange(7):
        case 0:
            links.cut(one, other)
            return f"cut {one} {other}"
        case 1:
            way = chance.choice(list(Way))
            links.cut(one, other, ways=[way])
            return f"cut {one} {other} {way.name}"
        case 2:
            links.sever(one, other)
            return f"sever {one} {other}"
        case 3:
            links.isolate(one)
            return f"isolate {one}"
        case 4:
            links.reset(one, other)
            return f"reset {one} {other}"
        case 5:
            delay_ms = chance.uniform(0, DELAY_MS)
            links.delay(one, other, delay_ms)
            return f"delay {one} {other} {delay_ms:.0f}"
        case _:
            resume = chance.random() < 1 / 2
            links.open(one, other, resume=resume)
            return f"open {one} {other} {resume=}"


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=LONG) for seed in (1, 2, 3))])
def test_whatever_becomes_of_the_links_nobody_is_left_behind(
    federation: Cluster, crew: Crew, mirror: LedgerMirror, seed: int
):
    """Every node is in step or without authority, all the time; and in step when all is healed."""
    chance = random.Random(seed)  # noqa: S311 - a test's choices
    period_ms = authority_ms(federation)
    with Round(federation, crew, federation.names) as round_:
        for _ in range(STEPS):
            print(disturb(federation, chance))  # noqa: T201 - shown when it fails
            until_ms = chance.uniform(100, 1_000)
            let_pass_until(boottime_ns() + int(until_ms * NS_PER_MS))
        let_pass_until(boottime_ns() + period_ms * NS_PER_MS)
        took_ms = round_.heal(resume=chance.random() < 1 / 2)
    round_.judge()
    shown(f"the links of seed {seed}", took_ms)
    assert took_ms <= IN_STEP_MS
    mirror.catch_up(WAIT_S)


@pytest.mark.parametrize(
    "entries", [100, *(pytest.param(entries, marks=LONG) for entries in (1, 5_000))]
)
def test_a_leader_that_went_on_alone_gives_its_tail_up(
    federation: Cluster, crew: Crew, mirror: LedgerMirror, stubborn: str, entries: int
):
    let_lead(federation, stubborn)
    operator = federation.operator(stubborn)
    unheard = []
    with Round(federation, crew, [stubborn]) as round_:
        before = log_entries(federation, stubborn)
        federation.links.isolate(stubborn)
        cut_ns = boottime_ns()
        # What comes into its log can be promised to nobody. All of it is given up before the links
        # heal: it could be proposed again.
        while (lacks := before + entries - log_entries(federation, stubborn)) > 0:
            envelopes = registrations(operator, lacks)
            told = submit_all(operator, envelopes, in_flight=500, attempt_ms=UNHEARD_MS)
            assert told == [None] * lacks
            unheard += envelopes
        let_pass_until(cut_ns + authority_ms(federation) * NS_PER_MS)
        rest = {federation.members[name].node_id for name in round_.others}
        wait_until(
            "another leader", lambda: federation.status(round_.others[0]).leader in rest, WAIT_S
        )
        took_ms = round_.heal()
    round_.judge()
    shown(f"a tail of {entries} entries", took_ms)
    assert took_ms <= (SMALL_MS if entries <= 100 else IN_STEP_MS)
    mirror.catch_up(WAIT_S)
    assert [each for each in unheard if mirror.indexes_of(command_id_of(each))] == []
