"""How far a state that another node has sent can have come.

Owns the bounds of its indexes and moments. One from the future is more than a lie: what comes next
has to be later than it, so that the truth would be refused, or it would never end. Does not own
which records have them.
"""

from __future__ import annotations

from dataclasses import dataclass

from quorate.core import protocol
from quorate.core.errors import MalformedError
from quorate.core.limits import MAX_INTEGER


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the state lives by.

    ledger_time: in ms. version: of the protocol. ledger_size: how many entries its ledger has.
    fence_base: more than all ledgers had before a recovery; 0: there was none.
    """

    ledger_time: int = 0
    version: int = protocol.FIRST
    ledger_size: int = MAX_INTEGER
    fence_base: int = 0

    @property
    def ever(self) -> int:
        """More than there ever were entries, those before a recovery included."""
        return self.fence_base + self.ledger_size

    def check_index(self, index: int, what: str) -> None:
        """Of something whose index a recovery sets to 0. Raises MalformedError, as the others."""
        require(index < self.ledger_size, f"{what} is of an entry that there is not")

    def check_any_index(self, index: int, what: str) -> None:
        """Of something that keeps its index through a recovery."""
        require(index < self.ever, f"{what} is of an entry that there never was")

    def check_moment(self, moment: int, what: str, ahead_ms: int = 0) -> None:
        """ahead_ms: how far beyond the ledger's time it may be."""
        require(moment <= self.ledger_time + ahead_ms, f"{what} is in the future")


def require(holds: bool, problem: str) -> None:
    if not holds:
        raise MalformedError(problem)
