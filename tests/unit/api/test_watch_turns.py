"""Asking policies takes a while, and an edge that asks them about many leases lets its other calls
in between: however many sets are published, and whoever joins or comes back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import pytest
from tests.unit.api.test_watch_freezing import BANK, NODE, Bench
from tests.unit.api.test_watch_policies import ALL, READS, put

from quorate.api import tracking
from quorate.api import watch as watch_module
from quorate.api.errors import OutOfRangeError
from quorate.api.notices import Event
from quorate.core import policies
from quorate.core.cedar import Ruling, Subject
from quorate.core.effects import Effect
from quorate.lease.check import CheckQuery
from quorate.testing.builders import acquire_body
from quorate.testing.checks import ACTION, EXECUTOR

PER_TURN = 5
MANY = 4 * PER_TURN
SETS = 6


class Asked:
    """How often policies were asked, by the turn of the process's loop in which that was."""

    def __init__(self) -> None:
        self.turn = 0
        self.by_turn = Counter[int]()

    def rule(self, text: str, _subject: Subject) -> Ruling:
        self.by_turn[self.turn] += 1
        return Ruling(permits=text.startswith(ALL))

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[None]:
        async def others() -> None:
            while True:
                self.turn += 1
                await asyncio.sleep(0)

        self.by_turn.clear()
        task = asyncio.create_task(others())
        try:
            yield
        finally:
            task.cancel()

    @property
    def most(self) -> int:
        return max(self.by_turn.values(), default=0)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    asked = Asked()
    monkeypatch.setattr(policies, "_rulings", {})
    monkeypatch.setattr(policies.cedar, "rule", asked.rule)
    for module in (tracking, watch_module):
        monkeypatch.setattr(module, "LEASES_PER_TURN", PER_TURN)
    return asked


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def leases(bench: Bench) -> tuple[str, ...]:
    """Each on something else, so that each has to be asked about."""
    bodies = (acquire_body(EXECUTOR, ACTION, f"//{BANK}/accounts/{n}") for n in range(MANY))
    runs = (bench.world.ledger.run(NODE, "lease.acquire", body) for body in bodies)
    return tuple(str(run.outcome.thing) for run in runs)


def publish(bench: Bench, last: str) -> int:
    """Several sets, of which only the last stays in force. The size of the ledger with it."""
    for number in range(SETS - 1):
        put(bench, "domain", f"{(ALL, READS)[number % 2]} // {number}")
    return put(bench, "domain", last) + 1


async def test_no_more_leases_are_asked_about_in_a_turn_however_many_sets_there_are(
    bench: Bench, leases: tuple[str, ...], asked: Asked
) -> None:
    async with bench.hub.watch(EXECUTOR, leases) as watcher, bench.running():
        for _ in leases:
            await watcher.next()
        async with asked.counting():
            size = publish(bench, READS)
            bench.hub.moved()
            notices = [await watcher.next() for _ in leases]
        assert asked.most == PER_TURN
        assert asked.by_turn.total() == MANY, "only about the set that was in force then"
        assert {notice.event for notice in notices} == {Event.INTERRUPTED}
        assert {notice.at.ledger_size for notice in notices} == {size}


async def test_who_joins_with_many_leases_lets_others_in_between(
    bench: Bench, leases: tuple[str, ...], asked: Asked
) -> None:
    size = publish(bench, READS)
    async with bench.running(), asked.counting():
        async with bench.hub.watch(EXECUTOR, leases) as watcher:
            notices = [await watcher.next() for _ in leases]
        assert asked.most == PER_TURN
        assert asked.by_turn.total() == MANY
        assert {notice.at.ledger_size for notice in notices} == {size}


@pytest.mark.parametrize("last", [READS, ALL])
async def test_who_comes_back_with_many_leases_lets_others_in_between(
    bench: Bench, leases: tuple[str, ...], asked: Asked, last: str
) -> None:
    async with bench.running():
        await bench.followed()
        before = len(bench.world.ledger.entries)
        publish(bench, last)
        async with asked.counting():
            if last == ALL:
                with pytest.raises(OutOfRangeError):
                    await bench.hub.watch(EXECUTOR, leases, after_size=before).__aenter__()
            else:
                async with bench.hub.watch(EXECUTOR, leases, after_size=before) as watcher:
                    assert len(watcher._queue) == MANY
        assert asked.most == PER_TURN
        assert asked.by_turn.total() == MANY


async def test_between_what_was_missed_and_the_watch_nobody_else_has_a_turn(
    bench: Bench, leases: tuple[str, ...], asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The edge could follow entries meanwhile that are in neither."""
    track, turns = bench.hub._track, list[int]()
    missed, begin = track.missed, track.begin

    async def ends(after_size: int, executor: str) -> list[Effect]:
        effects = await missed(after_size, executor)
        turns.append(asked.turn)
        return effects

    def begins(queries: Iterable[CheckQuery]) -> list[Effect]:
        turns.append(asked.turn)
        return begin(queries)

    monkeypatch.setattr(track, "missed", ends)
    monkeypatch.setattr(track, "begin", begins)
    before = len(bench.world.ledger.entries)
    publish(bench, READS)
    async with asked.counting(), bench.hub.watch(EXECUTOR, leases, after_size=before):
        assert len(turns) == 2
        assert turns[0] == turns[1]


async def test_many_who_are_told_of_many_entries_let_others_in_between(
    bench: Bench, leases: tuple[str, ...], asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To tell a lease of an entry costs something, too, whatever the entry did."""
    monkeypatch.setattr(tracking, "TOLD_PER_TURN", 2 * (MANY + 1))
    taken, original = Counter[int](), bench.hub._leases.take
    monkeypatch.setattr(
        bench.hub._leases,
        "take",
        lambda *given: taken.update([asked.turn]) or original(*given),
    )
    async with bench.hub.watch(EXECUTOR, leases) as watcher, asked.counting():
        for _ in range(SETS):
            put(bench, "domain", ALL)
            put(bench, "domain", "")
        await bench.hub._track.catch_up()
        assert not watcher.is_ending
    assert set(taken.values()) == {2}
    assert taken.total() == 2 * SETS
