"""Breaks of what a node keeps until the ledger has it: what executors said, and what was denied.

That the ledger minds the head which a report follows is not among them: a command that is proposed
anew has the nonce of before, so that no run shows it. `tests/unit/core/test_reporting.py` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.simulation.mutants.mutant import Patch, mutant

from quorate.consensus import Replica
from quorate.node import outbox
from quorate.node.node_core import NodeCore
from quorate.node.outbox import Outbox, Row
from quorate.storage import layout
from quorate.storage.turn import Turn


@mutant("crashing", 40, "what was reported is in the ledger")
def reports_acknowledged_before_they_are_durable(patch: Patch) -> None:
    """Who reports is told that it is durable when a turn has decided."""
    original = NodeCore.decide

    def decide(self: Any) -> bool:
        is_good = original(self)
        if is_good:
            self._observer.kept(self.outbox.kept)
        return is_good

    patch.setattr(NodeCore, "decide", decide)


@mutant("disks", 12, "once", "in order", "is counted")
def heads_that_stay_in_memory(patch: Patch) -> None:
    """Which rows are in a command is not written down: after a crash nobody knows what is done."""
    original = Row.to_bytes

    def to_bytes(self: Row) -> bytes:
        return bytes(32) + original(self)[32:]

    patch.setattr(Row, "to_bytes", to_bytes)


@mutant("crashing", 20, "what was reported is in the ledger", "is counted")
def rows_dropped_when_proposed(patch: Patch) -> None:
    """A command that was proposed is taken for one that will be executed."""
    original = Outbox._propose

    def propose(self: Any, replica: Replica, ledger_time_ms: int, now_s: float) -> bool:
        before = self._flight
        has_proposed = original(self, replica, ledger_time_ms, now_s)
        if self._flight is not before:
            self._drop(len(self._sealed()))
        return has_proposed

    patch.setattr(Outbox, "_propose", propose)


@mutant("disks", 12, "once", "is counted")
def probation_that_keeps_the_outbox(patch: Patch) -> None:
    """A store that was restored goes on with what waited in it then."""
    original = Turn.set_probation

    def set_probation(self: Any, stage: str) -> None:
        if stage:
            self._put(self._dbs.meta, layout.META_PROBATION, stage.encode())
        else:
            original(self, stage)

    patch.setattr(Turn, "set_probation", set_probation)


@mutant("partitions", 12, "is counted")
def denials_added_to_what_is_on_its_way(patch: Patch) -> None:
    """Denials of a kind are added to the record that a command already has."""
    original = Outbox._propose

    def propose(self: Any, *arguments: Any) -> bool:
        open_rows = dict(self._denials)
        has_proposed = original(self, *arguments)
        self._denials = open_rows
        return has_proposed

    patch.setattr(Outbox, "_propose", propose)


@mutant("crashing", 20, "once", "is in the ledger", "is counted", "in order")
def rows_dropped_from_the_wrong_end(patch: Patch) -> None:
    """As many rows as the ledger has are dropped, the newest instead of the oldest."""

    def drop(self: Any, count: int) -> None:
        for _ in range(count):
            row = self._rows.pop()
            self._bytes -= len(row.payload)
            self._denials = {k: v for k, v in self._denials.items() if v is not row}
            self._turn._delete_range(self._turn._dbs.outbox, row.seq, row.seq + 1)

    patch.setattr(Outbox, "_drop", drop)


@mutant("mixed", 8, "in order", quick=True)
def events_taken_in_from_the_last(patch: Patch) -> None:
    """Events of one report are taken in from the last to the first."""
    original = Outbox.report

    def report(self: Any, events: Sequence[Any], after: str | None) -> Any:
        return original(self, events[::-1], after)

    patch.setattr(Outbox, "report", report)


@mutant("crashing", 20, "once", "is counted", "in order", "is in the ledger")
def a_chain_that_forgets_where_it_was(patch: Patch) -> None:
    """The rows that are done are those of the newest command, whichever the state's head is of."""

    def done(rows: Sequence[Row], head: str) -> int:
        return sum(bool(row.head) for row in rows) if head else 0

    patch.setattr(outbox, "_done", done)


MUTANTS = (
    reports_acknowledged_before_they_are_durable,
    heads_that_stay_in_memory,
    rows_dropped_when_proposed,
    probation_that_keeps_the_outbox,
    denials_added_to_what_is_on_its_way,
    rows_dropped_from_the_wrong_end,
    events_taken_in_from_the_last,
    a_chain_that_forgets_where_it_was,
)
