"""Real nodes: policies are published under leases that are held and watched, by an organisation and
by all of them; what they stop is interrupted, and what they permit again goes on."""

from __future__ import annotations

import json
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.federations import BANK, CLINIC, WAIT_S, verified_ledgers

from quorate.chaos.cluster import Cluster, ClusterError
from quorate.chaos.crew import ACTION, Crew
from quorate.chaos.processes import wait_until
from quorate.client import Denied, Gate, Lease, Reason, WatchEvent, WatchNotice

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

PATIENT = ("--authority-period", "10s")
"""A machine that is busy with other things must not look like a lost quorum here."""
NEEDS_TICKET = f"""
@id("with-a-ticket")
permit (principal in Domain::"{BANK}", action, resource)
when {{ context.given.hasTag("ticket") && context.given.getTag("ticket") like "OPS-*" }};
"""
NOT_ANY_MORE = f"""{NEEDS_TICKET}
@id("not-any-more")
forbid (principal, action, resource) when {{ context.action == "{ACTION}" }};
"""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("policies"), parameters=PATIENT) as cluster:
        cluster.prepare()
        cluster.start()
        cluster.wait_ready(timeout_s=WAIT_S)
        yield cluster


@pytest.fixture(scope="module")
def gate(federation: Cluster) -> Iterator[Gate]:
    crew = Crew(federation)
    crew.grant(BANK, "held", crew.workers[BANK], "held/*")
    with Gate.open(crew.workers[BANK].client) as opened:
        yield opened
    crew.close()


@pytest.fixture
def lease(gate: Gate) -> Lease:
    found = gate.acquire(ACTION, f"//{BANK}/held/book", context={"ticket": "OPS-7"})
    assert isinstance(found, Lease), found
    return found


def cli(cluster: Cluster, name: str, *arguments: str) -> Any:
    return json.loads(cluster.cli_at(name, *arguments, "--output", "json"))


def denied(cluster: Cluster, name: str, *arguments: str) -> str:
    """What it printed when it ended with exit code 3."""
    with pytest.raises(ClusterError, match="exit code 3: ") as found:
        cluster.cli_at(name, *arguments)
    return str(found.value).partition("exit code 3: ")[2]


def decide(cluster: Cluster, *arguments: str) -> Any:
    ident = cli(cluster, BANK, "proposal", "open", *arguments)["result"]["id"]
    told = cli(cluster, CLINIC, "proposal", "vote", ident[:12], "yes", "--wait", "enforced")
    assert told["result"]["status"] == "executed", told
    return told


def write(directory: Path, text: str) -> str:
    file = directory / f"{abs(hash(text))}.cedar"
    file.write_text(text)
    return str(file)


@pytest.mark.parametrize("by", ["domain", "federation"])
def test_a_set_interrupts_a_watched_lease_and_another_restores_it(
    federation: Cluster, gate: Gate, lease: Lease, by: str, tmp_path: Path
) -> None:
    def put(text: str) -> None:
        if by == "domain":
            cli(federation, BANK, "policy", "publish", write(tmp_path, text))
        else:
            decide(federation, "policy", write(tmp_path, text))

    told: queue.Queue[WatchNotice] = queue.Queue()
    watch = gate.on_change([lease], told.put)
    assert told.get(timeout=WAIT_S).event is WatchEvent.ACTIVE
    put(NEEDS_TICKET)
    assert lease.check(), "it has a ticket"
    without = gate.acquire(ACTION, f"//{BANK}/held/book")
    assert isinstance(without, Denied)
    assert without.reason is Reason.NO_POLICY_PERMITS
    put(NOT_ANY_MORE)
    notice = told.get(timeout=WAIT_S)
    assert (notice.event, notice.reason) == (WatchEvent.INTERRUPTED, Reason.POLICY_FORBIDS)
    checked = lease.check()
    assert isinstance(checked, Denied)
    assert checked.reason is Reason.POLICY_FORBIDS
    put(NEEDS_TICKET + "// again\n")
    assert told.get(timeout=WAIT_S).event is WatchEvent.RESTORED
    wait_until("a permit", lambda: bool(lease.check()), WAIT_S)
    watch.close()
    assert lease.release()
    if by == "domain":
        cli(federation, BANK, "policy", "retire")
    else:
        decide(federation, "retire-policy")


def test_it_is_shown_explained_and_replayed_by_every_node(
    federation: Cluster, lease: Lease, tmp_path: Path
) -> None:
    cli(federation, BANK, "policy", "publish", write(tmp_path, NOT_ANY_MORE))
    for name in federation.domains:
        shown = cli(federation, name, "policy", "show", "--domain", BANK)
        assert shown["text"] == NOT_ANY_MORE
    assert "forbids: not-any-more" in denied(federation, BANK, "explain", "lease", lease.id)
    words = ("policy", "replay", write(tmp_path, NOT_ANY_MORE), "--domain", BANK, "-o", "json")
    replayed = json.loads(denied(federation, CLINIC, *words))
    assert replayed["would_be_interrupted"] == []
    assert {each["was"] for each in replayed["changes"]} == {"permitted"}
    verified_ledgers(federation)
