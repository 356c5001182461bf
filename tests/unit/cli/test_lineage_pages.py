"""`quorate lineage` reads page after page, and waits where the node lets it ask no more."""

from __future__ import annotations

from typing import Any

import pytest

from quorate.cli import lineage
from quorate.cli.errors import BusyError, RefusedError


class Time:
    """Passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Node:
    """Refuses what it is asked, as often as it says."""

    def __init__(self, refusals: int, error: Exception) -> None:
        self.refusals = refusals
        self.error = error
        self.asked = 0

    def ask(self, _method: object, _request: object, _timeout_ms: int) -> str:
        self.asked += 1
        if self.asked <= self.refusals:
            raise self.error
        return "a page"


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(lineage, "time", time)
    return time


def ask(node: Any, timeout_ms: int = 5_000) -> Any:
    return lineage._ask(node, print, "a request", timeout_ms)


def test_it_waits_and_asks_again(time: Time) -> None:
    node = Node(3, BusyError("too often"))
    assert ask(node) == "a page"
    assert (node.asked, time.now) == (4, pytest.approx(100.0 + 3 * lineage.PAUSE_S))


def test_it_waits_no_longer_than_the_timeout(time: Time) -> None:
    node = Node(1_000, BusyError("too often"))
    with pytest.raises(BusyError, match="too often"):
        ask(node, 1_000)
    assert time.now <= 101.0


def test_any_other_refusal_is_one(time: Time) -> None:
    node = Node(1, RefusedError("no"))
    with pytest.raises(RefusedError, match="no"):
        ask(node)
    assert (node.asked, time.now) == (1, 100.0)
