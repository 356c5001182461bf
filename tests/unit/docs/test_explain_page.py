"""The page on explanations: what it shows is what is printed, and it has every question."""

from __future__ import annotations

import re
from typing import Any

import pytest
import typer
from tests.unit.core.conftest import BANK, World

from quorate.api.explained import explanation_to_wire
from quorate.cli.explained import of_node, show_explanation
from quorate.cli.output import Output
from quorate.core.decision import DecisionRequest
from quorate.core.explaining import explain, under
from quorate.core.explanation import Question

PAGE = "docs/explain.md"


def test_the_explanation_that_is_shown_is_what_is_printed(
    pages: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    world = World()
    world.setup()
    world.acquire()
    world.must(BANK, "grant.revoke", {"grant": "grant"})
    request = DecisionRequest(world.agent, "payments.read", "//bank.example/accounts/7")
    told = under(explain(world.view, request, world.now), None)
    answer = explanation_to_wire(told, len(world.entries), world.now)
    with pytest.raises(typer.Exit):
        show_explanation(of_node(answer), Output.TEXT)
    printed = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert pages[PAGE].blocks("text") == ["\n".join(printed) + "\n"]


def test_the_questions_are_the_codes(pages: dict[str, Any]) -> None:
    shown = [row[0].strip("`") for row in pages[PAGE].rows() if re.fullmatch(r"`\w+`", row[0])]
    assert shown == [question.value for question in Question]
