"""The single processes of a node by their part: supervisor, core, edge.

Owns finding them. A node as a whole is a `ProcessGroup`; what is done to its processes is the
caller's business.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from quorate.chaos.processes import ProcessGroup

SUPERVISOR: Final = "supervisor"
CORE: Final = "core"
EDGE: Final = "edge"
PARTS: Final = (SUPERVISOR, CORE, EDGE)


def part_pid(group: ProcessGroup, part: str) -> int | None:
    """The process of a node that does this part; None while there is none."""
    assert part in PARTS
    if part == SUPERVISOR:
        return group.pgid if group.is_running() else None
    for pid in group.members():
        if part_of(pid) == part:
            return pid
    return None


def part_of(pid: int) -> str | None:
    """Which part a process of a node does; None for the supervisor, for a child that has not
    become what it will be, and for a process that is gone."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return None
    for part in (CORE, EDGE):
        if f"quorate.node.{part}_process".encode() in arguments:
            return part
    return None
