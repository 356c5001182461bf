"""Drafting and signing a genesis: nobody signs what was not verified, or was not shown."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from quorate.core import dsse
from quorate.core.genesis import parse_genesis
from quorate.node import organisation
from quorate.proofs.signing import SigningKey, sign_envelope

ORIGIN = "quorate.example/new"
DOMAINS = ("bank.example", "clinic.example", "logistics.example")


@pytest.fixture
def orgs(tmp_path: Path) -> dict[str, Path]:
    for number, domain in enumerate(DOMAINS):
        address = f"127.0.0.1:{7411 + number}"
        organisation.create(tmp_path / domain, domain=domain, peer_address=address)
    return {domain: tmp_path / domain for domain in DOMAINS}


@pytest.fixture
def draft(run: Any, tmp_path: Path, orgs: dict[str, Path]) -> Path:
    file = tmp_path / "genesis.json"
    descriptors = [org / "descriptor.json" for org in orgs.values()]
    ran = run("genesis", "draft", "--origin", ORIGIN, "--out", file, *reversed(descriptors))
    assert ran.exit_code == 0, ran.stderr
    return file


def change(file: Path, edit: Any) -> None:
    """Edits the payload and keeps everything else, signatures included."""
    envelope = json.loads(file.read_bytes())
    payload = json.loads(base64.b64decode(envelope["payload"]))
    edit(payload)
    encoded = json.dumps(payload, sort_keys=True, separators=(",", ":")).encode()
    envelope["payload"] = base64.b64encode(encoded).decode()
    file.write_text(json.dumps(envelope, sort_keys=True, separators=(",", ":")))


def test_a_genesis_is_valid_when_everybody_has_signed(
    run: Any, draft: Path, orgs: dict[str, Path]
) -> None:
    assert run("genesis", "verify", draft).exit_code == 6
    for domain, org in orgs.items():
        signed = run("genesis", "sign", org, draft, "--yes", "-o", "json")
        assert signed.exit_code == 0
        assert signed.json["signed_as"] == domain
    ran = run("genesis", "verify", draft, "-o", "json")
    assert ran.exit_code == 0
    assert ran.json["complete"] is True
    genesis = parse_genesis(draft.read_bytes())
    assert ran.json["hash"] == genesis.hash.hex()
    assert [item.domain for item in genesis.descriptors] == sorted(DOMAINS)


def test_the_order_of_signing_does_not_matter(run: Any, draft: Path, orgs: dict[str, Path]) -> None:
    unsigned, results = draft.read_bytes(), set()
    for order in (DOMAINS, DOMAINS[::-1]):
        draft.write_bytes(unsigned)
        for domain in order:
            assert run("genesis", "sign", orgs[domain], draft, "--yes").exit_code == 0
        results.add(draft.read_bytes())
    assert len(results) == 1


def test_who_has_not_signed_is_named(run: Any, draft: Path, orgs: dict[str, Path]) -> None:
    run("genesis", "sign", orgs["clinic.example"], draft, "--yes")
    ran = run("genesis", "verify", draft, "-o", "json")
    assert ran.exit_code == 6
    assert ran.error["kind"] == "verification"
    assert "bank.example, logistics.example" in ran.error["message"]
    assert "clinic.example" not in ran.error["message"]


def test_signing_twice_changes_nothing(run: Any, draft: Path, orgs: dict[str, Path]) -> None:
    run("genesis", "sign", orgs["bank.example"], draft, "--yes")
    once = draft.read_bytes()
    assert run("genesis", "sign", orgs["bank.example"], draft, "--yes").exit_code == 0
    assert draft.read_bytes() == once


def test_what_is_signed_is_shown_first(run: Any, draft: Path, orgs: dict[str, Path]) -> None:
    before = draft.read_bytes()
    ran = run("genesis", "sign", orgs["bank.example"], draft, answer="n\n")
    assert ran.exit_code == 1
    assert "nothing was done" in ran.stderr
    assert "--yes" in ran.stderr
    assert draft.read_bytes() == before
    assert ORIGIN in ran.stdout
    assert "2000 ms" in ran.stdout
    for org in orgs.values():
        descriptor = organisation.read_descriptor(org / "descriptor.json")
        assert descriptor.domain in ran.stdout
        assert dsse.key_id(descriptor.governance_key) in ran.stdout
        assert dsse.key_id(descriptor.node.log_key) in ran.stdout


def test_no_answer_is_no_signature(run: Any, draft: Path, orgs: dict[str, Path]) -> None:
    before = draft.read_bytes()
    assert run("genesis", "sign", orgs["bank.example"], draft).exit_code == 1
    assert draft.read_bytes() == before


def test_a_yes_signs(run: Any, draft: Path, orgs: dict[str, Path]) -> None:
    assert run("genesis", "sign", orgs["bank.example"], draft, answer="y\n").exit_code == 0
    assert len(json.loads(draft.read_bytes())["signatures"]) == 1


def test_json_stays_json_when_it_asks(run: Any, draft: Path, orgs: dict[str, Path]) -> None:
    ran = run("genesis", "sign", orgs["bank.example"], draft, "-o", "json", answer="y\n")
    assert ran.exit_code == 0
    assert ORIGIN in ran.stderr
    assert ran.stdout.splitlines()[-1].startswith("{")


def swap_key(payload: Any) -> None:
    """Puts another key into the clinic's descriptor, and signs it with that key."""
    key = SigningKey.generate()
    envelope = payload["descriptors"][1]
    descriptor = json.loads(base64.b64decode(envelope["payload"]))
    descriptor["governance_key"] = key.public.hex()
    encoded = json.dumps(descriptor, sort_keys=True, separators=(",", ":")).encode()
    payload["descriptors"][1] = json.loads(sign_envelope(dsse.DESCRIPTOR_TYPE, encoded, key))


def break_signature(payload: Any) -> None:
    payload["descriptors"][2]["signatures"][0]["sig"] = base64.b64encode(bytes(64)).decode()


def test_a_broken_descriptor_of_somebody_else_is_not_signed(
    run: Any, draft: Path, orgs: dict[str, Path]
) -> None:
    change(draft, break_signature)
    before = draft.read_bytes()
    ran = run("genesis", "sign", orgs["bank.example"], draft, "--yes", "-o", "json")
    assert ran.exit_code == 6
    assert "logistics.example" in ran.error["message"]
    assert draft.read_bytes() == before


def test_a_descriptor_that_is_not_the_own_one_is_not_signed(
    run: Any, draft: Path, orgs: dict[str, Path]
) -> None:
    change(draft, swap_key)
    ran = run("genesis", "sign", orgs["clinic.example"], draft, "--yes", "-o", "json")
    assert ran.exit_code == 6
    assert "clinic.example otherwise" in ran.error["message"]


def test_a_change_after_a_signature_is_noticed(
    run: Any, draft: Path, orgs: dict[str, Path]
) -> None:
    run("genesis", "sign", orgs["bank.example"], draft, "--yes")
    change(draft, lambda payload: payload["parameters"].update(authority_period_ms=60_000))
    for arguments in (("verify", draft), ("sign", orgs["clinic.example"], draft, "--yes")):
        ran = run("genesis", *arguments, "-o", "json")
        assert ran.exit_code == 6
        assert "no member's" in ran.error["message"]


def test_a_stranger_does_not_sign(run: Any, draft: Path, tmp_path: Path) -> None:
    organisation.create(tmp_path / "x", domain="other.example")
    ran = run("genesis", "sign", tmp_path / "x", draft, "--yes", "-o", "json")
    assert ran.exit_code == 6
    assert "not in this genesis" in ran.error["message"]


def test_a_governance_key_that_others_can_read_does_not_sign(
    run: Any, draft: Path, orgs: dict[str, Path]
) -> None:
    (orgs["bank.example"] / "governance.key").chmod(0o640)
    ran = run("genesis", "sign", orgs["bank.example"], draft, "--yes", "-o", "json")
    assert ran.exit_code == 1
    assert "chmod 600" in ran.error["hint"]


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"signatures":[]}', b"\xff", b"null"])
def test_what_is_no_genesis_is_told(run: Any, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "g.json").write_bytes(data)
    assert run("genesis", "verify", tmp_path / "g.json").exit_code == 6


def test_a_draft_overwrites_nothing(run: Any, draft: Path, orgs: dict[str, Path]) -> None:
    before = draft.read_bytes()
    descriptor = orgs["bank.example"] / "descriptor.json"
    ran = run("genesis", "draft", "--origin", ORIGIN, "--out", draft, descriptor)
    assert ran.exit_code == 1
    assert draft.read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("--origin", "not an origin"),
        ("--authority-period", "1s", "--max-permit-ttl", "2s"),
        ("--rho-ppm", "-1"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(
    run: Any, tmp_path: Path, orgs: dict[str, Path], arguments: tuple[str, ...]
) -> None:
    options = {"--origin": ORIGIN} | dict(zip(arguments[::2], arguments[1::2], strict=True))
    flat = [part for pair in options.items() for part in pair]
    out = tmp_path / "new.json"
    ran = run("genesis", "draft", orgs["bank.example"] / "descriptor.json", "--out", out, *flat)
    assert ran.exit_code == 2
    assert not out.exists()


def test_the_parameters_are_what_was_asked_for(
    run: Any, tmp_path: Path, orgs: dict[str, Path]
) -> None:
    ran = run(
        *("genesis", "draft", orgs["bank.example"] / "descriptor.json", "--origin", ORIGIN),
        *("--out", tmp_path / "new.json", "--authority-period", "3s", "-o", "json"),
        *("--max-permit-ttl", "250ms", "--max-skew", "1s", "--rho-ppm", "200"),
    )
    assert ran.json["parameters"] == {
        "authority_period_ms": 3000,
        "max_permit_ttl_ms": 250,
        "max_skew_ms": 1000,
        "rho_ppm": 200,
    }
