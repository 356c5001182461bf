"""What a domain may do about its nodes, and what of it is final."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from quorate.core import codec, invariants, state
from quorate.core.limits import MAX_NODES_PER_DOMAIN
from quorate.core.outcome import Outcome, Reason
from quorate.core.records import Node, Role
from quorate.core.state import StateView, Status, record_json
from quorate.core.store import MemoryStore
from quorate.core.transitions import examine
from quorate.testing.builders import Federation, Ledger, acquire_body, key_for, node_body

BANK, CLINIC = "bank.example", "clinic.example"
FIRST, SECOND, THIRD = (f"spiffe://{BANK}/node/{name}" for name in "123")
OTHERS = f"spiffe://{CLINIC}/node/1"


@pytest.fixture
def bank(world: Any) -> Any:
    """The ledger, as the bank governs it; after each command its invariants are looked at."""

    def command(kind: str, body: dict[str, object] | str, issuer: str = BANK) -> Outcome:
        before = MemoryStore()
        for key, value in world.store.items():
            before.put(key, value)
        outcome: Outcome = world.do(
            issuer, f"node.{kind}", {"node": body} if isinstance(body, str) else body
        )
        assert invariants.check(world.view) == []
        assert invariants.check_step(StateView(before), world.view) == []
        return outcome

    return command


def node_of(world: Any, ident: str) -> Node:
    node = world.view.node(ident)
    assert isinstance(node, Node)
    return node


def voters(world: Any) -> list[str]:
    return [node.id for node in world.view.active_nodes() if node.votes]


def test_the_nodes_of_the_genesis_are_voters(world: Any) -> None:
    assert [(n.id, n.role, n.status, n.changed) for n in world.view.nodes()] == [
        (FIRST, "voter", "active", 0),
        (OTHERS, "voter", "active", 0),
    ]
    assert world.view.node_count(BANK) == 1
    assert world.view.key_owner(world.bank.governance.public.hex()) == BANK
    assert world.view.key_owner(world.bank.cosigner.public.hex()) == BANK
    assert world.view.key_owner(world.bank.signing.public.hex()) == FIRST
    assert world.view.key_owner(world.bank.log.public.hex()) == FIRST
    assert world.view.key_owner(key_for("nobody").public.hex()) is None
    assert invariants.check(world.view) == []


def test_a_node_is_added_as_it_was_described(world: Any, bank: Any) -> None:
    body = node_body(SECOND, "node2.bank.example:7401")
    outcome = bank("add", body)
    assert (outcome.accepted, outcome.thing, outcome.result) == (True, SECOND, {"id": SECOND})
    expected = {**body, "id": SECOND, "domain": BANK, "status": "active", "changed": outcome.index}
    expected["protocol"] = world.view.federation().protocol
    assert codec.decode(record_json(world.view, "node", SECOND) or b"", 9999) == expected
    assert [node.id for node in world.view.active_nodes(BANK)] == [FIRST, SECOND]
    assert voters(world) == [FIRST, OTHERS]


def test_a_voter_is_replaced_by_adding_retiring_and_promoting(world: Any, bank: Any) -> None:
    assert bank("add", node_body(SECOND)).accepted
    outcome = bank("promote", SECOND)
    assert (outcome.reason, outcome.thing) == (Reason.LIMIT_EXCEEDED, FIRST)
    assert bank("retire", FIRST).accepted
    assert bank("promote", SECOND).accepted
    assert voters(world) == [SECOND, OTHERS]
    retired = node_of(world, FIRST)
    assert (retired.status, retired.role, retired.votes) == (Status.REVOKED, Role.VOTER, False)
    assert [node.id for node in world.view.active_nodes(BANK)] == [SECOND]


def test_a_domain_without_a_voter_may_add_one(world: Any, bank: Any) -> None:
    assert bank("add", node_body(SECOND, role="voter")).reason is Reason.LIMIT_EXCEEDED
    assert bank("demote", FIRST).accepted
    assert node_of(world, FIRST).role is Role.OBSERVER
    assert bank("add", node_body(SECOND, role="voter")).accepted
    assert bank("promote", FIRST).reason is Reason.LIMIT_EXCEEDED
    assert voters(world) == [SECOND, OTHERS]


def test_a_role_is_not_given_twice(bank: Any) -> None:
    assert bank("promote", FIRST).reason is Reason.ILLEGAL_TRANSITION
    assert bank("add", node_body(SECOND)).accepted
    assert bank("demote", SECOND).reason is Reason.ILLEGAL_TRANSITION


@pytest.mark.parametrize("act", ["demote", "retire"])
def test_the_last_voter_of_the_federation_stays(world: Any, bank: Any, act: str) -> None:
    assert bank("add", node_body(SECOND)).accepted
    assert bank("demote", OTHERS, CLINIC).accepted
    outcome = bank(act, FIRST)
    assert (outcome.reason, outcome.thing) == (Reason.LAST_VOTER, FIRST)
    assert bank("retire", SECOND).accepted  # no voter: it is not missed
    assert bank("promote", OTHERS, CLINIC).accepted
    assert bank(act, FIRST).accepted
    assert voters(world) == [OTHERS]


def test_a_federation_of_one_keeps_its_voter() -> None:
    ledger = Ledger(Federation.build((BANK,)))
    assert ledger.run(BANK, "node.add", node_body(SECOND)).outcome.accepted
    for act in ("node.demote", "node.retire"):
        assert ledger.run(BANK, act, {"node": FIRST}).outcome.reason is Reason.LAST_VOTER


def test_retiring_is_final(bank: Any) -> None:
    assert bank("add", node_body(SECOND)).accepted
    assert bank("retire", SECOND).accepted
    for act in ("retire", "promote", "demote"):
        outcome = bank(act, SECOND)
        assert (outcome.reason, outcome.thing) == (Reason.FINAL, SECOND), act
    fresh = {"signing_key": key_for("new").public.hex(), "log_key": key_for("newer").public.hex()}
    assert bank("add", node_body(SECOND, **fresh)).reason is Reason.FINAL
    assert bank("add", node_body(SECOND)).reason is Reason.FINAL


def test_a_domain_governs_its_own_nodes_only(world: Any, bank: Any) -> None:
    before = world.store.items()
    assert bank("add", node_body(f"spiffe://{CLINIC}/node/2")).reason is Reason.NOT_AUTHORIZED
    for act in ("promote", "demote", "retire"):
        outcome = bank(act, OTHERS)
        assert (outcome.reason, outcome.thing) == (Reason.NOT_AUTHORIZED, OTHERS), act
    nodes = [(key, value) for key, value in before if key[:1] in b"NmMk"]
    assert [(k, v) for k, v in world.store.items() if k[:1] in b"NmMk"] == nodes


def test_what_does_not_exist_is_not_found(bank: Any) -> None:
    for act in ("promote", "demote", "retire"):
        assert bank(act, SECOND).reason is Reason.NOT_FOUND
    assert bank("add", node_body(FIRST)).reason is Reason.ALREADY_EXISTS


TAKEN = [
    f"{BANK} governance",
    f"{CLINIC} governance",
    f"{CLINIC} cosigner",
    f"{CLINIC} signing",
    f"{CLINIC} log",
    f"{SECOND} signing",
    f"{SECOND} log",
]


@pytest.mark.parametrize("purpose", ["signing_key", "log_key"])
@pytest.mark.parametrize("name", TAKEN)
def test_a_key_serves_one_purpose_for_ever(bank: Any, purpose: str, name: str) -> None:
    assert bank("add", node_body(SECOND)).accepted
    assert bank("retire", SECOND).accepted
    key = key_for(name).public.hex()
    outcome = bank("add", node_body(THIRD, **{purpose: key}))
    assert (outcome.reason, outcome.thing) == (Reason.ALREADY_EXISTS, key)
    assert bank("add", node_body(THIRD)).accepted


def test_a_denied_node_claims_no_keys(bank: Any) -> None:
    assert bank("add", node_body(SECOND, role="voter")).reason is Reason.LIMIT_EXCEEDED
    assert bank("add", node_body(SECOND)).accepted


def test_two_active_nodes_never_share_an_address(world: Any, bank: Any) -> None:
    for other in (world.clinic.peer_address, world.bank.peer_address):
        outcome = bank("add", node_body(SECOND, other))
        assert (outcome.reason, outcome.thing) == (Reason.ALREADY_EXISTS, other)
    assert bank("add", node_body(SECOND, "127.0.0.1:1")).accepted
    assert bank("add", node_body(THIRD, "127.0.0.1:1")).reason is Reason.ALREADY_EXISTS
    assert bank("retire", SECOND).accepted
    assert bank("add", node_body(THIRD, "127.0.0.1:1")).accepted


def test_active_nodes_of_a_domain_are_limited_and_retiring_makes_room(bank: Any) -> None:
    names = [f"spiffe://{BANK}/node/x{number}" for number in range(MAX_NODES_PER_DOMAIN)]
    *fitting, one_more = [node_body(name, f"127.0.0.1:{8000 + i}") for i, name in enumerate(names)]
    for body in fitting:
        assert bank("add", body).accepted
    outcome = bank("add", one_more)
    assert (outcome.reason, outcome.thing) == (Reason.LIMIT_EXCEEDED, BANK)
    assert bank("add", node_body(f"spiffe://{CLINIC}/node/2"), CLINIC).accepted
    assert bank("retire", names[3]).accepted
    assert bank("add", one_more).accepted


def test_nodes_ever_of_a_domain_are_limited(bank: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quorate.core.membership.MAX_NODES_EVER_PER_DOMAIN", 3)
    for name in (SECOND, THIRD):
        assert bank("add", node_body(name)).accepted
        assert bank("retire", name).accepted
    fourth = node_body(f"spiffe://{BANK}/node/4")
    assert bank("add", fourth).reason is Reason.LIMIT_EXCEEDED


def test_a_suspended_domain_narrows_and_does_not_widen(world: Any, bank: Any) -> None:
    assert bank("add", node_body(SECOND)).accepted
    world.must(BANK, "domain.suspend", {"domain": BANK})
    for act, body in (("add", node_body(THIRD, "127.0.0.1:1")), ("promote", SECOND)):
        outcome = bank(act, body)
        assert (outcome.reason, outcome.thing) == (Reason.DOMAIN_SUSPENDED, BANK), act
    assert bank("demote", FIRST).accepted
    assert bank("retire", SECOND).accepted


def lease(world: Any, node: str, nonce: str) -> bytes:
    agent = world.bank.executor("a")
    body = acquire_body(agent, "pay", f"//{CLINIC}/x")
    envelope: bytes = world.federation.command(node, "lease.acquire", body, nonce)
    return envelope


@pytest.fixture
def retired(world: Any, bank: Any) -> tuple[Any, bytes]:
    """A ledger whose second node has given a command and was retired, and that command."""
    assert bank("add", node_body(SECOND)).accepted
    earlier = lease(world, SECOND, "a" * 16)
    assert world.apply(earlier).outcome.reason is Reason.UNKNOWN_EXECUTOR  # judged, not refused
    assert bank("retire", SECOND).accepted
    return world, earlier


def test_a_retired_nodes_key_is_worth_nothing(retired: tuple[Any, bytes]) -> None:
    world, _ = retired
    remembered = len(list(world.store.scan(b"c")))
    envelope = lease(world, SECOND, "b" * 16)
    for _ in range(2):
        applied = world.apply(envelope)
        assert (applied.outcome.reason, applied.outcome.thing) == (Reason.NODE_RETIRED, SECOND)
        assert applied.entry is not None
    assert len(list(world.store.scan(b"c"))) == remembered
    refusal = examine(world.view, envelope, world.now)
    assert refusal is not None
    assert refusal.reason is Reason.NODE_RETIRED
    foreign = world.federation.command(
        SECOND, "lease.acquire", acquire_body("spiffe://x/a", "pay", "//x/y"), key=key_for("x")
    )
    assert world.apply(foreign).outcome.reason is Reason.BAD_SIGNATURE


def test_what_a_node_did_before_it_was_retired_keeps_its_outcome(
    retired: tuple[Any, bytes],
) -> None:
    world, earlier = retired
    size = len(world.entries)
    assert examine(world.view, earlier, world.now) is None
    again = world.apply(earlier)
    assert (again.outcome.reason, again.outcome.duplicate) == (Reason.UNKNOWN_EXECUTOR, True)
    assert len(world.entries) == size


def test_a_second_node_speaks_for_its_domains_executors(world: Any, bank: Any) -> None:
    agent = world.bank.executor("a")
    world.must(BANK, "executor.register", {"executor": agent})
    assert bank("add", node_body(SECOND)).accepted
    assert world.apply(lease(world, SECOND, "a" * 16)).outcome.reason is Reason.NO_TRUST


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"role": Role.VOTER}, "more than one voter"),
        ({"status": Status.SUSPENDED}, "is suspended"),
        ({"domain": CLINIC}, "another than its id says"),
        ({"peer_address": "127.0.0.1:7401"}, "one peer address"),
        ({"log_key": key_for(f"{CLINIC} log").public.hex()}, "serves two purposes"),
        ({"signing_key": key_for("unfiled").public.hex()}, "not on file"),
    ],
)
def test_a_state_that_is_not_sound_is_told(
    world: Any, bank: Any, changes: dict[str, Any], told: str
) -> None:
    assert bank("add", node_body(SECOND)).accepted
    state.save_node(world.store, replace(node_of(world, SECOND), **changes))
    assert any(told in problem for problem in invariants.check(world.view))


def test_a_step_that_cannot_be_is_told(world: Any, bank: Any) -> None:
    def step(ident: str, **changes: Any) -> list[str]:
        after = MemoryStore()
        for key, value in world.store.items():
            after.put(key, value)
        state.save_node(after, replace(node_of(world, ident), **changes))
        return invariants.check_step(world.view, StateView(after))

    assert bank("add", node_body(SECOND)).accepted
    assert step(SECOND, role=Role.VOTER) == []
    assert step(SECOND, status=Status.REVOKED) == []
    assert step(SECOND, signing_key="00") == [f"node {SECOND} has other keys or another address"]
    assert step(SECOND, peer_address="x:1") == [f"node {SECOND} has other keys or another address"]
    assert bank("retire", SECOND).accepted
    assert step(SECOND, status=Status.ACTIVE) == [f"node {SECOND} was revoked, and has changed"]
    assert step(SECOND, role=Role.VOTER) == [f"node {SECOND} was revoked, and has changed"]
