"""The public API against an empty echo, and against the machine's own durable writes.

Both sides of the first bear the same Python client (`bench.load`). The two sides of a ratio are
measured in turn, and a figure is the median of the rounds' ratios.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from bench.client import cpu_seconds
from bench.disk import fsyncs_per_second
from bench.federation import DOMAIN, Federation
from bench.pace import Pace

FLIGHTS = (1, 64)

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
    pid: int,
    *,
    flight: int,
    seconds: float,
    address: str | None = None,
) -> dict[str, float]:
    """One run of the load generator: its own result, the rate, and the server's CPU per call."""
    command = [sys.executable, "-m", "bench.load", operation, "--client", str(client)]
    command += ["--flight", str(flight), "--seconds", str(seconds)]
    command += ["--address", address] if address else []
    before = cpu_seconds([pid])
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    used = cpu_seconds([pid]) - before
    sample: dict[str, float] = json.loads(run.stdout)
    if sample["permits"] != sample["calls"]:
        raise RuntimeError(f"{operation}: {sample['calls'] - sample['permits']} calls were denied")
    return sample | {"rate": sample["calls"] / sample["seconds"], "cpu": used / sample["calls"]}


def check_against_echo(federation: Federation, pace: Pace) -> Ratios:
    """Checks and echoes, in turn; the medians of the rounds' ratios."""
    figures: Ratios = {}
    client, pid = federation.client, federation.edge_pid()
    with echo_server(federation.organisation) as (address, echo_pid):
        for flight in FLIGHTS:
            ratios: dict[str, list[float]] = {"rate": [], "p50_us": [], "p99_us": [], "cpu": []}
            for number in range(pace.rounds):
                pace.tell(f"check and echo, {flight} in flight, {number + 1} of {pace.rounds}")
                echo = load(
                    "echo", client, echo_pid, flight=flight, seconds=pace.seconds, address=address
                )
                check = load("check", client, pid, flight=flight, seconds=pace.seconds)
                for name, values in ratios.items():
                    values.append(check[name] / echo[name])
            for name, values in ratios.items():
                figures[f"check/echo, {flight} in flight, {name.removesuffix('_us')}"] = median(
                    values
                )
    return figures


def writes_against_fsync(federation: Federation, pace: Pace) -> Ratios:
    """Committed acquisitions, against the machine's own rate of durable writes; and how many
    commands share one of the node's."""
    figures: Ratios = {}
    cluster, pid = federation.cluster, federation.edge_pid()
    for flight in FLIGHTS:
        ratios, shared = [], []
        for number in range(pace.rounds):
            pace.tell(f"committed writes, {flight} in flight, {number + 1} of {pace.rounds}")
            ceiling = fsyncs_per_second(cluster.directory, pace.seconds / 2)
            before = cluster.status(DOMAIN).durable_turns
            writes = load("acquire", federation.client, pid, flight=flight, seconds=pace.seconds)
            turns = cluster.status(DOMAIN).durable_turns - before
            ratios.append(writes["rate"] / ceiling)
            shared.append(writes["calls"] / turns)
        figures[f"writes/fsync of the machine, {flight} in flight"] = median(ratios)
        figures[f"writes/durable turn of the node, {flight} in flight"] = median(shared)
    return figures
