"""The clocks of a node.

Owns reading them. `CLOCK_BOOTTIME` bounds authority: it goes on while the machine sleeps, it is the
same in every process, and nobody can set it. The wall clock is a second opinion, which can only
deny. Neither is ever compared with another machine's.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Final, Protocol

BOOT_ID_BYTES: Final = 16
_BOOT_ID_FILE: Final = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """The clocks of one machine."""

    def boottime_ns(self) -> int:
        """Nanoseconds since the machine started, sleep included. Never goes back."""
        ...

    def realtime_ns(self) -> int:
        """Nanoseconds since the epoch, by the wall clock. May step."""
        ...


class SystemClock:
    """The clocks of this machine."""

    __slots__ = ()

    def boottime_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def realtime_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_REALTIME)


def boot_id() -> bytes:
    """The 16 bytes that name this start of the machine: boot time means nothing across two."""
    return uuid.UUID(_BOOT_ID_FILE.read_text(encoding="ascii").strip()).bytes
