"""A node whose disk is full refuses what it cannot keep, denies, says so, and harms nobody; when
there is room again it goes on."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from quorate.chaos.cluster import Cluster
from quorate.chaos.crew import Crew, Probing
from quorate.chaos.operator import Operator
from quorate.chaos.probe import boottime_ns
from quorate.chaos.processes import wait_until
from quorate.chaos.toml import to_toml
from quorate.v1 import decision_pb2, governance_pb2

pytestmark = pytest.mark.cluster

FULL_S = 60.0
RECOVERY_S = 30.0
MOST_COMMANDS = 2_000
KIB = 1_024


def configure(cluster: Cluster, domain: str, section: str, key: str, value: str | int) -> None:
    file = cluster.members[domain].directory / "node.toml"
    document = tomllib.loads(file.read_text())
    document.setdefault(section, {})[key] = value
    file.write_text(to_toml(document))


@pytest.fixture
def restore(cluster: Cluster) -> Iterator[Callable[[str], None]]:
    """Gives a node its own configuration back, and starts it again, after the test."""
    changed: dict[str, str] = {}

    def remember(domain: str) -> None:
        changed[domain] = (cluster.members[domain].directory / "node.toml").read_text()

    yield remember
    for domain, text in changed.items():
        (cluster.members[domain].directory / "node.toml").write_text(text)
        cluster.restart(domain)
    cluster.wait_ready()


def is_full(cluster: Cluster, domain: str) -> bool:
    assert cluster.processes(domain).is_running(), "full is not a fault"
    status = cluster.status_or_none(domain)
    return status is not None and not status.writable


def fill(cluster: Cluster, domain: str, writer: Operator, bulk) -> None:
    """Writes through another node until this one has no room."""
    for _ in range(MOST_COMMANDS):
        if is_full(cluster, domain):
            return
        request = governance_pb2.SubmitRequest(envelope=bulk.envelope(writer))
        writer._settle("submit", writer.governance.Submit, request, FULL_S)
    raise AssertionError(f"{domain} takes everything")


def probe_at(crew: Crew, domain: str) -> Probing:
    probing = crew.probe(domain, crew.workers[domain].lease(f"//{domain}/records/kept").id)
    wait_until("permits", lambda: bool(probing.journal.permits()), RECOVERY_S)
    return probing


def assert_refuses(cluster: Cluster, crew: Crew, domain: str, probing: Probing) -> None:
    """The node says that it is full in each of its answers, and permits nothing."""
    wait_until(
        "denials for want of storage",
        lambda: bool(probing.journal.denials("STORAGE_FULL")),
        RECOVERY_S,
    )
    status = cluster.status(domain)
    assert not status.writable
    assert not status.has_authority
    assert status.authority_reason == decision_pb2.REASON_STORAGE_FULL
    assert "free disk space" in status.storage_problem
    operator = cluster.operator(domain)
    envelope = operator.sign(
        "executor.register", {"executor": f"spiffe://{domain}/agent/{secrets.token_hex(8)}"}
    )
    told = operator.governance.Submit(governance_pb2.SubmitRequest(envelope=envelope), timeout=10)
    assert not told.HasField("outcome")
    assert not told.unknown, "it was not proposed at all"
    assert told.reason == decision_pb2.REASON_STORAGE_FULL
    wish = crew.workers[domain].acquire(f"//{domain}/records/book")
    assert (wish.verdict, wish.reason) == (
        decision_pb2.VERDICT_DENY,
        decision_pb2.REASON_STORAGE_FULL,
    )


def assert_others_go_on(cluster: Cluster, crew: Crew, domain: str) -> None:
    for other in cluster.members:
        if other == domain:
            continue
        cluster.operator(other).order(
            "executor.register", {"executor": f"spiffe://{other}/agent/{secrets.token_hex(8)}"}
        )
        lease = crew.workers[other].lease(f"//{domain}/records/elsewhere")
        assert crew.workers[other].check(lease.id).verdict == decision_pb2.VERDICT_PERMIT


def test_a_full_map_denies_until_it_is_larger(
    *, cluster: Cluster, crew: Crew, bulk, restore, mirror, node_processes
):
    leader = cluster.leader()
    domain = next(each for each in cluster.members if each != leader)
    cluster.stop(domain)
    data = cluster.members[domain].directory / "data" / "ledger" / "data.mdb"
    restore(domain)
    configure(cluster, domain, "storage", "map_size_bytes", data.stat().st_size + 512 * KIB)
    cluster.start([domain])
    cluster.wait_ready([domain])
    core = node_processes.pid(domain, "core")
    probing = probe_at(crew, domain)
    fill(cluster, domain, cluster.operator(leader), bulk)
    assert_refuses(cluster, crew, domain, probing)
    assert_others_go_on(cluster, crew, domain)
    assert node_processes.pid(domain, "core") == core, "full is not a fault"
    assert {asked.code for asked in probing.journal.all()} == {"OK"}
    assert probing.process.stop() == 0

    configure(cluster, domain, "storage", "map_size_bytes", 64 * KIB * KIB)
    cluster.restart(domain)
    cluster.wait_ready([domain])
    mirror.catch_up()
    lease = crew.workers[domain].lease(f"//{domain}/records/book")
    assert crew.workers[domain].check(lease.id).verdict == decision_pb2.VERDICT_PERMIT


# -- a disk that is really full --------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of some bytes. Skips where nobody may mount."""
    mounted: list[Path] = []

    def mount(size: int) -> Path:
        if os.geteuid() != 0:
            pytest.skip("mounting needs root")
        disk = tmp_path / "disk"
        disk.mkdir(mode=0o700)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(disk)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"cannot mount here: {done.stderr.strip()}")
        mounted.append(disk)
        return disk

    yield mount
    for disk in mounted:
        subprocess.run(["umount", str(disk)], check=True)


def fill_disk(disk: Path) -> Path:
    """Leaves no byte free."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(64 * KIB)):
            pass
    with ballast.open("ab", buffering=0) as file, suppress(OSError):
        while file.write(bytes(512)):
            pass
    return ballast


@pytest.mark.root
def test_a_leader_whose_disk_is_full_gives_up_and_recovers_without_a_restart(
    *, cluster: Cluster, crew: Crew, bulk, small_disk, restore, mirror, node_processes
):
    domain = cluster.leader()
    source = cluster.members[domain].directory / "data"
    size = (source / "ledger" / "data.mdb").stat().st_size
    disk = small_disk(2 * size + 32 * KIB * KIB)
    restore(domain)
    cluster.stop(domain)
    shutil.copytree(source, disk / "data", ignore=shutil.ignore_patterns("*.sock"))
    (disk / "data").chmod(0o700)
    configure(cluster, domain, "node", "data_dir", str(disk / "data"))
    cluster.start([domain])
    cluster.wait_ready()
    make_leader(cluster, domain)
    processes = {part: node_processes.pid(domain, part) for part in ("core", "edge")}
    probing = probe_at(crew, domain)
    others = [cluster.operator(each) for each in cluster.members if each != domain]

    ballast = fill_disk(disk)
    fill(cluster, domain, others[0], bulk)
    assert_refuses(cluster, crew, domain, probing)
    assert_others_go_on(cluster, crew, domain)
    assert cluster.leader() != domain

    ballast.unlink()
    room_ns = boottime_ns()
    wait_until(
        "a node that has room again", lambda: cluster.status(domain).has_authority, RECOVERY_S
    )
    wait_until("permits again", lambda: bool(probing.journal.permits(room_ns)), RECOVERY_S)
    assert {p: node_processes.pid(domain, p) for p in ("core", "edge")} == processes
    assert {asked.code for asked in probing.journal.all()} == {"OK"}
    assert probing.process.stop() == 0
    mirror.catch_up()
    cluster.operator(domain).order(
        "executor.register", {"executor": f"spiffe://{domain}/agent/{secrets.token_hex(8)}"}
    )
    # The data that the node wrote goes where its own configuration looks for it.
    cluster.stop(domain)
    shutil.rmtree(source)
    shutil.copytree(disk / "data", source, ignore=shutil.ignore_patterns("*.sock"))
    source.chmod(0o700)


def make_leader(cluster: Cluster, domain: str) -> None:
    """Lets the others fall silent in turn until this node leads."""
    for _ in range(20):
        leader = cluster.leader()
        if leader == domain:
            return
        cluster.pause(leader)
        try:
            wait_until(
                "another leader",
                lambda leader=leader: leader_besides(cluster, leader) is not None,
                RECOVERY_S,
            )
        finally:
            cluster.resume(leader)
        cluster.wait_ready()
    raise AssertionError(f"{domain} was never elected")


def leader_besides(cluster: Cluster, paused: str) -> str | None:
    """Who leads among the nodes that are not paused."""
    for domain in cluster.members:
        if domain != paused:
            status = cluster.status(domain)
            if status.leader == status.node_id:
                return domain
    return None
