"""The ledger held to a model of governance that knows nothing of it (`naive`).

`make histories` runs a hundred thousand; here are some of them, with hypothesis and by number.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.property.core.naive.__main__ import run
from tests.property.core.naive.due import missing, missing_pairs
from tests.property.core.naive.model import OF_DOMAINS, OF_NODES
from tests.property.core.naive.noting import Came
from tests.property.core.naive.sides import play
from tests.property.core.naive.world import BALLOT_TYPES, EVERY_BALLOT_TYPE, LIMITS

from quorate.core import (
    limits,
    protocol,
)
from quorate.core.acts import ACTS
from quorate.core.outcome import Reason
from quorate.core.verbs import Verb

HISTORIES: Final = 500
RARE: Final = {Reason.SUPERSEDED}
"""Come up in one history of a thousand."""
ONLY_BY_BALLOT: Final = {
    "domain.admit",
    "domain.expel",
    "federation.set_thresholds",
    "federation.set_parameters",
    "federation.set_rates",
    "federation.upgrade",
    "federation.set_policy",
    "federation.retire_policy",
    "federation.reinstate_executor",
    "federation.freeze",
    "federation.thaw",
}


@settings(max_examples=50)
@given(st.randoms(use_true_random=False))
def test_the_ledger_decides_as_the_documents_say(chance: Random) -> None:
    """Signatures are cheap here and below: rules are what is looked at."""
    play(chance, Counter())


@pytest.fixture(scope="module")
def came() -> Came:
    found = run(range(HISTORIES), real_every=0)
    assert found.trouble == ""
    assert found.histories == HISTORIES
    return found.came


def test_nearly_everything_comes_up(came: Came) -> None:
    assert set(missing(came)) <= RARE
    never = {each for each in missing_pairs(came) if each.endswith(": yes")}
    never -= {
        "lease.acquire passed on 3 times: yes",
        "check over 3 edges: yes",
        "by ballot: federation.retire_policy: yes",
    }
    assert {
        each for each in never if not each.startswith("lease.") or "freeze" not in each
    } == set()
    yes = {verb for verb, reason in came if reason == ""}
    assert yes >= {verb.value for verb in Verb} - ONLY_BY_BALLOT
    rare = {"by ballot: domain.reinstate"}
    assert yes >= {f"by ballot: {act}" for act in EVERY_BALLOT_TYPE} - rare


def test_it_is_the_same_with_real_signatures() -> None:
    found = run(range(HISTORIES, HISTORIES + 40), real_every=1)
    assert found.trouble == ""
    assert found.histories == 40
    assert found.came["executor.register", ""] > 40


def test_the_model_knows_every_type_of_command_and_every_limit_of_theirs() -> None:
    assert OF_DOMAINS.keys() | OF_NODES.keys() == set(Verb)
    assert set(BALLOT_TYPES) == set(ACTS[protocol.FIRST])
    assert set(EVERY_BALLOT_TYPE) == set(ACTS[protocol.SECOND])
    assert {name: getattr(limits, name) for name in LIMITS} == LIMITS
