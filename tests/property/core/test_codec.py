"""Canonical JSON against an independent implementation, and parsers on arbitrary bytes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.core import codec, dsse, ids, patterns
from quorate.core.commands import parse_command
from quorate.core.errors import MalformedError
from quorate.core.genesis import parse_descriptor, parse_draft, parse_genesis
from quorate.core.limits import MAX_INTEGER

INTEGERS = st.integers(-MAX_INTEGER, MAX_INTEGER)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
KEYS = st.text(st.characters(max_codepoint=127), max_size=8)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | INTEGERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=200)
@given(VALUES)
def test_the_canonical_form_is_rfc_8785(value: Any) -> None:
    data = codec.encode(value)
    assert data == rfc8785.dumps(value)
    assert codec.decode(data, len(data)) == value


@settings(deadline=None, max_examples=200)
@given(VALUES, st.data())
def test_no_other_bytes_mean_the_same(value: Any, data: st.DataObject) -> None:
    """Whatever is accepted is the one encoding of its value."""
    mutated = bytearray(codec.encode(value))
    position = data.draw(st.integers(0, len(mutated)))
    mutated[position : position + data.draw(st.integers(0, 1))] = data.draw(st.binary(max_size=2))
    with suppress(MalformedError):
        decoded = codec.decode(bytes(mutated), 100_000)
        assert codec.encode(decoded) == bytes(mutated)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200) | VALUES.map(codec.encode))
def test_parsers_refuse_what_they_do_not_know_and_never_break(data: bytes) -> None:
    for parse in (parse_command, parse_descriptor, parse_genesis, parse_draft):
        with suppress(MalformedError):
            parse(data)
    with suppress(MalformedError):
        dsse.parse(data, 4096)
    with suppress(MalformedError):
        dsse.check_public_key(data)


CHECKS = (
    ids.check_domain,
    ids.check_node,
    ids.check_executor,
    ids.check_resource,
    ids.check_action,
    ids.check_name,
    ids.check_origin,
    ids.check_nonce,
    ids.check_address,
    patterns.check_action_pattern,
    patterns.check_resource_pattern,
)


@settings(deadline=None, max_examples=200)
@given(st.text(st.sampled_from("ab.*/:_-1spife\n\x00ä\ud800"), max_size=12))
def test_names_are_printable_ascii_or_refused(text: str) -> None:
    for check in CHECKS:
        with suppress(MalformedError):
            check(text)
            assert text.isascii()
            assert text.isprintable()


SEGMENTS = st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=3)


@settings(deadline=None, max_examples=200)
@given(SEGMENTS, SEGMENTS, st.booleans())
def test_a_pattern_matches_by_whole_segments(
    pattern: list[str], value: list[str], wild: bool
) -> None:
    expected = (
        len(value) > len(pattern) and value[: len(pattern)] == pattern if wild else value == pattern
    )
    action_pattern = ".".join(pattern) + (".*" if wild else "")
    resource_pattern = "//d/" + "/".join(pattern) + ("/*" if wild else "")
    assert patterns.action_matches(action_pattern, ".".join(value)) is expected
    assert patterns.resource_matches(resource_pattern, "//d/" + "/".join(value)) is expected
