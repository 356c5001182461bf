"""What a watcher has missed is put together within bounds: nothing else runs meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from quorate.api.courses import EFFECTS_A_NOTICE, Course, Replay, Watched
from quorate.api.errors import OutOfRangeError
from quorate.api.notices import Event
from quorate.api.tracking import Track
from quorate.core.effects import Effect
from quorate.core.outcome import Reason
from quorate.lease.check import CheckQuery, Position
from quorate.lease.following import MAX_FOLLOWED
from quorate.testing.clock import FakeClock

THING = "grant:bank.example/g"


def watched(number: int = 0) -> Watched:
    query = CheckQuery(f"{number:032x}", "spiffe://bank.example/agent/one")
    course = Course(set(), is_good=True)
    return Watched(query, course, things=(THING,), acquired_index=0, expires_at=10**15)


def effect(index: int, reason: Reason | None, thing: str = THING) -> Effect:
    return Effect(index, 1_000 + index, thing, reason)


def flaps(count: int) -> list[Effect]:
    """Two notices each."""
    reasons = [Reason.GRANT_SUSPENDED, None] * count
    return [effect(index, reason) for index, reason in enumerate(reasons, start=1)]


def test_as_many_notices_as_there_is_room_for_and_none_more() -> None:
    replay = Replay(flaps(2), 8)
    for number in (1, 2):
        told = [notice.event for notice in replay.of(watched(number))]
        assert told == [Event.INTERRUPTED, Event.RESTORED] * 2
    with pytest.raises(OutOfRangeError):
        replay.of(watched(3))


def test_effects_that_come_to_no_notice_are_bounded_too() -> None:
    most = 4 * EFFECTS_A_NOTICE
    silent = [effect(index, None) for index in range(1, most + 1)]
    assert len(Replay(silent, 4).of(watched())) <= 4
    with pytest.raises(OutOfRangeError):
        Replay([*silent, effect(most + 1, None)], 4).of(watched())


def test_what_others_rely_on_costs_a_lease_nothing() -> None:
    others = [effect(index, None, "grant:bank.example/other") for index in range(1, 10_000)]
    assert Replay(others, 4).of(watched()) == []


async def test_one_at_a_time_reads_what_was_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    track, reading, most = Track(lambda: None, FakeClock(), lambda _missed: None), 0, 0

    async def missed(_track: Track, _after_size: int) -> list[Effect]:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        for _ in range(5):
            await asyncio.sleep(0)
        reading -= 1
        return []

    monkeypatch.setattr(Track, "_missed", missed)
    await asyncio.gather(*(track.missed(1, f"agent-{n % 3}") for n in range(20)))
    assert most == 1


async def test_who_lacks_little_waits_for_nobody_who_lacks_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One executor that goes on from far back again and again would hold up all others."""
    track, goes_on = Track(lambda: None, FakeClock(), lambda _missed: None), asyncio.Event()
    track.ledger.at = Position(10_000, 0)

    async def missed(track: Track, after_size: int) -> list[Effect]:
        if after_size < track.ledger.size - MAX_FOLLOWED:
            await goes_on.wait()
        return []

    monkeypatch.setattr(Track, "_missed", missed)
    far = asyncio.create_task(track.missed(1, "one"))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        assert await track.missed(9_999, "another") == []
    assert not far.done()
    goes_on.set()
    await far


async def test_one_executors_many_calls_are_waited_for_as_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    track, ended = Track(lambda: None, FakeClock(), lambda _missed: None), list[str]()
    track.ledger.at = Position(10_000, 0)

    async def missed(_track: Track, _after_size: int) -> list[Effect]:
        await asyncio.sleep(0)
        return []

    async def goes_on(executor: str) -> None:
        await track.missed(1, executor)
        ended.append(executor)

    monkeypatch.setattr(Track, "_missed", missed)
    many = [asyncio.create_task(goes_on("many")) for _ in range(20)]
    await asyncio.sleep(0)
    await goes_on("other")
    assert ended.index("other") <= 2
    await asyncio.gather(*many)
    assert len(ended) == 21
