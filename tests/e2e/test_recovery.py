"""The runbook, executed: what docs/recovery.md says to do is done to a federation of real
processes, one accident after the other."""

from __future__ import annotations

import json
import re
import secrets
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from quorate.chaos.cluster import Cluster, cli_command
from quorate.chaos.mirror import LedgerMirror
from quorate.chaos.ports import Ports
from quorate.chaos.processes import clean_environment, wait_until
from quorate.node import certificates, exit_codes
from quorate.v1 import governance_pb2

pytestmark = pytest.mark.cluster

BANK, CLINIC, FREIGHT = "bank.example", "clinic.example", "freight.example"
PAGE = Path(__file__).parents[2] / "docs/recovery.md"
BLOCK = re.compile(r"<!-- runbook: ([\w ]+) -->\n```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXITS = re.compile(r"  # exits (\d+)$")
RUN = re.compile(r"quorate node run --config ([\w-]+)/node\.toml$")
PORT = re.compile(r"127\.0\.0\.1:74\d\d")
END_S = 60.0
WHOLE_S = 120.0


class Runbook:
    """The page's commands, case by case, for the directories of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._ports = Ports()
        self._addresses: dict[str, str] = {}
        for domain in cluster.members:
            short = cluster.directory / domain.partition(".")[0]
            short.symlink_to(domain, target_is_directory=True)

    def follow(self, case: str) -> list[str]:
        """Does what the page says; returns what each command has printed."""
        return [self._do(line) for line in cases()[case]]

    def close(self) -> None:
        self._ports.close()

    def _address(self, shown: re.Match[str]) -> str:
        """Nobody knows whether the page's ports are free here."""
        return self._addresses.setdefault(shown[0], self._ports.address())

    def _do(self, line: str) -> str:
        node = RUN.match(line)
        if node is not None:
            self._start(node[1])
            return ""
        line = PORT.sub(self._address, line)
        wished = EXITS.search(line)
        command = ["sh", "-ec", line]
        if line.startswith("quorate "):
            command = [*cli_command(), *shlex.split(line, comments=True)[1:]]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=END_S,
            cwd=self.cluster.directory,
            env=clean_environment({"NO_COLOR": "1"}),
        )
        assert done.returncode == (int(wished[1]) if wished else 0), (line, done.stderr)
        return done.stdout + done.stderr

    def _start(self, directory: str) -> None:
        """What stays in the foreground, for a person."""
        domain = f"{directory}.example"
        if domain in self.cluster.members:
            self.cluster.start([domain])
            wait_until("an answer", lambda: bool(self.cluster.status_or_none(domain)), WHOLE_S)
            return
        place = self.cluster.directory / directory
        command = [*cli_command(), "node", "run", "--config", str(place / "node.toml")]
        self.cluster.warden.spawn(directory, command, log=place / "node.log", directory=place)


def cases() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for case, block in BLOCK.findall(PAGE.read_text()):
        found.setdefault(case, []).extend(block.splitlines())
    return found


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Of this page alone: what happens to it is not mended by itself."""
    with Cluster(tmp_path_factory.mktemp("recovery")) as cluster:
        cluster.prepare()
        cluster.start()
        cluster.wait_ready()
        yield cluster


@pytest.fixture(scope="module")
def runbook(federation: Cluster) -> Iterator[Runbook]:
    made = Runbook(federation)
    yield made
    made.close()


def data(federation: Cluster) -> Path:
    return federation.members[BANK].directory / "data"


def register(federation: Cluster, domain: str) -> str:
    """An executor that everybody has to know afterwards."""
    executor = f"spiffe://{domain}/agent/{secrets.token_hex(8)}"
    federation.operator(domain).order("executor.register", {"executor": executor})
    return executor


def ends_with(federation: Cluster, code: int, *words: str) -> None:
    """The bank's node, started now, ends by itself."""
    federation.start([BANK])
    assert federation.processes(BANK).wait(END_S) == code
    said = federation.processes(BANK).log_tail(12)
    for word in words:
        assert word in said, said
    assert "Traceback" not in said


def is_whole(federation: Cluster, executor: str) -> None:
    """Every node permits, nobody is on probation, the three vote, and the ledgers are one."""
    federation.wait_ready(timeout_s=WHOLE_S)
    wait_until("the end of probation", lambda: not federation.status(BANK).probation, WHOLE_S)
    wait_until("three voters", lambda: len(voters(federation)) == 3, WHOLE_S)
    record = federation.operator(BANK).record(governance_pb2.KIND_EXECUTOR, executor)
    assert record["status"] == "active"
    register(federation, BANK)
    LedgerMirror(federation.operators(), federation.genesis()).catch_up()


def voters(federation: Cluster, domain: str = CLINIC) -> list[str]:
    """In force, as one node sees it."""
    listed = json.loads(federation.cli("members", "--org", domain, "-o", "json"))["members"]
    return sorted(each["node_id"] for each in listed if each["raft_role"] == "voter")


def test_a_backup_is_taken_while_the_node_works(federation: Cluster, runbook: Runbook) -> None:
    register(federation, BANK)
    size = federation.status(BANK).position.size
    [said] = runbook.follow("backup")
    copy = federation.directory / "backups/bank-1"
    assert [each.name for each in copy.iterdir()] == ["data.mdb"]
    assert "copied and verified" in said
    assert re.search(rf"ledger_size +{size}\b", said), said
    assert federation.status(BANK).has_authority


def test_a_damaged_store_is_named_and_a_backup_put_in_its_place(
    federation: Cluster, runbook: Runbook
) -> None:
    federation.stop(BANK)
    executor = register(federation, CLINIC)  # which the backup does not have
    file = data(federation) / "ledger/data.mdb"
    content = file.read_bytes()
    assert b'"governance_key"' in content
    file.write_bytes(content.replace(b'"governance_key"', b'"governance_keX"'))
    ends_with(federation, exit_codes.DAMAGED, "core.damaged", "database state_a", "bank.example")
    verified = runbook.follow("damaged")
    assert "database state_a" in verified[0]
    assert len(list(data(federation).glob("ledger.replaced-*"))) == 1
    assert "probation.begins" in federation.processes(BANK).log_tail(1_000)
    is_whole(federation, executor)


def test_a_lost_store_is_begun_again(federation: Cluster, runbook: Runbook) -> None:
    executor = register(federation, BANK)
    federation.kill(BANK)
    shutil.rmtree(data(federation))
    ends_with(federation, exit_codes.DAMAGED, "is gone", "quorate node rejoin")
    runbook.follow("lost store")
    is_whole(federation, executor)


def test_a_node_does_not_begin_in_the_wrong_directory(
    federation: Cluster, runbook: Runbook
) -> None:
    executor = register(federation, BANK)
    federation.stop(BANK)
    file = federation.members[BANK].directory / "node.toml"
    right = file.read_text()
    assert right.count('= "data"\n') == 1
    file.write_text(right.replace('= "data"\n', '= "elsewhere"\n'))
    ends_with(federation, exit_codes.DAMAGED, "is gone", "elsewhere", "node.data_dir")
    file.write_text(right)
    runbook.follow("wrong directory")
    is_whole(federation, executor)


def test_the_state_of_the_disk_is_told(federation: Cluster, runbook: Runbook) -> None:
    [said] = runbook.follow("full disk")
    assert re.search(r"storage +writable", said), said


def test_an_expired_certificate_is_replaced(federation: Cluster, runbook: Runbook) -> None:
    executor = register(federation, BANK)
    federation.stop(BANK)
    organisation = federation.operator(BANK).organisation
    two_years_ago = datetime.now(UTC) - timedelta(days=730)
    old = certificates.issue_node(organisation.ca(), organisation.config.node.id, now=two_years_ago)
    organisation.config.tls.certificate.write_bytes(old.certificate)
    organisation.config.tls.private_key.write_bytes(old.private_key)
    ends_with(federation, exit_codes.CONFIGURATION, "not now", "quorate node renew")
    runbook.follow("expired certificate")
    is_whole(federation, executor)


def test_a_lost_node_is_retired_and_another_added_by_way_of_another_organisation(
    federation: Cluster, runbook: Runbook
) -> None:
    federation.kill(BANK)
    shutil.rmtree(data(federation))
    shutil.rmtree(federation.members[BANK].directory / "node")
    listed = runbook.follow("lost node")[-1]
    assert re.search(rf"spiffe://{BANK}/node/1 .* revoked", listed), listed
    assert re.search(rf"spiffe://{BANK}/node/2 .* voter +active", listed), listed
    expected = [f"spiffe://{BANK}/node/2", *(f"spiffe://{d}/node/1" for d in (CLINIC, FREIGHT))]
    wait_until("the new node's vote", lambda: voters(federation) == expected, WHOLE_S)
    federation.wait_ready([CLINIC, FREIGHT])


FIVE = (BANK, CLINIC, FREIGHT, "port.example", "union.example")
RECOVERED = "quorate.example/recovered-1"


def test_two_of_five_go_on_when_three_are_lost(tmp_path: Path) -> None:
    with Cluster(tmp_path / "federation", FIVE) as federation:
        federation.prepare()
        federation.start()
        federation.wait_ready(timeout_s=WHOLE_S)
        executor = register(federation, BANK)
        operator = federation.operator(BANK)
        fence = acquire(federation)
        operator.revoke(
            "executor.revoke", {"executor": executor}, governance_pb2.WAIT_LEVEL_COMMITTED
        )
        for domain in FIVE[2:]:
            federation.kill(domain)
        for domain in (BANK, CLINIC):
            federation.stop(domain)
        runbook = Runbook(federation)
        told = runbook.follow("lost quorum")
        runbook.close()
        assert any(f"consistent with the ledger of the node of {CLINIC}" in each for each in told)
        federation.wait_ready([BANK, CLINIC], timeout_s=WHOLE_S)
        for domain in (BANK, CLINIC):
            assert federation.status(domain).origin == RECOVERED
        record = operator.record(governance_pb2.KIND_EXECUTOR, executor)
        assert record["status"] == "revoked", "what was decided before is decided"
        federation.origin = RECOVERED
        assert acquire(federation) > fence + 2**32
        expected = sorted(f"spiffe://{d}/node/1" for d in (BANK, CLINIC))
        expected.append(f"spiffe://{FREIGHT}/node/2")
        wait_until("a third voter", lambda: voters(federation, BANK) == expected, WHOLE_S)


def test_the_only_voter_goes_on_from_a_backup(tmp_path: Path) -> None:
    with Cluster(tmp_path / "federation", (BANK,)) as federation:
        federation.prepare()
        federation.start()
        federation.wait_ready(timeout_s=WHOLE_S)
        executor = register(federation, BANK)
        fence = acquire(federation)
        config = str(federation.members[BANK].directory / "node.toml")
        federation.cli("node", "backup", "backups/bank-1", "--config", config)
        since = register(federation, BANK)
        federation.stop(BANK)
        runbook = Runbook(federation)
        told = runbook.follow("survivors on probation")
        runbook.close()
        assert any("is not in this ledger is lost" in " ".join(each.split()) for each in told)
        goes_on(federation, [BANK], fence)
        operator = federation.operator(BANK)
        record = operator.record(governance_pb2.KIND_EXECUTOR, executor)
        assert record["status"] == "active"
        operator.order("executor.register", {"executor": since})  # it was lost: nobody knows it


def test_two_of_three_that_were_begun_again_go_on(tmp_path: Path) -> None:
    with Cluster(tmp_path / "federation") as federation:
        federation.prepare()
        federation.start()
        federation.wait_ready(timeout_s=WHOLE_S)
        executor = register(federation, BANK)
        fence = acquire(federation)
        for domain in (BANK, CLINIC, FREIGHT):
            federation.stop(domain)
        config = {
            domain: ("--config", str(federation.members[domain].directory / "node.toml"))
            for domain in (BANK, CLINIC, FREIGHT)
        }
        for domain in (CLINIC, FREIGHT):
            federation.cli("node", "rejoin", "--replace", *config[domain])
        federation.start()
        wait_until("three nodes", lambda: all(map(federation.status_or_none, config)), WHOLE_S)
        assert federation.status(CLINIC).probation
        assert not federation.status(BANK).has_authority
        for domain in (BANK, CLINIC, FREIGHT):
            federation.stop(domain)
        given = []
        for domain in (CLINIC, FREIGHT):
            given += ["--survivor", f"{domain}.json"]
            recover(federation, "summary", f"{domain}.json", *config[domain])
        recover(federation, "propose", "r", "--origin", RECOVERED, *given, *config[BANK])
        for domain in (BANK, CLINIC, FREIGHT):
            recover(federation, "sign", str(federation.members[domain].organisation), "r", "--yes")
        for domain in (BANK, CLINIC, FREIGHT):
            recover(federation, "install", "r", *config[domain])
        federation.start()
        goes_on(federation, [BANK, CLINIC, FREIGHT], fence)
        record = federation.operator(CLINIC).record(governance_pb2.KIND_EXECUTOR, executor)
        assert record["status"] == "active"


def recover(federation: Cluster, *arguments: str) -> None:
    federation.cli("federation", "recover", *arguments)


def goes_on(federation: Cluster, domains: list[str], fence: int) -> None:
    """The new ledger has a quorum, nobody in it is on probation, and leases are given."""
    federation.wait_ready(domains, timeout_s=WHOLE_S)
    federation.origin = RECOVERED
    for domain in domains:
        status = federation.status(domain)
        assert (status.origin, status.probation) == (RECOVERED, False)
    assert voters(federation, BANK) == sorted(f"spiffe://{each}/node/1" for each in domains)
    assert acquire(federation) > fence + 2**32


def acquire(federation: Cluster) -> int:
    """A lease of a new executor of the bank; returns its fence."""
    operator = federation.operator(BANK)
    operator.origin = federation.origin
    name = f"worker/{secrets.token_hex(4)}"
    directory = federation.issue_executor(BANK, name)
    executor = f"spiffe://{BANK}/{name}"
    operator.order("executor.register", {"executor": executor})
    operator.order(
        "grant.issue",
        {
            "grant": secrets.token_hex(8),
            "executor": executor,
            "actions": ["records.write"],
            "resources": [f"//{BANK}/records/*"],
            "not_after": time.time_ns() // 1_000_000 + 3_600_000,
            "max_lease_ttl_ms": 600_000,
            "max_uses": 0,
            "max_concurrent": 0,
        },
    )
    wish = ("records.write", f"//{BANK}/records/book", "--client", str(directory))
    lease = json.loads(federation.cli("lease", "acquire", *wish, "-o", "json"))
    return int(lease["lease"]["fence"] if "lease" in lease else lease["fence"])


def test_every_case_of_the_page_was_played() -> None:
    followed = re.findall(r"follow\(\"([\w ]+)\"\)", Path(__file__).read_text())
    assert sorted(followed) == sorted(cases())
