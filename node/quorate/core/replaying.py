"""Deciding a whole ledger again, from its founding document and its entries alone.

Owns the way back from an entry to what was applied, and the demand that applying it makes the very
same bytes: whoever replays a ledger believes no node, neither what became of a command nor what the
state was then. Does not own who has signed the root over the entries (`quorate.proofs`).

What an entry does not say is which repeats came between it and the one before: a repeat gives its
first outcome again, and has no entry. Nothing that has one depends on it.

A ledger that a recovery began does not hold what it began with, and cannot be replayed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from quorate.core import codec, entries, ids, state
from quorate.core.commands import envelope_in
from quorate.core.entries import Entry
from quorate.core.errors import MalformedError
from quorate.core.fields import Fields, unbase64
from quorate.core.genesis import Genesis
from quorate.core.limits import MAX_ENVELOPE_BYTES
from quorate.core.outcome import Outcome, Reason
from quorate.core.records import BY_BALLOT, Policies
from quorate.core.recovery import Recovery
from quorate.core.state import StateView
from quorate.core.store import MemoryStore, Overlay
from quorate.core.transitions import apply, install_genesis

_TOO_LARGE: Final = bytes(MAX_ENVELOPE_BYTES + 1)
"""Does to the state what any payload does that is too large."""
_OF_UNKNOWN_BYTES: Final = frozenset({(Reason.TOO_LARGE, ""), (Reason.MALFORMED_COMMAND, "stamp")})


class Replay:
    """The state as the entries so far have made it."""

    def __init__(self, genesis: Genesis) -> None:
        assert not isinstance(genesis, Recovery), "its state is carried over, and not in the ledger"
        self._origin = genesis.origin
        self._store = MemoryStore()
        self._first = install_genesis(self._store, genesis)
        self.size = 0

    @property
    def view(self) -> StateView:
        """The state, before the next entry."""
        return StateView(self._store)

    def supposed(self, owner: str, text: str) -> StateView | None:
        """The same state, had these policies been in force in it instead of the owner's own (a
        domain's, or BY_BALLOT: the federation's); None: there is no such owner yet."""
        overlay = Overlay(self._store)
        policies = Policies(owner, 1, text, 0)
        state.save_policies(overlay, policies)
        if owner == BY_BALLOT:
            federation = replace(self.view.federation(), policies=policies.mark)
            state.save_federation(overlay, federation)
        else:
            domain = self.view.domain(owner)
            if domain is None:
                return None
            state.save_domain(overlay, replace(domain, policies=policies.mark))
        return StateView(overlay)

    def take(self, data: bytes) -> Entry:
        """Decides the next entry again. Raises MalformedError when it is not the one that the
        ledger must have here; the replay is of no use then."""
        entry = entries.parse(data)
        if (entry.origin, entry.seq) != (self._origin, self.size):
            raise MalformedError("of another place or ledger")
        if entry.time < self.view.ledger_time():
            raise MalformedError("of a time before the entry before it")
        if self._make(entry) != data:
            raise MalformedError("is not what deciding it again makes")
        self.size += 1
        return entry

    def _make(self, entry: Entry) -> bytes | None:
        if self.size == 0:
            return self._first
        if entry.kind == entries.MALFORMED:
            return self._make_malformed(entry)
        envelope = envelope_in(entry.command)
        return apply(self._store, codec.stamp(entry.time, envelope.to_bytes()), self.size).entry

    def _make_malformed(self, entry: Entry) -> bytes | None:
        fields = Fields(entry.command, "command")
        if fields.has("raw"):
            data = unbase64(fields.text("raw"), fields.at("raw"))
            if len(data) > MAX_ENVELOPE_BYTES:
                raise MalformedError("longer than what is kept whole", field=fields.at("raw"))
            has_stamp = entry.thing != "stamp"
            payload = codec.stamp(entry.time, data) if has_stamp else data
            return apply(self._store, payload, self.size).entry
        # Of too many bytes only the hash is kept. Whatever they were, they changed nothing.
        fields.text("sha256", ids.check_command_id)
        fields.integer("size", MAX_ENVELOPE_BYTES + 1)
        fields.done()
        if entry.reason is None or (entry.reason, entry.thing) not in _OF_UNKNOWN_BYTES:
            raise MalformedError("nobody can tell whether that was denied rightly")
        apply(self._store, codec.stamp(entry.time, _TOO_LARGE), self.size)
        return entries.entry(
            origin=self._origin,
            kind=entries.MALFORMED,
            outcome=Outcome(False, entry.reason, entry.thing, self.size, ""),
            ledger_time=entry.time,
            command=entry.command,
        )
