"""Real organisations decide together who is a member: one is admitted and takes part, one is
suspended and comes back, one is expelled and is heard by nobody any more."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e.federations import (
    BANK,
    CLINIC,
    FREIGHT,
    WAIT_S,
    await_permit,
    await_roles,
    probe,
    register,
    roles,
    said,
    verified_ledgers,
)

from quorate.chaos.cluster import Cluster
from quorate.chaos.crew import Crew
from quorate.chaos.probe import boottime_ns
from quorate.chaos.processes import wait_until
from quorate.v1 import decision_pb2, governance_pb2

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

MINT = "mint.example"
FOUNDERS = (BANK, CLINIC, FREIGHT)
PATIENT = ("--authority-period", "10s")
"""A machine that is busy with other things must not look like a lost quorum here."""


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("ballots"), parameters=PATIENT) as cluster:
        cluster.prepare()
        cluster.start()
        cluster.wait_ready(timeout_s=WAIT_S)
        yield cluster


@pytest.fixture(scope="module")
def crew(federation: Cluster) -> Iterator[Crew]:
    crew = Crew(federation)
    yield crew
    crew.close()


def say(cluster: Cluster, name: str, *arguments: str) -> Any:
    return json.loads(cluster.cli_at(name, "proposal", *arguments, "--output", "json"))


def decide(cluster: Cluster, *arguments: str, by: tuple[str, ...], wait: str = "") -> Any:
    """The first of `by` proposes it, the others agree, each at its own node. What the last was
    told."""
    first, *others = by
    told = say(cluster, first, "open", *arguments)
    ident = told["result"]["id"]
    for name in others:
        assert told["result"]["status"] == "open"
        options = ("--wait", wait) if wait and name == others[-1] else ()
        told = say(cluster, name, "vote", ident[:12], "yes", *options)
    assert told["result"]["status"] == "executed", told
    return told


def test_an_organisation_is_admitted_by_the_others_and_takes_part(federation: Cluster) -> None:
    """One of them is away meanwhile, and hears of nothing."""
    assert federation.stop(FREIGHT) == 0
    name = federation.found(MINT)
    federation.start([name])
    descriptor = federation.members[name].directory / "descriptor.json"
    opened = say(federation, BANK, "open", "admit", str(descriptor))
    ident = opened["result"]["id"]
    shown = say(federation, CLINIC, "show", ident[:8])
    assert (shown["act"], shown["needed"], shown["yes"]) == ("domain.admit", 2, [BANK])
    assert ["node, which votes", "", "spiffe://mint.example/node/1"] in shown["changes"]
    # Whoever is not admitted yet is let in by nobody, and permits nothing.
    wait_until("an answer of the new node", lambda: federation.status_or_none(name), WAIT_S)
    assert not federation.status(name).has_authority
    assert say(federation, CLINIC, "vote", ident, "yes")["result"]["status"] == "executed"
    here = (BANK, CLINIC, MINT)
    federation.wait_ready(here, timeout_s=WAIT_S)
    await_roles(federation, dict.fromkeys((*FOUNDERS, MINT), "voter"), here)
    federation.domains = (*FOUNDERS, MINT)
    register(federation.operator(name))


def test_who_was_away_comes_back_also_when_the_new_one_leads(federation: Cluster) -> None:
    """It knows neither the new organisation nor its authority, and lets its node in under no
    circumstances: that gives way."""
    here = (BANK, CLINIC, MINT)

    def gave_way() -> int:
        return said(federation.members[MINT].log, "newcomer.gives_way")

    before = gave_way()
    for _ in range(40):
        leader = federation.leader()
        if leader == MINT or gave_way() > before:
            break
        assert federation.stop(leader) == 0
        federation.start([leader])
        federation.wait_ready(here, timeout_s=WAIT_S)
    wait_until("another leader", lambda: gave_way() > before, WAIT_S)
    federation.start([FREIGHT])
    federation.wait_ready(timeout_s=WAIT_S)
    await_roles(federation, dict.fromkeys((*FOUNDERS, MINT), "voter"), federation.names)
    verified_ledgers(federation)


def test_a_suspended_organisation_is_denied_until_the_others_reinstate_it(
    federation: Cluster, crew: Crew
) -> None:
    probes = probe(crew, BANK, FREIGHT)
    # It is not asked, and has no vote on it.
    told = decide(federation, "suspend", FREIGHT, by=(BANK, MINT), wait="enforced")
    suspended_ns = boottime_ns()
    assert told["reached"] in {"enforced", "drained"}
    wait_until("a denial", lambda: probes[FREIGHT].journal.all()[-1].is_denial, WAIT_S)
    assert probes[FREIGHT].journal.permits(suspended_ns) == []
    assert probes[FREIGHT].journal.all()[-1].reason == "DOMAIN_SUSPENDED"
    own = federation.operator(FREIGHT).submit("domain.reinstate", {"domain": FREIGHT})
    assert own.reason == decision_pb2.REASON_NOT_AUTHORIZED
    decide(federation, "reinstate", FREIGHT, by=(CLINIC, BANK))
    await_permit(probes[FREIGHT], boottime_ns())
    for probing in probes.values():
        assert probing.process.stop() == 0


def test_an_expelled_organisation_is_heard_by_nobody(federation: Cluster, crew: Crew) -> None:
    gone = FREIGHT
    rest = tuple(name for name in (*FOUNDERS, MINT) if name != gone)
    probes = probe(crew, BANK, gone)
    told = decide(federation, "expel", gone, by=(MINT, BANK), wait="drained")
    expelled_ns = boottime_ns()
    assert told["reached"] == "drained"
    assert probes[gone].journal.permits(expelled_ns) == []
    federation.forget(gone)
    await_roles(federation, dict.fromkeys(rest, "voter"), rest)
    # Its node goes on answering, and denies: nobody lets it in, nobody hears its orders.
    order = federation.operator(gone).sign(
        "executor.register", {"executor": f"spiffe://{gone}/agent/{secrets.token_hex(4)}"}
    )
    outcome = federation.operator(BANK).ask(
        federation.operator(BANK).governance.Submit, governance_pb2.SubmitRequest(envelope=order)
    )
    assert outcome.reason == decision_pb2.REASON_DOMAIN_REVOKED
    assert not federation.status(gone).has_authority
    before = federation.status(gone).position.size
    for name in rest:
        register(federation.operator(name))
    await_permit(probes[BANK], boottime_ns())
    assert federation.status(gone).position.size == before, "it is told of nothing any more"
    assert probes[gone].journal.permits(expelled_ns) == []
    assert federation.members[gone].node_id not in roles(federation, BANK)
    verified_ledgers(federation)
    for probing in probes.values():
        assert probing.process.stop() == 0
