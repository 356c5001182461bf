"""Every hazard of the engine is shown, and so is what became of it."""

from __future__ import annotations

import re
from typing import Any

import pytest

_SECTION = re.compile(r"^### (\d+)\. .*?\n(.*?)(?=^##)", re.MULTILINE | re.DOTALL)
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
_BARE = re.compile(r"/test_(bare_\w+|hazards_of_the_bare_engine)\.py$")
COUNT = 17


@pytest.fixture(scope="module")
def hazards(pages: dict[str, Any]) -> dict[int, str]:
    return {int(number): text for number, text in _SECTION.findall(pages["docs/consensus.md"].text)}


@pytest.mark.parametrize("number", range(1, COUNT + 1))
def test_it_says_what_the_engine_does_and_what_is_done_here(
    hazards: dict[int, str], number: int
) -> None:
    text = hazards[number]
    assert text.startswith("\n*The engine*")
    assert "*Here*" in text


@pytest.mark.parametrize("number", range(1, COUNT + 1))
def test_it_names_tests_of_the_bare_engine_and_of_ours(
    hazards: dict[int, str], number: int
) -> None:
    before, here, after = hazards[number].partition("*Here*")
    shown = [name for file, name in _TEST.findall(before + here + after) if _BARE.search(file)]
    assert any(re.match(rf"test_hazards?_(\d+_and_)?{number}_", name) for name in shown), shown
    assert _TEST.findall(after), "what is done here has a test"
