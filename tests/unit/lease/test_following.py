"""How an edge follows its node's ledger, and what it says is drained."""

from __future__ import annotations

import pytest

from quorate.lease import following
from quorate.lease.enforcement import EdgeReports, OwnPermits
from quorate.lease.following import EdgeLedger
from quorate.lease.outstanding import Holder
from quorate.testing.checks import EXECUTOR, MS, World, make_world

SILENT_MS = 1_020
"""max_permit_ttl_ms, and twice rho more."""


@pytest.fixture
def world() -> World:
    return make_world()


def follow(ledger: EdgeLedger, world: World, now_ms: int = 0) -> following.Followed:
    with world.snapshot() as snapshot:
        return ledger.follow(snapshot, now_ms * MS)


def test_an_edge_says_nothing_until_no_permit_of_the_one_before_can_be_in_use(world: World):
    ledger = EdgeLedger()
    assert ledger.drained_index(10**15) == 0, "it has not begun"
    assert follow(ledger, world, 5).is_blind
    assert ledger.drained_index((5 + SILENT_MS) * MS - 1) == 0
    assert ledger.next_ns(0) == (5 + SILENT_MS) * MS
    assert ledger.drained_index((5 + SILENT_MS) * MS) == world.applied_index
    assert ledger.next_ns((5 + SILENT_MS) * MS) is None


def test_what_is_followed_is_drained_unless_it_stops_a_permit(world: World):
    ledger, now = EdgeLedger(), 2 * SILENT_MS
    follow(ledger, world)
    lease = world.ledger.view.lease(world.lease_id)
    assert lease is not None
    holder = Holder(world.lease_id, EXECUTOR, "s" * 16)
    ledger.permitted(holder, lease.depends_on, ledger.size, 1_000, now * MS)
    world.ledger.run("bank.example", "executor.register", {"executor": EXECUTOR + "x"})
    world.applied_index = 8
    assert follow(ledger, world, now) == following.Followed()
    assert ledger.drained_index(now * MS) == 8
    world.revoke_executor()
    world.applied_index = 9
    (effect,) = follow(ledger, world, now).effects
    assert effect.thing == f"executor:{EXECUTOR}"
    world.applied_index = 10
    follow(ledger, world, now)
    assert ledger.drained_index((now + SILENT_MS) * MS - 1) == 8
    assert ledger.next_ns(now * MS) == (now + SILENT_MS) * MS
    assert ledger.drained_index((now + SILENT_MS) * MS) == 10


def test_it_reads_so_many_entries_in_a_step(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(following, "MAX_FOLLOWED", 2)
    ledger = EdgeLedger()
    follow(ledger, world)
    before = world.applied_index
    for act in ("suspend", "reinstate", "suspend"):
        world.govern_executor(act)
    world.applied_index = 11
    now = 2 * SILENT_MS
    first = follow(ledger, world, now)
    assert (len(first.effects), first.has_more) == (2, True)
    assert ledger.drained_index(now * MS) == before, "not all of that index was followed"
    second = follow(ledger, world, now)
    assert (len(second.effects), second.has_more) == (1, False)
    assert ledger.drained_index(now * MS) == 11


def test_who_is_too_far_behind_takes_everything_as_stopped(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(following, "MAX_BEHIND", 1)
    ledger, now = EdgeLedger(), 2 * SILENT_MS
    follow(ledger, world)
    holder = Holder(world.lease_id, EXECUTOR, "s" * 16)
    ledger.permitted(holder, (), ledger.size, 1_000, now * MS)
    for act in ("suspend", "reinstate"):
        world.govern_executor(act)
    world.applied_index = 9
    assert follow(ledger, world, now) == following.Followed(is_blind=True)
    assert ledger.drained_index(now * MS) == 7
    assert ledger.drained_index((now + SILENT_MS) * MS) == 9


def test_marks_are_bounded_and_never_say_too_much(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(following, "_MAX_MARKS", 8)
    ledger, now = EdgeLedger(), 2 * SILENT_MS
    follow(ledger, world)
    ledger.drained_index(now * MS)
    reached = []
    for number in range(40):
        world.ledger.run("bank.example", "executor.register", {"executor": f"{EXECUTOR}{number}"})
        world.applied_index += 1
        follow(ledger, world, now)
        assert len(ledger._marks) <= 8
        reached.append((ledger.size, world.applied_index))
    ledger.permits.drained_size = lambda _size, _now: 20  # type: ignore[method-assign]
    drained = ledger.drained_index(now * MS)
    assert 7 < drained <= max(applied for size, applied in reached if size <= 20)


def test_all_edges_of_a_node_have_to_say_so():
    reports = EdgeReports(2)
    assert not reports.reported(0, 9)
    assert reports.drained == 0
    assert reports.reported(1, 7)
    assert reports.drained == 7
    assert not reports.reported(1, 3), "what was said stays true"
    assert reports.drained == 7


def test_a_node_whose_edges_are_silent_waits_for_as_long_as_a_permit_lives():
    permits = OwnPermits(1_000, 10_000)
    assert permits.drained(0, 5, 0) == 0
    assert permits.drained(SILENT_MS * MS - 1, 6, 0) == 0
    assert permits.drained(SILENT_MS * MS, 6, 0) == 5
    assert permits.drained(SILENT_MS * MS, 7, 9) == 7, "never more than is enforced"
    assert permits.drained(SILENT_MS * MS, 7, 6) == 6
