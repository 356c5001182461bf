"""The client that calls both sides of a comparison: a small program in Go.

Owns building it (`bench/unary/main.go`, with Debian's Go and gRPC, nothing is downloaded) and
running it. A Python client costs more processor time a call than etcd does, and would measure
itself.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from quorate.chaos.crew import Worker

SOURCE: Final = Path(__file__).parent / "unary" / "main.go"
GO_PATH: Final = Path("/usr/share/gocode")
CALLERS_A_CONNECTION: Final = 32
WAIT_S: Final = 60.0
"""Beyond the seconds of a run: for connecting, and for the last calls."""


def missing() -> str:
    """What must be installed to build the client; empty when nothing is missing."""
    if shutil.which("go") is not None and (GO_PATH / "src/google.golang.org/grpc").is_dir():
        return ""
    return "Go or its gRPC not found: install golang-go and golang-google-grpc-dev"


@dataclass(frozen=True, slots=True)
class Target:
    """A server. Without `ca` the connection is in the clear; the files are PEM."""

    address: str
    server_name: str = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""

    @classmethod
    def of(cls, worker: Worker, address: str = "") -> Target:
        """The node that a worker is connected to, or another server of its organisation."""
        return cls(
            address=address or worker.config.lease_address,
            server_name=worker.config.server_name,
            ca=str(worker.client / "ca.crt"),
            certificate=str(worker.client / "executor.crt"),
            key=str(worker.client / "executor.key"),
        )


@dataclass(frozen=True, slots=True)
class Load:
    """What to call: the callers take the targets in turn, and their calls the bodies.
    `expect`: what every answer begins with."""

    method: str
    targets: Sequence[Target]
    bodies: Sequence[bytes]
    expect: bytes = b""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run. cpu_us: processor time of the servers for a call; client_cpu_us: of the client."""

    calls: int
    rate: float
    p50_us: float
    p99_us: float
    cpu_us: float
    client_cpu_us: float = 0.0


class UnaryClient:
    """The built client."""

    def __init__(self, program: Path) -> None:
        self._program = program

    @classmethod
    def build(cls, directory: Path) -> UnaryClient:
        """Builds it in `directory`; nothing may be `missing`."""
        program = directory / "unary"
        environment = os.environ | {
            "GO111MODULE": "off",
            "GOPATH": str(GO_PATH),
            "GOCACHE": str(directory / "go-cache"),
            "GOFLAGS": "",
        }
        command = ["go", "build", "-o", str(program), SOURCE.name]
        subprocess.run(command, check=True, cwd=SOURCE.parent, env=environment)
        return cls(program)

    def run(self, load: Load, pids: Sequence[int], *, flight: int, seconds: float) -> Sample:
        """One run; `pids`: the servers' processes, for their processor time. Raises RuntimeError
        when a call failed: a rate of calls of which some fail says nothing."""
        wish = {
            "method": load.method,
            "targets": [{field: getattr(t, field) for field in t.__slots__} for t in load.targets],
            "bodies": [b64encode(body).decode() for body in load.bodies],
            "expect": b64encode(load.expect).decode(),
            "flight": flight,
            "seconds": seconds,
            "connections": -(-flight // (CALLERS_A_CONNECTION * len(load.targets))),
        }
        servers, client = cpu_seconds(pids), _children_s()
        done = subprocess.run(
            [str(self._program)],
            input=json.dumps(wish).encode(),
            stdout=subprocess.PIPE,
            check=True,
            timeout=seconds + WAIT_S,
        )
        servers, client = cpu_seconds(pids) - servers, _children_s() - client
        result = json.loads(done.stdout)
        calls = result["calls"]
        if result["failures"] or not calls:
            raise RuntimeError(
                f"{load.method}: {result['failures']} of {calls + result['failures']} calls failed,"
                f" the first: {result['first_failure']}"
            )
        return Sample(
            calls=calls,
            rate=calls / result["seconds"],
            p50_us=result["p50_us"],
            p99_us=result["p99_us"],
            cpu_us=servers / calls * 1e6,
            client_cpu_us=client / calls * 1e6,
        )


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system time of these processes, seconds (proc(5), fields 14 and 15 of stat)."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
