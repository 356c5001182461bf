"""A machine that sleeps, as far as one process can tell: its boot clock is ahead all at once.

Owns the jump, which is the kernel's own: the process moves into a time namespace whose boot clock
is ahead (time_namespaces(7)). The process must have one thread. It needs CAP_SYS_ADMIN.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CLONE_NEWTIME = 0x80


def sleep_into(namespace: str) -> None:
    """From here on the boot clock of this process is that of the namespace at this path."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(namespace, os.O_RDONLY)
    try:
        if libc.setns(descriptor, CLONE_NEWTIME) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(descriptor)


@contextmanager
def clock_ahead(seconds: int) -> Iterator[str]:
    """The path of a time namespace whose boot clock is so many seconds ahead of this process's.
    Skips the test where the kernel allows none."""
    wait = "print(flush=True); input()"
    start = ["unshare", "--time", "--boottime", str(seconds), "--fork", "python3", "-c", wait]
    try:
        holder = subprocess.Popen(start, stdin=-1, stdout=-1, stderr=-1)
    except FileNotFoundError:
        pytest.skip("there is no unshare(1) here")
    with holder:
        assert holder.stdout is not None
        if not holder.stdout.readline():
            pytest.skip(f"no time namespace can be made here: {holder.communicate()[1]!r}")
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
        yield f"/proc/{children[0]}/ns/time"
        holder.communicate(b"\n")
