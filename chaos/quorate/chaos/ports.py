"""Free ports on loopback that stay free.

Owns the choice of ports for processes that bind them later, and again after a restart. Two
clusters on one machine do not get in each other's way: a port is claimed by the name of an
abstract socket, which the kernel gives back when the claiming process ends.
"""

from __future__ import annotations

import random
import socket
from typing import Final

from quorate.core.errors import QuorateError

# Below the range from which Linux takes the ports of outgoing connections (32768 on).
_LOWEST: Final = 18_000
_HIGHEST: Final = 32_000
_ATTEMPTS: Final = 500


class NoPortError(QuorateError):
    """No free port was found."""

    hint = "stop other federations on this machine"


class Ports:
    """Claims ports, and holds them until it is closed."""

    def __init__(self) -> None:
        self._claims: list[socket.socket] = []
        self._choice = random.SystemRandom()

    def address(self) -> str:
        """A loopback address with a port that nobody uses."""
        for _ in range(_ATTEMPTS):
            port = self._choice.randrange(_LOWEST, _HIGHEST)
            claim = _claim(port)
            if claim is None:
                continue
            if _is_free(port):
                self._claims.append(claim)
                return f"127.0.0.1:{port}"
            claim.close()
        raise NoPortError(f"no free port between {_LOWEST} and {_HIGHEST}")

    def close(self) -> None:
        for claim in self._claims:
            claim.close()
        self._claims.clear()


def _claim(port: int) -> socket.socket | None:
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0quorate-port-{port}")
    except OSError:  # somebody's already
        claim.close()
        return None
    return claim


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
