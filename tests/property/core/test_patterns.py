"""Which pattern is within which, held to what they match."""

from __future__ import annotations

import string
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.core import ids
from quorate.core.limits import MAX_PATTERNS
from quorate.core.patterns import (
    ANY_ACTION,
    action_matches,
    check_action_pattern,
    check_resource_pattern,
    covers,
    first_outside,
    is_within,
    resource_matches,
)

SETTINGS = settings(deadline=None, max_examples=400)
ACTION_CHARS = string.ascii_lowercase + string.digits + "_"
RESOURCE_CHARS = string.ascii_letters + string.digits + "_-"

# Few letters: prefixes of each other, and segments that begin like each other, are common.
segments = st.text("ab", min_size=1, max_size=2)
actions = st.lists(segments, min_size=1, max_size=4).map(".".join)
resources = st.lists(segments, min_size=1, max_size=4).map(lambda some: "//b/" + "/".join(some))
action_patterns = st.just(ANY_ACTION) | actions | actions.map(lambda action: action + ".*")
resource_patterns = st.just("//b/*") | resources | resources.map(lambda resource: resource + "/*")


def names_of(pattern: str, chars: str) -> Iterator[str]:
    """Enough of what a pattern matches: more names one character long below a prefix than there
    are patterns in a list."""
    if pattern.endswith("*"):
        yield from (pattern[:-1] + char for char in chars)
    else:
        yield pattern


@SETTINGS
@given(action_patterns, action_patterns, actions)
def test_what_is_within_is_matched_of_actions(one: str, wider: str, action: str) -> None:
    check_action_pattern(one)
    check_action_pattern(wider)
    ids.check_action(action)
    if is_within(one, wider) and action_matches(one, action):
        assert action_matches(wider, action)
    everything = all(action_matches(wider, name) for name in names_of(one, ACTION_CHARS))
    assert is_within(one, wider) == everything


@SETTINGS
@given(resource_patterns, resource_patterns, resources)
def test_what_is_within_is_matched_of_resources(one: str, wider: str, resource: str) -> None:
    check_resource_pattern(one)
    check_resource_pattern(wider)
    ids.check_resource(resource)
    if is_within(one, wider) and resource_matches(one, resource):
        assert resource_matches(wider, resource)
    everything = all(resource_matches(wider, name) for name in names_of(one, RESOURCE_CHARS))
    assert is_within(one, wider) == everything


@SETTINGS
@given(action_patterns, action_patterns, action_patterns)
def test_within_is_an_order(one: str, two: str, three: str) -> None:
    assert is_within(one, one)
    if is_within(one, two) and is_within(two, three):
        assert is_within(one, three)
    if is_within(one, two) and is_within(two, one):
        assert one == two


@SETTINGS
@given(
    st.lists(action_patterns, min_size=1, max_size=4),
    st.lists(action_patterns, min_size=1, max_size=4),
    st.lists(resource_patterns, min_size=1, max_size=4),
    st.lists(resource_patterns, min_size=1, max_size=4),
    actions,
    resources,
)
def test_what_lists_within_lists_cover_is_covered(  # noqa: PLR0917  # two scopes, and an act
    some: list[str],
    more: list[str],
    those: list[str],
    these: list[str],
    action: str,
    resource: str,
) -> None:
    are_within = first_outside(some, more) is None and first_outside(those, these) is None
    if are_within and covers(some, those, action, resource):
        assert covers(more, these, action, resource)


@SETTINGS
@given(
    st.lists(action_patterns, min_size=1, max_size=4),
    st.lists(action_patterns, max_size=MAX_PATTERNS)
    | st.permutations([f"a.{char}" for char in ACTION_CHARS]).map(lambda all_: all_[:MAX_PATTERNS]),
)
def test_what_is_outside_has_a_name_that_is(some: list[str], wider: list[str]) -> None:
    """Lists of the allowed length match no more together than one after the other."""
    outside = first_outside(some, wider)
    covered = all(
        any(action_matches(one, name) for one in wider)
        for each in some
        for name in names_of(each, ACTION_CHARS)
    )
    assert (outside is None) == covered
    assert outside is None or outside in some
