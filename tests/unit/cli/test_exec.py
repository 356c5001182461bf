"""`quorate exec` where nothing is started: what the command line itself answers. What is started is
in tests/unit/runner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

ACTION, RESOURCE = "payments.transfer", "//bank.example/accounts/payroll"


@pytest.fixture
def directory(run: Any, federation: Any, node: Any, tmp_path: Path) -> Path:
    """Of a registered executor with a grant for payments."""
    out = tmp_path / "payments"
    org = ("--org", federation.org())
    issue = ("executor", "issue", federation.org(), "agent/payments", "--out", out)
    assert run(*issue, "--lease-address", node.address).exit_code == 0
    run("executor", "register", "agent/payments", *org)
    scope = ("--action", "payments.*", "--resource", "//bank.example/accounts/*")
    assert run("grant", "issue", "payroll", "agent/payments", *scope, *org).exit_code == 0
    node.requests.clear()
    return out


@pytest.fixture
def execute(run: Any, directory: Path, tmp_path: Path) -> Any:
    """Runs `quorate exec` with a command that would leave a file."""

    def begin(*options: object, action: str = ACTION) -> Any:
        what = ("--client", directory, "--action", action, "--resource", RESOURCE, "-o", "json")
        ran = run("exec", *what, *options, "--", "touch", tmp_path / "started")
        assert not (tmp_path / "started").exists()
        assert ran.stdout == ""
        return ran

    return begin


def test_no_grant_no_start(execute: Any, node: Any) -> None:
    ran = execute(action="records.read")
    assert ran.exit_code == 3
    assert ran.error["kind"] == "denied"
    assert (ran.error["reason"], ran.error["started"]) == ("NO_GRANT", False)
    assert ran.error["lease_id"] == ""
    [asked] = node.requests
    assert asked.ttl_ms == 600_000


def test_the_wished_life_is_asked_for(execute: Any, node: Any) -> None:
    execute("--ttl", "90s", action="records.read")
    assert [asked.ttl_ms for asked in node.requests] == [90_000]


def test_what_the_work_is_about_is_said(execute: Any, node: Any) -> None:
    execute("--context", "zone=eu", "--context", "ticket=OPS-7=x", action="records.read")
    assert [list(asked.context) for asked in node.requests] == [["ticket=OPS-7=x", "zone=eu"]]


@pytest.mark.parametrize("context", [("ticket",), ("ticket=1", "--context", "ticket=2")])
def test_an_odd_context_is_refused_at_once(execute: Any, node: Any, context: Any) -> None:
    ran = execute("--context", *context)
    assert ran.exit_code not in (0, 3)
    assert ran.error["kind"] == "usage"
    assert node.requests == []


@pytest.mark.parametrize("fault", ["SIGINT", "SIGTERM"])
def test_who_does_not_wait_for_the_lease_starts_nothing(
    execute: Any, node: Any, fault: str
) -> None:
    node.faults = [fault]
    ran = execute()
    assert ran.exit_code == 130
    assert ran.error["kind"] == "unknown_outcome"
    assert ran.error["request_id"] == node.requests[0].request_id


def test_a_node_that_is_not_there_is_a_denial(execute: Any, serving: Any) -> None:
    serving.stop()
    ran = execute()
    assert ran.exit_code == 3
    assert (ran.error["reason"], ran.error["started"]) == ("UNREACHABLE", False)


def test_a_lease_of_which_nobody_knows_is_said_to_lapse(execute: Any, node: Any) -> None:
    node.faults = ["forget"] * 1_000
    ran = execute()
    assert ran.exit_code == 3
    assert ran.error["reason"] == "OUTCOME_UNKNOWN"
    assert "lapses" in ran.error["hint"]


def test_a_directory_that_is_none_is_no_denial(run: Any, tmp_path: Path) -> None:
    what = ("--client", tmp_path / "none", "--action", ACTION, "--resource", RESOURCE)
    ran = run("exec", *what, "-o", "json", "--", "true")
    assert ran.exit_code == 1
    assert ran.error["kind"] == "configuration"


@pytest.mark.parametrize(
    "arguments",
    [("--grace", "61m", "--", "true"), ("--grace", "soon", "--", "true"), (), ("--nonsense", "x")],
)
def test_a_wrong_call_says_so(execute: Any, run: Any, directory: Path, arguments: Any) -> None:
    what = ("--client", directory, "--action", ACTION, "--resource", RESOURCE, "-o", "json")
    ran = run("exec", *what, *arguments)
    assert ran.exit_code == 2
    assert ran.error["kind"] == "usage"


def test_options_after_the_command_are_its_own(execute: Any, run: Any, directory: Path) -> None:
    what = ("--client", directory, "--action", "records.read", "--resource", RESOURCE)
    ran = run("exec", *what, "ls", "--nonsense", "--", "-x")
    assert ran.exit_code == 3, "it was parsed, and asked for"
