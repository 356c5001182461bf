"""`quorate grant delegate` and `recall`: an executor passes on what it was granted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

RESOURCE = "//bank.example/accounts/payroll"
SCOPE = ("--action", "payments.transfer", "--resource", RESOURCE)
AIDE = "spiffe://bank.example/agent/aide"


@pytest.fixture
def grant(run: Any, federation: Any, node: Any, tmp_path: Path) -> Any:
    """A function that runs a command about grants as an executor whose grant may be passed on."""
    out, org = tmp_path / "payments", ("--org", federation.org())
    run("executor", "issue", federation.org(), "agent/payments", "--out", out)
    for name in ("payments", "aide"):
        run("executor", "register", f"agent/{name}", *org)
    scope = ("--action", "payments.*", "--resource", "//bank.example/accounts/*")
    ran = run("grant", "issue", "payroll", "agent/payments", *scope, "--max-depth", 1, *org)
    assert ran.exit_code == 0, ran.stdout
    node.requests.clear()

    def act(*arguments: object, output: str = "json") -> Any:
        return run("grant", *arguments, "--client", out, "--address", node.address, "-o", output)

    return act


def test_a_part_is_passed_on_and_taken_back(grant: Any, run: Any, federation: Any) -> None:
    made = grant("delegate", "bank.example/payroll", AIDE, *SCOPE, "--max-uses", 3)
    assert made.exit_code == 0, made.stderr
    assert made.json["verdict"] == "permit"
    listed = run("grant", "list", "--org", federation.org(), "-o", "json").json["records"]
    record = next(each for each in listed if each["id"] == made.json["grant"])
    assert (record["executor"], record["parent"]) == (AIDE, "bank.example/payroll")
    assert (record["max_uses"], record["max_lease_ttl_ms"]) == (3, 60_000)
    recalled = grant("recall", made.json["grant"])
    assert recalled.exit_code == 0, recalled.stderr
    again = grant("recall", made.json["grant"])
    assert (again.exit_code, again.json["reason"]) == (3, "FINAL")


def test_conditions_are_asked_for_and_shown(grant: Any, run: Any, federation: Any) -> None:
    when = ("--when", "ticket=OPS-2,OPS-1", "--when", "zone=eu", "--when", "ticket=SEC-*")
    made = grant("delegate", "bank.example/payroll", AIDE, *SCOPE, *when)
    assert made.exit_code == 0, made.stderr
    org = ("--org", federation.org())
    scope = ("--action", "*", "--resource", "//bank.example/*")
    issued = run("grant", "issue", "asks", "agent/aide", *scope, *when, *org)
    assert issued.exit_code == 0, issued.stderr
    records = run("grant", "list", *org, "-o", "json").json["records"]
    asked = [
        {"name": "ticket", "values": ["OPS-1", "OPS-2", "SEC-*"]},
        {"name": "zone", "values": ["eu"]},
    ]
    found = {each["id"]: each.get("conditions") for each in records}
    assert found[made.json["grant"]] == found["bank.example/asks"] == asked
    assert found["bank.example/payroll"] is None
    shown = run("grant", "list", *org, "-o", "text").stdout
    assert "ticket=OPS-1,OPS-2,SEC-*; zone=eu" in shown


@pytest.mark.parametrize("when", ["ticket", "=x", "ticket=", "ticket=a,,b", "ticket=a*b", "T=a"])
def test_an_odd_condition_is_refused_at_once(
    grant: Any, run: Any, federation: Any, node: Any, when: str
) -> None:
    passed = grant("delegate", "bank.example/payroll", AIDE, *SCOPE, "--when", when)
    issue = ("grant", "issue", "asks", "agent/aide", *SCOPE, "--when", when)
    issued = run(*issue, "--org", federation.org(), "-o", "json")
    assert passed.exit_code == issued.exit_code != 0
    assert (passed.error["kind"], issued.error["kind"]) == ("usage", "usage")
    assert node.requests == []


def test_more_than_there_is_is_denied(grant: Any) -> None:
    scope = ("--action", "*", "--resource", RESOURCE)
    ran = grant("delegate", "bank.example/payroll", AIDE, *scope)
    assert ran.exit_code == 3
    assert (ran.json["reason"], ran.json["thing"], ran.json["grant"]) == ("WIDENS", "*", "")
    told = grant("delegate", "bank.example/payroll", AIDE, *scope, output="text")
    assert "WIDENS *" in told.stdout


def test_people_are_told_the_new_grant(grant: Any) -> None:
    told = grant("delegate", "bank.example/payroll", AIDE, *SCOPE, output="text")
    assert told.exit_code == 0
    assert "passed on" in told.stdout
    assert "bank.example/d-" in told.stdout


def test_an_unknown_outcome_can_be_asked_for_again(grant: Any, node: Any) -> None:
    node.faults = ["forget"] * 50
    ran = grant(
        "delegate", "bank.example/payroll", AIDE, *SCOPE, "--request-id", "once", "--timeout", "1s"
    )
    assert (ran.exit_code, ran.error["request_id"]) == (4, "once")
    node.faults = []
    same = ran.error["hint"].removeprefix("repeat it with ").partition(": it")[0].split()
    again = grant("delegate", "bank.example/payroll", AIDE, *SCOPE, *same)
    assert again.exit_code == 0, again.stdout
    assert sum(b'"type":"grant.delegate"' in entry for entry in node.entries) == 1
