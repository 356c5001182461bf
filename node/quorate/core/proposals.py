"""The record of a proposal, and what can become of one.

Owns its fields and form, as `quorate.core.records` does for what it may change. How domains vote on
it is `quorate.core.balloting`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from quorate.core import protocol
from quorate.core.records import BaseRecord, Kind
from quorate.core.rows import Row


class ProposalStatus(StrEnum):
    """Expiry is no status, as of leases. Failed: enough domains agreed, and it could not be done
    any more."""

    OPEN = "open"
    EXECUTED = "executed"
    FAILED = "failed"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class Proposal(BaseRecord):
    """What domains vote on (`quorate.core.balloting`).

    proposal: a hash of what is proposed, when, and by which command (`ids.proposal_id`).
    act, body: the type of what is to be done, and the rest of it as canonical JSON.
    base: a hash of what it would change, as that was; empty where that does not matter.
    expires_at: ledger time from which on it is over.
    yes, no: the domains that have said so, whether they have a vote or not.
    reason, thing: why it failed.
    protocol: the version of the rules by which it was opened, and is read.
    """

    kind: ClassVar[Kind] = Kind.PROPOSAL
    LATER: ClassVar[frozenset[str]] = frozenset({"protocol"})

    proposal: str
    proposer: str
    act: str
    body: str
    base: str
    opened_at: int
    expires_at: int
    yes: tuple[str, ...]
    no: tuple[str, ...]
    status: ProposalStatus
    reason: str
    thing: str
    changed: int
    protocol: int = protocol.FIRST

    @property
    def id(self) -> str:
        return self.proposal

    def expired(self, ledger_time: int) -> bool:
        return ledger_time >= self.expires_at

    @classmethod
    def from_json(cls, value: object) -> Proposal:
        row = Row(value)
        return cls(
            proposal=row.text("proposal"),
            proposer=row.text("proposer"),
            act=row.text("act"),
            body=row.text("body"),
            base=row.text("base"),
            opened_at=row.number("opened_at"),
            expires_at=row.number("expires_at"),
            yes=row.texts("yes"),
            no=row.texts("no"),
            status=row.choice("status", ProposalStatus),
            reason=row.text("reason"),
            thing=row.text("thing"),
            changed=row.number("changed"),
            protocol=row.number_or("protocol", protocol.FIRST),
        )
