"""Which version of the rules a federation lives by.

Owns the numbers. A version is everything that takes part in `apply`: which commands there are, what
they may say, and what comes of them. Every node lives by the version that the state names, whatever
its program knows beyond it, so that programs can be replaced one node at a time; and the state goes
to a later one at one index of the ledger, by ballot (`federation.upgrade`). A program that does not
know the version of its state stops.
"""

from __future__ import annotations

from typing import Final

from quorate.core.errors import UnsupportedProtocolError

FIRST: Final = 1
SECOND: Final = 2
LATEST: Final = SECOND
"""What this program knows."""
MOST: Final = 1_000
"""No version has a greater number."""


def check(protocol: int) -> None:
    """Raises UnsupportedProtocolError for a version that this program does not know."""
    if not FIRST <= protocol <= LATEST:
        raise UnsupportedProtocolError(
            f"the federation lives by version {protocol} of the protocol, and this program knows "
            f"them up to {LATEST}"
        )
