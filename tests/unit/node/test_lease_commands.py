"""Wishes of executors that need not be put to the ledger at all."""

from __future__ import annotations

import pytest
from tests.unit.core.test_delegation import CLINIC, LAB, World, delegate_body

from quorate.core import protocol
from quorate.core.outcome import Reason
from quorate.node.lease_commands import unfit_wish
from quorate.testing.builders import svid_body


@pytest.fixture
def world() -> World:
    return World()


def refused(world: World, kind: str, body: dict[str, object]) -> Reason | None:
    found = unfit_wish(world.ledger.view, kind, body, 0)
    return None if found is None else found.reason


def test_only_who_has_a_grant_that_may_be_passed_on_asks_to(world: World) -> None:
    first, second = world.chain()

    def delegating(by: str, grant: str) -> Reason | None:
        return refused(world, "grant.delegate", delegate_body(by, grant, world.robot))

    assert delegating(world.head, world.root) is None
    assert delegating(world.aide, first) is None
    assert delegating(world.aide, world.root) is Reason.NOT_AUTHORIZED
    assert delegating(world.robot, second) is Reason.WIDENS
    assert delegating(world.head, "owner.example/nothing") is Reason.NOT_FOUND
    world.must(CLINIC, "executor.suspend", {"executor": world.head})
    assert delegating(world.head, world.root) is Reason.EXECUTOR_SUSPENDED


def test_only_who_has_passed_a_grant_on_takes_it_back_and_once(world: World) -> None:
    first, _ = world.chain()

    def recalling(by: str, grant: str) -> Reason | None:
        return refused(world, "grant.recall", {"executor": by, "grant": grant})

    nobody = world.ledger.federation[LAB].executor("never-registered")
    assert recalling(nobody, first) is Reason.NOT_AUTHORIZED
    assert recalling(nobody, world.root) is Reason.NOT_FOUND
    assert recalling(world.aide, first) is Reason.NOT_AUTHORIZED
    world.must(CLINIC, "executor.suspend", {"executor": world.head})
    assert recalling(world.head, first) is None, "to narrow is always possible"
    world.must(world.node(CLINIC), "grant.recall", {"executor": world.head, "grant": first})
    assert recalling(world.head, first) is Reason.FINAL


def test_what_the_federation_does_not_know_yet_is_said(world: World) -> None:
    old = World(protocol.FIRST)
    body = delegate_body(old.head, old.root, old.aide)
    found = unfit_wish(old.ledger.view, "grant.delegate", body, 0)
    assert found is not None
    assert (found.reason, found.thing) == (Reason.UNSUPPORTED_PROTOCOL, "protocol 1")


def test_only_who_is_asked_to_prove_something_asks_and_answers(world: World) -> None:
    head = {"executor": world.head}
    answer = head | {"reference": "key", "challenge": "0" * 64, "evidence": {}}

    def proving(kind: str, body: dict[str, object]) -> Reason | None:
        return refused(world, f"attestation.{kind}", body)

    assert proving("challenge", head) is Reason.NOT_FOUND
    patterns = [f"spiffe://{CLINIC}/*"]
    world.must(CLINIC, "attestation.set_reference", svid_body("key", patterns))
    assert proving("challenge", head) is None
    assert proving("report", answer) is Reason.NO_CHALLENGE
    asked = world.ledger.run(world.node(CLINIC), "attestation.challenge", head).outcome
    answer["challenge"] = asked.result["challenge"]
    assert proving("report", answer) is None
    assert refused(world, "lease.acquire", head) is Reason.ATTESTATION_MISSING
    world.must(CLINIC, "executor.suspend", head)
    assert proving("report", answer) is None, "it may have to prove it to be reinstated"
    assert proving("challenge", head) is None
    nobody = {"executor": world.ledger.federation[LAB].executor("never-registered")}
    assert proving("challenge", nobody) is Reason.UNKNOWN_EXECUTOR
    world.must(CLINIC, "executor.revoke", head)
    assert proving("challenge", head) is Reason.EXECUTOR_REVOKED
    assert proving("drift", head) is None, "the ledger says so"
