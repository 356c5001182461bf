"""The runbook, executed: what docs/recovery.md says to do is done to a federation of real
processes, one accident after the other."""

from __future__ import annotations

import json
import re
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from quorate.chaos.cluster import Cluster, cli_command
from quorate.chaos.mirror import LedgerMirror
from quorate.chaos.processes import clean_environment, wait_until
from quorate.node import certificates, exit_codes
from quorate.v1 import governance_pb2

pytestmark = pytest.mark.cluster

BANK, CLINIC, FREIGHT = "bank.example", "clinic.example", "freight.example"
PAGE = Path(__file__).parents[2] / "docs/recovery.md"
BLOCK = re.compile(r"<!-- runbook: ([\w ]+) -->\n```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXITS = re.compile(r"  # exits (\d+)$")
RUN = re.compile(r"quorate node run --config (\w+)/node\.toml$")
END_S = 60.0
WHOLE_S = 120.0


class Runbook:
    """The page's commands, case by case, for the directories of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.cases: dict[str, list[str]] = {}
        for case, block in BLOCK.findall(PAGE.read_text()):
            self.cases.setdefault(case, []).extend(block.splitlines())
        for domain in cluster.members:
            short = cluster.directory / domain.partition(".")[0]
            short.symlink_to(domain, target_is_directory=True)

    def follow(self, case: str) -> list[str]:
        """Does what the page says; returns what each command has printed."""
        return [self._do(line) for line in self.cases.pop(case)]

    def _do(self, line: str) -> str:
        node = RUN.match(line)
        if node is not None:
            domain = f"{node[1]}.example"
            self.cluster.start([domain])
            wait_until("an answer", lambda: bool(self.cluster.status_or_none(domain)), WHOLE_S)
            return ""
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


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Of this page alone: what happens to it is not mended by itself."""
    with Cluster(tmp_path_factory.mktemp("recovery")) as cluster:
        cluster.prepare()
        cluster.start()
        cluster.wait_ready()
        yield cluster


@pytest.fixture(scope="module")
def runbook(federation: Cluster) -> Runbook:
    return Runbook(federation)


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
    roles = json.loads(federation.cli("node", "list", "--org", CLINIC, "-o", "json"))["records"]
    wait_until("three voters", lambda: voters(federation) == 3, WHOLE_S)
    assert len(roles) == 3
    record = federation.operator(BANK).record(governance_pb2.KIND_EXECUTOR, executor)
    assert record["status"] == "active"
    register(federation, BANK)
    LedgerMirror(federation.operators(), federation.genesis()).catch_up()


def voters(federation: Cluster) -> int:
    """In force, as the leader sees it."""
    listed = federation.cli("members", "--org", federation.leader(), "-o", "json")
    return sum(each["raft_role"] == "voter" for each in json.loads(listed)["members"])


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
    assert 'data_dir = "data"' in right
    file.write_text(right.replace('data_dir = "data"', 'data_dir = "elsewhere"'))
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
    ends_with(federation, exit_codes.CONFIGURATION, "not now", "issue a new certificate")
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
    wait_until("the end of the lost node's membership", lambda: voters(federation) == 2, WHOLE_S)
    federation.wait_ready([CLINIC, FREIGHT])


def test_every_case_of_the_page_was_played(runbook: Runbook) -> None:
    assert runbook.cases == {}
