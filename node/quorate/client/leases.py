"""A lease as its holder has it, and the permit that is cached with it.

Owns the handle and the slot that keeps at most one permit for it. Asks nothing itself: it hands
every question to the gate that made it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

    An interruption is acknowledged when nothing goes by a permit of before any more: no act that
    was told to the slot goes on, and what was handed out, to be used nobody knows when, is over.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._permit: Permit | None = None
        self._epoch = 0
        self._acts = 0
        self._handed_until_ns = 0
        self._owed: Callable[[], None] | None = None

    @property
    def epoch(self) -> int:
        with self._lock:
            return self._epoch

    def current(self, *, for_act: bool = False) -> Permit | None:
        """The cached permit, if it is good at this moment. for_act: it is used within `acting`, and
        nowhere else."""
        with self._lock:
            if self._permit is None:
                return None
            return self._judge(self._permit, for_act=for_act) or None

    def offer(self, permit: Permit, epoch: int, *, for_act: bool = False) -> Permit | Denied:
        """Judges a permit that has just arrived, asked for during `epoch`; keeps it if good."""
        with self._lock:
            if epoch != self._epoch:
                return Denied(ClientReason.INTERRUPTED, permit.lease_id)
            return self._judge(permit, for_act=for_act)

    def drop(self) -> None:
        """Forgets the permit, and refuses the ones that are on their way."""
        with self._lock:
            self._drop()

    def interrupted(self, acknowledge: Callable[[], None]) -> None:
        """`drop`, and `acknowledge` is called as soon as nothing goes by a permit of before. It is
        not called where that would take as long as the permit lives."""
        with self._lock:
            self._drop()
            self._owed = acknowledge if self._acts else None
            is_free = not self._acts and self._is_over()
        if is_free:
            acknowledge()

    @contextmanager
    def acting(self) -> Iterator[None]:
        """An act goes on: what it goes by is not acknowledged as unused until it has ended."""
        with self._lock:
            self._acts += 1
        try:
            yield
        finally:
            with self._lock:
                self._acts -= 1
                owed = None
                if not self._acts:
                    owed, self._owed = self._owed, None
                is_free = owed is not None and self._is_over()
            if is_free and owed is not None:
                owed()

    def _drop(self) -> None:
        self._permit = None
        self._epoch += 1

    def _is_over(self) -> bool:
        return self._clock.read().boottime_ns >= self._handed_until_ns

    def _judge(self, permit: Permit, *, for_act: bool) -> Permit | Denied:
        # The clock is read inside the lock, so that readings are in order and one that goes back
        # is the clock's doing.
        judged = permit.judge(self._clock.read())
        self._permit = judged if isinstance(judged, Permit) else None
        if self._permit is not None and not for_act:
            self._handed_until_ns = max(self._handed_until_ns, permit.expires_at_ns)
        return judged


class LeaseKeeper(Protocol):
    """What a lease needs of its gate."""

    def check(self, lease: Lease, *, for_act: bool = False) -> Permit | Denied: ...

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

    @contextmanager
    def act(self) -> Iterator[Permit]:
        """A permit for the act that is the block, and for nothing else. Raises DeniedError when
        there is none.

        A block ends when its act has: so it can be told at once that a revocation is drained,
        while after `require` the permit's life has to pass.
        """
        with self.slot.acting():
            answer = self.keeper.check(self, for_act=True)
            if isinstance(answer, Denied):
                raise DeniedError(answer)
            yield answer

    def renew(self, ttl_ms: int = 0) -> Lease | Denied:
        """The same lease with a later expiry."""
        return self.keeper.renew(self, ttl_ms)

    def release(self) -> Released | Denied:
        """Gives the lease back."""
        return self.keeper.release(self)
