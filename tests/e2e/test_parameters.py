"""Real nodes: organisations agree on other parameters while executors work; nobody is denied."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.e2e.federations import (
    BANK,
    CLINIC,
    FREIGHT,
    WAIT_S,
    await_permit,
    probe,
    verified_ledgers,
)

from quorate.chaos.cluster import Cluster
from quorate.chaos.crew import Crew
from quorate.chaos.probe import boottime_ns
from quorate.chaos.processes import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def cli(cluster: Cluster, name: str, *arguments: str) -> Any:
    return json.loads(cluster.cli_at(name, *arguments, "--output", "json"))


def change(cluster: Cluster, *options: str) -> Any:
    opened = cli(cluster, BANK, "proposal", "open", "parameters", *options)
    ident = opened["result"]["id"][:12]
    told = cli(cluster, CLINIC, "proposal", "vote", ident, "yes", "--wait", "enforced")
    assert told["result"]["status"] == "executed", told
    assert told["reached"] == "enforced"
    return told


def test_authority_and_permits_last_as_long_as_was_agreed(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.mktemp("parameters")
    with Cluster(path, parameters=("--authority-period", "10s")) as cluster:
        cluster.prepare()
        cluster.start()
        cluster.wait_ready(timeout_s=WAIT_S)
        crew = Crew(cluster)
        probes = probe(crew, BANK, CLINIC, FREIGHT)
        begun_ns = boottime_ns()
        told = change(cluster, "--authority-period", "30s", "--max-permit-ttl", "200ms")

        def lasts_longer() -> bool:
            left = [cli(cluster, name, "status")["authority_remaining_ms"] for name in probes]
            return min(left) > 15_000

        wait_until("authority for as long as was agreed", lasts_longer, WAIT_S)
        index = str(told["ledger_index"])
        for name, probing in probes.items():
            said = cli(cluster, name, "federation", "show", "--at-least", index)
            assert said["parameters"]["authority_period_ms"] == 30_000
            assert said["widest"]["max_permit_ttl_ms"] == 1_000
            changed_ns = boottime_ns()
            await_permit(probing, changed_ns)
            assert {each.ttl_ms > 200 for each in probing.journal.permits(changed_ns)} == {False}
        change(cluster, "--authority-period", "5s")
        for name, probing in probes.items():
            await_permit(probing, boottime_ns())
            assert cli(cluster, name, "status")["authority_remaining_ms"] <= 5_000
            asked = [each for each in probing.journal.all() if each.sent_ns > begun_ns]
            assert not any(each.is_denial for each in asked)
        verified_ledgers(cluster)
        crew.close()
