"""Asking for permission from the command line: only a permit that is good now exits 0."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quorate.core import ids

ACTION, RESOURCE = "payments.transfer", "//bank.example/accounts/payroll"


@pytest.fixture
def client(run: Any, federation: Any, node: Any, tmp_path: Path) -> Any:
    """A registered executor with a grant; a function that runs a lease command as it."""
    out = tmp_path / "payments"
    org = ("--org", federation.org())
    run("executor", "issue", federation.org(), "agent/payments", "--out", out)
    run("executor", "register", "agent/payments", *org)
    scope = ("--action", "payments.*", "--resource", "//bank.example/accounts/*")
    ran = run("grant", "issue", "payroll", "agent/payments", *scope, *org)
    assert ran.exit_code == 0, ran.stdout
    node.requests.clear()

    def lease(*arguments: object) -> Any:
        where = ("--client", out, "--address", node.address, "-o", "json")
        return run("lease", *arguments, *where)

    return lease


def test_a_lease_is_acquired_checked_and_released(client: Any, node: Any) -> None:
    acquired = client("acquire", ACTION, RESOURCE, "--ttl", "60s")
    assert acquired.exit_code == 0, acquired.stderr
    lease = acquired.json["lease"]
    ids.check_lease_id(lease["id"])
    assert lease["fence"] == acquired.json["ledger_index"]
    checked = client("check", lease["id"])
    assert checked.exit_code == 0
    assert checked.json["verdict"] == "permit"
    assert 0 < checked.json["remaining_ms"] <= node.permit_ttl_ms
    released = client("release", lease["id"])
    assert released.exit_code == 0, released.stdout


def test_who_does_not_wait_for_a_lease_can_repeat_the_request(client: Any, node: Any) -> None:
    node.faults = ["SIGTERM"]
    ran = client("acquire", ACTION, RESOURCE, "--request-id", "once")
    assert (ran.exit_code, ran.stdout) == (130, "")
    assert (ran.error["kind"], ran.error["request_id"]) == ("unknown_outcome", "once")
    assert client("acquire", ACTION, RESOURCE, "--request-id", "once").exit_code == 0
    # Which of the two was executed first is chance; that one was, and the other repeated it, is
    # not.
    assert sum(b'"type":"lease.acquire"' in entry for entry in node.entries) == 1


def test_no_grant_no_lease(client: Any) -> None:
    ran = client("acquire", "records.read", RESOURCE)
    assert ran.exit_code == 3
    assert (ran.json["verdict"], ran.json["reason"]) == ("deny", "NO_GRANT")
    assert ran.json["lease"] is None


def test_a_denied_check_exits_3(client: Any) -> None:
    ran = client("check", "0" * 32)
    assert ran.exit_code == 3
    assert ran.json["reason"] == "UNKNOWN_LEASE"
    assert ran.json["fence"] is None


@pytest.mark.parametrize("option", ["--minimum-index", "--at-least"])
def test_a_check_can_be_of_a_ledger_that_holds_an_entry(
    client: Any, node: Any, option: str
) -> None:
    acquired = client("acquire", ACTION, RESOURCE).json
    lease, index = acquired["lease"]["id"], acquired["ledger_index"]
    ran = client("check", lease, option, index)
    assert ran.exit_code == 0, ran.stderr
    assert ran.json["ledger_size"] == index + 1
    ran = client("check", lease, option, index + 1)
    assert ran.exit_code == 3
    assert (ran.json["reason"], ran.json["thing"]) == ("BEHIND", str(index + 1))
    assert ran.json["ledger_size"] == index + 1
    node.knows_indexes = False
    ran = client("check", lease, option, index + 1)
    assert (ran.exit_code, ran.json["reason"]) == (3, "MALFORMED_ANSWER")
    assert client("check", lease, option, -1).exit_code == 2


@pytest.mark.parametrize("ttl_ms", [0, -5])
def test_a_permit_without_life_is_a_denial(client: Any, node: Any, ttl_ms: int) -> None:
    lease = client("acquire", ACTION, RESOURCE).json["lease"]["id"]
    node.permit_ttl_ms = ttl_ms
    ran = client("check", lease)
    assert ran.exit_code == 3
    assert ran.json["reason"] == "EXPIRED_ON_ARRIVAL"


def test_a_permit_that_came_late_is_a_denial(client: Any, node: Any) -> None:
    lease = client("acquire", ACTION, RESOURCE).json["lease"]["id"]
    node.permit_ttl_ms, node.check_delay_s = 50, 0.1
    ran = client("check", lease)
    assert ran.exit_code == 3
    assert ran.json["reason"] == "EXPIRED_ON_ARRIVAL"


def test_a_node_that_does_not_answer_in_time_permits_nothing(client: Any, node: Any) -> None:
    lease = client("acquire", ACTION, RESOURCE).json["lease"]["id"]
    node.check_delay_s = 0.5
    ran = client("check", lease, "--timeout", "100ms")
    assert ran.exit_code == 5
    assert ran.stdout == ""


def test_a_node_that_is_not_there_permits_nothing(run: Any, client: Any, tmp_path: Path) -> None:
    where = ("--client", tmp_path / "payments", "--address", "127.0.0.1:1", "-o", "json")
    for arguments in (("acquire", ACTION, RESOURCE), ("check", "0" * 32), ("watch", "0" * 32)):
        ran = run("lease", *arguments, *where)
        assert ran.exit_code == 5
        assert ran.stdout == ""


def test_a_refusal_is_a_denial(client: Any, node: Any) -> None:
    node.faults = ["refuse"]
    ran = client("acquire", ACTION, RESOURCE)
    assert ran.exit_code == 3
    assert ran.json["reason"] == "INQUORATE"


def test_an_unknown_outcome_is_asked_for_again_with_the_same_request_id(
    client: Any, node: Any
) -> None:
    node.faults, before = ["forget", "refuse"], len(node.entries)
    ran = client("acquire", ACTION, RESOURCE)
    assert ran.exit_code == 0, ran.stderr
    assert len({request.request_id for request in node.requests}) == 1
    assert len(node.requests) == 3
    assert len(node.entries) == before + 1


def test_what_stays_unknown_can_be_asked_for_later(client: Any, node: Any) -> None:
    node.faults, before = ["forget"] * 1000, len(node.entries)
    ran = client("acquire", ACTION, RESOURCE, "--timeout", "300ms")
    assert ran.exit_code == 4
    request_id = ran.error["request_id"]
    assert f"--request-id {request_id}" in ran.error["hint"]
    node.faults = []
    assert client("acquire", ACTION, RESOURCE, "--request-id", request_id).exit_code == 0
    assert len(node.entries) == before + 1


def test_an_event_that_the_node_may_have_is_neither_told_nor_untold(client: Any, node: Any) -> None:
    assert client("report", "0" * 32, "started").exit_code == 0
    for fault, code in (("UNAVAILABLE", 4), ("DEADLINE_EXCEEDED", 4), ("SIGTERM", 130)):
        node.requests.clear()
        node.faults = [fault]
        ran = client("report", "0" * 32, "started")
        assert (ran.exit_code, ran.stdout) == (code, "")
        assert (ran.error["kind"], ran.error["lease_id"]) == ("unknown_outcome", "0" * 32)
        assert len(node.requests) == 1, "a repeat would be another event"
    node.faults = ["INVALID_ARGUMENT"]
    assert client("report", "0" * 32, "started").error["kind"] != "unknown_outcome"


def test_a_watch_tells_each_event_on_a_line(client: Any) -> None:
    ran = client("watch", "a" * 32)
    events = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [event["event"] for event in events] == ["ACTIVE", "INTERRUPTED"]
    assert events[1]["reason"] == "GRANT_REVOKED"
    assert ran.exit_code == 5  # the node ended the watch: nothing may be acted on


def test_a_watch_goes_on_where_another_ended(client: Any, node: Any) -> None:
    client("watch", "a" * 32)
    client("watch", "a" * 32, "--after-size", "30")
    assert [each.after_size for each in node.requests] == [0, 30]
    assert client("watch", "a" * 32, "--after-size", "-1").exit_code == 2


def test_a_watch_can_end_with_the_lease(client: Any) -> None:
    ran = client("watch", "a" * 32, "--until-interrupted")
    assert ran.exit_code == 3


def test_people_read_a_verdict(run: Any, client: Any, node: Any, tmp_path: Path) -> None:
    where = ("--client", tmp_path / "payments", "--address", node.address)
    ran = run("lease", "acquire", ACTION, RESOURCE, *where)
    assert "granted" in ran.stdout
    assert "fence" in ran.stdout
    lease = client("acquire", ACTION, RESOURCE).json["lease"]["id"]
    assert "permit for" in run("lease", "check", lease, *where).stdout
    assert "deny UNKNOWN_LEASE" in run("lease", "check", "0" * 32, *where).stdout


def test_what_is_said_of_a_lease_stays_with_it(client: Any) -> None:
    said = ("--context", "ticket=OPS-1", "--context", "note=a=b")
    ran = client("acquire", ACTION, RESOURCE, *said)
    assert ran.exit_code == 0, ran.stderr
    assert ran.json["lease"]["context"] == ["note=a=b", "ticket=OPS-1"]
    assert client("acquire", ACTION, RESOURCE).json["lease"]["context"] == []
