"""`quorate domain set-keys` and `keys`, `quorate key`, `quorate command`: several keys of an
organisation, which sign in several places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quorate.cli.expiring import warning_of
from quorate.node.identity import load_signing_key

CLINIC, BANK = "clinic.example", "bank.example"
EXECUTOR = "spiffe://bank.example/agent/payments"


@pytest.fixture
def made(run: Any, tmp_path: Path) -> Any:
    """Makes a key; where it is, and its public key."""

    def make(name: str) -> tuple[Path, str]:
        file = tmp_path / f"{name}.key"
        ran = run("key", "new", file, "-o", "json")
        assert ran.exit_code == 0, ran.stderr
        assert file.stat().st_mode & 0o077 == 0
        return file, ran.json["public_key"]

    return make


@pytest.fixture
def two_of_three(run: Any, federation: Any, node: Any, made: Any) -> list[Path]:
    """The bank has three governance keys, of which two sign; the first is in its directory."""
    own = federation.org() / "governance.key"
    second, third = made("second"), made("third")
    publics = [load_signing_key(own).public.hex(), second[1], third[1]]
    ran = run(
        "domain", "set-keys", "--org", federation.org(), "--threshold", "2",
        *(part for key in publics for part in ("--governance", key)),
        "--signed-by", second[0], "--signed-by", third[0],
    )  # fmt: skip
    assert ran.exit_code == 0, ran.stderr
    return [own, second[0], third[0]]


def register(run: Any, federation: Any, *before: object, name: str = EXECUTOR) -> Any:
    return run(*before, "executor", "register", name, "--org", federation.org(), "-o", "json")


def test_a_key_is_made_once_and_never_shown(run: Any, made: Any) -> None:
    file, public = made("one")
    assert run("key", "new", file).exit_code == 1
    shown = run("key", "show", file)
    assert public in shown.stdout
    assert "PRIVATE" not in shown.stdout
    assert load_signing_key(file).public.hex() == public


def test_one_signature_of_two_is_refused_and_two_are_not(
    run: Any, federation: Any, node: Any, two_of_three: list[Path]
) -> None:
    denied = register(run, federation)
    assert denied.exit_code == 3
    assert denied.json["reason"] == "TOO_FEW_SIGNATURES"
    keys = [part for file in two_of_three[1:] for part in ("--governance-key", file)]
    assert register(run, federation, *keys).exit_code == 0
    shown = run("domain", "keys", "--org", federation.org(), "-o", "json").json
    assert (len(shown["governance_keys"]), shown["threshold"]) == (3, 2)
    assert shown["recovery_keys"] == []
    assert "2" in run("domain", "keys", "--org", federation.org()).stdout


def test_a_command_is_signed_in_several_places(
    run: Any, federation: Any, node: Any, two_of_three: list[Path], tmp_path: Path
) -> None:
    file = tmp_path / "command.json"
    saved = register(run, federation, "--save", file)
    assert saved.exit_code == 0, saved.stderr
    assert run("command", "submit", file, "--org", federation.org()).exit_code == 3
    shown = run("command", "show", file)
    assert "executor.register of bank.example" in shown.stdout
    assert EXECUTOR in shown.stdout
    assert run("command", "sign", file, "--key", two_of_three[2], answer="n\n").exit_code == 1
    signed = run("command", "sign", file, "--key", two_of_three[2], "--yes", "-o", "json")
    assert len(signed.json["signed_by"]) == 2
    again = run("command", "sign", file, "--key", two_of_three[2], "--yes", "-o", "json")
    assert len(again.json["signed_by"]) == 2, "a key signs once"
    done = run("command", "submit", file, "--org", federation.org(), "-o", "json")
    assert done.exit_code == 0, done.stderr
    assert done.json["accepted"]


def test_a_key_from_stdin_signs(
    run: Any, federation: Any, node: Any, two_of_three: list[Path], tmp_path: Path
) -> None:
    key = two_of_three[1].read_text()
    given = ("--governance-key", two_of_three[0], "--governance-key", "-")
    ran = run(*given, "executor", "register", EXECUTOR, "--org", federation.org(), answer=key)
    assert ran.exit_code == 0, ran.stderr
    file = tmp_path / "command.json"
    suspend = ("executor", "suspend", EXECUTOR, "--org", federation.org())
    assert run("--save", file, *suspend).exit_code == 0
    asked = run("command", "sign", file, "--key", "-", answer=key)
    assert asked.exit_code == 1
    assert "--yes" in asked.stderr
    assert run("command", "sign", file, "--key", "-", "--yes", answer=key).exit_code == 0
    assert run("command", "submit", file, "--org", federation.org()).exit_code == 0
    for nonsense in ("", "x" * 100_000, "no key"):
        ran = run("key", "show", "-", answer=nonsense)
        assert ran.exit_code == 1
        assert "stdin" in ran.stderr
    twice = run("--governance-key", "-", "--governance-key", "-", *suspend, answer=key)
    assert "one key" in twice.stderr


def test_who_is_missing_is_said_before_anything_is_asked_for(
    run: Any, federation: Any, node: Any, made: Any, two_of_three: list[Path]
) -> None:
    file, public = made("fourth")
    requests = len(node.requests)
    common = ("domain", "set-keys", "--org", federation.org(), "--recovery", public)
    ran = run(*common)
    assert ran.exit_code == 1
    assert "each new key has to sign" in ran.stderr
    ran = run(*common, "--signed-by", file)
    assert ran.exit_code == 1
    assert "1 of the 2 governance keys" in ran.stderr
    assert len(node.requests) == requests
    ran = run(*common, "--signed-by", file, "--signed-by", two_of_three[2])
    assert ran.exit_code == 0, ran.stderr


def test_recovery_keys_give_new_keys_when_the_others_are_lost(
    run: Any, federation: Any, node: Any, made: Any, two_of_three: list[Path]
) -> None:
    offline, offline_public = made("offline")
    ran = run(
        "domain", "set-keys", "--org", federation.org(), "--recovery", offline_public,
        "--expires", "365d", "--signed-by", offline, "--signed-by", two_of_three[1],
    )  # fmt: skip
    assert ran.exit_code == 0, ran.stderr
    for file in two_of_three:
        file.unlink()
    fresh, public = made("fresh")
    ran = run(
        "domain", "set-keys", "--org", federation.org(), "--governance", public,
        "--threshold", "1", "--signed-by", offline, "--signed-by", fresh,
    )  # fmt: skip
    assert ran.exit_code == 0, ran.stderr
    assert register(run, federation, "--governance-key", fresh).exit_code == 0
    shown = run("domain", "keys", "--org", federation.org(), "-o", "json").json
    assert shown["governance_keys"] == [public]
    assert shown["recovery_keys"] == [offline_public]
    assert shown["not_after_ms"] > 0
    gone = run(
        "domain", "set-keys", "--org", federation.org(), "--recovery", "none", "--expires",
        "never", "--signed-by", offline,
    )  # fmt: skip
    assert gone.exit_code == 0, gone.stderr
    assert node.view.domain(BANK).key_set is None


def test_rekey_renews_the_directorys_key_within_its_set(
    run: Any, federation: Any, node: Any, two_of_three: list[Path]
) -> None:
    before = node.view.domain(BANK)
    alone = run("domain", "rekey", "--org", federation.org())
    assert alone.exit_code == 1
    assert "1 of the 2" in alone.stderr
    ran = run("--governance-key", two_of_three[1], "domain", "rekey", "--org", federation.org())
    assert ran.exit_code == 0, ran.stderr
    after = node.view.domain(BANK)
    own = load_signing_key(two_of_three[0]).public.hex()
    assert own == after.governance_key != before.governance_key
    assert after.key_set == before.key_set


def test_a_renewal_that_was_signed_elsewhere_is_found_out(
    run: Any, federation: Any, node: Any, two_of_three: list[Path], tmp_path: Path
) -> None:
    file = tmp_path / "rekey.json"
    assert run("--save", file, "domain", "rekey", "--org", federation.org()).exit_code == 0
    assert run("command", "sign", file, "--key", two_of_three[2], "-y").exit_code == 0
    assert run("command", "submit", file, "--org", federation.org()).exit_code == 0
    ran = run("domain", "rekey", "--org", federation.org())
    assert ran.exit_code == 0, ran.stderr
    own = load_signing_key(two_of_three[0]).public.hex()
    assert own == node.view.domain(BANK).governance_key


@pytest.mark.parametrize("text", ["x", "0" * 64, "nothing.pub"])
def test_what_is_no_public_key_is_said(run: Any, federation: Any, node: Any, text: str) -> None:
    ran = run("domain", "set-keys", "--org", federation.org(), "--recovery", text)
    assert ran.exit_code != 0
    assert "no public key" in ran.stderr


def test_people_hear_of_the_end_of_keys(run: Any, federation: Any, node: Any, made: Any) -> None:
    file, public = made("offline")

    def expires(moment: str) -> None:
        ran = run(
            "domain", "set-keys", "--org", federation.org(), "--recovery", public,
            "--expires", moment, "--signed-by", file,
        )  # fmt: skip
        assert ran.exit_code == 0, ran.stderr

    def told(*command: str) -> str:
        ran = run(*command, "--org", federation.org())
        assert ran.exit_code == 0, ran.stderr
        return str(ran.stderr)

    expires("400d")
    assert told("status") == told("domain", "list") == ""
    assert "1 of 1" in run("domain", "list", "--org", federation.org()).stdout
    expires("20d")
    for command in (("status",), ("domain", "list")):
        assert "bank.example expire on" in told(*command)
    status = run("status", "--org", federation.org(), "-o", "json")
    assert status.json["keys_not_after_ms"] > 0
    assert "expire on" in status.stderr


@pytest.mark.parametrize(("now", "word"), [(999, "expire on"), (1_000, "expired on")])
def test_what_is_over_is_said_otherwise(now: int, word: str) -> None:
    record = {"id": BANK, "key_set": {"not_after": 1_000, "threshold": 1}}
    assert word in warning_of(record, now)
    assert warning_of({"id": BANK}, now) == ""
