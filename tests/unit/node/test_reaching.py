"""Waiting for a level: what is promised is counted from when the change was known here, and who is
told of it hears of each change, not more often than that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from quorate.api.ports import Level, OpenNode, Progress, Reach
from quorate.lease.bounds import Bound
from quorate.node import reaching
from quorate.node.authority_wire import OpenMember
from quorate.node.reaching import Reaching
from quorate.testing.clock import FakeClock

PARAMETERS = SimpleNamespace(authority_period_ms=2_000, max_permit_ttl_ms=1_000, rho_ppm=10_000)


@dataclass
class Keeper:
    watermark: int = 10
    drained: int = 10
    members: list[OpenMember] | None = None
    asked: int = 0
    refuses: bool = False

    def ask_open(self, _raft: object) -> bool:
        self.asked += 1
        return not self.refuses

    def open_members(self, _raft: object) -> list[OpenMember] | None:
        return self.members


@dataclass
class Core:
    """A core whose state holds 4 entries, the last of them by Raft index 11."""

    keeper: Keeper = field(default_factory=Keeper)
    bounding: Any = field(default_factory=lambda: PARAMETERS)
    replica: object = None
    ledger_size: int = 4
    durable_applied: int = 11


class World:
    def __init__(self) -> None:
        self.core = Core()
        self.clock = FakeClock()
        self.sent = 0
        self.reaching = Reaching(self.core, self.clock, self._send)  # type: ignore[arg-type]

    def _send(self) -> None:
        self.sent += 1

    def reach(self, watermark: int, drained: int) -> None:
        self.core.keeper.watermark, self.core.keeper.drained = watermark, drained
        self.reaching.reached(watermark, drained)

    async def later(self, milliseconds: int) -> None:
        """Lets who waits come as far as it can, and time pass."""
        for _ in range(5):
            await asyncio.sleep(0)
        self.clock.advance_ms(milliseconds)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaching, "PACE_S", 0.005)


async def test_what_holds_already_is_answered_at_once(world: World):
    world.reach(11, 11)
    for level, bound in (
        (Level.COMMITTED, Bound(2_060, 2_020)),
        (Level.ENFORCED, Bound(1_020, 0)),
        (Level.DRAINED, Bound(0, 0)),
    ):
        assert await world.reaching.wait_for(3, level, 0) == Reach(level, bound)


async def test_the_bound_counts_from_when_the_change_was_known_here(world: World):
    """Not from the answer, which may come long after."""
    waiting = asyncio.create_task(world.reaching.wait_for(3, Level.DRAINED, 60_000))
    await world.later(700)
    world.reach(11, 10)
    await world.later(200)
    waiting_for_more = asyncio.create_task(world.reaching.wait_for(3, Level.ENFORCED, 60_000))
    assert (await waiting_for_more).bound == Bound(1_020, 0), "a later wait knows no more"
    world.reach(11, 11)
    assert await waiting == Reach(Level.DRAINED, Bound(0, 0))


async def test_what_is_left_when_the_time_is_up(world: World):
    waiting = asyncio.create_task(world.reaching.wait_for(3, Level.DRAINED, 30))
    await world.later(500)
    assert await waiting == Reach(Level.COMMITTED, Bound(1_560, 1_520))
    waiting = asyncio.create_task(world.reaching.wait_for(3, Level.DRAINED, 30))
    await world.later(500)
    world.reach(11, 10)
    await world.later(300)
    assert await waiting == Reach(Level.ENFORCED, Bound(720, 0))


async def test_an_entry_that_is_not_here_yet_is_waited_for(world: World):
    waiting = asyncio.create_task(world.reaching.wait_for(4, Level.ENFORCED, 60_000))
    world.reach(11, 11)
    await world.later(0)
    assert not waiting.done()
    world.core.ledger_size, world.core.durable_applied = 5, 12
    world.reaching.grown()
    await world.later(0)
    assert not waiting.done(), "what is enforced is an older state"
    world.reach(12, 0)
    assert (await waiting).level is Level.ENFORCED


# -- progress ------------------------------------------------------------------------------------


async def told(world: World, level: Level, *turns: Callable[[], None]) -> list[Progress]:
    """What one caller is told, if each of the turns comes after a message."""
    heard: list[Progress] = []
    left = list(turns)
    async with aclosing(world.reaching.progress(3, level, 5_000)) as steps:
        async for step in steps:
            heard.append(step)
            if left:
                left.pop(0)()
    return heard


async def test_each_change_is_told_once_and_the_end(world: World):
    keeper = world.core.keeper
    keeper.members = [OpenMember("c", 9, 9), OpenMember("b", 11, 10), OpenMember("d", 11, 11)]

    def c_enforces() -> None:
        world.clock.advance_ms(100)
        keeper.members = [OpenMember("b", 11, 10)]
        world.reach(11, 10)

    def b_drains() -> None:
        world.clock.advance_ms(100)
        world.reach(11, 11)

    first, second, last = await told(world, Level.DRAINED, c_enforces, b_drains)
    assert first.reach == Reach(Level.COMMITTED, Bound(2_060, 2_020))
    assert first.open == (
        OpenNode("b", Level.DRAINED, 2_060),
        OpenNode("c", Level.ENFORCED, 2_020),
    )
    assert second.reach.level is Level.ENFORCED
    assert second.open == (OpenNode("b", Level.DRAINED, 1_020),)
    assert last == Progress(Reach(Level.DRAINED, Bound(0, 0)), is_last=True)


async def test_who_only_lacks_more_than_is_waited_for_is_not_named(world: World):
    world.core.keeper.members = [OpenMember("b", 11, 3), OpenMember("c", 10, 3)]
    heard = await told(world, Level.ENFORCED, lambda: world.reach(11, 3))
    named = {(node.node_id, node.lacks) for step in heard for node in step.open}
    assert named == {("c", Level.ENFORCED)}
    assert heard[-1].is_last


async def test_nobody_lacks_a_level_that_is_known_to_be_reached(world: World):
    """What the leader has said of its members may be older than its watermark."""
    world.core.keeper.members = [OpenMember("c", 9, 9)]
    world.reach(11, 10)
    first, last = await told(world, Level.DRAINED, lambda: world.reach(11, 11))
    assert first.open == (OpenNode("c", Level.DRAINED, 1_020),)
    assert last.is_last


async def test_what_holds_already_is_one_message(world: World):
    world.reach(11, 11)
    heard = await told(world, Level.DRAINED)
    assert heard == [Progress(Reach(Level.DRAINED, Bound(0, 0)), is_last=True)]
    assert world.core.keeper.asked == 0


async def test_the_leader_is_asked_only_while_somebody_waits_with_progress(world: World):
    await world.reaching.wait_for(3, Level.ENFORCED, 30)
    assert world.core.keeper.asked == 0
    async with aclosing(world.reaching.progress(3, Level.ENFORCED, 60)) as steps:
        async for _ in steps:
            pass
    asked = world.core.keeper.asked
    assert asked >= 2
    assert world.sent == asked
    await asyncio.sleep(0.03)
    assert world.core.keeper.asked == asked


async def test_time_alone_is_no_change(world: World):
    world.core.keeper.members = [OpenMember("c", 9, 9)]
    heard = await told(world, Level.ENFORCED, *[lambda: world.clock.advance_ms(50)] * 9)
    assert len(heard) <= 3, "the beginning, who is open, the end"


async def test_a_caller_who_goes_away_leaves_nothing_behind(world: World):
    before = asyncio.all_tasks()
    steps = world.reaching.progress(3, Level.DRAINED, 60_000)
    await anext(steps)
    assert len(asyncio.all_tasks()) == len(before) + 1
    await steps.aclose()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


async def test_after_the_bound_nobody_is_said_to_act(world: World):
    """Nobody may have heard that the level is reached; the time is over all the same."""

    def end_of_time() -> None:
        world.clock.advance_ms(3_000)
        world.core.keeper.members = [OpenMember("c", 9, 9)]

    heard = await told(world, Level.ENFORCED, end_of_time, lambda: world.reach(11, 3))
    assert heard[1].open == (OpenNode("c", Level.ENFORCED, 0),)
    assert heard[1].reach == Reach(Level.COMMITTED, Bound(0, 0))
