"""The one cluster of these tests, its executors, and the promise that each test leaves it whole.

Pickling explodes in every process of every node here (see `PickleTrap`), in all of the tests.
"""

from __future__ import annotations

import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from quorate.chaos.cluster import Cluster
from quorate.chaos.crew import Crew
from quorate.chaos.mirror import LedgerMirror
from quorate.chaos.operator import Operator
from quorate.chaos.processes import wait_until
from quorate.core import ids
from quorate.core.errors import QuorateError
from quorate.node.certificates import KeyPair

WHOLE_TIMEOUT_S = 60.0

TRAP = '''
"""Makes all pickling and unpickling in this process explode, and leaves a mark when it is tried."""
import os, pickle, traceback
import _pickle

MARKS = os.environ["TEST_PICKLE_TRAP"]

def explode(*_, **__):
    with open(f"{MARKS}/used-{os.getpid()}", "a") as mark:
        traceback.print_stack(file=mark)
    raise RuntimeError("pickling in a node")

def exploding(base):
    return type(base.__name__, (base,), {"__init__": explode})

for module in (pickle, _pickle):
    for name in ("load", "loads", "dump", "dumps", "_load", "_loads", "_dump", "_dumps"):
        if hasattr(module, name):
            setattr(module, name, explode)
    for name in ("Pickler", "Unpickler", "_Pickler", "_Unpickler"):
        if hasattr(module, name):
            setattr(module, name, exploding(getattr(module, name)))

open(f"{MARKS}/armed-{os.getpid()}", "w").close()
'''


@dataclass(frozen=True)
class PickleTrap:
    """A directory for PYTHONPATH that disarms pickle, and the directory of the marks it leaves."""

    code: Path
    marks: Path

    @classmethod
    def make(cls, directory: Path) -> PickleTrap:
        trap = cls(directory / "code", directory / "marks")
        trap.code.mkdir()
        trap.marks.mkdir()
        (trap.code / "sitecustomize.py").write_text(TRAP)
        return trap

    @property
    def environment(self) -> dict[str, str]:
        path = os.pathsep.join(filter(None, (str(self.code), os.environ.get("PYTHONPATH"))))
        return {"PYTHONPATH": path, "TEST_PICKLE_TRAP": str(self.marks)}

    def is_armed(self, pid: int) -> bool:
        return (self.marks / f"armed-{pid}").exists()

    def sprung(self) -> dict[str, str]:
        """Where somebody pickled: the stack, by process."""
        return {mark.name: mark.read_text() for mark in self.marks.glob("used-*")}

    @contextmanager
    def set(self) -> Iterator[None]:
        """Processes started now walk into it."""
        changes = self.environment
        before = {name: os.environ.get(name) for name in changes}
        os.environ.update(changes)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


class NodeProcesses:
    """The single processes of a cluster's nodes, by their part: supervisor, core, edge."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def pid(self, domain: str, part: str) -> int | None:
        """None while there is no such process."""
        group = self._cluster.processes(domain)
        if part == "supervisor":
            return group.pgid if group.is_running() else None
        for pid in group.members():
            with suppress(OSError):  # it ended while we looked
                arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if f"quorate.node.{part}_process".encode() in arguments:
                    return pid
        return None

    def signal(self, domain: str, part: str, number: signal.Signals) -> int:
        """Sends a signal to one process of a node; returns its id."""
        pid = self.pid(domain, part)
        assert pid is not None, f"{domain} has no {part}"
        os.kill(pid, number)
        return pid

    def wait_other(self, domain: str, part: str, than: int, timeout_s: float) -> int:
        """Waits until the part runs as another process than `than`; returns its id."""
        wait_until(
            f"a new {part} of {domain}",
            lambda: self.pid(domain, part) not in (None, than),
            timeout_s,
        )
        pid = self.pid(domain, part)
        assert pid is not None
        return pid


class TrappedCluster(Cluster):
    """A cluster whose nodes cannot pickle."""

    def __init__(self, directory: Path, trap: PickleTrap) -> None:
        super().__init__(directory)
        self._trap = trap

    def start(self, domains: Sequence[str] | None = None) -> None:
        with self._trap.set():
            super().start(domains)


@pytest.fixture(scope="package")
def pickle_trap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PickleTrap]:
    trap = PickleTrap.make(tmp_path_factory.mktemp("pickle-trap"))
    yield trap
    assert not trap.sprung()


@pytest.fixture(scope="package")
def shared_cluster(
    tmp_path_factory: pytest.TempPathFactory, pickle_trap: PickleTrap
) -> Iterator[Cluster]:
    with TrappedCluster(tmp_path_factory.mktemp("cluster"), pickle_trap) as cluster:
        cluster.prepare()
        cluster.start()
        cluster.wait_ready()
        yield cluster


@pytest.fixture(scope="package")
def crew(shared_cluster: Cluster) -> Iterator[Crew]:
    crew = Crew(shared_cluster)
    yield crew
    crew.close()


@pytest.fixture(scope="package")
def shared_mirror(shared_cluster: Cluster) -> LedgerMirror:
    return LedgerMirror(shared_cluster.operators(), shared_cluster.genesis())


@pytest.fixture
def node_processes(shared_cluster: Cluster) -> NodeProcesses:
    return NodeProcesses(shared_cluster)


@pytest.fixture
def cluster(shared_cluster: Cluster, shared_mirror: LedgerMirror) -> Iterator[Cluster]:
    """The cluster, whole: every node runs and has authority. After the test it must be so again,
    by itself, with three equal ledgers."""
    make_whole(shared_cluster)
    yield shared_cluster
    # What a test stopped, killed or cut on purpose is its own to mend: only links are healed here.
    shared_cluster.links.heal()
    try:
        shared_cluster.wait_ready(timeout_s=WHOLE_TIMEOUT_S)
        shared_mirror.catch_up()
    except QuorateError:
        make_whole(shared_cluster)  # or every later test would fail with this one
        raise


@pytest.fixture
def mirror(cluster: Cluster, shared_mirror: LedgerMirror) -> LedgerMirror:
    """The ledgers of all nodes, compared up to now."""
    shared_mirror.catch_up()
    return shared_mirror


def make_whole(cluster: Cluster) -> None:
    """Heals every link, resumes every process and starts every node that is down."""
    cluster.links.heal()
    for domain in cluster.members:
        group = cluster.processes(domain)
        for pid in group.members():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        if not group.is_running():
            cluster.kill(domain)  # what may be left of its processes
            cluster.start([domain])
    cluster.wait_ready(timeout_s=WHOLE_TIMEOUT_S)


class Strangers:
    """Connections with whatever certificate, and what becomes of calls over them."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._channels: list[grpc.Channel] = []

    def address(self, domain: str, port: str) -> str:
        return str(getattr(self._cluster.members[domain], f"{port}_address"))

    def channel(self, domain: str, port: str, pair: KeyPair | None) -> grpc.Channel:
        """To one port of a node, with this client certificate. The node's own is verified."""
        organisation = self._cluster.operator(domain).organisation
        credentials = grpc.ssl_channel_credentials(
            organisation.ca_certificate(),
            pair.private_key if pair else None,
            pair.certificate if pair else None,
        )
        name = ids.dns_name(self._cluster.members[domain].node_id)
        options = (
            ("grpc.ssl_target_name_override", name),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
            ("grpc.enable_retries", 0),
        )
        channel = grpc.secure_channel(self.address(domain, port), credentials, options=options)
        self._channels.append(channel)
        return channel

    def close(self) -> None:
        for channel in self._channels:
            channel.close()


@dataclass(frozen=True)
class Refused:
    """How a call was refused: its status, and the fields that it complains of."""

    code: grpc.StatusCode
    text: str
    fields: tuple[str, ...]


SECRETS = ("Traceback", ".py", 'File "', "google.protobuf", "object at 0x", "PRIVATE KEY", "Errno")


def refusal(call: Callable[[], object]) -> Refused:
    """The status that a call ends with; it must be an error, clear, and show nothing of the
    inside of the node."""
    try:
        answer = call()
    except grpc.RpcError as error:
        found = error
    else:
        raise AssertionError(f"not refused: {answer}")
    code, text = found.code(), found.details()
    assert text, f"{code}: says nothing"
    for secret in SECRETS:
        assert secret not in text, f"{code}: shows the inside of the node: {text}"
    fields: list[str] = []
    status = rpc_status.from_call(found)
    for detail in status.details if status is not None else ():
        request = error_details_pb2.BadRequest()
        if detail.Unpack(request):
            fields += [violation.field for violation in request.field_violations]
            assert all(violation.description for violation in request.field_violations)
    return Refused(code, text, tuple(fields))


@pytest.fixture
def refused() -> Callable[[Callable[[], object]], Refused]:
    return refusal


@pytest.fixture
def strangers(cluster: Cluster) -> Iterator[Strangers]:
    made = Strangers(cluster)
    yield made
    made.close()


class Bulk:
    """Commands that are as large as they may be: to fill logs, messages and disks."""

    @staticmethod
    def envelope(operator: Operator) -> bytes:
        owner = operator.domain
        name = f"bulk-{secrets.token_hex(8)}"
        return operator.sign(
            "grant.issue",
            {
                "grant": name,
                "executor": f"spiffe://{owner}/bulk/{name}",
                "actions": ["records.*"],
                "resources": [f"//{owner}/{name}/{n:02d}/{'x' * 180}" for n in range(32)],
                "not_after": time.time_ns() // 1_000_000 + 60_000,
                "max_lease_ttl_ms": 1_000,
                "max_uses": 0,
                "max_concurrent": 0,
            },
        )


@pytest.fixture
def bulk() -> type[Bulk]:
    return Bulk


@pytest.fixture
def python() -> list[str]:
    """This interpreter, without the current directory in its path."""
    return [sys.executable, "-P"]
