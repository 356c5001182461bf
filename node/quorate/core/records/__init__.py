"""The records of the replicated state, as frozen values and as JSON.

Owns their fields and form. `from_json` reads what `to_json` wrote, and raises MalformedError for
anything else: a record that is damaged must never be half understood. Does not know where records
lie (see `quorate.core.state`).
"""

from __future__ import annotations

from quorate.core.records.attested import (
    Attestation,
    Challenge,
    Claims,
    EvidenceKind,
    Reference,
)
from quorate.core.records.base import BaseRecord, Kind
from quorate.core.records.containments import Containment
from quorate.core.records.members import (
    BY_BALLOT,
    DRIFT,
    Domain,
    Executor,
    Federation,
    Node,
    Parameters,
    Rates,
    Role,
)
from quorate.core.records.policies import Policies, PolicyMark, check_mark, digest_of
from quorate.core.records.rights import Grant, Lease, LeaseStatus, TrustEdge

__all__ = [
    "BY_BALLOT",
    "DRIFT",
    "Attestation",
    "BaseRecord",
    "Challenge",
    "Claims",
    "Containment",
    "Domain",
    "EvidenceKind",
    "Executor",
    "Federation",
    "Governed",
    "Grant",
    "Kind",
    "Lease",
    "LeaseStatus",
    "Node",
    "Parameters",
    "Policies",
    "PolicyMark",
    "Rates",
    "Reference",
    "Role",
    "TrustEdge",
    "check_mark",
    "digest_of",
]

Governed = Domain | Node | Executor | TrustEdge | Grant
