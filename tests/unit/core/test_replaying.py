"""A ledger is decided again from its entries alone, and nothing that is not so is taken."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.core.conftest import World

from quorate.core import codec, entries, state
from quorate.core.errors import MalformedError
from quorate.core.explanation import Explanation, Question
from quorate.core.limits import MAX_COMMAND_LIFETIME_MS, MAX_ENVELOPE_BYTES
from quorate.core.outcome import Deny, Permit, Reason
from quorate.core.recounting import recount
from quorate.core.replaying import Replay
from quorate.core.status import Status
from quorate.proofs import merkle
from quorate.testing.builders import grant_body

BANK, CLINIC = "bank.example", "clinic.example"
NONCE = "ab" * 16


class Tree:
    """A Merkle tree over entries."""

    def __init__(self) -> None:
        self.nodes: dict[tuple[int, int], bytes] = {}
        self.size = 0

    def node(self, level: int, index: int) -> bytes:
        return self.nodes[level, index]

    def put_node(self, level: int, index: int, digest: bytes) -> None:
        self.nodes[level, index] = digest

    def add(self, entry: bytes) -> None:
        merkle.append(self, self.size, merkle.leaf_hash(entry))
        self.size += 1


def replayed(world: Any) -> Replay:
    """The whole ledger, taken."""
    replay = Replay(world.federation.parsed_genesis())
    for data in world.entries:
        replay.take(data)
    return replay


def taken(world: Any, index: int, **changes: object) -> Replay:
    """All before an entry, and then that entry with something changed."""
    replay = Replay(world.federation.parsed_genesis())
    for data in world.entries[:index]:
        replay.take(data)
    replay.take(codec.encode({**json.loads(world.entries[index]), **changes}))
    return replay


def recounted(world: Any, index: int) -> Explanation:
    replay = Replay(world.federation.parsed_genesis())
    for data in world.entries[:index]:
        replay.take(data)
    return recount(replay.view, entries.parse(world.entries[index]))


def test_a_whole_life_is_decided_again_to_the_same_state_and_root(lived: World) -> None:
    replay, ours, theirs = Replay(lived.federation.parsed_genesis()), Tree(), Tree()
    for data in lived.entries:
        before = replay.size
        entry = replay.take(data)
        assert (entry.seq, replay.size) == (before, before + 1)
        ours.add(data)
    for data in lived.entries:
        theirs.add(data)
    assert merkle.root(ours, ours.size) == merkle.root(theirs, theirs.size)
    kept: Any = replay.view._reader
    assert kept.items() == lived.store.items()


def test_every_entry_of_a_whole_life_is_explained_as_it_was_decided(lived: World) -> None:
    for index, data in enumerate(lived.entries):
        entry, told = entries.parse(data), recounted(lived, index)
        if entry.reason is None:
            assert isinstance(told.decision, Permit), data
        else:
            assert told.decision == Deny(entry.reason, entry.thing)
        assert told.steps[0].question is Question.COMMAND
        assert told.ledger_time == entry.time


@pytest.mark.parametrize(
    "changes",
    [
        {"seq": 4},
        {"origin": "quorate.example/other"},
        {"time": 0},
        {"type": "grant.revoke"},
        {"type": "malformed"},
        {"thing": "other"},
        {"decision": "denied", "reason": "NOT_FOUND"},
        {"decision": "denied"},
        {"reason": "NO_SUCH"},
        {"policy_version": 1},
        {"executed": {}},
        {"command": {}},
        {"command": {"raw": "AAAA"}},
        {"command": None},
    ],
)
def test_an_entry_that_is_not_what_deciding_makes_is_refused(
    trusted: World, changes: dict[str, object]
) -> None:
    taken(trusted, 3)
    with pytest.raises(MalformedError):
        taken(trusted, 3, **changes)


def test_bytes_that_are_no_entry_are_refused(world: World) -> None:
    for data in (b"", b"[]", b"{}", b"\xff", world.entries[0] + b" ", world.entries[0][:-1]):
        with pytest.raises(MalformedError):
            Replay(world.federation.parsed_genesis()).take(data)


def test_another_genesis_is_refused(world: World) -> None:
    with pytest.raises(MalformedError):
        taken(world, 0, command={"payload": ""})


# -- what is no command --------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"nonsense", b"{}", b"x" * (MAX_ENVELOPE_BYTES + 1)])
@pytest.mark.parametrize("stamped", [True, False])
def test_what_is_no_command_is_taken_as_it_was(world: World, data: bytes, stamped: bool) -> None:
    payload = codec.stamp(world.now + 5, data) if stamped else b"\xff" * 8 + data
    applied = world.apply_payload(payload)
    assert not applied.outcome.accepted
    now: Any = replayed(world).view._reader
    assert now.items() == world.store.items()
    world.must(BANK, "executor.register", {"executor": f"spiffe://{BANK}/agent/a"})
    replay = replayed(world)
    kept: Any = replay.view._reader
    assert kept.items() == world.store.items()
    told = recounted(world, 1)
    assert told.decision == Deny(applied.outcome.reason, applied.outcome.thing)


def test_bytes_that_are_too_short_for_a_stamp_are_taken(world: World) -> None:
    world.apply_payload(b"1234567")
    assert replayed(world).size == 2


def test_a_command_cannot_be_passed_off_as_none(trusted: World) -> None:
    """Not whole, where it would be decided again; nor as a hash, of which nobody can tell."""
    trusted.apply_payload(b"1234567")
    index = len(trusted.entries) - 1
    signed = json.loads(trusted.entries[3])["command"]
    whole = {"raw": codec.encode(signed).hex()}
    digest = {"sha256": "0" * 64, "size": MAX_ENVELOPE_BYTES}
    for command in (whole, digest, digest | {"size": -1}, {"sha256": "x", "size": 20_000}):
        with pytest.raises(MalformedError):
            taken(trusted, index, command=command)
    long = {"sha256": "0" * 64, "size": MAX_ENVELOPE_BYTES + 1}
    for changes in (
        {"reason": "MALFORMED_COMMAND", "thing": "type"},
        {"reason": "TOO_LARGE", "thing": "x"},
        {"decision": "accepted", "reason": ""},
    ):
        with pytest.raises(MalformedError):
            taken(trusted, index, command=long, **changes)


# -- what is remembered --------------------------------------------------------------------------


def run(world: World, name: str, not_after: int, nonce: str = NONCE) -> Any:
    body = {"executor": f"spiffe://{BANK}/agent/{name}"}
    return world.apply(
        world.federation.command(BANK, "executor.register", body, nonce, not_after)
    ).outcome


def wait(world: World, ms: int) -> None:
    """And some commands, so that what has expired is forgotten."""
    world.now += ms
    for number in range(3):
        nonce = f"{world.now:016x}{number:016x}"
        run(world, f"w{world.now}-{number}", world.now + 1_000, nonce)


def test_a_repeat_that_has_no_entry_changes_no_entry(world: World) -> None:
    """It is answered for longer, and keeps its nonce from nobody for longer."""
    assert run(world, "a", world.now + 1_000).accepted
    assert run(world, "b", world.now + 1_000).reason is Reason.NONCE_REUSED
    told = recounted(world, len(world.entries) - 1)
    assert told.decision == Deny(Reason.NONCE_REUSED, NONCE)
    assert run(world, "a", world.now + 100_000).duplicate
    wait(world, 50_000)
    assert run(world, "a", world.now + 1_000).duplicate
    assert run(world, "b", world.now + 1_000).accepted
    assert replayed(world).size == len(world.entries)


def test_what_was_forgotten_can_be_executed_again(world: World) -> None:
    """Many repeats have the ledger forget sooner than its entries alone would."""
    for number in range(40):
        run(world, f"n{number}", world.now + 1_000, f"{number:032x}")
    assert run(world, "a", world.now + 1_000).accepted
    world.now += 2_000
    run(world, "last", world.now + 100_000, "cd" * 16)
    for _ in range(10):
        assert run(world, "last", world.now + 100_000, "cd" * 16).duplicate
    assert run(world, "b", world.now + 100_000).accepted, "the nonce was forgotten"
    assert replayed(world).size == len(world.entries)


def test_what_is_remembered_is_not_executed_twice(world: World) -> None:
    assert run(world, "a", world.now + 100_000).accepted
    again = json.loads(world.entries[1]) | {"seq": 2}
    replay = replayed(world)
    with pytest.raises(MalformedError):
        replay.take(codec.encode(again))


def test_a_reuse_of_what_never_was_is_refused(world: World) -> None:
    run(world, "a", world.now + 100_000)
    with pytest.raises(MalformedError):
        taken(world, 1, decision="denied", reason="NONCE_REUSED", thing=NONCE)


# -- what is told of an entry --------------------------------------------------------------------


def questions(told: Explanation) -> list[tuple[Question, str]]:
    return [(step.question, str(step.answer)) for step in told.steps]


def last(world: World) -> Explanation:
    return recounted(world, len(world.entries) - 1)


def test_the_genesis_is_told_of(world: World) -> None:
    told = recounted(world, 0)
    assert questions(told) == [(Question.COMMAND, "passed")]
    assert told.steps[0].note == "signed by every organisation"


def test_a_lease_that_was_denied_was_denied_by_a_question(trusted: World) -> None:
    trusted.must(BANK, "grant.suspend", {"grant": "grant"})
    assert trusted.acquire().reason is Reason.GRANT_SUSPENDED
    trusted.must(BANK, "grant.reinstate", {"grant": "grant"})
    told = last_denied(trusted)
    assert questions(told)[-3:] == [
        (Question.GRANT, "failed"),
        (Question.POLICY, "not_asked"),
        (Question.EFFECT, "not_asked"),
    ]
    assert told.steps[0].things[0].id == trusted.clinic.node
    parent = str(trusted.acquire().result["id"])
    trusted.lease_act("release", parent)
    assert trusted.acquire(parents=[parent]).reason is Reason.BROKEN_LINEAGE
    assert questions(last(trusted))[-2:] == [
        (Question.PARENTS, "failed"),
        (Question.EFFECT, "not_asked"),
    ]


def last_denied(world: World) -> Explanation:
    denied = [i for i, data in enumerate(world.entries) if entries.parse(data).reason]
    return recounted(world, denied[-1])


def test_renewing_and_releasing_ask_about_the_lease(trusted: World) -> None:
    lease = str(trusted.acquire().result["id"])
    assert trusted.lease_act("renew", lease, ttl_ms=0).accepted
    asked = [question for question, _ in questions(last(trusted))]
    assert asked[:3] == [Question.COMMAND, Question.LEASE, Question.IN_FORCE]
    assert asked[-1] is Question.POLICY
    assert trusted.lease_act("release", lease).accepted
    assert len(last(trusted).steps) == 3
    assert trusted.lease_act("renew", lease, ttl_ms=0).reason is Reason.LEASE_RELEASED
    assert last(trusted).decision == Deny(Reason.LEASE_RELEASED, lease)
    remedy = last(trusted).steps[2].remedy
    assert remedy is not None
    assert remedy.command == "quorate lease acquire payments.read //bank.example/accounts/7"


def test_what_is_wrong_with_a_command_comes_before_what_it_asks(trusted: World) -> None:
    late = trusted.now + MAX_COMMAND_LIFETIME_MS + 1
    body = grant_body("g", trusted.agent, ["//bank.example/*"])
    trusted.apply(trusted.federation.command(BANK, "grant.issue", body, None, late))
    assert questions(last(trusted)) == [
        (Question.COMMAND, "failed"),
        (Question.EFFECT, "not_asked"),
    ]
    assert last(trusted).decision == Deny(Reason.LIFETIME_TOO_LONG, last_command(trusted))
    assert trusted.do(trusted.bank.node, "lease.release", release(trusted)).reason
    assert questions(last(trusted))[0] == (Question.COMMAND, "failed"), "not the agent's node"


def test_who_was_expelled_is_told_so_before_what_it_asks(trusted: World) -> None:
    trusted.must(CLINIC, "executor.suspend", {"executor": trusted.agent})
    clinic = trusted.view.domain(CLINIC)
    assert clinic is not None
    state.save_domain(trusted.store, replace(clinic, status=Status.REVOKED))
    assert trusted.acquire().reason is Reason.DOMAIN_REVOKED
    told = recount(trusted.view, entries.parse(trusted.entries[-1]))
    assert told.decision == Deny(Reason.DOMAIN_REVOKED, CLINIC)
    assert questions(told)[0] == (Question.COMMAND, "failed")


def last_command(world: World) -> str:
    return entries.parse(world.entries[-1]).thing


def release(world: World) -> dict[str, object]:
    return {"lease": "0" * 32, "executor": world.agent}


def test_what_governs_is_told_as_it_was_recorded(trusted: World) -> None:
    assert not trusted.do(BANK, "grant.revoke", {"grant": "nothing"}).accepted
    told = last(trusted)
    assert questions(told) == [(Question.COMMAND, "passed"), (Question.EFFECT, "failed")]
    assert told.decision == Deny(Reason.NOT_FOUND, entries.parse(trusted.entries[-1]).thing)
    trusted.must(BANK, "grant.revoke", {"grant": "grant"})
    assert last(trusted).steps[1].note == f"changed {BANK}/grant"
