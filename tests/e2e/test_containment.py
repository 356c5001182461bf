"""Real nodes of three organisations: an executor's lease, one that came from it at the second, and
one that came from that at the third. What is done to the first stops all of them."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from tests.e2e.federations import BANK, CLINIC, FREIGHT, WAIT_S, verified_ledgers

from quorate.chaos.cluster import Cluster
from quorate.chaos.crew import Crew
from quorate.chaos.processes import wait_until
from quorate.client import Denied, Gate, Lease, Permit, WatchEvent, WatchNotice

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

PATIENT = ("--authority-period", "10s")
"""A machine that is busy with other things must not look like a lost quorum here."""
ACTION = "records.receive"
DOWNWARDS = (CLINIC, BANK, FREIGHT)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("containment"), parameters=PATIENT) as cluster:
        cluster.prepare()
        cluster.start()
        cluster.wait_ready(timeout_s=WAIT_S)
        yield cluster


@dataclass
class Held:
    """One lease of the chain, with what its holder was told."""

    lease: Lease
    told: queue.Queue[WatchNotice]

    def hears(self, event: WatchEvent) -> WatchNotice:
        notice = self.told.get(timeout=WAIT_S)
        assert notice.event is event, notice
        return notice

    def is_permitted(self) -> bool:
        self.lease.slot.drop()
        return isinstance(self.lease.check(), Permit)


@pytest.fixture(scope="module")
def chain(federation: Cluster) -> Iterator[dict[str, Held]]:
    """From the first organisation downwards, each on the records of the next."""
    crew, held = Crew(federation), dict[str, Held]()
    with ExitStack() as stack:
        stack.callback(crew.close)
        parents: tuple[str, ...] = ()
        for place, domain in enumerate(DOWNWARDS):
            gate = stack.enter_context(Gate.open(crew.workers[domain].client))
            owner = DOWNWARDS[(place + 1) % len(DOWNWARDS)]
            lease = gate.acquire(ACTION, f"//{owner}/records/{place}", parents=parents)
            assert isinstance(lease, Lease), lease
            each = held[domain] = Held(lease, queue.Queue())
            stack.callback(gate.on_change([lease], each.told.put).close)
            each.hears(WatchEvent.ACTIVE)
            parents = (lease.id,)
        yield held


def cli(cluster: Cluster, name: str, *arguments: str) -> Any:
    return json.loads(cluster.cli_at(name, "executor", *arguments, "--output", "json"))


def stopped(held: Held, thing: str) -> None:
    notice = held.hears(WatchEvent.INTERRUPTED)
    assert (notice.reason, notice.thing) == ("CONTAINED", thing)
    denied = held.lease.check()
    assert isinstance(denied, Denied)
    assert (denied.reason, denied.thing) == ("CONTAINED", thing)


def test_what_contains_the_first_stops_all_of_them_until_it_is_lifted(
    federation: Cluster, chain: dict[str, Held]
) -> None:
    root = chain[CLINIC].lease
    for name, what in (
        (CLINIC, ("agent/worker",)),
        (BANK, ("--lease", root.id)),  # the owner of its resource
    ):
        permits = [each.lease.check() for each in chain.values()]
        assert all(isinstance(permit, Permit) for permit in permits), permits
        told = cli(federation, name, "contain", *what, "--wait", "drained")
        assert told["reached"] == "drained", told
        for each in chain.values():
            stopped(each, told["thing"])
        [shown] = cli(federation, FREIGHT, "contained")["records"]
        assert (shown["id"], shown["by"]) == (told["thing"], [name])
        cli(federation, name, "lift-containment", *what)
        for each in chain.values():
            each.hears(WatchEvent.RESTORED)
            wait_until("a permit again", each.is_permitted, WAIT_S)


def test_every_node_tells_the_lineage_and_what_an_entry_reached(
    federation: Cluster, chain: dict[str, Held]
) -> None:
    root, middle, low = (chain[domain].lease.id for domain in DOWNWARDS)
    contained = cli(federation, CLINIC, "contain", "agent/worker")["ledger_index"]
    lifted = cli(federation, CLINIC, "lift-containment", "agent/worker")["ledger_index"]
    for each in chain.values():
        each.hears(WatchEvent.INTERRUPTED)
        each.hears(WatchEvent.RESTORED)

    def lineage(name: str, *arguments: str) -> Any:
        told = federation.cli_at(name, "lineage", *arguments, "--output", "json")
        return json.loads(told)

    wait_until(
        "the graphs have it",
        lambda: all(
            lineage(name, "ancestors", low)["graph_size"] > lifted for name in federation.names
        ),
        WAIT_S,
    )
    for name in federation.names:
        up = lineage(name, "ancestors", low)["leases"]
        assert [(each["id"], each["depth"]) for each in up] == [(middle, 1), (root, 2)]
        down = lineage(name, "descendants", root)["leases"]
        assert [(each["id"], each["depth"]) for each in down] == [(middle, 1), (low, 2)]
        thing = f"contained:{chain[CLINIC].lease.executor}"
        reached = lineage(name, "dependents", thing, "--at", str(contained), "--stopped")["leases"]
        assert [each["id"] for each in reached] == [root, middle, low]
        assert {each["after"]["reason"] for each in reached} == {"CONTAINED"}
        now = lineage(name, "dependents", thing)["leases"]
        assert all(each["after"]["in_force"] for each in now)
        assert root in federation.cli_at(name, "lineage", "dependents", thing, "--at", str(lifted))


def test_one_in_the_middle_stops_what_is_below_it_alone(
    federation: Cluster, chain: dict[str, Held]
) -> None:
    middle = chain[BANK].lease
    cli(federation, FREIGHT, "contain", "--lease", middle.id, "--wait", "drained")
    for domain in (BANK, FREIGHT):
        stopped(chain[domain], middle.id)
    assert chain[CLINIC].is_permitted()
    cli(federation, FREIGHT, "lift-containment", "--lease", middle.id)
    for domain in (BANK, FREIGHT):
        chain[domain].hears(WatchEvent.RESTORED)
    verified_ledgers(federation)
