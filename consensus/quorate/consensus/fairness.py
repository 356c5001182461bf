"""Whose proposals a leader takes next.

Owns the queue of what was proposed and is not in the log yet. Each source has a queue of its own,
of limited size, and they take turns by bytes: deficit round robin (Shreedhar and Varghese,
Efficient Fair Queueing using Deficit Round Robin, 1995). So whoever proposes much waits behind
itself alone: before a source's first proposal comes at most one round of the others. What a source
is, is the caller's to say.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from quorate.consensus.limits import (
    MAX_COMMAND_BYTES,
    MAX_QUEUED_APPEND_BYTES,
    MAX_QUEUED_APPENDS,
)

_LEAST_BYTES: Final = 256
"""What a command costs its source at the least: also a short one has to be verified."""
_QUANTUM_BYTES: Final = MAX_COMMAND_BYTES
"""What a source may take in a round: at least one command, whatever its length."""


class _Source:
    """What one source has proposed, and how many bytes of this round are left to it."""

    __slots__ = ("bytes", "credit", "payloads")

    def __init__(self) -> None:
        self.payloads: deque[bytes] = deque()
        self.bytes = 0
        self.credit = 0


class FairQueue:
    """Proposals by source, in the order in which they come to the log."""

    def __init__(self) -> None:
        self._sources: dict[str, _Source] = {}
        self._turns: deque[str] = deque()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, source: str, payload: bytes) -> bool:
        """Queues a proposal; False when this source has too many in the queue."""
        assert len(payload) <= _QUANTUM_BYTES, "checked where it came in"
        queued = self._sources.get(source) or _Source()
        is_full = (
            len(queued.payloads) >= MAX_QUEUED_APPENDS
            or queued.bytes + len(payload) > MAX_QUEUED_APPEND_BYTES
        )
        if is_full:
            return False
        if not queued.payloads:
            self._sources[source] = queued
            queued.credit = 0 if self._turns else _QUANTUM_BYTES
            self._turns.append(source)
        queued.payloads.append(payload)
        queued.bytes += len(payload)
        self._length += 1
        return True

    def take(self) -> bytes:
        """The next proposal. Raises IndexError when there is none."""
        source = self._turns[0]
        queued = self._sources[source]
        while _cost(queued.payloads[0]) > queued.credit:
            # Its turn is over; what is left of its credit is added to that of its next one.
            self._turns.rotate(-1)
            source = self._turns[0]
            queued = self._sources[source]
            queued.credit += _QUANTUM_BYTES
        payload = queued.payloads.popleft()
        queued.bytes -= len(payload)
        queued.credit -= _cost(payload)
        self._length -= 1
        if not queued.payloads:  # who waits for nothing saves nothing up
            del self._sources[source]
            self._turns.popleft()
            if self._turns:
                self._sources[self._turns[0]].credit += _QUANTUM_BYTES
        return payload

    def clear(self) -> None:
        self._sources.clear()
        self._turns.clear()
        self._length = 0


def _cost(payload: bytes) -> int:
    return max(len(payload), _LEAST_BYTES)
