"""In what order watchers are told, and from where a watch that broke goes on: nothing is lost, and
no lease hears of what was before it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.api.test_watch_hub import MISSING, OTHER, Bench, all_told, told

from quorate.api import tracking
from quorate.api import watch as watch_module
from quorate.api.errors import NotReadyError, OutOfRangeError
from quorate.api.notices import Event
from quorate.core import ids
from quorate.core.outcome import Deny, Reason
from quorate.core.state import StateView
from quorate.lease import following
from quorate.lease.check import CheckQuery
from quorate.lease.outstanding import Holder
from quorate.lease.word import AuthorityRecord
from quorate.testing.builders import acquire_body
from quorate.testing.checks import ACTION, EXECUTOR, RESOURCE, make_world, nothing

NODE = "spiffe://bank.example/node/1"
SUSPENDED = Reason.EXECUTOR_SUSPENDED


@pytest.fixture
def bench() -> Bench:
    return Bench(make_world())


def size(bench: Bench) -> int:
    return len(bench.world.ledger.entries)


def flap(bench: Bench) -> None:
    """The executor is suspended and reinstated, and nobody has told the hub."""
    for act in ("suspend", "reinstate"):
        bench.world.govern_executor(act)


def acquire(bench: Bench, nonce: str = "") -> str:
    body = acquire_body(EXECUTOR, ACTION, RESOURCE, 60_000)
    acquired = bench.world.ledger.run(NODE, "lease.acquire", body, *([nonce] if nonce else []))
    assert acquired.outcome.accepted, acquired.outcome
    return str(acquired.outcome.result["lease"])


# -- what nobody has read --------------------------------------------------------------------------


async def test_who_watches_over_entries_that_nobody_has_read_is_cut_off(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interruption, undone, may be among them; and whoever went on from what it heard after
    them would never hear of it."""
    lease = (bench.world.lease_id,)
    async with bench.running():
        async with bench.hub.watch(EXECUTOR, lease) as watcher:
            await told(watcher)
            bench.world.govern_executor("suspend")
            bench.hub.moved()
            await asyncio.sleep(0.1)
            at = size(bench)
            monkeypatch.setattr(following, "MAX_BEHIND", 1)
            monkeypatch.setattr(tracking, "MAX_BEHIND", 1)
            bench.world.govern_executor("reinstate")
            flap(bench)
            bench.hub.moved()
            # What was told before them is still heard, and nothing of what came after.
            assert await told(watcher) == (Event.INTERRUPTED, SUSPENDED)
            with pytest.raises(OutOfRangeError, match="begin with 0"):
                await told(watcher)
        with pytest.raises(OutOfRangeError, match="begin with 0"):
            async with bench.hub.watch(EXECUTOR, lease, after_size=at):
                pass
        async with bench.hub.watch(EXECUTOR, lease) as watcher:
            assert await told(watcher) == (Event.ACTIVE, None)
            flap(bench)
            bench.world.govern_executor("suspend")
            await bench.hub.add(watcher, (MISSING,))  # this alone goes over them
            with pytest.raises(OutOfRangeError, match="begin with 0"):
                await told(watcher)


async def test_where_an_edge_begins_there_is_nothing_that_it_has_missed(bench: Bench) -> None:
    """Before it has a store it denies everything, and nobody was told otherwise."""
    is_there, source = False, bench.hub._track._source
    bench.hub._track._source = lambda: source() if is_there else None
    async with bench.running(), bench.hub.watch(EXECUTOR, (bench.world.lease_id,)) as watcher:
        await told(watcher)
        flap(bench)
        is_there = True
        bench.world.govern_executor("suspend")
        bench.hub.moved()
        assert await told(watcher) == (Event.INTERRUPTED, SUSPENDED)


async def test_who_watches_over_entries_that_could_not_be_told_goes_on_from_before_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault ends only the call in which it comes up; but the place is past them."""
    lease = (bench.world.lease_id,)
    async with bench.running():
        async with bench.hub.watch(EXECUTOR, lease) as watcher:
            ((_, _, before),) = await all_told(watcher)
            flap(bench)
            with monkeypatch.context() as failing, pytest.raises(ZeroDivisionError):
                failing.setattr(bench.hub._leases, "take", lambda *_: 1 / 0)
                await bench.hub.watch(EXECUTOR, lease).__aenter__()
            bench.hub.moved()
            with pytest.raises(NotReadyError):
                await told(watcher)
        async with bench.hub.watch(EXECUTOR, lease, after_size=before) as watcher:
            assert await all_told(watcher) == [
                (Event.INTERRUPTED, SUSPENDED, before + 1),
                (Event.RESTORED, None, before + 2),
                (Event.ACTIVE, None, before + 2),
            ]


@pytest.mark.parametrize("was_suspended", [True, False])
async def test_whether_a_lease_was_good_in_between_is_told_or_said_to_be_unknown(
    bench: Bench, was_suspended: bool
) -> None:
    """Something else that it relies on had been stopped before, and is stopped for good after."""
    run, lease = bench.world.ledger.run, (bench.world.lease_id,)
    run("bank.example", "grant.suspend", {"grant": "g"})
    if was_suspended:
        bench.world.govern_executor("suspend")
    before = size(bench)
    run("bank.example", "grant.reinstate", {"grant": "g"})
    bench.world.govern_executor("revoke")
    async with bench.running():
        with pytest.raises(OutOfRangeError, match="cannot be told any more"):
            async with bench.hub.watch(EXECUTOR, lease, after_size=before):
                pass
        async with bench.hub.watch(EXECUTOR, lease, after_size=before + 1) as watcher:
            assert await all_told(watcher) == [
                (Event.INTERRUPTED, Reason.EXECUTOR_REVOKED, before + 2),
                (Event.INTERRUPTED, Reason.EXECUTOR_REVOKED, before + 2),
            ]


# -- what a notice is true of ---------------------------------------------------------------------


async def test_a_watch_goes_on_from_lost_authority(bench: Bench) -> None:
    """That notice is made without a look at the ledger, and says all the same how far the watcher
    was told of it."""
    before, lease = size(bench), (bench.world.lease_id,)
    async with bench.running():
        async with bench.hub.watch(EXECUTOR, lease) as watcher:
            await told(watcher)
            bench.world.record = None
            ((event, _, last),) = await all_told(watcher)
            assert (event, last) == (Event.AUTHORITY_LOST, before)
        flap(bench)
        bench.world.grant()
        bench.hub.moved()
        async with bench.hub.watch(EXECUTOR, lease, after_size=last) as watcher:
            assert await all_told(watcher) == [
                (Event.INTERRUPTED, SUSPENDED, before + 1),
                (Event.RESTORED, None, before + 2),
                (Event.ACTIVE, None, before + 2),
            ]


async def test_a_first_report_without_authority_says_how_far_the_ledger_is(bench: Bench) -> None:
    bench.world.record = None
    async with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)) as watcher:
        assert await all_told(watcher) == [(Event.INTERRUPTED, Reason.INQUORATE, size(bench))]


async def test_what_the_ledger_does_is_told_without_authority_too(bench: Bench) -> None:
    """Entry by entry, as with it: else who breaks off and goes on would hear more than who stays.
    And good by the ledger is not permitted by the node."""
    before = size(bench)
    async with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)) as watcher, bench.running():
        await all_told(watcher)
        bench.world.record = None
        assert [event for event, _, _ in await all_told(watcher)] == [Event.AUTHORITY_LOST]
        flap(bench)
        bench.hub.moved()
        assert await all_told(watcher) == [
            (Event.INTERRUPTED, SUSPENDED, before + 1),
            (Event.RESTORED, None, before + 2),
            (Event.AUTHORITY_LOST, Reason.INQUORATE, before + 2),
        ]
        bench.world.grant()
        assert await all_told(watcher) == [(Event.RESTORED, None, before + 2)]


# -- a hub that lags ------------------------------------------------------------------------------


async def test_a_watch_opened_while_the_hub_lags_hears_nothing_older_afterwards(
    bench: Bench,
) -> None:
    before, lease = size(bench), (bench.world.lease_id,)
    async with bench.running():
        await asyncio.sleep(0.1)
        flap(bench)
        async with bench.hub.watch(EXECUTOR, lease) as watcher:
            assert await all_told(watcher) == [(Event.ACTIVE, None, before + 2)]
            bench.hub.moved()
            assert await all_told(watcher) == []


async def test_who_watches_already_loses_nothing_to_one_who_joins_while_the_hub_lags(
    bench: Bench,
) -> None:
    before, lease = size(bench), (bench.world.lease_id,)
    async with bench.hub.watch(EXECUTOR, lease) as first, bench.running():
        await all_told(first)
        flap(bench)
        async with bench.hub.watch(EXECUTOR, lease) as second:
            bench.hub.moved()
            assert await all_told(first) == [
                (Event.INTERRUPTED, SUSPENDED, before + 1),
                (Event.RESTORED, None, before + 2),
            ]
            assert await all_told(second) == [(Event.ACTIVE, None, before + 2)]


async def test_what_an_evaluation_finds_comes_after_what_led_to_it(bench: Bench) -> None:
    """Authority comes back with a state that is newer than the hub has followed."""
    before = size(bench)
    async with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)) as watcher, bench.running():
        await told(watcher)
        bench.world.record = None
        await all_told(watcher)
        flap(bench)
        bench.world.grant()
        assert await all_told(watcher) == [
            (Event.INTERRUPTED, SUSPENDED, before + 1),
            (Event.RESTORED, None, before + 2),
        ]
        bench.hub.moved()
        assert await all_told(watcher) == []


async def test_a_watch_that_another_edge_told_of_more_goes_on(bench: Bench) -> None:
    """The size is of the node's ledger, and this edge has only not looked yet."""
    async with bench.running():
        await asyncio.sleep(0.1)
        flap(bench)
        now = size(bench)
        lease = (bench.world.lease_id,)
        async with bench.hub.watch(EXECUTOR, lease, after_size=now) as watcher:
            assert await all_told(watcher) == [(Event.ACTIVE, None, now)]


@pytest.mark.parametrize("looks", range(3))
async def test_what_is_committed_while_a_watch_begins_is_told_once(
    bench: Bench, looks: int
) -> None:
    """The core process commits between any two looks at its ledger."""
    before, left = size(bench), looks

    def commit() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            bench.world.before_open = nothing
            flap(bench)

    bench.world.before_open = commit
    lease = (bench.world.lease_id,)
    async with bench.hub.watch(EXECUTOR, lease, after_size=before) as watcher:
        assert await all_told(watcher) == [
            (Event.INTERRUPTED, SUSPENDED, before + 1),
            (Event.RESTORED, None, before + 2),
            (Event.ACTIVE, None, before + 2),
        ]


# -- a lease's own beginning ----------------------------------------------------------------------


async def test_a_lease_hears_nothing_that_is_older_than_itself(bench: Bench) -> None:
    before = size(bench)
    async with bench.running():
        await asyncio.sleep(0.1)
        flap(bench)
        lease = acquire(bench)
        for after_size in (0, before, before + 1):
            async with bench.hub.watch(EXECUTOR, (lease,), after_size=after_size) as watcher:
                assert await all_told(watcher) == [(Event.ACTIVE, None, before + 3)]
        bench.hub.moved()
        flap(bench)
        async with bench.hub.watch(EXECUTOR, (lease,), after_size=before) as watcher:
            assert await all_told(watcher) == [
                (Event.INTERRUPTED, SUSPENDED, before + 4),
                (Event.RESTORED, None, before + 5),
                (Event.ACTIVE, None, before + 5),
            ]


async def test_a_lease_that_comes_to_be_is_stopped_by_the_next_entry(bench: Bench) -> None:
    """Watched before it is there: what it relies on is known from the entry on that made it."""
    before, nonce = size(bench), "a" * 64
    origin = bench.world.ledger.view.federation().origin
    lease = ids.lease_id(origin, ids.command_id(NODE, nonce))
    async with bench.hub.watch(EXECUTOR, (lease,)) as watcher, bench.running():
        assert await told(watcher) == (Event.INTERRUPTED, Reason.UNKNOWN_LEASE)
        flap(bench)
        assert acquire(bench, nonce) == lease
        flap(bench)
        bench.hub.moved()
        assert await all_told(watcher) == [
            (Event.RESTORED, None, before + 3),
            (Event.INTERRUPTED, SUSPENDED, before + 4),
            (Event.RESTORED, None, before + 5),
        ]


async def test_a_lease_that_is_over_is_not_restored_by_the_ledger() -> None:
    bench = Bench(make_world(ttl_ms=1_000))
    before = size(bench)
    async with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)) as watcher, bench.running():
        await told(watcher)
        bench.world.clock.advance_ms(1_000)
        bench.world.ledger.now += 1_000
        assert await told(watcher) == (Event.INTERRUPTED, Reason.LEASE_EXPIRED)
        for _ in range(2):
            flap(bench)
        bench.hub.moved()
        assert Event.RESTORED not in {event for event, _, _ in await all_told(watcher)}
        lease = (bench.world.lease_id,)
        async with bench.hub.watch(EXECUTOR, lease, after_size=before) as again:
            assert Event.RESTORED not in {event for event, _, _ in await all_told(again)}


async def test_of_the_lease_of_another_nothing_is_told_but_that(bench: Bench) -> None:
    before = size(bench)
    body = {"lease": bench.world.lease_id, "executor": EXECUTOR}
    async with bench.hub.watch(OTHER, (bench.world.lease_id,)) as watcher, bench.running():
        assert await told(watcher) == (Event.INTERRUPTED, Reason.NOT_LEASE_HOLDER)
        assert bench.world.ledger.run(NODE, "lease.release", body).outcome.accepted
        bench.hub.moved()
        assert await all_told(watcher) == []
        async with bench.hub.watch(OTHER, (bench.world.lease_id,), after_size=before) as again:
            assert [reason for _, reason, _ in await all_told(again)] == [Reason.NOT_LEASE_HOLDER]


# -- going on -------------------------------------------------------------------------------------


async def test_what_is_stopped_all_along_is_not_told_as_good_in_between(bench: Bench) -> None:
    before = size(bench)
    grant = {"grant": "g"}
    bench.world.ledger.run("bank.example", "grant.suspend", grant)
    async with bench.running():
        flap(bench)
        bench.world.govern_executor("suspend")
        lease = (bench.world.lease_id,)
        async with bench.hub.watch(EXECUTOR, lease, after_size=before + 1) as watcher:
            assert [event for event, _, _ in await all_told(watcher)] == [Event.INTERRUPTED]


async def test_of_several_leases_all_is_told_in_the_order_of_the_ledger(bench: Bench) -> None:
    before, one = size(bench), bench.world.lease_id
    two = acquire(bench)
    async with bench.running():
        flap(bench)
        async with bench.hub.watch(EXECUTOR, (one, two), after_size=before + 1) as watcher:
            sizes = [at for _, _, at in await all_told(watcher)]
            assert sizes == [before + 2] * 2 + [before + 3] * 4


async def test_more_than_may_wait_unread_is_not_replayed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else who asks would be cut off, ask again, and be cut off for ever."""
    before, lease = size(bench), (bench.world.lease_id,)
    for _ in range(2):
        flap(bench)
    async with bench.running():
        monkeypatch.setattr(watch_module, "MAX_QUEUED_NOTICES", 4)
        with pytest.raises(OutOfRangeError, match="begin with 0"):
            async with bench.hub.watch(EXECUTOR, lease, after_size=before):
                pass
        assert not bench.hub._watchers
        monkeypatch.setattr(watch_module, "MAX_QUEUED_NOTICES", 5)
        async with bench.hub.watch(EXECUTOR, lease, after_size=before) as watcher:
            assert len(await all_told(watcher)) == 5


# -- why a node has no authority ------------------------------------------------------------------


@pytest.mark.parametrize("reason", list(Reason))
async def test_whatever_takes_authority_away_is_told_as_that_and_once(
    bench: Bench, reason: Reason
) -> None:
    async with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)) as watcher, bench.running():
        await told(watcher)
        bench.world.record = AuthorityRecord(bytes(16), 0, 0, 0, 0, 0, 0, 0, 0, reason)
        assert await told(watcher) == (Event.AUTHORITY_LOST, reason)
        bench.checker.evaluated.clear()
        assert await all_told(watcher) == []
        assert bench.checker.evaluated == [], "nothing is looked at again until something happens"
        bench.world.grant()
        assert await told(watcher) == (Event.RESTORED, None)


async def test_a_word_that_cannot_be_read_is_told_once(bench: Bench) -> None:
    def fails() -> None:
        raise OSError

    async with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)) as watcher, bench.running():
        await told(watcher)
        bench.world.word_read = fails  # type: ignore[method-assign]
        assert await told(watcher) == (Event.AUTHORITY_LOST, Reason.INTERNAL)
        bench.checker.evaluated.clear()
        assert await all_told(watcher) == []
        assert bench.checker.evaluated == []


async def test_a_fault_with_one_lease_is_no_want_of_authority(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = bench.checker._decide

    def fails(view: StateView, query: CheckQuery, latest_ms: int) -> Any:
        if query.lease_id == bench.world.lease_id:
            return Deny(Reason.INTERNAL), None
        return decide(view, query, latest_ms)

    monkeypatch.setattr(bench.checker, "_decide", fails)
    lease_ids = (bench.world.lease_id, MISSING)
    async with bench.hub.watch(EXECUTOR, lease_ids) as watcher, bench.running():
        await all_told(watcher)
        bench.checker.evaluated.clear()
        flap(bench)
        bench.hub.moved()
        assert await all_told(watcher) == []
        assert bench.checker.evaluated == [bench.world.lease_id], "once, because it was touched"


async def test_a_store_that_cannot_be_read_is_asked_again_until_it_can(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)) as watcher, bench.running():
        await told(watcher)
        bench.world.record = None
        await told(watcher)
        with monkeypatch.context() as failing:
            failing.setattr(bench.checker, "_source", lambda: 1 / 0)
            bench.world.grant()
            assert await told(watcher) == (Event.AUTHORITY_LOST, Reason.INTERNAL)
        assert await told(watcher) == (Event.RESTORED, None), "though nothing has happened"


# -- permits in use -------------------------------------------------------------------------------


async def test_what_is_over_is_counted_no_more_though_nothing_happens(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger is quiet, nobody watches, and nobody asks for another permit."""
    monkeypatch.setattr(watch_module, "FORGET_MS", 10)
    permits = bench.hub.ledger.permits
    async with bench.running():
        await asyncio.sleep(0.1)
        holder = Holder(bench.world.lease_id, EXECUTOR, "s" * 16)
        now_ns = bench.world.clock.boottime_ns()
        bench.hub.ledger.permitted(holder, (), bench.hub.ledger.size, 1_000, now_ns)
        await asyncio.sleep(0.1)
        assert permits.count == 1
        bench.world.clock.advance_ms(3_600_000)
        await asyncio.sleep(0.1)
        assert permits.count == 0
