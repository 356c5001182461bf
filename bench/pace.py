"""How long a benchmark takes its time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """seconds: of each measurement. tell: is told what is being measured, in words."""

    rounds: int
    seconds: float
    tell: Callable[[str], None]
