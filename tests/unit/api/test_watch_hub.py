"""The hub of watchers, on clocks that stand still: who is told what, once, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import pytest

from quorate.api import watch as watch_module
from quorate.api.errors import NotReadyError, TooManyError
from quorate.api.watch import Event, Notice, Watcher, WatchHub
from quorate.core.outcome import Reason
from quorate.lease.check import NOWHERE, Checked, CheckQuery, LeaseChecker
from quorate.telemetry import Metrics
from quorate.testing.checks import (
    BOOT,
    EXECUTOR,
    PERIOD_NS,
    Source,
    Word,
    World,
    make_world,
)

MISSING = "0" * 32


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
        self.hub = WatchHub(self.checker, world.clock, Metrics())

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
    return notice.event, notice.reason


async def nothing_told(watcher: Watcher, for_s: float = 0.1) -> bool:
    try:
        async with asyncio.timeout(for_s):
            await watcher.next()
    except TimeoutError:
        return True
    return False


async def test_first_reports_need_no_running_hub(bench: Bench) -> None:
    with bench.hub.watch(EXECUTOR, (bench.world.lease_id, MISSING)) as watcher:
        assert await told(watcher) == (Event.ACTIVE, None)
        assert await told(watcher) == (Event.INTERRUPTED, Reason.UNKNOWN_LEASE)


async def test_without_authority_the_first_report_is_an_interruption(bench: Bench) -> None:
    bench.world.record = None
    with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)) as watcher:
        assert await told(watcher) == (Event.INTERRUPTED, Reason.INQUORATE)
        async with bench.running():
            bench.world.grant()
            assert await told(watcher) == (Event.RESTORED, None)


async def test_movement_tells_what_changed_and_only_that(bench: Bench) -> None:
    with bench.hub.watch(EXECUTOR, (bench.world.lease_id, MISSING)) as watcher:
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
    with ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(bench.hub.watch(EXECUTOR, (bench.world.lease_id, MISSING)))
        async with bench.running():
            await asyncio.sleep(0.1)  # the first look
            bench.checker.evaluated.clear()
            for _ in range(100):
                bench.hub.moved()
            await asyncio.sleep(0.1)
            assert sorted(bench.checker.evaluated) == sorted([bench.world.lease_id, MISSING])


async def test_polling_evaluates_nothing_while_nothing_happens(bench: Bench) -> None:
    with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)):
        async with bench.running():
            await asyncio.sleep(0.1)
            bench.checker.evaluated.clear()
            await asyncio.sleep(0.2)
            assert bench.checker.evaluated == []


async def test_the_deadline_alone_takes_authority_away(bench: Bench) -> None:
    with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)) as watcher:
        await told(watcher)
        async with bench.running():
            bench.world.clock.advance(PERIOD_NS)
            assert await told(watcher) == (Event.AUTHORITY_LOST, Reason.INQUORATE)
            bench.world.grant()
            assert await told(watcher) == (Event.RESTORED, None)


async def test_authority_that_went_before_the_hub_ever_looked_is_told(bench: Bench) -> None:
    """The hub has seen nothing but the want of authority, and the watcher was told ACTIVE."""
    with bench.hub.watch(EXECUTOR, (MISSING,)):
        bench.world.record = None
        async with bench.running():
            await asyncio.sleep(0.1)
            bench.world.grant()
            with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)) as watcher:
                bench.world.record = None
                assert await told(watcher) == (Event.ACTIVE, None)
                assert await told(watcher) == (Event.AUTHORITY_LOST, Reason.INQUORATE)


async def test_a_renewed_word_is_no_news(bench: Bench) -> None:
    with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)) as watcher:
        await told(watcher)
        async with bench.running():
            for _ in range(5):
                bench.world.clock.advance(PERIOD_NS // 5)
                bench.world.grant()
                assert await nothing_told(watcher, 0.05)


async def test_authority_lost_and_back_with_the_lease_gone_is_an_interruption(
    bench: Bench,
) -> None:
    with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)) as watcher:
        await told(watcher)
        async with bench.running():
            bench.world.record = None
            assert await told(watcher) == (Event.AUTHORITY_LOST, Reason.INQUORATE)
            bench.world.revoke_executor()
            bench.hub.moved()
            assert await nothing_told(watcher)
            bench.world.grant()
            assert await told(watcher) == (Event.INTERRUPTED, Reason.EXECUTOR_REVOKED)


async def test_expiry_needs_no_movement() -> None:
    bench = Bench(make_world(ttl_ms=1_000))
    with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)) as watcher:
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
    with bench.hub.watch(EXECUTOR, (world.lease_id,)) as watcher:
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
    with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)) as watcher:
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
    with bench.hub.watch(EXECUTOR, (bench.world.lease_id, *ids)) as watcher:
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
            bench.hub.moved()
            notices = [await watcher.next() for _ in range(21)]
            assert {notice.event for notice in notices} == {Event.AUTHORITY_LOST}
            # All begin again at once: the first do not wait until the rest have been evaluated.
            assert bench.world.lease_id in {notice.lease_id for notice in notices[:2]}


async def test_a_watcher_that_joins_tells_the_others_what_it_found(bench: Bench) -> None:
    with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)) as first:
        await told(first)
        bench.world.revoke_executor()
        with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)) as second:
            assert await told(first) == (Event.INTERRUPTED, Reason.EXECUTOR_REVOKED)
            assert await told(second) == (Event.INTERRUPTED, Reason.EXECUTOR_REVOKED)


async def test_each_executor_sees_its_own(bench: Bench) -> None:
    other = "spiffe://bank.example/agent/other"
    with (
        bench.hub.watch(EXECUTOR, (bench.world.lease_id,)) as mine,
        bench.hub.watch(other, (bench.world.lease_id,)) as theirs,
    ):
        assert await told(mine) == (Event.ACTIVE, None)
        assert await told(theirs) == (Event.INTERRUPTED, Reason.NOT_LEASE_HOLDER)


# -- bounds -------------------------------------------------------------------------------------


def notice(number: int) -> Notice:
    return Notice(f"{number:032x}", Event.INTERRUPTED, Reason.INQUORATE, "", NOWHERE)


async def test_a_slow_watcher_is_cut_and_its_queue_given_up() -> None:
    watcher = Watcher(3)
    for number in range(3):
        watcher.offer(notice(number))
    assert (await watcher.next()).lease_id == notice(0).lease_id
    watcher.offer(notice(3))
    for _ in range(2):
        watcher.offer(notice(4))
        with pytest.raises(TooManyError):
            await watcher.next()


async def test_what_was_queued_is_told_before_the_end() -> None:
    watcher = Watcher(3)
    watcher.offer(notice(1))
    watcher.close()
    assert await watcher.next() == notice(1)
    with pytest.raises(NotReadyError):
        await watcher.next()


async def test_watchers_are_bounded_and_leave_nothing_behind(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "MAX_WATCHERS", 3)
    monkeypatch.setattr(watch_module, "MAX_WATCHERS_PER_EXECUTOR", 2)
    other = "spiffe://bank.example/agent/other"
    with ExitStack() as stack:
        for executor in (EXECUTOR, EXECUTOR, other):
            stack.enter_context(bench.hub.watch(executor, (bench.world.lease_id,)))
        with pytest.raises(TooManyError, match="no more watchers"):
            stack.enter_context(bench.hub.watch(other, (MISSING,)))
        monkeypatch.setattr(watch_module, "MAX_WATCHERS", 9)
        with pytest.raises(TooManyError, match="more than 2"):
            stack.enter_context(bench.hub.watch(EXECUTOR, (MISSING,)))
        stack.enter_context(bench.hub.watch(other, (MISSING,)))
    kept = {name: value for name, value in vars(bench.hub).items() if isinstance(value, dict | set)}
    assert kept
    assert not any(kept.values()), kept
    assert len(bench.hub._expiries) == 0


async def test_a_watch_that_fails_to_begin_leaves_nothing_behind(bench: Bench) -> None:
    def fails(queries: object) -> list[Checked]:
        raise MemoryError

    bench.checker.check_all = fails  # type: ignore[method-assign, assignment]
    with (
        pytest.raises(MemoryError),
        bench.hub.watch(EXECUTOR, (bench.world.lease_id,)),
    ):
        pass
    assert not bench.hub._watchers
    assert not bench.hub._calls


async def test_nobody_is_admitted_after_the_end(bench: Bench) -> None:
    with bench.hub.watch(EXECUTOR, (MISSING,)) as watcher:
        await told(watcher)
        bench.hub.close()
        with pytest.raises(NotReadyError):
            await watcher.next()
    with pytest.raises(NotReadyError), bench.hub.watch(EXECUTOR, (MISSING,)):
        pass


async def test_a_storm_of_movements_leaves_room_for_others(bench: Bench) -> None:
    """Looking takes at most about half of the process, however often the ledger moves."""
    with bench.hub.watch(EXECUTOR, (bench.world.lease_id,)):
        async with bench.running():
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
            while loop.time() < until:
                bench.hub.moved()
                await asyncio.sleep(0)
            assert 3 <= bench.checker.calls <= 27
