"""The loop around a core: what it leaves behind when it ends, and what it measures."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from quorate.consensus import RaftSettings
from quorate.core.errors import StorageDamagedError
from quorate.core.outcome import Reason
from quorate.core.transitions import install_genesis
from quorate.lease.clock import SystemClock, boot_id
from quorate.lease.word import AuthorityWord
from quorate.node.core_loop import CoreLoop
from quorate.storage import Environment
from quorate.telemetry.export import MetricsExport
from quorate.testing.builders import Federation
from quorate.v1 import peer_pb2 as pb

DOMAIN = "bank.example"
STRANGER = "spiffe://clinic.example/node/1"
LIMIT_S = 20.0


class NoTransport:
    """A federation of one has nobody to talk to."""

    def send(self, peer: str, messages: Sequence[pb.PeerMessage]) -> None:
        raise AssertionError(f"{len(messages)} messages to {peer}")


class Lone:
    """The only voter of a federation, and what its core process has."""

    def __init__(self, directory: Path) -> None:
        federation = Federation.build((DOMAIN,))
        member, genesis = federation[DOMAIN], federation.parsed_genesis()
        self.environment = Environment.open(directory, map_size_bytes=64 * 1024 * 1024)
        self.environment.initialise(genesis.hash, member.node)
        turn = self.environment.turn
        turn.append_ledger(install_genesis(turn.state, genesis))
        self.environment.commit()
        self.word = AuthorityWord.create()
        self.reader = InMemoryMetricReader()
        self.export = MetricsExport(self.reader, node_id=member.node, process="core")
        self.clock = SystemClock()
        self.loop = CoreLoop(
            node_id=member.node,
            settings=RaftSettings(),
            environment=self.environment,
            word=self.word,
            clock=self.clock,
            boot_id=boot_id(),
            signing_key=federation.key_of(member.node),
            log_key=member.log,
            edges=1,
            metrics=self.export.metrics,
        )

    def may_permit(self) -> bool:
        record = self.word.read()
        if record is None or record.reason is not None:
            return False
        return self.clock.boottime_ns() < record.deadline_ns

    async def with_authority(self) -> asyncio.Task[None]:
        """The loop, running, and its node may permit."""
        running: Any = self.loop.run(NoTransport(), lambda: None)  # type: ignore[arg-type]
        task = asyncio.create_task(running)
        async with asyncio.timeout(LIMIT_S):
            while not self.may_permit():
                done, _ = await asyncio.wait([task], timeout=0.01)
                assert not done, task.exception()
        return task

    def close(self) -> None:
        self.environment.abort()
        self.environment.close()
        self.word.close()
        self.export.close()


@pytest.fixture
def lone(tmp_path: Path) -> Iterator[Lone]:
    lone = Lone(tmp_path / "store")
    yield lone
    lone.close()


async def test_a_loop_that_is_ended_leaves_no_authority_behind(lone: Lone) -> None:
    task = await lone.with_authority()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    record = lone.word.read()
    assert record is not None
    assert record.reason is Reason.INQUORATE, "long before the deadline"


async def test_a_stream_waits_while_the_inbox_is_full(lone: Lone) -> None:
    message = pb.PeerMessage()
    message.propose.payload = bytes(1024 * 1024)
    await lone.loop.messages(STRANGER, [message] * 32)
    waiting = asyncio.create_task(lone.loop.messages(STRANGER, [message]))
    done, _ = await asyncio.wait([waiting], timeout=0.1)
    assert not done, "before a turn has taken in what is there"
    running = await lone.with_authority()
    await asyncio.wait_for(waiting, LIMIT_S)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_a_loop_that_fails_leaves_no_authority_behind(
    lone: Lone, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = await lone.with_authority()

    def fail() -> None:
        raise StorageDamagedError("a page is not what it was")

    monkeypatch.setattr(lone.loop._core, "turn", fail)
    with pytest.raises(StorageDamagedError):
        await asyncio.wait_for(task, LIMIT_S)
    assert not lone.may_permit()


async def test_rounds_are_measured_in_milliseconds(lone: Lone) -> None:
    task = await lone.with_authority()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    before = rounds(lone.reader)
    assert before.count >= 1, "authority took one"
    lone.loop.round_confirmed(5_000_000)
    after = rounds(lone.reader)
    assert (after.count, after.sum - before.sum) == (before.count + 1, pytest.approx(5.0))


def rounds(reader: InMemoryMetricReader) -> Any:
    data = reader.get_metrics_data()
    assert data is not None
    [point] = [
        point
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "quorate.confirm.round"
        for point in metric.data.data_points
    ]
    return point
