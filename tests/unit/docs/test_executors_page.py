"""The page on executors: the programs that it shows do what it says, against a scripted node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from tests.unit.client.conftest import EXECUTOR, World, granted, permit
from tests.unit.client.test_events import accepted
from tests.unit.client.test_hold import quiet
from tests.unit.client.test_lease import released
from tests.unit.client.test_pool import deny

from quorate.client import AsyncGate, DeniedError, Gate

PAGE = "docs/executors.md"
INBOX = {"action": "records.receive", "resource": "//bank.example/books/inbox"}


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def run(block: str) -> dict[str, Any]:
    shown: dict[str, Any] = {"__name__": "shown"}
    exec(compile(block, PAGE, "exec"), shown)  # noqa: S102 - the page's own code
    return shown


def permitted(world: World) -> None:
    quiet(world)
    world.node.then("Acquire", granted(**INBOX))
    world.node.then("Check", permit())
    world.node.then("Release", released())


def test_the_executor_that_is_shown_works_and_stops(
    pages: dict[str, Any],
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    block, *_ = pages[PAGE].blocks("python")
    monkeypatch.setattr(Gate, "open", lambda _directory: world.open_gate(world.clock))
    shown = run(block)
    permitted(world)
    assert shown["main"]("billing") == 0
    assert capsys.readouterr().out.count("fence 7") == 3
    world.node.then("Acquire", deny())
    assert shown["main"]("billing") == 3
    assert "NO_GRANT" in capsys.readouterr().out


async def test_the_coroutine_that_is_shown_works_and_stops(
    pages: dict[str, Any],
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, block, *_ = pages[PAGE].blocks("python")

    def open_gate(_directory: object) -> AsyncGate:
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{world.port}")
        return AsyncGate(channel, executor=EXECUTOR, clock=world.clock)

    monkeypatch.setattr(AsyncGate, "open", open_gate)
    shown = run(block)
    permitted(world)
    await shown["main"]("billing")
    assert capsys.readouterr().out.count("fence 7") == 3
    world.node.then("Acquire", deny())
    await shown["main"]("billing")
    assert "NO_GRANT" in capsys.readouterr().out


def test_the_tools_that_are_shown_run_under_a_permit(
    pages: dict[str, Any], world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, block, _ = pages[PAGE].blocks("python")
    shown = run(block)
    permitted(world)
    shown["tools"](world.gate)
    assert capsys.readouterr().out == "7\n"
    world.node.then("Acquire", deny())
    with pytest.raises(DeniedError):
        shown["tools"](world.gate)


def test_the_lineage_that_is_shown_is_told(
    pages: dict[str, Any], world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    *_, block = pages[PAGE].blocks("python")
    shown = run(block)
    quiet(world)
    world.node.then("Acquire", granted(**INBOX, parents=["1" * 32]))
    world.node.then("Check", permit())
    world.node.then("Report", accepted("aa"), accepted("bb"))
    world.node.then("Release", released())
    shown["answer"](world.gate, "1" * 32)
    assert capsys.readouterr().out == "True True\n"
    told = [event.type for each in world.node.requests["Report"] for event in each.events]
    assert told == ["started", "completed"]
