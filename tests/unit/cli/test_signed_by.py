"""`quorate ledger signed-by`: what a key has signed, what is in force of it, and ending that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quorate.cli.signed_by import Signed, _judge
from quorate.core.verbs import Verb
from quorate.node.identity import load_signing_key
from quorate.proofs.commands import build_command
from quorate.testing.builders import trust_body

BANK, CLINIC = "bank.example", "clinic.example"
FIRST, SECOND = (f"spiffe://{BANK}/agent/{name}" for name in ("first", "second"))
OPEN = ("trust", "open", "e1", "--trustee", CLINIC, "--action", "*", "--resource", f"//{BANK}/*")


@pytest.fixture
def own(federation: Any, node: Any, run: Any) -> Any:
    """Runs a command of the bank's."""

    def invoke(*arguments: object, before: tuple[object, ...] = ()) -> Any:
        return run(*before, *arguments, "--org", federation.org(), "-o", "json")

    return invoke


@pytest.fixture
def lost(federation: Any, own: Any) -> Any:
    """The key that is lost, after everything that it has signed."""
    key = load_signing_key(federation.org() / "governance.key")
    for arguments in (
        ("executor", "register", FIRST),
        ("executor", "register", SECOND),
        ("executor", "revoke", SECOND),
        OPEN,
        ("grant", "issue", "g1", FIRST, "--action", "*", "--resource", f"//{BANK}/*"),
        ("resources", "freeze"),
        ("resources", "thaw"),
    ):
        assert own(*arguments).exit_code == 0, arguments
    assert own("domain", "rekey").exit_code == 0
    assert own("executor", "register", f"spiffe://{BANK}/agent/later").exit_code == 0
    return key


def test_it_lists_what_the_key_has_signed_and_nothing_else(own: Any, lost: Any) -> None:
    ran = own("ledger", "signed-by", lost.keyid)
    assert ran.exit_code == 0, ran.stderr
    said = [(each["type"], each["in_force"]) for each in ran.json["commands"]]
    assert said == [
        ("executor.register", True),
        ("executor.register", False),
        ("executor.revoke", False),
        ("trust.open", True),
        ("grant.issue", True),
        ("resources.freeze", False),
        ("resources.thaw", None),
        ("domain.rekey", None),
    ]
    assert [each["index"] for each in ran.json["commands"]] == list(range(1, 9))
    assert own("ledger", "signed-by", lost.public.hex()).json == ran.json
    assert own("ledger", "signed-by", lost.keyid[:8]).json == ran.json


def test_since_when(own: Any, lost: Any) -> None:
    def types(since: str) -> list[str]:
        ran = own("ledger", "signed-by", lost.keyid, "--since", since)
        assert ran.exit_code == 0, ran.stderr
        return [each["type"] for each in ran.json["commands"]]

    assert types("5") == ["grant.issue", "resources.freeze", "resources.thaw", "domain.rekey"]
    assert len(types("1h")) in {0, 8}, "the node's clock is a test's"
    assert types("2099-01-01T00:00:00Z") == []
    assert len(types("2001-01-01T00:00:00Z")) == 8


def test_the_new_key_signed_its_own_coming(federation: Any, own: Any, lost: Any) -> None:
    new = load_signing_key(federation.org() / "governance.key")
    said = own("ledger", "signed-by", new.keyid).json["commands"]
    assert [each["type"] for each in said] == ["domain.rekey", "executor.register"]


def test_all_of_it_that_is_in_force_is_ended(own: Any, node: Any, lost: Any) -> None:
    ran = own("ledger", "signed-by", lost.keyid, "--revoke", "--since", "4")
    assert ran.exit_code == 0, ran.stderr
    assert [each["type"] for each in ran.json["ended"]] == ["grant.revoke", "trust.close"]
    assert all(each["reached"] == "drained" for each in ran.json["ended"])
    ran = own("ledger", "signed-by", lost.keyid, "--revoke")
    assert [each["type"] for each in ran.json["ended"]] == ["executor.revoke"]
    again = own("ledger", "signed-by", lost.keyid, "--revoke")
    assert again.json["ended"] == []
    assert not any(each["in_force"] for each in again.json["commands"])


def test_it_can_be_kept_for_others_to_sign(run: Any, own: Any, lost: Any, tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    ran = own("ledger", "signed-by", lost.keyid, "--revoke", "--save-to", plan)
    assert ran.exit_code == 0, ran.stderr
    files = sorted(plan.iterdir())
    assert [file.name for file in files] == [
        "001-executor.revoke.json",
        "002-grant.revoke.json",
        "003-trust.close.json",
    ]
    for file in files:
        done = own("command", "submit", file, "--wait", "enforced")
        assert done.exit_code == 0, done.stderr
    assert own("ledger", "signed-by", lost.keyid, "--revoke").json["ended"] == []
    assert own("ledger", "signed-by", lost.keyid, "--revoke", "--save-to", plan).exit_code == 1


def test_what_is_anothers_is_left_to_the_other(
    run: Any, federation: Any, node: Any, own: Any, lost: Any
) -> None:
    other = load_signing_key(federation.org(CLINIC) / "governance.key")
    body = trust_body("e9", BANK, [f"//{CLINIC}/*"])
    assert node.execute(node_command(federation, node, CLINIC, "trust.open", body)).accepted
    ran = own("ledger", "signed-by", other.keyid, "--revoke")
    assert [each["in_force"] for each in ran.json["commands"]] == [True]
    assert ran.json["ended"] == []


def node_command(federation: Any, node: Any, issuer: str, kind: str, body: Any) -> bytes:
    return build_command(
        origin=federation.genesis.origin,
        issuer=issuer,
        command_type=kind,
        body=body,
        nonce="c" * 32,
        not_after=node.view.ledger_time() + 60_000,
        key=load_signing_key(federation.org(issuer) / "governance.key"),
    )


@pytest.mark.parametrize("key", ["x", "abc", "0" * 65, "../../x"])
def test_what_is_no_key_is_refused(own: Any, key: str) -> None:
    assert own("ledger", "signed-by", key).exit_code == 2


def test_people_read_it_too(run: Any, federation: Any, node: Any, lost: Any) -> None:
    ran = run("ledger", "signed-by", lost.keyid, "--revoke", "--org", federation.org())
    assert ran.exit_code == 0, ran.stderr
    assert "look at it" in ran.stdout
    assert "ended by grant.revoke bank.example/g1" in ran.stdout


@pytest.mark.parametrize(("verb", "choice"), [(Verb.BALLOT_CAST, "yes"), (Verb.PROPOSAL_OPEN, "")])
@pytest.mark.parametrize(
    ("status", "in_force"), [("open", True), ("executed", None), ("withdrawn", False)]
)
def test_what_a_ballot_has_brought_about_a_person_looks_at(
    verb: Verb, choice: str, status: str, in_force: bool | None
) -> None:
    body = {"proposal": "p", "choice": choice} if choice else {"act": "domain.admit"}
    records: Any = {"proposal": {"p": {"id": "p", "status": status}}}
    found = _judge(Signed(9, 0, verb, CLINIC, "p", body), records)
    assert found.in_force is in_force
    assert (found.ended_by is not None) == (in_force is True)
