"""A process that reads the store and decides nothing: one that copies or verifies it.

What it reads is old by the time it has finished, and nobody is permitted anything by it, so that no
revocation has to wait for it. Owns how such a process says so: by a lock on a file beside the
store, which ends with the process however it ends, and by its process id in the file. There is one
at a time.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quorate.core.errors import ConfigurationError
from quorate.storage import layout


@contextmanager
def declared(directory: Path) -> Iterator[None]:
    """From here to the end, this process decides nothing by what it reads of the store in
    `directory`. Raises `ConfigurationError` when another process says the same, or when the file
    cannot be made."""
    try:
        descriptor = os.open(
            directory / layout.BYSTANDER_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
    except OSError as error:
        raise ConfigurationError(
            f"the data directory cannot be used: {error}", hint="check its owner"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(
                "the store is being copied or verified by another process",
                hint="wait until it has finished",
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def declared_pid(directory: Path) -> int | None:
    """The process that has said that it decides nothing; None: there is none but this."""
    try:
        descriptor = os.open(directory / layout.BYSTANDER_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None  # nobody ever did, or nobody can
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.pread(descriptor, 20, 0)
            is_other = text.isdigit() and int(text) != os.getpid()
            return int(text) if is_other else None
        return None
    finally:
        os.close(descriptor)
