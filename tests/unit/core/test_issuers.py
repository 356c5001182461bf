"""Which kind of issuer may give which command."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.core.conftest import BANK, CLINIC
from tests.unit.core.test_transitions import AGENT, DENIALS, OWN, state_of

from quorate.core import protocol
from quorate.core.acts import ACTS
from quorate.core.outcome import Reason
from quorate.core.verbs import Verb
from quorate.testing.builders import (
    Organisation,
    ballot_body,
    grant_body,
    key_for,
    narrow_body,
    node_body,
    proposal_body,
    svid_body,
    trust_body,
)

EVERY_ACT = [verb.value for verb in ACTS[protocol.LATEST]]
OF_NODES = {
    Verb.NODE_DECLARE,
    Verb.GRANT_DELEGATE,
    Verb.GRANT_RECALL,
    Verb.ATTESTATION_CHALLENGE,
    Verb.ATTESTATION_REPORT,
    Verb.ATTESTATION_DRIFT,
}
DELEGATED = {
    "executor": AGENT,
    "grant": "bank.example/grant",
    "to": "spiffe://bank.example/agent/other",
    "actions": ["*"],
    "resources": OWN,
    "not_after": 1,
    "max_lease_ttl_ms": 1,
    "max_uses": 0,
    "max_concurrent": 0,
}


_GIVEN: dict[str, dict[str, Any]] = {
    "executor": {"executor": AGENT},
    "trust.open": trust_body("e2", BANK, ["//clinic.example/*"]),
    "trust.narrow": narrow_body("edge", OWN),
    "trust.close": {"edge": "edge"},
    "grant.issue": grant_body("g2", AGENT, ["//clinic.example/*"]),
    "grant": {"grant": "grant"},
    "grant.delegate": DELEGATED,
    "grant.recall": {"executor": AGENT, "grant": "bank.example/grant"},
    "resources.freeze": {"actions": []},
    "resources.thaw": {},
    "policy.publish": {"text": "permit (principal, action, resource);"},
    "policy.retire": {},
    "domain": {"domain": CLINIC},
    "domain.rekey": {
        "domain": CLINIC,
        "governance_key": key_for("new").public.hex(),
        "cosigner_key": key_for("new cosigner").public.hex(),
    },
    "domain.admit": {"descriptor": json.loads(Organisation.named("x", "x:1").descriptor())},
    "federation.set_thresholds": {"thresholds": dict.fromkeys(EVERY_ACT, "majority")},
    "federation.set_rates": {"domain_per_min": 60, "executor_per_min": 0},
    "federation.set_parameters": {
        "parameters": {
            "authority_period_ms": 3_000,
            "max_permit_ttl_ms": 500,
            "rho_ppm": 0,
            "max_skew_ms": 1,
        }
    },
    "federation.upgrade": {"protocol": 2},
    "federation.freeze": {"actions": ["payments.*"]},
    "federation.thaw": {},
    "federation.set_policy": {"text": "permit (principal, action, resource);"},
    "federation.retire_policy": {},
    "federation.reinstate_executor": {"executor": AGENT},
    "proposal.open": proposal_body("domain.expel", {"domain": BANK}),
    "proposal": {"proposal": "0" * 64},
    "ballot.cast": ballot_body("0" * 64),
    "node": {"node": "spiffe://clinic.example/node/1"},
    "node.declare": {"protocol": 2},
    "node.add": node_body("spiffe://clinic.example/node/2"),
    "lease.acquire": {
        "executor": AGENT,
        "action": "a",
        "resource": "//bank.example/accounts/1",
        "ttl_ms": 0,
    },
    "lease.renew": {"lease": "0" * 32, "executor": AGENT, "ttl_ms": 0},
    "lease.release": {"lease": "0" * 32, "executor": AGENT},
    "attestation": {"executor": AGENT},
    "attestation.set_reference": svid_body("svid", ["spiffe://clinic.example/*"]),
    "attestation.retire_reference": {"reference": "svid"},
    "attestation.report": {
        "executor": AGENT,
        "reference": "svid",
        "challenge": "0" * 64,
        "evidence": {},
    },
    "lineage.append": {"after": "", "records": [DENIALS]},
}
BODIES = {verb: _GIVEN[verb if verb in _GIVEN else verb.partition(".")[0]] for verb in Verb}
"""Of each type, one that can be read."""


@pytest.mark.parametrize("verb", list(Verb))
def test_domains_and_nodes_give_their_own_commands_only(trusted: Any, verb: Verb) -> None:
    body = BODIES[verb]
    is_of_nodes = verb.startswith(("lease.", "lineage.")) or verb in OF_NODES
    issuer = CLINIC if is_of_nodes else trusted.clinic.node
    before = state_of(trusted)
    assert trusted.do(issuer, verb, body).reason is Reason.NOT_AUTHORIZED
    assert state_of(trusted) == before
