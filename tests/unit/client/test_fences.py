"""A fence below the highest one seen is refused, whichever guard keeps it."""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.client.fenced_writers import RESOURCE, TIMEOUT_S, climbing, write_together

from quorate.client import FenceGuard, MemoryFenceGuard, SQLiteFenceGuard, StaleFenceError
from quorate.client.fences import MAX_FENCE, FenceGuardError
from quorate.core.errors import QuorateError
from quorate.core.limits import MAX_ID_CHARS

OTHER = "//bank.example/books/outbox"


@contextmanager
def in_memory() -> Iterator[Any]:
    yield MemoryFenceGuard()


@contextmanager
def in_sqlite() -> Iterator[Any]:
    with closing(sqlite3.connect(":memory:")) as connection:
        yield SQLiteFenceGuard(connection)


KINDS: list[Callable[[], AbstractContextManager[Any]]] = [in_memory, in_sqlite]


@pytest.fixture(params=KINDS)
def guard(request: pytest.FixtureRequest) -> Iterator[Any]:
    with request.param() as made:
        yield made


# -- what both do --------------------------------------------------------------------------------


def test_a_lower_fence_is_refused_and_an_equal_or_higher_one_admitted(guard: Any) -> None:
    assert guard.highest(RESOURCE) == 0
    for fence in (5, 5, 9):
        guard.admit(RESOURCE, fence)
        assert guard.highest(RESOURCE) == fence
    with pytest.raises(StaleFenceError) as refused:
        guard.admit(RESOURCE, 8)
    error = refused.value
    assert (error.resource, error.fence, error.highest) == (RESOURCE, 8, 9)
    assert str(error) == f"{RESOURCE}: fence 8 is older than 9"
    assert isinstance(error, QuorateError)
    assert error.hint
    assert guard.highest(RESOURCE) == 9
    guard.admit(RESOURCE, 9)


def test_resources_are_told_apart_letter_by_letter(guard: Any) -> None:
    guard.admit(RESOURCE, 9)
    for number, other in enumerate((OTHER, RESOURCE.upper(), RESOURCE + "/", RESOURCE + "\0"), 1):
        guard.admit(other, number)
        assert guard.highest(other) == number
    assert guard.highest(RESOURCE) == 9


def test_the_fence_is_kept_before_the_write_begins(guard: Any) -> None:
    with guard.writing(RESOURCE, 7):
        assert guard.highest(RESOURCE) == 7
    assert guard.highest(RESOURCE) == 7


def test_a_stale_writers_block_does_not_run(guard: Any) -> None:
    guard.admit(RESOURCE, 9)
    ran = False
    with pytest.raises(StaleFenceError), guard.writing(RESOURCE, 8):
        ran = True
    assert not ran


@pytest.mark.parametrize("fence", [0, -1, 2**63, 2**200, True, False, 1.0, "7", None])
def test_what_is_no_fence_is_refused_before_anything_is_kept(guard: Any, fence: Any) -> None:
    for ask in (guard.admit, lambda *asked: guard.writing(*asked).__enter__()):
        with pytest.raises(ValueError, match="whole number"):
            ask(RESOURCE, fence)
    assert guard.highest(RESOURCE) == 0


@pytest.mark.parametrize("resource", ["", "x" * (MAX_ID_CHARS + 1), b"inbox", None, 7, "\ud800"])
def test_what_is_no_resource_is_refused(guard: Any, resource: Any) -> None:
    for ask in (guard.admit, lambda *asked: guard.writing(*asked).__enter__()):
        with pytest.raises(ValueError, match=r"characters|surrogates"):
            ask(resource, 7)


def test_the_largest_that_is_possible_is_admitted(guard: Any) -> None:
    longest = "\N{SNOWMAN}" * MAX_ID_CHARS
    guard.admit(longest, MAX_FENCE)
    with pytest.raises(StaleFenceError):
        guard.admit(longest, MAX_FENCE - 1)
    assert guard.highest(longest) == MAX_FENCE == 2**63 - 1


def test_a_write_within_a_write_is_refused_and_the_outer_one_goes_on(guard: Any) -> None:
    with guard.writing(RESOURCE, 5):
        with pytest.raises(FenceGuardError, match=r"already|within"):
            guard.admit(RESOURCE, 6)
        assert guard.highest(RESOURCE) == 5
    guard.admit(RESOURCE, 6)


def test_a_guard_that_does_not_say_how_it_admits_cannot_be_made() -> None:
    class Careless(FenceGuard):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Careless()


resources = st.sampled_from([RESOURCE, OTHER, "x"])
fences = st.one_of(st.integers(1, 12), st.integers(MAX_FENCE - 3, MAX_FENCE))
attempts = st.tuples(st.sampled_from(["admit", "write", "fail"]), resources, fences)


def attempt(guard: Any, how: str, resource: str, fence: int) -> StaleFenceError | None:
    """One admission, one write or one write that fails; the refusal, if it was refused."""
    try:
        if how == "admit":
            guard.admit(resource, fence)
            return None
        with guard.writing(resource, fence):
            if how == "fail":
                raise LookupError
    except StaleFenceError as error:
        return error
    except LookupError:
        assert how == "fail"
    return None


@pytest.mark.parametrize("kind", KINDS)
@given(steps=st.lists(attempts, max_size=40))
def test_admitted_fences_never_decrease_and_a_refusal_changes_nothing(
    kind: Any, steps: list[tuple[str, str, int]]
) -> None:
    model = dict.fromkeys((RESOURCE, OTHER, "x"), 0)
    with kind() as guard:
        for how, resource, fence in steps:
            refused = attempt(guard, how, resource, fence)
            if fence < model[resource]:
                assert refused is not None
                assert refused.highest == model[resource]
            else:
                assert refused is None
                # Memory remembers what it saw; in a database all of a write goes or none.
                if not (how == "fail" and kind is in_sqlite):
                    model[resource] = fence
            assert {name: guard.highest(name) for name in model} == model


# -- in memory -----------------------------------------------------------------------------------


def test_a_full_guard_refuses_who_is_new_and_forgets_nobody() -> None:
    guard = MemoryFenceGuard(max_resources=2)
    guard.admit("a", 5)
    guard.admit("b", 6)
    with pytest.raises(FenceGuardError, match="no room") as full:
        guard.admit("c", 7)
    assert "max_resources" in full.value.hint
    assert guard.highest("c") == 0
    guard.admit("a", 8)
    with pytest.raises(StaleFenceError):
        guard.admit("b", 5)


def test_what_is_refused_takes_no_room() -> None:
    guard = MemoryFenceGuard(max_resources=1)
    with pytest.raises(ValueError, match="whole number"):
        guard.admit("a", 0)
    guard.admit("b", 1)


def test_a_guard_without_room_is_not_made() -> None:
    with pytest.raises(ValueError, match="one resource"):
        MemoryFenceGuard(max_resources=0)


def test_no_fence_is_admitted_while_a_write_goes_on() -> None:
    """Else an older write could end after a newer one has begun."""
    guard = MemoryFenceGuard()
    admitted, elsewhere = threading.Event(), threading.Event()

    def newer() -> None:
        guard.admit(OTHER, 1)  # other resources wait for nothing
        elsewhere.set()
        guard.admit(RESOURCE, 6)
        admitted.set()

    with guard.writing(RESOURCE, 5):
        thread = threading.Thread(target=newer)
        thread.start()
        assert elsewhere.wait(TIMEOUT_S)
        assert not admitted.wait(0.1)  # a span in which nothing may happen
        assert guard.highest(RESOURCE) == 5
    assert admitted.wait(TIMEOUT_S)
    thread.join()
    with pytest.raises(StaleFenceError):
        guard.admit(RESOURCE, 5)


@pytest.fixture
def _switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_switching_often")
def test_threads_write_in_the_order_of_their_fences() -> None:
    guard = MemoryFenceGuard()
    plans = climbing(threads=6, rounds=400)
    done = write_together(plans, lambda fence: guard.writing(RESOURCE, fence))
    assert done == sorted(done)
    assert done[-1] == guard.highest(RESOURCE) == max(map(max, plans))


@pytest.mark.usefixtures("_switching_often")
def test_threads_do_not_overfill_a_guard() -> None:
    for _ in range(50):
        guard = MemoryFenceGuard(max_resources=1)
        start = threading.Barrier(4)

        def enter(name: str, guard: Any = guard, start: Any = start) -> bool:
            start.wait(TIMEOUT_S)
            try:
                guard.admit(name, 1)
            except FenceGuardError:
                return False
            return True

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(enter, "abcd")) == 1
