"""A running federation gets a new program, one node at a time, and then new rules: nobody is denied
but by the node that is being restarted, and what does not know the rules does not start."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
    verified_ledgers,
)

from quorate.chaos.cluster import Cluster
from quorate.chaos.crew import Crew, Probing
from quorate.chaos.operator import CommandFailedError
from quorate.chaos.probe import boottime_ns
from quorate.chaos.processes import wait_until
from quorate.core import protocol
from quorate.node import exit_codes
from quorate.v1 import decision_pb2, governance_pb2, node_pb2

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

PATIENT = ("--authority-period", "10s")
"""A machine that is busy with other things must not look like a lost quorum here."""
OLDER = '''
"""Makes the program of this process one that knows the first version of the protocol only."""
import quorate.core.protocol

quorate.core.protocol.LATEST = quorate.core.protocol.FIRST
'''


class Programs:
    """Which program the processes are of that are started next."""

    def __init__(self, directory: Path) -> None:
        self._path = directory
        self._path.mkdir()
        (self._path / "sitecustomize.py").write_text(OLDER)

    @contextmanager
    def older(self) -> Iterator[None]:
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(self._path), before)))
        try:
            yield
        finally:
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return Programs(tmp_path_factory.mktemp("older") / "code")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, programs: Programs) -> Iterator[Cluster]:
    """Drafted and run by older programs."""
    with Cluster(tmp_path_factory.mktemp("upgrade"), parameters=PATIENT) as cluster:
        with programs.older():
            cluster.prepare()
            cluster.start()
        cluster.wait_ready(timeout_s=WAIT_S)
        yield cluster


@pytest.fixture(scope="module")
def crew(federation: Cluster) -> Iterator[Crew]:
    crew = Crew(federation)
    yield crew
    crew.close()


@pytest.fixture(scope="module")
def probes(crew: Crew) -> Iterator[dict[str, Probing]]:
    """One asks each node without pause, as long as these tests last."""
    started = probe(crew, BANK, CLINIC, FREIGHT)
    yield started
    for probing in started.values():
        assert probing.process.stop() == 0


def denials(probing: Probing, since_ns: int) -> list[str]:
    asked = probing.journal.all()
    return [each.reason for each in asked if each.is_denial and each.sent_ns >= since_ns]


def versions(cluster: Cluster, name: str) -> dict[str, int]:
    """What each node has said that its program knows."""
    operator = cluster.operator(name)
    answer = operator.ask(operator.node.ListMembers, node_pb2.ListMembersRequest())
    return {member.domain: member.protocol for member in answer.members}


def say(cluster: Cluster, name: str, *arguments: str) -> Any:
    return json.loads(cluster.cli_at(name, "proposal", *arguments, "--output", "json"))


def propose(cluster: Cluster, name: str) -> governance_pb2.SubmitCommandResponse:
    body = {"act": "federation.upgrade", "body": {"protocol": protocol.SECOND}}
    expires = cluster.status(name).position.ledger_time_ms + 3_600_000
    return cluster.operator(name).submit("proposal.open", {**body, "expires_at": expires})


def test_an_older_federation_is_not_upgraded(
    federation: Cluster, probes: dict[str, Probing]
) -> None:
    for name in federation.names:
        status = federation.status(name)
        assert (status.protocol, status.latest_protocol) == (protocol.FIRST, protocol.FIRST)
    refused = propose(federation, BANK)
    assert refused.reason == decision_pb2.REASON_UNSUPPORTED_PROTOCOL


def test_one_node_after_the_other_gets_the_new_program_and_only_its_own_checks_wait(
    federation: Cluster, crew: Crew, probes: dict[str, Probing]
) -> None:
    since_ns = boottime_ns()
    restarted = {}
    leader = federation.leader()
    for name in [*(each for each in federation.names if each != leader), leader]:
        began_ns = boottime_ns()
        assert federation.stop(name) == 0
        federation.start([name])
        federation.wait_ready([name], timeout_s=WAIT_S)
        await_permit(probes[name], boottime_ns())
        restarted[name] = (began_ns, boottime_ns())
        # Old and new decide together, under the rules that both know.
        register(federation.operator(name))
        assert federation.status(name).protocol == protocol.FIRST
        assert federation.status(name).latest_protocol == protocol.LATEST
    for name, probing in probes.items():
        began_ns, ended_ns = restarted[name]
        others = [
            each.reason
            for each in probing.journal.all()
            if each.is_denial
            and each.sent_ns >= since_ns
            and not began_ns <= each.sent_ns <= ended_ns
        ]
        assert others == [], f"{name} denied while another was restarted"
    everybody = dict.fromkeys(federation.names, protocol.LATEST)
    for name in federation.names:
        wait_until("every node's word", lambda n=name: versions(federation, n) == everybody, WAIT_S)


def test_the_federation_goes_on_to_the_new_rules_by_ballot_and_nobody_is_denied(
    federation: Cluster, crew: Crew, probes: dict[str, Probing]
) -> None:
    since_ns = boottime_ns()
    ident = say(federation, BANK, "open", "upgrade", str(protocol.SECOND))["result"]["id"]
    shown = say(federation, CLINIC, "show", ident[:8])
    assert shown["changes"] == [["protocol", "1", "2"]]
    told = say(federation, CLINIC, "vote", ident[:12], "yes")
    assert told["result"]["status"] == "executed"
    for name in federation.names:
        wait_until(
            "the new rules", lambda n=name: federation.status(n).protocol == protocol.SECOND, WAIT_S
        )
    # The bank's trust reaches freight by way of the clinic: the first version had no such thing.
    books = [f"//{BANK}/books/*"]
    edge = {"actions": ["books.read"], "resources": books}
    order = federation.operator(BANK).order
    order("trust.open", {"edge": "books", "trustee": CLINIC, "max_depth": 1, **edge})
    federation.operator(CLINIC).order(
        "trust.open", {"edge": "banks-books", "trustee": FREIGHT, **edge}
    )
    worker = crew.workers[FREIGHT]
    order(
        "grant.issue",
        {
            "grant": "books-for-freight",
            "executor": worker.id,
            **edge,
            "not_after": federation.status(BANK).position.ledger_time_ms + 3_600_000,
            "max_lease_ttl_ms": 60_000,
            "max_uses": 0,
            "max_concurrent": 0,
        },
    )
    lease = worker.lease(f"//{BANK}/books/1", "books.read")
    route = (lease.trust_edge, *lease.passed_on)
    assert route == (f"{BANK}/books", f"{CLINIC}/banks-books")
    assert worker.check(lease.id).verdict == decision_pb2.VERDICT_PERMIT
    # Whoever passed it on ends it for all behind, as the owner would.
    federation.operator(CLINIC).order("trust.close", {"edge": "banks-books"})
    wait_until(
        "a denial",
        lambda: worker.check(lease.id).reason == decision_pb2.REASON_NO_TRUST,
        WAIT_S,
    )
    assert {name: denials(each, since_ns) for name, each in probes.items()} == {
        name: [] for name in probes
    }
    verified_ledgers(federation)


def test_an_older_program_does_not_start_any_more_and_loses_nothing(
    federation: Cluster, programs: Programs, probes: dict[str, Probing]
) -> None:
    assert federation.stop(FREIGHT) == 0
    with programs.older():
        federation.start([FREIGHT])
    node = federation.processes(FREIGHT)
    wait_until("its end", lambda: not node.is_running(), WAIT_S)
    assert node.stop() == exit_codes.OUTDATED
    log = federation.members[FREIGHT].log
    assert said(log, "core.outdated", "knows them up to 1") >= 1
    assert not federation.status_or_none(FREIGHT)
    federation.start([FREIGHT])
    federation.wait_ready(timeout_s=WAIT_S)
    await_permit(probes[FREIGHT], boottime_ns())


def test_an_organisation_renews_its_keys_and_who_was_away_follows(
    federation: Cluster, probes: dict[str, Probing]
) -> None:
    assert federation.stop(FREIGHT) == 0
    federation.cli_at(CLINIC, "domain", "rekey")
    executor = f"spiffe://{CLINIC}/agent/renewed"
    with pytest.raises(CommandFailedError, match="REASON_BAD_SIGNATURE"):
        federation.operator(CLINIC).submit("executor.register", {"executor": executor})
    federation.cli_at(CLINIC, "executor", "register", executor)
    federation.start([FREIGHT])
    federation.wait_ready(timeout_s=WAIT_S)
    await_permit(probes[FREIGHT], boottime_ns())
    verified_ledgers(federation)
