"""Whether an executor has proved what its domain wants proved, and for how long that counts.

Owns that question, as a decision asks it of an executor that is active. Each reference that covers
an executor has to be met by a proof of its own: setting one more never lets anything through.
Whether a proof equals a reference is asked anew each time, of the reference as it is now. Time is
the asker's: a proof that grew old is no event, and nobody has to notice it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from quorate.core.outcome import Deny, Lapse, Reason
from quorate.core.records import Attestation, Domain, Executor, Reference
from quorate.core.state import StateView
from quorate.core.verifying import failing


@dataclass(frozen=True, slots=True)
class Standing:
    """How an executor stands to one reference that covers it. attestation: what it has proved for
    it; until: ledger time from which on that counts no more, 0 without. denied: None: it is met."""

    reference: Reference
    attestation: Attestation | None
    until: int
    denied: Deny | None


def standings(
    view: StateView, executor: Executor, home: Domain, ledger_time: int
) -> Iterator[Standing]:
    """To each reference that covers the executor, in order of name. home: its domain. Raises
    StorageError."""
    if not home.references:
        return
    for reference in view.references(home.id):
        if reference.covers(executor.id):
            yield _standing(executor, reference, ledger_time)


def why_unattested(
    view: StateView, executor: Executor, home: Domain, ledger_time: int
) -> Deny | Lapse | None:
    """Why the executor may do nothing; or when it will have to prove something anew; or None, when
    it has nothing to prove. Raises StorageError."""
    first: Lapse | None = None
    for each in standings(view, executor, home, ledger_time):
        if each.denied is not None:
            return each.denied
        if first is None or each.until < first.at:
            first = Lapse(each.until, each.reference.id)
    return first


def unproved(view: StateView, executor: Executor, home: Domain, ledger_time: int) -> Deny | None:
    """Why an executor that was suspended for what it has proved, or said, may not be reinstated
    yet: that suspension has ended all that it had proved, so whatever is asked of it has to be
    proved anew. Raises StorageError."""
    if not executor.suspended_for:
        return None
    found = why_unattested(view, executor, home, ledger_time)
    return found if isinstance(found, Deny) else None


def _standing(executor: Executor, reference: Reference, ledger_time: int) -> Standing:
    held = executor.attestation(reference.name)
    if held is None:
        missing = Deny(Reason.ATTESTATION_MISSING, reference.id)
        return Standing(reference, None, 0, missing)
    until = held.challenged_at + reference.max_age_ms
    denied: Deny | None = None
    if failing(reference, dict(held.claims), held.evidence):
        denied = Deny(Reason.ATTESTATION_MISMATCH, reference.id)
    elif until <= ledger_time:
        denied = Deny(Reason.ATTESTATION_STALE, reference.id)
    return Standing(reference, held, until, denied)
