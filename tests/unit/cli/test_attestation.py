"""`quorate attestation`: an organisation asks for proofs, and an executor gives them."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from quorate.client import Challenge, prove_key
from quorate.proofs.signing import SigningKey

IMAGE, OTHER = "a" * 64, "b" * 64


class Scene:
    """An executor, registered, with its directory; and the keys of an agent and of a builder."""

    def __init__(self, run: Any, org: Path, address: str, path: Path) -> None:
        self._run, self._address, self.path = run, address, path
        self.client, self.org = path / "payments", ("--org", org)
        run("executor", "issue", org, "agent/payments", "--out", self.client)
        run("executor", "register", "agent/payments", *self.org)
        for name in ("agent", "builder"):
            made = run("attestation", "new-key", path / name, "-o", "json")
            assert made.exit_code == 0, made.stderr

    def ask(self, *arguments: object) -> Any:
        return self._run("attestation", *arguments, *self.org, "-o", "json")

    def act(self, *arguments: object, output: str = "json") -> Any:
        client = ("--client", self.client, "--address", self._address, "-o", output)
        return self._run("attestation", *arguments, *client)

    def want_image(self, *more: object) -> Any:
        signer = ("--signer", self.path / "agent.pub")
        body = ("--executor", "agent/*", "--image", IMAGE, *signer, *more)
        return self.ask("set-reference", "image", *body)

    def signed(self, challenge: dict[str, Any], image: str = IMAGE, *more: object) -> Path:
        about = [word for name in ("origin", "executor", "challenge")
                 for word in (f"--{name}", challenge[name])]  # fmt: skip
        key = ("--key", self.path / "agent")
        made = self._run("attestation", "sign-measurement", *about, *key, "--image", image, *more)
        assert made.exit_code == 0, made.stderr
        file = self.path / "evidence.json"
        file.write_text(made.stdout)
        return file

    def prove(self, image: str = IMAGE, *more: object, output: str = "json") -> Any:
        challenge = self.act("challenge").json
        file = self.signed(challenge, image, *more)
        quoting = ("--challenge", challenge["challenge"])
        return self.act("report", "image", file, *quoting, output=output)

    def shown(self) -> Any:
        name = "spiffe://bank.example/agent/payments"
        shown = self._run("executor", "show", name, *self.org, "-o", "json")
        assert shown.exit_code == 0, shown.stderr
        return shown.json


@pytest.fixture
def scene(run: Any, federation: Any, node: Any, tmp_path: Path) -> Scene:
    return Scene(run, federation.org(), node.address, tmp_path)


def test_a_measurement_is_asked_for_signed_and_reported(scene: Scene) -> None:
    assert scene.want_image().exit_code == 0
    assert [each["state"] for each in scene.shown()["proofs"]] == ["missing"]
    proved = scene.prove()
    assert proved.exit_code == 0, proved.stderr
    assert proved.json["fresh_until_ms"] > 0
    (proof,) = scene.shown()["proofs"]
    assert (proof["reference"], proof["state"]) == ("image", "fresh")
    assert proof["counts_until_ms"] == proved.json["fresh_until_ms"]
    (record,) = scene.ask("list").json["records"]
    assert record["executors"] == ["spiffe://bank.example/agent/*"]


def test_another_image_suspends_and_a_new_proof_lets_it_be_reinstated(
    scene: Scene, run: Any
) -> None:
    scene.want_image()
    denied = scene.prove(OTHER)
    assert denied.exit_code == 3
    assert (denied.json["reason"], denied.json["thing"]) == (
        "ATTESTATION_MISMATCH",
        "bank.example/image",
    )
    shown = scene.shown()
    assert shown["executor"]["suspended_for"] == "bank.example/image"
    assert shown["executor"]["status"] == "suspended"
    refused = run("executor", "reinstate", "agent/payments", *scene.org, "-o", "json")
    assert (refused.exit_code, refused.json["reason"]) == (3, "ATTESTATION_MISSING")
    assert scene.prove().exit_code == 0
    assert run("executor", "reinstate", "agent/payments", *scene.org).exit_code == 0
    assert scene.shown()["executor"]["status"] == "active"


def test_who_has_built_it_is_proved_by_a_provenance(scene: Scene, run: Any) -> None:
    scene.want_image("--builder", "urn:ci", "--builder-key", scene.path / "builder.pub")
    key = ("--key", scene.path / "builder", "--image", IMAGE)
    made = run("attestation", "sign-provenance", *key, "--builder", "urn:ci")
    file = scene.path / "provenance.json"
    file.write_text(made.stdout)
    refused = scene.prove()
    assert (refused.json["reason"], refused.json["thing"]) == (
        "BAD_EVIDENCE",
        "evidence.provenance",
    )
    assert scene.prove(IMAGE, "--provenance", file).exit_code == 0


def test_the_executors_own_key_is_proved_without_anything_else(scene: Scene) -> None:
    body = ("--kind", "svid", "--executor", "agent/payments", "--max-age", "10m")
    assert scene.ask("set-reference", "key", *body).exit_code == 0
    proved = scene.act("report", "key")
    assert proved.exit_code == 0, proved.stderr
    assert scene.shown()["proofs"][0]["state"] == "fresh"
    assert scene.ask("retire-reference", "key").exit_code == 0
    assert scene.shown()["proofs"] == []
    nothing = scene.act("report", "key")
    assert nothing.exit_code != 0
    assert "NOT_FOUND" in nothing.stderr


def test_drift_suspends(scene: Scene) -> None:
    told = scene.act("drift", output="text")
    assert told.exit_code == 0
    assert "suspended" in told.stdout
    assert scene.shown()["executor"]["suspended_for"] == "drift"


def test_people_are_told_what_is_to_be_proved(scene: Scene) -> None:
    denied = scene.act("challenge", output="text")
    assert denied.exit_code == 3
    assert "NOT_FOUND" in denied.stdout
    scene.want_image()
    asked = scene.act("challenge", output="text")
    assert "image (measurement)" in asked.stdout
    told = scene.prove(output="text")
    assert "proved" in told.stdout
    assert "counts until" in told.stdout


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--image", "A" * 64),
        ("--challenge", "x"),
        ("--executor", "payments"),
        ("--environment", "Production"),
        ("--measurement", "0" * 10),
        ("--origin", "//"),
        ("--key", "nowhere"),
    ],
)
def test_what_is_no_measurement_is_not_signed(
    scene: Scene, run: Any, option: str, value: str
) -> None:
    said = {"--key": scene.path / "agent", "--image": IMAGE, "--origin": "quorate.example/test"}
    said |= {"--executor": "spiffe://bank.example/agent/a", "--challenge": "0" * 64}
    words = [str(word) for pair in (said | {option: value}).items() for word in pair]
    refused = run("attestation", "sign-measurement", *words)
    assert refused.exit_code != 0
    assert refused.stdout == ""


def test_a_report_has_all_that_it_takes_or_is_none(scene: Scene) -> None:
    scene.want_image()
    file = scene.path / "evidence.json"
    for words in ((file,), ("--challenge", "0" * 64)):
        refused = scene.act("report", "image", *words)
        assert refused.exit_code == 2, refused.stderr
    file.write_text("[]")
    refused = scene.act("report", "image", file, "--challenge", "0" * 64)
    assert "no JSON object" in refused.stderr


def test_a_key_is_nobodys_but_its_owners(scene: Scene, run: Any) -> None:
    key = scene.path / "agent"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    again = run("attestation", "new-key", key)
    assert again.exit_code != 0, "a key is never written over"
    key.chmod(0o644)
    said = ("--key", key, "--image", IMAGE, "--builder", "urn:ci")
    assert "open to others" in run("attestation", "sign-provenance", *said).stderr


def test_a_proof_of_another_key_is_refused(scene: Scene) -> None:
    body = ("--kind", "svid", "--executor", "agent/*")
    scene.ask("set-reference", "key", *body)
    said = scene.act("challenge").json
    challenge = Challenge(said["challenge"], {}, said["origin"], said["executor"], 0, 0)
    file = scene.path / "evidence.json"
    file.write_text(json.dumps(prove_key(SigningKey.generate().to_pem(), challenge)))
    refused = scene.act("report", "key", file, "--challenge", challenge.text)
    assert refused.json["reason"] == "BAD_EVIDENCE"
    file.write_text(json.dumps(prove_key((scene.client / "executor.key").read_bytes(), challenge)))
    assert scene.act("report", "key", file, "--challenge", challenge.text).exit_code == 0
