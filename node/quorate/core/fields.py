"""Reading one JSON object field by field, so that every fault names its place.

Owns the reader that commands, genesis documents and records are parsed with. Does not know what
any field means.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable

from quorate.core.errors import MalformedError
from quorate.core.limits import MAX_INTEGER, MAX_NAME_CHARS


def unbase64(text: str, field: str) -> bytes:
    """The bytes of standard base64 with padding, in its one canonical spelling."""
    try:
        data = b64decode(text, validate=True)
    except (Base64Error, ValueError) as error:
        raise MalformedError("not base64", field=field) from error
    if b64encode(data).decode("ascii") != text:
        raise MalformedError("not canonical base64", field=field)
    return data


class Fields:
    """One JSON object that is being read. Every getter raises MalformedError with the path."""

    def __init__(self, value: object, path: str = "") -> None:
        if not isinstance(value, dict):
            raise MalformedError("must be an object", field=path)
        self._left = dict(value)
        self._path = path

    def at(self, name: str) -> str:
        """The dotted path of a field."""
        return f"{self._path}.{name}" if self._path else name

    def take(self, name: str) -> object:
        value = self.peek(name)
        del self._left[name]
        return value

    def peek(self, name: str) -> object:
        """What a field holds, which is still to be read."""
        if name not in self._left:
            raise MalformedError("is missing", field=self.at(name))
        return self._left[name]

    def text(self, name: str, check: Callable[[str], object] | None = None) -> str:
        """A string; `check` raises MalformedError when it is not of its kind."""
        value = self.take(name)
        if not isinstance(value, str):
            raise MalformedError("must be text", field=self.at(name))
        if check is not None:
            self.checked(name, value, check)
        return value

    def integer(self, name: str, least: int = 0, most: int = MAX_INTEGER) -> int:
        value = self.take(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise MalformedError("must be an integer", field=self.at(name))
        if not least <= value <= most:
            raise MalformedError(f"must be within {least} and {most}", field=self.at(name))
        return value

    def truth(self, name: str) -> bool:
        value = self.take(name)
        if not isinstance(value, bool):
            raise MalformedError("must be true or false", field=self.at(name))
        return value

    def texts(
        self, name: str, check: Callable[[str], object], most: int, least: int = 1
    ) -> tuple[str, ...]:
        """A list of different strings, of one or more unless `least` says otherwise."""
        value = self.take(name)
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise MalformedError(f"must be a list of {least} to {most}", field=self.at(name))
        for index, item in enumerate(value):
            if not isinstance(item, str):
                raise MalformedError("must be text", field=self.at(f"{name}[{index}]"))
            self.checked(f"{name}[{index}]", item, check)
        if len(set(value)) != len(value):
            raise MalformedError("names something twice", field=self.at(name))
        return tuple(value)

    def all_texts(self) -> dict[str, str]:
        """Everything that was not read yet, all of it text."""
        return {name: self.text(name) for name in sorted(self._left)}

    def has(self, name: str) -> bool:
        """Whether a field is there that was not read yet."""
        return name in self._left

    def objects(self, name: str, least: int, most: int) -> list[object]:
        value = self.take(name)
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise MalformedError(f"must be a list of {least} to {most}", field=self.at(name))
        return value

    def nested(self, name: str) -> Fields:
        return Fields(self.take(name), self.at(name))

    def checked(self, name: str, value: str, check: Callable[[str], object]) -> None:
        try:
            check(value)
        except MalformedError as error:
            raise MalformedError(error.problem, field=self.at(name)) from error

    def done(self) -> None:
        """Refuses what nobody asked for: an unknown field may change the meaning of the rest."""
        for name in sorted(self._left):
            # Cut short: the name is anybody's, and stands in the ledger entry of the refusal.
            shown = self.at(name[:MAX_NAME_CHARS])
            raise MalformedError("is not a field of this object", field=shown)
