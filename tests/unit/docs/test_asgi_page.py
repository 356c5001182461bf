"""The page on services: the ASGI application that it shows runs under a lease."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from tests.unit.client.conftest import EXECUTOR, World, granted, permit
from tests.unit.client.test_asgi import Exchange
from tests.unit.client.test_hold import quiet
from tests.unit.client.test_lease import released
from tests.unit.client.test_pool import deny

from quorate.client import AsyncGate

PAGE = "docs/services.md"


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


async def test_the_application_that_is_shown_answers_only_under_a_lease(
    pages: dict[str, Any], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_gate(_directory: object) -> AsyncGate:
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{world.port}")
        return AsyncGate(channel, executor=EXECUTOR, clock=world.clock)

    monkeypatch.setattr(AsyncGate, "open", open_gate)
    shown: dict[str, Any] = {}
    block = pages[PAGE].blocks("python")[-1]
    exec(compile(block, PAGE, "exec"), shown)  # noqa: S102 - the page's own code
    app = shown["app"]
    world.node.then("Acquire", deny())
    assert (await Exchange(app, "/health").run()).sent[1]["body"] == b"well"
    denied = await Exchange(app, "/records").run()
    assert (denied.status, denied.problem["reason"]) == (403, "NO_GRANT")
    assert (await Exchange(app, "/unknown").run()).status == 403
    world.clock.advance(10_000)
    quiet(world)
    world.node.then(
        "Acquire", granted(action="records.receive", resource="//bank.example/books/inbox")
    )
    world.node.then("Check", permit())
    world.node.then("Release", released())
    received = await Exchange(app, "/records").run()
    assert received.sent[1]["body"] == b"received under fence 7"
    await app._close()
