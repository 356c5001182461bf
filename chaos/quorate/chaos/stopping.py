"""Being told to stop by a signal."""

from __future__ import annotations

import signal
import time
from typing import Final

_SLICE_S: Final = 0.05


class Stopping:
    """Whether this process has been told to stop.

    A `threading.Event` would not do: a handler runs in the middle of what the main thread does,
    which may be holding the event's own lock, and then setting it waits for ever.
    """

    def __init__(self) -> None:
        self._is_set = False

    def by(self, *numbers: signal.Signals) -> None:
        """From now on these signals set it. In the main thread."""
        for number in numbers:
            signal.signal(number, lambda *_: self.set())

    def set(self) -> None:
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set

    def wait(self, seconds: float) -> bool:
        """Sleeps so long, or until it is set, give or take a slice. Returns whether it is."""
        until = time.monotonic() + seconds
        while not self._is_set and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _SLICE_S))
        return self._is_set
