"""Deliberate breaks of pre-vote and of stickiness: the scenarios must notice each."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.property.consensus.scenarios import (
    TROUBLES,
    Calm,
    a_pair_is_cut_off,
    bridge,
    undisturbed,
    who_was_removed_does_not_know,
)

from quorate.consensus.elections import Elections
from quorate.consensus.engine import Engine
from quorate.consensus.messages import PreVoteRequest
from quorate.consensus.rules import LogView, is_up_to_date

Patch = pytest.MonkeyPatch
SCENARIOS: dict[str, Callable[[int], Calm]] = {
    **{name: undisturbed(troubles) for name, troubles in TROUBLES.items()},
    "bridge": bridge,
    "a pair is cut off": a_pair_is_cut_off,
    "who was removed does not know": who_was_removed_does_not_know,
}


def asks_nobody_before_it_campaigns(patch: Patch) -> None:
    """No pre-vote."""

    def seek(self: Engine) -> None:
        self.elections.is_called = True

    patch.setattr(Engine, "_seek_pre_votes", seek)


def says_yes_though_it_hears_a_leader(patch: Patch) -> None:
    """No stickiness where it is asked; a pre-vote is."""

    def would_vote(_self: Elections, request: PreVoteRequest, term: int, log: LogView) -> bool:
        is_late = is_up_to_date(request.last_log_term, request.last_log_index, log)
        return request.term >= term and is_late

    patch.setattr(Elections, "would_vote", would_vote)


def is_never_content(patch: Patch) -> None:
    """No stickiness at all: nor towards whoever says a later term."""
    patch.setattr(Elections, "hears_a_leader", False)


PRE_VOTE = (
    "flaps, is deaf",
    "crashes, is deaf to the leader",
    "is away, is mute to the leader",
    "bridge",
    "a pair is cut off",
    "who was removed does not know",
)
STICKINESS = ("crashes, is deaf to the leader", "stops, is mute", "bridge")
SEEN = [
    *((asks_nobody_before_it_campaigns, name) for name in PRE_VOTE),
    *((says_yes_though_it_hears_a_leader, name) for name in STICKINESS),
    *((is_never_content, name) for name in STICKINESS),
]
"""Not every scenario notices every break: whoever is cut off is kept from campaigning by pre-votes
alone, and whoever hears nobody and is heard, by stickiness."""


@pytest.mark.parametrize(
    ("breaks", "name"), SEEN, ids=[f"{breaks.__name__}: {name}" for breaks, name in SEEN]
)
def test_a_break_is_seen(breaks: Callable[[Patch], None], name: str, monkeypatch: Patch) -> None:
    breaks(monkeypatch)
    with pytest.raises(AssertionError):
        SCENARIOS[name](1)
