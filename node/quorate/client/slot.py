"""The newest permit of one lease, kept for as long as it is good and never longer.

Owns the cached permit, who goes by it, and when an interruption may be acknowledged. Asks nothing.

A check of a cached permit takes no lock and makes nothing. What it relies on is that reads and
writes of attributes are atomic and seen in one order, as the interpreter's global lock makes them:
a reader marks the permit as handed out *before* it looks whether it is still the one that is kept;
who takes it away does so *before* looking at the mark. One of the two sees the other.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from quorate.client.clock import MAX_CLOCK_DRIFT_NS, Clock, Reading
from quorate.client.decisions import ClientReason, Denied, Permit


class _Kept:
    """A permit in numbers: it is good while the boot clock is within `since_ns` and `until_ns`, and
    the wall clock is ahead of it by `least_ns` to `most_ns`.

    is_handed: it went to somebody of whom nobody knows when the act is over.
    """

    __slots__ = ("is_handed", "least_ns", "most_ns", "permit", "since_ns", "until_ns")

    def __init__(self, permit: Permit, *, is_handed: bool) -> None:
        self.permit = permit
        self.since_ns = permit.sent.boottime_ns
        self.until_ns = permit.expires_at_ns
        self.least_ns = permit.sent.apart_ns - MAX_CLOCK_DRIFT_NS
        self.most_ns = permit.sent.apart_ns + MAX_CLOCK_DRIFT_NS
        self.is_handed = is_handed


class PermitSlot:
    """The newest permit of one lease, used until it expires and never longer.

    `epoch` counts interruptions. A permit that was asked for before an interruption is refused
    when it arrives after: the node decided on it before it knew.

    An interruption is acknowledged when nothing goes by a permit of before any more: no act that
    began before it goes on, and what was handed out, to be used nobody knows when, is over.
    """

    __slots__ = (
        "__weakref__",
        "_acts",
        "_boottime_ns",
        "_clock",
        "_epoch",
        "_handed_until_ns",
        "_is_closed",
        "_kept",
        "_lock",
        "_owed",
        "_realtime_ns",
    )

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._boottime_ns = clock.boottime_ns
        self._realtime_ns = clock.realtime_ns
        self._lock = threading.RLock()  # a signal's handler may close the gate at any moment
        self._kept: _Kept | None = None
        self._epoch = 0
        self._acts: Counter[int] = Counter()  # by the epoch in which they began
        self._is_closed = False
        self._handed_until_ns = 0
        self._owed: Callable[[], None] | None = None
        _slots.add(self)

    @property
    def epoch(self) -> int:
        with self._lock:
            return self._epoch

    def cached(self) -> Permit | None:
        """The permit that is kept, if it is good at this moment; None: ask."""
        kept = self._kept
        if kept is None:
            return None
        now_ns = self._boottime_ns()
        if (
            kept.since_ns <= now_ns < kept.until_ns
            and kept.least_ns <= self._realtime_ns() - now_ns <= kept.most_ns
        ):
            kept.is_handed = True
            return kept.permit if self._kept is kept else None
        self._forget(kept)
        return None

    def cached_of(self, index: int) -> Permit | None:
        """The same, if it was decided on a ledger that holds this index."""
        kept = self._kept
        if kept is None or not kept.permit.holds(index):
            return None
        permit = self.cached()
        return permit if permit is kept.permit else None

    def cached_for_act(self, index: int = 0) -> Permit | None:
        """The same for who is within `acting`, and uses it nowhere else. index: of the ledger; 0:
        any will do."""
        kept = self._kept
        if kept is None or (index and not kept.permit.holds(index)):
            return None
        if kept.permit.judge(Reading.of(self._clock)):
            return kept.permit if self._kept is kept else None
        self._forget(kept)
        return None

    def kept_until_ns(self) -> int:
        """The boot clock at the end of the permit that is kept; 0 without one."""
        kept = self._kept
        return kept.until_ns if kept is not None else 0

    def offer(self, permit: Permit, epoch: int, *, is_handed: bool) -> Permit | Denied:
        """Judges a permit that has just arrived, asked for during `epoch`; keeps it if it is good,
        unless the one that is kept is good for longer.

        is_handed: who asked goes by it as it pleases; else within `acting`, or not yet.
        """
        with self._lock:
            if self._is_closed:
                return Denied(ClientReason.CLOSED, permit.lease_id)
            if epoch != self._epoch:
                return Denied(ClientReason.INTERRUPTED, permit.lease_id)
            judged = permit.judge(Reading.of(self._clock))
            if isinstance(judged, Denied):
                return judged
            if permit.expires_at_ns > self.kept_until_ns():
                self._keep(_Kept(permit, is_handed=is_handed))
            elif is_handed:
                self._handed_until_ns = max(self._handed_until_ns, permit.expires_at_ns)
            return judged

    def drop(self) -> None:
        """Forgets the permit, and refuses the ones that are on their way."""
        with self._lock:
            self._drop()

    def close(self) -> None:
        """`drop`, for ever: the gate was closed."""
        with self._lock:
            self._is_closed = True
            self._drop()

    def interrupted(self, acknowledge: Callable[[], None]) -> None:
        """`drop`, and `acknowledge` is called as soon as nothing goes by a permit of before. It is
        not called where that would take as long as the permit lives."""
        with self._lock:
            self._drop()
            acts_go_on = bool(self._acts)
            self._owed = acknowledge if acts_go_on else None
            is_free = not acts_go_on and self._is_over()
        if is_free:
            acknowledge()

    @contextmanager
    def acting(self) -> Iterator[None]:
        """An act goes on: what it goes by is not acknowledged as unused until it has ended."""
        with self._lock:
            epoch = self._epoch
            self._acts[epoch] += 1
        try:
            yield
        finally:
            with self._lock:
                self._acts[epoch] -= 1
                if not self._acts[epoch]:
                    del self._acts[epoch]
                owed = None
                # Acts of the present epoch go by nothing that was there before.
                if all(began == self._epoch for began in self._acts):
                    owed, self._owed = self._owed, None
                is_free = owed is not None and self._is_over()
            if is_free and owed is not None:
                owed()

    def _forget(self, kept: _Kept) -> None:
        """What is not good any more goes, unless another has taken its place meanwhile."""
        with self._lock:
            if self._kept is kept:
                self._keep(None)

    def _drop(self) -> None:
        self._keep(None)
        self._epoch += 1

    def _keep(self, kept: _Kept | None) -> None:
        before, self._kept = self._kept, kept
        # In this order: see the module.
        if before is not None and before.is_handed:
            self._handed_until_ns = max(self._handed_until_ns, before.until_ns)

    def _is_over(self) -> bool:
        return self._boottime_ns() >= self._handed_until_ns


_slots: Final[weakref.WeakSet[PermitSlot]] = weakref.WeakSet()


def _closed_in_child() -> None:
    """A fork has no gate: nobody would tell it of an interruption, and the parent acknowledges."""
    for slot in list(_slots):
        slot._lock = threading.RLock()  # the thread that has the other is not here
        slot.close()


os.register_at_fork(after_in_child=_closed_in_child)
