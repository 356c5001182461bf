"""Which denials are for good.

Owns the list. A command that stands still waits for a permit as long as the reason may pass; what
is not listed here, also what a later version adds, does not pass.
"""

from __future__ import annotations

from typing import Final

from quorate.client import AnyReason, ClientReason, Reason

PASSING: Final[frozenset[AnyReason]] = frozenset(
    {
        # The node itself: the lease may be as good as before.
        Reason.INQUORATE,
        Reason.CLOCK_STEP,
        Reason.STORAGE_FULL,
        Reason.QUARANTINED,
        Reason.INTERNAL,
        Reason.BEHIND,
        Reason.RATE_LIMITED,
        # Suspended is not final: whoever suspended can reinstate. Nor is frozen, or contained, nor
        # what policies say: others can be published.
        Reason.EXECUTOR_SUSPENDED,
        Reason.DOMAIN_SUSPENDED,
        Reason.GRANT_SUSPENDED,
        Reason.FROZEN,
        Reason.CONTAINED,
        # What an executor has to prove, it can prove.
        Reason.ATTESTATION_MISSING,
        Reason.ATTESTATION_STALE,
        Reason.ATTESTATION_MISMATCH,
        Reason.POLICY_FORBIDS,
        Reason.NO_POLICY_PERMITS,
        Reason.POLICY_BROKEN,
        # The client's own that say nothing of the lease, only that no permit came.
        ClientReason.UNREACHABLE,
        ClientReason.LATE,
        ClientReason.EXPIRED_ON_ARRIVAL,
        ClientReason.CLOCK_STEP,
        ClientReason.MALFORMED_ANSWER,
        ClientReason.UNSPECIFIED_VERDICT,
        ClientReason.UNKNOWN_REASON,
        ClientReason.OUTCOME_UNKNOWN,
        ClientReason.INTERRUPTED,
        ClientReason.MISSED,
        ClientReason.NOT_ACCEPTED,
        ClientReason.NODE_FAILED,
    }
)


def is_for_good(reason: AnyReason) -> bool:
    """Whether no permit for the same lease can follow."""
    return reason not in PASSING
