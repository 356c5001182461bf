"""The line that a terminal shows while a narrowing command is waited for.

Owns its text: who is still open, and how long at the latest. Shows nothing where nobody looks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

from rich.console import Console
from rich.text import Text

from quorate.v1 import governance_pb2

MAX_NAMES: Final = 3
"""The others are counted: it is one line."""

Told: TypeAlias = Callable[[governance_pb2.RevokeProgress], None]


class LiveLine:
    """What was told last, and what of its time is left when somebody looks."""

    def __init__(self, wait: str, now_s: Callable[[], float] = time.monotonic) -> None:
        """wait: the level that is waited for."""
        self._wait = wait
        self._now_s = now_s
        self._progress: governance_pb2.RevokeProgress | None = None
        self._told_s = 0.0

    def tell(self, progress: governance_pb2.RevokeProgress) -> None:
        """The last message is no progress: how it ended is the result."""
        if not progress.is_last:
            self._progress, self._told_s = progress, self._now_s()

    def __rich__(self) -> Text:
        return Text(self.text(), overflow="ellipsis", no_wrap=True)

    def text(self) -> str:
        progress = self._progress
        if progress is None or not progress.so_far.HasField("outcome"):
            return "waiting for the ledger to decide"
        begin = f"accepted, waiting for {self._wait}"
        if progress.open:
            named = [self._named(node) for node in progress.open[:MAX_NAMES]]
            more = len(progress.open) - len(named)
            others = [f"{more} more"] if more else []
            return f"{begin}: still open: {', '.join(named + others)}"
        return f"{begin}: over {self._left(progress.so_far.bound_ms)}"

    def _named(self, node: governance_pb2.OpenNode) -> str:
        level = governance_pb2.WaitLevel.Name(node.lacks).removeprefix("WAIT_LEVEL_").lower()
        return f"{node.node_id} (not {level}; over {self._left(node.within_ms)})"

    def _left(self, within_ms: int) -> str:
        left_s = within_ms / 1_000 - (self._now_s() - self._told_s)
        return f"within {left_s:.1f} s" if left_s > 0 else "by now, not heard of yet"


@contextmanager
def live_line(console: Console, wait: str) -> Iterator[Told | None]:
    """Shows the line until the end of the block, on a terminal; None elsewhere."""
    if not console.is_terminal:
        yield None
        return
    line = LiveLine(wait)
    with console.status(line):
        yield line.tell
