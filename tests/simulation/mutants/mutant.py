"""What a deliberate break is: one rule replaced by a plausible mistake, and how soon that shows.

Owns the type. What is broken is in the modules beside this one, by area.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Mutant:
    """A break, to be used as what `--patches` names: called, it gives the context manager that is
    in force while a run lasts.

    breaks: puts the mistake in the rule's place; its name and docstring are the mutant's.
    profile: what kind of runs show it. within: how many of them, from seed 0 on, may be needed.
    promises: parts of their names; one of these has to be broken. None: any may be.
    is_quick: whether it is seen within a second or two of computing.
    """

    breaks: Callable[[Patch], None]
    profile: str
    within: int
    promises: tuple[str, ...]
    is_quick: bool

    @property
    def name(self) -> str:
        return self.breaks.__name__

    @property
    def what(self) -> str:
        """What is broken, in one line."""
        return " ".join((self.breaks.__doc__ or "").split())

    @property
    def patches(self) -> str:
        """How `--patches` names it."""
        return f"{self.breaks.__module__}:{self.name}"

    def shows_in(self, promise: str) -> bool:
        """Whether a run that broke this promise has seen the break."""
        return not self.promises or any(part in promise for part in self.promises)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            self.breaks(patch)
            yield


def mutant(
    profile: str, within: int, *promises: str, quick: bool = False
) -> Callable[[Callable[[Patch], None]], Mutant]:
    """Makes a mutant of the function that breaks something; see `Mutant`."""
    return lambda breaks: Mutant(breaks, profile, within, promises, quick)
