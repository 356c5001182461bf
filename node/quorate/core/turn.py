"""What a command's handler is given, and what it gives back.

Owns the two types between `quorate.core.transitions` and the handlers, and nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from quorate.core.commands import Command
from quorate.core.dsse import Envelope
from quorate.core.outcome import Deny
from quorate.core.records import Domain
from quorate.core.state import StateView
from quorate.core.store import Writer


@dataclass(frozen=True, slots=True)
class Turn:
    """One admitted command, and the state that it acts on.

    store: where a handler writes; all of it is undone when the handler denies.
    envelope: what the command came in, with every signature under it.
    domain: the domain that the command comes from, directly or through its node.
    ledger_time: in ms. seq: the ledger index that the command's entry will have.
    """

    store: Writer
    view: StateView
    command: Command
    envelope: Envelope
    domain: Domain
    ledger_time: int
    seq: int


@dataclass(frozen=True, slots=True)
class Done:
    """The command is accepted. thing: the id of what it was about."""

    thing: str
    result: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def named(cls, thing: str) -> Done:
        """With a result that says the id, and no more."""
        return cls(thing, {"id": thing})


Verdict = Done | Deny
