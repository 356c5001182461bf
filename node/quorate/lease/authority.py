"""How a node comes by its authority, and keeps it: the asking side.

Owns the rule of the dead-man's switch: authority dates from the moment at which the node *asked*,
not from when it was answered, and holds for the period `L` from then. Does not own the leader's
side (`confirm`), nor where the deadline is published (`word`), nor the check (`check`). Sans-I/O:
the core loop carries the messages and tells what is durable.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from quorate.lease.clock import Clock

_MAX_OUTSTANDING: Final = 8
"""Asks without an answer, and grants without the state that they need, that are remembered."""
RENEWALS_PER_PERIOD: Final = 5


@dataclass(frozen=True, slots=True)
class FederationTime:
    """What a leader says of time. ledger_ms: ledger time, which never goes back. clocks_ms: what
    the voters' wall clocks say, of which a clock that was once wrong may have left ledger time
    ahead for long. Both in milliseconds since the epoch."""

    ledger_ms: int
    clocks_ms: int


@dataclass(frozen=True, slots=True)
class Ask:
    """The indexes are Raft indexes of the asking node: what it has applied, what it enforces, and
    what is drained there."""

    seq: int
    applied_index: int
    enforced_index: int
    drained_index: int = 0


@dataclass(frozen=True, slots=True)
class Grant:
    """A quorum has confirmed the leader since the ask of this `seq` arrived. It holds for a state
    that has applied `read_index`, and for no longer than `period_ms`: `L`, as the leader has it."""

    seq: int
    term: int
    read_index: int
    time: FederationTime
    period_ms: int


@dataclass(frozen=True, slots=True)
class Authority:
    """What a node may publish: permits until `asked_boottime_ns` + `L`, on a state that has
    applied at least `read_index`. Clock readings are this node's, of the moment it asked. `L` is
    the shorter of the leader's, `period_ms`, and this node's own: one of them may not have applied
    yet what the federation has changed it to."""

    asked_boottime_ns: int
    asked_realtime_ns: int
    term: int
    read_index: int
    time: FederationTime
    period_ms: int


@dataclass(frozen=True, slots=True)
class _Asked:
    seq: int
    boottime_ns: int
    realtime_ns: int
    leader: str


class AuthorityHolder:
    """Asks for authority in time, and says when it has come.

    first_seq: where this holder counts from. No two holders of one node may count over the same
        numbers: a grant on its way when a node starts again, or one for which its leader still
        waits, would answer an ask that was made only after its round.
    """

    def __init__(self, clock: Clock, period_ms: int, first_seq: int) -> None:
        self._clock = clock
        self._every_ns = period_ms * 1_000_000 // RENEWALS_PER_PERIOD
        self._seq = first_seq
        self._asked: deque[_Asked] = deque(maxlen=_MAX_OUTSTANDING)
        self._granted: deque[Authority] = deque(maxlen=_MAX_OUTSTANDING)
        self._leader: str | None = None
        self._next_ns = 0

    def follow(self, period_ms: int) -> None:
        """The federation has another `L`: asks are as far apart as that needs from now on."""
        self._every_ns = period_ms * 1_000_000 // RENEWALS_PER_PERIOD
        self._next_ns = min(self._next_ns, self._clock.boottime_ns() + self._every_ns)

    def next_ask_ns(self) -> int:
        """When the next ask is due, on the boot clock."""
        return self._next_ns

    def ask(
        self, leader: str | None, applied_index: int, enforced_index: int, drained_index: int = 0
    ) -> Ask | None:
        """An ask for `leader` when one is due. The clocks are read here, before it leaves."""
        now = self._clock.boottime_ns()
        if leader is None or (leader == self._leader and now < self._next_ns):
            return None
        self._leader = leader
        self._next_ns = now + self._every_ns
        self._seq += 1
        self._asked.append(_Asked(self._seq, now, self._clock.realtime_ns(), leader))
        return Ask(self._seq, applied_index, enforced_index, drained_index)

    def on_grant(self, sender: str, grant: Grant, term: int) -> bool:
        """Takes in a grant. `term` is this node's: a grant of an older one is void. Returns
        whether it answers an ask of ours to that sender."""
        asked = next((a for a in self._asked if a.seq == grant.seq), None)
        if asked is None or asked.leader != sender or grant.term < term:
            return False
        while self._asked and self._asked[0].seq <= grant.seq:
            self._asked.popleft()
        self._granted.append(
            Authority(
                asked_boottime_ns=asked.boottime_ns,
                asked_realtime_ns=asked.realtime_ns,
                term=grant.term,
                read_index=grant.read_index,
                time=grant.time,
                period_ms=grant.period_ms,
            )
        )
        return True

    def take(self, applied_index: int) -> Authority | None:
        """The newest authority whose state this node has applied, durably; then it is the
        caller's to publish, once."""
        newest = None
        while self._granted and self._granted[0].read_index <= applied_index:
            newest = self._granted.popleft()
        return newest

    def forget(self) -> None:
        """Drops every ask and grant: what they were for no longer stands (storage failed)."""
        self._asked.clear()
        self._granted.clear()
        self._next_ns = 0
