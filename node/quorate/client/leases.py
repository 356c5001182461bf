"""A lease as its holder has it, for threads.

Owns the handle. Asks nothing itself: what its slot does not answer goes to the gate that made it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Protocol

from quorate.client.decisions import Denied, DeniedError, Permit, Released, Reported
from quorate.client.facts import LeaseFacts
from quorate.client.slot import PermitSlot
from quorate.client.telling import Story

OnChange = Callable[[Permit | Denied], None]

_NONE: Final[Mapping[str, str]] = MappingProxyType({})


class LeaseKeeper(Protocol):
    """What a lease needs of its gate."""

    def ask(
        self, lease: Lease, *, is_handed: bool, minimum_index: int = ...
    ) -> Permit | Denied: ...

    def hold(
        self, lease: Lease, on_change: OnChange | None = None, *, renew: bool = True
    ) -> AbstractContextManager[None]: ...

    def event(
        self, lease: Lease, kind: str, attributes: Mapping[str, str] = ...
    ) -> Reported | Denied: ...

    def renew(self, lease: Lease, ttl_ms: int = 0) -> Lease | Denied: ...

    def release(self, lease: Lease) -> Released | Denied: ...


@dataclass(frozen=True, slots=True)
class Lease(LeaseFacts):
    """The right to ask for permits for one action on one resource. It is no permit itself."""

    keeper: LeaseKeeper = field(repr=False, compare=False)
    slot: PermitSlot = field(repr=False, compare=False)
    story: Story[threading.Lock] = field(repr=False, compare=False)

    # None, and not only by keyword, in `check` and `require`: whether a number is 0 takes longer to
    # see, and keywords longer to pass, by a twentieth of a cached check.

    def check(self, minimum_index: int | None = None) -> Permit | Denied:
        """May the act go ahead now? A permit that is still good answers without asking; else the
        node is asked, and its permit counts from just before the question left.

        minimum_index: the answer knows of the ledger's entry at this index, that of a write for
            example; None: as new as the node has it. What was kept from before may not: then the
            node is asked, waits a little for the entry, and denies (BEHIND) without it.
        """
        if minimum_index is not None:
            kept = self.slot.cached_of(minimum_index)
            return kept or self.keeper.ask(self, is_handed=True, minimum_index=minimum_index)
        return self.slot.cached() or self.keeper.ask(self, is_handed=True)

    def require(self, minimum_index: int | None = None) -> Permit:
        """A permit, to be had before each act. Raises DeniedError when there is none."""
        if minimum_index is not None:
            answer = self.check(minimum_index=minimum_index)
        else:
            answer = self.slot.cached() or self.keeper.ask(self, is_handed=True)
        if isinstance(answer, Denied):
            raise DeniedError(answer)
        return answer

    @contextmanager
    def act(self, *, minimum_index: int | None = None) -> Iterator[Permit]:
        """A permit for the act that is the block, and for nothing else. Raises DeniedError when
        there is none. minimum_index: as for `check`.

        A block ends when its act has: so it can be told at once that a revocation is drained,
        while after `require` the permit's life has to pass.
        """
        with self.slot.acting():
            answer = self.slot.cached_for_act(minimum_index or 0) or self.keeper.ask(
                self, is_handed=False, minimum_index=minimum_index or 0
            )
            if isinstance(answer, Denied):
                raise DeniedError(answer)
            yield answer

    def hold(
        self, on_change: OnChange | None = None, *, renew: bool = True
    ) -> AbstractContextManager[None]:
        """Holds the lease for the length of a block: see `Gate.hold`."""
        return self.keeper.hold(self, on_change, renew=renew)

    def event(self, kind: str, attributes: Mapping[str, str] = _NONE) -> Reported | Denied:
        """Says what became of the work under the lease: see `Gate.event`."""
        return self.keeper.event(self, kind, attributes)

    def renew(self, ttl_ms: int = 0) -> Lease | Denied:
        """The same lease with a later expiry."""
        return self.keeper.renew(self, ttl_ms)

    def release(self) -> Released | Denied:
        """Gives the lease back."""
        return self.keeper.release(self)
