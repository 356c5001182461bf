"""Breaks of what is durable before it is said: votes, terms, entries, outcomes, full disks."""

from __future__ import annotations

from typing import Any

from tests.simulation.mutants.mutant import Patch, mutant

from quorate.consensus.journal import Journal
from quorate.consensus.replica import Replica
from quorate.core.errors import StorageFullError
from quorate.node.node_core import NodeCore
from quorate.storage.turn import Turn


@mutant("crashing", 12, "what was made durable", "a vote is durable", "one vote")
def votes_that_are_forgotten(patch: Patch) -> None:
    """What a vote's transaction should hold is left out of it."""
    write = Turn._put

    def put(self: Turn, table: Any, key: bytes, value: bytes, **options: bool) -> None:
        if key != b"voted_for":
            write(self, table, key, value, **options)

    patch.setattr(Turn, "_put", put)


@mutant("short", 8, "a vote is durable", "the votes of a majority", quick=True)
def votes_that_stay_in_memory(patch: Patch) -> None:
    """The term is made durable, and the vote is not."""

    def keep(self: Any, term: int, _voted_for: str | None) -> None:
        self._store.turn.set_term_and_vote(term, None)

    patch.setattr(Journal, "setCurrentTerm", keep)


@mutant("short", 12, "the term is durable", "a vote is durable")
def terms_that_stay_in_memory(patch: Patch) -> None:
    """A term is made durable with a vote only, not when it is heard of."""
    original = Journal.setCurrentTerm

    def keep(self: Journal, term: int, voted_for: str | None) -> None:
        if voted_for is not None:
            original(self, term, voted_for)

    patch.setattr(Journal, "setCurrentTerm", keep)


@mutant("short", 12, "durable", "does not fail", "spins", "in the log")
def replies_that_do_not_wait(patch: Patch) -> None:
    """A follower acknowledges what it does not keep."""

    def pretend(self: Journal, _command: bytes, idx: int, term: int) -> None:
        self._last = idx, term

    patch.setattr(Journal, "add", pretend)


@mutant("short", 8, "durable", quick=True)
def commits_that_are_put_off(patch: Patch) -> None:
    """Every other turn's commit waits for the next turn; what depends on it does not."""
    original = NodeCore.settle
    turns = [0]

    def settle(self: Any) -> None:
        turns[0] += 1
        if turns[0] % 2:
            original(self)

    patch.setattr(NodeCore, "settle", settle)


@mutant("short", 40)
def messages_before_the_commit(patch: Patch) -> None:
    """A turn's messages leave when it has decided, before it is durable."""
    original = NodeCore.decide

    def decide(self: Any) -> bool:
        is_good = original(self)
        machine = self._observer
        outbox = self.take_outbox() if is_good else []
        for peer, message in outbox:
            machine._watcher.sent(machine, peer, message)
        machine.network.send(machine, outbox)
        return is_good

    patch.setattr(NodeCore, "decide", decide)


@mutant("short", 12, "is in the ledger")
def outcomes_before_the_commit(patch: Patch) -> None:
    """Callers are told of outcomes when a turn has decided, before it is durable."""
    original = NodeCore.decide

    def decide(self: Any) -> bool:
        is_good = original(self)
        for command in self._machine.take_outcomes() if is_good else ():
            self.replica.forget(command.key)
            self._observer.executed(command.key, command.outcome)
        return is_good

    patch.setattr(NodeCore, "decide", decide)


@mutant("short", 12)
def applied_one_entry_late(patch: Patch) -> None:
    """What is made durable as applied is one entry behind the state and the ledger."""

    def tick(self: Any) -> None:
        self._propose_pending()
        self._engine.tick()
        if self._engine.last_applied - 1 > self._store.turn.applied_index:
            self._store.turn.set_applied(self._engine.last_applied - 1)

    patch.setattr(Replica, "tick", tick)


@mutant("short", 20)
def full_disks_that_nobody_minds(patch: Patch) -> None:
    """A turn that found no room is given up, and consensus goes on as if it had been written."""

    def go_on(self: Any, _error: StorageFullError) -> None:
        self.environment.abort()

    patch.setattr(NodeCore, "_storage_failed", go_on)


MUTANTS = (
    votes_that_are_forgotten,
    votes_that_stay_in_memory,
    terms_that_stay_in_memory,
    replies_that_do_not_wait,
    commits_that_are_put_off,
    messages_before_the_commit,
    outcomes_before_the_commit,
    applied_one_entry_late,
    full_disks_that_nobody_minds,
)
