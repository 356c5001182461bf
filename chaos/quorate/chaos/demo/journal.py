"""What an executor did and when, line by line, for whoever watches.

Owns the record's form, its writing and its reading. All processes of the demonstration are on one
machine, so their CLOCK_BOOTTIME is one clock and the times can be compared without any allowance.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

NS_PER_MS: Final = 1_000_000


class Did(StrEnum):
    """What happened."""

    LEASED = "leased"  # a lease was granted
    ACTED = "acted"  # a write under a permit, taken by the book
    DENIED = "denied"  # an act or a lease was denied
    FENCED = "fenced"  # the book refused a fence
    PROBED = "probed"  # an act that must be denied was tried
    ENDED = "ended"  # the executor stopped, in good order


@dataclass(frozen=True, slots=True)
class Event:
    """One line.

    at_ns: boot clock. For ACTED it is the very reading by which the permit was found good: neither
        the write nor the scheduling after it is in it.
    sent_ns: for ACTED, when the permit was asked for.
    reason: for DENIED and PROBED; empty when a probe was, wrongly, not denied.
    """

    did: Did
    at_ns: int
    resource: str = ""
    lease: str = ""
    fence: int = 0
    sent_ns: int = 0
    reason: str = ""
    thing: str = ""
    action: str = ""


def boottime_ns() -> int:
    """CLOCK_BOOTTIME, the clock that permits are judged by."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class JournalWriter:
    """Appends events; each is with the kernel when `write` returns."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(self, event: Event) -> None:
        self._file.write(json.dumps(asdict(event), separators=(",", ":")).encode() + b"\n")


class JournalReader:
    """Everything in a journal so far; a line that is half written is left for the next look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._events: list[Event] = []

    def events(self) -> list[Event]:
        """All events, in the order in which they were written."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._offset += len(whole)
            self._events += [parse_event(line) for line in whole.splitlines()]
        return self._events


def parse_event(line: bytes) -> Event:
    """Raises ValueError for a line that is no event."""
    value: dict[str, Any] = json.loads(line)
    known = {field.name for field in fields(Event)}
    if set(value) != known:
        raise ValueError(f"not an event: {line[:200]!r}")
    return Event(**(value | {"did": Did(value["did"])}))
