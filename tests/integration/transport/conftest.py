"""The nodes of the tests, and what each test must leave behind: nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from tests.integration.transport.stage import TIMEOUT_S, Member, make_member

from quorate.consensus import link as linking
from quorate.consensus import servicer


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "_IDLE_FRAME_S": 0.05,
        "_LINK_TIMEOUT_S": 0.5,
        "_REDIAL_S": 0.05,
        "_REFUSED_REDIAL_S": 0.05,
    }.items():
        monkeypatch.setattr(linking, name, value)
    monkeypatch.setattr(servicer, "_ACK_PERIOD_S", 0.02)


@pytest.fixture
async def a() -> Member:
    return make_member("a.example")


@pytest.fixture
async def b() -> Member:
    return make_member("b.example")


@pytest.fixture
async def c() -> Member:
    return make_member("c.example")


@pytest.fixture
async def tasks() -> AsyncIterator[contextlib.AsyncExitStack]:
    """Stops what was started, and sees that nothing is left running."""
    before = asyncio.all_tasks()
    async with contextlib.AsyncExitStack() as stack:
        yield stack
    async with asyncio.timeout(TIMEOUT_S):
        while left := asyncio.all_tasks() - before - {asyncio.current_task()}:
            names = {getattr(task.get_coro(), "__qualname__", "") for task in left}
            ours = {name for name in names if name.startswith(("Link", "Transport", "PeerServ"))}
            assert not ours, f"tasks left behind: {ours}"
            await asyncio.wait(left, timeout=0.1)
