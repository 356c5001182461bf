"""What happened in a run: a digest that two runs of a seed share, and the last events to read.

Owns what is kept of a run. Events are kept as they are and put into words only when somebody wants
to read them.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

KEPT_EVENTS: Final = 400
_LONGEST: Final = 60
_NS_PER_S: Final = 1_000_000_000

Event = tuple[int, str, str, Any]
"""True time, machine, what, and whatever belongs to it."""


class Trace:
    """The trace of one run."""

    def __init__(
        self, kept: int | None = KEPT_EVENTS, tell: Callable[[str], None] | None = None
    ) -> None:
        """kept: how many of the last events can be read afterwards; None: all. tell: is given
        each event in words as it happens."""
        self._digest = hashlib.sha256()
        self._last: deque[Event] = deque(maxlen=kept)
        self._tell = tell
        self.events = 0

    def note(self, now: int, machine: str, what: str, detail: Any = "") -> None:
        """Something happened; `detail` has a `repr` that is the same in every process."""
        self._digest.update(f"{now} {machine} {what} {detail!r}\n".encode())
        self._keep((now, machine, what, detail))

    def note_bytes(self, now: int, machine: str, what: str, data: bytes, detail: Any) -> None:
        """Something happened that `data` stands for; `detail` is only for who reads the trace."""
        self._digest.update(b"%d %b %b " % (now, machine.encode(), what.encode()) + data)
        self._keep((now, machine, what, detail))

    def _keep(self, event: Event) -> None:
        self.events += 1
        self._last.append(event)
        if self._tell is not None:
            self._tell(in_words(event))

    def digest(self) -> str:
        return self._digest.hexdigest()

    def last(self, most: int) -> Iterator[str]:
        """The last events, in words, oldest first."""
        yield from (in_words(event) for event in list(self._last)[-most:])


def in_words(event: Event) -> str:
    """One line for an event."""
    now, machine, what, detail = event
    said = detail if isinstance(detail, str) else _said(detail)
    return f"{now / _NS_PER_S:12.6f}  {machine:<3} {what:<10} {said}"


def _said(detail: Any) -> str:
    if isinstance(detail, list | tuple):
        return ", ".join(_said(part) for part in detail)
    body = getattr(detail, "WhichOneof", None)
    if body is not None:
        return _message(detail)
    return detail if isinstance(detail, str) else repr(detail)


def _message(message: Any) -> str:
    """A message between nodes, without the bytes of commands."""
    kind = message.WhichOneof("body")
    body = getattr(message, kind)
    if kind == "append_request":
        entries = [(entry.index, entry.term) for entry in body.entries]
        held = f" entries {entries[0]}..{entries[-1]}" if entries else ""
        return (
            f"append(term {body.term}, after {body.prev_log_index}/{body.prev_log_term}, "
            f"commit {body.commit_index}{held})"
        )
    fields = ", ".join(f"{field.name} {_short(value)}" for field, value in body.ListFields())
    return f"{kind}({fields})"


def _short(value: Any) -> str:
    if isinstance(value, bytes):
        return f"{value[:6].hex()}.. {len(value)} B"
    said = str(value).partition("\n")[0]
    return said if len(said) <= _LONGEST else f"{said[:_LONGEST]}.."
