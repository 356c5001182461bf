"""Who takes part in the demonstration, and what is agreed between them.

Owns names only. Each organisation has one executor that moves records from its own outbox into the
next organisation's inbox: clinic to bank, freight to clinic, bank to freight. So every node answers
for an executor, and every executor's work crosses a border.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ORIGIN: Final = "quorate.example/demo"
SEND: Final = "records.send"
RECEIVE: Final = "records.receive"
ERASE: Final = "records.erase"
ALL_RECORD_ACTIONS: Final = "records.*"

BANK: Final = "bank.example"
CLINIC: Final = "clinic.example"
FREIGHT: Final = "freight.example"
DOMAINS: Final = (BANK, CLINIC, FREIGHT)


def outbox(domain: str) -> str:
    return f"//{domain}/books/outbox"


def inbox(domain: str) -> str:
    return f"//{domain}/books/inbox"


@dataclass(frozen=True, slots=True)
class Worker:
    """One executor: of `domain`, writing into the inbox of `partner`, who trusts it."""

    domain: str
    path: str
    partner: str
    what: str

    @property
    def id(self) -> str:
        return f"spiffe://{self.domain}/{self.path}"

    @property
    def edge(self) -> str:
        """The id of the partner's trust edge to this worker's domain."""
        return f"to-{self.domain.partition('.')[0]}"

    @property
    def grant(self) -> str:
        """The id of the partner's grant to this worker."""
        return f"{self.domain.partition('.')[0]}-inbox"


WORKERS: Final = (
    Worker(BANK, "agent/settlement", FREIGHT, "payments of freight bills"),
    Worker(CLINIC, "agent/billing", BANK, "invoices of treatments"),
    Worker(FREIGHT, "agent/dispatch", CLINIC, "deliveries of medicines"),
)
"""In the order of their domains."""

REVOKED: Final = WORKERS[1]
"""Whose grant is revoked in the middle of its work."""
UNTRUSTED: Final = WORKERS[2]
"""The bank does not trust freight.example."""
