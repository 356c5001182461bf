"""What an entry means for leases that are held: told of the entry, true of the state."""

from __future__ import annotations

from typing import Any

import pytest

from quorate.core import codec
from quorate.core.effects import Effect, effect_of, is_stopped, things_of
from quorate.core.errors import MalformedError
from quorate.core.outcome import Reason
from quorate.core.records import Lease
from quorate.testing.builders import ORIGIN, narrow_body, node_body
from quorate.testing.checks import EXECUTOR, World, make_world

BANK = "bank.example"
AGENT = f"executor:{EXECUTOR}"
NODE = f"spiffe://{BANK}/node/1"


@pytest.fixture
def world() -> World:
    return make_world()


def effects(world: World, since: int) -> list[Effect]:
    found = (
        effect_of(index, entry)
        for index, entry in enumerate(world.ledger.entries[since:], start=since)
    )
    return [effect for effect in found if effect is not None]


@pytest.mark.parametrize(
    ("kind", "body", "thing", "reason"),
    [
        (
            "executor.suspend",
            {"executor": EXECUTOR},
            f"executor:{EXECUTOR}",
            Reason.EXECUTOR_SUSPENDED,
        ),
        (
            "executor.revoke",
            {"executor": EXECUTOR},
            f"executor:{EXECUTOR}",
            Reason.EXECUTOR_REVOKED,
        ),
        ("grant.suspend", {"grant": "g"}, f"grant:{BANK}/g", Reason.GRANT_SUSPENDED),
        ("grant.revoke", {"grant": "g"}, f"grant:{BANK}/g", Reason.GRANT_REVOKED),
        ("domain.suspend", {"domain": BANK}, f"domain:{BANK}", Reason.DOMAIN_SUSPENDED),
    ],
)
def test_what_narrows_names_what_the_lease_relies_on(
    world: World, kind: str, body: dict[str, object], thing: str, reason: Reason
) -> None:
    lease = world.ledger.view.lease(world.lease_id)
    assert lease is not None
    assert thing in things_of(lease, ORIGIN)
    assert not is_stopped(world.ledger.view, thing, lease)
    size = len(world.ledger.entries)
    world.ledger.run(BANK, kind, body)
    assert effects(world, size) == [Effect(size, world.ledger.now, thing, reason)]
    assert not effects(world, size)[0].spares(lease)
    assert is_stopped(world.ledger.view, thing, lease)
    if reason not in (Reason.EXECUTOR_REVOKED, Reason.GRANT_REVOKED):
        world.ledger.run(BANK, kind.replace("suspend", "reinstate"), body)
        assert effects(world, size + 1) == [Effect(size + 1, world.ledger.now, thing, None)]
        assert not is_stopped(world.ledger.view, thing, lease)


CROSSING = f"trust:{BANK}/edge"


def crossing(trusted: Any, action: str = "payments.read") -> Lease:
    """A lease that crosses domains, on //bank.example/accounts/7."""
    return Lease.from_json(trusted.acquire(action=action).result)


@pytest.mark.parametrize(
    ("resources", "actions", "is_spared"),
    [
        (["//bank.example/accounts/*"], ["*"], True),
        (["//bank.example/accounts/7"], ["a", "payments.read"], True),
        (["//bank.example/accounts/8"], ["payments.read"], False),
        (["//bank.example/*"], ["payments.write"], False),
    ],
)
def test_a_narrowing_stops_what_it_leaves_out(
    trusted: Any, resources: list[str], actions: list[str], is_spared: bool
) -> None:
    lease, size = crossing(trusted), len(trusted.entries)
    assert CROSSING in things_of(lease, ORIGIN)
    assert not is_stopped(trusted.view, CROSSING, lease)
    outcome = trusted.must(BANK, "trust.narrow", narrow_body("edge", resources, actions))
    effect = effect_of(outcome.index, trusted.entries[size])
    assert effect is not None
    assert (effect.index, effect.thing, effect.reason) == (size, CROSSING, Reason.NO_TRUST)
    assert effect.spares(lease) == is_spared
    assert is_stopped(trusted.view, CROSSING, lease) != is_spared
    trusted.must(BANK, "trust.close", {"edge": "edge"})
    closed = effect_of(size + 1, trusted.entries[size + 1])
    assert closed is not None
    assert not closed.spares(lease)
    assert is_stopped(trusted.view, CROSSING, lease)


def test_a_narrowing_that_was_denied_does_nothing(trusted: Any) -> None:
    widens = narrow_body("edge", ["//clinic.example/*"])
    outcome = trusted.do(BANK, "trust.narrow", widens)
    assert outcome.reason is Reason.WIDENS
    assert effect_of(outcome.index, trusted.entries[outcome.index]) is None


def test_an_entry_of_a_narrowing_without_one_is_no_answer(trusted: Any) -> None:
    """Entries are looked at as far as they are followed; what is in the command, too."""
    outcome = trusted.must(BANK, "trust.narrow", narrow_body("edge", ["//bank.example/x"]))
    entry = codec.load(trusted.entries[outcome.index])
    another = codec.load(trusted.entries[1])
    assert isinstance(entry, dict)
    assert isinstance(another, dict)
    for command in ({}, another["command"]):
        with pytest.raises(MalformedError):
            effect_of(outcome.index, codec.encode(entry | {"command": command}))


def test_a_lease_of_its_own(world: World) -> None:
    thing, size = f"lease:{world.lease_id}", len(world.ledger.entries)
    assert not is_stopped(world.ledger.view, thing, None)
    held = {"lease": world.lease_id, "executor": EXECUTOR}
    world.ledger.run(NODE, "lease.renew", held | {"ttl_ms": 1_000})
    world.ledger.run(NODE, "lease.release", held)
    reasons = [(effect.thing, effect.reason) for effect in effects(world, size)]
    assert reasons == [(thing, None), (thing, Reason.LEASE_RELEASED)]
    assert is_stopped(world.ledger.view, thing, None)
    assert is_stopped(world.ledger.view, f"lease:{'0' * 32}", None), (
        "what is not there gives nothing"
    )


def test_what_is_new_or_denied_or_about_nodes_does_nothing(world: World) -> None:
    size = len(world.ledger.entries)
    world.ledger.run(BANK, "executor.register", {"executor": f"spiffe://{BANK}/agent/new"})
    world.ledger.run(BANK, "node.add", node_body(f"spiffe://{BANK}/node/2"))
    world.ledger.run("clinic.example", "executor.suspend", {"executor": EXECUTOR})
    world.ledger.apply(b"no command")
    assert len(world.ledger.entries) == size + 4
    assert effects(world, size) == []
    assert effects(world, 0)[0].thing == f"lease:{world.lease_id}", "its acquisition"


@pytest.mark.parametrize("entry", [b"", b"[]", b"{}", b'{"type":1}'])
def test_what_is_no_entry_is_no_answer(entry: bytes) -> None:
    with pytest.raises(MalformedError):
        effect_of(0, entry)
