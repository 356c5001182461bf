"""Verifying a node's ledger: it holds when it is right, and in no way to be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from quorate.core import codec
from quorate.proofs.checkpoint import Checkpoint, sign_checkpoint
from quorate.proofs.signing import SigningKey


@pytest.fixture
def ledger(run: Any, federation: Any, serving: Any) -> Any:
    """A node with a few entries, accepted and denied, and the command line against it."""
    node = serving.start()
    for name in ("agent/a", "agent/b", "agent/a", "agent/c"):
        run("executor", "register", name, "--org", federation.org())
    assert len(node.entries) == 5
    return node


@pytest.fixture
def verify(run: Any, federation: Any) -> Any:
    return lambda *more: run("ledger", "verify", "--org", federation.org(), *more, "-o", "json")


def test_an_honest_ledger_is_verified(ledger: Any, verify: Any) -> None:
    ran = verify()
    assert ran.exit_code == 0, ran.stderr
    assert ran.json["verified"] is True
    assert (ran.json["size"], ran.json["inclusion_proofs"]) == (5, 5)
    assert ran.json["command_signatures"] == 3 + 3  # of the genesis, and of three accepted commands


def test_a_ledger_of_the_genesis_alone_is_verified(node: Any, verify: Any) -> None:
    assert verify().json["size"] == 1


def replace(index: int, **changes: object) -> Callable[[Any], None]:
    def change(node: Any) -> None:
        entry = json.loads(node.entries[index])
        node.entries[index] = codec.encode({**entry, **changes})

    return change


def drop(node: Any) -> None:
    del node.entries[2]


def swap(node: Any) -> None:
    node.entries[1], node.entries[2] = node.entries[2], node.entries[1]


def accept_the_denied(node: Any) -> None:
    """A decision turned round; everything hashed and signed anew by the node itself."""
    replace(3, decision="accepted", reason="", command={"raw": "AAAA"})(node)


def sign_with_another_key(node: Any) -> None:
    node.log_key = SigningKey.generate()


def sign_another_root(node: Any) -> None:
    checkpoint = Checkpoint(node.genesis.origin, len(node.entries), bytes(32))
    node.checkpoint = lambda: sign_checkpoint(checkpoint, node.log_key)


def sign_for_another_origin(node: Any) -> None:
    checkpoint = Checkpoint("quorate.example/other", len(node.entries), bytes(32))
    node.checkpoint = lambda: sign_checkpoint(checkpoint, node.log_key)


def sign_more_than_there_is(node: Any) -> None:
    checkpoint = Checkpoint(node.genesis.origin, len(node.entries) + 1, bytes(32))
    node.checkpoint = lambda: sign_checkpoint(checkpoint, node.log_key)


def change_after_signing(node: Any) -> None:
    note = node.checkpoint()
    node.checkpoint = lambda: note
    replace(4, time=node.genesis.created + 1)(node)


def send_no_note(node: Any) -> None:
    node.checkpoint = lambda: "not a note"


@pytest.mark.parametrize(
    ("tamper", "told"),
    [
        (replace(0, time=1), "entry 0"),
        (replace(2, seq=7), "entry 2"),
        (replace(2, origin="quorate.example/other"), "entry 2"),
        (replace(2, type="grant.issue"), "entry 2"),
        (replace(2, command={"raw": "AAAA"}), "entry 2"),
        (drop, "entry 2"),
        (swap, "entry 1"),
        (accept_the_denied, "entry 3"),
        (sign_with_another_key, "key has not signed"),
        (sign_another_root, "the node signed"),
        (sign_for_another_origin, "another log's"),
        (sign_more_than_there_is, "does not show entry 5"),
        (change_after_signing, "the node signed"),
        (send_no_note, "checkpoint"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_ledger_that_is_not_as_signed_is_told(
    ledger: Any, verify: Any, tamper: Callable[[Any], None], told: str
) -> None:
    tamper(ledger)
    ran = verify()
    assert ran.exit_code == 6
    assert ran.stdout == ""
    assert ran.error["kind"] == "verification"
    assert told in ran.error["message"]


def test_an_accepted_command_of_a_foreign_key_is_told(
    ledger: Any, verify: Any, federation: Any
) -> None:
    # The clinic's signature in the place of the bank's: well-formed, and nobody's to give.
    entry = json.loads(ledger.entries[2])
    stranger = SigningKey.generate()
    entry["command"]["signatures"][0]["keyid"] = stranger.keyid
    ledger.entries[2] = codec.encode(entry)
    assert "not signed by bank.example" in verify().error["message"]


def test_an_inclusion_proof_that_does_not_hold_is_told(
    ledger: Any, verify: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = ledger.node
    # Right while the root is computed, wrong in the proofs.
    note = ledger.checkpoint()
    ledger.checkpoint = lambda: note
    monkeypatch.setattr(
        ledger, "node", lambda level, index: bytes(32) if level == 0 else honest(level, index)
    )
    ran = verify()
    assert ran.exit_code == 6
    assert "inclusion proof of entry 0" in ran.error["message"]


@pytest.fixture
def second(ledger: Any, serving: Any) -> Any:
    """The node of another organisation, with the same ledger."""
    other = serving.start("clinic.example")
    other.entries = list(ledger.entries)
    return other


@pytest.mark.parametrize("shorter", [0, 1, 4])
def test_two_nodes_of_one_ledger_are_consistent(
    ledger: Any, second: Any, verify: Any, federation: Any, shorter: int
) -> None:
    second.entries = second.entries[: len(second.entries) - shorter]
    ran = verify("--against", federation.org("clinic.example"))
    assert ran.exit_code == 0, ran.stderr
    assert ran.json["against"]["domain"] == "clinic.example"
    assert ran.json["against"]["size"] == 5 - shorter


def test_a_node_that_is_ahead_is_consistent(
    run: Any, ledger: Any, second: Any, verify: Any, federation: Any
) -> None:
    ledger.entries.pop()
    assert verify("--against", federation.org("clinic.example")).exit_code == 0


@pytest.mark.parametrize("shorter", [0, 1])
def test_two_histories_are_told(
    ledger: Any, second: Any, verify: Any, federation: Any, shorter: int
) -> None:
    # The clinic's node says that the bank's third command was another one.
    replace(2, time=second.genesis.created + 5)(second)
    second.entries = second.entries[: len(second.entries) - shorter]
    ran = verify("--against", federation.org("clinic.example"))
    assert ran.exit_code == 6
    assert "not one ledger" in ran.error["message"]


def test_an_executor_verifies_against_a_genesis_of_its_own(
    run: Any, ledger: Any, federation: Any, tmp_path: Any
) -> None:
    out = tmp_path / "x"
    run("executor", "issue", federation.org(), "agent/x", "--out", out)
    without = run("ledger", "verify", "--client", out, "-o", "json")
    assert without.exit_code == 2
    assert "--genesis" in without.error["hint"]
    genesis = ("--genesis", federation.genesis_file)
    assert run("ledger", "verify", "--client", out, *genesis).exit_code == 0


def test_another_genesis_does_not_vouch_for_this_ledger(
    run: Any, ledger: Any, federation: Any, tmp_path: Any
) -> None:
    other = tmp_path / "other.json"
    descriptors = [federation.org(d) / "descriptor.json" for d in ("bank.example",)]
    origin = federation.genesis.origin
    run("genesis", "draft", "--origin", origin, "--out", other, *descriptors)
    run("genesis", "sign", federation.org(), other, "--yes")
    ran = run("ledger", "verify", "--org", federation.org(), "--genesis", other, "-o", "json")
    assert ran.exit_code == 6
    assert "entry 0" in ran.error["message"]


def test_the_last_entries_are_shown(run: Any, ledger: Any, federation: Any) -> None:
    ran = run("ledger", "show", "--org", federation.org(), "--limit", "3", "-o", "json")
    assert [entry["seq"] for entry in ran.json["entries"]] == [2, 3, 4]
    assert ran.json["size"] == 5
    first = run("ledger", "show", "--org", federation.org(), "--start", "0", "--limit", "1")
    assert "genesis" in first.stdout
    table = run("ledger", "show", "--org", federation.org()).stdout
    assert "ALREADY_EXISTS" in table
    assert "bank.example" in table


def test_a_start_beyond_the_end_shows_nothing(run: Any, ledger: Any, federation: Any) -> None:
    ran = run("ledger", "show", "--org", federation.org(), "--start", "99", "-o", "json")
    assert (ran.exit_code, ran.json["entries"]) == (0, [])
