"""`quorate executor contain` and what ends it: what is signed, and what is shown."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.cli.proposals import BANK, last, rows

from quorate.v1 import governance_pb2

AGENT = f"spiffe://{BANK}/agent/payroll"


@pytest.fixture
def executor(run: Any, federation: Any, nodes: Any) -> Any:
    """As the bank."""
    run("executor", "register", AGENT, "--org", federation.org())
    return lambda *words: run("executor", *words, "--org", federation.org(), "-o", "json")


def test_an_executor_is_contained_and_that_is_lifted(executor: Any, nodes: Any) -> None:
    ran = executor("contain", "agent/payroll", "--wait", "drained")
    assert ran.exit_code == 0, ran.stderr
    assert last(nodes[BANK]) == ("executor.contain", {"executor": AGENT})
    assert nodes[BANK].requests[-1].wait == governance_pb2.WAIT_LEVEL_DRAINED
    assert (ran.json["thing"], ran.json["reached"]) == (AGENT, "drained")
    again = executor("contain", AGENT)
    assert (again.exit_code, again.json["reason"]) == (3, "ILLEGAL_TRANSITION")
    [shown] = executor("contained").json["records"]
    assert (shown["id"], shown["by"]) == (AGENT, [BANK])
    ran = executor("lift-containment", AGENT)
    assert (ran.exit_code, last(nodes[BANK])) == (
        0,
        ("executor.lift_containment", {"executor": AGENT}),
    )
    assert isinstance(nodes[BANK].requests[-1], governance_pb2.SubmitRequest), "it widens"
    assert executor("contained").json["records"] == []


def test_a_lease_is_named_by_its_id(executor: Any, nodes: Any) -> None:
    ran = executor("contain", "--lease", "0" * 32)
    assert (ran.exit_code, ran.json["reason"]) == (3, "NOT_FOUND")
    assert last(nodes[BANK]) == ("executor.contain", {"lease": "0" * 32})
    assert nodes[BANK].requests[-1].wait == governance_pb2.WAIT_LEVEL_ENFORCED
    executor("lift-containment", "--lease", "0" * 32)
    assert last(nodes[BANK]) == ("executor.lift_containment", {"lease": "0" * 32})


@pytest.mark.parametrize("act", ["contain", "lift-containment"])
@pytest.mark.parametrize("words", [(), (AGENT, "--lease", "0" * 32)])
def test_one_of_the_two_is_named(executor: Any, act: str, words: tuple[str, ...]) -> None:
    ran = executor(act, *words)
    assert (ran.exit_code, ran.error["kind"]) == (2, "usage")
    assert "not both" in ran.error["message"]


def test_what_is_contained_is_listed_for_people(run: Any, executor: Any, federation: Any) -> None:
    executor("contain", AGENT)
    shown = rows(run("executor", "contained", "--org", federation.org()).stdout)
    assert shown[0] == ["id", "by", "since", "changed"]
    assert shown[1][0].startswith("spiffe://")
