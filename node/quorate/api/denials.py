"""What an edge denied without the ledger, until its node's core has written it down.

Owns the counting: each denial is counted at once, in memory, and handed on once a second, so that
denying waits for nothing. Its size is bounded, whatever is denied. An edge that stops hands on the
rest (`flush`). What it has not handed on when it is killed is lost; while the core is gone, it is
kept and tried again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final, Protocol

from quorate.api import convert
from quorate.core.lineage import REASONS_OF_THE_NODE
from quorate.core.outcome import Reason
from quorate.v1 import core_pb2

FLUSH_S: Final = 1.0
MAX_KINDS: Final = 1_024
"""Kinds of denials that are told apart; those beyond are counted by method and reason."""
MAX_PER_REQUEST: Final = 256

Kind = tuple[str, str, str, Reason]
"""Executor, method, lease, reason."""


class Sink(Protocol):
    """The way to the core process (`quorate.api.core_link.CoreLink`)."""

    async def report_denials(self, request: core_pb2.ReportDenialsRequest) -> bool:
        """Whether all of it is durable."""
        ...


class DenialJournal:
    """Of one edge."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._counts: Counter[Kind] = Counter()
        self._some = asyncio.Event()

    def denied(self, method: str, reason: Reason, executor: str, lease_id: str) -> None:
        """Counts a denial, if it is of the node's own; others are the ledger's."""
        if reason in REASONS_OF_THE_NODE:
            self._count((executor, method, lease_id, reason), 1)
            self._some.set()

    def _count(self, kind: Kind, by: int) -> None:
        if kind not in self._counts and len(self._counts) >= MAX_KINDS:
            kind = ("", kind[1], "", kind[3])
        self._counts[kind] += by

    async def run(self) -> None:
        """Hands on what was counted, until cancelled."""
        while True:
            await self._some.wait()
            await asyncio.sleep(FLUSH_S)
            self._some.clear()
            await self.flush()

    async def flush(self) -> None:
        """Hands on what was counted so far; what the core does not take is counted again."""
        taken, self._counts = self._counts, Counter()
        kinds = list(taken)
        try:
            while kinds:
                part = kinds[:MAX_PER_REQUEST]
                request = core_pb2.ReportDenialsRequest(
                    denials=[_wire(kind, taken[kind]) for kind in part]
                )
                if not await self._sink.report_denials(request):
                    return
                del kinds[:MAX_PER_REQUEST]
        finally:  # also when this is cancelled
            for kind in kinds:
                self._count(kind, taken[kind])
                self._some.set()


def _wire(kind: Kind, count: int) -> core_pb2.Denials:
    executor, method, lease_id, reason = kind
    return core_pb2.Denials(
        executor=executor,
        method=method,
        lease_id=lease_id,
        reason=convert.reason_to_wire(reason),
        count=count,
    )
