"""Where parts of the model meet: what one of them changes must not break what another relies on."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.core.conftest import BANK, CLINIC, World, copied
from tests.unit.core.test_renewed_and_recovered import recovery_of

from quorate.core.graph import Standings, take
from quorate.core.records import Lease
from quorate.core.recovering import carry_over
from quorate.core.state import StateView
from quorate.core.store import MemoryStore
from quorate.core.succession import Succession
from quorate.core.verifying.base import Asked
from quorate.core.vetting import Vetting
from quorate.proofs.commands import build_command
from quorate.testing.builders import (
    ORIGIN,
    Federation,
    Ledger,
    ballot_body,
    measurement_body,
    measurement_evidence,
    proposal_body,
)

PERMIT_ALL = "permit(principal, action, resource);"


def prove(do: Any, agent: str, node: str, origin: str) -> None:
    challenge = str(do(node, "attestation.challenge", {"executor": agent}).result["challenge"])
    evidence = measurement_evidence(Asked(origin, agent, challenge))
    body = {"executor": agent, "reference": "image", "challenge": challenge}
    assert do(node, "attestation.report", body | {"evidence": evidence}).accepted


def test_after_a_recovery_a_new_proof_is_later_than_the_one_before(trusted: World) -> None:
    """A node that lags behind the recovered ledger takes the state of those that do not."""
    for _ in range(30):
        trusted.acquire(ttl_ms=1)
        trusted.now += 5
    trusted.must(CLINIC, "attestation.set_reference", measurement_body("image", [trusted.agent]))
    prove(trusted.do, trusted.agent, trusted.clinic.node, ORIGIN)
    signers = {BANK: trusted.bank.governance, CLINIC: trusted.clinic.governance}
    recovery = recovery_of(trusted, signers)
    trusted.entries = [carry_over(trusted.store, recovery)]
    trusted.now = recovery.created
    lagging, numbers = copied(trusted.store), iter(range(10**6, 10**7))

    def do(issuer: str, kind: str, body: dict[str, object]) -> Any:
        command = build_command(
            origin=recovery.origin,
            issuer=issuer,
            command_type=kind,
            body=body,
            nonce=f"{next(numbers):032x}",
            not_after=trusted.now + 3_600_000,
            key=trusted.federation.key_of(issuer),
        )
        return trusted.apply(command).outcome

    prove(do, trusted.agent, trusted.clinic.node, recovery.origin)
    changed = measurement_body("image", [trusted.agent], 30_000)
    assert do(CLINIC, "attestation.set_reference", changed).accepted
    assert Vetting(trusted.store).step(1_000_000)
    assert Succession(lagging, trusted.store).step(1_000_000)


def test_a_suspended_domain_cannot_get_out_of_the_way_of_its_reinstatement() -> None:
    """Nor can whoever has stolen its key, by what it may change all the same."""
    third = "gamma.example"
    ledger = Ledger(Federation.build((BANK, CLINIC, third)))

    def must(issuer: str, kind: str, body: dict[str, object]) -> Any:
        outcome = ledger.run(issuer, kind, body).outcome
        assert outcome.accepted, outcome
        return outcome.result

    def agreed(act: str) -> Any:
        opened = must(BANK, "proposal.open", proposal_body(act, {"domain": third}))
        for verb, body in meanwhile:
            must(third, verb, body)
        return must(CLINIC, "ballot.cast", ballot_body(str(opened["id"])))

    meanwhile: list[tuple[str, dict[str, object]]] = []
    assert agreed("domain.suspend")["status"] == "executed"
    agent = f"spiffe://{third}/agent/a"
    meanwhile = [
        ("attestation.set_reference", measurement_body("image", [agent])),
        ("resources.freeze", {"actions": []}),
        ("policy.publish", {"text": PERMIT_ALL}),
    ]
    assert agreed("domain.reinstate")["status"] == "executed"


@pytest.mark.parametrize("by", [BANK, CLINIC, "both"])
def test_the_graph_says_nothing_of_policies(trusted: World, by: str) -> None:
    lease = Lease.from_json(trusted.acquire().result)
    if by == "both":
        trusted.agree("federation.set_policy", {"text": PERMIT_ALL})
    else:
        trusted.must(by, "policy.publish", {"text": PERMIT_ALL})
    graph, view = MemoryStore(), StateView(trusted.store)
    for index, entry in enumerate(trusted.entries):
        take(graph, view, index, entry)
    stands = Standings(graph, ORIGIN, len(trusted.entries), trusted.now)
    assert stands.of(lease, lease.fence) is None
