"""`quorate proposal list` and `show`: what was proposed, and how it stands."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.proposals import (
    BANK,
    CLINIC,
    EVERY,
    LOGISTICS,
    PORT,
    rows,
    words,
)

from quorate.core import keys, state
from quorate.core.dsse import key_id
from quorate.core.limits import MAX_INTEGER
from quorate.core.records import Kind
from quorate.node import organisation

DAY_MS = 86_400_000


def later(node: Any, days: int = 8) -> None:
    node.time_ms += days * DAY_MS
    state.save_ledger_time(node.store, node.time_ms)


def put(node: Any, ident: str, record: Any) -> None:
    """A record that no rule has made."""
    key = keys.record(Kind.PROPOSAL, ident)
    assert key is not None
    node.store.put(key, json.dumps(record).encode())


def test_proposals_are_listed(ask: Any, must: Any, opened: Any, nodes: Any) -> None:
    expel, rules = opened("expel", CLINIC), opened("thresholds", "admit=unanimity", by=CLINIC)
    must("vote", expel, "yes", by=LOGISTICS)
    listed = {each["id"]: each for each in must("list")["records"]}
    assert set(listed) == {expel, rules}
    assert (listed[expel]["status"], listed[expel]["yes"]) == ("executed", [BANK, LOGISTICS])
    assert (listed[rules]["status"], listed[rules]["proposer"]) == ("open", CLINIC)
    shown = ask("list", output="text").stdout
    header = ["id", "act", "proposer", "status", "yes", "no", "expires at", "changed"]
    assert rows(shown)[0] == header
    for ident, act in ((expel, "domain.expel"), (rules, "federation.set_thresholds")):
        assert [ident, act] in [row[:2] for row in rows(shown)]
    assert f"2 at ledger size {len(nodes[BANK].entries)}" in shown


def test_programs_are_shown_all_of_an_open_proposal(must: Any, opened: Any, nodes: Any) -> None:
    ident = opened("expel", CLINIC)
    value = must("show", ident[:8], by=LOGISTICS)
    record = nodes[BANK].view.proposal(ident)
    assert value == {
        **record.to_json(),
        "body": {"domain": CLINIC},
        "expired": False,
        "changes": [[CLINIC, "active", "revoked, and its nodes retired"]],
        "voters": [BANK, LOGISTICS],
        "needed": 2,
        "ledger_size": 2,
    }


def test_people_are_shown_an_open_proposal(ask: Any, must: Any, opened: Any) -> None:
    ident = opened("thresholds", "admit=unanimity", "expel=two-thirds")
    must("vote", ident, "no", by=CLINIC)
    shown = ask("show", ident[:8], output="text").stdout
    table = rows(shown)
    assert table[0] == ["federation.set_thresholds open"]
    assert ["proposal", ident] in table
    assert ["proposed by", BANK] in table
    assert re.search(r"until +20\d\d-\d\d-\d\d \d\d:\d\d:\d\dZ", shown)
    assert ["agreed", "1 of 2 that are needed"] in table
    assert ["what", "is", "would be"] in table
    assert ["domain.admit", "majority", "unanimity"] in table
    assert ["domain.expel", "majority", "two-thirds"] in table
    assert "domain.suspend" not in shown, "what stays as it is is no change"
    ballots = [row for row in table if row[0].endswith(".example")]
    assert ballots == [[BANK, "yes", "-"], [CLINIC, "no", "-"], [LOGISTICS, "-", "-"]]


def test_a_domain_that_has_no_vote_is_told_apart(
    run: Any, ask: Any, must: Any, opened: Any, federation: Any
) -> None:
    ident = opened("suspend", LOGISTICS)
    assert LOGISTICS not in must("show", ident)["voters"]
    rules = opened("thresholds", "admit=unanimity", by=CLINIC)
    assert run("domain", "suspend", "--org", federation.org(CLINIC)).exit_code == 0
    value = must("show", rules)
    assert (value["voters"], value["needed"], value["yes"]) == ([BANK, LOGISTICS], 2, [CLINIC])
    shown = ask("show", rules, output="text").stdout
    assert [CLINIC, "yes", "no vote"] in rows(shown)
    assert ["agreed", "0 of 2 that are needed"] in rows(shown)


def test_what_is_over_does_not_say_who_would_have_a_vote_now(
    ask: Any, must: Any, opened: Any, descriptor: Path
) -> None:
    ident = opened("admit", descriptor)
    must("vote", ident, "yes", by=CLINIC)
    value = must("show", ident)
    assert (value["status"], value["voters"], value["needed"]) == ("executed", None, None)
    shown = ask("show", ident, output="text").stdout
    assert rows(shown)[0] == ["domain.admit executed"]
    assert ["organisation", "active", PORT] in rows(shown)
    assert ["what", "is", "was to be"] in rows(shown)
    assert [row for row in rows(shown) if row[0].endswith(".example")] == [
        [BANK, "yes", "-"],
        [CLINIC, "yes", "-"],
    ]
    assert "that are needed" not in shown


def test_who_is_to_be_admitted_is_shown_by_its_keys(
    must: Any, opened: Any, descriptor: Path
) -> None:
    item = organisation.read_descriptor(descriptor)
    assert must("show", opened("admit", descriptor))["changes"] == [
        ["organisation", "no member", PORT],
        ["governance key", "", key_id(item.governance_key)],
        ["node, which votes", "", f"spiffe://{PORT}/node/1"],
        ["its address", "", "127.0.0.1:7499"],
        ["its signing key", "", key_id(item.node.signing_key)],
        ["its log key", "", key_id(item.node.log_key)],
    ]


def test_init_says_the_keys_that_voters_compare(run: Any, tmp_path: Path) -> None:
    """As the page on operations says."""
    told = run("init", tmp_path / "new", "--domain", "new.example").stdout
    item = organisation.read_descriptor(tmp_path / "new" / "descriptor.json")
    for key in (item.governance_key, item.node.signing_key, item.node.log_key):
        assert key_id(key) in told


def test_what_becomes_of_a_domain_is_shown(must: Any, opened: Any, nodes: Any) -> None:
    suspend = opened("suspend", CLINIC)
    become = "suspended by the federation"
    assert must("show", suspend)["changes"] == [[CLINIC, "active", become]]
    must("vote", suspend, "yes", by=LOGISTICS)
    assert must("show", suspend)["changes"] == [[CLINIC, become, become]]
    assert must("show", opened("reinstate", CLINIC))["changes"] == [[CLINIC, become, "active"]]
    record = replace(nodes[BANK].view.proposal(suspend), body='{"domain":"gone.example"}')
    state.save_proposal(nodes[BANK].store, record)
    assert must("show", suspend)["changes"] == [["gone.example", "no member", become]]


def test_thresholds_that_were_set_are_shown_as_they_were_asked_for(must: Any, opened: Any) -> None:
    ident = opened("thresholds", "admit=unanimity")
    assert must("show", ident)["changes"] == [["domain.admit", "majority", "unanimity"]]
    must("vote", ident, "yes", by=CLINIC)
    changes = must("show", ident)["changes"]
    assert ["domain.admit", "unanimity", "unanimity"] in changes
    assert len(changes) == len(EVERY)


def test_what_has_expired_is_shown_as_that(ask: Any, must: Any, opened: Any, nodes: Any) -> None:
    ident = opened("expel", CLINIC)
    assert must("show", ident)["expired"] is False
    later(nodes[BANK])
    value = must("show", ident)
    assert (value["status"], value["expired"], value["needed"]) == ("open", True, None)
    shown = ask("show", ident, output="text").stdout
    assert rows(shown)[0] == ["domain.expel expired"]
    assert "that are needed" not in shown
    assert ["what", "is", "was to be"] in rows(shown)


# -- odd records ---------------------------------------------------------------------------------


def test_an_act_that_is_not_known_is_said_to_be_that(ask: Any, opened: Any, nodes: Any) -> None:
    record = nodes[BANK].view.proposal(opened("expel", CLINIC))
    state.save_proposal(nodes[BANK].store, replace(record, act="domain.[/]merge"))
    problem = f"proposal {record.id} is for domain.[/]merge, which this version does not know"
    ran = ask("show", record.id[:8])
    assert (ran.exit_code, ran.error["kind"], ran.error["message"]) == (1, "refused", problem)
    assert "quorate proposal list -o json" in ran.error["hint"]
    told = ask("show", record.id[:8], output="text")
    assert (told.exit_code, told.stdout) == (1, "")
    assert f"error: {problem}" in told.stderr
    assert ask("list").json["records"][0]["act"] == "domain.[/]merge"
    assert "domain.[/]merge" in ask("list", output="text").stdout


@pytest.mark.parametrize(
    "change",
    [
        {"status": "pending"},
        {"yes": "bank.example"},
        {"expires_at": -1},
        {"body": ""},
        {"body": "{}"},
        {"body": '{"domain":"clinic.example","gently":true}'},
        {"proposer": None},
    ],
)
def test_a_record_that_cannot_be_read_is_nobodys_usage(
    ask: Any, opened: Any, nodes: Any, change: Any
) -> None:
    record = nodes[BANK].view.proposal(opened("expel", CLINIC))
    put(nodes[BANK], record.id, record.to_json() | change)
    ran = ask("show", record.id)
    assert (ran.exit_code, ran.error["kind"]) == (1, "refused")
    assert "this version cannot read the node's answer" in ran.error["message"]
    assert record.id in ask("list", output="text").stdout


def test_a_moment_beyond_every_calendar_is_shown(ask: Any, opened: Any, nodes: Any) -> None:
    record = nodes[BANK].view.proposal(opened("expel", CLINIC))
    state.save_proposal(nodes[BANK].store, replace(record, expires_at=MAX_INTEGER))
    for command in (("show", record.id), ("list",)):
        ran = ask(*command, output="text")
        assert (ran.exit_code, f"{MAX_INTEGER} ms" in ran.stdout) == (0, True)


@pytest.mark.parametrize("said", [b'{"id":"x"}', b'{"thresholds":{"domain.expel":"most"}}'])
def test_thresholds_that_cannot_be_read_are_not_guessed(
    ask: Any, opened: Any, nodes: Any, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    ident = opened("expel", CLINIC)
    monkeypatch.setattr(state.view, "_federation_json", lambda _: said)
    for arguments in (("show", ident), ("open", "thresholds", "admit=unanimity")):
        ran = ask(*arguments)
        assert (ran.exit_code, ran.error["kind"]) == (1, "refused")
    assert len(nodes[BANK].requests) == 1


# -- help ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), ("vote", "withdraw", "list", "show", "open", "What organisations decide together")),
        (
            ("open",),
            ("admit", "suspend", "expel", "thresholds", "freeze", "thaw", "the others vote"),
        ),
        (
            ("open", "thresholds"),
            (
                "WHAT: admit, expel, freeze, parameters, policy, rates, reinstate,",
                "RULE: majority, two-thirds,",
            ),
        ),
        (("open", "expel"), ("DOMAIN", "--wait", "--save", "[default: 7d]", "for ever")),
        (("vote",), ("yes|no", "the beginning of it", "--wait", "--save", "the last one counts")),
        (("show",), ("who has voted how", "--client", "--at-least")),
    ],
)
def test_help_says_what_can_be_said(run: Any, arguments: Any, told: Any) -> None:
    ran = run("proposal", *arguments, "--help")
    assert ran.exit_code == 0
    for text in told:
        assert text in words(ran.stdout)
