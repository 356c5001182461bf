"""The hub of watchers, on clocks that stand still: who is told what, once, and when."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from quorate.api import tracking
from quorate.api import watch as watch_module
from quorate.api.courses import Watched
from quorate.api.errors import NotReadyError, OutOfRangeError, TooManyError
from quorate.api.notices import Event, Notice, Watcher
from quorate.api.watch import WatchHub
from quorate.core import ids
from quorate.core.limits import MAX_LEASES_PER_WATCH
from quorate.core.outcome import Deny, Permit, Reason
from quorate.core.state import StateView
from quorate.lease.check import NOWHERE, Checked, CheckQuery, LeaseChecker
from quorate.lease.outstanding import Holder
from quorate.telemetry import Metrics
from quorate.testing.builders import acquire_body
from quorate.testing.checks import (
    ACTION,
    BOOT,
    EXECUTOR,
    PERIOD_NS,
    RESOURCE,
    Source,
    Word,
    World,
    make_world,
)

MISSING = "0" * 32
OTHER = "spiffe://bank.example/agent/other"


class CountingChecker(LeaseChecker):
    """Counts evaluations of each lease."""

    def __init__(self, world: World) -> None:
        super().__init__(Word(world), lambda: Source(world), world.clock, BOOT)
        self.evaluated: list[str] = []
        self.calls = 0

    def check_all(self, queries: list[CheckQuery]) -> list[Checked]:  # type: ignore[override]
        self.calls += 1
        self.evaluated += [query.lease_id for query in queries]
        return super().check_all(queries)


class Bench:
    def __init__(self, world: World) -> None:
        self.world = world
        self.checker = CountingChecker(world)
        self.hub = WatchHub(self.checker, lambda: Source(world), world.clock, Metrics())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.hub.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])


@pytest.fixture
def bench() -> Bench:
    return Bench(make_world())


async def told(watcher: Watcher) -> tuple[Event, Reason | None]:
    async with asyncio.timeout(5):
        notice = await watcher.next()
    return notice.event, notice.denial.reason if notice.denial else None


async def nothing_told(watcher: Watcher, for_s: float = 0.1) -> bool:
    try:
        async with asyncio.timeout(for_s):
            await watcher.next()
    except TimeoutError:
        return True
    return False


async def test_first_reports_need_no_running_hub(bench: Bench) -> None:
    async with bench.hub.watch(EXECUTOR, (bench.world.lease_id, MISSING)) as watcher:
        assert await told(watcher) == (Event.ACTIVE, None)
        assert await told(watcher) == (Event.INTERRUPTED, Reason.UNKNOWN_LEASE)


async def test_without_authority_the_first_report_is_an_interruption(bench: Bench) -> None:
    bench.world.record = None
    async with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)) as watcher:
        assert await told(watcher) == (Event.INTERRUPTED, Reason.INQUORATE)
        async with bench.running():
            bench.world.grant()
            assert await told(watcher) == (Event.RESTORED, None)


async def test_movement_tells_what_changed_and_only_that(bench: Bench) -> None:
    async with bench.hub.watch(EXECUTOR, (bench.world.lease_id, MISSING)) as watcher:
        await told(watcher)
        await told(watcher)
        async with bench.running():
            bench.hub.moved()
            assert await nothing_told(watcher)
            bench.world.revoke_executor()
            bench.hub.moved()
            assert await told(watcher) == (Event.INTERRUPTED, Reason.EXECUTOR_REVOKED)
            assert await nothing_told(watcher)


async def test_one_evaluation_per_lease_and_movement(bench: Bench) -> None:
    """However many watch, and however many movements come at once."""
    async with AsyncExitStack() as stack:
        for _ in range(10):
            await stack.enter_async_context(
                bench.hub.watch(EXECUTOR, (bench.world.lease_id, MISSING))
            )
        async with bench.running():
            await asyncio.sleep(0.1)  # the first look
            bench.checker.evaluated.clear()
            bench.world.govern_executor("suspend")
            bench.world.govern_executor("reinstate")
            for _ in range(100):
                bench.hub.moved()
            await asyncio.sleep(0.1)
            assert bench.checker.evaluated == [bench.world.lease_id], "the other is not touched"


async def test_polling_evaluates_nothing_while_nothing_happens(bench: Bench) -> None:
    async with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)), bench.running():
        await asyncio.sleep(0.1)
        bench.checker.evaluated.clear()
        await asyncio.sleep(0.2)
        assert bench.checker.evaluated == []


async def test_the_deadline_alone_takes_authority_away(bench: Bench) -> None:
    async with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)) as watcher:
        await told(watcher)
        async with bench.running():
            bench.world.clock.advance(PERIOD_NS)
            assert await told(watcher) == (Event.AUTHORITY_LOST, Reason.INQUORATE)
            bench.world.grant()
            assert await told(watcher) == (Event.RESTORED, None)


async def test_authority_that_went_before_the_hub_ever_looked_is_told(bench: Bench) -> None:
    """The hub has seen nothing but the want of authority, and the watcher was told ACTIVE."""
    async with bench.hub.watch(EXECUTOR, (MISSING,)):
        bench.world.record = None
        async with bench.running():
            await asyncio.sleep(0.1)
            bench.world.grant()
            async with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)) as watcher:
                bench.world.record = None
                assert await told(watcher) == (Event.ACTIVE, None)
                assert await told(watcher) == (Event.AUTHORITY_LOST, Reason.INQUORATE)


async def test_a_renewed_word_is_no_news(bench: Bench) -> None:
    async with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)) as watcher:
        await told(watcher)
        async with bench.running():
            for _ in range(5):
                bench.world.clock.advance(PERIOD_NS // 5)
                bench.world.grant()
                assert await nothing_told(watcher, 0.05)


async def test_authority_lost_and_back_with_the_lease_gone_is_an_interruption(
    bench: Bench,
) -> None:
    async with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)) as watcher:
        await told(watcher)
        async with bench.running():
            bench.world.record = None
            assert await told(watcher) == (Event.AUTHORITY_LOST, Reason.INQUORATE)
            bench.world.revoke_executor()
            bench.hub.moved()
            assert await told(watcher) == (Event.INTERRUPTED, Reason.EXECUTOR_REVOKED)
            assert await nothing_told(watcher)
            bench.world.grant()
            assert await told(watcher) == (Event.INTERRUPTED, Reason.EXECUTOR_REVOKED)


async def test_expiry_needs_no_movement() -> None:
    bench = Bench(make_world(ttl_ms=1_000))
    async with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)) as watcher:
        await told(watcher)
        async with bench.running():
            bench.world.clock.advance_ms(900)
            assert await nothing_told(watcher)
            bench.world.clock.advance_ms(100)
            assert await told(watcher) == (Event.INTERRUPTED, Reason.LEASE_EXPIRED)
            assert await nothing_told(watcher)


async def test_a_renewed_lease_does_not_expire_at_its_old_time() -> None:
    bench = Bench(make_world(ttl_ms=1_000))
    world = bench.world
    async with bench.hub.watch(EXECUTOR, (world.lease_id,)) as watcher:
        await told(watcher)
        async with bench.running():
            renewed = world.ledger.run(
                "spiffe://bank.example/node/1",
                "lease.renew",
                {"lease": world.lease_id, "executor": EXECUTOR, "ttl_ms": 5_000},
            )
            assert renewed.outcome.accepted
            bench.hub.moved()
            await asyncio.sleep(0.05)
            world.clock.advance_ms(1_200)
            assert await nothing_told(watcher)


async def test_a_state_behind_the_word_is_asked_again_until_it_is_there(bench: Bench) -> None:
    bench.world.applied_index = 6
    async with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)) as watcher:
        assert await told(watcher) == (Event.INTERRUPTED, Reason.INQUORATE)
        async with bench.running():
            await asyncio.sleep(0.1)
            bench.world.applied_index = 7  # nobody says so
            assert await told(watcher) == (Event.RESTORED, None)


async def test_authority_lost_while_many_are_evaluated_is_told_to_all(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "LEASES_PER_TURN", 1)
    ids = tuple(f"{number:032x}" for number in range(20))
    async with bench.hub.watch(EXECUTOR, (bench.world.lease_id, *ids)) as watcher:
        for _ in range(21):
            await told(watcher)
        async with bench.running():
            await asyncio.sleep(0.1)
            bench.checker.calls = 0
            original = bench.checker.check_all

            def lapse(queries: list[CheckQuery]) -> list[Checked]:
                if bench.checker.calls == 5:
                    bench.world.clock.advance(PERIOD_NS)
                return original(queries)

            monkeypatch.setattr(bench.checker, "check_all", lapse)
            bench.hub._track.unread = dict.fromkeys(bench.hub._leases)  # so that all are looked at
            bench.hub.moved()
            notices = [await watcher.next() for _ in range(21)]
            assert {notice.event for notice in notices} == {Event.AUTHORITY_LOST}
            # All begin again at once: the first do not wait until the rest have been evaluated.
            assert bench.world.lease_id in {notice.lease_id for notice in notices[:2]}


async def test_what_many_rely_on_is_read_with_room_for_others_in_between(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "LEASES_PER_TURN", 5)
    ids = tuple(f"{number:032x}" for number in range(20))
    turns, read = 0, Counter[int]()
    async with bench.hub.watch(EXECUTOR, ids), bench.running():
        await asyncio.sleep(0.1)
        original = bench.hub._leases.read

        def count(watched: Watched, view: StateView | None) -> None:
            read[turns] += 1
            original(watched, view)

        monkeypatch.setattr(bench.hub._leases, "read", count)
        bench.hub._track.unread = dict.fromkeys(bench.hub._leases)  # so that all are read
        bench.hub.moved()
        async with asyncio.timeout(5):
            while read.total() < len(ids):
                turns += 1
                await asyncio.sleep(0)
    assert list(read.values()) == [5, 5, 5, 5], "somebody else had a turn between any two"


async def test_a_watcher_that_joins_tells_the_others_what_it_found(bench: Bench) -> None:
    async with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)) as first:
        await told(first)
        bench.world.revoke_executor()
        async with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)) as second:
            assert await told(first) == (Event.INTERRUPTED, Reason.EXECUTOR_REVOKED)
            assert await told(second) == (Event.INTERRUPTED, Reason.EXECUTOR_REVOKED)


async def test_each_executor_sees_its_own(bench: Bench) -> None:
    other = "spiffe://bank.example/agent/other"
    async with (
        bench.hub.watch(EXECUTOR, (bench.world.lease_id,)) as mine,
        bench.hub.watch(other, (bench.world.lease_id,)) as theirs,
    ):
        assert await told(mine) == (Event.ACTIVE, None)
        assert await told(theirs) == (Event.INTERRUPTED, Reason.NOT_LEASE_HOLDER)


# -- bounds -------------------------------------------------------------------------------------


def notice(number: int) -> Notice:
    return Notice(f"{number:032x}", Event.INTERRUPTED, Deny(Reason.INQUORATE), NOWHERE)


async def test_a_slow_watcher_is_cut_and_its_queue_given_up() -> None:
    watcher = Watcher(EXECUTOR, "", 3)
    for number in range(3):
        watcher.offer(notice(number))
    assert (await watcher.next()).lease_id == notice(0).lease_id
    watcher.offer(notice(3))
    for _ in range(2):
        watcher.offer(notice(4))
        with pytest.raises(TooManyError):
            await watcher.next()


async def test_what_was_queued_is_told_before_the_end() -> None:
    watcher = Watcher(EXECUTOR, "", 3)
    watcher.offer(notice(1))
    watcher.end(NotReadyError("the node is stopping"))
    watcher.offer(notice(2))
    assert await watcher.next() == notice(1)
    with pytest.raises(NotReadyError):
        await watcher.next()


async def test_watchers_are_bounded_and_leave_nothing_behind(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "MAX_WATCHERS", 3)
    monkeypatch.setattr(watch_module, "MAX_WATCHERS_PER_EXECUTOR", 2)
    other = "spiffe://bank.example/agent/other"
    async with AsyncExitStack() as stack:
        for executor in (EXECUTOR, EXECUTOR, other):
            await stack.enter_async_context(bench.hub.watch(executor, (bench.world.lease_id,)))
        with pytest.raises(TooManyError, match="no more watchers"):
            await stack.enter_async_context(bench.hub.watch(other, (MISSING,)))
        monkeypatch.setattr(watch_module, "MAX_WATCHERS", 9)
        with pytest.raises(TooManyError, match="more than 2"):
            await stack.enter_async_context(bench.hub.watch(EXECUTOR, (MISSING,)))
        await stack.enter_async_context(bench.hub.watch(other, (MISSING,)))
    held = vars(bench.hub) | vars(bench.hub._track) | vars(bench.hub._leases)
    kept = {name: value for name, value in held.items() if isinstance(value, dict | set)}
    assert len(kept) > 5
    assert not any(kept.values()), kept
    assert len(bench.hub._expiries) == 0


async def test_a_watch_that_fails_to_begin_leaves_nothing_behind(bench: Bench) -> None:
    def fails(queries: object) -> list[Checked]:
        raise MemoryError

    bench.checker.check_all = fails  # type: ignore[method-assign, assignment]
    with pytest.raises(MemoryError):
        async with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)):
            pass
    assert not bench.hub._watchers
    assert not bench.hub._calls


async def test_nobody_is_admitted_after_the_end(bench: Bench) -> None:
    async with bench.hub.watch(EXECUTOR, (MISSING,)) as watcher:
        await told(watcher)
        bench.hub.close()
        with pytest.raises(NotReadyError):
            await watcher.next()
    with pytest.raises(NotReadyError):
        async with bench.hub.watch(EXECUTOR, (MISSING,)):
            pass


async def test_a_storm_of_movements_leaves_room_for_others(bench: Bench) -> None:
    """Looking takes at most about half of the process, however often the ledger moves."""
    async with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)), bench.running():
        loop = asyncio.get_running_loop()
        slow = bench.checker.check_all

        def takes_time(queries: list[CheckQuery]) -> list[Checked]:
            end = loop.time() + 0.01
            while loop.time() < end:
                pass
            return slow(queries)

        bench.checker.check_all = takes_time  # type: ignore[method-assign, assignment]
        bench.checker.calls = 0
        until = loop.time() + 0.5
        while loop.time() < until or bench.checker.calls < 3:
            act = "reinstate" if len(bench.world.ledger.entries) % 2 else "suspend"
            bench.world.govern_executor(act)
            bench.hub.moved()
            await asyncio.sleep(0)
        assert bench.checker.calls <= 27


# -- entry by entry -------------------------------------------------------------------------------


async def all_told(watcher: Watcher) -> list[tuple[Event, Reason | None, int]]:
    """What is queued by now: event, reason, and the ledger's size that it is true of."""
    await asyncio.sleep(0.1)
    notices = []
    while watcher._queue:
        notice = await watcher.next()
        reason = notice.denial.reason if notice.denial else None
        notices.append((notice.event, reason, notice.at.ledger_size))
    return notices


async def test_what_was_stopped_and_let_go_on_between_two_looks_is_told(bench: Bench) -> None:
    size = len(bench.world.ledger.entries)
    async with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)) as watcher, bench.running():
        await all_told(watcher)
        for act in ("suspend", "reinstate", "suspend", "reinstate"):
            bench.world.govern_executor(act)
        bench.hub.moved()
        assert await all_told(watcher) == [
            (Event.INTERRUPTED, Reason.EXECUTOR_SUSPENDED, size + 1),
            (Event.RESTORED, None, size + 2),
            (Event.INTERRUPTED, Reason.EXECUTOR_SUSPENDED, size + 3),
            (Event.RESTORED, None, size + 4),
        ]


async def test_a_lease_with_two_things_stopped_is_good_when_both_go_on(bench: Bench) -> None:
    ledger = bench.world.ledger
    async with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)) as watcher, bench.running():
        await all_told(watcher)
        ledger.run("bank.example", "grant.suspend", {"grant": "g"})
        bench.world.govern_executor("suspend")
        ledger.run("bank.example", "grant.reinstate", {"grant": "g"})
        bench.hub.moved()
        told_first = await all_told(watcher)
        assert [event for event, _, _ in told_first] == [Event.INTERRUPTED] * 2
        assert told_first[-1][1] is Reason.EXECUTOR_SUSPENDED
        bench.world.govern_executor("reinstate")
        bench.hub.moved()
        assert [event for event, _, _ in await all_told(watcher)] == [Event.RESTORED]


async def test_a_watch_goes_on_where_another_ended(bench: Bench) -> None:
    """All that happened meanwhile, once, in order; then how the lease stands."""
    size = len(bench.world.ledger.entries)
    for act in ("suspend", "reinstate"):
        bench.world.govern_executor(act)
    async with bench.running():
        await asyncio.sleep(0.1)
        lease = (bench.world.lease_id,)
        async with bench.hub.watch(EXECUTOR, lease, after_size=size) as watcher:
            assert await all_told(watcher) == [
                (Event.INTERRUPTED, Reason.EXECUTOR_SUSPENDED, size + 1),
                (Event.RESTORED, None, size + 2),
                (Event.ACTIVE, None, size + 2),
            ]
        async with bench.hub.watch(EXECUTOR, lease, after_size=size + 1) as watcher:
            events = [event for event, _, _ in await all_told(watcher)]
            assert events == [Event.RESTORED, Event.ACTIVE]
        async with bench.hub.watch(EXECUTOR, lease, after_size=size + 2) as watcher:
            bench.world.govern_executor("suspend")
            bench.hub.moved()
            assert await all_told(watcher) == [
                (Event.ACTIVE, None, size + 2),
                (Event.INTERRUPTED, Reason.EXECUTOR_SUSPENDED, size + 3),
            ]


async def test_what_cannot_be_told_from_there_is_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(bench.world.ledger.entries)
    async with bench.running():
        await asyncio.sleep(0.1)
        with pytest.raises(OutOfRangeError, match="has followed"):
            async with bench.hub.watch(EXECUTOR, (MISSING,), after_size=size + 1):
                pass
        monkeypatch.setattr(tracking, "MAX_BEHIND", 1)
        with pytest.raises(OutOfRangeError, match="begin with 0"):
            async with bench.hub.watch(EXECUTOR, (MISSING,), after_size=size - 2):
                pass
    assert not bench.hub._watchers


async def test_leases_come_and_go_within_a_watch(bench: Bench) -> None:
    async with bench.hub.watch(EXECUTOR, (MISSING,)) as watcher, bench.running():
        await all_told(watcher)
        await bench.hub.add(watcher, (bench.world.lease_id,))
        assert await told(watcher) == (Event.ACTIVE, None)
        bench.hub.forget(watcher, (bench.world.lease_id,))
        bench.world.revoke_executor()
        bench.hub.moved()
        assert await nothing_told(watcher)
        many = [f"{number:032x}" for number in range(1, MAX_LEASES_PER_WATCH + 1)]
        with pytest.raises(TooManyError, match="leases in one Watch call"):
            await bench.hub.add(watcher, many)


async def test_a_lease_that_comes_to_be_is_told(bench: Bench) -> None:
    """A node that lags does not know it yet."""
    world = bench.world
    async with bench.running():
        issuer, nonce = "spiffe://bank.example/node/1", "a" * 64
        origin = world.ledger.view.federation().origin
        lease = ids.lease_id(origin, ids.command_id(issuer, nonce))
        async with bench.hub.watch(EXECUTOR, (lease,)) as watcher:
            assert await told(watcher) == (Event.INTERRUPTED, Reason.UNKNOWN_LEASE)
            body = acquire_body(EXECUTOR, ACTION, RESOURCE, 9_000)
            assert world.ledger.run(issuer, "lease.acquire", body, nonce).outcome.accepted
            bench.hub.moved()
            assert await told(watcher) == (Event.RESTORED, None)
            world.revoke_executor()
            bench.hub.moved()
            assert await told(watcher) == (Event.INTERRUPTED, Reason.EXECUTOR_REVOKED)


async def test_drained_grows_with_the_ledger_when_nobody_holds_a_permit(bench: Bench) -> None:
    async with bench.running():
        await asyncio.sleep(0.1)
        assert bench.hub._drained == 0, "the edge before may have given permits"
        bench.world.clock.advance(2 * PERIOD_NS)
        bench.world.applied_index = 9
        bench.hub.moved()
        async with asyncio.timeout(5):
            assert await bench.hub.drained_beyond(0) == 9


async def test_an_acknowledgement_drains_at_once(bench: Bench) -> None:
    world = bench.world
    async with bench.running():
        await asyncio.sleep(0.1)
        world.clock.advance(2 * PERIOD_NS)
        world.grant()
        bench.hub.moved()
        await asyncio.sleep(0.1)
        assert bench.hub._drained == 7
        holder = Holder(world.lease_id, EXECUTOR, "s" * 16)
        checked = world.checker.check(CheckQuery(world.lease_id, EXECUTOR))
        assert isinstance(checked.decision, Permit)
        bench.hub.ledger.permitted(
            holder,
            checked.decision.depends_on,
            checked.at.ledger_size,
            checked.ttl_ms,
            world.clock.boottime_ns(),
        )
        async with (
            bench.hub.watch(EXECUTOR, (world.lease_id,), session=holder.session) as watcher,
            bench.hub.watch(EXECUTOR, (world.lease_id,), session="t" * 16) as another,
        ):
            world.revoke_executor()
            world.applied_index = 8
            bench.hub.moved()
            (_, (_, _, size)) = await all_told(watcher)
            bench.hub.acknowledge(another, world.lease_id, size)
            bench.hub.acknowledge(watcher, world.lease_id, size - 1)
            await asyncio.sleep(0.1)
            assert bench.hub._drained == 7, "neither speaks for this permit"
            bench.hub.acknowledge(watcher, world.lease_id, size)
            async with asyncio.timeout(5):
                assert await bench.hub.drained_beyond(7) == 8


async def test_nobody_speaks_for_permits_that_are_still_to_come(bench: Bench) -> None:
    """Who names a ledger that is not there yet would never hold anything up again."""
    world = bench.world
    holder = Holder(world.lease_id, EXECUTOR, "s" * 16)
    async with bench.running():
        await asyncio.sleep(0.1)
        world.clock.advance(2 * PERIOD_NS)
        world.grant()
        bench.hub.moved()
        await asyncio.sleep(0.1)

        def permit() -> None:
            size, now_ns = bench.hub.ledger.size, world.clock.boottime_ns()
            things = (f"executor:{EXECUTOR}",)
            bench.hub.ledger.permitted(holder, things, size, 1_000, now_ns)

        lease = (world.lease_id,)
        async with bench.hub.watch(EXECUTOR, lease, session=holder.session) as watcher:
            permit()
            bench.hub.acknowledge(watcher, world.lease_id, 2**63)
            permit()
            world.revoke_executor()
            world.applied_index = 8
            bench.hub.moved()
            await all_told(watcher)
            assert bench.hub._drained == 7
