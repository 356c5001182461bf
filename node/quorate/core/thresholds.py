"""How many domains have to agree, for each thing that no domain decides alone.

Owns the rules and their arithmetic. Who has a vote, and what is voted on, is
`quorate.core.balloting`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from quorate.core.errors import MalformedError
from quorate.core.rows import Row


class Threshold(StrEnum):
    """Of the domains that have a vote."""

    MAJORITY = "majority"
    TWO_THIRDS = "two-thirds"
    UNANIMITY = "unanimity"

    def needed(self, voters: int) -> int:
        """How many of so many voters: more than half of them, whatever the rule, and somebody."""
        majority = voters // 2 + 1
        match self:
            case Threshold.MAJORITY:
                return majority
            case Threshold.TWO_THIRDS:
                return max(-(-2 * voters // 3), majority)
            case Threshold.UNANIMITY:
                return max(voters, majority)


Thresholds = Mapping[str, Threshold]
"""By the type of what is decided; what is not named needs a majority."""


def thresholds_to_json(thresholds: Thresholds) -> dict[str, str]:
    return {name: threshold.value for name, threshold in thresholds.items()}


def thresholds_from_json(value: object) -> Thresholds:
    """Raises MalformedError."""
    if not isinstance(value, dict):
        raise MalformedError("must be an object")
    row = Row(value)
    return {name: row.choice(name, Threshold) for name in sorted(value)}
