"""A ledger of two domains, with an executor, an edge and a grant between them."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from quorate.core import keys, protocol
from quorate.core.acts import ACTS
from quorate.core.outcome import Outcome
from quorate.core.store import MemoryStore
from quorate.core.verifying import Asked
from quorate.proofs.commands import build_command
from quorate.testing.builders import (
    ORIGIN,
    Federation,
    Ledger,
    Organisation,
    acquire_body,
    ballot_body,
    grant_body,
    key_for,
    measurement_body,
    measurement_evidence,
    node_body,
    proposal_body,
    trust_body,
)

BANK = "bank.example"
CLINIC = "clinic.example"
NODE = f"spiffe://{BANK}/node/1"
SECOND = f"spiffe://{BANK}/node/2"
RETIRED = f"spiffe://{BANK}/node/3"
PERMIT_ALL = "permit (principal, action, resource);"


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

    def agree(self, act: str, body: dict[str, object]) -> Outcome:
        """What the bank proposes, and the clinic votes for: the outcome of the second ballot."""
        opened = self.must(BANK, "proposal.open", proposal_body(act, body))
        return self.must(CLINIC, "ballot.cast", ballot_body(str(opened.result["id"])))

    def acquire(
        self,
        *,
        ttl_ms: int = 0,
        action: str = "payments.read",
        parents: Sequence[str] = (),
        context: Sequence[str] = (),
    ) -> Outcome:
        body = acquire_body(
            self.agent, action, "//bank.example/accounts/7", ttl_ms, parents, context
        )
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


def copied(store: MemoryStore) -> MemoryStore:
    copy = MemoryStore()
    for key, value in store.items():
        copy.put(key, value)
    return copy


def renew_the_cosigner(world: World) -> None:
    """A new key for the clinic's cosigner, which signs too."""
    governance, other = world.clinic.governance, key_for("another cosigner")
    fresh = {"domain": CLINIC, "governance_key": governance.public.hex()}
    envelope = build_command(
        origin=world.federation.origin,
        issuer=CLINIC,
        command_type="domain.rekey",
        body=fresh | {"cosigner_key": other.public.hex()},
        nonce="f" * 32,
        not_after=world.now + 3_600_000,
        key=governance,
        also_signed_by=[other],
    )
    assert world.apply(envelope).outcome.accepted


@pytest.fixture
def lived(trusted: World) -> World:
    return live(trusted)


def live(world: World) -> World:
    """Something of every kind, in every condition. To be given what `setup` has made."""
    first, second = (str(world.acquire().result["id"]) for _ in range(2))
    world.acquire(ttl_ms=1)
    world.lease_act("release", first)
    world.lease_act("renew", second, ttl_ms=100)
    world.now += 1_000
    world.acquire()
    other = world.clinic.executor("other")
    world.must(CLINIC, "executor.register", {"executor": other})
    world.must(BANK, "grant.issue", grant_body("revoked", other, ["//bank.example/*"]))
    world.must(BANK, "grant.revoke", {"grant": "revoked"})
    world.must(BANK, "grant.issue", grant_body("one", world.agent, ["//bank.example/x"]))
    world.must(CLINIC, "executor.suspend", {"executor": other})
    world.must(BANK, "trust.open", trust_body("closed", CLINIC, ["//bank.example/*"]))
    world.must(BANK, "trust.close", {"edge": "closed"})
    world.must(BANK, "node.add", node_body(SECOND))
    world.must(BANK, "node.add", node_body(RETIRED, "127.0.0.1:7777"))
    world.must(BANK, "node.retire", {"node": RETIRED})
    assert not world.do(BANK, "grant.revoke", {"grant": "nothing"}).accepted
    held = world.acquire(parents=[str(world.acquire().result["id"])])
    event = {"kind": "event", "lease": held.result["id"], "executor": world.agent}
    event |= {"type": "started", "attributes": {}, "at": world.now}
    world.must(world.clinic.node, "lineage.append", {"after": "", "records": [event]})
    everything = {"thresholds": dict.fromkeys(map(str, ACTS[protocol.LATEST]), "unanimity")}
    opened = world.must(
        BANK, "proposal.open", proposal_body("federation.set_thresholds", everything)
    )
    world.must(CLINIC, "ballot.cast", ballot_body(str(opened.result["id"])))
    world.must(CLINIC, "resources.freeze", {"actions": []})
    opened = world.must(
        BANK, "proposal.open", proposal_body("federation.freeze", {"actions": ["payments.*"]})
    )
    world.must(CLINIC, "ballot.cast", ballot_body(str(opened.result["id"])))
    world.agree("federation.set_rates", {"domain_per_min": 600, "executor_per_min": 60})
    for domain in (BANK, CLINIC):
        world.must(domain, "policy.publish", {"text": PERMIT_ALL})
    world.must(CLINIC, "policy.retire", {})
    opened = world.must(
        BANK, "proposal.open", proposal_body("federation.set_policy", {"text": PERMIT_ALL})
    )
    world.must(CLINIC, "ballot.cast", ballot_body(str(opened.result["id"])))
    world.now += 1_000
    assert world.acquire(context=["ticket=OPS-1"]).accepted
    for name, choice in (("rejected", "no"), ("open", "")):
        joiner = json.loads(Organisation.named(f"{name}.example", "127.0.0.1:7778").descriptor())
        opened = world.must(
            CLINIC, "proposal.open", proposal_body("domain.admit", {"descriptor": joiner})
        )
        if choice:
            world.must(BANK, "ballot.cast", ballot_body(str(opened.result["id"]), choice))
    world.must(CLINIC, "attestation.set_reference", measurement_body("image", [other]))
    asked = world.must(world.clinic.node, "attestation.challenge", {"executor": other})
    challenge = str(asked.result["challenge"])
    evidence = measurement_evidence(Asked(ORIGIN, other, challenge))
    proof = {"executor": other, "reference": "image", "challenge": challenge}
    world.must(world.clinic.node, "attestation.report", proof | {"evidence": evidence})
    world.must(world.clinic.node, "attestation.challenge", {"executor": other})
    world.must(CLINIC, "executor.contain", {"executor": other})
    world.must(BANK, "executor.contain", {"lease": held.result["id"]})
    renew_the_cosigner(world)
    assert {key[:1] for key, _ in world.store.items()} >= set(keys.RECORDS.values())
    assert len({key[:1] for key, _ in world.store.items()}) == 29, "all that there are"
    return world
