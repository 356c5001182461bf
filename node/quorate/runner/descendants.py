"""The descendants of a process, as /proc shows them.

Owns finding them, and signalling one of them and no other. A look is no snapshot: whoever must
reach all of them looks again until there is nothing new. Whether any are left is not asked here: a
process that adopts orphans has descendants exactly as long as it has children.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_MOST_LOOKS: Final = 8
"""In one go. Who starts others faster than they are found would keep us looking for ever, and from
all else: whoever must reach them comes again."""

Key = tuple[int, int]
"""Number and start of a process: no later one has both."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process at the moment of the look. state: of its first thread. threads: with the first
    one, also when that has ended before the others. started: in clock ticks since boot."""

    pid: int
    parent: int
    group: int
    state: str
    threads: int
    started: int

    @property
    def key(self) -> Key:
        return self.pid, self.started

    @property
    def is_alive(self) -> bool:
        return self.state not in ("Z", "X") or self.threads > 1

    @property
    def is_stopped(self) -> bool:
        return self.state == "T"


def look(pid: int) -> Process | None:
    """None: there is no such process."""
    try:
        text = (_PROC / str(pid) / "stat").read_bytes().decode("ascii", "replace")
    except OSError:  # it ended while we looked, or is hidden from us
        return None
    # proc(5): the name, in parentheses, may hold anything; the rest is numbers, but for the state.
    fields = text.rpartition(")")[2].split()
    return Process(
        pid=pid,
        parent=int(fields[1]),
        group=int(fields[2]),
        state=fields[0],
        threads=int(fields[17]),
        started=int(fields[19]),
    )


def of(ancestor: int, spared: Collection[Key] = ()) -> list[Process]:
    """The descendants of a process, zombies too, parents before their children; without those that
    are spared, and theirs."""
    children: dict[int, list[Process]] = defaultdict(list)
    for name in os.listdir(_PROC):  # noqa: PTH208 - names are all that is wanted, thousands of them
        if name.isdecimal() and (process := look(int(name))) is not None:
            children[process.parent].append(process)
    found = [process for process in children.pop(ancestor, ()) if process.key not in spared]
    for process in found:  # it grows meanwhile
        found += children.pop(process.pid, ())
    return found


def send(process: Process, number: signal.Signals) -> None:
    """Signals this very process, if it is there and may be signalled by this user."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        handle = os.pidfd_open(process.pid)
        try:
            now = look(process.pid)
            if now is not None and now.key == process.key:
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def send_all(ancestor: int, number: signal.Signals, wanted: Callable[[Process], bool]) -> set[Key]:
    """Signals each descendant that lives and is wanted, once, and looks again as long as there are
    others, if that is not for too long; returns their keys."""
    done: set[Key] = set()
    for _ in range(_MOST_LOOKS):
        fresh = [p for p in of(ancestor) if p.is_alive and p.key not in done and wanted(p)]
        if not fresh:
            break
        for process in fresh:
            send(process, number)
            done.add(process.key)
    return done


def kill_all(spared: Collection[Key]) -> None:
    """Kills and reaps every descendant of this process, which adopts orphans. It returns when none
    is left: never, as long as there is one that this user may not kill."""
    this = os.getpid()
    while found := of(this, spared) or of(this, spared):  # twice: a look is no snapshot
        for process in found:
            send(process, signal.SIGKILL)
        for process in found:
            if process.parent == this:  # the orphans that it leaves come to us
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(process.pid, 0)
