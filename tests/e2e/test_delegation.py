"""A real executor passes a grant on to one of another organisation: what ends it for the one ends
it for both."""

from __future__ import annotations

import json
import secrets
import subprocess

import pytest
from tests.e2e.federations import BANK, CLINIC, FREIGHT, WAIT_S

from quorate.chaos.cluster import Cluster, cli_command
from quorate.chaos.crew import CALL_TIMEOUT_S, Crew, Worker
from quorate.chaos.mirror import LedgerMirror
from quorate.chaos.processes import clean_environment, wait_until
from quorate.v1 import decision_pb2, lease_pb2

pytestmark = pytest.mark.cluster

ACTIONS = ["notes.read"]


def delegate(cluster: Cluster, by: Worker, grant: str, to: Worker, path: str) -> str:
    answer = by.leases.Delegate(
        lease_pb2.DelegateRequest(
            grant=grant,
            to=to.id,
            actions=ACTIONS,
            resources=[f"//{BANK}/{path}/*"],
            not_after_ms=cluster.status(BANK).position.ledger_time_ms + 600_000,
            max_lease_ttl_ms=60_000,
            request_id=secrets.token_hex(16),
        ),
        timeout=CALL_TIMEOUT_S,
    )
    assert answer.verdict == decision_pb2.VERDICT_PERMIT, answer
    return answer.grant


def test_what_is_passed_on_ends_with_what_it_was_made_of(
    cluster: Cluster, crew: Crew, mirror: LedgerMirror
) -> None:
    name = f"notes-{secrets.token_hex(4)}"
    clinic, freight = crew.workers[CLINIC], crew.workers[FREIGHT]
    scope = {"actions": ["notes.*"], "resources": [f"//{BANK}/{name}/*"]}
    bank = cluster.operator(BANK)
    for trustee in (CLINIC, FREIGHT):
        bank.order("trust.open", {"edge": f"{name}-{trustee}", "trustee": trustee, **scope})
    bank.order(
        "grant.issue",
        {
            "grant": name,
            "executor": clinic.id,
            **scope,
            "not_after": cluster.status(BANK).position.ledger_time_ms + 3_600_000,
            "max_lease_ttl_ms": 60_000,
            "max_uses": 0,
            "max_concurrent": 0,
            "max_depth": 1,
        },
    )
    made = delegate(cluster, clinic, f"{BANK}/{name}", freight, name)
    lease = freight.lease(f"//{BANK}/{name}/1", "notes.read")
    assert lease.grant == made
    assert freight.check(lease.id).verdict == decision_pb2.VERDICT_PERMIT
    told = json.loads(cluster.cli_at(FREIGHT, "explain", "lease", lease.id, "--output", "json"))
    assert f"{BANK}/{name}" in json.dumps(told), "the grant behind it is told"
    # The clinic suspends its executor: what that has passed on to freight is over, everywhere.
    cluster.cli_at(CLINIC, "executor", "suspend", clinic.id, "--wait", "enforced")
    denied = freight.check(lease.id)
    assert denied.reason == decision_pb2.REASON_EXECUTOR_SUSPENDED
    assert denied.thing == clinic.id
    cluster.operator(CLINIC).order("executor.reinstate", {"executor": clinic.id})
    wait_until(
        "a permit again",
        lambda: freight.check(lease.id).verdict == decision_pb2.VERDICT_PERMIT,
        WAIT_S,
    )
    recalled = clinic.leases.Recall(
        lease_pb2.RecallRequest(grant=made, request_id=secrets.token_hex(16)),
        timeout=CALL_TIMEOUT_S,
    )
    assert recalled.verdict == decision_pb2.VERDICT_PERMIT
    wait_until(
        "a denial",
        lambda: freight.check(lease.id).reason == decision_pb2.REASON_GRANT_REVOKED,
        WAIT_S,
    )
    mirror.catch_up()


def test_a_program_runs_under_a_grant_that_asks_what_it_is_about(
    cluster: Cluster, crew: Crew, mirror: LedgerMirror
) -> None:
    name = f"asks-{secrets.token_hex(4)}"
    clinic, scope = (
        crew.workers[CLINIC],
        ("--action", "notes.*", "--resource", f"//{BANK}/{name}/*"),
    )
    cluster.cli_at(BANK, "trust", "open", name, "--trustee", CLINIC, *scope)
    when = ("--when", "ticket=OPS-*,SEC-1")
    cluster.cli_at(BANK, "grant", "issue", name, clinic.id, *scope, *when)

    def run(*context: str) -> subprocess.CompletedProcess[str]:
        what = ("--action", "notes.read", "--resource", f"//{BANK}/{name}/1", "--output", "json")
        return subprocess.run(
            [*cli_command(), "exec", "--client", str(clinic.client), *what, *context, "--", "true"],
            env=clean_environment({}),
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
        )

    denied = run("--context", "ticket=DEV-1")
    assert denied.returncode == 3, denied.stderr
    assert f"CONDITION_UNMET ({BANK}/{name}/ticket)" in denied.stderr
    ran = run("--context", "ticket=OPS-7")
    assert ran.returncode == 0, ran.stderr
    mirror.catch_up()
