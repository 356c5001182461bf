"""What must hold of authority at every moment of true time, and what says so when it does not.

Owns the invariants of the authority protocol, as an observer that sees all machines and true time:

- I1: a state under which a node permits holds everything that was committed `L * (1 + rho)` ago;
- I2: once anybody has been told that index i is enforced, no node permits on a state older than i;
- what is told is never more than what is committed, and never falls while a process lives.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from quorate.testing.authority_raft import Log, Voter

if TYPE_CHECKING:
    from quorate.testing.authority import Machine

_PPM: Final = 1_000_000


class AuthorityViolationError(AssertionError):
    """The protocol broke a promise."""


class AuthoritySafety:
    """Watches the machines of a simulated federation. Times are true nanoseconds."""

    def __init__(self, machines: dict[str, Machine], period_ns: int, rho_ppm: int) -> None:
        self._machines = machines
        self._bound_ns = period_ns + -(-period_ns * rho_ppm // _PPM)
        self._commit_times: list[int] = []
        self._commit_indexes: list[int] = []
        self._log: Log = ()
        self._published: dict[str, int] = {}
        self._expires = dict.fromkeys(machines, 0)
        self._told: dict[str, int] = {}
        self.watermark = 0
        self.permits = 0
        self.grants = 0

    @property
    def committed(self) -> int:
        return self._commit_indexes[-1] if self._commit_indexes else 0

    def _committed_before(self, ns: int) -> int:
        position = bisect_right(self._commit_times, ns)
        return self._commit_indexes[position - 1] if position else 0

    # -- what happens ------------------------------------------------------------------------

    def started(self, machine: Machine) -> None:
        self._told[machine.node_id] = 0
        self._published.pop(machine.node_id, None)

    def durable(self, machine: Machine, voter: Voter, now: int) -> None:
        """A turn is durable: what its leader has committed, it may acknowledge from now on."""
        if voter.is_leader and voter.commit_index > self.committed:
            log = voter.log[: voter.commit_index]
            assert log[: len(self._log)] == self._log, "the model of Raft lost a commit"
            self._log = log
            self._commit_times.append(now)
            self._commit_indexes.append(voter.commit_index)

    def published(self, machine: Machine, now: int) -> None:
        """The word of `machine` may have been written."""
        record = machine.word.read()
        if record is None or record.reason is not None:
            return
        if self._published.get(machine.node_id) == record.deadline_ns:
            return
        self._published[machine.node_id] = record.deadline_ns
        left_ns = record.deadline_ns - machine.clock.boottime_ns()
        if left_ns <= 0:
            return
        self.grants += 1
        # At the last moment of the record, whether or not another one follows it: an edge that was
        # stopped may still go by this one.
        expires = now + machine.true_ns(left_ns) - 2
        self._expires[machine.node_id] = max(self._expires[machine.node_id], expires)
        if record.index > machine.disk.applied_index:
            raise AuthorityViolationError(f"{machine.node_id}: a word for a state not yet applied")
        # What is committed by then is judged now: later commits do not reach back so far.
        if record.index < self._committed_before(expires - self._bound_ns):
            raise AuthorityViolationError(f"I1: {machine.node_id} may permit on {record.index}")
        self._check_exposed(machine, now)

    def permitted(self, machine: Machine, snapshot: int, now: int) -> None:
        """An edge permits on a snapshot that has applied so much."""
        self.permits += 1
        if snapshot < self._committed_before(now - self._bound_ns):
            raise AuthorityViolationError(f"I1: {machine.node_id} permits on {snapshot}")
        if snapshot < self.watermark:
            raise AuthorityViolationError(f"I2: {machine.node_id} permits on {snapshot}")

    def told(self, machine: Machine, watermark: int, now: int) -> None:
        """`machine` tells whoever asks that this index is enforced."""
        if watermark < self._told[machine.node_id]:
            raise AuthorityViolationError(f"{machine.node_id}: the watermark fell")
        self._told[machine.node_id] = watermark
        if watermark > self.committed:
            raise AuthorityViolationError(f"{machine.node_id}: {watermark} is not committed")
        if watermark > self.watermark:
            self.watermark = watermark
            for each in self._machines.values():
                self._check_exposed(each, now)

    def _check_exposed(self, machine: Machine, now: int) -> None:
        """No edge could still permit on a state older than what is told to be enforced."""
        applied = machine.disk.applied_index
        if now < self._expires[machine.node_id] and applied < self.watermark:
            raise AuthorityViolationError(
                f"I2: {machine.node_id} may permit on {applied}, {self.watermark} is enforced"
            )
        for reader in machine.readers:
            if now < reader.expires and reader.snapshot < self.watermark:
                raise AuthorityViolationError(
                    f"I2: a reader of {machine.node_id} may permit on {reader.snapshot}"
                )
