"""Writing the TOML of a node's configuration: tables of texts, numbers and truths, one level deep.

Owns nothing else; the standard library reads TOML and does not write it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping


def to_toml(document: Mapping[str, Mapping[str, str | int | bool]]) -> str:
    """The document as TOML. Every key is quoted, which TOML takes as it takes bare ones."""
    lines: list[str] = []
    for table, values in document.items():
        lines.append(f"[{_text(table)}]")
        lines += [f"{_text(key)} = {_value(value)}" for key, value in values.items()]
        lines.append("")
    return "\n".join(lines)


def _text(text: str) -> str:
    # A JSON string without non-ASCII escapes is a TOML basic string; DEL alone is not in both.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")


def _value(value: str | int | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    assert isinstance(value, str)
    return _text(value)
