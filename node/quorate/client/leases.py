"""A lease as its holder has it, and the permit that is cached with it.

Owns the handle and the slot that keeps at most one permit for it. Asks nothing itself: it hands
every question to the gate that made it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Protocol

from quorate.client.clock import Clock
from quorate.client.decisions import (
    ClientReason,
    Denied,
    DeniedError,
    Permit,
    Released,
)


class PermitSlot:
    """The newest permit of one lease, used until it expires and never longer.

    `epoch` counts interruptions. A permit that was asked for before an interruption is refused
    when it arrives after: the node decided on it before it knew.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._permit: Permit | None = None
        self._epoch = 0

    @property
    def epoch(self) -> int:
        with self._lock:
            return self._epoch

    def current(self) -> Permit | None:
        """The cached permit, if it is good at this moment."""
        with self._lock:
            if self._permit is None:
                return None
            return self._judge(self._permit) or None

    def offer(self, permit: Permit, epoch: int) -> Permit | Denied:
        """Judges a permit that has just arrived, asked for during `epoch`; keeps it if good."""
        with self._lock:
            if epoch != self._epoch:
                return Denied(ClientReason.INTERRUPTED, permit.lease_id)
            return self._judge(permit)

    def drop(self) -> None:
        """Forgets the permit, and refuses the ones that are on their way."""
        with self._lock:
            self._permit = None
            self._epoch += 1

    def _judge(self, permit: Permit) -> Permit | Denied:
        # The clock is read inside the lock, so that readings are in order and one that goes back
        # is the clock's doing.
        judged = permit.judge(self._clock.read())
        self._permit = judged if isinstance(judged, Permit) else None
        return judged


class LeaseKeeper(Protocol):
    """What a lease needs of its gate."""

    def check(self, lease: Lease) -> Permit | Denied: ...

    def renew(self, lease: Lease, ttl_ms: int = 0) -> Lease | Denied: ...

    def release(self, lease: Lease) -> Released | Denied: ...


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to ask for permits for one action on one resource. It is no permit itself.

    fence: to be presented at every write; the resource refuses one lower than the highest it saw.
    expires_at_ms: in ledger time, for information: the node judges expiry.
    grant, trust_edge: what the lease relies on; no trust edge within one domain.
    """

    id: str
    executor: str
    action: str
    resource: str
    fence: int
    expires_at_ms: int
    grant: str
    trust_edge: str
    keeper: LeaseKeeper = field(repr=False, compare=False)
    slot: PermitSlot = field(repr=False, compare=False)

    def check(self) -> Permit | Denied:
        """May the act go ahead now?"""
        return self.keeper.check(self)

    def require(self) -> Permit:
        """A permit, to be had before each act. Raises DeniedError when there is none."""
        answer = self.check()
        if isinstance(answer, Denied):
            raise DeniedError(answer)
        return answer

    def renew(self, ttl_ms: int = 0) -> Lease | Denied:
        """The same lease with a later expiry."""
        return self.keeper.renew(self, ttl_ms)

    def release(self) -> Released | Denied:
        """Gives the lease back."""
        return self.keeper.release(self)
