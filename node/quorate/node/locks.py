"""The locks of a data directory: one node runs in it, or one tool changes what is in it.

Owns their names and the taking of them. The system lets go of a lock when the last process that
holds its descriptor is gone, however it ended.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from quorate.core.errors import ConfigurationError

NODE_LOCK: Final = "node.lock"
"""Held by the supervisor of a node."""
CORE_LOCK: Final = "core.lock"
"""Held by its core process, and so by one that has outlived its supervisor."""
_POLL_S: Final = 0.05


class RunningError(ConfigurationError):
    """A node runs in the data directory, or a tool is at work there."""

    hint = "stop it first, or give this one its own"


@contextmanager
def hold(data_dir: Path, name: str, wait_s: float = 0.0) -> Iterator[int]:
    """A lock in the data directory, which whoever inherits the descriptor holds too. Raises
    RunningError when somebody else holds it for longer than `wait_s`, ConfigurationError when the
    directory cannot be used."""
    hint = "give the node a data directory of its own, in which its user may write"
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(data_dir / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"{data_dir} cannot be used: {error}", hint=hint) from error
    try:
        until_s = time.monotonic() + wait_s
        while not _locked(lock):
            if time.monotonic() >= until_s:
                raise RunningError(f"another node runs in {data_dir}")
            time.sleep(_POLL_S)
        yield lock
    finally:
        os.close(lock)


@contextmanager
def hold_all(data_dir: Path) -> Iterator[None]:
    """Both locks: no node runs in the directory meanwhile. Raises as `hold` does."""
    with hold(data_dir, NODE_LOCK), hold(data_dir, CORE_LOCK):
        yield


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
