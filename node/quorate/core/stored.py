"""All records that the state holds, whatever their kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from quorate.core.proposals import Proposal
from quorate.core.records import (
    Containment,
    Domain,
    Executor,
    Federation,
    Governed,
    Grant,
    Kind,
    Lease,
    Node,
    Policies,
    Reference,
    TrustEdge,
)

Lasting = Governed | Proposal | Policies
"""What is never gone, though it may be over."""
Stored = Lasting | Lease | Containment | Reference
Record = Federation | Stored

PARSERS: Final[dict[Kind, Callable[[object], Stored]]] = {
    Kind.DOMAIN: Domain.from_json,
    Kind.NODE: Node.from_json,
    Kind.EXECUTOR: Executor.from_json,
    Kind.TRUST: TrustEdge.from_json,
    Kind.GRANT: Grant.from_json,
    Kind.LEASE: Lease.from_json,
    Kind.PROPOSAL: Proposal.from_json,
    Kind.CONTAINMENT: Containment.from_json,
    Kind.REFERENCE: Reference.from_json,
    Kind.POLICIES: Policies.from_json,
}
