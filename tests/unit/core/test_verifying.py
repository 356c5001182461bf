"""What counts as a proof, byte for byte: the same on every node."""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from quorate.core import codec
from quorate.core.errors import MalformedError
from quorate.core.records import EvidenceKind, Reference
from quorate.core.verifying import VERIFIERS, Asked, failing
from quorate.core.verifying.measurement import (
    MEASURED,
    PROVENANCE,
    STATEMENT_TYPE,
    built,
    measured,
    statement_of,
)
from quorate.core.verifying.svid import asked_bytes, verify_signature
from quorate.proofs.signing import sign_envelope
from quorate.testing.builders import (
    IMAGE,
    ORIGIN,
    key_for,
    measurement_evidence,
    svid_evidence,
)

ASKED = Asked(ORIGIN, "spiffe://bank.example/agent/a", "a" * 64)
SIGNER, BUILDER = key_for("agent").public.hex(), key_for("builder").public.hex()
BUILDS = {"builders": ("urn:b",), "builder_keys": (BUILDER,)}
CURVE_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def reference(kind: EvidenceKind, **terms: Any) -> Reference:
    name, patterns = "reference", ("spiffe://bank.example/*",)
    return Reference("bank.example", name, kind, patterns, 1_000, 1, **terms)


def measuring(**terms: Any) -> Reference:
    terms = {"signers": (SIGNER,), "images": (IMAGE,)} | terms
    return reference(EvidenceKind.MEASUREMENT, **terms)


def verify(evidence: object, held_to: Reference | None = None, asked: Asked = ASKED) -> Any:
    held_to = held_to or measuring()
    verifier = VERIFIERS[held_to.evidence]
    claims = verifier.verify(evidence, held_to, asked)
    verifier.check_claims(claims)  # what is proved can be kept
    return claims


def refused(evidence: object, held_to: Reference | None = None) -> str:
    with pytest.raises(MalformedError) as caught:
        verify(evidence, held_to)
    return caught.value.field


def signed(payload: object, kind: str = STATEMENT_TYPE) -> dict[str, object]:
    data = payload if isinstance(payload, bytes) else codec.encode(payload)
    return {"measurement": codec.load(sign_envelope(kind, data, key_for("agent")))}


def statement(**changes: object) -> dict[str, Any]:
    value = codec.load(statement_of(IMAGE, MEASURED, measured(ASKED)))
    assert isinstance(value, dict)
    return value | changes


# -- measurements --------------------------------------------------------------------------------


def test_a_measurement_says_what_was_measured_and_by_whom() -> None:
    evidence = measurement_evidence(ASKED, environment="prod", measurement="c" * 96)
    claims = {"signer": SIGNER, "image": IMAGE, "environment": "prod", "measurement": "c" * 96}
    assert verify(evidence) == claims
    assert verify(signed(statement())) == {"signer": SIGNER, "image": IMAGE}


@pytest.mark.parametrize(
    "evidence",
    [
        signed(statement(_type="https://in-toto.io/Statement/v0.1")),
        signed(statement(predicateType=PROVENANCE)),
        signed(statement(subject=[])),
        signed(statement(subject=statement()["subject"] * 2)),
        signed(statement(subject=[{"digest": {"sha256": IMAGE, "sha512": "0"}}])),
        signed(statement(subject=[{"digest": {"sha256": IMAGE.upper()}}])),
        signed(statement(more=1)),
        signed(statement(predicate=measured(ASKED) | {"more": 1})),
        signed(statement(predicate=measured(ASKED, environment="UPPER"))),
        signed(statement(predicate=measured(ASKED, measurement="c" * 65))),
        signed(statement(predicate=measured(Asked("other.example/x", "e", "c")))),
        signed(statement(), "application/json"),
        signed(codec.encode(statement()) + b" "),
        signed(b"{"),
        signed(statement()) | {"more": 1},
        {"measurement": {**signed(statement())["measurement"], "signatures": []}},  # type: ignore[dict-item]
        [],
        None,
        "text",
    ],
)
def test_what_is_no_such_document_proves_nothing(evidence: object) -> None:
    refused(evidence)


def test_only_who_is_named_is_believed() -> None:
    evidence = measurement_evidence(ASKED, key=key_for("another"))
    assert refused(evidence) == "evidence.measurement"
    both = measuring(signers=(SIGNER, key_for("another").public.hex()))
    assert verify(evidence, both)["signer"] == key_for("another").public.hex()


def test_who_has_built_it_is_asked_where_that_matters() -> None:
    with_builder = measurement_evidence(ASKED, builder="urn:b")
    assert "builder" not in verify(with_builder)
    assert verify(with_builder, measuring(**BUILDS))["builder"] == "urn:b"
    assert verify(with_builder, measuring(**BUILDS))["builder_key"] == BUILDER
    assert refused(measurement_evidence(ASKED), measuring(**BUILDS)) == "evidence.provenance"
    by_another = measuring(builders=("urn:b",), builder_keys=(SIGNER,))
    assert refused(with_builder, by_another) == "evidence.provenance"
    payload = statement_of("b" * 64, PROVENANCE, built("urn:b"))
    other_image = codec.load(sign_envelope(STATEMENT_TYPE, payload, key_for("builder")))
    evidence = with_builder | {"provenance": other_image}
    field = "evidence.provenance.subject[0].digest.sha256"
    assert refused(evidence, measuring(**BUILDS)) == field
    as_measured = measurement_evidence(ASKED, builder="urn:b", key=key_for("builder"))
    swapped = with_builder | {"provenance": as_measured["measurement"]}
    assert refused(swapped, measuring(**BUILDS)) == "evidence.provenance.predicateType"


def test_a_reference_accepts_what_it_names() -> None:
    claims = {"signer": SIGNER, "image": IMAGE, "environment": "prod", "builder": "urn:b"}
    kind = EvidenceKind.MEASUREMENT
    assert failing(measuring(), claims, kind) == ""
    assert failing(measuring(environments=("prod", "staging")), claims, kind) == ""
    for terms, name in (
        ({"signers": ("x",)}, "signer"),
        ({"images": ("x",)}, "image"),
        ({"images": ()}, "image"),
        ({"measurements": ("x",)}, "measurement"),
        ({"environments": ("x",)}, "environment"),
        ({"builders": ("x",)}, "builder"),
        ({"builder_keys": ("x",)}, "builder_key"),
    ):
        assert failing(measuring(**terms), claims, kind) == name
    assert failing(measuring(), claims, EvidenceKind.SVID) == "evidence"


# -- keys ----------------------------------------------------------------------------------------


def p256(message: bytes, number: int = 7) -> tuple[bytes, bytes]:
    key = ec.derive_private_key(number, ec.SECP256R1())
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return spki, r.to_bytes(32, "big") + s.to_bytes(32, "big")


def in_json(key: bytes, signature: bytes) -> dict[str, object]:
    return {"key": b64encode(key).decode(), "signature": b64encode(signature).decode()}


ANY_KEY = reference(EvidenceKind.SVID)


def test_both_sorts_of_keys_are_proved() -> None:
    for evidence in (svid_evidence(ASKED), in_json(*p256(asked_bytes(ASKED)))):
        key = hashlib.sha256(b64decode(str(evidence["key"]))).hexdigest()
        claims = verify(evidence, ANY_KEY)
        assert claims == {"key": key}
        assert failing(ANY_KEY, claims, EvidenceKind.SVID) == ""
        named = reference(EvidenceKind.SVID, keys=("0" * 64, key))
        assert failing(named, claims, EvidenceKind.SVID) == ""
        other = reference(EvidenceKind.SVID, keys=("0" * 64,))
        assert failing(other, claims, EvidenceKind.SVID) == "key"


@pytest.mark.parametrize(
    "other",
    [
        Asked("other.example/x", ASKED.executor, ASKED.challenge),
        Asked(ORIGIN, ASKED.executor + "b", ASKED.challenge),
        Asked(ORIGIN, ASKED.executor, "b" * 64),
    ],
)
def test_a_signature_is_about_what_was_asked(other: Asked) -> None:
    for evidence in (svid_evidence(other), in_json(*p256(asked_bytes(other)))):
        assert refused(evidence, ANY_KEY) == "evidence.signature"


def test_every_other_encoding_is_none() -> None:
    key, signature = p256(asked_bytes(ASKED))
    x, y = key[27:59], key[59:]
    point = b"\x02" + x
    compressed = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + point
    for other in (
        key + b"\x00",
        key[:-1],
        compressed,
        key[:26] + b"\x03" + x + y,
        key[:27] + y + x,
        key[:27] + bytes(64),
        key[:27] + b"\xff" * 32 + y,
        b"",
        key[27:],
    ):
        assert refused(in_json(other, signature), ANY_KEY).startswith("evidence.key")
    ed = bytes.fromhex("302a300506032b6570032100")
    for raw in (bytes(32), b"\x01" + bytes(31), key_for("svid").public + b"\x00", b""):
        with pytest.raises(MalformedError):
            verify_signature(ed + raw, bytes(64), b"")


def test_every_other_signature_is_none() -> None:
    message = asked_bytes(ASKED)
    key, signature = p256(message)
    assert verify_signature(key, signature, message)
    r, s = signature[:32], signature[32:]
    order = CURVE_ORDER.to_bytes(32, "big")
    for other in (
        s + r,
        bytes(64),
        r + bytes(32),
        bytes(32) + s,
        order + s,
        r + order,
        signature + b"\x00",
        signature[:-1],
        p256(message, 8)[1],
    ):
        assert not verify_signature(key, other, message)
    assert not verify_signature(key, signature, message + b"x")


def test_evidence_of_a_key_has_one_form() -> None:
    good = svid_evidence(ASKED)
    for bad in (
        good | {"more": 1},
        good | {"key": str(good["key"]) + "\n"},
        {"key": good["key"]},
        good | {"signature": 1},
        measurement_evidence(ASKED),
        [],
    ):
        refused(bad, ANY_KEY)


def test_claims_that_no_verifier_makes_are_not_kept() -> None:
    for kind, claims in (
        (EvidenceKind.SVID, {}),
        (EvidenceKind.SVID, {"key": "x"}),
        (EvidenceKind.SVID, {"key": "0" * 64, "image": IMAGE}),
        (EvidenceKind.MEASUREMENT, {"image": IMAGE}),
        (EvidenceKind.MEASUREMENT, {"signer": SIGNER}),
        (EvidenceKind.MEASUREMENT, {"signer": SIGNER, "image": IMAGE, "environment": ""}),
        (EvidenceKind.MEASUREMENT, {"signer": SIGNER, "image": IMAGE, "builder": "a b"}),
    ):
        with pytest.raises(MalformedError):
            VERIFIERS[kind].check_claims(claims)


def test_there_is_a_verifier_of_each_kind() -> None:
    assert set(VERIFIERS) == set(EvidenceKind)
