"""The claims of the demonstration: what was measured, the bound, and whether it held.

Owns the verdicts. A claim is made from measured data by one of four comparisons and by nothing
else, so that none can be true by being written down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

Value = int | float | str

MILLISECONDS: Final = "ms"


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim. `relation` says how `measured` must stand to `bound`."""

    id: str
    statement: str
    measured: Value
    relation: str
    bound: Value
    unit: str
    holds: bool

    def to_json(self) -> dict[str, Value | bool]:
        return {
            "id": self.id,
            "statement": self.statement,
            "measured": self.measured,
            "relation": self.relation,
            "bound": self.bound,
            "unit": self.unit,
            "holds": self.holds,
        }


def at_most(id_: str, statement: str, measured: float, bound: float, unit: str = "") -> Claim:
    return Claim(id_, statement, _shown(measured), "<=", _shown(bound), unit, measured <= bound)


def at_least(id_: str, statement: str, measured: float, bound: float, unit: str = "") -> Claim:
    return Claim(id_, statement, _shown(measured), ">=", _shown(bound), unit, measured >= bound)


def more_than(id_: str, statement: str, measured: float, bound: float, unit: str = "") -> Claim:
    return Claim(id_, statement, _shown(measured), ">", _shown(bound), unit, measured > bound)


def equal(id_: str, statement: str, measured: Value, bound: Value, unit: str = "") -> Claim:
    return Claim(id_, statement, _shown(measured), "=", _shown(bound), unit, measured == bound)


def _shown(value: Value) -> Value:
    """Rounded for people; the comparison is made with the value itself."""
    return round(value, 1) if isinstance(value, float) else value
