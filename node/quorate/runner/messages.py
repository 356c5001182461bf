"""What supervisor and init say to each other: one JSON object a packet.

Owns the connection. Each end belongs to one process alone, so that its end is the end of that
process; unlike a pipe, it cannot be opened by others through /proc.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from typing import Any, Final

_MAX_PACKET_BYTES: Final = 64 * 1024

Message = dict[str, Any]


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends, neither of which is inherited by whatever is started."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Line:
    """One end. Neither saying nor hearing ever waits."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self.is_broken = False

    def fileno(self) -> int:
        return self._end.fileno()

    def say(self, **message: object) -> None:
        """What the other one does not take, because it has ended or hangs, is lost."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            self._end.send(json.dumps(message).encode())

    def heard(self) -> Iterator[Message]:
        """What the other one has said so far; `is_broken` afterwards when it is no more."""
        while not self.is_broken:
            try:
                packet = self._end.recv(_MAX_PACKET_BYTES)
            except BlockingIOError:
                return
            except ConnectionResetError:  # it left something unread; what it has said comes next
                continue
            if packet:
                yield json.loads(packet)
            else:
                self.is_broken = True

    def close(self) -> None:
        self._end.close()
