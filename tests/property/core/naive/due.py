"""What has to come up in many histories, or they are made up badly."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from quorate.core.outcome import Reason

NEVER: Final = frozenset(
    {
        # A node's own, before it proposes anything, or of its health.
        Reason.INQUORATE,
        Reason.CLOCK_STEP,
        Reason.STORAGE_FULL,
        Reason.QUARANTINED,
        Reason.INTERNAL,
        Reason.BEHIND,
        Reason.MALFORMED_REQUEST,
        # Of bytes; the model is given values.
        Reason.TOO_LARGE,
    }
)
"""All other reasons have to."""

OF_LINKS: Final = (
    "NO_TRUST",
    "DOMAIN_SUSPENDED",
    "DOMAIN_REVOKED",
    "EXECUTOR_SUSPENDED",
    "EXECUTOR_REVOKED",
    "GRANT_SUSPENDED",
    "GRANT_REVOKED",
)
OF_PROOFS: Final = ("ATTESTATION_MISSING", "ATTESTATION_STALE", "ATTESTATION_MISMATCH")
OF_POLICIES: Final = ("POLICY_FORBIDS", "NO_POLICY_PERMITS", "POLICY_BROKEN")
FREEZES: Final = ("under its owner's freeze", "under the freeze of all", "under two freezes")
PAIRS: Final[dict[str, tuple[str, ...]]] = {
    "node.declare": ("", "ILLEGAL_TRANSITION", "UNSUPPORTED_PROTOCOL", "NOT_AUTHORIZED"),
    "federation.upgrade": ("NEEDS_BALLOT",),
    "proposal.open": ("UNSUPPORTED_PROTOCOL", "ILLEGAL_TRANSITION"),
    "by ballot: federation.upgrade": ("",),
    "by ballot": ("UNSUPPORTED_PROTOCOL", "ILLEGAL_TRANSITION"),
    "trust.open": ("MALFORMED_COMMAND", "NOT_AUTHORIZED"),
    "policy.publish": (
        "",
        "MALFORMED_COMMAND",
        "ILLEGAL_TRANSITION",
        "POLICY_BROKEN",
        "DOMAIN_SUSPENDED",
    ),
    "policy.retire": ("", "MALFORMED_COMMAND", "ILLEGAL_TRANSITION", "DOMAIN_SUSPENDED"),
    "resources.freeze": ("", "MALFORMED_COMMAND", "ILLEGAL_TRANSITION"),
    "resources.thaw": ("", "MALFORMED_COMMAND", "ILLEGAL_TRANSITION", "DOMAIN_SUSPENDED"),
    "federation.freeze": ("NEEDS_BALLOT", "MALFORMED_COMMAND"),
    "federation.thaw": ("NEEDS_BALLOT", "MALFORMED_COMMAND"),
    "proposal.open: federation.freeze": ("", "MALFORMED_COMMAND", "ILLEGAL_TRANSITION"),
    "proposal.open: federation.thaw": ("", "ILLEGAL_TRANSITION"),
    "by ballot: federation.freeze": ("", "ILLEGAL_TRANSITION"),
    "by ballot: federation.thaw": ("", "SUPERSEDED"),
    "lease.acquire under its owner's freeze": ("",),
    "lease.acquire under the freeze of all": ("",),
    "lease.acquire under two freezes": ("",),
    **{
        f"{what} {freezes}": ("", "FROZEN")
        for what in ("lease.renew", "check")
        for freezes in FREEZES
    },
    "lease.release under two freezes": ("",),
    "by ballot: federation.set_policy": ("",),
    "by ballot: federation.retire_policy": ("",),
    "by ballot: federation.reinstate_executor": ("",),
    "grant.issue": ("MALFORMED_COMMAND",),
    "grant.delegate": (
        "",
        "MALFORMED_COMMAND",
        "NOT_AUTHORIZED",
        "NOT_FOUND",
        "EXECUTOR_SUSPENDED",
        "EXECUTOR_REVOKED",
        "CONTAINED",
        "DOMAIN_SUSPENDED",
        "GRANT_SUSPENDED",
        "GRANT_REVOKED",
        "GRANT_EXPIRED",
        "UNKNOWN_EXECUTOR",
        "WIDENS",
        "ALREADY_EXISTS",
        "LIMIT_EXCEEDED",
    ),
    "domain.rekey": (
        "",
        "MALFORMED_COMMAND",
        "TOO_FEW_SIGNATURES",
        "BAD_SIGNATURE",
        "KEY_EXPIRED",
        "NOT_AUTHORIZED",
        "ILLEGAL_TRANSITION",
        "ALREADY_EXISTS",
        "LIMIT_EXCEEDED",
    ),
    "grant.recall": ("", "MALFORMED_COMMAND", "NOT_AUTHORIZED", "NOT_FOUND", "FINAL"),
    "executor.contain": (
        "",
        "MALFORMED_COMMAND",
        "NOT_AUTHORIZED",
        "NOT_FOUND",
        "ILLEGAL_TRANSITION",
        "LIMIT_EXCEEDED",
    ),
    "executor.lift_containment": (
        "",
        "MALFORMED_COMMAND",
        "NOT_AUTHORIZED",
        "NOT_FOUND",
        "ILLEGAL_TRANSITION",
        "DOMAIN_SUSPENDED",
    ),
    "lease.acquire": ("CONTAINED", "FROZEN", "LIMIT_EXCEEDED", "CONDITION_UNMET", *OF_POLICIES),
    "attestation.set_reference": (
        "",
        "MALFORMED_COMMAND",
        "NOT_AUTHORIZED",
        "LIMIT_EXCEEDED",
        "DOMAIN_SUSPENDED",
        "ILLEGAL_TRANSITION",
    ),
    "attestation.retire_reference": ("", "NOT_FOUND", "DOMAIN_SUSPENDED"),
    "attestation.challenge": ("", "NOT_FOUND", "NOT_AUTHORIZED", "EXECUTOR_REVOKED"),
    "attestation.report": ("", "NO_CHALLENGE", "BAD_EVIDENCE", "ATTESTATION_STALE", "NOT_FOUND"),
    "attestation.drift": ("", "NOT_AUTHORIZED", "EXECUTOR_REVOKED"),
    "executor.reinstate": ("ATTESTATION_MISSING",),
    "lease.renew": ("CONTAINED", *OF_PROOFS, *OF_POLICIES),
    "check": ("CONTAINED", *OF_PROOFS, *OF_POLICIES),
    # Of what is behind a grant that was passed on; one that is over is so itself.
    "lease.acquire, for a link": (
        *OF_LINKS,
        "USES_EXHAUSTED",
        "CONCURRENCY_LIMIT",
        "CONDITION_UNMET",
    ),
    "lease.acquire with conditions": ("",),
    "lease.acquire with conditions further on": ("",),
    "lease.acquire over 2 edges": ("",),
    "lease.acquire over 3 edges": ("",),
    "lease.acquire passed on 1 times": ("",),
    "lease.acquire passed on 2 times": ("",),
    "lease.acquire passed on 3 times": ("",),
    "lease.acquire passed on, and over several edges": ("",),
    "lease.renew over 2 edges": ("", "NO_TRUST", "DOMAIN_SUSPENDED"),
    "lease.renew passed on 1 times": ("", *OF_LINKS),
    "check over 2 edges": ("", "NO_TRUST", "DOMAIN_SUSPENDED", "DOMAIN_REVOKED"),
    "check over 3 edges": ("", "NO_TRUST", "DOMAIN_SUSPENDED"),
    "check passed on 1 times": ("", *OF_LINKS),
    "check passed on 2 times": ("", *OF_LINKS),
    "check passed on, and over several edges": ("", "NO_TRUST", "DOMAIN_SUSPENDED"),
}
"""And of what version 2 of the protocol has brought, these, each for each; empty: a yes."""


def missing(came: Iterable[tuple[str, str]]) -> list[str]:
    """The reasons that never came up."""
    seen = {reason for _, reason in came}
    return sorted(reason for reason in Reason if reason not in NEVER and reason not in seen)


def missing_pairs(came: Iterable[tuple[str, str]]) -> list[str]:
    """What never came to what it should have come to."""
    seen = set(came)
    wanted = [(what, reason) for what, reasons in PAIRS.items() for reason in reasons]
    return [f"{what}: {reason or 'yes'}" for what, reason in wanted if (what, reason) not in seen]
