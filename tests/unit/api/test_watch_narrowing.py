"""An edge of trust is narrowed under leases that are watched: who is told, of which entry, and for
whose permits is waited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from quorate.api.notices import Event, Watcher
from quorate.api.watch import WatchHub
from quorate.core.outcome import Deny, Permit, Reason
from quorate.lease.check import Checked, CheckQuery, LeaseChecker
from quorate.lease.outstanding import Holder
from quorate.telemetry import Metrics
from quorate.testing.builders import acquire_body, grant_body, narrow_body, trust_body
from quorate.testing.checks import BOOT, EXECUTOR, MS, PERIOD_NS, Source, Word, World, make_world

BANK, CLINIC = "bank.example", "clinic.example"
NODE = f"spiffe://{BANK}/node/1"
BOOKS = f"//{CLINIC}/books"
EDGE = f"{CLINIC}/edge"
SESSION = "s" * 16

Told = list[tuple[Event, Reason | None, int]]


class CountingChecker(LeaseChecker):
    """Notes which leases are looked at."""

    evaluated: list[str]

    def check_all(self, queries: Sequence[CheckQuery]) -> list[Checked]:
        self.evaluated += [query.lease_id for query in queries]
        return super().check_all(queries)


class Bench:
    """An executor of the bank with two leases on the clinic's books, under one edge of trust."""

    def __init__(self) -> None:
        self.world = make_world()
        ledger = self.world.ledger
        everything = [f"//{CLINIC}/*"]
        self.must(CLINIC, "trust.open", trust_body("edge", BANK, everything))
        self.must(CLINIC, "grant.issue", grant_body("g", EXECUTOR, everything))
        self.inside, self.outside = (
            ledger.run(NODE, "lease.acquire", acquire_body(EXECUTOR, "read", f"{BOOKS}/{name}"))
            .outcome.thing
            for name in ("in", "out")
        )  # fmt: skip
        self.checker = CountingChecker(
            Word(self.world), lambda: Source(self.world), self.world.clock, BOOT
        )
        self.checker.evaluated = []
        self.hub = WatchHub(self.checker, lambda: Source(self.world), self.world.clock, Metrics())

    def must(self, issuer: str, kind: str, body: dict[str, object]) -> int:
        """The index of an entry that was accepted."""
        outcome = self.world.ledger.run(issuer, kind, body).outcome
        assert outcome.accepted, outcome
        return outcome.index

    def narrow(self, *resources: str) -> int:
        return self.must(CLINIC, "trust.narrow", narrow_body("edge", resources))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.hub.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def followed(self) -> None:
        """The hub has come to the end of the ledger, and has looked at what that touched."""
        size = len(self.world.ledger.entries)
        self.hub.moved()
        await self.hub.followed(size - 1, 5.0)
        await asyncio.sleep(0.1)

    async def told(self, watcher: Watcher) -> dict[str, Told]:
        """What each lease's watcher was told by now."""
        await self.followed()
        notices: dict[str, Told] = {self.inside: [], self.outside: []}
        while watcher._queue:
            notice = await watcher.next()
            reason = notice.denial.reason if notice.denial else None
            assert notice.denial is None or notice.denial == Deny(notice.denial.reason, EDGE)
            notices[notice.lease_id].append((notice.event, reason, notice.at.ledger_size))
        return notices

    def permitted(self, lease: str) -> Holder:
        """A permit for this lease has left this edge."""
        holder = Holder(lease, EXECUTOR, SESSION)
        checked = self.world.checker.check(CheckQuery(lease, EXECUTOR))
        assert isinstance(checked.decision, Permit)
        self.hub.ledger.permitted(
            holder,
            checked.decision.depends_on,
            checked.at.ledger_size,
            checked.ttl_ms,
            self.world.clock.boottime_ns(),
        )
        return holder


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_who_is_left_out_is_told_of_the_entry_and_nobody_else(bench: Bench) -> None:
    async with (
        bench.hub.watch(EXECUTOR, (bench.inside, bench.outside)) as watcher,
        bench.running(),
    ):
        await bench.told(watcher)
        bench.checker.evaluated.clear()
        index = bench.narrow(f"{BOOKS}/in")
        bench.must(BANK, "executor.register", {"executor": EXECUTOR + "x"})
        assert await bench.told(watcher) == {
            bench.inside: [],
            bench.outside: [(Event.INTERRUPTED, Reason.NO_TRUST, index + 1)],
        }
        assert sorted(bench.checker.evaluated) == sorted((bench.inside, bench.outside))


async def test_of_several_narrowings_the_one_that_left_it_out_is_told(bench: Bench) -> None:
    async with (
        bench.hub.watch(EXECUTOR, (bench.inside, bench.outside)) as watcher,
        bench.running(),
    ):
        await bench.told(watcher)
        bench.narrow(f"{BOOKS}/*")
        index = bench.narrow(f"{BOOKS}/in", f"{BOOKS}/other")
        bench.narrow(f"{BOOKS}/in")
        assert await bench.told(watcher) == {
            bench.inside: [],
            bench.outside: [(Event.INTERRUPTED, Reason.NO_TRUST, index + 1)],
        }
        closed = bench.must(CLINIC, "trust.close", {"edge": "edge"})
        assert await bench.told(watcher) == {
            bench.inside: [(Event.INTERRUPTED, Reason.NO_TRUST, closed + 1)],
            bench.outside: [],
        }


async def test_nothing_that_goes_on_makes_it_good_again(bench: Bench) -> None:
    async with bench.hub.watch(EXECUTOR, (bench.outside,)) as watcher, bench.running():
        bench.narrow(f"{BOOKS}/in")
        await bench.told(watcher)
        for act in ("suspend", "reinstate", "suspend", "reinstate"):
            bench.must(CLINIC, f"grant.{act}", {"grant": "g"})
        assert (await bench.told(watcher))[bench.outside] == []


async def test_a_watch_that_is_taken_up_again_is_told_the_same(bench: Bench) -> None:
    bench.narrow(f"{BOOKS}/*")
    size = len(bench.world.ledger.entries)
    bench.narrow(f"{BOOKS}/in", f"{BOOKS}/other")
    index = size
    bench.narrow(f"{BOOKS}/in")
    async with bench.running():
        await bench.followed()
        end = len(bench.world.ledger.entries)
        leases = (bench.inside, bench.outside)
        async with bench.hub.watch(EXECUTOR, leases, after_size=size - 1) as watcher:
            assert await bench.told(watcher) == {
                bench.inside: [(Event.ACTIVE, None, end)],
                bench.outside: [
                    (Event.INTERRUPTED, Reason.NO_TRUST, index + 1),
                    (Event.INTERRUPTED, Reason.NO_TRUST, end),
                ],
            }


async def test_permits_of_all_leases_under_the_edge_are_waited_for(bench: Bench) -> None:
    """Who goes on hears nothing, and so acknowledges nothing."""
    world: World = bench.world
    leases = (bench.inside, bench.outside)
    async with bench.running():
        await bench.followed()
        world.clock.advance(2 * PERIOD_NS)
        world.grant()
        await bench.followed()
        before = bench.hub._drained
        held = [bench.permitted(lease) for lease in leases]
        async with bench.hub.watch(EXECUTOR, leases, session=SESSION) as watcher:
            index = bench.narrow(f"{BOOKS}/in")
            world.applied_index = before + 1
            await bench.told(watcher)
            bench.hub.acknowledge(watcher, held[1].lease_id, index + 1)
            await asyncio.sleep(0.1)
            assert bench.hub._drained == before, "a permit for the other lease is in use"
            world.clock.advance(1_100 * MS)
            async with asyncio.timeout(5):
                assert await bench.hub.drained_beyond(before) == before + 1
