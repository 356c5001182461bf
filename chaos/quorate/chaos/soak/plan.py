"""What is done to a federation in a soak, and when: drawn from a seed.

Owns the choice of faults. Pure: it waits for nothing and hurts nobody (see `run`).

A soak is a sequence of eras; each ends with the death of all nodes at once. Within an era one node
is spared from kills, another one each time, and the last era takes a third of the whole: a leak is
seen in processes that live long. An era is a sequence of rounds; after each, the ledgers are
compared.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

FAULTS_A_ROUND: Final = (3, 6)
CALM_S: Final = (1.0, 5.0)
AWAY_S: Final = (0.5, 6.0)
ALL_AWAY_S: Final = (0.0, 3.0)
ERA_SHARE: Final = 1 / 15
LAST_ERA_SHARE: Final = 1 / 3
LEAST_ERA_S: Final = 45.0


class Fault(StrEnum):
    """The kinds of faults."""

    KILL_NODE = "node killed"
    KILL_CORE = "core killed"
    KILL_ALL = "all nodes killed at once"
    STOP_NODE = "node stopped (SIGSTOP)"
    STOP_CORE = "core stopped (SIGSTOP)"
    ISOLATE = "node cut off"


KILLS: Final = (Fault.KILL_NODE, Fault.KILL_CORE)
_WEIGHTS: Final = {
    Fault.KILL_NODE: 3,
    Fault.KILL_CORE: 3,
    Fault.STOP_NODE: 2,
    Fault.STOP_CORE: 2,
    Fault.ISOLATE: 1,
}


@dataclass(frozen=True, slots=True)
class Act:
    """One fault: after `calm_s` without any, it lasts for `away_s`. domain: empty for all."""

    fault: Fault
    domain: str
    calm_s: float
    away_s: float


class Plan:
    """The faults of one seed. The same calls get the same answers."""

    def __init__(self, domains: Sequence[str], seed: int) -> None:
        assert len(domains) > 1, "one is spared, another one is hurt"
        self._domains = tuple(domains)
        self._chance = random.Random(seed)  # noqa: S311 - a plan's choices, no secret

    def spared(self, era: int) -> str:
        """The node that is not killed in an era before its end."""
        return self._domains[era % len(self._domains)]

    def round(self, spared: str) -> list[Act]:
        """The faults of the next round."""
        number = self._chance.randint(*FAULTS_A_ROUND)
        faults = self._chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()), k=number)
        return [self._act(fault, spared) for fault in faults]

    def end_of_era(self) -> Act:
        """The death of all."""
        calm_s, away_s = self._chance.uniform(*CALM_S), self._chance.uniform(*ALL_AWAY_S)
        return Act(Fault.KILL_ALL, "", calm_s, away_s)

    def _act(self, fault: Fault, spared: str) -> Act:
        victims = [d for d in self._domains if d != spared or fault not in KILLS]
        return Act(
            fault,
            self._chance.choice(victims),
            self._chance.uniform(*CALM_S),
            self._chance.uniform(*AWAY_S),
        )


def era_s(elapsed_s: float, seconds: float) -> float:
    """How long an era lasts that begins at `elapsed_s` of a soak of `seconds`."""
    left_s = seconds - elapsed_s
    shorter_s = max(seconds * ERA_SHARE, LEAST_ERA_S)
    # What would begin within the share of the last era, or leave it shorter than others, is its.
    last_s = max(seconds * LAST_ERA_SHARE, shorter_s)
    return shorter_s if left_s - shorter_s >= last_s else left_s
