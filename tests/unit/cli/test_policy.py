"""`quorate policy`, and proposals about policies: what is signed, what is shown, what is tried."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.proposals import BANK, CLINIC, EVERY, last

from quorate.cli.policy_cases import MAX_CASES, parse_cases
from quorate.core.errors import MalformedError
from quorate.core.records import BY_BALLOT, digest_of
from quorate.node import engine
from quorate.proofs.commands import build_command
from quorate.v1 import decision_pb2, governance_pb2

ENFORCED = governance_pb2.WAIT_LEVEL_ENFORCED
ALL = '@id("all") permit (principal, action, resource);\n'
READS = '@id("reads") permit (principal, action, resource) when { context.action == "read" };\n'
EXECUTOR = f"spiffe://{BANK}/agent/payments"
RESOURCE = f"//{BANK}/accounts/payroll"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def make(text: str, name: str = "policies.cedar") -> Path:
        file = tmp_path / name
        file.write_text(text)
        return file

    return make


@pytest.fixture
def policy(run: Any, federation: Any, nodes: Any) -> Any:
    """As the bank."""
    return lambda *words: run("policy", *words, "--org", federation.org(), "-o", "json")


def test_an_organisation_publishes_shows_and_retires_its_own(
    policy: Any, nodes: Any, write: Any
) -> None:
    assert policy("show").json["in_force"] is False
    ran = policy("publish", write(ALL))
    assert ran.exit_code == 0, ran.stderr
    assert last(nodes[BANK]) == ("policy.publish", {"text": ALL})
    assert nodes[BANK].requests[-1].wait == ENFORCED
    assert (ran.json["thing"], ran.json["reached"]) == (BANK, "enforced")
    shown = policy("show").json
    assert shown == {
        "owner": BANK,
        "in_force": True,
        "version": 1,
        "sha256": digest_of(ALL),
        "ledger_index": len(nodes[BANK].entries) - 1,
        "text": ALL,
        "ledger_size": len(nodes[BANK].entries),
    }
    assert policy("show", "--domain", CLINIC).json["version"] == 0
    again = policy("publish", write(ALL))
    assert (again.exit_code, again.json["reason"]) == (3, "ILLEGAL_TRANSITION")
    assert policy("retire").exit_code == 0
    assert last(nodes[BANK]) == ("policy.retire", {})
    assert isinstance(nodes[BANK].requests[-1], governance_pb2.SubmitRequest), "it widens"
    shown = policy("show").json
    assert (shown["in_force"], shown["version"], shown["sha256"]) == (False, 1, "")


def test_people_see_the_text_as_it_is(run: Any, federation: Any, nodes: Any, write: Any) -> None:
    text = "// [bold]\n" + ALL
    run("policy", "publish", write(text), "--org", federation.org())
    ran = run("policy", "show", "--org", federation.org())
    assert text in ran.stdout


def test_what_the_ledger_would_not_take_is_not_signed(
    policy: Any, nodes: Any, write: Any, tmp_path: Path
) -> None:
    before = len(nodes[BANK].requests)
    ran = policy("publish", write("permit (principal, action, resource) when { context.now };"))
    assert (ran.exit_code, ran.error["kind"]) == (2, "usage")
    assert "attribute `now`" in ran.error["message"]
    assert policy("publish", write("(" * 99)).exit_code == 2
    assert policy("publish", tmp_path / "nothing").exit_code == 1
    (tmp_path / "odd").write_bytes(b"\xff")
    assert policy("publish", tmp_path / "odd").exit_code == 2
    assert len(nodes[BANK].requests) == before


def test_a_file_is_checked_without_any_node(run: Any, write: Any) -> None:
    ran = run("policy", "check", write(ALL), "-o", "json")
    assert (ran.exit_code, ran.json["sha256"]) == (0, digest_of(ALL))
    assert run("policy", "check", write("permit (principal, action, resource)")).exit_code == 2
    assert "may be published" in run("policy", "check", write(ALL)).stdout


def test_the_federations_are_set_by_ballot(
    must: Any, opened: Any, nodes: Any, write: Any, policy: Any
) -> None:
    ident = opened("policy", write(READS))
    kind, body = last(nodes[BANK])
    assert (kind, body["act"]) == ("proposal.open", "federation.set_policy")
    assert body["body"] == {"text": READS}
    assert must("show", ident)["changes"] == [
        ["policies", "none", f"sha256 {digest_of(READS)}"],
        ["text", "", READS],
    ]
    decided = must("vote", ident, "yes", "--wait", "drained", by=CLINIC)
    assert decided["result"]["executed"]["version"] == 1
    assert decided["reached"] == "drained"
    shown = policy("show", "--federation").json
    assert (shown["owner"], shown["text"]) == (BY_BALLOT, READS)
    ident = opened("retire-policy")
    changes = must("show", ident)["changes"]
    assert changes == [["policies", f"version 1, sha256 {digest_of(READS)}", "none"]]
    must("vote", ident, "yes", by=CLINIC)
    assert policy("show", "--federation").json["in_force"] is False


def test_how_many_must_agree_on_policies_is_set_by_name(
    run: Any, federation: Any, nodes: Any
) -> None:
    ran = run(
        *("proposal", "open", "thresholds", "policy=unanimity", "retire-policy=two-thirds"),
        *("--org", federation.org(), "-o", "json"),
    )
    assert ran.exit_code == 0, ran.stderr
    _, body = last(nodes[BANK])
    wished = {
        "federation.set_policy": "unanimity",
        "federation.retire_policy": "two-thirds",
    }
    assert body["body"]["thresholds"] == EVERY | wished


def test_with_another_engine_nothing_is_said_of_policies(
    policy: Any, write: Any, lived: Any, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "version", lambda _: "4.12.1")
    words = ("explain", "entry", lived["read"].ledger_index)
    for ran in (policy("replay", write(ALL)), run(*words, "--org", write(ALL).parent / BANK)):
        assert ran.exit_code == 1
        assert "4.12.1" in ran.stderr


# -- cases ---------------------------------------------------------------------------------------


def case(**changes: Any) -> dict[str, Any]:
    given = {"executor": EXECUTOR, "action": "read", "resource": RESOURCE, "expect": "permit"}
    return given | changes


@pytest.fixture
def tried(run: Any, write: Any) -> Any:
    def invoke(text: str, *cases: dict[str, Any]) -> Any:
        file = write(json.dumps({"case": cases}), "cases.json")
        return run("policy", "test", write(text), file, "-o", "json")

    return invoke


def test_cases_pass_and_fail_by_what_is_expected(tried: Any) -> None:
    ran = tried(READS, case(by=["reads"]), case(action="write", expect="deny", by=[], name="w"))
    assert ran.exit_code == 0, ran.stderr
    assert (ran.json["passed"], ran.json["failed"]) == (2, 0)
    assert ran.json["cases"][1]["decided"] == "NO_POLICY_PERMITS"
    for wrong in (case(expect="deny"), case(by=["other"]), case(action="write")):
        ran = tried(READS, case(), wrong)
        assert (ran.exit_code, ran.json["failed"]) == (1, 1)
        assert [each["passed"] for each in ran.json["cases"]] == [True, False]


def test_a_case_says_all_that_a_policy_can_ask_about(tried: Any) -> None:
    text = """
    permit (principal, action, resource) when {
        context.cross_domain && context.hops == 2 && context.delegations == 1 &&
        context.grant == "bank.example/g" && context.given.hasTag("ticket") &&
        context.given.getTag("ticket") == "OPS=1"
    };
    """
    everything = case(
        executor="spiffe://clinic.example/agent/a",
        hops=2,
        delegations=1,
        grant="bank.example/g",
        context={"ticket": "OPS=1", "another": ""},
    )
    assert tried(text, everything).exit_code == 0
    for name in ("hops", "delegations", "grant", "context"):
        less = {key: value for key, value in everything.items() if key != name}
        assert tried(text, less).exit_code == 1


def test_cases_in_toml_are_the_same(run: Any, write: Any) -> None:
    toml = f"""
    [[case]]
    executor = "{EXECUTOR}"
    action = "read"
    resource = "{RESOURCE}"
    expect = "permit"
    context = {{ ticket = "OPS-1" }}
    """
    ran = run("policy", "test", write(READS), write(toml, "cases.toml"))
    assert ran.exit_code == 0, ran.stderr
    assert "all as expected" in ran.stdout
    broken = run("policy", "test", write(READS), write(toml + "x", "cases.toml"), "-o", "json")
    assert (broken.exit_code, broken.error["kind"]) == (2, "usage")


@pytest.mark.parametrize(
    "odd",
    [{}, {"case": []}, {"case": [{}]}, {"case": [case()], "more": 1}, {"case": [case(more=1)]},
     {"case": [case(expect="maybe")]}, {"case": [case(hops=1)]}, {"case": [case(delegations=-1)]},
     {"case": [case(context={"A": "1"})]}, {"case": [case(context={"a": 1})]},
     {"case": [case(context={f"n{n}": "" for n in range(17)})]}, {"case": [case(by=["a", "a"])]},
     {"case": [case(executor="x")]}, {"case": [case()] * (MAX_CASES + 1)}, [], 3, None],
)  # fmt: skip
def test_odd_cases_are_refused(odd: object) -> None:
    with pytest.raises(MalformedError):
        parse_cases(json.dumps(odd).encode(), is_json=True)


# -- the past ------------------------------------------------------------------------------------


@pytest.fixture
def acquire(node: Any) -> Callable[..., Any]:
    def invoke(action: str) -> Any:
        envelope = build_command(
            origin=node.genesis.origin,
            issuer=node.organisation.config.node.id,
            command_type="lease.acquire",
            body={"executor": EXECUTOR, "action": action, "resource": RESOURCE, "ttl_ms": 0},
            nonce=f"{len(node.entries):032x}",
            not_after=node.time_ms + 60_000,
            key=node.signing_key,
        )
        return node.execute(envelope)

    return invoke


@pytest.fixture
def lived(run: Any, federation: Any, node: Any, acquire: Any, write: Any) -> dict[str, Any]:
    """Something read and something written, then neither, by the bank's policies."""
    org = ("--org", federation.org())
    assert run("executor", "register", EXECUTOR, *org).exit_code == 0
    assert not acquire("other").accepted
    run("grant", "issue", "g", EXECUTOR, "--action", "*", "--resource", RESOURCE, *org)
    at: dict[str, Any] = {}
    for action in ("read", "write"):
        at[action] = acquire(action)
        assert at[action].accepted
    nothing = ALL + "forbid (principal, action, resource);"
    assert run("policy", "publish", write(nothing), *org).exit_code == 0
    at["denied"] = acquire("read")
    assert at["denied"].reason == decision_pb2.REASON_POLICY_FORBIDS
    return at


def test_a_replay_tells_what_would_have_been_decided_otherwise(
    policy: Any, write: Any, lived: Any, node: Any
) -> None:
    ran = policy("replay", write(READS))
    assert ran.exit_code == 3, ran.stderr
    told = ran.json
    assert (told["owner"], told["decisions"]) == (BANK, 4), "that without a grant, too"
    assert [(each["index"], each["was"], each["would_be"]) for each in told["changes"]] == [
        (lived["write"].ledger_index, "permitted", f"NO_POLICY_PERMITS {BANK}"),
        (lived["denied"].ledger_index, f"POLICY_FORBIDS {BANK}", "permitted"),
    ]
    assert told["would_be_interrupted"] == []
    assert told["verified"]["size"] == len(node.entries)


def test_a_replay_has_a_beginning_and_an_end(policy: Any, write: Any, lived: Any) -> None:
    until = ("--to", lived["write"].ledger_index)
    ran = policy("replay", write(READS), *until)
    assert [each["index"] for each in ran.json["changes"]] == [lived["write"].ledger_index]
    assert ran.json["would_be_interrupted"] == [lived["write"].thing], "it was in force then"
    ran = policy("replay", write(ALL), *until)
    assert (ran.exit_code, ran.json["changes"]) == (0, [])
    later = policy("replay", write(ALL), "--from", lived["write"].ledger_index + 1)
    assert [each["index"] for each in later.json["changes"]] == [lived["denied"].ledger_index]
    assert policy("replay", write(ALL), "--to", 9_999).exit_code == 2


def test_a_replay_is_of_the_federations_too(
    policy: Any, write: Any, lived: Any, run: Any, federation: Any
) -> None:
    ran = policy("replay", write(READS), "--federation")
    assert [each["index"] for each in ran.json["changes"]] == [lived["write"].ledger_index]
    assert ran.json["owner"] == BY_BALLOT
    ran = policy("replay", write(READS), "--domain", CLINIC)
    assert (ran.exit_code, ran.json["decisions"]) == (0, 4), "it has no say in what is the bank's"
    assert policy("replay", write(ALL), "--domain", CLINIC, "--federation").exit_code == 2
    words = ("policy", "replay", write(READS), "--org", federation.org())
    assert "2 of 4 decisions would be others" in run(*words).stdout
