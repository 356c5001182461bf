"""Signed measurement documents: somebody whose word counts says what it has measured.

Owns their form: an in-toto Statement (v1) about an image, in a DSSE envelope that the measuring
agent signs (Ed25519), in canonical JSON; and beside it, where the reference asks who has built the
image, another whose predicate is a SLSA provenance (v1), signed by the builder.
https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md, https://slsa.dev/provenance/v1

Does not know what is behind a measurement (a TPM, an enclave, an orchestrator's word): that is what
the signer answers for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from quorate.core import codec, dsse, ids
from quorate.core.errors import MalformedError
from quorate.core.fields import Fields
from quorate.core.limits import MAX_ACCEPTED, MAX_ENVELOPE_BYTES
from quorate.core.records import Reference
from quorate.core.verifying.base import (
    Asked,
    check_builder,
    check_digest,
    check_measurement,
    equal,
    only,
)

STATEMENT_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT: Final = "https://in-toto.io/Statement/v1"
MEASURED: Final = "urn:quorate:measurement:v1"
PROVENANCE: Final = "https://slsa.dev/provenance/v1"

_OPTIONAL: Final = ("measurements", "environments", "builders", "builder_keys")
_CHECKS: Final = {
    "signers": dsse.parse_public_key,
    "images": check_digest,
    "measurements": check_measurement,
    "environments": ids.check_name,
    "builders": check_builder,
    "builder_keys": dsse.parse_public_key,
}
_CLAIMS: Final = {
    "signer": dsse.parse_public_key,
    "image": check_digest,
    "measurement": check_measurement,
    "environment": ids.check_name,
    "builder": check_builder,
    "builder_key": dsse.parse_public_key,
}


class MeasurementVerifier:
    """See `Verifier`."""

    def read_reference(self, body: Fields) -> dict[str, tuple[str, ...]]:
        read: dict[str, tuple[str, ...]] = {}
        for name, check in _CHECKS.items():
            if name not in _OPTIONAL or body.has(name):
                read[name] = body.texts(name, check, MAX_ACCEPTED)
        if ("builders" in read) != ("builder_keys" in read):
            missing = "builder_keys" if "builders" in read else "builders"
            raise MalformedError("is missing", field=body.at(missing))
        return read

    def check_reference(self, reference: Reference) -> None:
        said = {name: list(getattr(reference, name)) for name in _CHECKS}
        fields = Fields({name: some for name, some in said.items() if some})
        self.read_reference(fields)
        if reference.keys:
            raise MalformedError("is not of a measurement", field="keys")

    def verify(self, evidence: object, reference: Reference, asked: Asked) -> dict[str, str]:
        fields = Fields(evidence, "evidence")
        signer, statement = _signed(fields, "measurement", reference.signers)
        claims = {"signer": signer, "image": _subject(statement)}
        equal(statement.text("predicateType"), MEASURED, statement.at("predicateType"))
        predicate = statement.nested("predicate")
        for name in ("origin", "executor", "challenge"):
            equal(predicate.text(name), getattr(asked, name), predicate.at(name))
        for name in ("measurement", "environment"):
            if predicate.has(name):
                claims[name] = predicate.text(name, _CLAIMS[name])
        predicate.done()
        statement.done()
        if reference.builders:
            key, provenance = _signed(fields, "provenance", reference.builder_keys)
            claims |= {"builder_key": key, "builder": _builder(provenance, claims["image"])}
        elif fields.has("provenance"):
            fields.take("provenance")  # nobody asks for it
        fields.done()
        return claims

    def check_claims(self, claims: Mapping[str, str]) -> None:
        only(claims, _CLAIMS)
        for name in ("signer", "image"):
            if name not in claims:
                raise MalformedError("is missing", field=name)
        for name, text in claims.items():
            _CLAIMS[name](text)

    def failing(self, reference: Reference, claims: Mapping[str, str]) -> str:
        for name, accepted in (
            ("signer", reference.signers),
            ("image", reference.images),
            ("measurement", reference.measurements),
            ("environment", reference.environments),
            ("builder", reference.builders),
            ("builder_key", reference.builder_keys),
        ):
            if (accepted or name in ("signer", "image")) and claims.get(name) not in accepted:
                return name
        return ""


def statement_of(image: str, predicate_type: str, predicate: Mapping[str, object]) -> bytes:
    """A statement about an image (SHA-256, hex), to be signed. Raises MalformedError."""
    check_digest(image)
    return codec.encode(
        {
            "_type": STATEMENT,
            "subject": [{"name": "image", "digest": {"sha256": image}}],
            "predicateType": predicate_type,
            "predicate": dict(predicate),
        }
    )


def measured(asked: Asked, environment: str = "", measurement: str = "") -> dict[str, object]:
    """The predicate of a measurement."""
    predicate: dict[str, object] = {
        "origin": asked.origin,
        "executor": asked.executor,
        "challenge": asked.challenge,
    }
    more = {"environment": environment, "measurement": measurement}
    return predicate | {name: text for name, text in more.items() if text}


def built(builder: str, build_type: str = "urn:quorate:build:v1") -> dict[str, object]:
    """The least predicate of a provenance."""
    definition = {"buildType": build_type, "externalParameters": {}}
    return {"buildDefinition": definition, "runDetails": {"builder": {"id": builder}}}


def _signed(fields: Fields, name: str, keys: Sequence[str]) -> tuple[str, Fields]:
    """Whose word a statement is, and the statement."""
    place = fields.at(name)
    envelope = dsse.from_json(fields.take(name), place)
    equal(envelope.payload_type, STATEMENT_TYPE, f"{place}.payloadType")
    signer = next((key for key in keys if envelope.verify(bytes.fromhex(key))), None)
    if signer is None:
        raise MalformedError("has no good signature of a key that counts", field=place)
    statement = Fields(codec.decode(envelope.payload, MAX_ENVELOPE_BYTES), place)
    equal(statement.text("_type"), STATEMENT, statement.at("_type"))
    return signer, statement


def _subject(statement: Fields) -> str:
    """The one image that a statement is about."""
    (item,) = statement.objects("subject", 1, 1)
    subject = Fields(item, statement.at("subject[0]"))
    if subject.has("name"):
        subject.text("name")
    digest = subject.nested("digest")
    subject.done()
    image = digest.text("sha256", check_digest)
    digest.done()
    return image


def _builder(provenance: Fields, image: str) -> str:
    """Who has built the image. What else a provenance says is between the builder and whoever
    audits it."""
    equal(provenance.text("predicateType"), PROVENANCE, provenance.at("predicateType"))
    equal(_subject(provenance), image, provenance.at("subject[0].digest.sha256"))
    predicate = provenance.nested("predicate")
    provenance.done()
    builder = predicate.nested("runDetails").nested("builder")
    return builder.text("id", check_builder)
