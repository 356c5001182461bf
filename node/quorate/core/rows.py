"""Reading back a record that this program wrote.

Owns the check that each field has its type: a record that is damaged must never be half understood.
Lighter than `quorate.core.fields`, because what is stored was judged before it was written.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar

from quorate.core.errors import MalformedError

E = TypeVar("E", bound=StrEnum)
T = TypeVar("T")
M = TypeVar("M")


class Row:
    """A stored JSON object, read with the type of each field checked."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        if not isinstance(value, dict):
            raise MalformedError("a record must be an object")
        self._value = value

    def text(self, name: str) -> str:
        value = self._value.get(name)
        if not isinstance(value, str):
            raise MalformedError("must be text", field=name)
        return value

    def text_or(self, name: str, missing: str) -> str:
        """As `text`; `missing` when there is no such field."""
        return self.text(name) if name in self._value else missing

    def number(self, name: str) -> int:
        value = self._value.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise MalformedError("must be a number", field=name)
        return value

    def number_or(self, name: str, missing: int) -> int:
        """As `number`; `missing` when there is no such field."""
        return self.number(name) if name in self._value else missing

    def flag(self, name: str) -> bool:
        value = self._value.get(name)
        if not isinstance(value, bool):
            raise MalformedError("must be true or false", field=name)
        return value

    def flag_or(self, name: str, *, missing: bool) -> bool:
        """As `flag`; `missing` when there is no such field."""
        return self.flag(name) if name in self._value else missing

    def texts(self, name: str) -> tuple[str, ...]:
        value = self._value.get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise MalformedError("must be a list of text", field=name)
        return tuple(value)

    def texts_or(self, name: str, missing: tuple[str, ...]) -> tuple[str, ...]:
        """As `texts`; `missing` when there is no such field."""
        return self.texts(name) if name in self._value else missing

    def parsed_or(self, name: str, parse: Callable[[object], T], missing: M) -> T | M:
        """What `parse` makes of a field; `missing` when there is no such field."""
        return parse(self._value[name]) if name in self._value else missing

    def choice(self, name: str, kind: type[E]) -> E:
        try:
            return kind(self.text(name))
        except ValueError as error:
            raise MalformedError(f"is no {kind.__name__}", field=name) from error

    def nested(self, name: str) -> object:
        return self._value.get(name)
