"""A ledger of two domains, with an executor, an edge and a grant between them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from quorate.core.outcome import Outcome
from quorate.testing.builders import Federation, Ledger, acquire_body, grant_body, trust_body

BANK = "bank.example"
CLINIC = "clinic.example"


class World(Ledger):
    """The ledger, with short ways to say who does what."""

    def __init__(self) -> None:
        super().__init__(Federation.build())
        self.bank = self.federation[BANK]
        self.clinic = self.federation[CLINIC]
        self.agent = self.clinic.executor("claims")

    def do(self, issuer: str, kind: str, body: dict[str, object]) -> Outcome:
        applied = self.run(issuer, kind, body)
        assert applied.fault is None
        return applied.outcome

    def must(self, issuer: str, kind: str, body: dict[str, object]) -> Outcome:
        outcome = self.do(issuer, kind, body)
        assert outcome.accepted, outcome
        return outcome

    def setup(self, **grant: object) -> None:
        """The agent of the clinic may do anything to the bank's accounts."""
        self.must(CLINIC, "executor.register", {"executor": self.agent})
        self.must(BANK, "trust.open", trust_body("edge", CLINIC, ["//bank.example/*"]))
        self.must(
            BANK,
            "grant.issue",
            grant_body("grant", self.agent, ["//bank.example/accounts/*"], **grant),
        )

    def acquire(
        self, *, ttl_ms: int = 0, action: str = "payments.read", parents: Sequence[str] = ()
    ) -> Outcome:
        body = acquire_body(self.agent, action, "//bank.example/accounts/7", ttl_ms, parents)
        return self.do(self.clinic.node, "lease.acquire", body)

    def lease_act(self, act: str, lease: str, **more: object) -> Outcome:
        body: dict[str, object] = {"lease": lease, "executor": self.agent}
        return self.do(self.clinic.node, f"lease.{act}", body | more)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def trusted() -> World:
    world = World()
    world.setup()
    return world
