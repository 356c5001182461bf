"""Real nodes: an organisation takes another CA while the others work, and who was away follows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.federations import (
    BANK,
    CLINIC,
    FREIGHT,
    WAIT_S,
    await_permit,
    probe,
    register,
    said,
)

from quorate.chaos.cluster import Cluster
from quorate.chaos.crew import Crew, Probing
from quorate.chaos.probe import boottime_ns
from quorate.chaos.processes import wait_until
from quorate.core.errors import QuorateError

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    path = tmp_path_factory.mktemp("another-ca")
    # So much authority that a busy machine is not what anybody is denied for.
    with Cluster(path, parameters=("--authority-period", "10s")) as cluster:
        cluster.prepare()
        cluster.start()
        cluster.wait_ready(timeout_s=WAIT_S)
        yield cluster


def cli(cluster: Cluster, name: str, *arguments: str) -> dict[str, object]:
    told: dict[str, object] = json.loads(cluster.cli_at(name, *arguments, "--output", "json"))
    return told


def set_ca(cluster: Cluster, *options: str) -> None:
    told = cli(cluster, BANK, "domain", "set-ca", *options)
    assert told["type"] == "domain.rekey", told


def renew(cluster: Cluster) -> None:
    member = cluster.members[BANK]
    before = said(member.log, "certificate.renewed")
    org = ("--org", str(member.organisation))
    cluster.cli("operator", "renew", *org)
    cluster.cli("node", "renew", str(member.directory), *org)
    wait_until(
        "the new certificate", lambda: said(member.log, "certificate.renewed") == before + 2, WAIT_S
    )
    cluster.reconnect(BANK)


def is_let_in(cluster: Cluster, client: Path) -> bool:
    try:
        cluster.cli("status", "--client", str(client))
    except QuorateError:
        return False
    return True


def permitted_all_the_while(probes: dict[str, Probing], since_ns: int) -> None:
    for name, probing in probes.items():
        await_permit(probing, boottime_ns())
        asked = [each for each in probing.journal.all() if each.sent_ns > since_ns]
        assert not [each for each in asked if each.is_denial], name


def size(cluster: Cluster, name: str) -> int:
    return int(str(cli(cluster, name, "status")["ledger_size"]))


def test_an_organisation_takes_another_ca_and_nobody_else_is_denied(federation: Cluster) -> None:
    crew = Crew(federation)
    probes = probe(crew, BANK, CLINIC, FREIGHT)
    begun_ns = boottime_ns()
    old = federation.issue_executor(BANK, "agent/old")
    set_ca(federation)
    permitted_all_the_while(probes, begun_ns)  # both are trusted, the bank's executors untouched
    new = federation.issue_executor(BANK, "agent/new")
    assert (new / "ca.crt").read_text().count("BEGIN") == 2
    # Executors that know the old CA alone do not know their node any more.
    probes.pop(BANK).process.stop()
    renew(federation)
    wait_until("the new executor", lambda: is_let_in(federation, new), WAIT_S)
    permitted_all_the_while(probes, begun_ns)
    set_ca(federation, "--finish")
    wait_until("the new executor", lambda: is_let_in(federation, new), WAIT_S)
    # What knows both CAs, with a certificate of the old one: the node does not let it in.
    (old / "ca.crt").write_bytes((new / "ca.crt").read_bytes())
    wait_until("the end of the old CA", lambda: not is_let_in(federation, old), WAIT_S)
    assert is_let_in(federation, new)
    permitted_all_the_while(probes, begun_ns)
    register(federation.operator(CLINIC))
    wait_until(
        "the same ledger", lambda: size(federation, BANK) >= size(federation, CLINIC), WAIT_S
    )
    crew.close()


def test_a_node_that_was_away_meanwhile_follows(federation: Cluster) -> None:
    """As does one of whom the organisation that it does not know any more is the leader."""
    federation.kill(FREIGHT)
    before = said(federation.members[FREIGHT].log, "peer.link_up", BANK)
    federation.wait_ready([BANK, CLINIC], timeout_s=WAIT_S)
    set_ca(federation)
    renew(federation)
    set_ca(federation, "--finish")
    federation.start([FREIGHT])
    federation.wait_ready([FREIGHT], timeout_s=WAIT_S)
    wait_until(
        "a link to the bank",
        lambda: said(federation.members[FREIGHT].log, "peer.link_up", BANK) > before,
        WAIT_S,
    )
    register(federation.operator(CLINIC))
    least = size(federation, CLINIC)
    wait_until("the same ledger", lambda: size(federation, FREIGHT) >= least, WAIT_S)
