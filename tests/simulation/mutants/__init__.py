"""Deliberate breaks of the federation, each of which its simulator must catch: the proof that it
can fail.

Owns the list. `python -m tests.simulation.mutants` (`make sim-mutants`) runs all of them.
"""

from __future__ import annotations

from tests.simulation.mutants import authority, durability, ledger, lineage, membership, raft
from tests.simulation.mutants.mutant import Mutant

__all__ = ["MUTANTS", "Mutant"]

MUTANTS: tuple[Mutant, ...] = (
    *durability.MUTANTS,
    *raft.MUTANTS,
    *membership.MUTANTS,
    *authority.MUTANTS,
    *ledger.MUTANTS,
    *lineage.MUTANTS,
)
