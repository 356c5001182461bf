"""How far a long piece of work has come. Owns one value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """what: of what it is, as a person reads it. done, total: how much of it; `total` may turn out
    to be a little off while the store is being written."""

    what: str
    done: int
    total: int
