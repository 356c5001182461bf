"""Whether nodes rest their permits on a state that is fresh enough, from what was seen outside.

Owns two checks of one promise (docs/authority.md): whoever permits holds everything that was
committed more than L before. `stale_permits` looks at what executors were answered; `Watch` at what
nodes say of themselves, so that a node which is left behind and believes that all is well is found
even when nobody asks it. Both know what was committed only from what was told, which comes later
than the truth: what they find is wrong for certain. Times are CLOCK_BOOTTIME, nanoseconds.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from quorate.chaos.probe import NS_PER_MS, Asked, boottime_ns
from quorate.v1 import node_pb2

EVERY_S: Final = 0.05
"""Between two samples of a node: its answers cost the processor that it needs."""


class Known:
    """What was known to be committed, and by when: moments with amounts that never fall."""

    def __init__(self) -> None:
        self._moments: list[int] = []
        self._amounts: list[int] = []

    def note(self, moment_ns: int, amount: int) -> None:
        """At `moment_ns`, not earlier than the last one noted, so much was known."""
        assert not self._moments or moment_ns >= self._moments[-1]
        if not self._amounts or amount > self._amounts[-1]:
            self._moments.append(moment_ns)
            self._amounts.append(amount)

    def by(self, moment_ns: int) -> int:
        """How much was known by then."""
        place = bisect_right(self._moments, moment_ns)
        return self._amounts[place - 1] if place else 0


def stale_permits(asked: Iterable[Asked], committed: Known, authority_ms: int) -> list[Asked]:
    """The permits that no node may give: decided on a ledger that lacks something which was
    committed more than L before the question was sent. committed: sizes of the ledger."""
    limit_ns = authority_ms * NS_PER_MS
    return [a for a in asked if a.is_permit and a.size < committed.by(a.sent_ns - limit_ns)]


@dataclass(frozen=True, slots=True)
class Sample:
    """What a node has said of itself. Indexes are the Raft log's; size is the ledger's."""

    name: str
    sent_ns: int
    answered_ns: int
    commit_index: int
    applied_index: int
    size: int
    remaining_ms: int


class Watch:
    """Asks every node for its status without pause, each in a thread of its own."""

    def __init__(
        self,
        names: Iterable[str],
        status: Callable[[str], node_pb2.GetStatusResponse | None],
    ) -> None:
        """status: of a node, by its name; None when it does not answer."""
        self.samples: list[Sample] = []
        self._status = status
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(name,), name=f"watch-{name}") for name in names
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self, name: str) -> None:
        while not self._stopping.wait(EVERY_S):
            self.take(name)

    def take(self, name: str) -> Sample | None:
        """One sample of a node; None when it does not answer."""
        sent_ns = boottime_ns()
        told = self._status(name)
        if told is None:
            return None
        sample = Sample(
            name=name,
            sent_ns=sent_ns,
            answered_ns=boottime_ns(),
            commit_index=told.commit_index,
            applied_index=told.applied_index,
            size=told.position.size,
            remaining_ms=told.authority_remaining_ms,
        )
        with self._lock:
            self.samples.append(sample)
        return sample

    def sizes(self) -> Known:
        """By when the ledger was known to have which size, from all samples so far."""
        return _known((s.answered_ns, s.size) for s in list(self.samples))

    def deluded(self, authority_ms: int) -> list[Sample]:
        """The samples of nodes that hold authority and lack what was committed before they asked
        for it: no node may."""
        samples = list(self.samples)
        committed = _known((s.answered_ns, s.commit_index) for s in samples)
        return [
            sample
            for sample in samples
            if sample.remaining_ms > 0
            and sample.applied_index < committed.by(_asked_ns(sample, authority_ms))
        ]


def _asked_ns(sample: Sample, authority_ms: int) -> int:
    """A moment before the node asked for the authority that it holds: it was granted until L after
    the ask, and so much of that was left when the node answered, or more when it was asked."""
    return sample.sent_ns + (sample.remaining_ms - authority_ms) * NS_PER_MS


def _known(told: Iterable[tuple[int, int]]) -> Known:
    known = Known()
    for moment_ns, amount in sorted(told):
        known.note(moment_ns, amount)
    return known
