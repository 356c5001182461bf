"""A cgroup (version 2) of its own for a command, where this process may make one.

Owns the making, and the two things that the kernel then does to all of its members at once, new
ones included: killing and freezing. Whatever fails leaves the command to be handled process by
process.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path, PurePosixPath
from typing import Final, Self

_NEEDED: Final = ("cgroup.procs", "cgroup.kill", "cgroup.freeze")


class Cgroup:
    """One that was made by `make`, possibly by another process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def make(cls) -> Self | None:
        """A new one below that of this process; None where there can be none."""
        try:
            parent = _own()
            if parent is None:
                return None
            path = parent / f"quorate-exec-{os.getpid()}-{secrets.token_hex(4)}"
            path.mkdir(mode=0o755)
        except OSError:
            return None
        made = cls(path)
        if not all(os.access(path / name, os.W_OK) for name in _NEEDED):
            made.remove()
            return None
        return made

    def enter(self) -> None:
        """Takes this process in. Raises OSError."""
        (self.path / "cgroup.procs").write_text("0")

    def kill(self) -> None:
        self._write("cgroup.kill", "1")

    def freeze(self) -> None:
        self._write("cgroup.freeze", "1")

    def thaw(self) -> None:
        self._write("cgroup.freeze", "0")

    def remove(self) -> None:
        """Takes it away, with those that the command has made in it, when no process is left."""
        for directory, _, _ in os.walk(self.path, topdown=False):
            with contextlib.suppress(OSError):
                Path(directory).rmdir()

    def _write(self, name: str, text: str) -> None:
        with contextlib.suppress(OSError):
            (self.path / name).write_text(text)


def _own() -> Path | None:
    """The directory of the cgroup that this process is in; None without version 2."""
    member = _after(Path("/proc/self/cgroup").read_text(), "0::")
    mount = _mount(Path("/proc/self/mountinfo").read_text())
    if member is None or mount is None:
        return None
    root, point = mount
    try:
        return point / PurePosixPath(member).relative_to(root)
    except ValueError:  # what is mounted here does not show it
        return None


def _after(text: str, start: str) -> str | None:
    return next((ln.removeprefix(start) for ln in text.splitlines() if ln.startswith(start)), None)


def _mount(mountinfo: str) -> tuple[str, Path] | None:
    """Which cgroup is mounted, and where. proc(5): ... root, point, options, ... - type ..."""
    for line in mountinfo.splitlines():
        about, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            fields = about.split(" ")
            return fields[3], Path(fields[4])
    return None
