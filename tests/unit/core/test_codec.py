from __future__ import annotations

import pytest

from quorate.core import codec
from quorate.core.errors import MalformedError
from quorate.core.limits import MAX_INTEGER, MAX_JSON_DEPTH


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nul",
        b" 1",
        b"1 ",
        b'{"a": 1}',
        b'{"b":1,"a":2}',
        b'{"a":1,"a":1}',
        b'{"a":1,"a":2}',
        b"1.0",
        b"1e3",
        b"-0",
        b"01",
        b"NaN",
        b"Infinity",
        str(MAX_INTEGER + 1).encode(),
        str(-MAX_INTEGER - 1).encode(),
        b"123456789012345678901234567890",
        b'"\\u0041"',
        b'"\\/"',
        b'"\\ud800"',
        b'"\xff"',
        '{"ä":1}'.encode(),
        b"[1,]",
        b"\xef\xbb\xbf1",
        nested(MAX_JSON_DEPTH + 1),
        nested(100_000),
    ],
)
def test_bytes_that_are_not_canonical_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        codec.decode(data, 1_000_000)


@pytest.mark.parametrize(
    "data",
    [
        b"null",
        b'""',
        b"0",
        b"-1",
        str(MAX_INTEGER).encode(),
        b'{"a":[true,false,null],"b":{}}',
        '"ä\u007f"'.encode(),
        b'"\\u0001\\n"',
        nested(MAX_JSON_DEPTH),
    ],
)
def test_canonical_bytes_come_back_the_same(data: bytes) -> None:
    assert codec.encode(codec.decode(data, len(data))) == data


def test_more_bytes_than_allowed_are_refused_unread() -> None:
    with pytest.raises(MalformedError, match="at most 3"):
        codec.decode(b"1234", 3)


@pytest.mark.parametrize(
    "value", [1.0, {1: 2}, {"ä": 1}, MAX_INTEGER + 1, b"x", {1}, "\ud800", {"a": ["\udfff"]}]
)
def test_values_without_a_canonical_form_are_not_encoded(value: object) -> None:
    with pytest.raises(MalformedError):
        codec.encode(value)


def test_a_stamp_comes_back() -> None:
    assert codec.unstamp(codec.stamp(1_700_000_000_000, b"envelope")) == (
        1_700_000_000_000,
        b"envelope",
    )
    assert codec.unstamp(codec.stamp(MAX_INTEGER, b"")) == (MAX_INTEGER, b"")


@pytest.mark.parametrize("payload", [b"", b"1234567", (MAX_INTEGER + 1).to_bytes(8, "big")])
def test_a_stamp_that_is_none_is_refused(payload: bytes) -> None:
    with pytest.raises(MalformedError):
        codec.unstamp(payload)


@pytest.mark.parametrize(
    ("data", "is_good"),
    [
        (b'{"a":1,"b":["x","\xc3\xa9"]}', True),
        (b'{"a":9007199254740991}', True),
        (b'{"a":9007199254740992}', False),
        (b'{"b":1,"a":1}', False),
        (b'{"a":1,"a":1}', False),
        (b'{"a": 1}', False),
        (b'{"a":1} ', False),
        (b'{"a":"\\u00e9"}', False),
        (b'{"a":1.0}', True),
        (b"\xff", False),
        (b"", False),
    ],
)
def test_what_is_flat_is_decoded_as_strictly_but_for_what_its_reader_looks_at(
    data: bytes, is_good: bool
) -> None:
    """Its types are the reader's to look at."""
    if is_good:
        assert codec.decode_flat(data) == codec.load(data)
        return
    for decode in (codec.decode_flat, lambda data: codec.decode(data, 100)):
        with pytest.raises(MalformedError):
            decode(data)
