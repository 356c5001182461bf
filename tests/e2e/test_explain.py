"""Explanations of a real federation: of now by its nodes, of the past by nobody's word."""

from __future__ import annotations

import json
import secrets
import subprocess
from typing import Any

import pytest

from quorate.chaos.cluster import Cluster
from quorate.chaos.crew import ACTION, CALL_TIMEOUT_S, Crew
from quorate.chaos.members import cli_command
from quorate.chaos.mirror import LedgerMirror
from quorate.v1 import decision_pb2, explain_pb2, explain_pb2_grpc

pytestmark = pytest.mark.cluster

BANK, CLINIC, FREIGHT = "bank.example", "clinic.example", "freight.example"


def why(cluster: Cluster, domain: str, *arguments: object) -> tuple[int, Any]:
    """What `quorate explain` says to the operator of an organisation, and its exit code."""
    member = cluster.members[domain]
    where = ("--org", str(member.organisation), "--address", member.governance_address)
    words = ["explain", *map(str, arguments), *where, "--output", "json"]
    ran = subprocess.run([*cli_command(), *words], capture_output=True, text=True, check=False)
    assert ran.returncode in (0, 3), ran.stderr
    return ran.returncode, json.loads(ran.stdout)


def test_a_lease_is_explained_from_its_grant_to_its_end(
    cluster: Cluster, crew: Crew, mirror: LedgerMirror
) -> None:
    worker, name = crew.workers[CLINIC], f"explained-{secrets.token_hex(4)}"
    crew.grant(BANK, name, worker, f"{name}/*")
    resource = f"//{BANK}/{name}/book"
    about = ("--executor", worker.id, "--action", ACTION, "--resource", resource)

    code, told = why(cluster, CLINIC, "act", *about)
    assert (code, told["verdict"], told["has_authority"]) == (0, "permit", True)
    chain = [thing["id"] for step in told["steps"] for thing in step["things"]]
    assert f"{BANK}/to-{CLINIC}" in chain, "among other edges that were looked at"
    assert chain[-1] == f"{BANK}/{name}"

    granted = worker.acquire(resource, ttl_ms=60_000)
    assert granted.verdict == decision_pb2.VERDICT_PERMIT
    revoked = cluster.operator(BANK).order("grant.revoke", {"grant": name}).ledger_index
    denied = worker.acquire(resource)
    assert denied.reason == decision_pb2.REASON_GRANT_REVOKED

    # Now: the executor from its edge, and every operator from the own node.
    explain = explain_pb2_grpc.ExplainServiceStub(worker.channel)
    held = explain_pb2.ExplainedLease(lease_id=granted.lease.id)
    request = explain_pb2.ExplainRequest(lease=held, minimum_index=revoked)
    answer = explain.Explain(request, timeout=CALL_TIMEOUT_S)
    assert (answer.reason, answer.thing) == (denied.reason, f"{BANK}/{name}")
    assert answer.steps[-2].things[0].changed == revoked
    assert answer.steps[-2].remedy.signer == BANK
    mirror.catch_up()
    for domain in (BANK, FREIGHT):
        code, told = why(cluster, domain, "lease", granted.lease.id, "--at", revoked)
        assert (code, told["reason"]) == (3, "GRANT_REVOKED")

    # The past: the same ledger permitted, and denied, each in its time, whomever it is read from.
    for domain in (BANK, CLINIC, FREIGHT):
        acquired = granted.outcome.ledger_index
        code, told = why(cluster, domain, "entry", acquired)
        assert (code, told["entry"]["thing"]) == (0, granted.lease.id)
        code, told = why(cluster, domain, "lease", granted.lease.id, "--at", acquired)
        assert (code, told["verdict"]) == (0, "permit")
        code, told = why(cluster, domain, "entry", denied.outcome.ledger_index)
        assert (code, told["reason"]) == (3, "GRANT_REVOKED")
        assert told["verified"]["size"] > denied.outcome.ledger_index


def test_everything_that_the_nodes_of_these_tests_decided_is_decided_again(
    cluster: Cluster, crew: Crew, mirror: LedgerMirror
) -> None:
    """The last entry: all before it are decided again on the way there."""
    size = why(cluster, BANK, "act", *("--executor", crew.workers[BANK].id), *_anything())[1][
        "ledger_size"
    ]
    _, told = why(cluster, BANK, "entry", size - 1)
    assert told["entry"]["index"] == size - 1
    assert told["verified"]["size"] >= size


def _anything() -> tuple[str, ...]:
    return ("--action", ACTION, "--resource", f"//{BANK}/records/x")
