"""No bytes from outside break a parser, or make it take longer, or more room, than they are long.

The inputs that are kept, and changes of them; `make fuzz` looks for others.
"""

from __future__ import annotations

from functools import cache
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz import targets
from tests.fuzz.harness import CORPUS, FOUND, MAX_INPUT_BYTES, TARGETS, inputs, within_bounds
from tests.fuzz.mutate import mutated

assert targets

CHANGES = 12
"""Of inputs, for each target."""


@cache
def kept(name: str) -> dict[str, bytes]:
    return inputs(name)


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_kept_breaks_nothing(name: str) -> None:
    assert kept(name), "a target has something to begin with"
    for file, data in kept(name).items():
        try:
            within_bounds(TARGETS[name], data)
        except Exception as error:
            error.add_note(file)
            raise


@pytest.mark.parametrize("name", TARGETS)
def test_changes_of_it_break_nothing(name: str) -> None:
    known = list(kept(name).values())

    @settings(max_examples=CHANGES, database=None)
    @given(st.sampled_from(known), st.integers(0, 2**32))
    def changes(data: bytes, seed: int) -> None:
        random = Random(seed)  # noqa: S311 - no secret
        within_bounds(TARGETS[name], mutated(data, random, known))

    changes()


def test_every_folder_is_a_targets() -> None:
    for place in (CORPUS, FOUND):
        assert {each.name for each in place.iterdir() if each.is_dir()} <= TARGETS.keys()


def test_inputs_are_small() -> None:
    sizes = {file: len(data) for name in TARGETS for file, data in kept(name).items()}
    assert max(sizes.values()) <= MAX_INPUT_BYTES
    assert sum(sizes.values()) < 1024 * 1024
