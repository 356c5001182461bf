"""A claim holds by its comparison alone; the summary holds only if all do."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from quorate.chaos.demo.claims import Claim, at_least, at_most, equal, more_than
from quorate.chaos.demo.narrator import Narrator


@pytest.mark.parametrize(
    ("claim", "holds"),
    [
        (at_most("a", "", 2000.0, 2000), True),
        (at_most("a", "", 2000.01, 2000), False),  # shown as 2000.0, and still false
        (at_least("a", "", 5, 5), True),
        (at_least("a", "", 4, 5), False),
        (more_than("a", "", 5, 5), False),
        (more_than("a", "", 6, 5), True),
        (equal("a", "", "DRAINED", "DRAINED"), True),
        (equal("a", "", "ENFORCED", "DRAINED"), False),
    ],
)
def test_a_claim_is_what_its_comparison_says(claim: Claim, holds: bool) -> None:
    assert claim.holds is holds


def narrate(output: str) -> tuple[Narrator, io.StringIO]:
    story = io.StringIO()
    return Narrator(output, Console(file=story, width=100)), story


@pytest.mark.parametrize(
    ("claims", "problem", "holds"),
    [
        ([equal("a", "s", 1, 1)], "", True),
        ([equal("a", "s", 1, 1), equal("b", "s", 1, 2)], "", False),
        ([equal("a", "s", 1, 1)], "a node has ended", False),
        ([], "", False),
    ],
)
def test_the_summary_holds_only_if_every_claim_does(
    claims: list[Claim], problem: str, holds: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    narrator, story = narrate("json")
    for claim in claims:
        narrator.claim(claim)
    assert narrator.summary(problem) is holds
    document = json.loads(capsys.readouterr().out)
    assert document["holds"] is holds
    assert document["problem"] == problem
    assert [claim["holds"] for claim in document["claims"]] == [c.holds for c in claims]
    assert ("Every claim held" in story.getvalue()) is holds


def test_text_from_outside_is_not_taken_for_markup(capsys: pytest.CaptureFixture[str]) -> None:
    narrator, story = narrate("text")
    narrator.tell("[bold]from [/nowhere] outside")
    narrator.claim(equal("a", "[red]statement[/]", "[x]", "[x]"))
    narrator.failed("[/oops]", "[/hint]")
    narrator.summary("[/problem]")
    assert "[bold]from [/nowhere] outside" in story.getvalue()
    assert "[/oops]" in story.getvalue()
    assert "\x1b" not in story.getvalue()  # no terminal, no colours
    assert capsys.readouterr().out == ""
