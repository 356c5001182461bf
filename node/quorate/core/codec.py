"""Canonical JSON, and the stamp that a command carries through the replicated log.

Owns the one JSON form of the ledger: RFC 8785, narrowed (ASCII keys, no floating point, integers
within 2^53-1, limited depth), so that one value has one encoding in every implementation. Decoding
accepts canonical bytes only. Does not know what a value means.
"""

from __future__ import annotations

from typing import Final

import orjson

from quorate.core.errors import MalformedError
from quorate.core.limits import MAX_INTEGER, MAX_JSON_DEPTH

JsonValue = None | bool | int | str | list["JsonValue"] | dict[str, "JsonValue"]

STAMP_BYTES: Final = 8
_FLAT: Final = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER


def encode(value: object) -> bytes:
    """The canonical bytes of `value`, which may be made of dict, list, tuple, str, int, bool, None.

    Raises MalformedError when the value has no canonical form.
    """
    _validate(value, 0)
    return _dump(value)


def decode(data: bytes, max_bytes: int) -> JsonValue:
    """The value of canonical bytes from outside. Raises MalformedError for any other bytes."""
    if len(data) > max_bytes:
        raise MalformedError(f"{len(data)} bytes, at most {max_bytes} are allowed")
    value = load(data)
    _validate(value, 0)
    # What the parser forgives (duplicate keys, order, white space, escapes) comes out different.
    if _dump(value) != data:
        raise MalformedError("not canonical JSON (RFC 8785: sorted keys, no white space)")
    return value


def load(data: bytes) -> JsonValue:
    """The value of bytes that this program wrote itself: parsed, not compared.

    Raises MalformedError when they are not JSON.
    """
    try:
        value: JsonValue = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise MalformedError(f"not JSON: {error}") from error
    return value


def decode_flat(data: bytes) -> JsonValue:
    """As `decode`, and several times as fast, for a value whose fields the caller knows and looks
    at: depth and the names of keys are not looked at here. Raises MalformedError."""
    value = load(data)
    try:
        is_canonical = orjson.dumps(value, option=_FLAT) == data
    except orjson.JSONEncodeError as error:  # an integer beyond 2^53-1
        raise MalformedError(f"no canonical form: {error}") from error
    if not is_canonical:
        raise MalformedError("not canonical JSON (RFC 8785: sorted keys, no white space)")
    return value


def stamp(ledger_time_ms: int, envelope: bytes) -> bytes:
    """One command as the replicated log carries it: the leader's time, then the envelope."""
    assert 0 <= ledger_time_ms <= MAX_INTEGER, "a ledger time fits canonical JSON"
    return ledger_time_ms.to_bytes(STAMP_BYTES, "big") + envelope


def unstamp(payload: bytes) -> tuple[int, bytes]:
    """The inverse of `stamp`. Raises MalformedError."""
    if len(payload) < STAMP_BYTES:
        raise MalformedError(f"shorter than its {STAMP_BYTES} byte time stamp")
    time_ms = int.from_bytes(payload[:STAMP_BYTES], "big")
    if time_ms > MAX_INTEGER:
        raise MalformedError(f"a time stamp above {MAX_INTEGER}")
    return time_ms, payload[STAMP_BYTES:]


def _dump(value: object) -> bytes:
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:  # a lone surrogate: JSON in UTF-8 cannot say it
        raise MalformedError(f"no canonical form: {error}") from error


def _validate(value: object, depth: int) -> None:
    if value is None or isinstance(value, str | bool):
        return
    if isinstance(value, int):
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise MalformedError(f"an integer beyond {MAX_INTEGER}")
        return
    if depth >= MAX_JSON_DEPTH:
        raise MalformedError(f"nested deeper than {MAX_JSON_DEPTH}")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or not key.isascii():
                raise MalformedError("a key that is not ASCII text")
            _validate(item, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _validate(item, depth + 1)
    else:
        raise MalformedError(f"a {type(value).__name__}; only text, integers, true, false, null")
