"""`quorate proposal`: what organisations sign when they decide together, and are told at once."""

from __future__ import annotations

import json
import time
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
    command,
    last,
    rows,
)

from quorate.core import dsse, state
from quorate.core.limits import MAX_ENVELOPE_BYTES
from quorate.core.records import BY_BALLOT
from quorate.v1 import governance_pb2

DAY_MS = 86_400_000
COMMITTED = governance_pb2.WAIT_LEVEL_COMMITTED


# -- opening -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "act"), [("suspend", "domain.suspend"), ("expel", "domain.expel")]
)
def test_what_is_against_a_domain_is_opened(
    must: Any, nodes: Any, federation: Any, *, verb: str, act: str
) -> None:
    before = time.time_ns() // 1_000_000
    told = must("open", verb, CLINIC)
    kind, body = last(nodes[BANK])
    assert kind == told["type"] == "proposal.open"
    assert (body["act"], body["body"]) == (act, {"domain": CLINIC})
    assert 7 * DAY_MS <= body["expires_at"] - before < 7 * DAY_MS + 60_000
    assert isinstance(nodes[BANK].requests[-1], governance_pb2.SubmitRequest)
    envelope = dsse.parse(nodes[BANK].requests[-1].envelope, MAX_ENVELOPE_BYTES)
    assert envelope.verify(federation.genesis.descriptors[0].governance_key)
    result = told["result"]
    assert (told["accepted"], told["thing"]) == (True, result["id"])
    assert (result["status"], result["yes"], result["no"], result["needed"]) == ("open", 1, 0, 2)


def test_an_organisation_is_admitted(must: Any, nodes: Any, descriptor: Path) -> None:
    told = must("open", "admit", descriptor)
    _, body = last(nodes[BANK])
    assert body["act"] == "domain.admit"
    assert body["body"] == {"descriptor": json.loads(descriptor.read_bytes())}
    decided = must("vote", told["thing"], "yes", by=CLINIC)
    assert decided["result"]["executed"] == {"type": "domain.admit", "thing": PORT}
    assert nodes[BANK].view.domain(PORT).status == "active"


def test_a_suspended_organisation_is_reinstated(must: Any, opened: Any, nodes: Any) -> None:
    must("vote", opened("suspend", CLINIC), "yes", by=LOGISTICS)
    assert nodes[BANK].view.domain(CLINIC).suspended_by == BY_BALLOT
    ident = opened("reinstate", CLINIC, by=LOGISTICS)
    _, body = last(nodes[LOGISTICS])
    assert (body["act"], body["body"]) == ("domain.reinstate", {"domain": CLINIC})
    must("vote", ident, "yes")
    assert nodes[BANK].view.domain(CLINIC).status == "active"


@pytest.mark.parametrize("written", ["2h", "2100-01-02T03:04:05+01:00"])
def test_it_can_be_voted_on_until_when_one_says(ask: Any, nodes: Any, written: str) -> None:
    before = time.time_ns() // 1_000_000
    ran = ask("open", "expel", CLINIC, "--expires", written)
    _, body = last(nodes[BANK])
    if written == "2h":
        assert 7_200_000 <= body["expires_at"] - before < 7_260_000
    else:
        assert body["expires_at"] == 4_102_538_645_000
        assert (ran.exit_code, ran.json["reason"]) == (3, "LIFETIME_TOO_LONG")


@pytest.mark.parametrize("written", ["soon", "7", "", "2100-01-02T03:04:05", "9999999999d"])
def test_a_moment_that_is_none_is_not_signed(ask: Any, nodes: Any, written: str) -> None:
    ran = ask("open", "expel", CLINIC, "--expires", written)
    assert (ran.exit_code, ran.error["kind"]) == (2, "usage")
    assert ran.error["hint"]
    assert nodes[BANK].requests == []


@pytest.mark.parametrize("domain", ["", "Bank.example", "spiffe://bank.example/node/1"])
def test_what_is_no_domain_is_not_signed(ask: Any, nodes: Any, domain: str) -> None:
    for verb in ("suspend", "reinstate", "expel"):
        ran = ask("open", verb, domain)
        assert ran.exit_code == 2
        assert ran.error["message"] == f"'{domain}': must be a domain like bank.example"
    assert nodes[BANK].requests == []


def test_what_is_no_descriptor_is_not_signed(
    ask: Any, nodes: Any, tmp_path: Path, descriptor: Path
) -> None:
    file = tmp_path / "other.json"
    file.write_bytes(descriptor.read_bytes().replace(b'"sig":"', b'"sig":"AAAA'))
    for given in (file, tmp_path / "nowhere", tmp_path):
        ran = ask("open", "admit", given)
        assert (ran.exit_code, ran.stdout) == (1, ""), given
    assert nodes[BANK].requests == []


def test_what_cannot_be_done_is_denied(ask: Any, opened: Any, federation: Any) -> None:
    for arguments, reason, thing in (
        (("expel", "nobody.example"), "UNKNOWN_DOMAIN", "nobody.example"),
        (("reinstate", CLINIC), "ILLEGAL_TRANSITION", CLINIC),
        (("admit", federation.org(CLINIC) / "descriptor.json"), "ALREADY_EXISTS", CLINIC),
        (("thresholds", "expel=majority"), "ILLEGAL_TRANSITION", "federation.set_thresholds"),
    ):
        ran = ask("open", *arguments)
        assert (ran.exit_code, ran.stderr) == (3, "")
        assert (ran.json["reason"], ran.json["thing"]) == (reason, thing)
    told = ask("open", "expel", "nobody.example", output="text")
    assert told.exit_code == 3
    assert "denied proposal.open UNKNOWN_DOMAIN nobody.example" in told.stdout
    assert "that are needed agree" not in told.stdout
    past = ask("open", "expel", CLINIC, "--expires", "2020-01-01T00:00:00Z")
    assert (past.exit_code, past.json["reason"]) == (3, "PROPOSAL_EXPIRED")


# -- thresholds ----------------------------------------------------------------------------------


def test_thresholds_that_are_not_named_stay(must: Any, opened: Any, nodes: Any) -> None:
    first = opened("thresholds", "expel=unanimity", "thresholds=two-thirds")
    _, body = last(nodes[BANK])
    changed = {"domain.expel": "unanimity", "federation.set_thresholds": "two-thirds"}
    assert body["act"] == "federation.set_thresholds"
    assert body["body"] == {"thresholds": EVERY | changed}
    must("vote", first, "yes", by=CLINIC)
    assert nodes[BANK].view.thresholds() == EVERY | changed
    opened("thresholds", "admit=two-thirds", by=CLINIC)
    _, body = last(nodes[CLINIC])
    assert body["body"] == {"thresholds": EVERY | changed | {"domain.admit": "two-thirds"}}


@pytest.mark.parametrize(
    "rule",
    ["expel", "expel=", "=majority", "", "expel=half", "vote=majority", "domain.expel=majority"],
)
def test_what_is_no_threshold_is_told_with_what_would_be(ask: Any, nodes: Any, rule: str) -> None:
    ran = ask("open", "thresholds", "admit=unanimity", rule)
    assert (ran.exit_code, ran.error["kind"]) == (2, "usage")
    assert ran.error["message"] == f"'{rule}' is no threshold"
    for known in ("expel=two-thirds", "thresholds", "majority", "unanimity"):
        assert known in ran.error["hint"]
    assert nodes[BANK].requests == []


def test_a_threshold_is_said_once(ask: Any, nodes: Any) -> None:
    ran = ask("open", "thresholds", "expel=majority", "expel=unanimity")
    assert (ran.exit_code, ran.error["message"]) == (2, "expel is named twice")
    assert ask("open", "thresholds").exit_code == 2
    assert nodes[BANK].requests == []


# -- voting and withdrawing ----------------------------------------------------------------------


def test_a_ballot_names_the_whole_id(must: Any, opened: Any, nodes: Any) -> None:
    ident = opened("thresholds", "expel=unanimity")
    for choice in ("no", "yes"):
        must("vote", ident[:8], choice, by=CLINIC)
        assert last(nodes[CLINIC]) == ("ballot.cast", {"proposal": ident, "choice": choice})
    assert nodes[BANK].view.proposal(ident).yes == (BANK, CLINIC)
    other = opened("thresholds", "expel=majority")
    told = must("withdraw", other[:8])
    assert last(nodes[BANK]) == ("proposal.withdraw", {"proposal": other})
    assert (told["type"], told["thing"]) == ("proposal.withdraw", other)
    assert nodes[BANK].view.proposal(other).status == "withdrawn"


@pytest.mark.parametrize("choice", ["maybe", "Yes", ""])
def test_a_ballot_is_yes_or_no(ask: Any, opened: Any, nodes: Any, choice: str) -> None:
    ident = opened("expel", CLINIC)
    ran = ask("vote", ident, choice, by=LOGISTICS)
    assert (ran.exit_code, ran.error["kind"]) == (2, "usage")
    assert (ran.error["message"], ran.error["hint"]) == (
        f"'{choice}' is no ballot",
        "write yes or no",
    )
    assert nodes[LOGISTICS].requests == []


def test_a_beginning_names_one_proposal(ask: Any, opened: Any, nodes: Any) -> None:
    record = nodes[BANK].view.proposal(opened("expel", CLINIC))
    for ident in ("a" * 63 + "b", "a" * 64):
        state.save_proposal(nodes[BANK].store, replace(record, proposal=ident))
    for act in (("vote", "{}", "yes"), ("withdraw", "{}"), ("show", "{}")):
        for beginning, code, problem, hint in (
            ("xyz", 1, "no proposal begins with 'xyz'", "see `quorate proposal list`"),
            ("a" * 7, 1, f"2 proposals begin with '{'a' * 7}'", "write more of the id"),
            ("", 2, "no proposal is named", "write the beginning of its id"),
        ):
            asked = [each.format(beginning) for each in act]
            ran = ask(*asked, by=LOGISTICS)
            assert (ran.exit_code, ran.error["message"]) == (code, problem), asked
            assert hint in ran.error["hint"]
            told = ask(*asked, by=LOGISTICS, output="text")
            assert (told.exit_code, told.stdout) == (code, "")
            assert f"error: {problem}" in told.stderr
    assert nodes[LOGISTICS].requests == []
    assert ask("show", "a" * 63 + "b").json["id"] == "a" * 63 + "b"


def test_ballots_that_do_not_count_are_denied(ask: Any, must: Any, opened: Any, nodes: Any) -> None:
    ident = opened("expel", CLINIC)
    told = ask("vote", ident[:9], "no", by=CLINIC, output="text")
    assert told.exit_code == 3
    assert f"denied ballot.cast NO_VOTE {CLINIC}" in told.stdout
    for arguments, by, reason in (
        (("withdraw", ident), LOGISTICS, "NOT_AUTHORIZED"),
        (("vote", "0" * 64, "yes"), LOGISTICS, "NOT_FOUND"),
        (("withdraw", "0" * 64), LOGISTICS, "NOT_FOUND"),
    ):
        ran = ask(*arguments, by=by)
        assert (ran.exit_code, ran.json["reason"]) == (3, reason)
    must("withdraw", ident)
    assert ask("vote", ident, "yes", by=LOGISTICS).json["reason"] == "PROPOSAL_CLOSED"
    again = opened("expel", CLINIC)
    state.save_ledger_time(nodes[BANK].store, nodes[BANK].view.proposal(again).expires_at)
    ran = ask("vote", again, "yes", by=LOGISTICS)
    assert (ran.exit_code, ran.json["reason"]) == (3, "PROPOSAL_EXPIRED")


def test_a_refusal_of_the_node_exits_3(ask: Any, nodes: Any) -> None:
    nodes[BANK].faults = ["refuse"]
    ran = ask("open", "expel", CLINIC)
    assert (ran.exit_code, ran.json["reason"]) == (3, "INQUORATE")


# -- what people are told at once ----------------------------------------------------------------


def test_people_read_how_the_proposal_stands(ask: Any, opened: Any, nodes: Any) -> None:
    told = ask("open", "expel", CLINIC, output="text")
    [record] = nodes[BANK].view.proposals()
    assert f"accepted proposal.open {record.id}" in told.stdout
    assert ["proposal", "open"] in rows(told.stdout)
    assert ["ballots", "1 of 2 that are needed agree"] in rows(told.stdout)
    told = ask("vote", record.id[:6], "yes", by=LOGISTICS, output="text")
    assert f"accepted ballot.cast {record.id}" in told.stdout
    assert ["proposal", "executed"] in rows(told.stdout)
    assert ["ballots", "2 of 2 that are needed agree"] in rows(told.stdout)
    other = opened("thresholds", "admit=unanimity")
    told = ask("vote", other, "no", by=LOGISTICS, output="text")
    assert ["proposal", "rejected"] in rows(told.stdout)
    last_one = opened("thresholds", "admit=unanimity")
    told = ask("withdraw", last_one, output="text")
    assert f"accepted proposal.withdraw {last_one}" in told.stdout
    assert "that are needed agree" not in told.stdout
    assert "\x1b" not in told.stdout


def test_people_read_why_it_failed(ask: Any, must: Any, opened: Any) -> None:
    first, second = (opened("thresholds", f"admit={rule}") for rule in ("unanimity", "two-thirds"))
    must("vote", first, "yes", by=CLINIC)
    told = ask("vote", second, "yes", by=CLINIC, output="text")
    assert told.exit_code == 0
    assert ["proposal", "failed SUPERSEDED"] in rows(told.stdout)
    assert ["ballots", "2 of 2 that are needed agree"] in rows(told.stdout)
    shown = ask("show", second, output="text").stdout
    assert f"federation.set_thresholds failed {second}" in shown
    assert ["failed for", "SUPERSEDED"] in rows(shown)
    value = must("show", second)
    assert (value["status"], value["reason"], value["thing"]) == ("failed", "SUPERSEDED", second)


# -- levels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["committed", "enforced", "drained"])
def test_a_ballot_that_decides_waits_for_its_level(
    ask: Any, opened: Any, nodes: Any, level: str
) -> None:
    ident = opened("suspend", CLINIC)
    nodes[LOGISTICS].bound_ms = 2_060
    ran = ask("vote", ident, "yes", "--wait", level, by=LOGISTICS)
    assert (ran.exit_code, ran.json["reached"], ran.json["bound_ms"]) == (0, level, 2_060)
    request = nodes[LOGISTICS].requests[-1]
    assert isinstance(request, governance_pb2.RevokeRequest)
    assert request.wait == governance_pb2.WaitLevel.Value(f"WAIT_LEVEL_{level.upper()}")
    assert nodes[BANK].view.domain(CLINIC).status == "suspended"


def test_people_read_how_widely_it_holds(ask: Any, opened: Any, nodes: Any) -> None:
    nodes[LOGISTICS].bound_ms = 2_060
    waiting = ("--wait", "drained", "--timeout", "300ms")
    told = ask("vote", opened("suspend", CLINIC), "yes", *waiting, by=LOGISTICS, output="text")
    assert ["holds", "drained"] in rows(told.stdout)
    assert ["over everywhere", "within 2060 ms, whatever fails"] in rows(told.stdout)
    nodes[LOGISTICS].reached = [COMMITTED] * 1000
    told = ask("vote", opened("expel", CLINIC), "yes", *waiting, by=LOGISTICS, output="text")
    assert told.exit_code == 4
    assert ["proposal", "executed"] in rows(told.stdout)
    assert ["holds", "committed"] in rows(told.stdout)
    assert "not known to be drained in time" in told.stdout


@pytest.mark.parametrize("act", ["suspend", "expel"])
def test_where_nothing_is_decided_nothing_is_said_to_hold(ask: Any, nodes: Any, act: str) -> None:
    waiting = ("--wait", "enforced", "--timeout", "300ms")
    told = ask("open", act, CLINIC, *waiting, output="text")
    assert isinstance(nodes[BANK].requests[-1], governance_pb2.RevokeRequest)
    assert told.exit_code == 0
    assert ["proposal", "open"] in rows(told.stdout)
    assert "holds" not in told.stdout
    nodes[BANK].reached = [COMMITTED] * 1000
    told = ask("open", act, CLINIC, *waiting, output="text")
    assert told.exit_code == 0
    assert "not known" not in told.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("open", "reinstate", CLINIC),
        ("open", "reinstate-executor", "agent/a"),
        ("withdraw", "0"),
        ("open", "thresholds", "a=b"),
    ],
)
def test_what_widens_or_stops_nothing_has_no_level(ask: Any, arguments: Any) -> None:
    ran = ask(*arguments, "--wait", "enforced")
    assert ran.exit_code == 2
    assert "--wait" in ran.error["message"]


# -- offline -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "kind", "body"),
    [
        (("open", "expel", CLINIC), "proposal.open", ("domain.expel", {"domain": CLINIC})),
        (("open", "suspend", CLINIC), "proposal.open", ("domain.suspend", {"domain": CLINIC})),
        (("open", "reinstate", CLINIC), "proposal.open", ("domain.reinstate", {"domain": CLINIC})),
        (("open", "admit", "{descriptor}"), "proposal.open", ("domain.admit", None)),
        (
            ("open", "reinstate-executor", "agent/a"),
            "proposal.open",
            ("federation.reinstate_executor", {"executor": f"spiffe://{CLINIC}/agent/a"}),
        ),
        (("vote", "a" * 64, "no"), "ballot.cast", {"proposal": "a" * 64, "choice": "no"}),
        (("withdraw", "a" * 64), "proposal.withdraw", {"proposal": "a" * 64}),
    ],
)
def test_commands_are_signed_without_a_node(
    ask: Any,
    federation: Any,
    tmp_path: Path,
    descriptor: Path,
    *,
    arguments: Any,
    kind: str,
    body: Any,
) -> None:
    asked = [each.format(descriptor=descriptor) for each in arguments]
    file = tmp_path / "command.json"
    ran = ask(*asked, "--save", file, by=CLINIC)
    assert ran.exit_code == 0, ran.stderr
    assert (ran.json["type"], ran.json["file"]) == (kind, str(file))
    envelope = dsse.parse(file.read_bytes(), MAX_ENVELOPE_BYTES)
    assert envelope.verify(federation.genesis.descriptors[1].governance_key)
    said = command(file.read_bytes())
    assert (said["type"], said["issuer"]) == (kind, CLINIC)
    if isinstance(body, dict):
        assert said["body"] == body
    else:
        act, wished = body
        assert said["body"]["act"] == act
        wished = wished or {"descriptor": json.loads(descriptor.read_bytes())}
        assert said["body"]["body"] == wished
    again = ask(*asked, "--save", file, by=CLINIC, output="text")
    assert (again.exit_code, again.stdout) == (1, ""), "nothing is overwritten"
    told = ask(*asked, "--save", tmp_path / "other.json", by=CLINIC, output="text")
    assert f"signed {kind}, and not submitted: {tmp_path}/other.json" in told.stdout


@pytest.mark.parametrize("ident", ["", "aaaa", "A" * 64, "a" * 65])
def test_without_a_node_the_id_must_be_whole(ask: Any, tmp_path: Path, ident: str) -> None:
    file = tmp_path / "command.json"
    for arguments in (("vote", ident, "yes"), ("withdraw", ident)):
        ran = ask(*arguments, "--save", file)
        assert (ran.exit_code, ran.error["kind"]) == (2, "usage")
        assert ran.error["message"] == f"'{ident}' is no whole id of a proposal"
        assert "all 64 digits" in ran.error["hint"]
    assert not file.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("open", "expel", CLINIC, "--wait", "enforced"),  # nobody waits for a file
        ("vote", "a" * 64, "yes", "--wait", "drained"),
        ("vote", "a" * 64, "maybe"),
        ("open", "expel", CLINIC, "--expires", "1900-01-01T00:00:00Z"),  # no ledger takes it
        ("open", "thresholds", "expel=majority"),  # it takes a node to say what the others are
    ],
)
def test_what_makes_no_sense_is_not_kept(ask: Any, tmp_path: Path, arguments: Any) -> None:
    file = tmp_path / "command.json"
    ran = ask(*arguments, "--save", file)
    assert (ran.exit_code, ran.error["kind"]) == (2, "usage")
    assert not file.exists()


def test_another_organisation_hands_a_ballot_in(
    run: Any, ask: Any, node: Any, federation: Any, tmp_path: Path
) -> None:
    ident = str(ask("open", "expel", CLINIC).json["thing"])
    file = tmp_path / "vote.json"
    saved = ask("vote", ident, "yes", "--save", file, by=LOGISTICS)
    asked = ("node", "submit", file, "--org", federation.org())
    told = run(*asked)
    assert told.exit_code == 0, told.stderr
    assert f"accepted ballot.cast {ident}" in told.stdout
    assert ["proposal", "executed"] in rows(told.stdout)
    again = run(*asked, "-o", "json").json
    assert (again["issuer"], again["duplicate"]) == (LOGISTICS, True)
    assert again["command_id"] == saved.json["command_id"]
    assert node.view.domain(CLINIC).status == "revoked"


def test_without_a_node_nothing_else_is_done(ask: Any, federation: Any) -> None:
    for arguments in (("vote", "aaaa", "yes"), ("vote", "a" * 64, "yes"), ("list",), ("show", "a")):
        ran = ask(*arguments)
        assert (ran.exit_code, ran.error["kind"]) == (5, "unreachable"), arguments
