"""`quorate exec` in a federation of real nodes: nothing runs without a lease, or longer than it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from quorate.chaos.cluster import Cluster, cli_command
from quorate.chaos.crew import Crew
from quorate.chaos.probe import NS_PER_MS, boottime_ns
from quorate.chaos.processes import clean_environment, wait_until
from quorate.runner import descendants
from quorate.v1 import governance_pb2

pytestmark = pytest.mark.cluster

BANK = "bank.example"
DRAINED = governance_pb2.WAIT_LEVEL_DRAINED
PERMIT_MS = 6_000
TERMS = ("--authority-period", "8s", "--max-permit-ttl", f"{PERMIT_MS}ms")
WAIT_S = 60.0
SCHEDULING_MS = 1_500
OF_A_LOST_QUORUM = ("INQUORATE", "LATE", "EXPIRED_ON_ARRIVAL")
"""Which comes last: the node's refusal, none at all, or a permit with nothing left of its life."""
"""For a process to be scheduled and to be killed, on a busy machine: the one thing in the bound
that no clock of ours counts."""

BEATING = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, lambda *_: Path("heard").write_text("term\\n"))
with open("beats", "a", buffering=1) as beats:
    while True:
        beats.write(f"{time.clock_gettime_ns(time.CLOCK_BOOTTIME)}\\n")
        time.sleep(0.005)
"""
"""Works and works, and does not listen."""


class Run:
    """A run of `quorate exec`, and what its command has written."""

    def __init__(self, directory: Path, client: Path, resource: str, *options: str) -> None:
        self.directory = directory
        self._beats = directory / "beats"
        target = ("--client", str(client), "--action", "records.write", "--resource", resource)
        self.process = subprocess.Popen(
            [*cli_command(), "exec", *target, *options, "--", sys.executable, "-c", BEATING],
            cwd=directory,
            env=clean_environment({"NO_COLOR": "1"}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def beats(self) -> list[int]:
        text = self._beats.read_text() if self._beats.exists() else ""
        return [int(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def await_work(self, since_ns: int = 0) -> None:
        """Waits for a beat of later than that."""
        wait_until("a beat", lambda: any(b > since_ns for b in self.beats()[-1:]), WAIT_S)

    def living(self) -> list[int]:
        """The processes below it, of which the command is one."""
        return [each.pid for each in descendants.of(self.process.pid) if each.is_alive]

    def end(self) -> tuple[int, str, str]:
        out, error = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, out, error

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(client: Path, resource: str, *options: str) -> Run:
            run = Run(tmp_path, client, resource, *options)
            stack.callback(run.close)
            return run

        yield begin


@pytest.fixture
def worker(crew: Crew) -> Path:
    return crew.workers[BANK].client


@pytest.fixture(scope="module")
def slow_bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A federation of one whose permits live long: what is drained early was acknowledged."""
    with Cluster(tmp_path_factory.mktemp("exec"), (BANK,), parameters=TERMS) as cluster:
        cluster.prepare()
        cluster.start()
        cluster.wait_ready()
        yield cluster


def test_a_program_runs_and_its_lease_is_given_back(
    cluster: Cluster, worker: Path, tmp_path: Path
) -> None:
    resource = f"//{BANK}/records/exec"
    target = ("--client", str(worker), "--action", "records.write", "--resource", resource)
    script = 'read line; echo "$line $QUORATE_LEASE $QUORATE_FENCE"; exit 7'
    done = subprocess.run(
        [*cli_command(), "exec", *target, "--", "sh", "-c", script],
        input="told\n",
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_S,
        cwd=tmp_path,
        env=clean_environment({}),
    )
    assert (done.returncode, done.stderr) == (7, "")
    told, lease_id, fence = done.stdout.split()
    lease = cluster.operator(BANK).record(governance_pb2.KIND_LEASE, lease_id)
    assert told == "told"
    assert (lease["fence"], lease["status"]) == (int(fence), "released")


def test_without_a_grant_nothing_is_started(cluster: Cluster, worker: Path, start: Start) -> None:
    run = start(worker, f"//{BANK}/vault/exec")
    code, out, error = run.end()
    assert (code, out) == (3, "")
    assert error.startswith("error: not started: NO_GRANT")
    assert run.beats() == []


def test_drained_means_that_the_command_is_dead(slow_bank: Cluster, start: Start) -> None:
    crew, operator = Crew(slow_bank), slow_bank.operator(BANK)
    crew.grant(BANK, "exec", crew.workers[BANK], "exec/*")
    # Edges that have just started wait for what those before them may have given.
    settled = operator.revoke("grant.suspend", {"grant": "exec"}, DRAINED)
    assert settled.reached == DRAINED
    operator.order("grant.reinstate", {"grant": "exec"})

    run = start(crew.workers[BANK].client, f"//{BANK}/exec/book", "--grace", "1s")
    run.await_work()
    assert len(run.living()) == 2
    asked_ns = boottime_ns()
    revoked = operator.revoke("grant.revoke", {"grant": "exec"}, DRAINED)
    living, drained_ns = run.living(), boottime_ns()
    crew.close()
    assert revoked.reached == DRAINED
    assert living == [], "not even the init"
    assert (run.directory / "heard").read_text() == "term\n"
    last_ns = max(run.beats())
    assert asked_ns + 500 * NS_PER_MS < last_ns < drained_ns, "it had its grace"
    # A permit of the last second would have been waited for until then.
    assert drained_ns - asked_ns < (PERMIT_MS - 1_000) * NS_PER_MS, "it was acknowledged"
    code, _, error = run.end()
    assert code == 3
    assert f"stopped: GRANT_REVOKED ({BANK}/exec)" in error


def test_a_lost_quorum_ends_it_within_the_bound(
    cluster: Cluster, worker: Path, start: Start
) -> None:
    run = start(worker, f"//{BANK}/records/exec", "--grace", "0s")
    run.await_work()
    cluster.links.partition([])
    cut_ns = boottime_ns()
    code, _, error = run.end()
    cluster.links.heal()
    assert code == 3
    assert any(f"stopped: {reason}" in error for reason in OF_A_LOST_QUORUM), error
    assert_bound(cluster, run, cut_ns)


def test_a_lost_quorum_freezes_it_within_the_bound_until_there_is_one(
    cluster: Cluster, worker: Path, start: Start
) -> None:
    run = start(worker, f"//{BANK}/records/exec", "--freeze", "--ttl", "1h")
    run.await_work()
    cluster.links.partition([])
    cut_ns = boottime_ns()
    after_ns = cut_ns + 2 * cluster.genesis().parameters.authority_period_ms * NS_PER_MS
    wait_until("the window", lambda: boottime_ns() > after_ns, WAIT_S)
    assert run.process.poll() is None
    assert_bound(cluster, run, cut_ns)
    cluster.links.heal()
    run.await_work(after_ns)
    run.process.terminate()
    wait_until("SIGTERM", (run.directory / "heard").exists, WAIT_S)
    run.process.terminate()  # the second one kills
    assert run.end()[0] == 137


def assert_bound(cluster: Cluster, run: Run, cut_ns: int) -> None:
    """Nothing was done later than L after the cut."""
    authority_ms = cluster.genesis().parameters.authority_period_ms
    last_ms = (max(run.beats()) - cut_ns) / NS_PER_MS
    print(f"\nlast work {last_ms:.0f} ms after the cut (L = {authority_ms})")  # noqa: T201
    assert 0 < last_ms <= authority_ms + SCHEDULING_MS
