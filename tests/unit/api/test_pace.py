"""One caller asks for so much a second, and no other has to wait for it."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quorate.api.errors import TooManyError
from quorate.api.pace import MAX_PACED_CALLERS, Pace, Turns
from quorate.testing.clock import FakeClock


def is_let(pace: Pace, caller: str) -> bool:
    try:
        pace.take(caller)
    except TooManyError:
        return False
    return True


def test_so_many_at_once_and_then_so_many_a_second() -> None:
    clock = FakeClock()
    pace = Pace(clock, 20, 40, "X")
    assert sum(is_let(pace, "a") for _ in range(100)) == 40
    assert is_let(pace, "b"), "another one has its own"
    clock.advance_ms(49)
    assert not is_let(pace, "a")
    clock.advance_ms(1)
    assert is_let(pace, "a")
    assert not is_let(pace, "a")
    clock.advance_ms(1_000)
    assert sum(is_let(pace, "a") for _ in range(100)) == 20
    clock.advance_ms(1_000_000)
    assert sum(is_let(pace, "a") for _ in range(100)) == 40, "nobody saves more up"


def test_who_is_refused_is_told_which_limit() -> None:
    pace = Pace(FakeClock(), 3, 1, "MAX_THINGS_PER_S")
    pace.take("a")
    with pytest.raises(TooManyError, match="more than 3 a second") as caught:
        pace.take("a")
    assert caught.value.limit == "MAX_THINGS_PER_S"


def test_callers_are_forgotten_in_the_order_of_their_last_call() -> None:
    pace = Pace(FakeClock(), 1, 1, "X")
    pace.take("first")
    for number in range(MAX_PACED_CALLERS - 1):
        assert is_let(pace, f"other {number}")
        assert not is_let(pace, "first"), "who goes on asking is not forgotten"
    for number in range(MAX_PACED_CALLERS):
        is_let(pace, f"more {number}")
    assert is_let(pace, "other 0")


@given(st.lists(st.integers(0, 400), max_size=200))
def test_in_no_stretch_of_time_are_there_more(gaps_ms: list[int]) -> None:
    clock, let = FakeClock(), list[int]()
    pace = Pace(clock, 10, 5, "X")
    for gap in gaps_ms:
        clock.advance_ms(gap)
        if is_let(pace, "a"):
            let.append(clock.boottime_ns())
    for place, begin in enumerate(let):
        for count, end in enumerate(let[place:], start=1):
            assert count <= 5 + (end - begin) * 10 / 1e9 + 1e-6


async def test_of_each_caller_one_piece_of_work_is_under_way_and_of_all_so_many() -> None:
    turns, begun, going_on = Turns("t", 3, "MOST"), threading.Event(), threading.Event()
    began: list[str] = []

    def work(name: str) -> str:
        began.append(name)
        begun.set()
        assert going_on.wait(10)
        return name

    asking = [
        asyncio.create_task(turns.take(name, partial(work, name))) for name in ("a", "b", "c")
    ]
    assert await asyncio.to_thread(begun.wait, 10)
    for name in ("a", "d"):
        with pytest.raises(TooManyError):
            await turns.take(name, partial(work, name))
    assert began == ["a"], "one at a time"
    asking[1].cancel()
    going_on.set()
    answered = await asyncio.gather(*asking, return_exceptions=True)
    assert [answered[0], answered[2]] == ["a", "c"]
    assert isinstance(answered[1], asyncio.CancelledError)
    assert began == ["a", "c"], "what nobody waits for is not done"
    assert await turns.take("a", partial(work, "a")) == "a"


async def test_work_that_fails_is_over() -> None:
    turns = Turns("t", 1, "MOST")
    with pytest.raises(ZeroDivisionError):
        await turns.take("a", lambda: 1 // 0)
    assert await turns.take("b", lambda: 1) == 1
