"""Decisions are values: reasons, permits, denials, and the outcome of a command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Reason(StrEnum):
    """Why a request or command was denied. The names are those of `quorate.v1.Reason` on the
    wire, less the prefix; a test holds the two equal, and each is explained in docs/reasons.md."""

    INQUORATE = "INQUORATE"
    CLOCK_STEP = "CLOCK_STEP"
    STORAGE_FULL = "STORAGE_FULL"
    QUARANTINED = "QUARANTINED"
    INTERNAL = "INTERNAL"
    BEHIND = "BEHIND"
    MALFORMED_REQUEST = "MALFORMED_REQUEST"

    MALFORMED_COMMAND = "MALFORMED_COMMAND"
    TOO_LARGE = "TOO_LARGE"
    WRONG_ORIGIN = "WRONG_ORIGIN"
    EXPIRED_COMMAND = "EXPIRED_COMMAND"
    LIFETIME_TOO_LONG = "LIFETIME_TOO_LONG"
    UNKNOWN_ISSUER = "UNKNOWN_ISSUER"
    BAD_SIGNATURE = "BAD_SIGNATURE"
    TOO_FEW_SIGNATURES = "TOO_FEW_SIGNATURES"
    KEY_EXPIRED = "KEY_EXPIRED"
    NOT_AUTHORIZED = "NOT_AUTHORIZED"
    NONCE_REUSED = "NONCE_REUSED"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    NOT_FOUND = "NOT_FOUND"
    FINAL = "FINAL"
    ILLEGAL_TRANSITION = "ILLEGAL_TRANSITION"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    LAST_VOTER = "LAST_VOTER"
    NODE_RETIRED = "NODE_RETIRED"
    OUT_OF_ORDER = "OUT_OF_ORDER"
    WIDENS = "WIDENS"
    NEEDS_BALLOT = "NEEDS_BALLOT"
    PROPOSAL_CLOSED = "PROPOSAL_CLOSED"
    PROPOSAL_EXPIRED = "PROPOSAL_EXPIRED"
    NO_VOTE = "NO_VOTE"
    SUPERSEDED = "SUPERSEDED"
    UNSUPPORTED_PROTOCOL = "UNSUPPORTED_PROTOCOL"
    RATE_LIMITED = "RATE_LIMITED"

    UNKNOWN_EXECUTOR = "UNKNOWN_EXECUTOR"
    EXECUTOR_SUSPENDED = "EXECUTOR_SUSPENDED"
    EXECUTOR_REVOKED = "EXECUTOR_REVOKED"
    ATTESTATION_MISSING = "ATTESTATION_MISSING"
    ATTESTATION_STALE = "ATTESTATION_STALE"
    ATTESTATION_MISMATCH = "ATTESTATION_MISMATCH"
    UNKNOWN_DOMAIN = "UNKNOWN_DOMAIN"
    DOMAIN_SUSPENDED = "DOMAIN_SUSPENDED"
    DOMAIN_REVOKED = "DOMAIN_REVOKED"
    CONTAINED = "CONTAINED"
    FROZEN = "FROZEN"
    NO_TRUST = "NO_TRUST"
    NO_GRANT = "NO_GRANT"
    GRANT_SUSPENDED = "GRANT_SUSPENDED"
    GRANT_REVOKED = "GRANT_REVOKED"
    GRANT_EXPIRED = "GRANT_EXPIRED"
    USES_EXHAUSTED = "USES_EXHAUSTED"
    CONCURRENCY_LIMIT = "CONCURRENCY_LIMIT"
    CONDITION_UNMET = "CONDITION_UNMET"

    POLICY_FORBIDS = "POLICY_FORBIDS"
    NO_POLICY_PERMITS = "NO_POLICY_PERMITS"
    POLICY_BROKEN = "POLICY_BROKEN"
    NO_CHALLENGE = "NO_CHALLENGE"
    BAD_EVIDENCE = "BAD_EVIDENCE"

    UNKNOWN_LEASE = "UNKNOWN_LEASE"
    NOT_LEASE_HOLDER = "NOT_LEASE_HOLDER"
    LEASE_EXPIRED = "LEASE_EXPIRED"
    LEASE_RELEASED = "LEASE_RELEASED"
    LEASE_SCOPE = "LEASE_SCOPE"
    BROKEN_LINEAGE = "BROKEN_LINEAGE"


@dataclass(frozen=True, slots=True)
class Lapse:
    """at: ledger time (ms) from which on what an executor has proved for a reference counts no
    more."""

    at: int
    reference: str


@dataclass(frozen=True, slots=True)
class Permit:
    """The act may go ahead. `depends_on` are the ids of everything that the decision relies on.
    lapse: what time ends first of what the executor has proved; None: it had nothing to prove."""

    depends_on: tuple[str, ...] = ()
    lapse: Lapse | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Deny:
    """The act may not go ahead. `thing` is what the reason is about, as an id."""

    reason: Reason
    thing: str = ""


Decision = Permit | Deny


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the ledger decided about one command, the same on every node.

    index: the leaf index of the entry that records it.
    command_id: lower-case hex SHA-256 of issuer and nonce; of the raw bytes when malformed.
    result: the command type's own result; JSON values only.
    """

    accepted: bool
    reason: Reason | None
    thing: str
    index: int
    command_id: str
    duplicate: bool = False
    result: Mapping[str, object] = field(default_factory=dict)
