"""Real nodes: certificates are renewed while executors work, and nobody is denied."""

from __future__ import annotations

import json
from collections.abc import Iterator

import grpc
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
    same_ledgers,
)

from quorate.chaos.cluster import Cluster
from quorate.chaos.crew import Crew
from quorate.chaos.probe import boottime_ns
from quorate.chaos.processes import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    # So much authority that a busy machine is not what anybody is denied for.
    path = tmp_path_factory.mktemp("renewing")
    with Cluster(path, parameters=("--authority-period", "10s")) as cluster:
        cluster.prepare()
        cluster.start()
        cluster.wait_ready(timeout_s=WAIT_S)
        yield cluster


def test_certificates_are_renewed_under_running_nodes_and_nobody_is_denied(
    federation: Cluster,
) -> None:
    crew = Crew(federation)
    probes = probe(crew, BANK, CLINIC, FREIGHT)
    begun_ns = boottime_ns()
    pids = {name: federation.processes(name).members() for name in probes}
    for name in (federation.leader(), *federation.names):  # the leader twice
        member = federation.members[name]
        before, of_before = (
            said(member.log, "certificate.renewed"),
            (member.directory / "node" / "tls.crt").read_bytes(),
        )
        told = json.loads(
            federation.cli(
                *("node", "renew", str(member.directory)),
                *("--org", str(member.organisation), "--output", "json"),
            )
        )
        assert told["spiffe_id"] == member.node_id
        assert (member.directory / "node" / "tls.crt").read_bytes() != of_before
        # The core process, and its edge.
        wait_until(
            f"the new certificate at {name}",
            lambda member=member, before=before: (
                said(member.log, "certificate.renewed") == before + 2
            ),
            WAIT_S,
        )
        changed_ns = boottime_ns()
        for probing in probes.values():
            await_permit(probing, changed_ns)
        register(federation.operator(name))
        status = json.loads(federation.cli_at(name, "status", "--output", "json"))
        assert status["certificate_not_after_ms"] // 1000 == told["not_after_ms"] // 1000
    for name, probing in probes.items():
        asked = [each for each in probing.journal.all() if each.sent_ns > begun_ns]
        assert not [each for each in asked if each.is_denial], name
        codes = {each.code for each in asked}
        assert codes <= {grpc.StatusCode.OK.name, grpc.StatusCode.UNAVAILABLE.name}, codes
        failed = sum(each.code != grpc.StatusCode.OK.name for each in asked)
        print(f"\n{name}: {failed} of {len(asked)} calls had to be repeated")  # noqa: T201
    assert {name: federation.processes(name).members() for name in probes} == pids, "none restarted"
    same_ledgers(federation)
    crew.close()


def test_an_operator_renewed_is_an_operator(federation: Cluster) -> None:
    org = str(federation.members[BANK].organisation)
    federation.cli("operator", "renew", "--org", org)
    federation.cli_at(BANK, "status")
