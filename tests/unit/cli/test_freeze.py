"""`quorate resources`, and proposals to freeze and thaw: what is signed, and what is shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.cli.proposals import BANK, CLINIC, EVERY, LOGISTICS, last, rows

from quorate.core import protocol, state
from quorate.core.acts import ACTS
from quorate.v1 import governance_pb2

ENFORCED = governance_pb2.WAIT_LEVEL_ENFORCED
DRAINED = governance_pb2.WAIT_LEVEL_DRAINED


@pytest.fixture
def resources(run: Any, federation: Any, nodes: Any) -> Any:
    """As the bank."""
    return lambda *words: run("resources", *words, "--org", federation.org(), "-o", "json")


def of_bank(nodes: Any) -> Any:
    return nodes[BANK].view.domain(BANK).frozen


@pytest.mark.parametrize(
    ("allow", "actions"),
    [((), []), (("--allow", "records.read", "--allow", "alarms.*"), ["records.read", "alarms.*"])],
)
def test_an_organisation_freezes_its_own(
    resources: Any, nodes: Any, allow: tuple[str, ...], actions: list[str]
) -> None:
    ran = resources("freeze", *allow)
    assert ran.exit_code == 0, ran.stderr
    assert last(nodes[BANK]) == ("resources.freeze", {"actions": actions})
    assert list(of_bank(nodes).actions) == actions
    assert nodes[BANK].requests[-1].wait == ENFORCED
    assert (ran.json["thing"], ran.json["reached"]) == (BANK, "enforced")
    again = resources("freeze")
    assert (again.exit_code, again.json["reason"]) == (3, "ILLEGAL_TRANSITION")
    ran = resources("thaw")
    assert (ran.exit_code, last(nodes[BANK])) == (0, ("resources.thaw", {}))
    assert of_bank(nodes) is None
    assert isinstance(nodes[BANK].requests[-1], governance_pb2.SubmitRequest), "it widens"


def test_it_is_waited_for_as_widely_as_one_says(resources: Any, nodes: Any) -> None:
    assert resources("freeze", "--wait", "drained").json["reached"] == "drained"
    assert nodes[BANK].requests[-1].wait == DRAINED


def test_odd_patterns_are_told_by_their_place(resources: Any) -> None:
    ran = resources("freeze", "--allow", "records*")
    assert ran.exit_code != 0
    assert "actions[0]" in (ran.stdout + ran.stderr)


def test_everybodys_is_frozen_by_ballot(must: Any, opened: Any, nodes: Any) -> None:
    ident = opened("freeze", "--allow", "alarms.*")
    kind, body = last(nodes[BANK])
    assert (kind, body["act"]) == ("proposal.open", "federation.freeze")
    assert body["body"] == {"actions": ["alarms.*"]}
    assert must("show", ident)["changes"] == [["frozen", "nothing", "all but alarms.*"]]
    decided = must("vote", ident, "yes", "--wait", "drained", by=CLINIC)
    assert decided["result"]["executed"]["actions"] == ["alarms.*"]
    assert decided["reached"] == "drained"
    thaw = opened("thaw", by=LOGISTICS)
    assert must("show", thaw)["changes"] == [["frozen", "all but alarms.*", "nothing"]]
    must("vote", thaw, "yes")
    assert nodes[BANK].view.federation().frozen is None
    assert must("show", opened("freeze"))["changes"] == [["frozen", "nothing", "all"]]


def test_what_is_frozen_is_shown_where_one_looks(
    run: Any, must: Any, opened: Any, resources: Any, federation: Any
) -> None:
    org = federation.org()
    resources("freeze", "--allow", "records.read")
    run("resources", "freeze", "--org", federation.org(CLINIC))
    shown = rows(run("domain", "list", "--org", org).stdout)
    assert shown[0] == ["id", "status", "suspended by", "changed", "frozen", "keys"]
    assert [[row[0], row[4]] for row in shown if row[0].endswith(".example")] == [
        [BANK, "all but records.read"],
        [CLINIC, "all"],
        [LOGISTICS, "-"],
    ]
    status = run("status", "--org", org, "-o", "json").json
    assert status["frozen"] is None
    assert ["frozen", "nothing"] in rows(run("status", "--org", org).stdout)
    must("vote", opened("freeze"), "yes", by=CLINIC)
    assert run("status", "--org", org, "-o", "json").json["frozen"] == []
    assert ["frozen", "all"] in rows(run("status", "--org", org).stdout)


def test_thresholds_are_said_for_what_the_federation_knows(
    ask: Any, must: Any, opened: Any, nodes: Any
) -> None:
    """It lives by the first version still."""
    opened("thresholds", "freeze=unanimity")
    _, body = last(nodes[BANK])
    assert body["body"]["thresholds"] == EVERY | {"federation.freeze": "unanimity"}
    for node in nodes.values():
        federation = node.view.federation()
        state.save_federation(node.store, replace(federation, protocol=protocol.FIRST))
    ran = ask("open", "thresholds", "thaw=two-thirds")
    assert (ran.exit_code, ran.error["kind"]) == (1, "refused")
    assert "federation.thaw is nothing that version 1" in ran.error["message"]
    must("open", "thresholds", "expel=two-thirds")
    _, body = last(nodes[BANK])
    short = {name: rule for name, rule in EVERY.items() if name in list(ACTS[protocol.FIRST])}
    assert body["body"]["thresholds"] == short | {"domain.expel": "two-thirds"}
