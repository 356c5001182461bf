"""Changes of inputs that know what the inputs are made of.

Owns the changes: of bytes anywhere, and of the JSON in them, which stays canonical and may itself
hold JSON in base64. A change of single bytes alone would hardly ever leave canonical JSON behind.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from random import Random
from typing import Any, Final

import orjson
from tests.fuzz.harness import MAX_INPUT_BYTES, SEPARATOR

_NUMBERS: Final = (0, 1, -1, 2**31, 2**53 - 1, 2**53, 2**63 - 1, 2**64 - 1, 10**15)
_TEXTS: Final = (
    "", " ", ".", "/", "*", "//", "a", "~", "~x/y", "é", "\x00", "\n", "\u2028", "٣", "\U0001f512",
    "x" * 64, "x" * 300, "0" * 64, "f" * 32, "spiffe://a/node/1", "spiffe://b/x", "//a/*",
    "bank.example", "//bank.example/*", "spiffe://bank.example/node/1", "AAAA", "=",
)  # fmt: skip
_VALUES: Final[tuple[Any, ...]] = (None, True, False, 1.5, [], {}, [[]], {"": 0}, *_NUMBERS)
_SWELLS: Final = (2, 17, 300, 4_000)


def mutated(data: bytes, random: Random, others: list[bytes]) -> bytes:
    """One to four changes of `data`; `others` are inputs of the same target."""
    for _ in range(random.choice((1, 1, 2, 4))):
        parts = data.split(SEPARATOR)
        at = random.randrange(len(parts))
        change = random.choice((_change_json, _change_json, _change_bytes, _change_parts))
        if change is _change_parts:
            _change_parts(parts, at, random, others)
        elif change is _change_json:
            parts[at] = _change_json(parts[at], random, others)
        else:
            parts[at] = _change_bytes(parts[at], random, others)
        data = SEPARATOR.join(parts)[:MAX_INPUT_BYTES]
    return data


def _change_parts(parts: list[bytes], at: int, random: Random, others: list[bytes]) -> None:
    match random.randrange(4):
        case 0 if others:
            parts[at:at] = random.choice(others).split(SEPARATOR)[:4]
        case 1:
            parts.append(parts[at])
        case 2 if len(parts) > 1:
            del parts[at]
        case _:
            random.shuffle(parts)


def _change_bytes(data: bytes, random: Random, others: list[bytes]) -> bytes:
    begin = random.randrange(len(data) + 1)
    end = min(len(data), begin + random.choice((1, 1, 2, 4, 8, 40)))
    match random.randrange(6):
        case 0:
            return data[:begin] + random.randbytes(end - begin) + data[end:]
        case 1:
            return data[:begin] + data[end:]
        case 2:
            return data[:begin] + data[begin:end] * random.choice(_SWELLS) + data[end:]
        case 3:
            number = random.choice(_NUMBERS) % 2**64
            size = random.choice((1, 2, 4, 8))
            put = (number % 256**size).to_bytes(size, "big")
            return data[:begin] + random.choice((put, put[::-1])) + data[begin + size :]
        case 4 if others:
            other = random.choice(others)
            return data[:begin] + other[random.randrange(len(other) + 1) :]
        case _:
            flipped = bytearray(data)
            if data:
                flipped[begin % len(data)] ^= 1 << random.randrange(8)
            return bytes(flipped)


def _change_json(data: bytes, random: Random, others: list[bytes]) -> bytes:
    found = [at for at in (data.find(b"{"), data.find(b"[")) if at >= 0]
    begin = min(found, default=0)
    try:
        value = orjson.loads(data[begin:])
        changed = _changed(value, random, others)
        dumped: bytes = orjson.dumps(changed, option=orjson.OPT_SORT_KEYS)
        return data[:begin] + dumped
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return _change_bytes(data, random, others)


def _changed(value: Any, random: Random, others: list[bytes]) -> Any:
    """The value with one place in it changed."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        key = random.choice(sorted(value))
        match random.randrange(8):
            case 0:
                return {name: each for name, each in value.items() if name != key}
            case 1:
                return value | {random.choice((*_TEXTS, *value)): random.choice(_VALUES)}
            case _:
                return value | {key: _changed(value[key], random, others)}
    if isinstance(value, list) and value and random.random() < 0.9:
        at = random.randrange(len(value))
        match random.randrange(6):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return value[:at] + [value[at]] * random.choice((2, 17, 40)) + value[at:]
            case 2:
                return random.sample(value, len(value))
            case _:
                return [*value[:at], _changed(value[at], random, others), *value[at + 1 :]]
    if isinstance(value, str) and random.random() < 0.8:
        return _changed_text(value, random, others)
    if isinstance(value, int) and random.random() < 0.5:
        return value + random.choice((-1, 1, 1000, -1000))
    return random.choice((*_VALUES, *_TEXTS))


def _changed_text(text: str, random: Random, others: list[bytes]) -> str:
    try:
        inner = b64decode(text, validate=True)
        if inner[:1] in (b"{", b"["):
            return b64encode(_change_json(inner, random, others)).decode("ascii")
    except ValueError:
        pass
    if text[:1] == "{":
        changed = _change_json(text.encode(), random, others)
        return changed.decode("utf-8", "replace")
    at = random.randrange(len(text) + 1)
    match random.randrange(5):
        case 0:
            return text[:at] + random.choice(_TEXTS) + text[at:]
        case 1:
            return text[:at] + text[at + 1 :]
        case 2:
            return text.upper()
        case 3:
            return text * random.choice((2, 5))
        case _:
            return random.choice(_TEXTS)
