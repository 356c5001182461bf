"""The library: passing on what an executor was granted, and taking it back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import grpc
import pytest
from tests.unit.client.conftest import World

from quorate.client import AsyncGate, ClientReason, Delegated, Denied, Part, Reason, Recalled
from quorate.v1 import decision_pb2, lease_pb2

PART = Part(["books.read"], ["//bank.example/books/*"], 5_000, 1_000, max_uses=3)
TO = "spiffe://bank.example/agent/aide"
GRANT, MADE = "bank.example/g1", "bank.example/d-1"


def made(**changes: Any) -> lease_pb2.DelegateResponse:
    fields: dict[str, Any] = {
        "verdict": decision_pb2.VERDICT_PERMIT,
        "grant": MADE,
        "outcome": decision_pb2.Outcome(accepted=True, ledger_index=9),
    }
    return lease_pb2.DelegateResponse(**(fields | changes))


def test_a_part_is_passed_on_as_it_was_said(world: World) -> None:
    world.node.then("Delegate", made())
    assert world.gate.delegate(GRANT, TO, PART) == Delegated(MADE, 9)
    (asked,) = world.node.requests["Delegate"]
    assert (asked.grant, asked.to, list(asked.actions)) == (GRANT, TO, ["books.read"])
    assert (asked.not_after_ms, asked.max_lease_ttl_ms, asked.max_uses) == (5_000, 1_000, 3)
    assert (asked.max_concurrent, asked.max_depth) == (0, 0)
    assert asked.request_id


def test_conditions_are_passed_on_as_they_were_said(world: World) -> None:
    world.node.then("Delegate", made())
    part = replace(PART, conditions={"ticket": ["OPS-*", "SEC-1"], "zone": ("eu",)})
    assert isinstance(world.gate.delegate(GRANT, TO, part), Delegated)
    (asked,) = world.node.requests["Delegate"]
    said = [(each.name, list(each.values)) for each in asked.conditions]
    assert said == [("ticket", ["OPS-*", "SEC-1"]), ("zone", ["eu"])]


@pytest.mark.parametrize(
    "conditions", [{"ticket": "OPS-1"}, {"ticket": [7]}, {7: ["a"]}, ["ticket"]]
)
def test_conditions_that_are_none_are_not_said(world: World, conditions: Any) -> None:
    denied = world.gate.delegate(GRANT, TO, replace(PART, conditions=conditions))
    assert isinstance(denied, Denied)
    assert denied.reason is ClientReason.INVALID_REQUEST


def test_it_is_asked_again_as_the_same_until_it_is_settled(world: World) -> None:
    unknown = made(verdict=decision_pb2.VERDICT_DENY, unknown=True, outcome=None, grant="")
    world.node.then("Delegate", grpc.StatusCode.UNAVAILABLE, unknown, made())
    assert isinstance(world.gate.delegate(GRANT, TO, PART), Delegated)
    assert len({each.request_id for each in world.node.requests["Delegate"]}) == 1


def test_a_denial_is_told(world: World) -> None:
    outcome = decision_pb2.Outcome(reason=decision_pb2.REASON_WIDENS, ledger_index=4)
    world.node.then(
        "Delegate",
        made(
            verdict=decision_pb2.VERDICT_DENY,
            reason=decision_pb2.REASON_WIDENS,
            thing="max_uses",
            outcome=outcome,
            grant="",
        ),
    )
    denied = world.gate.delegate(GRANT, TO, PART)
    assert isinstance(denied, Denied)
    assert (denied.reason, denied.thing, denied.unknown) == (Reason.WIDENS, "max_uses", False)


def test_an_answer_without_a_grant_is_no_answer(world: World) -> None:
    world.node.then("Delegate", made(grant=""))
    denied = world.gate.delegate(GRANT, TO, PART)
    assert isinstance(denied, Denied)
    assert (denied.reason, denied.unknown) == (ClientReason.MALFORMED_ANSWER, True)


@pytest.mark.parametrize("changes", [{"max_uses": -1}, {"actions": [7]}, {"max_depth": 2**40}])
def test_what_cannot_be_said_is_denied_without_asking(
    world: World, changes: dict[str, Any]
) -> None:
    part = Part(**{"actions": ["a"], "resources": ["//b.example/c"], "not_after_ms": 1,
                   "max_lease_ttl_ms": 1} | changes)  # fmt: skip
    denied = world.gate.delegate(GRANT, TO, part)
    assert isinstance(denied, Denied)
    assert denied.reason is ClientReason.INVALID_REQUEST
    assert not world.node.requests["Delegate"]


def test_what_was_passed_on_is_recalled(world: World) -> None:
    answer = lease_pb2.RecallResponse(
        verdict=decision_pb2.VERDICT_PERMIT,
        outcome=decision_pb2.Outcome(accepted=True, ledger_index=11),
    )
    world.node.then("Recall", answer)
    assert world.gate.recall(MADE) == Recalled(MADE, 11)


async def test_the_asynchronous_gate_does_the_same(world: World) -> None:
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{world.port}")
    gate = AsyncGate(channel, executor="spiffe://bank.example/agent/payments", clock=world.clock)
    world.node.then("Delegate", made())
    answer = lease_pb2.RecallResponse(
        verdict=decision_pb2.VERDICT_PERMIT,
        outcome=decision_pb2.Outcome(accepted=True, ledger_index=11),
    )
    world.node.then("Recall", answer)
    assert await gate.delegate(GRANT, TO, PART) == Delegated(MADE, 9)
    assert await gate.recall(MADE) == Recalled(MADE, 11)
    await gate.close()
