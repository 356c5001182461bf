"""Stopping gRPC servers that run in threads of the tests."""

from __future__ import annotations

from typing import Final

import grpc

_STOP_S: Final = 10.0


def stop(server: grpc.Server) -> None:
    """Stops it, and does not wait for ever: the library can miss that a call has ended which was
    cancelled before its message came, and then its server never says that it has stopped."""
    server.stop(None).wait(_STOP_S)
