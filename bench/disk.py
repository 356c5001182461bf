"""The machine's own rate of durable writes: the ceiling for commits that each wait for the disk."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

PAGE_BYTES = 4096


def fsyncs_per_second(directory: Path, seconds: float) -> float:
    """Appends a page and waits for the disk, again and again, on the file system of `directory`."""
    page = os.urandom(PAGE_BYTES)
    with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
        count = 0
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            file.write(page)
            os.fdatasync(file.fileno())
            count += 1
        return count / (time.perf_counter() - started)
