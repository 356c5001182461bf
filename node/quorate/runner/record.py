"""What the ledger is told of a run: that it started, stood still and went on, and how it ended.

Owns which events those are, and their order. They are said from a thread of their own: a node that
does not answer holds nothing up but the last look at whether it has them.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Final

from quorate.client import AnyReason, Denied, EventType, Lease
from quorate.core.limits import MAX_ATTRIBUTE_CHARS
from quorate.core.lineage import Stage, next_stage
from quorate.runner.output import Digest

_HOW: Final = "how"


class Record:
    """Of one run under a lease. All but `finish` return at once."""

    def __init__(self, lease: Lease, command: Sequence[str]) -> None:
        self._lease = lease
        self._command = tuple(command)
        self._stage = Stage.AUTHORIZED
        self._queue: queue.SimpleQueue[tuple[EventType, Mapping[str, str]] | None] = (
            queue.SimpleQueue()
        )
        self._refused: Denied | None = None
        self._thread = threading.Thread(target=self._tell, name="record", daemon=True)
        self._thread.start()

    # -- what happens ------------------------------------------------------------------------

    def started(self) -> None:
        """The command runs. Its arguments may be secret: their digest tells that they were the
        same."""
        program = PurePath(self._command[0]).name[:MAX_ATTRIBUTE_CHARS]
        arguments = "\0".join(self._command).encode(errors="surrogateescape")
        digest = hashlib.sha256(arguments).hexdigest()
        if self._stage is Stage.AUTHORIZED:
            self._say(EventType.STARTED, {"program": _text(program), "command_sha256": digest})

    def interrupted(self, reason: AnyReason) -> None:
        """Work was to stop. Said once, until it goes on."""
        if self._stage in (Stage.AUTHORIZED, Stage.STARTED):
            self._say(EventType.INTERRUPTED, {"reason": str(reason)})

    def frozen(self) -> None:
        """All of it stands still."""
        if self._stage is Stage.INTERRUPTED:
            self._say(EventType.CONTAINED, {_HOW: "frozen"})

    def goes_on(self) -> None:
        """There is a permit again."""
        if self._stage in (Stage.INTERRUPTED, Stage.CONTAINED):
            self._say(EventType.RECOVERY_STARTED, {})
            self._say(EventType.REVALIDATED, {})

    def ended(self, code: int | None, digest: Digest | None) -> None:
        """Nothing is left of it. code: as a shell gives it; None: it was ended."""
        about: dict[str, str] = {}
        if digest is not None:
            about |= {"stdout_sha256": digest.sha256, "stdout_bytes": str(digest.size_bytes)}
        match self._stage:
            case Stage.STARTED:
                exit_code = {} if code is None else {"exit_code": str(code)}
                self._say(EventType.COMPLETED, exit_code | about)
            case Stage.INTERRUPTED:
                self._say(EventType.CONTAINED, {_HOW: "ended"} | about)
            case Stage.CONTAINED:
                self._say(EventType.REPORTED, {_HOW: "ended"} | about)
            case _:
                pass  # it never was

    def finish(self, within_s: float) -> Denied | bool:
        """Whether the node has all of it; or why one event was not taken. False: not in time."""
        self._queue.put(None)
        self._thread.join(within_s)
        return not self._thread.is_alive() if self._refused is None else self._refused

    # -- inside ------------------------------------------------------------------------------

    def _say(self, kind: EventType, attributes: Mapping[str, str]) -> None:
        stage = next_stage(self._stage, kind)
        assert stage is not None, "in order"
        self._stage = stage
        self._queue.put((kind, attributes))

    def _tell(self) -> None:
        while (event := self._queue.get()) is not None:
            answer = self._lease.event(*event)
            if isinstance(answer, Denied) and self._refused is None:
                self._refused = answer


def _text(name: str) -> str:
    """A file's name as text, whatever its bytes are."""
    return name.encode(errors="surrogateescape").decode(errors="replace")
