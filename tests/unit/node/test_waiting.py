"""Who waits for what: every waiter is told once, or let go, and nothing is left behind."""

from __future__ import annotations

import asyncio

import pytest

from quorate.core.outcome import Outcome
from quorate.node.waiting import Bell, OutcomeWaiters, WatermarkWaiters

OUTCOME = Outcome(accepted=True, reason=None, thing="", index=4, command_id="ab")


async def test_all_who_wait_for_an_envelope_get_its_outcome():
    waiters = OutcomeWaiters()
    first, second, other = waiters.add(b"k"), waiters.add(b"k"), waiters.add(b"other")
    waiters.executed(b"k", OUTCOME)
    assert (await first, await second) == (OUTCOME, OUTCOME)
    assert not other.done()
    waiters.executed(b"k", OUTCOME)  # executed again, as a repeat: nobody waits any more


async def test_whoever_goes_learns_whether_others_still_wait():
    waiters = OutcomeWaiters()
    first, second = waiters.add(b"k"), waiters.add(b"k")
    assert not waiters.remove(b"k", first)
    assert waiters.remove(b"k", second)
    assert waiters.remove(b"k", second), "gone already"


async def test_a_waiter_that_was_cancelled_spoils_nothing():
    waiters = OutcomeWaiters()
    gone, stays = waiters.add(b"k"), waiters.add(b"k")
    gone.cancel()
    waiters.executed(b"k", OUTCOME)
    assert await stays == OUTCOME
    gone = waiters.add(b"k")
    gone.cancel()
    waiters.release_all()


async def test_all_are_let_go_without_an_outcome():
    waiters = OutcomeWaiters()
    futures = [waiters.add(b"k"), waiters.add(b"l")]
    waiters.release_all()
    assert [await future for future in futures] == [None, None]
    assert waiters.remove(b"k", futures[0])


async def test_a_watermark_wakes_those_up_to_it():
    waiters = WatermarkWaiters()
    futures = {index: waiters.add(index) for index in (7, 5, 9, 5 + 1)}
    waiters.reached(6)
    assert [index for index, future in futures.items() if future.done()] == [5, 6]
    waiters.reached(6)
    waiters.reached(9)
    assert all(future.done() for future in futures.values())


async def test_waiters_for_the_same_index_are_all_woken():
    waiters = WatermarkWaiters()
    futures = [waiters.add(5) for _ in range(3)]
    futures[1].cancel()
    waiters.reached(5)
    assert [future.done() for future in futures] == [True] * 3
    assert futures[0].result() is True


async def test_whoever_waits_for_what_will_not_come_is_told():
    waiters = WatermarkWaiters()
    gone, stays = waiters.add(3), waiters.add(4)
    gone.cancel()
    waiters.release_all()
    assert await stays is False
    assert len(waiters) == 0
    later = waiters.add(5)
    waiters.reached(5)
    assert await later is True


async def test_those_who_gave_up_take_no_memory_while_nothing_is_reached():
    waiters = WatermarkWaiters()
    lasting = waiters.add(1)
    for _ in range(1_000):
        waiters.add(5).cancel()
        waiters.reached(0)
    assert len(waiters) <= 64
    assert not lasting.done()
    waiters.reached(1)
    assert lasting.done()


async def test_a_bell_wakes_everybody_who_follows():
    bell = Bell()
    value = 0
    seen: list[int] = []

    async def follow() -> None:
        await bell.wait_until(lambda: value > 0)
        seen.append(value)

    followers = [asyncio.create_task(follow()) for _ in range(3)]
    await asyncio.sleep(0)
    bell.ring()  # not for them: they go on waiting
    await asyncio.sleep(0)
    assert seen == []
    value = 1
    bell.ring()
    value = 2
    bell.ring()
    await asyncio.gather(*followers)
    assert seen == [2, 2, 2], "each gets the newest"


async def test_what_is_true_already_is_not_waited_for():
    await Bell().wait_until(lambda: True)


async def test_a_bell_that_nobody_rings_is_waited_for():
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await Bell().wait_until(lambda: False)
