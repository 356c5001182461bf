"""The records of what executors have to prove of themselves, and of what they have proved.

Owns their form. What a proof is worth is `quorate.core.verifying`'s, when one is asked for
`quorate.core.attestation`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from quorate.core.errors import MalformedError
from quorate.core.patterns import executor_matches
from quorate.core.records.base import BaseRecord, Kind
from quorate.core.rows import Row


class EvidenceKind(StrEnum):
    """How something is proved: each has a verifier in `quorate.core.verifying`."""

    MEASUREMENT = "measurement"
    SVID = "svid"


@dataclass(frozen=True, slots=True)
class Reference(BaseRecord):
    """What a domain wants its executors to prove: all that one of `executors` covers, as far as it
    is not retired.

    executors: ids, or prefixes that end in /*. max_age_ms: how long a proof counts, from when it
    was asked for. changed: the ledger index of its last change.
    Of a measurement: signers: whose word counts (Ed25519, hex); images: SHA-256 of images, one of
    which it has to be; measurements, environments: the same, none: any; builders, builder_keys: who
    may have built the image, by id, and whose word counts for that; none: nobody asks.
    Of an svid: keys: SHA-256 of the public keys (DER), one of which it has to be; none: whichever
    the executor's own node knows to be the executor's.
    """

    kind: ClassVar[Kind] = Kind.REFERENCE
    LATER: ClassVar[frozenset[str]] = frozenset(
        {"signers", "images", "measurements", "environments", "builders", "builder_keys", "keys"}
    )

    domain: str
    name: str
    evidence: EvidenceKind
    executors: tuple[str, ...]
    max_age_ms: int
    changed: int
    signers: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    measurements: tuple[str, ...] = ()
    environments: tuple[str, ...] = ()
    builders: tuple[str, ...] = ()
    builder_keys: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.domain}/{self.name}"

    def covers(self, executor: str) -> bool:
        return any(executor_matches(pattern, executor) for pattern in self.executors)

    @classmethod
    def from_json(cls, value: object) -> Reference:
        row = Row(value)
        return cls(
            domain=row.text("domain"),
            name=row.text("name"),
            evidence=row.choice("evidence", EvidenceKind),
            executors=row.texts("executors"),
            max_age_ms=row.number("max_age_ms"),
            changed=row.number("changed"),
            signers=row.texts_or("signers", ()),
            images=row.texts_or("images", ()),
            measurements=row.texts_or("measurements", ()),
            environments=row.texts_or("environments", ()),
            builders=row.texts_or("builders", ()),
            builder_keys=row.texts_or("builder_keys", ()),
            keys=row.texts_or("keys", ()),
        )


Claims = tuple[tuple[str, str], ...]
"""What was proved, by name, in order of that: (("image", "..."), ...)."""


@dataclass(frozen=True, slots=True)
class Attestation:
    """What an executor has proved for a reference of its domain, by that one's name.

    challenged_at: ledger time at which it was asked for: it is no older than that, and counts from
    then. reported: the ledger index of the report.
    """

    reference: str
    evidence: EvidenceKind
    claims: Claims
    challenged_at: int
    reported: int

    def to_json(self) -> dict[str, object]:
        return {
            "reference": self.reference,
            "evidence": self.evidence.value,
            "claims": dict(self.claims),
            "challenged_at": self.challenged_at,
            "reported": self.reported,
        }

    @classmethod
    def from_json(cls, value: object) -> Attestation:
        row = Row(value)
        return cls(
            reference=row.text("reference"),
            evidence=row.choice("evidence", EvidenceKind),
            claims=_claims(row.nested("claims")),
            challenged_at=row.number("challenged_at"),
            reported=row.number("reported"),
        )


@dataclass(frozen=True, slots=True)
class Challenge:
    """What the next proof of an executor has to quote. text: 64 hex digits. at: ledger time."""

    text: str
    at: int

    def to_json(self) -> dict[str, object]:
        return {"text": self.text, "at": self.at}

    @classmethod
    def from_json(cls, value: object) -> Challenge:
        row = Row(value)
        return cls(row.text("text"), row.number("at"))


def attestations_from_json(value: object) -> tuple[Attestation, ...]:
    if not isinstance(value, list):
        raise MalformedError("must be a list", field="attestations")
    return tuple(map(Attestation.from_json, value))


def _claims(value: object) -> Claims:
    row = Row(value)
    assert isinstance(value, Mapping), "or it was no row"
    return tuple((str(name), row.text(name)) for name in sorted(value))
