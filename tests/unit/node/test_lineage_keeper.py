"""What keeps the graph of lineage from going on is told, and tried again; it ends nothing."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from quorate.core.store import Writer
from quorate.node import lineage_keeper
from quorate.node.lineage_keeper import REST_S, RETRY_S, LineageKeeper
from quorate.storage.graph import GraphError, GraphStore

FULL = "the graph of lineage: " + os.strerror(errno.ENOSPC)


def full(*_: object) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/a/place")


class Disk:
    """A graph on a disk that fails at whatever is asked of it next, as often as `faults` say."""

    def __init__(self, **faults: int) -> None:
        self.faults = faults
        self.closed = False

    def _fault(self, name: str) -> None:
        if self.faults.get(name, 0):
            self.faults[name] -= 1
            full()

    def open(self) -> Any:
        self._fault("open")
        return self

    def is_roomy(self) -> bool:
        self._fault("is_roomy")
        return True

    def write(self, _fill: Callable[[Writer], None]) -> None:
        self._fault("write")

    def close(self) -> None:
        self.closed = True


def no_ledger() -> AbstractContextManager[Any]:
    raise AssertionError("nothing is written")


@pytest.mark.parametrize("where", ["open", "is_roomy", "write"])
async def test_a_full_disk_is_told_once_and_tried_again(where: str) -> None:
    disk = Disk(**{where: 2})
    keeper = LineageKeeper(disk.open, no_ledger)
    with capture_logs() as told:
        assert await keeper._try() == RETRY_S
        assert keeper.problem == FULL
        assert await keeper._try() == RETRY_S
        assert await keeper._try() == REST_S
    assert keeper.problem == ""
    assert [each["event"] for each in told] == ["lineage.not_followed"]
    assert told[0]["problem"] == FULL


async def test_a_full_disk_does_not_end_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineage_keeper, "RETRY_S", 0.0)
    disk = Disk(open=3, write=3)
    keeper = LineageKeeper(disk.open, no_ledger)
    running, stepped = asyncio.create_task(keeper.run()), keeper._stepped
    async with asyncio.timeout(30):
        await stepped.wait()
    assert not running.done()
    assert set(disk.faults.values()) == {0}
    running.cancel()
    await asyncio.wait([running])
    assert disk.closed


async def test_who_ends_it_waits_for_a_step_that_fails() -> None:
    """Its failure is nobody's any more."""
    keeper = LineageKeeper(Disk(open=1).open, no_ledger)
    trying = asyncio.create_task(keeper._try())
    await asyncio.sleep(0)  # it has begun
    trying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trying


def test_files_that_cannot_be_asked_about_or_removed_are_the_graphs_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = GraphStore.open(tmp_path, b"one", map_size_bytes=1 << 20)
    with monkeypatch.context() as failing:
        failing.setattr(shutil, "disk_usage", full)
        with pytest.raises(GraphError, match=FULL):
            store.is_roomy()
    store.close()
    with monkeypatch.context() as failing:
        failing.setattr(shutil, "rmtree", full)
        with pytest.raises(GraphError, match=FULL):
            GraphStore.open(tmp_path, b"another", map_size_bytes=1 << 20)
    GraphStore.open(tmp_path, b"another", map_size_bytes=1 << 20).close()
