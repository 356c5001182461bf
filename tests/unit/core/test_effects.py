"""What an entry means for leases that are held: told of the entry, true of the state."""

from __future__ import annotations

import pytest

from quorate.core.effects import Effect, effect_of, is_stopped, things_of
from quorate.core.errors import MalformedError
from quorate.core.outcome import Reason
from quorate.testing.builders import node_body
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
    assert thing in things_of(lease)
    assert not is_stopped(world.ledger.view, thing)
    size = len(world.ledger.entries)
    world.ledger.run(BANK, kind, body)
    assert effects(world, size) == [Effect(size, world.ledger.now, thing, reason)]
    assert is_stopped(world.ledger.view, thing)
    if reason not in (Reason.EXECUTOR_REVOKED, Reason.GRANT_REVOKED):
        world.ledger.run(BANK, kind.replace("suspend", "reinstate"), body)
        assert effects(world, size + 1) == [Effect(size + 1, world.ledger.now, thing, None)]
        assert not is_stopped(world.ledger.view, thing)


def test_a_lease_of_its_own(world: World) -> None:
    thing, size = f"lease:{world.lease_id}", len(world.ledger.entries)
    assert not is_stopped(world.ledger.view, thing)
    held = {"lease": world.lease_id, "executor": EXECUTOR}
    world.ledger.run(NODE, "lease.renew", held | {"ttl_ms": 1_000})
    world.ledger.run(NODE, "lease.release", held)
    reasons = [(effect.thing, effect.reason) for effect in effects(world, size)]
    assert reasons == [(thing, None), (thing, Reason.LEASE_RELEASED)]
    assert is_stopped(world.ledger.view, thing)
    assert is_stopped(world.ledger.view, f"lease:{'0' * 32}"), "what is not there gives nothing"


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
