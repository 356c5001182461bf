"""The standard output of the command, passed on and digested.

Owns the pipe between: what the command writes comes out of this process as it is, and there is a
digest of it at the end. A terminal is left alone: a program behaves differently before a pipe.
"""

from __future__ import annotations

import hashlib
import os
import select
import sys
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

STDOUT: Final = 1
_CHUNK_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Digest:
    """Of everything that the command has written. sha256: lower-case hex."""

    sha256: str
    size_bytes: int


class PassedOn:
    """From the start of the command's init to the end of its output.

    is_wanted: false leaves the standard output alone, and there is no digest. So does one that is
    closed: its number may be another file's by now.
    """

    def __init__(self, *, is_wanted: bool = True) -> None:
        is_open = sys.__stdout__ is not None
        self._is_wanted = is_wanted and is_open and not os.isatty(STDOUT)
        self.problem = ""
        """Why not all of it could be written, if somebody would have read it."""
        self._sha256 = hashlib.sha256()
        self._size_bytes = 0
        self._is_whole = False
        self._thread: threading.Thread | None = None
        self._read = self.write_end = -1
        """What the command has for its standard output; -1: this process's own."""

    def __enter__(self) -> Self:
        if self._is_wanted:
            self._read, self.write_end = os.pipe()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Returns when everything was passed on."""
        self.started()
        if self._thread is not None:
            self._thread.join()

    def started(self) -> None:
        """The command's init has the pipe: this process keeps the other end only, and begins to
        read. So the output ends when the last process of the command has."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1
            self._thread = threading.Thread(target=self._pass_on, name="output", daemon=True)
            self._thread.start()

    def digest(self, within_s: float) -> Digest | None:
        """Of the whole output. None: there is none, or not all of it was taken in time by whoever
        reads it."""
        if self._thread is None:
            return None
        self._thread.join(within_s)
        if not self._is_whole:
            return None
        return Digest(self._sha256.hexdigest(), self._size_bytes)

    def _pass_on(self) -> None:
        try:
            while chunk := os.read(self._read, _CHUNK_BYTES):
                self._sha256.update(chunk)
                self._size_bytes += len(chunk)
                _write(chunk)
            self._is_whole = True
        except BrokenPipeError:
            pass  # nobody takes it any more; the command hears of it as it would without this
        except OSError as error:
            self.problem = os.strerror(error.errno or 0)
        finally:
            os.close(self._read)


def _write(chunk: bytes) -> None:
    while chunk:
        try:
            chunk = chunk[os.write(STDOUT, chunk) :]
        except BlockingIOError:  # whoever has it besides us wants it so
            select.select((), (STDOUT,), ())
