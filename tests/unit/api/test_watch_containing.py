"""An executor, or a lease, is contained above leases that are watched: who is told, and of which
entry, and for whose permits is waited."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.unit.api.test_watch_freezing import BANK, NODE, SESSION, Bench, Told

from quorate.api.notices import Event, Watcher
from quorate.core import codec, keys
from quorate.core.outcome import Reason
from quorate.lease.outstanding import Holder
from quorate.testing.builders import acquire_body
from quorate.testing.checks import EXECUTOR, MS, PERIOD_NS, RESOURCE

CONTAIN, LIFT = "executor.contain", "executor.lift_containment"


class Lineage(Bench):
    """The second lease came from the first, which came from a third that nobody watches."""

    def __init__(self) -> None:
        super().__init__()
        self.root = self.below()
        self.reads = self.below(self.root)
        self.writes = self.below(self.reads)

    def below(self, *parents: str) -> str:
        body = acquire_body(EXECUTOR, "accounts.read", RESOURCE, 0, parents)
        return self.world.ledger.run(NODE, "lease.acquire", body).outcome.thing

    def contain(self, lease: str, act: str = CONTAIN) -> int:
        return self.must(BANK, act, {"lease": lease})

    async def heard(self, watcher: Watcher) -> tuple[Told, Told]:
        told = await self.told(watcher)
        return told[self.reads], told[self.writes]


@pytest.fixture
def lineage() -> Lineage:
    return Lineage()


async def test_all_that_came_from_it_are_told_and_told_when_it_is_lifted(lineage: Lineage) -> None:
    leases = (lineage.reads, lineage.writes)
    async with lineage.hub.watch(EXECUTOR, leases) as watcher, lineage.running():
        await lineage.told(watcher)
        at, over = lineage.contain(lineage.root), lineage.contain(lineage.root, LIFT)
        expected = [
            (Event.INTERRUPTED, Reason.CONTAINED, lineage.root, at + 1),
            (Event.RESTORED, None, "", over + 1),
        ]
        assert await lineage.heard(watcher) == (expected, expected)
        low = lineage.contain(lineage.writes)
        denied = (Event.INTERRUPTED, Reason.CONTAINED, lineage.writes, low + 1)
        assert await lineage.heard(watcher) == ([], [denied])


async def test_what_is_contained_twice_over_is_good_when_both_are_lifted(lineage: Lineage) -> None:
    async with lineage.hub.watch(EXECUTOR, (lineage.writes,)) as watcher, lineage.running():
        await lineage.told(watcher)
        lineage.contain(lineage.root)
        lineage.must(BANK, CONTAIN, {"executor": EXECUTOR})
        lineage.contain(lineage.root, LIFT)
        told = (await lineage.heard(watcher))[1]
        assert Event.RESTORED not in {event for event, *_ in told}
        over = lineage.must(BANK, LIFT, {"executor": EXECUTOR})
        assert (await lineage.heard(watcher))[1] == [(Event.RESTORED, None, "", over + 1)]


async def test_a_watch_that_is_taken_up_again_is_told_the_same(lineage: Lineage) -> None:
    before = len(lineage.world.ledger.entries)
    at, over = lineage.contain(lineage.root), lineage.contain(lineage.root, LIFT)
    end = len(lineage.world.ledger.entries)
    expected: Told = [
        (Event.INTERRUPTED, Reason.CONTAINED, lineage.root, at + 1),
        (Event.RESTORED, None, "", over + 1),
        (Event.ACTIVE, None, "", end),
    ]
    async with lineage.running():
        await lineage.followed()
        for place, first in ((before, 0), (at + 1, 1)):
            watch = lineage.hub.watch(EXECUTOR, (lineage.writes,), after_size=place)
            async with watch as watcher:
                assert (await lineage.heard(watcher))[1] == expected[first:]


@pytest.mark.parametrize("is_of_old", [False, True])
async def test_permits_below_are_waited_for_also_of_leases_of_the_first_version(
    lineage: Lineage, is_of_old: bool
) -> None:
    world = lineage.world
    if is_of_old:
        for ident in (lineage.reads, lineage.writes):
            lease = world.ledger.view.lease(ident)
            assert lease is not None
            bare = replace(lease, ancestors=(), ancestor_executors=())
            world.ledger.store.put(
                keys.RECORDS[lease.kind] + ident.encode(), codec.encode(bare.to_json())
            )
    async with lineage.running():
        await lineage.followed()
        world.clock.advance(2 * PERIOD_NS)
        world.grant()
        await lineage.followed()
        before = lineage.hub._drained
        held: Holder = lineage.permitted(lineage.writes)
        async with lineage.hub.watch(EXECUTOR, (held.lease_id,), session=SESSION) as watcher:
            index = lineage.contain(lineage.root)
            world.applied_index = before + 1
            _, told = await lineage.heard(watcher)
            interrupted = (Event.INTERRUPTED, Reason.CONTAINED, lineage.root, index + 1)
            assert interrupted in told
            await asyncio.sleep(0.1)
            assert lineage.hub._drained == before, "the permit is in use"
            world.clock.advance(1_100 * MS)
            async with asyncio.timeout(5):
                assert await lineage.hub.drained_beyond(before) == before + 1
