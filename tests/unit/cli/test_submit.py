"""Commands to a node: signed here, submitted until known, and told truthfully."""

from __future__ import annotations

import re
import secrets
import signal
from typing import Any

import pytest

from quorate.cli import govern as governing
from quorate.core import dsse, ids
from quorate.core.limits import MAX_PROPOSAL_TIMEOUT_MS
from quorate.v1 import governance_pb2

PAYMENTS = "spiffe://bank.example/agent/payments"
COMMITTED = governance_pb2.WAIT_LEVEL_COMMITTED


@pytest.fixture
def govern(run: Any, federation: Any) -> Any:
    def invoke(*arguments: object) -> Any:
        return run(*arguments, "--org", federation.org(), "-o", "json")

    return invoke


def envelopes(node: Any) -> list[bytes]:
    return [request.envelope for request in node.requests]


def test_a_command_is_signed_with_the_governance_key(
    govern: Any, node: Any, federation: Any
) -> None:
    ran = govern("executor", "register", "agent/payments")
    assert ran.exit_code == 0, ran.stderr
    assert ran.json["accepted"] is True
    assert ran.json["ledger_index"] == 1
    assert ran.json["type"] == "executor.register"
    assert ran.json["result"] == {"id": PAYMENTS}
    assert ran.json["took_ms"] > 0
    envelope = dsse.parse(envelopes(node)[0], 20_000)
    assert envelope.verify(federation.genesis.descriptors[0].governance_key)
    assert node.view.executor(PAYMENTS) is not None


def test_the_whole_way_of_governing(govern: Any, node: Any) -> None:
    scope = ("--action", "payments.*", "--resource", "//bank.example/accounts/*")
    for arguments in (
        ("executor", "register", "agent/payments"),
        ("trust", "open", "clinic", "--trustee", "clinic.example", *scope),
        ("grant", "issue", "payroll", PAYMENTS, *scope, "--max-uses", "3", "--not-after", "1d"),
        ("grant", "suspend", "payroll"),
        ("grant", "reinstate", "payroll"),
        ("executor", "suspend", PAYMENTS),
        ("executor", "reinstate", "agent/payments"),
        ("domain", "suspend"),
        ("domain", "reinstate"),
        ("trust", "narrow", "clinic", "--action", "payments.read", *scope[2:]),
        ("grant", "revoke", "payroll"),
        ("trust", "close", "clinic"),
        ("executor", "revoke", "agent/payments"),
    ):
        ran = govern(*arguments)
        assert ran.exit_code == 0, (arguments, ran.stdout, ran.stderr)
    grant = node.view.grant("bank.example", "payroll")
    assert (grant.status, grant.max_uses, grant.max_lease_ttl_ms) == ("revoked", 3, 3_600_000)
    assert grant.resources == ("//bank.example/accounts/*",)
    edge = node.view.trust_edge("bank.example", "clinic")
    assert (edge.status, edge.actions, edge.resources) == (
        "revoked",
        ("payments.read",),
        ("//bank.example/accounts/*",),
    )


def test_a_denial_is_a_result_and_exits_3(govern: Any, node: Any) -> None:
    govern("executor", "register", "agent/x")
    ran = govern("executor", "register", "agent/x")
    assert ran.exit_code == 3
    assert ran.stderr == ""
    assert (ran.json["accepted"], ran.json["reason"]) == (False, "ALREADY_EXISTS")


def test_a_refusal_that_never_entered_the_ledger_has_no_index(govern: Any, node: Any) -> None:
    node.faults = ["refuse"]
    ran = govern("executor", "register", "agent/x")
    assert ran.exit_code == 3
    assert (ran.json["reason"], ran.json["ledger_index"]) == ("INQUORATE", None)


@pytest.mark.parametrize("fault", ["lose", "forget", "break"])
@pytest.mark.parametrize("knows_outcomes", [True, False])
def test_an_unknown_outcome_is_settled_and_executed_once(
    govern: Any, node: Any, fault: str, knows_outcomes: bool
) -> None:
    node.faults, node.knows_outcomes = [fault, fault], knows_outcomes
    ran = govern("executor", "register", "agent/x")
    assert ran.exit_code == 0
    assert ran.json["accepted"] is True
    assert len(node.entries) == 2
    assert len(set(envelopes(node))) == 1  # the same bytes, whatever happens


@pytest.mark.parametrize("fault", ["lose", "forget", "break"])
def test_a_refusal_does_not_settle_an_earlier_attempt(govern: Any, node: Any, fault: str) -> None:
    node.faults, node.knows_outcomes = [fault, "refuse", "refuse"], False
    ran = govern("executor", "register", "agent/x")
    assert ran.exit_code == 0
    assert ran.json["accepted"] is True
    assert len(node.requests) == 4


def test_what_stays_unknown_is_said_to_be_unknown(govern: Any, node: Any) -> None:
    node.faults, node.knows_outcomes = ["forget"] * 1000, False
    ran = govern("executor", "register", "agent/x", "--timeout", "400ms")
    assert ran.exit_code == 4
    assert ran.stdout == ""
    assert ran.error["kind"] == "unknown_outcome"
    command_id = ran.error["command_id"]
    assert f"quorate outcome {command_id}" in ran.error["hint"]
    # The hint works, and tells that it was executed after all.
    node.knows_outcomes = True
    later = govern("outcome", command_id)
    assert later.exit_code == 0
    assert later.json["ledger_index"] == 1


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_who_does_not_wait_is_told_that_the_outcome_is_unknown(
    run: Any, govern: Any, node: Any, federation: Any, number: str
) -> None:
    former = signal.getsignal(signal.SIGTERM)
    node.faults = [number]
    ran = govern("executor", "register", "agent/x")
    assert (ran.exit_code, ran.stdout) == (130, "")
    assert ran.error["kind"] == "unknown_outcome"
    command_id = ran.error["command_id"]
    assert f"quorate outcome {command_id}" in ran.error["hint"]
    node.faults = [number]
    told = run("executor", "register", "agent/y", "--org", federation.org())
    assert told.exit_code == 130
    assert re.search("is not known.*quorate outcome [0-9a-f]{64}", told.stderr, re.DOTALL)
    assert signal.getsignal(signal.SIGTERM) is former


def test_who_does_not_wait_for_the_level_is_told_that_it_is_accepted(
    govern: Any, node: Any
) -> None:
    govern("executor", "register", "agent/x")
    node.faults, node.reached = ["", "SIGINT"], [COMMITTED] * 9
    ran = govern("executor", "revoke", "agent/x", "--wait", "drained")
    assert ran.exit_code == 130
    assert "is accepted" in ran.error["message"]


def test_an_outcome_that_is_not_there_is_unknown(govern: Any, node: Any) -> None:
    ran = govern("outcome", "0" * 64)
    assert ran.exit_code == 4
    assert ran.json["found"] is False
    assert govern("outcome", "xyz").exit_code == 2


def test_a_denied_outcome_exits_3(govern: Any, node: Any) -> None:
    govern("executor", "register", "agent/x")
    denied = govern("executor", "register", "agent/x").json["command_id"]
    assert govern("outcome", denied).exit_code == 3


@pytest.mark.parametrize("level", ["committed", "enforced", "drained"])
def test_a_narrowing_waits_for_its_level(govern: Any, node: Any, level: str) -> None:
    govern("executor", "register", "agent/x")
    ran = govern("executor", "revoke", "agent/x", "--wait", level)
    assert ran.exit_code == 0
    assert ran.json["reached"] == level
    assert isinstance(node.requests[-1], governance_pb2.RevokeRequest)


@pytest.mark.parametrize("level", ["committed", "enforced", "drained"])
def test_a_narrowed_edge_waits_for_its_level(govern: Any, node: Any, level: str) -> None:
    actions = ("--action", "payments.read", "--action", "payments.list")
    resources = ("--resource", "//bank.example/accounts/*")
    opened = ("--trustee", "clinic.example", "--action", "*", *resources)
    assert govern("trust", "open", "clinic", *opened).exit_code == 0
    ran = govern("trust", "narrow", "clinic", *actions, *resources, "--wait", level)
    assert (ran.exit_code, ran.json["reached"]) == (0, level)
    assert isinstance(node.requests[-1], governance_pb2.RevokeRequest)
    ran = govern("trust", "narrow", "clinic", *opened[2:])
    assert (ran.exit_code, ran.json["reason"], ran.json["thing"]) == (3, "WIDENS", "*")


def test_what_is_promised_is_part_of_the_result(govern: Any, node: Any) -> None:
    assert govern("executor", "register", "agent/x").json["bound_ms"] is None
    assert govern("executor", "suspend", "agent/x").json["bound_ms"] is None
    node.bound_ms = 0
    govern("executor", "reinstate", "agent/x")
    assert govern("executor", "revoke", "agent/x", "--wait", "drained").json["bound_ms"] == 0


def test_a_level_not_reached_yet_is_asked_for_again(govern: Any, node: Any) -> None:
    govern("executor", "register", "agent/x")
    node.reached = [COMMITTED, COMMITTED]
    ran = govern("executor", "suspend", "agent/x", "--wait", "drained")
    assert ran.exit_code == 0
    assert ran.json["reached"] == "drained"
    assert len(set(envelopes(node)[1:])) == 1


def test_a_level_not_reached_in_time_exits_4_and_says_what_holds(govern: Any, node: Any) -> None:
    govern("executor", "register", "agent/x")
    node.reached = [COMMITTED] * 1000
    ran = govern("executor", "revoke", "agent/x", "--wait", "enforced", "--timeout", "300ms")
    assert ran.exit_code == 4
    assert (ran.json["accepted"], ran.json["reached"]) == (True, "committed")


def test_an_unknown_narrowing_is_settled_and_then_waits(govern: Any, node: Any) -> None:
    govern("executor", "register", "agent/x")
    node.faults = ["forget"]
    ran = govern("executor", "revoke", "agent/x", "--wait", "enforced")
    assert ran.exit_code == 0
    assert ran.json["reached"] == "enforced"
    assert len(node.entries) == 3


def test_people_read_what_happened(run: Any, node: Any, federation: Any) -> None:
    run("executor", "register", "agent/x", "--org", federation.org())
    ran = run("executor", "revoke", "agent/x", "--org", federation.org())
    assert "accepted" in ran.stdout
    assert "enforced" in ran.stdout
    assert " ms" in ran.stdout
    assert "\x1b" not in ran.stdout  # a pipe gets no colour
    again = run("executor", "revoke", "agent/x", "--org", federation.org())
    assert again.exit_code == 3
    assert "FINAL" in again.stdout or "ILLEGAL_TRANSITION" in again.stdout


def test_a_command_outlives_its_waiting_and_asks_no_more_than_the_node_allows(
    govern: Any, node: Any
) -> None:
    govern("executor", "register", "agent/x", "--timeout", "30m")
    (request,) = node.requests
    assert 0 < request.timeout_ms <= MAX_PROPOSAL_TIMEOUT_MS


def test_nothing_is_submitted_to_a_node_of_another_federation(
    govern: Any, node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    object.__setattr__(node.genesis, "origin", "quorate.example/other")
    ran = govern("executor", "register", "agent/x")
    assert ran.exit_code == 1
    assert node.requests == []


def test_nonces_do_not_repeat(govern: Any, node: Any) -> None:
    for number in range(3):
        govern("executor", "register", f"agent/{number}")
    assert len(set(envelopes(node))) == 3


def test_a_wide_governance_key_signs_nothing(govern: Any, node: Any, federation: Any) -> None:
    (federation.org() / "governance.key").chmod(0o644)
    ran = govern("executor", "register", "agent/x")
    assert ran.exit_code == 1
    assert "chmod 600" in ran.error["hint"]
    assert node.requests == []


def test_lists_show_every_page(run: Any, govern: Any, node: Any, federation: Any) -> None:
    for number in range(4):
        govern("executor", "register", f"agent/{number}")
    ran = govern("executor", "list")
    assert [record["id"] for record in ran.json["records"]] == [
        f"spiffe://bank.example/agent/{number}" for number in range(4)
    ]
    assert ran.json["truncated"] is False
    table = run("executor", "list", "--org", federation.org()).stdout
    assert "spiffe://bank.example/agent/3" in table
    for group in ("domain", "trust", "grant"):
        assert run(group, "list", "--org", federation.org()).exit_code == 0


def test_a_grant_that_outlives_every_calendar_is_listed(
    run: Any, govern: Any, node: Any, federation: Any
) -> None:
    govern("executor", "register", "agent/x")
    scope = ("--action", "*", "--resource", "//bank.example/*", "--not-after", "100000000d")
    assert govern("grant", "issue", "long", "spiffe://bank.example/agent/x", *scope).exit_code == 0
    not_after = node.view.grant("bank.example", "long").not_after
    assert f"{not_after} ms" in run("grant", "list", "--org", federation.org()).stdout


def test_status_and_members(run: Any, govern: Any, node: Any, federation: Any) -> None:
    status = govern("status").json
    assert status["node_id"] == "spiffe://bank.example/node/1"
    assert (status["role"], status["has_authority"]) == ("follower", False)
    assert "denying everything: INQUORATE" in run("status", "--org", federation.org()).stdout
    members = govern("members").json["members"]
    assert len(members) == 3
    # A follower does not know how far the others are, and 0 would say that it did.
    assert {(m["match_index"], m["enforced_index"]) for m in members} == {(None, None)}
    assert "clinic.example" in run("members", "--org", federation.org()).stdout
    node.matches = [7, 0, 5]
    assert [m["match_index"] for m in govern("members").json["members"]] == [7, 0, 5]


def test_an_executor_may_ask_but_needs_its_own_directory(
    run: Any, node: Any, federation: Any, tmp_path: Any
) -> None:
    out = tmp_path / "x"
    run("executor", "issue", federation.org(), "agent/x", "--out", out)
    assert run("status", "--client", out, "-o", "json").exit_code == 0
    (out / "executor.key").chmod(0o604)
    ran = run("status", "--client", out, "-o", "json")
    assert ran.exit_code == 1
    assert "chmod 600" in ran.error["hint"]


def test_another_domains_operator_does_not_get_in(run: Any, node: Any, federation: Any) -> None:
    clinic = federation.org("clinic.example")
    ran = run("status", "--org", clinic, "--address", node.address, "-o", "json")
    assert ran.exit_code == 5
    assert ran.error["kind"] == "unreachable"


def test_the_nonce_is_long_enough_to_be_unique() -> None:
    ids.check_nonce(secrets.token_hex(governing.NONCE_BYTES))
    assert governing.NONCE_BYTES >= 16
