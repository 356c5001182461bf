"""The record of what is contained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from quorate.core.records.base import BaseRecord, Kind
from quorate.core.rows import Row


@dataclass(frozen=True, slots=True)
class Containment(BaseRecord):
    """An executor, or a lease, under which nothing may be done, nor under what came from it. There
    is one while somebody wants it so.

    thing: the executor's id, or the lease's. by: the domains that want it, in ascending order.
    since: the ledger index of the entry from which on it is contained. changed: of the last entry
    that changed who wants it.
    """

    kind: ClassVar[Kind] = Kind.CONTAINMENT

    thing: str
    by: tuple[str, ...]
    since: int
    changed: int

    @property
    def id(self) -> str:
        return self.thing

    @classmethod
    def from_json(cls, value: object) -> Containment:
        row = Row(value)
        return cls(
            thing=row.text("thing"),
            by=row.texts("by"),
            since=row.number("since"),
            changed=row.number("changed"),
        )
