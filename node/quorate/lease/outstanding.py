"""The permits of one edge that executors may still be using, and up to where that is over.

Owns the edge's half of DRAINED: a change of the ledger is drained here when no permit that was
decided before it, and relied on what it stopped, can be in use any more. A permit's life bounds
that; an executor that hears of the change through Watch, stops using the permit and says so ends
the wait at once. Times are the edge's boot clock's. Sans-I/O: `quorate.lease.following` feeds it.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Final, NamedTuple

MAX_HOLDERS: Final = 65_536
"""Told apart at once. The permits of more are taken together, as if anything could stop them."""
MAX_HOLDERS_PER_EXECUTOR: Final = 4_096
"""Who calls itself by ever new names must not take the places of all others."""


class Holder(NamedTuple):
    """Who may use a permit: a lease in the hands of one session, a process of its executor.

    session: as the process calls itself. Empty: unknown, so that nobody can speak for it.
    """

    lease_id: str
    executor: str
    session: str

    @property
    def lease(self) -> str:
        """The lease as a thing that an entry can stop."""
        return f"lease:{self.lease_id}"


@dataclass(slots=True)
class _Held:
    """The permits of one holder. since: the ledger's size when the oldest of them was decided on.
    expires_ns: when the last of them is over. things: what can stop them."""

    since: int
    expires_ns: int
    things: tuple[str, ...]


@dataclass(slots=True)
class _Stopped:
    """Permits that should be used no more. index: of the first entry that says so; last: of the
    last. expires_ns: when all of them are over."""

    index: int
    last: int
    expires_ns: int


class OutstandingPermits:
    """What one edge has given out, and may be in use."""

    def __init__(
        self, limit: int = MAX_HOLDERS, limit_each: int = MAX_HOLDERS_PER_EXECUTOR
    ) -> None:
        self._limit = limit
        self._limit_each = limit_each
        self._counts: Counter[str] = Counter()
        """Of `_held`, by executor."""
        self._held: dict[Holder, _Held] = {}
        self._by_thing: dict[str, dict[Holder, None]] = {}
        self._stopped: dict[Holder, _Stopped] = {}
        self._untold: _Stopped | None = None
        self._untold_count = 0
        self._order: deque[tuple[int, Holder, _Held]] = deque()

    def __len__(self) -> int:
        """How many holders are told apart."""
        return len(self._held) + len(self._stopped)

    @property
    def count(self) -> int:
        """How many holders there are, or permits where holders are not told apart; of those that
        have expired too, until `forget_expired`. Another thread may ask: it reads three numbers,
        each of them whole."""
        return len(self._held) + len(self._stopped) + self._untold_count

    def given(
        self,
        holder: Holder,
        things: tuple[str, ...],
        ledger_size: int,
        expires_ns: int,
        now_ns: int,
    ) -> None:
        """A permit was decided on a ledger of this size. things: what it relies on, less the lease
        itself. expires_ns: when no executor uses it any more, whatever its clock."""
        self._forget_held(now_ns)
        held = self._held.get(holder)
        if held is not None:
            held.expires_ns = max(held.expires_ns, expires_ns)
            return
        is_one_too_many = self._counts[holder.executor] >= self._limit_each
        if is_one_too_many or len(self) >= self._limit:
            self._untold = _merged(self._untold, ledger_size, expires_ns)
            self._untold_count += 1
            return
        relied_on = tuple(dict.fromkeys((*things, holder.lease)))
        held = self._held[holder] = _Held(ledger_size, expires_ns, relied_on)
        self._counts[holder.executor] += 1
        for thing in relied_on:
            self._by_thing.setdefault(thing, {})[holder] = None
        self._order.append((expires_ns, holder, held))

    def stopped(self, thing: str, index: int) -> None:
        """The entry at `index` has stopped what relies on `thing`."""
        for holder in list(self._by_thing.get(thing, ())):
            held = self._held[holder]
            if held.since <= index:  # else all of them were decided on a state that knows of it
                self._drop(holder, held)
                before = self._stopped.get(holder)
                self._stopped[holder] = _merged(before, index, held.expires_ns)

    def stopped_all(self, index: int) -> None:
        """What the entries from `index` on have stopped is not known: perhaps everything."""
        for held in self._held.values():
            self._untold = _merged(self._untold, index, held.expires_ns)

    def acknowledged(self, holder: Holder, ledger_size: int) -> None:
        """The holder uses no permit for its lease that was decided on a smaller ledger than this,
        nor will it use one that is still on its way to it."""
        if not holder.session:
            return
        stopped = self._stopped.get(holder)
        if stopped is not None and stopped.last < ledger_size:
            del self._stopped[holder]
        held = self._held.get(holder)
        if held is not None:
            held.since = max(held.since, ledger_size)

    def drained_size(self, size: int, now_ns: int) -> int:
        """The largest size of the ledger, at most `size`, such that all its entries are drained."""
        self.forget_expired(now_ns)
        return min([size, *(each.index for each in self._blocking())])

    def forget_expired(self, now_ns: int) -> None:
        """Lets go of all that is over. Nothing else needs it, but whoever counts."""
        self._forget_held(now_ns)
        over = [holder for holder, each in self._stopped.items() if each.expires_ns <= now_ns]
        for holder in over:
            del self._stopped[holder]
        if self._untold is not None and self._untold.expires_ns <= now_ns:
            self._untold, self._untold_count = None, 0

    def next_ns(self) -> int | None:
        """When `drained_size` can next grow by time alone; None: it waits for nothing."""
        return min((each.expires_ns for each in self._blocking()), default=None)

    # -- inside ------------------------------------------------------------------------------

    def _blocking(self) -> list[_Stopped]:
        untold = () if self._untold is None else (self._untold,)
        return [*self._stopped.values(), *untold]

    def _drop(self, holder: Holder, held: _Held) -> None:
        del self._held[holder]
        self._counts[holder.executor] -= 1
        if not self._counts[holder.executor]:
            del self._counts[holder.executor]
        for thing in held.things:
            holders = self._by_thing[thing]
            del holders[holder]
            if not holders:
                del self._by_thing[thing]

    def _forget_held(self, now_ns: int) -> None:
        """Of what nothing has stopped. Each holder stands in the queue once, so that this costs
        little for each permit."""
        order = self._order
        while order and order[0][0] <= now_ns:
            _, holder, held = order.popleft()
            if self._held.get(holder) is not held:
                continue  # stopped meanwhile; it may have permits of another kind by now
            if held.expires_ns <= now_ns:
                self._drop(holder, held)
            else:
                order.append((held.expires_ns, holder, held))


def _merged(before: _Stopped | None, index: int, expires_ns: int) -> _Stopped:
    if before is None:
        return _Stopped(index, index, expires_ns)
    return _Stopped(
        min(before.index, index), max(before.last, index), max(before.expires_ns, expires_ns)
    )
