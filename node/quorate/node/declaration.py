"""What a node says of its own program: the latest version of the rules that it knows.

Owns that the ledger is told when the program is another than it knows of: an upgrade of the
federation waits for every node (`quorate.core.balloting`). Does not own what such a command means.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

import structlog

from quorate.consensus import Replica
from quorate.core import protocol
from quorate.core.outcome import Outcome
from quorate.core.records import Node
from quorate.core.verbs import Verb
from quorate.node.lease_commands import LeaseCommands
from quorate.node.machine import proposal_key

log = structlog.get_logger(__name__)

PATIENCE_S: Final = 10.0
"""How long a command that was proposed is waited for before it is proposed anew."""
RETRY_S: Final = 30.0
"""When to try again what the ledger has denied."""


class Declaration:
    """One node's. `tick` is called in each turn, `executed` when a turn is durable."""

    def __init__(self, commands: LeaseCommands, now_s: Callable[[], float]) -> None:
        self._commands = commands
        self._now_s = now_s
        self._proposed: bytes | None = None
        self._next_s = 0.0
        self._denied = 0

    def next_due_s(self) -> float:
        """When a turn has something to do without any event, on the boot clock."""
        return self._next_s if self._next_s > self._now_s() else float("inf")

    def tick(
        self, replica: Replica, node: Node | None, *, may_propose: bool, ledger_time_ms: int
    ) -> bool:
        """Proposes what is to be said. node: this node, as the state has it. may_propose: it holds
        authority. Returns whether it did."""
        is_said = node is None or node.retired or node.protocol == protocol.LATEST
        if is_said or self._now_s() >= self._next_s:
            self._let_go(replica)
        if node is None or is_said or not may_propose or self._now_s() < self._next_s:
            return False
        said = f"{protocol.LATEST} {node.changed} {self._denied}"
        envelope = self._commands.build(
            Verb.NODE_DECLARE,
            {"protocol": protocol.LATEST},
            # A repeat is the same command. What was denied is another one, or it is answered again.
            hashlib.sha256(said.encode("ascii")).hexdigest(),
            ledger_time_ms,
        )
        self._next_s = self._now_s() + PATIENCE_S
        key = proposal_key(envelope)
        if not replica.propose(key, envelope):
            return False
        self._proposed = key
        return True

    def executed(self, key: bytes, outcome: Outcome) -> None:
        """A command has its outcome, and the turn is durable."""
        if key != self._proposed:
            return
        self._proposed = None
        if not outcome.accepted:
            log.error("declaration.denied", reason=outcome.reason, thing=outcome.thing)
            self._next_s = self._now_s() + RETRY_S
            self._denied += 1

    def _let_go(self, replica: Replica) -> None:
        if self._proposed is not None:
            replica.forget(self._proposed)
            self._proposed = None
