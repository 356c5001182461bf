"""Whether what an executor shows of itself is proved, and equals a reference.

Owns the table of verifiers, by kind of evidence. `apply` asks them on every node, so that each must
say the same of the same bytes everywhere: the kinds that there are belong to the version of the
protocol, and another comes with another version. Does not own when a proof is asked for
(`quorate.core.attestation`), nor what follows from it (`quorate.core.attesting`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from quorate.core.records import EvidenceKind, Reference
from quorate.core.verifying.base import Asked, Verifier
from quorate.core.verifying.measurement import MeasurementVerifier
from quorate.core.verifying.svid import SvidVerifier

__all__ = ["VERIFIERS", "Asked", "Verifier", "failing", "verifier_of"]

VERIFIERS: Final[Mapping[EvidenceKind, Verifier]] = MappingProxyType(
    {
        EvidenceKind.MEASUREMENT: MeasurementVerifier(),
        EvidenceKind.SVID: SvidVerifier(),
    }
)


def verifier_of(reference: Reference) -> Verifier:
    return VERIFIERS[reference.evidence]


def failing(reference: Reference, claims: Mapping[str, str], kind: EvidenceKind) -> str:
    """Which claim does not equal the reference, as that is now; empty: all do."""
    if kind is not reference.evidence:
        return "evidence"
    return verifier_of(reference).failing(reference, claims)
