"""What the gRPC services need from the process that they run in.

Owns the protocols between the services and the core process; implements nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from quorate.core.lineage import EventType
from quorate.core.outcome import Deny, Outcome, Reason
from quorate.lease.bounds import Bound
from quorate.storage import Snapshot


class Level(IntEnum):
    """How widely a narrowing command holds; each level implies those below it."""

    NONE = 0
    COMMITTED = 1
    ENFORCED = 2
    DRAINED = 3


@dataclass(frozen=True, slots=True)
class Reach:
    """How widely a command that was accepted holds, COMMITTED at least, and what is promised."""

    level: Level
    bound: Bound


@dataclass(frozen=True, slots=True)
class OpenNode:
    """A node that holds a level up. lacks: the first level that it does not hold. within_ms: it is
    over by then at the latest, also when nobody hears of it."""

    node_id: str
    lacks: Level
    within_ms: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a command has come. open: also empty while nobody here knows who is. is_last: the
    level is reached, or the time is up."""

    reach: Reach
    open: tuple[OpenNode, ...] = ()
    is_last: bool = False


@dataclass(frozen=True, slots=True)
class Proposed:
    """What became of a proposal.

    Exactly one of: `outcome` is set (the ledger decided); `refused` is set (the proposal certainly
    never entered the log); neither (its outcome is unknown: it may yet be executed, once).
    thing: what a refusal is about, as an id.
    """

    outcome: Outcome | None = None
    refused: Reason | None = None
    thing: str = ""
    problem: str = ""

    @property
    def unknown(self) -> bool:
        return self.outcome is None and self.refused is None


@dataclass(frozen=True, slots=True)
class Denied:
    """How many calls of one kind an edge has denied without the ledger
    (`quorate.core.lineage.Denials`)."""

    executor: str
    method: str
    lease_id: str
    reason: Reason
    count: int


@dataclass(frozen=True, slots=True)
class Reported:
    """Events of an executor's work, durable on the node. head: of the chain of the lease's events.
    stage: how far the work has come."""

    head: str
    stage: str


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """One member as this node sees it; `match_index` and `enforced_index` are 0 off the leader.

    role, status, protocol: as the ledger has them (`quorate.core.records.Node`). raft_role: what it
    is in the configuration in force, voter or learner; empty when it is not in it.
    """

    node_id: str
    domain: str
    peer_address: str
    connected: bool
    match_index: int
    enforced_index: int
    role: str = ""
    status: str = ""
    raft_role: str = ""
    protocol: int = 0


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What a node says of itself; indexes are of the Raft log."""

    node_id: str
    origin: str
    role: str  # follower | candidate | leader
    leader: str
    term: int
    commit_index: int
    applied_index: int
    authority_remaining_ms: int  # 0: none
    authority_reason: Reason | None
    storage_problem: str
    clock_offset_ms: int
    durable_turns: int
    probation: bool  # its store was restored or begun again, and it was not readmitted yet
    outbox_records: int  # what it has to tell the ledger, and the ledger does not have yet
    ledger_time_ms: int  # as its clocks estimate it
    members: tuple[MemberStatus, ...]


class Core(Protocol):
    """The core process, as its services see it."""

    def read(self) -> AbstractContextManager[Snapshot]:
        """A consistent snapshot of the newest durable state."""
        ...

    async def propose(self, envelope: bytes, timeout_ms: int) -> Proposed:
        """Proposes a command and waits for its outcome. Cancelling changes nothing about it."""
        ...

    async def propose_lease(
        self, kind: str, body: dict[str, object], nonce: str, timeout_ms: int
    ) -> Proposed:
        """Builds a lease command (`lease.acquire`...), signs it as this node, and proposes it."""
        ...

    async def report(
        self,
        executor: str,
        lease_id: str,
        events: Sequence[tuple[EventType, Mapping[str, str]]],
        after: str | None,
    ) -> Reported | Deny:
        """Takes in events for the ledger; durable here, with or without a quorum, when it returns.
        after: the head of the lease's events that they follow; None: any."""
        ...

    async def report_denials(self, denials: Sequence[Denied]) -> bool:
        """Takes in what an edge had to deny; whether it is durable."""
        ...

    async def wait_for(self, ledger_index: int, level: Level, timeout_ms: int) -> Reach:
        """Waits until the entry at `ledger_index`, of an outcome that this core has told, holds at
        `level`, or the time is up; returns the strongest level that is known to hold."""
        ...

    def progress(
        self, ledger_index: int, level: Level, timeout_ms: int
    ) -> AsyncGenerator[Progress]:
        """Does the same, and tells meanwhile how far it has come, at each change. The last one is
        what `wait_for` would have returned."""
        ...

    def status(self) -> NodeStatus: ...

    def checkpoint(self) -> str:
        """A signed note over the newest durable tree. Raises ProbationError."""
        ...

    @property
    def edges(self) -> int:
        """How many edges this node has."""
        ...

    def edge_drained(self, slot: int, index: int) -> None:
        """An edge of this node says up to which Raft index everything is drained there. slot: which
        edge, below the number that the node has."""
        ...

    def follow(self) -> AsyncGenerator[int]:
        """Yields the ledger size now, and again (the newest only) whenever it has grown."""
        ...
