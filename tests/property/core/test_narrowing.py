"""An edge of trust that is narrowed again and again, held to what it covers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.core.outcome import Reason
from quorate.core.patterns import covers
from quorate.core.records import TrustEdge
from quorate.core.store import MemoryStore
from quorate.testing.builders import Federation, Ledger, narrow_body, trust_body

BANK, CLINIC = "bank.example", "clinic.example"
LEAVES = ("a", "b", "z")
ACTIONS = [".".join(path) for depth in (1, 2, 3) for path in product(LEAVES, repeat=depth)]
RESOURCES = [f"//{BANK}/" + action.replace(".", "/") for action in ACTIONS]
"""All that is asked for. No pattern ends in z: so there is a name below each prefix that no longer
pattern covers."""

paths = st.lists(st.sampled_from("ab"), min_size=1, max_size=2)
action_patterns = st.just("*") | st.builds(
    lambda path, end: ".".join(path) + end, paths, st.sampled_from(("", ".*"))
)
resource_patterns = st.just(f"//{BANK}/*") | st.builds(
    lambda path, end: f"//{BANK}/" + "/".join(path) + end, paths, st.sampled_from(("", "/*"))
)
scopes = st.tuples(
    st.lists(action_patterns, min_size=1, max_size=3, unique=True),
    st.lists(resource_patterns, min_size=1, max_size=3, unique=True),
)


def acts(actions: Sequence[str], resources: Sequence[str]) -> set[tuple[str, str]]:
    return {
        (action, resource)
        for action, resource in product(ACTIONS, RESOURCES)
        if covers(actions, resources, action, resource)
    }


@pytest.fixture(scope="module")
def founded() -> Ledger:
    return Ledger(Federation.build())


@settings(deadline=None, max_examples=120)
@given(first=scopes, later=st.lists(scopes, min_size=1, max_size=6))
def test_whoever_is_covered_after_was_covered_before(
    founded: Ledger, first: tuple[list[str], list[str]], later: list[tuple[list[str], list[str]]]
) -> None:
    ledger = Ledger(founded.federation)
    ledger.store = MemoryStore()
    for key, value in founded.store.items():
        ledger.store.put(key, value)

    def edge() -> TrustEdge:
        found = ledger.view.trust_edge(BANK, "edge")
        assert found is not None
        return found

    body = trust_body("edge", CLINIC, first[1], actions=first[0])
    assert ledger.run(BANK, "trust.open", body).outcome.accepted
    for actions, resources in later:
        before = acts(edge().actions, edge().resources)
        wanted = acts(actions, resources)
        outcome = ledger.run(BANK, "trust.narrow", narrow_body("edge", resources, actions)).outcome
        if wanted < before:
            assert outcome.accepted
        elif wanted == before:
            assert outcome.reason is Reason.ILLEGAL_TRANSITION
        else:
            assert outcome.reason is Reason.WIDENS
            assert outcome.thing in (*actions, *resources)
        assert acts(edge().actions, edge().resources) == (wanted if outcome.accepted else before)
