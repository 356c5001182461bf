"""What is made durable, and in which order relative to renaming.

Owns a record of the calls of `os.fsync` and `Path.rename` in this process. Whether the disk then
keeps what it was told is not shown by it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest


class Steps:
    """From when it is made until the end of the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[tuple[str, int]] = []
        """("sync", inode) and ("rename", inode), in order."""
        fsync, rename = os.fsync, Path.rename

        def recorded_fsync(descriptor: int) -> None:
            fsync(descriptor)
            self.done.append(("sync", os.fstat(descriptor).st_ino))

        def recorded_rename(path: Path, target: Path) -> Path:
            inode = path.stat().st_ino
            renamed = rename(path, target)
            self.done.append(("rename", inode))
            return renamed

        monkeypatch.setattr(os, "fsync", recorded_fsync)
        monkeypatch.setattr(Path, "rename", recorded_rename)

    def assert_put_in_place(self, directory: Path, file: str) -> None:
        """The file was synced, then the directory that it is in, then this got its name, then the
        directory above it was synced."""
        wanted = [
            ("sync", (directory / file).stat().st_ino),
            ("sync", directory.stat().st_ino),
            ("rename", directory.stat().st_ino),
            ("sync", directory.parent.stat().st_ino),
        ]
        left = iter(self.done)
        missing = [step for step in wanted if step not in left]
        assert not missing, (missing, self.done)
