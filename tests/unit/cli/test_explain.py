"""Explaining from the command line: of now by asking a node, of the past by deciding its ledger
again, with no node believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.left import make_left

from quorate.cli.explained import MAX_THINGS_SHOWN, QUESTIONS
from quorate.core import codec
from quorate.core.decision import DecisionRequest, check_lease, decide
from quorate.core.entries import parse as parse_entry
from quorate.core.explanation import Question
from quorate.core.outcome import Deny, Reason
from quorate.core.replaying import Replay
from quorate.proofs.commands import build_command

ACTION, RESOURCE = "payments.transfer", "//bank.example/accounts/payroll"
EXECUTOR = "spiffe://bank.example/agent/payments"
AGENT = "agent/payments"


@pytest.fixture
def org(federation: Any) -> Path:
    return federation.org()


@pytest.fixture
def acquire(node: Any) -> Callable[..., Any]:
    """Has the node acquire a lease for the executor; the outcome."""

    def invoke(resource: str = RESOURCE) -> Any:
        body = {"executor": EXECUTOR, "action": ACTION, "resource": resource, "ttl_ms": 0}
        envelope = build_command(
            origin=node.genesis.origin,
            issuer=node.organisation.config.node.id,
            command_type="lease.acquire",
            body=body,
            nonce=f"{len(node.entries):032x}",
            not_after=node.time_ms + 60_000,
            key=node.signing_key,
        )
        return node.execute(envelope)

    return invoke


@pytest.fixture
def lived(run: Any, org: Path, node: Any, acquire: Any) -> dict[str, Any]:
    """A ledger in which an executor was granted something, used it, and lost it again. Which entry
    did what, and the lease."""
    at: dict[str, Any] = {}
    scope = ("--action", "payments.*", "--resource", "//bank.example/accounts/*")
    run("executor", "register", AGENT, "--org", org)
    at["registered"] = len(node.entries) - 1
    run("grant", "issue", "payroll", AGENT, *scope, "--org", org)
    at["granted"] = len(node.entries) - 1
    at["lease"] = acquire().thing
    at["acquired"] = len(node.entries) - 1
    run("grant", "revoke", "payroll", "--org", org)
    at["revoked"] = len(node.entries) - 1
    assert not acquire().accepted
    at["denied"] = len(node.entries) - 1
    run("executor", "register", AGENT, "--org", org)  # it is
    at["repeated"] = len(node.entries) - 1
    assert len(set(at.values())) == len(at) == 7
    return at


@pytest.fixture
def why(run: Any, org: Path) -> Callable[..., Any]:
    return lambda *arguments: run("explain", *arguments, "--org", org, "-o", "json")


def about(*more: object) -> tuple[object, ...]:
    return ("act", "--executor", AGENT, "--action", ACTION, "--resource", RESOURCE, *more)


def failed(value: Any) -> Any:
    """The step that decided."""
    return next(step for step in value["steps"] if step["answer"] == "failed")


# -- now -----------------------------------------------------------------------------------------


def test_an_act_that_would_be_permitted_exits_0(why: Any, run: Any, org: Path, node: Any) -> None:
    assert why(*about()).json["reason"] == "UNKNOWN_EXECUTOR"
    run("executor", "register", AGENT, "--org", org)
    run("grant", "issue", "g", AGENT, "--action", "*", "--resource", RESOURCE, "--org", org)
    ran = why(*about())
    assert (ran.exit_code, ran.json["verdict"]) == (0, "permit")
    assert ran.json["has_authority"] is True
    assert ran.json["ledger_size"] == len(node.entries)
    assert {step["answer"] for step in ran.json["steps"]} == {"passed"}
    grant = ran.json["steps"][-2]["things"][0]
    assert (grant["id"], grant["changed"]) == ("bank.example/g", len(node.entries) - 1)


def test_a_denial_exits_3_and_says_what_would_change_it(why: Any, run: Any, lived: Any) -> None:
    ran = why(*about())
    assert (ran.exit_code, ran.json["reason"]) == (3, "GRANT_REVOKED")
    step = failed(ran.json)
    assert (step["question"], step["thing"]) == ("grant", "bank.example/payroll")
    assert step["things"][0]["changed"] == lived["revoked"]
    assert step["remedy"]["signer"] == "bank.example"
    assert step["remedy"]["command"].startswith("quorate grant issue NAME")


def test_a_node_without_authority_says_so_first(why: Any, node: Any, lived: Any) -> None:
    node.refused = Deny(Reason.INQUORATE)
    value = why(*about()).json
    assert (value["reason"], value["has_authority"]) == ("INQUORATE", False)
    assert value["steps"][0]["question"] == "node"
    assert failed(value) == value["steps"][0]
    assert value["steps"][0]["remedy"]["sentence"]


def test_an_operator_need_not_say_whose_lease_it_is(why: Any, lived: Any) -> None:
    value = why("lease", lived["lease"]).json
    assert (value["reason"], value["thing"]) == ("GRANT_REVOKED", "bank.example/payroll")
    assert why("lease", lived["lease"], "--executor", "agent/x").json["reason"] == (
        "NOT_LEASE_HOLDER"
    )
    assert why("lease", lived["lease"], "--action", "x").json["reason"] == "LEASE_SCOPE"
    assert why("lease", "0" * 32).json["reason"] == "UNKNOWN_LEASE"


def test_an_executor_asks_about_itself(
    run: Any, org: Path, node: Any, lived: Any, tmp_path: Path
) -> None:
    out = tmp_path / "payments"
    run("executor", "issue", org, AGENT, "--out", out)
    as_client = ("--client", out, "--address", node.address, "-o", "json")
    act = ("explain", "act", "--action", ACTION, "--resource", RESOURCE)
    assert run(*act, *as_client).json["reason"] == "GRANT_REVOKED"
    assert node.requests[-1].executor == EXECUTOR
    past = run(*act, *as_client, "--at", lived["granted"], "--genesis", node_genesis(org))
    assert past.json["verdict"] == "permit", past.stderr


def node_genesis(org: Path) -> Path:
    return org / "genesis.json"


def test_people_see_a_table(run: Any, org: Path, lived: Any) -> None:
    ran = run("explain", *about(), "--org", org)
    assert ran.exit_code == 3
    lines = ran.stdout.splitlines()
    assert lines[0] == "deny GRANT_REVOKED bank.example/payroll"
    row = next(line for line in lines if QUESTIONS["grant"] in line)
    assert "failed" in row
    assert any("grant bank.example/payroll" in line and "revoked" in line for line in lines)
    assert any(line.startswith("To change it:") for line in lines)
    assert "quorate grant issue NAME" in ran.stdout
    assert "by bank.example" in ran.stdout


def test_people_see_the_nearest_of_many(run: Any, org: Path, lived: Any) -> None:
    for number in range(MAX_THINGS_SHOWN + 3):
        scope = ("--action", "other", "--resource", RESOURCE)
        run("grant", "issue", f"a{number}", AGENT, *scope, "--org", org)
    shown = run("explain", *about(), "--org", org).stdout
    assert "grant bank.example/payroll" in shown
    assert "and 4 more" in shown
    assert shown.count("for other actions") == MAX_THINGS_SHOWN - 1


def test_every_question_has_words() -> None:
    assert list(QUESTIONS) == [question.value for question in Question]


# -- the past ------------------------------------------------------------------------------------


def test_the_past_is_what_was_decided_then(why: Any, node: Any, lived: Any) -> None:
    """At every entry: what deciding gives at the state that the ledger itself then had."""
    replay = Replay(node.genesis)
    request = DecisionRequest(EXECUTOR, ACTION, RESOURCE)
    for index, data in enumerate(node.entries):
        time_ms = replay.take(data).time
        for ran, decision in (
            (why(*about("--at", index)), decide(replay.view, request, time_ms)),
            (
                why("lease", lived["lease"], "--executor", AGENT, "--at", index),
                check_lease(replay.view, lived["lease"], EXECUTOR, "", "", time_ms)[0],
            ),
        ):
            assert (ran.json["ledger_size"], ran.json["decided_at_ms"]) == (index + 1, time_ms)
            if isinstance(decision, Deny):
                assert (ran.exit_code, ran.json["reason"]) == (3, decision.reason)
                assert failed(ran.json)["thing"] == ran.json["thing"] == decision.thing
            else:
                assert (ran.exit_code, ran.json["verdict"]) == (0, "permit")
            assert ran.json["verified"]["size"] == len(node.entries)


def test_the_past_has_the_form_of_the_present(why: Any, node: Any, lived: Any) -> None:
    """At the last entry it says the same, less what only a node can say."""
    newest = len(node.entries) - 1
    for question in (about(), ("lease", lived["lease"]), ("lease", "0" * 32)):
        now, then = why(*question).json, why(*question, "--at", newest).json
        assert now["steps"].pop(0)["question"] == "node"
        assert now.pop("has_authority") is True
        assert then.pop("verified")
        assert now == then


def test_the_holder_is_found_in_the_past_too(why: Any, lived: Any) -> None:
    assert why("lease", lived["lease"], "--at", lived["acquired"]).exit_code == 0
    before = why("lease", lived["lease"], "--at", lived["granted"])
    assert before.json["reason"] == "UNKNOWN_LEASE"


def test_an_entry_is_explained_as_it_was_recorded(why: Any, node: Any, lived: Any) -> None:
    for index, data in enumerate(node.entries):
        ran, entry = why("entry", index), parse_entry(data)
        assert ran.exit_code == (0 if entry.accepted else 3), ran.stderr
        assert (ran.json["reason"], ran.json["thing"]) == (
            entry.reason or "",
            "" if entry.accepted else entry.thing,
        )
        assert ran.json["entry"] == {"index": index, "type": entry.kind, "thing": entry.thing}
        assert ran.json["ledger_size"] == index
    assert failed(why("entry", lived["denied"]).json)["question"] == "grant"
    assert failed(why("entry", lived["repeated"]).json)["question"] == "effect"


def test_people_see_an_entry(run: Any, org: Path, lived: Any) -> None:
    shown = run("explain", "entry", lived["denied"], "--org", org).stdout
    assert shown.startswith("deny GRANT_REVOKED bank.example/payroll")
    assert f"{lived['denied']} lease.acquire" in shown
    assert "decided again" in shown


@pytest.mark.parametrize("arguments", [("entry", 99), about("--at", 99)])
def test_what_the_ledger_does_not_have_is_told(why: Any, lived: Any, arguments: Any) -> None:
    ran = why(*arguments)
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert "none at index 99" in ran.error["message"]
    assert "newest" in ran.error["hint"]


def replace(index: int, **changes: object) -> Callable[[Any], None]:
    def change(node: Any) -> None:
        entry = json.loads(node.entries[index])
        node.entries[index] = codec.encode({**entry, **changes})

    return change


def deny_what_was_accepted(node: Any) -> None:
    replace(2, decision="denied", reason="NOT_FOUND", thing="")(node)


def hide_the_revocation(node: Any) -> None:
    """Everything is numbered, hashed and signed anew by the node itself."""
    del node.entries[4]
    for index in range(4, len(node.entries)):
        replace(index, seq=index)(node)


def sign_another_ledger(node: Any) -> None:
    note = node.checkpoint()
    node.checkpoint = lambda: note
    replace(5, time=node.genesis.created + 1)(node)


def give_no_proof(node: Any) -> None:
    honest = node.checkpoint()
    node.checkpoint = lambda: honest
    node.entries[-1] = node.entries[-1] + b" "


@pytest.mark.parametrize(
    ("tamper", "told"),
    [
        (deny_what_was_accepted, "entry 2"),
        (replace(1, type="grant.issue"), "entry 1"),
        (replace(3, reason="x"), "entry 3"),
        (hide_the_revocation, "entry 4"),
        (sign_another_ledger, "are not how the ledger begins"),
        (give_no_proof, "are not how the ledger begins"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_past_that_does_not_hold_is_told_and_not_explained(
    why: Any, node: Any, lived: Any, tamper: Callable[[Any], None], told: str
) -> None:
    tamper(node)
    ran = why("entry", 4)
    assert (ran.exit_code, ran.stdout) == (6, "")
    assert told in ran.error["message"]


def test_a_ledger_that_a_recovery_began_cannot_be_decided_again(
    why: Any, federation: Any, run: Any
) -> None:
    document = make_left(federation, run).agreed() / "recovery.json"
    for arguments in (("entry", 0), about("--at", 0)):
        ran = why(*arguments, "--genesis", document)
        assert (ran.exit_code, ran.stdout) == (1, "")
        assert "recovery" in ran.error["message"]
        assert "former ledger" in ran.error["hint"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("act", "--action", ACTION, "--resource", RESOURCE),
        ("act", "--executor", "spiffe://x", "--action", ACTION, "--resource", RESOURCE),
        ("entry", "-1"),
        about("--at", 0, *(part for n in range(9) for part in ("--parent", f"{n:032x}"))),
    ],
)
def test_what_cannot_be_asked_is_a_matter_of_usage(why: Any, node: Any, arguments: Any) -> None:
    ran = why(*arguments)
    assert (ran.exit_code, ran.stdout) == (2, "")
