"""The process that leaves no orphan behind, even when its parent is killed.

Owns one promise: when the pipe on its standard input ends, for whatever reason, every process
group that it was told of is killed. It is run as `python -m quorate.chaos.warden`, in a session of
its own, and imports nothing but the standard library.

A line "add PGID" hands a group over, "drop PGID" takes it back (before its leader is reaped, so
that the number cannot have become somebody else's).
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import IO


def keep_watch(lines: IO[str]) -> set[int]:
    """Reads until the pipe ends; returns the groups that are left over."""
    groups: set[int] = set()
    for line in lines:
        verb, _, number = line.strip().partition(" ")
        if verb == "add":
            groups.add(int(number))
        elif verb == "drop":
            groups.discard(int(number))
    return groups


def main() -> int:
    """Waits for the end of the parent, and ends what it left."""
    for group in keep_watch(sys.stdin):
        with contextlib.suppress(ProcessLookupError):  # gone by itself
            os.killpg(group, signal.SIGKILL)
    return 0


if __name__ == "__main__":
    sys.exit(main())
