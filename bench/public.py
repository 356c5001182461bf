"""The public API against an empty echo, and against the machine's own durable writes.

Both sides of the first bear the same Python client (`bench.load`). The two sides of a ratio are
measured in turn, and a figure is the median of the rounds' ratios.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from bench.client import cpu_seconds
from bench.disk import fsyncs_per_second
from bench.federation import DOMAIN, Federation
from bench.pace import Pace

FLIGHTS = (1, 64)
CHECK_FLIGHTS = (1, 16, 64)
CONNECTIONS = 16
"""Over which the checks of several edges come: each connection is one edge's."""

Ratios = dict[str, float]


@contextmanager
def echo_server(organisation: Path) -> Iterator[tuple[str, int]]:
    """The echo's address and process id."""
    command = [sys.executable, "-m", "bench.echo", str(organisation)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield f"127.0.0.1:{int(process.stdout.readline())}", process.pid
        finally:
            process.stdin.close()
            process.wait(10)


def load(
    operation: str,
    client: Path,
    pids: Sequence[int],
    *,
    flight: int,
    seconds: float,
    address: str | None = None,
    connections: int = 1,
) -> dict[str, float]:
    """One run of the load generator: its own result, the rate, and the server's CPU per call."""
    command = [sys.executable, "-m", "bench.load", operation, "--client", str(client)]
    command += ["--flight", str(flight), "--seconds", str(seconds)]
    command += ["--address", address] if address else []
    command += ["--connections", str(connections)]
    before = cpu_seconds(pids)
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    used = cpu_seconds(pids) - before
    sample: dict[str, float] = json.loads(run.stdout)
    if sample["permits"] != sample["calls"]:
        raise RuntimeError(f"{operation}: {sample['calls'] - sample['permits']} calls were denied")
    return sample | {"rate": sample["calls"] / sample["seconds"], "cpu": used / sample["calls"]}


def check_against_echo(federation: Federation, pace: Pace) -> Ratios:
    """Checks and echoes, in turn; the medians of the rounds' ratios."""
    figures: Ratios = {}
    client, pids = federation.client, federation.edge_pids()
    with echo_server(federation.organisation) as (address, echo_pid):
        for flight in CHECK_FLIGHTS:
            ratios: dict[str, list[float]] = {"rate": [], "p50_us": [], "p99_us": [], "cpu": []}
            for number in range(pace.rounds):
                pace.tell(f"check and echo, {flight} in flight, {number + 1} of {pace.rounds}")
                echo = load(
                    "echo", client, [echo_pid], flight=flight, seconds=pace.seconds, address=address
                )
                check = load("check", client, pids, flight=flight, seconds=pace.seconds)
                for name, values in ratios.items():
                    values.append(check[name] / echo[name])
            for name, values in ratios.items():
                figures[f"check/echo, {flight} in flight, {name.removesuffix('_us')}"] = median(
                    values
                )
    return figures


def edges_against_one(federation: Federation, pace: Pace) -> Ratios:
    """Checks answered by two edge processes, against one: the node is started anew in between."""
    flight, ratios = 64, []
    cpu: list[float] = []
    for number in range(pace.rounds):
        samples = {}
        for edges in (1, 2):
            pace.tell(f"checks, {edges} edge(s), {number + 1} of {pace.rounds}")
            federation.have_edges(edges)
            samples[edges] = load(
                "check",
                federation.client,
                federation.edge_pids(),
                flight=flight,
                seconds=pace.seconds,
                connections=CONNECTIONS,
            )
        ratios.append(samples[2]["rate"] / samples[1]["rate"])
        cpu.append(samples[2]["cpu"] / samples[1]["cpu"])
    federation.have_edges(1)
    return {
        f"checks at 2 edges / 1, {flight} in flight, rate": median(ratios),
        f"checks at 2 edges / 1, {flight} in flight, CPU a check": median(cpu),
    }


def writes_against_fsync(federation: Federation, pace: Pace) -> Ratios:
    """Committed acquisitions, against the machine's own rate of durable writes; and how many
    commands share one of the node's."""
    figures: Ratios = {}
    cluster, pids = federation.cluster, federation.edge_pids()
    for flight in FLIGHTS:
        ratios, shared = [], []
        for number in range(pace.rounds):
            pace.tell(f"committed writes, {flight} in flight, {number + 1} of {pace.rounds}")
            ceiling = fsyncs_per_second(cluster.directory, pace.seconds / 2)
            before = cluster.status(DOMAIN).durable_turns
            writes = load("acquire", federation.client, pids, flight=flight, seconds=pace.seconds)
            turns = cluster.status(DOMAIN).durable_turns - before
            ratios.append(writes["rate"] / ceiling)
            shared.append(writes["calls"] / turns)
        figures[f"writes/fsync of the machine, {flight} in flight"] = median(ratios)
        figures[f"writes/durable turn of the node, {flight} in flight"] = median(shared)
    return figures
