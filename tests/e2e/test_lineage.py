"""What executors say of their work, and what nodes had to deny, is in every ledger: once, in order,
whatever happens between."""

from __future__ import annotations

import json
import signal
from base64 import b64decode
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from tests.e2e.conftest import NodeProcesses

from quorate.chaos.cluster import Cluster
from quorate.chaos.crew import Crew, Worker
from quorate.chaos.mirror import LedgerMirror
from quorate.chaos.processes import wait_until
from quorate.client import ClientReason, Denied, Gate, Lease, Reason, Reported, coming_from
from quorate.core import dsse
from quorate.v1 import governance_pb2

pytestmark = pytest.mark.cluster

BANK, CLINIC = "bank.example", "clinic.example"
ENFORCED = governance_pb2.WAIT_LEVEL_ENFORCED
WAIT_S = 60.0


def records(mirror: LedgerMirror) -> list[dict[str, Any]]:
    """Every record that the ledgers have, in order."""
    mirror.catch_up()
    found = []
    for data in mirror.entries:
        entry = json.loads(data)
        if entry["type"] == "lineage.append" and entry["decision"] == "accepted":
            command = json.loads(b64decode(entry["command"]["payload"]))
            found += command["body"]["records"]
    return found


def events_of(mirror: LedgerMirror, lease: Lease) -> list[str]:
    mine = [each for each in records(mirror) if each["lease"] == lease.id]
    return [each["type"] for each in mine if each["kind"] == "event"]


def wait_for_events(mirror: LedgerMirror, lease: Lease, *types: str) -> None:
    wait_until(f"{types} in the ledger", lambda: events_of(mirror, lease) == list(types), WAIT_S)


def denied(lease: Lease) -> object:
    answer = lease.check()
    return answer.reason if isinstance(answer, Denied) else None


@pytest.fixture
def gates() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def granted(crew: Crew, gates: ExitStack, domain: str, name: str) -> Lease:
    worker: Worker = crew.workers[domain]
    crew.grant(domain, name, worker, f"{name}/*")
    gate = gates.enter_context(Gate.open(worker.client))
    lease = gate.acquire("records.receive", f"//{domain}/{name}/book")
    assert isinstance(lease, Lease), lease
    return lease


def test_work_without_a_quorum_is_told_when_there_is_one(
    cluster: Cluster, crew: Crew, gates: ExitStack, mirror: LedgerMirror
) -> None:
    lease = granted(crew, gates, BANK, "told-later")
    assert lease.event("started", {"program": "payroll"}) == Reported(lease.id, "started")
    wait_for_events(mirror, lease, "started")
    size = len(mirror.entries)
    cluster.links.partition([])
    wait_until("the node denies", lambda: denied(lease) is Reason.INQUORATE, WAIT_S)
    assert lease.event("interrupted", {"reason": "INQUORATE"}) == Reported(lease.id, "interrupted")
    refused = lease.event("completed")
    assert isinstance(refused, Denied)
    assert (refused.reason, refused.thing) == (Reason.ILLEGAL_TRANSITION, "completed")
    config = str(cluster.members[BANK].config)
    outbox = cluster.cli("node", "outbox", "--config", config, "--output", "json")
    waiting = [json.loads(line) for line in outbox.splitlines()]
    assert waiting
    key = cluster.genesis().descriptors[0].node.signing_key
    for each in waiting:
        assert dsse.from_json(each).verify(key)
    cluster.links.heal()
    wait_for_events(mirror, lease, "started", "interrupted")

    def denials() -> list[dict[str, Any]]:
        return [
            each
            for each in records(mirror)
            if each["kind"] == "denials" and each["lease"] == lease.id
        ]

    wait_until("the denials in the ledger", denials, WAIT_S)
    assert {each["reason"] for each in denials()} == {"INQUORATE"}
    assert all(each["executor"] == lease.executor for each in denials())
    assert all(each["ledger_size"] >= size and each["method"] == "Check" for each in denials())


def test_what_was_acknowledged_outlives_the_node_that_did(
    cluster: Cluster, crew: Crew, gates: ExitStack, mirror: LedgerMirror
) -> None:
    lease = granted(crew, gates, BANK, "outlived")
    told: list[str] = []
    for kind in ("started", "reported"):
        cluster.links.isolate(BANK)
        told.append(kind)
        assert lease.event(kind) == Reported(lease.id, "started")
        cluster.kill(BANK)
        cluster.links.heal()
        cluster.start([BANK])
        cluster.wait_ready()
        wait_for_events(mirror, lease, *told)


def test_a_node_that_is_stopped_keeps_what_its_edges_have_just_denied(
    cluster: Cluster, crew: Crew, gates: ExitStack
) -> None:
    lease = granted(crew, gates, BANK, "kept-at-a-stop")
    cluster.links.partition([])
    wait_until("the node denies", lambda: denied(lease) is Reason.INQUORATE, WAIT_S)
    asked = 1 + sum(denied(lease) is Reason.INQUORATE for _ in range(5))
    cluster.stop(BANK)
    config = str(cluster.members[BANK].config)
    outbox = cluster.cli("node", "outbox", "--config", config, "--output", "json")
    cluster.links.heal()
    cluster.start([BANK])
    cluster.wait_ready()
    waiting = [json.loads(dsse.from_json(json.loads(line)).payload) for line in outbox.splitlines()]
    assert sum(each["count"] for each in waiting if each["lease"] == lease.id) == asked


def test_a_core_that_is_stopped_is_waited_for_and_nothing_is_told_twice(
    cluster: Cluster,
    crew: Crew,
    gates: ExitStack,
    mirror: LedgerMirror,
    node_processes: NodeProcesses,
) -> None:
    lease = granted(crew, gates, BANK, "stopped-core")
    node_processes.signal(BANK, "core", signal.SIGSTOP)
    try:
        answer = lease.event("started")
    finally:
        node_processes.signal(BANK, "core", signal.SIGCONT)
    assert isinstance(answer, Denied)
    assert answer.unknown
    assert answer.reason in (ClientReason.LATE, ClientReason.UNREACHABLE)
    assert lease.event("started"), "the node has it, or has it now"
    assert lease.event("completed")
    wait_for_events(mirror, lease, "started", "completed")


def test_work_comes_from_work_of_another_organisation(
    cluster: Cluster, crew: Crew, gates: ExitStack, mirror: LedgerMirror
) -> None:
    parent = granted(crew, gates, BANK, "parent")
    with coming_from(parent.id):
        child = granted(crew, gates, CLINIC, "child")
    assert child.parents == (parent.id,)
    cluster.operator(BANK).revoke("grant.revoke", {"grant": "parent"}, ENFORCED)
    with coming_from(parent.id):
        again = gates.enter_context(Gate.open(crew.workers[CLINIC].client)).acquire(
            "records.receive", f"//{CLINIC}/child/book"
        )
    assert isinstance(again, Denied)
    assert (again.reason, again.thing) == (Reason.BROKEN_LINEAGE, parent.id)
    assert child.check(), "it began while its parent held"
