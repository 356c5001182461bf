"""`quorate proposal open reinstate-executor`: what is signed, and what people are shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.cli.proposals import BANK, CLINIC, EVERY, last, rows

from quorate.core import state
from quorate.core.records import DRIFT, Executor
from quorate.core.status import Status

ACT = "federation.reinstate_executor"
AGENT = f"spiffe://{CLINIC}/agent/claims"
DRIFTED = Executor(AGENT, CLINIC, Status.SUSPENDED, 1, suspended_for=DRIFT, failed_at=1)


@pytest.fixture
def drifted(nodes: Any) -> Any:
    """Every node knows of an executor of the clinic that has reported drift."""
    for node in nodes.values():
        state.save_executor(node.store, DRIFTED)
    return nodes


def test_it_is_proposed_shown_and_decided(ask: Any, must: Any, opened: Any, drifted: Any) -> None:
    ident = opened("reinstate-executor", AGENT)
    kind, body = last(drifted[BANK])
    assert (kind, body["act"], body["body"]) == ("proposal.open", ACT, {"executor": AGENT})
    assert must("show", ident)["changes"] == [[AGENT, "suspended: it reported drift", "active"]]
    done = must("vote", ident, "yes", by=CLINIC)["result"]
    assert done["executed"] == {"type": ACT, "thing": AGENT}
    assert must("show", ident)["changes"] == [[AGENT, "active", "active"]]
    assert [AGENT, "active", "active"] in rows(ask("show", ident, output="text").stdout)


def test_what_it_still_has_to_prove_is_shown(
    run: Any, must: Any, opened: Any, drifted: Any, federation: Any
) -> None:
    ident = opened("reinstate-executor", AGENT)
    wanted = ("key", "--kind", "svid", "--executor", "agent/*")
    ran = run("attestation", "set-reference", *wanted, "--org", federation.org(CLINIC))
    assert ran.exit_code == 0, ran.stderr
    changes = must("show", ident, by=CLINIC)["changes"]
    assert changes[1:] == [["proof for key", "missing", "fresh"]]


def test_that_its_organisation_suspends_it_too_is_shown(
    must: Any, opened: Any, drifted: Any
) -> None:
    ident = opened("reinstate-executor", AGENT)
    both = replace(DRIFTED, suspended_by_domain=True)
    state.save_executor(drifted[BANK].store, both)
    [[_, present, _]] = must("show", ident)["changes"]
    assert present == "suspended: it reported drift; its organisation suspends it, too"


def test_what_is_refused_says_why(ask: Any, drifted: Any) -> None:
    unknown = f"spiffe://{CLINIC}/agent/nobody"
    ran = ask("open", "reinstate-executor", unknown)
    assert (ran.exit_code, ran.json["reason"]) == (3, "UNKNOWN_EXECUTOR")
    own = replace(DRIFTED, suspended_for="", failed_at=0)
    state.save_executor(drifted[BANK].store, own)
    ran = ask("open", "reinstate-executor", AGENT)
    assert (ran.exit_code, ran.json["reason"]) == (3, "NOT_AUTHORIZED")
    ran = ask("open", "reinstate-executor", f"spiffe://{CLINIC}/node/1")
    assert (ran.exit_code, ran.error["kind"]) == (2, "usage")


def test_how_many_must_agree_is_set_by_name(ask: Any, nodes: Any) -> None:
    ran = ask("open", "thresholds", "reinstate-executor=unanimity")
    assert ran.exit_code == 0, ran.stderr
    _, body = last(nodes[BANK])
    assert body["body"]["thresholds"] == EVERY | {ACT: "unanimity"}
