"""What was given before the name of a command, for whatever command it is.

Owns the two options that every command of an organisation has: which keys sign it, and whether it
is kept in a file. Loads nothing, so that no other command pays for it.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True)
class Given:
    """governance_keys: where the private keys are. save: None: the command is submitted."""

    governance_keys: tuple[str, ...] = ()
    save: Path | None = None


_NOTHING: Final = Given()
_GIVEN: Final[ContextVar[Given | None]] = ContextVar("given", default=None)


def set_given(governance_keys: tuple[str, ...], save: Path | None) -> None:
    _GIVEN.set(Given(governance_keys, save))


def given() -> Given:
    return _GIVEN.get() or _NOTHING
