"""An edge's place in the ledger, with the leases that it watches.

Owns that every entry is told to the leases that it concerns, once and in order, and what has to be
looked at again because of it. What a lease is told is `quorate.api.courses`', how the ledger is
read `quorate.lease.following`'s, and whether a lease is good the check path's.

A *place* is a size of the ledger: of all entries up to there, those who watch were told. The ledger
is caught up with in steps, with room for others in between; the little that has come since is
followed at once where a lease is let in, or evaluated, which must not be ahead of its place.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final
from weakref import WeakValueDictionary

from quorate.api.courses import Watched, WatchedLeases
from quorate.api.errors import NotReadyError, OutOfRangeError, ServiceError, Violation
from quorate.core.effects import Effect, effect_of
from quorate.core.state import StateView
from quorate.lease.check import CheckQuery
from quorate.lease.clock import Clock
from quorate.lease.following import (
    MAX_BEHIND,
    MAX_FOLLOWED,
    EdgeLedger,
    Followed,
    FollowedSnapshot,
    FollowedSource,
)

LEASES_PER_TURN: Final = 64
"""Looked at without letting the process's other calls in between."""
TOLD_PER_TURN: Final = 16_384
"""Leases that are told of an entry, of all entries, likewise."""


class Track:
    """The leases that are watched, and up to where they were told of the ledger."""

    def __init__(
        self,
        source: Callable[[], FollowedSource | None],
        clock: Clock,
        on_gap: Callable[[ServiceError], None],
    ) -> None:
        """source: the node's store; None while there is none. on_gap: told of entries after the
        first that those who watch are not told of, before anything that comes after them."""
        self.ledger = EdgeLedger()
        self.leases = WatchedLeases()
        self.touched: dict[CheckQuery, None] = {}
        """What entries that were followed may have changed, and nobody has looked at since."""
        self.unread: dict[CheckQuery, None] = {}
        """What they rely on has to be read anew: there were entries that nobody has read, or new
        policies, and what those mean for a lease takes a while to say."""
        self._source = source
        self._clock = clock
        self._on_gap = on_gap
        self._reading_near, self._reading_far = asyncio.Lock(), asyncio.Lock()
        self._reading_of = WeakValueDictionary[str, asyncio.Lock]()
        """Of who reads what was missed: one at a time, so that the edge's other calls come in
        between two steps of one, and not of all; but who lacks no more than a step waits for nobody
        who lacks many, and one executor's many calls make others wait for one of them."""
        self._went_on = asyncio.Event()

    @property
    def has_news(self) -> bool:
        return bool(self.unread) or bool(self.touched)

    async def catch_up(self) -> None:
        """Follows the ledger to its end, with room for others in between."""
        while (source := self._source()) is not None:
            with source.read() as snapshot:
                entries = max(1, min(MAX_FOLLOWED, TOLD_PER_TURN // (len(self.leases) + 1)))
                self._step(snapshot, self.ledger.size + entries)
                is_at_end = self.ledger.size >= snapshot.ledger_size
            if is_at_end:
                break
            await asyncio.sleep(0)

    async def ask_ahead(self, queries: Sequence[CheckQuery]) -> None:
        """Asks the policies about many leases that will be taken in together, with room for others
        in between: `begin` leaves none."""
        if len(queries) <= LEASES_PER_TURN:
            return
        for start in range(0, len(queries), LEASES_PER_TURN):
            source = self._source()
            if source is None:
                return
            with source.read() as snapshot:
                view = StateView(snapshot.state)
                for query in queries[start : start + LEASES_PER_TURN]:
                    self.leases.ask(query, view)
            await asyncio.sleep(0)

    def go_to(self, size: int) -> list[Effect]:
        """Follows the ledger until it has so many entries, at once. Returns what they did."""
        source = self._source()
        if source is None or size <= self.ledger.size:
            return []
        with source.read() as snapshot:
            return self._follow(snapshot, size)

    def begin(self, queries: Iterable[CheckQuery]) -> list[Effect]:
        """Takes in those leases that are not yet, as they stand at the place where this then is.
        Returns what was followed to there."""
        source = self._source()
        if source is None:
            for query in queries:
                if query not in self.leases:
                    self.leases.begin(query, None)
            return []
        with source.read() as snapshot:
            followed = self._follow(snapshot)
            view = StateView(snapshot.state)
            for query in queries:
                if query not in self.leases:
                    self.leases.begin(query, view)
                elif query in self.unread:
                    self._read(query, view)
        return followed

    def see_again(self, queries: Sequence[CheckQuery]) -> None:
        """Reads anew what those of these leases rely on that are unread, at once, as they stand at
        the place where this then is."""
        unread = [query for query in queries if query in self.unread]
        source = self._source()
        if source is None or not unread:
            return
        with source.read() as snapshot:
            self._follow(snapshot)
            view = StateView(snapshot.state)
            for query in unread:
                self._read(query, view)

    def end(self, watched: Watched) -> None:
        """Nobody watches it any more."""
        self.touched.pop(watched.query, None)
        self.unread.pop(watched.query, None)
        self.leases.end(watched)

    def _read(self, query: CheckQuery, view: StateView) -> None:
        self.leases.read(self.leases[query], view)
        self.unread.pop(query, None)

    async def missed(self, after_size: int, executor: str) -> list[Effect]:
        """What entries did since the ledger had `after_size` of them, up to this place. Raises
        OutOfRangeError when they are too many, or are not here yet."""
        is_near = self.ledger.size - after_size <= MAX_FOLLOWED
        if is_near:
            async with self._reading_near:
                return await self._missed(after_size)
        own = self._reading_of.setdefault(executor, asyncio.Lock())
        async with own, self._reading_far:
            return await self._missed(after_size)

    async def _missed(self, after_size: int) -> list[Effect]:
        effects: list[Effect] = []
        size = after_size
        while size != self.ledger.size:
            behind = self.ledger.size - size
            source = self._source()
            if source is None:
                raise NotReadyError("the node's store is not open yet")
            if behind < 0:
                raise OutOfRangeError(
                    Violation("after_size", f"this node has followed {self.ledger.size} entries")
                )
            if behind > MAX_BEHIND:
                raise _too_many()
            with source.read() as snapshot:
                entries = snapshot.ledger_entries(size, min(MAX_FOLLOWED, behind))
            found = (effect_of(index, entry) for index, entry in enumerate(entries, start=size))
            effects += [effect for effect in found if effect is not None]
            size += len(entries)
            await asyncio.sleep(0)
        return effects

    async def followed(self, ledger_index: int, within_s: float) -> None:
        """Returns when the entry at this index was followed, or when the time is up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self.ledger.size <= ledger_index:
                    await self._went_on.wait()

    def _follow(self, snapshot: FollowedSnapshot, until: int | None = None) -> list[Effect]:
        """To the end of a snapshot, or until the ledger has so many entries, at once."""
        effects: list[Effect] = []
        has_more = True
        while has_more:
            step = self._step(snapshot, until)
            effects += step.effects
            has_more = step.has_more
        return effects

    def _step(self, snapshot: FollowedSnapshot, until: int | None = None) -> Followed:
        """Takes in some entries, and tells what they did."""
        had_begun = self.ledger.has_begun
        step = self.ledger.follow(snapshot, self._clock.boottime_ns(), until)
        if step.is_blind:
            self.unread.update(dict.fromkeys(self.leases))
            if had_begun:
                self._on_gap(_too_many())
        view = StateView(snapshot.state)
        try:
            for effect in step.effects:
                concerned = dict.fromkeys(self.leases.take(effect, view))
                self.touched.update(concerned)
                if effect.of_policies and effect.reason is not None:
                    self.unread.update(concerned)
        except Exception:
            # This place is past them, and not everybody was told: whoever goes on will be.
            self.unread.update(dict.fromkeys(self.leases))
            self._on_gap(NotReadyError("the ledger could not be read; watch again"))
            raise
        went_on, self._went_on = self._went_on, asyncio.Event()
        went_on.set()
        return step


def _too_many() -> OutOfRangeError:
    return OutOfRangeError(
        Violation("after_size", f"more than {MAX_BEHIND} entries ago; begin with 0")
    )
