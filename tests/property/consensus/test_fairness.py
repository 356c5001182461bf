"""Whose proposals come next: nobody waits behind more than a round of the others."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.consensus.fairness import FairQueue
from quorate.consensus.limits import (
    MAX_COMMAND_BYTES,
    MAX_QUEUED_APPEND_BYTES,
    MAX_QUEUED_APPENDS,
)

SOURCES = ("a", "b", "c")
LEAST = 256
"""What a command counts for at the least."""
_ADD = st.tuples(st.sampled_from(SOURCES), st.integers(0, MAX_COMMAND_BYTES))
_STEPS = st.lists(st.one_of(_ADD, st.none()), max_size=120)


@settings(max_examples=300)
@given(_STEPS)
def test_each_source_is_served_in_order_and_none_for_more_than_its_share(
    steps: list[tuple[str, int] | None],
) -> None:
    """Between two sources that both wait all the time, what one is ahead of the other by is less
    than two rounds; whatever is queued comes out once, in the order of its source."""
    queue, waiting = FairQueue(), {source: deque[bytes]() for source in SOURCES}
    served: dict[tuple[str, str], int] = {}
    for number, step in enumerate(steps):
        if step is not None:
            source, size = step
            payload = f"{source}{number:04}".encode().ljust(size, b".")[:MAX_COMMAND_BYTES]
            assert queue.add(source, payload)
            if not waiting[source]:
                served = {pair: size for pair, size in served.items() if source not in pair}
            waiting[source].append(payload)
        elif len(queue):
            taken = queue.take()
            source = taken[:1].decode()
            assert waiting[source].popleft() == taken
            for other in SOURCES:
                if other != source and waiting[other]:
                    pair = (source, other)
                    served[pair] = served.get(pair, 0) + max(len(taken), LEAST)
                    served[other, source] = 0
                    assert served[pair] <= 2 * MAX_COMMAND_BYTES
        assert len(queue) == sum(map(len, waiting.values()))


def test_who_comes_late_waits_for_one_round_of_the_others() -> None:
    queue = FairQueue()
    for number in range(500):
        queue.add("noisy", b"n%03d" % number + bytes(1_000))
    queue.add("other", bytes(MAX_COMMAND_BYTES))
    queue.add("quiet", b"quiet")
    before = [queue.take() for _ in range(len(queue))].index(b"quiet")
    assert before <= MAX_COMMAND_BYTES // 1_000 + 1


def test_shares_are_of_bytes_and_not_of_commands() -> None:
    queue = FairQueue()
    for _ in range(200):
        queue.add("long", bytes(MAX_COMMAND_BYTES))
        for _ in range(10):
            queue.add("short", b"s" * (MAX_COMMAND_BYTES // 10))
    taken = [queue.take() for _ in range(550)]
    lengths = {kind: sum(len(each) for each in taken if each[:1] == kind) for kind in (b"s", b"\0")}
    assert abs(lengths[b"s"] - lengths[b"\0"]) <= 2 * MAX_COMMAND_BYTES


def test_a_source_that_is_full_leaves_the_others_their_room() -> None:
    queue = FairQueue()
    for _ in range(MAX_QUEUED_APPENDS):
        assert queue.add("noisy", b"")
    assert not queue.add("noisy", b"")
    assert queue.add("quiet", b"q")
    taken = [queue.take() for _ in range(MAX_COMMAND_BYTES // LEAST + 1)]
    assert taken[-1] == b"q", "commands that say nothing cost something, too"
    queue.clear()
    assert len(queue) == 0
    fit = MAX_QUEUED_APPEND_BYTES // MAX_COMMAND_BYTES
    assert sum(queue.add("noisy", bytes(MAX_COMMAND_BYTES)) for _ in range(fit + 5)) == fit
    assert queue.add("noisy", b"small"), "there is room for a small one"


def test_nothing_comes_of_an_empty_queue() -> None:
    queue = FairQueue()
    with pytest.raises(IndexError):
        queue.take()
    assert queue.add("a", b"x")
    assert queue.take() == b"x"
    with pytest.raises(IndexError):
        queue.take()
