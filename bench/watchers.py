"""Ten thousand watched leases at one edge: what they cost in memory, what a Watch call costs more,
and how long it takes until each of their holders has heard of a revocation that hits them all.

One client process hears all of it, in Python; it needs more time for a notice than the edge does.
So the edge's own CPU time is told beside the moments at which notices were heard.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.client import cpu_seconds
from bench.federation import DOMAIN, Federation
from bench.pace import Pace
from quorate.chaos.probe import NS_PER_MS, boottime_ns
from quorate.core.limits import MAX_CONCURRENT_LEASES
from quorate.v1 import governance_pb2

WATCHED = 10_000


def many_watchers(federation: Federation, pace: Pace, count: int = WATCHED) -> dict[str, float]:
    """Once, whatever the number of rounds: acquiring so many leases takes a minute."""
    crew, cluster = federation.crew, federation.cluster
    worker, operator = federation.worker, cluster.operator(DOMAIN)
    grants = -(-count // MAX_CONCURRENT_LEASES)
    for number in range(grants):
        crew.grant(DOMAIN, f"watched-{number}", worker, f"watched-{number}/*")
    command = [sys.executable, "-m", "bench.watching", "--client", str(worker.client)]
    command += ["--resources", f"//{DOMAIN}/watched-{{}}/book", "--grants", str(grants)]
    command += ["--count", str(count)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as client:
        _said(client)
        [edge] = federation.edge_pids()
        pace.tell("watching some leases, in one call and in many")
        alone_kib = _resident_kib(edge)
        _go_on(client)
        _said(client)
        one_kib = _resident_kib(edge)
        _go_on(client)
        calls = int(_said(client)["calls"])
        many_kib = _resident_kib(edge)
        pace.tell(f"acquiring {count} leases")
        _go_on(client)
        _said(client)
        before_kib, cpu_s = _resident_kib(edge), cpu_seconds([edge])
        pace.tell(f"watching {count} leases")
        _go_on(client)
        _said(client)
        watched_kib, watched_s = _resident_kib(edge), cpu_seconds([edge])
        pace.tell("suspending the executor of all of them")
        began_ns = boottime_ns()
        who = {"executor": worker.id}
        revoked = operator.revoke("executor.suspend", who, governance_pb2.WAIT_LEVEL_ENFORCED)
        if revoked.reached < governance_pb2.WAIT_LEVEL_ENFORCED:
            raise RuntimeError("the revocation was not enforced in time")
        told = _said(client)
        fanned_s = cpu_seconds([edge])
        assert client.stdin is not None
        client.stdin.close()
        client.wait(30)
    operator.order("executor.reinstate", who)
    name = f"{count:,} watched leases"
    return {
        f"{calls} watched leases: KiB of the edge in one call": float(one_kib - alone_kib),
        f"{calls} watched leases: KiB of the edge for each call, in a call each": (
            many_kib - one_kib
        )
        / (calls - 1),
        f"{name}: KiB of the edge for each": (watched_kib - before_kib) / count,
        f"{name}: us of the edge's CPU to begin with each": (watched_s - cpu_s) / count * 1e6,
        f"{name}: us of the edge's CPU to tell each": (fanned_s - watched_s) / count * 1e6,
        f"{name}: ms from the command to the first notice": _since(began_ns, told["first_ns"]),
        f"{name}: ms to the median notice": _since(began_ns, told["median_ns"]),
        f"{name}: ms to the last notice": _since(began_ns, told["last_ns"]),
    }


def _go_on(client: subprocess.Popen[str]) -> None:
    assert client.stdin is not None
    client.stdin.write("\n")
    client.stdin.flush()


def _said(client: subprocess.Popen[str]) -> dict[str, Any]:
    assert client.stdout is not None
    line = client.stdout.readline()
    if not line:
        raise RuntimeError("the client has ended")
    said: dict[str, Any] = json.loads(line)
    return said


def _resident_kib(pid: int) -> int:
    """Memory that the process has for itself: pages of the store are the store's."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def _since(began_ns: int, moment_ns: int) -> float:
    return (moment_ns - began_ns) / NS_PER_MS
