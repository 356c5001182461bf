"""Proofs that are exported from a node, and verified where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quorate.proofs.checkpoint import Checkpoint, sign_checkpoint


@pytest.fixture
def ledger(run: Any, federation: Any, serving: Any) -> Any:
    """A node with two entries behind the genesis."""
    node = serving.start()
    for name in ("agent/a", "agent/b"):
        run("executor", "register", name, "--org", federation.org())
    return node


@pytest.fixture
def files(tmp_path: Path, ledger: Any, run: Any, federation: Any) -> tuple[str, str]:
    """A proof of entry 1, and the policy of the federation."""
    proof, policy = str(tmp_path / "one.tlog-proof"), str(tmp_path / "policy.txt")
    org = ("--org", federation.org(), "-o", "json")
    told = run("proof", "export", "1", "--file", proof, *org)
    assert told.exit_code == 0, told.stderr
    assert told.json == {
        "file": proof,
        "index": 1,
        "origin": ledger.genesis.origin,
        "size": 3,
    }
    told = run("proof", "policy", "--file", policy, *org)
    assert told.exit_code == 0, told.stderr
    assert told.json["ledger_size"] == 3
    assert len(told.json["logs"]) == 3
    return proof, policy


def test_what_a_node_proves_is_verified_without_one(
    files: tuple[str, str], ledger: Any, serving: Any, run: Any
) -> None:
    proof, policy = files
    serving.stop()
    told = run("verify", proof, "--policy", policy, "-o", "json")
    assert told.exit_code == 0, told.stderr
    assert told.json["verified"] is True
    assert (told.json["index"], told.json["size"]) == (1, 3)
    assert (told.json["type"], told.json["decision"]) == ("executor.register", "accepted")
    assert told.json["entry"].encode() == ledger.entries[1]
    steps = [each["step"] for each in told.json["checked"]]
    assert steps == ["form", "checkpoint", "log", "quorum", "entry", "inclusion", "place"]
    assert len(told.json["not_checked"]) == 2
    text = run("verify", proof, "--policy", policy)
    assert text.exit_code == 0
    for word in ("inclusion", "verified", "executor.register", "Not checked"):
        assert word in text.stdout


def test_it_is_verified_for_the_entry_that_is_shown(
    files: tuple[str, str], ledger: Any, run: Any, tmp_path: Path
) -> None:
    proof, policy = files
    for index, code in ((1, 0), (2, 6)):
        shown = tmp_path / f"{index}.json"
        shown.write_bytes(ledger.entries[index])
        told = run("verify", proof, "--policy", policy, "--entry", str(shown), "-o", "json")
        assert told.exit_code == code


def test_a_proof_that_was_changed_proves_nothing(
    files: tuple[str, str], run: Any, tmp_path: Path
) -> None:
    proof, policy = files
    changed = tmp_path / "changed.tlog-proof"
    changed.write_text(Path(proof).read_text().replace("index 1", "index 2"))
    told = run("verify", str(changed), "--policy", policy, "-o", "json")
    assert told.exit_code == 6
    assert "inclusion" in told.error["message"]
    assert told.stdout == ""


def test_a_policy_that_is_none_is_an_error_of_its_own(
    files: tuple[str, str], run: Any, tmp_path: Path
) -> None:
    proof, _ = files
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    told = run("verify", proof, "--policy", str(empty), "-o", "json")
    assert told.exit_code == 1
    assert "says no quorum" in told.error["message"]


def test_files_are_never_written_over(files: tuple[str, str], run: Any, federation: Any) -> None:
    before = [Path(file).read_bytes() for file in files]
    for words in (("export", "1", "--file", files[0]), ("policy", "--file", files[1])):
        told = run("proof", *words, "--org", federation.org(), "-o", "json")
        assert told.exit_code == 1
        assert "exists" in told.error["message"]
    assert [Path(file).read_bytes() for file in files] == before


def test_a_node_that_proves_nothing_is_not_believed(
    ledger: Any, run: Any, federation: Any, tmp_path: Path
) -> None:
    other = Checkpoint(ledger.genesis.origin, len(ledger.entries), bytes(32))
    ledger.checkpoint = lambda: sign_checkpoint(other, ledger.log_key)
    file = tmp_path / "p"
    told = run("proof", "export", "1", "--file", str(file), "--org", federation.org(), "-o", "json")
    assert told.exit_code == 6
    assert not file.exists()
