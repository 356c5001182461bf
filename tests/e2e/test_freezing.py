"""Real nodes: an organisation freezes what is done to its own, all of them freeze what is done to
anybody's, and executors that hold leases are denied and permitted with it, everywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
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
from quorate.chaos.crew import ACTION, Crew, Probing
from quorate.chaos.probe import boottime_ns
from quorate.chaos.processes import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

PATIENT = ("--authority-period", "10s")
"""A machine that is busy with other things must not look like a lost quorum here."""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("freezing"), parameters=PATIENT) as cluster:
        cluster.prepare()
        cluster.start()
        cluster.wait_ready(timeout_s=WAIT_S)
        yield cluster


@pytest.fixture(scope="module")
def probes(federation: Cluster) -> Iterator[dict[str, Probing]]:
    """Executors that check a lease all the time, each on the resources of another organisation."""
    crew = Crew(federation)
    yield probe(crew, BANK, CLINIC, FREIGHT)
    crew.close()


def cli(cluster: Cluster, name: str, *arguments: str) -> Any:
    return json.loads(cluster.cli_at(name, *arguments, "--output", "json"))


def decide(cluster: Cluster, *arguments: str, by: tuple[str, str], wait: str = "") -> Any:
    first, second = by
    ident = cli(cluster, first, "proposal", "open", *arguments)["result"]["id"]
    options = ("--wait", wait) if wait else ()
    told = cli(cluster, second, "proposal", "vote", ident[:12], "yes", *options)
    assert told["result"]["status"] == "executed", told
    return told


def owner_of(cluster: Cluster, probing: Probing) -> str:
    """Of the resource that the probe has its lease on: its neighbour."""
    domains = list(cluster.domains)
    return domains[(domains.index(probing.domain) + 1) % len(domains)]


def denied(probing: Probing, since_ns: int) -> None:
    """It permits nothing that was asked for later, and says why not."""

    def is_denied() -> bool:
        said = probing.journal.all()
        return bool(said) and said[-1].sent_ns > since_ns and said[-1].is_denial

    wait_until(f"a denial at {probing.domain}", is_denied, WAIT_S)
    assert probing.journal.all()[-1].reason == "FROZEN"
    assert probing.journal.permits(since_ns) == []


def test_what_one_freezes_is_denied_at_every_node_and_nothing_else(
    federation: Cluster, probes: dict[str, Probing]
) -> None:
    frozen = next(each for each in probes.values())
    owner = owner_of(federation, frozen)
    others = [each for each in probes.values() if owner_of(federation, each) != owner]
    told = cli(federation, owner, "resources", "freeze", "--wait", "drained")
    drained_ns = boottime_ns()
    assert (told["thing"], told["reached"]) == (owner, "drained")
    denied(frozen, drained_ns)
    for each in others:
        await_permit(each, drained_ns)
    [shown] = [
        each for each in cli(federation, CLINIC, "domain", "list")["records"] if each["id"] == owner
    ]
    assert shown["frozen"] == {"actions": [], "since": told["ledger_index"]}
    cli(federation, owner, "resources", "thaw")
    await_permit(frozen, boottime_ns())


def test_what_is_listed_goes_on(federation: Cluster, probes: dict[str, Probing]) -> None:
    some = next(each for each in probes.values())
    owner, listed = owner_of(federation, some), ("--allow", ACTION)
    cli(federation, owner, "resources", "freeze", *listed, "--wait", "enforced")
    enforced_ns = boottime_ns()
    for each in probes.values():
        await_permit(each, enforced_ns)
    assert all(not each.is_denial for each in some.journal.all() if each.sent_ns > enforced_ns)
    cli(federation, owner, "resources", "thaw")


def test_what_all_freeze_is_denied_everywhere_until_all_thaw(
    federation: Cluster, probes: dict[str, Probing]
) -> None:
    told = decide(federation, "freeze", "--allow", "x.*", by=(BANK, CLINIC), wait="drained")
    drained_ns = boottime_ns()
    assert told["reached"] == "drained"
    for each in probes.values():
        denied(each, drained_ns)
    assert cli(federation, FREIGHT, "status")["frozen"] == ["x.*"]
    decide(federation, "thaw", by=(FREIGHT, BANK))
    for each in probes.values():
        await_permit(each, boottime_ns())
    verified_ledgers(federation)
    for each in probes.values():
        assert each.process.stop() == 0
