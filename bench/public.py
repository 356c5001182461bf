"""The public API against an empty echo, and against the machine's own durable writes.

Both sides of the first bear the same client (`bench.client`). The sides of a ratio are measured in
turn, and a figure is the median of the rounds' ratios.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Final

from bench.client import Load, Sample, Target, UnaryClient
from bench.disk import fsyncs_per_second
from bench.echo import METHOD
from bench.federation import DOMAIN, Federation
from bench.pace import Pace
from quorate.chaos.crew import ACTION, CALL_TIMEOUT_S, Worker
from quorate.v1 import decision_pb2, lease_pb2

CHECK: Final = "/quorate.v1.LeaseService/Check"
CHECK_BATCH: Final = "/quorate.v1.LeaseService/CheckBatch"
ACQUIRE: Final = "/quorate.v1.LeaseService/Acquire"
RESOURCE: Final = f"//{DOMAIN}/records/bench"
ECHO_BYTES: Final = 200
FLIGHTS: Final = (1, 64)
CHECK_FLIGHTS: Final = (1, 16, 64)
CONNECTIONS: Final = 16
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


def checks(worker: Worker, connections: int = 1) -> Load:
    """Checks of one lease, each of which must be permitted."""
    request = lease_pb2.CheckRequest(lease_id=worker.lease(RESOURCE).id)
    permit = lease_pb2.CheckResponse(verdict=decision_pb2.VERDICT_PERMIT)
    return Load(
        method=CHECK,
        targets=[Target.of(worker)] * connections,
        bodies=[request.SerializeToString()],
        expect=permit.SerializeToString(),
    )


def check_batches(worker: Worker, size: int) -> Load:
    """Calls that check `size` leases each, all of them permitted when it is made."""
    asked = [lease_pb2.CheckRequest(lease_id=worker.lease(RESOURCE).id) for _ in range(size)]
    request = lease_pb2.CheckBatchRequest(checks=asked)
    answer = worker.leases.CheckBatch(request, timeout=CALL_TIMEOUT_S)
    if any(each.verdict != decision_pb2.VERDICT_PERMIT for each in answer.results):
        raise RuntimeError(f"not all checks are permitted: {answer}")
    return Load(
        method=CHECK_BATCH,
        targets=[Target.of(worker)],
        bodies=[request.SerializeToString()],
    )


def acquisitions(workers: Sequence[Worker], owner: str) -> Load:
    """Leases on an owner's records that nobody uses, each of which must be granted."""
    resource = f"//{owner}/records/bench"
    request = lease_pb2.AcquireRequest(action=ACTION, resource=resource, ttl_ms=1)
    permit = lease_pb2.AcquireResponse(verdict=decision_pb2.VERDICT_PERMIT)
    return Load(
        method=ACQUIRE,
        targets=[Target.of(worker) for worker in workers],
        bodies=[request.SerializeToString()],
        expect=permit.SerializeToString(),
    )


def check_against_echo(federation: Federation, client: UnaryClient, pace: Pace) -> Ratios:
    """Checks and echoes, in turn; the medians of the rounds' ratios."""
    figures: Ratios = {}
    worker, pids = federation.worker, federation.edge_pids()
    with echo_server(federation.organisation) as (address, echo_pid):
        echoes = Load(METHOD, [Target.of(worker, address)], [bytes(ECHO_BYTES)])
        for flight in CHECK_FLIGHTS:
            asked = checks(worker)
            pairs: list[tuple[Sample, Sample]] = []
            for number in range(pace.rounds):
                pace.tell(f"check and echo, {flight} in flight, {number + 1} of {pace.rounds}")
                echo = client.run(echoes, [echo_pid], flight=flight, seconds=pace.seconds)
                check = client.run(asked, pids, flight=flight, seconds=pace.seconds)
                pairs.append((check, echo))
            for field in ("rate", "p50_us", "p99_us", "cpu_us"):
                name = f"check/echo, {flight} in flight, {field.removesuffix('_us')}"
                figures[name] = median(
                    getattr(check, field) / getattr(echo, field) for check, echo in pairs
                )
    return figures


def edges_against_one(federation: Federation, client: UnaryClient, pace: Pace) -> Ratios:
    """Checks answered by two edge processes, against one: the node is started anew in between."""
    flight = 64
    pairs: list[tuple[Sample, Sample]] = []
    for number in range(pace.rounds):
        samples = []
        for edges in (2, 1):
            pace.tell(f"checks, {edges} edge(s), {number + 1} of {pace.rounds}")
            federation.have_edges(edges)
            asked, pids = checks(federation.worker, CONNECTIONS), federation.edge_pids()
            samples.append(client.run(asked, pids, flight=flight, seconds=pace.seconds))
        pairs.append((samples[0], samples[1]))
    name = f"checks at 2 edges / 1, {flight} in flight"
    return {
        f"{name}, rate": median(two.rate / one.rate for two, one in pairs),
        f"{name}, p99": median(two.p99_us / one.p99_us for two, one in pairs),
        f"{name}, CPU a check": median(two.cpu_us / one.cpu_us for two, one in pairs),
    }


def writes_against_fsync(federation: Federation, client: UnaryClient, pace: Pace) -> Ratios:
    """Committed acquisitions, against the machine's own rate of durable writes; and how many
    commands share one of the node's."""
    figures: Ratios = {}
    cluster, pids = federation.cluster, federation.edge_pids()
    asked = acquisitions([federation.worker], DOMAIN)
    for flight in FLIGHTS:
        ratios, shared = [], []
        for number in range(pace.rounds):
            pace.tell(f"committed writes, {flight} in flight, {number + 1} of {pace.rounds}")
            ceiling = fsyncs_per_second(cluster.directory, pace.seconds / 2)
            before = cluster.status(DOMAIN).durable_turns
            writes = client.run(asked, pids, flight=flight, seconds=pace.seconds)
            turns = cluster.status(DOMAIN).durable_turns - before
            ratios.append(writes.rate / ceiling)
            shared.append(writes.calls / turns)
        figures[f"writes/fsync of the machine, {flight} in flight"] = median(ratios)
        figures[f"writes/durable turn of the node, {flight} in flight"] = median(shared)
    return figures
