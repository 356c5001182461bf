"""Resources are frozen and thawed under leases that are watched: who is told, of which entry, and
for whose permits is waited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from quorate.api.notices import Event, Watcher
from quorate.api.watch import WatchHub
from quorate.core.outcome import Permit, Reason
from quorate.lease.check import CheckQuery
from quorate.lease.outstanding import Holder
from quorate.telemetry import Metrics
from quorate.testing.builders import ORIGIN, acquire_body, ballot_body, proposal_body
from quorate.testing.checks import EXECUTOR, MS, PERIOD_NS, RESOURCE, Source, make_world

BANK, CLINIC = "bank.example", "clinic.example"
NODE = f"spiffe://{BANK}/node/1"
SESSION = "s" * 16
BY = ("domain", "federation")

Told = list[tuple[Event, Reason | None, str, int]]


class Bench:
    """An executor of the bank with two leases on what is the bank's, for different actions."""

    def __init__(self) -> None:
        self.world = make_world()
        self.reads, self.writes = (
            self.world.ledger.run(NODE, "lease.acquire", acquire_body(EXECUTOR, action, RESOURCE))
            .outcome.thing
            for action in ("accounts.read", "accounts.write")
        )  # fmt: skip
        self.hub = WatchHub(
            self.world.checker, lambda: Source(self.world), self.world.clock, Metrics()
        )

    def must(self, issuer: str, kind: str, body: dict[str, object]) -> int:
        """The index of an entry that was accepted."""
        outcome = self.world.ledger.run(issuer, kind, body).outcome
        assert outcome.accepted, outcome
        return outcome.index

    def turn(self, by: str, act: str, *actions: str) -> int:
        body: dict[str, object] = {"actions": list(actions)} if act == "freeze" else {}
        if by == "domain":
            return self.must(BANK, f"resources.{act}", body)
        opened = self.must(BANK, "proposal.open", proposal_body(f"federation.{act}", body))
        proposal = [each.id for each in self.world.ledger.view.proposals() if each.status == "open"]
        assert opened
        return self.must(CLINIC, "ballot.cast", ballot_body(proposal[0]))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.hub.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def followed(self) -> None:
        size = len(self.world.ledger.entries)
        self.hub.moved()
        await self.hub.followed(size - 1, 5.0)
        await asyncio.sleep(0.1)

    async def told(self, watcher: Watcher) -> dict[str, Told]:
        await self.followed()
        notices: dict[str, Told] = {self.reads: [], self.writes: []}
        while watcher._queue:
            notice = await watcher.next()
            reason = notice.denial.reason if notice.denial else None
            thing = notice.denial.thing if notice.denial else ""
            notices[notice.lease_id].append((notice.event, reason, thing, notice.at.ledger_size))
        return notices

    def permitted(self, lease: str) -> Holder:
        """A permit for this lease has left this edge."""
        checked = self.world.checker.check(CheckQuery(lease, EXECUTOR))
        assert isinstance(checked.decision, Permit)
        holder, now_ns = Holder(lease, EXECUTOR, SESSION), self.world.clock.boottime_ns()
        self.hub.ledger.permitted(
            holder, checked.things, checked.at.ledger_size, checked.ttl_ms, now_ns
        )
        return holder


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize("by", BY)
async def test_who_is_frozen_is_told_and_who_is_listed_is_not(bench: Bench, by: str) -> None:
    thing = BANK if by == "domain" else ORIGIN
    async with bench.hub.watch(EXECUTOR, (bench.reads, bench.writes)) as watcher, bench.running():
        await bench.told(watcher)
        frozen = bench.turn(by, "freeze", "accounts.read")
        thawed = bench.turn(by, "thaw")
        assert await bench.told(watcher) == {
            bench.reads: [],
            bench.writes: [
                (Event.INTERRUPTED, Reason.FROZEN, thing, frozen + 1),
                (Event.RESTORED, None, "", thawed + 1),
            ],
        }


async def test_what_two_have_frozen_both_must_thaw(bench: Bench) -> None:
    async with bench.hub.watch(EXECUTOR, (bench.writes,)) as watcher, bench.running():
        await bench.told(watcher)
        frozen = bench.turn("domain", "freeze")
        bench.turn("federation", "freeze", "accounts.read")
        bench.turn("domain", "thaw")
        interrupted = (Event.INTERRUPTED, Reason.FROZEN, BANK, frozen + 1)
        told = (await bench.told(watcher))[bench.writes]
        assert told[0] == interrupted
        assert Event.RESTORED not in {event for event, *_ in told}
        thawed = bench.turn("federation", "thaw")
        assert (await bench.told(watcher))[bench.writes] == [(Event.RESTORED, None, "", thawed + 1)]


async def test_a_thaw_of_what_did_not_stop_it_makes_nothing_good(bench: Bench) -> None:
    """The executor is suspended when its listed lease could seem to be thawed."""
    async with bench.hub.watch(EXECUTOR, (bench.reads,)) as watcher, bench.running():
        await bench.told(watcher)
        bench.turn("domain", "freeze", "accounts.read")
        suspended = bench.must(BANK, "executor.suspend", {"executor": EXECUTOR})
        bench.turn("domain", "thaw")
        assert (await bench.told(watcher))[bench.reads] == [
            (Event.INTERRUPTED, Reason.EXECUTOR_SUSPENDED, EXECUTOR, suspended + 1)
        ]


@pytest.mark.parametrize("by", BY)
async def test_a_watch_that_is_taken_up_again_is_told_the_same(bench: Bench, by: str) -> None:
    """Also from behind the freeze on, when only the thaw is heard of."""
    thing = BANK if by == "domain" else ORIGIN
    before = len(bench.world.ledger.entries)
    frozen = bench.turn(by, "freeze", "accounts.read")
    thawed = bench.turn(by, "thaw")
    end = len(bench.world.ledger.entries)
    leases = (bench.reads, bench.writes)
    async with bench.running():
        await bench.followed()
        async with bench.hub.watch(EXECUTOR, leases, after_size=before) as watcher:
            assert await bench.told(watcher) == {
                bench.reads: [(Event.ACTIVE, None, "", end)],
                bench.writes: [
                    (Event.INTERRUPTED, Reason.FROZEN, thing, frozen + 1),
                    (Event.RESTORED, None, "", thawed + 1),
                    (Event.ACTIVE, None, "", end),
                ],
            }
        async with bench.hub.watch(EXECUTOR, leases, after_size=frozen + 1) as watcher:
            assert await bench.told(watcher) == {
                bench.reads: [(Event.ACTIVE, None, "", end)],
                bench.writes: [
                    (Event.RESTORED, None, "", thawed + 1),
                    (Event.ACTIVE, None, "", end),
                ],
            }


async def test_a_freeze_says_that_nothing_was_frozen_before(bench: Bench) -> None:
    """So that a watch can be taken up again before it, whatever was good again meanwhile."""
    bench.must(BANK, "executor.suspend", {"executor": EXECUTOR})
    size = len(bench.world.ledger.entries)
    reinstated = bench.must(BANK, "executor.reinstate", {"executor": EXECUTOR})
    frozen = bench.turn("domain", "freeze")
    async with bench.running():
        await bench.followed()
        async with bench.hub.watch(EXECUTOR, (bench.writes,), after_size=size) as watcher:
            assert (await bench.told(watcher))[bench.writes][:2] == [
                (Event.RESTORED, None, "", reinstated + 1),
                (Event.INTERRUPTED, Reason.FROZEN, BANK, frozen + 1),
            ]


@pytest.mark.parametrize("by", BY)
async def test_permits_of_what_is_frozen_are_waited_for(bench: Bench, by: str) -> None:
    """Those that are listed are not told, so that their lives are waited for."""
    world = bench.world
    async with bench.running():
        await bench.followed()
        world.clock.advance(2 * PERIOD_NS)
        world.grant()
        await bench.followed()
        before = bench.hub._drained
        held = [bench.permitted(lease) for lease in (bench.reads, bench.writes)]
        leases = (bench.reads, bench.writes)
        async with bench.hub.watch(EXECUTOR, leases, session=SESSION) as watcher:
            index = bench.turn(by, "freeze", "accounts.read")
            world.applied_index = before + 1
            await bench.told(watcher)
            bench.hub.acknowledge(watcher, held[1].lease_id, index + 1)
            await asyncio.sleep(0.1)
            assert bench.hub._drained == before, "a permit for the other lease is in use"
            world.clock.advance(1_100 * MS)
            async with asyncio.timeout(5):
                assert await bench.hub.drained_beyond(before) == before + 1
