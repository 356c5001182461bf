"""Runs the benchmarks against a federation of three real nodes, and prints the ratios."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from bench.disk import fsyncs_per_second
from bench.load import ACTION, RESOURCE
from quorate.chaos.cluster import Cluster

DOMAIN = "bank.example"
EXECUTOR = "agent/bench"
NOT_AFTER_MS = 3_600_000
FLIGHTS = (1, 64)
_TICKS = os.sysconf("SC_CLK_TCK")

Sample = dict[str, float]
console = Console(stderr=True)


def prepare(cluster: Cluster) -> Path:
    """A running federation with one executor that may act on its own organisation's resource."""
    cluster.prepare()
    cluster.start()
    cluster.wait_ready()
    client = cluster.issue_executor(DOMAIN, EXECUTOR)
    operator = cluster.operator(DOMAIN)
    executor = f"spiffe://{DOMAIN}/{EXECUTOR}"
    operator.order("executor.register", {"executor": executor})
    grant = {
        "grant": "bench",
        "executor": executor,
        "actions": [ACTION],
        "resources": [RESOURCE],
        "not_after": operator.status().position.ledger_time_ms + NOT_AFTER_MS,
        "max_lease_ttl_ms": 600_000,
        "max_uses": 0,
        "max_concurrent": 0,
    }
    operator.order("grant.issue", grant)
    return client


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


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, seconds (proc(5), fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def edge_pid(cluster: Cluster) -> int:
    for pid in cluster.processes(DOMAIN).members():
        if b"edge_process" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    raise RuntimeError("the node has no edge process")


def load(
    operation: str,
    client: Path,
    pid: int,
    *,
    flight: int,
    seconds: float,
    address: str | None = None,
) -> Sample:
    """One run of the load generator: its own result, the rate, and the server's CPU per call."""
    command = [sys.executable, "-m", "bench.load", operation, "--client", str(client)]
    command += ["--flight", str(flight), "--seconds", str(seconds)]
    command += ["--address", address] if address else []
    before = cpu_seconds(pid)
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    used = cpu_seconds(pid) - before
    sample: Sample = json.loads(run.stdout)
    if sample["permits"] != sample["calls"]:
        raise RuntimeError(f"{operation}: {sample['calls'] - sample['permits']} calls were denied")
    return sample | {"rate": sample["calls"] / sample["seconds"], "cpu": used / sample["calls"]}


def check_against_echo(
    cluster: Cluster, client: Path, rounds: int, seconds: float
) -> dict[str, float]:
    """Checks and echoes, in turn; the medians of the rounds' ratios."""
    figures: dict[str, float] = {}
    organisation = cluster.members[DOMAIN].directory
    pid = edge_pid(cluster)
    with echo_server(organisation) as (address, echo_pid):
        for flight in FLIGHTS:
            ratios: dict[str, list[float]] = {"rate": [], "p50_us": [], "p99_us": [], "cpu": []}
            for number in range(rounds):
                console.print(f"check and echo, {flight} in flight, {number + 1} of {rounds}")
                echo = load(
                    "echo", client, echo_pid, flight=flight, seconds=seconds, address=address
                )
                check = load("check", client, pid, flight=flight, seconds=seconds)
                for name, values in ratios.items():
                    values.append(check[name] / echo[name])
            for name, values in ratios.items():
                figures[f"check/echo, {flight} in flight, {name.removesuffix('_us')}"] = median(
                    values
                )
    return figures


def writes_against_fsync(
    cluster: Cluster, client: Path, rounds: int, seconds: float
) -> dict[str, float]:
    """Committed acquisitions, against the machine's own rate of durable writes; and how many
    commands share one of the node's."""
    figures: dict[str, float] = {}
    pid = edge_pid(cluster)
    for flight in FLIGHTS:
        ratios, shared = [], []
        for number in range(rounds):
            console.print(f"committed writes, {flight} in flight, {number + 1} of {rounds}")
            ceiling = fsyncs_per_second(cluster.directory, seconds / 2)
            before = cluster.status(DOMAIN).durable_turns
            writes = load("acquire", client, pid, flight=flight, seconds=seconds)
            turns = cluster.status(DOMAIN).durable_turns - before
            ratios.append(writes["rate"] / ceiling)
            shared.append(writes["calls"] / turns)
        figures[f"writes/fsync of the machine, {flight} in flight"] = median(ratios)
        figures[f"writes/durable turn of the node, {flight} in flight"] = median(shared)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--output", choices=["text", "json"], default="text")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="quorate-bench-") as directory,
        Cluster(Path(directory) / "federation", progress=console.print) as cluster,
    ):
        client = prepare(cluster)
        figures = check_against_echo(cluster, client, options.rounds, options.seconds)
        figures |= writes_against_fsync(cluster, client, options.rounds, options.seconds)
    if options.output == "json":
        machine = {"cores": os.cpu_count(), "python": platform.python_version()}
        print(json.dumps({"machine": machine, "rounds": options.rounds, "ratios": figures}))
        return
    table = Table("ratio", "median")
    for name, value in figures.items():
        table.add_row(name, f"{value:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
