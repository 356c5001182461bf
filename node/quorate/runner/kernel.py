"""What Linux offers and Python does not: two calls of prctl(2), and the clock of the permits."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from typing import Final

NS_PER_MS: Final = 1_000_000

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def boottime_ns() -> int:
    """The clock on which the life of a permit is counted; it is the same in every process."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def adopt_orphans(wanted: bool = True) -> None:
    """Descendants of this process whose parents have ended become its children."""
    _prctl(_PR_SET_CHILD_SUBREAPER, int(wanted))


def signal_at_parents_end(number: signal.Signals) -> None:
    """This process gets the signal when the *thread* that forked it ends. It lasts beyond exec, and
    not beyond a fork, nor beyond the exec of a program with the rights of another user. A parent
    that has ended before the call is not noticed: look at `os.getppid()` afterwards."""
    _prctl(_PR_SET_PDEATHSIG, int(number))


def _prctl(option: int, value: int) -> None:
    rest = [ctypes.c_ulong(each) for each in (value, 0, 0, 0)]
    if _LIBC.prctl(option, *rest) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {option}: {os.strerror(number)}")
