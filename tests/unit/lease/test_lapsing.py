"""A permit ends no later than what its executor has proved, and what was permitted before a
reference came counts as stopped by it."""

from __future__ import annotations

import pytest

from quorate.core.outcome import Deny, Permit, Reason
from quorate.core.verifying import Asked
from quorate.lease.check import CheckQuery, expiry_ns
from quorate.lease.following import EdgeLedger
from quorate.lease.outstanding import Holder
from quorate.testing.builders import ORIGIN, svid_body, svid_evidence
from quorate.testing.checks import EXECUTOR, World, make_world

BANK, NODE = "bank.example", "spiffe://bank.example/node/1"
MAX_AGE_MS = 1_000


@pytest.fixture
def world() -> World:
    return make_world()


def want(world: World, max_age_ms: int = MAX_AGE_MS) -> None:
    body = svid_body("key", [EXECUTOR], max_age_ms)
    assert world.ledger.run(BANK, "attestation.set_reference", body).outcome.accepted


def prove(world: World) -> None:
    run = world.ledger.run
    asked = run(NODE, "attestation.challenge", {"executor": EXECUTOR}).outcome.result
    challenge = str(asked["challenge"])
    body = {"executor": EXECUTOR, "reference": "key", "challenge": challenge}
    body |= {"evidence": svid_evidence(Asked(ORIGIN, EXECUTOR, challenge))}
    assert run(NODE, "attestation.report", body).outcome.accepted


def test_a_permit_ends_with_what_was_proved(world: World) -> None:
    query = CheckQuery(world.lease_id, EXECUTOR)
    before = world.checker.check(query)
    want(world)
    assert world.checker.check(query).decision == Deny(Reason.ATTESTATION_MISSING, f"{BANK}/key")
    prove(world)
    record = world.grant()
    found = world.checker.check(query)
    assert isinstance(found.decision, Permit)
    assert found.ttl_ms <= before.ttl_ms
    until = world.ledger.now + MAX_AGE_MS
    assert found.expires_ns == expiry_ns(record, until)
    world.clock.advance_ms(MAX_AGE_MS - 400)
    assert 0 < world.checker.check(query).ttl_ms <= 400
    world.clock.advance_ms(400)
    stale = world.checker.check(query)
    assert (stale.decision, stale.ttl_ms) == (Deny(Reason.ATTESTATION_STALE, f"{BANK}/key"), 0)


def test_a_reference_stops_what_was_permitted_before(world: World) -> None:
    edge = EdgeLedger()
    with world.snapshot() as snapshot:
        edge.follow(snapshot, 0)
    now_ns = edge.next_ns(0) or 0
    checked = world.checker.check(CheckQuery(world.lease_id, EXECUTOR))
    holder = Holder(world.lease_id, EXECUTOR, "")
    edge.permitted(holder, checked.things, edge.size, checked.ttl_ms, now_ns)
    want(world)
    world.applied_index += 1
    with world.snapshot() as snapshot:
        [effect] = edge.follow(snapshot, now_ns).effects
    assert (effect.reason, effect.may_stop) == (None, True)
    assert edge.drained_index(now_ns) < world.applied_index, "a permit from before is in use"
    later_ns = now_ns + 2 * checked.ttl_ms * 1_000_000
    assert edge.drained_index(later_ns) == world.applied_index
