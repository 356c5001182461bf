"""At least as fresh as a write: waiting until the node's state holds an index.

Owns how long is waited, and the error when that was not enough. An answer is never older than what
its request demands.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from typing import Any, Final

from quorate.api.errors import OutOfRangeError, Violation
from quorate.api.ports import Core

MOST_PATIENCE_S: Final = 1.0
"""The longest wait for an index, whatever deadline the caller has."""
_SHARE: Final = 0.8
"""Of the caller's time, so that it is left some to hear the answer."""


def patience_s(context: Any) -> float:
    """How long this call may wait for the node's state to come."""
    remaining_s = context.time_remaining()
    if remaining_s is None:
        return MOST_PATIENCE_S
    return min(MOST_PATIENCE_S, _SHARE * float(remaining_s))


async def until_held(core: Core, minimum_index: int, context: Any) -> None:
    """Returns when the ledger here holds an entry at this index; 0 asks for nothing.

    Raises OutOfRangeError when it does not in time: another node may hold it already.
    """
    if not minimum_index:
        return
    size = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(patience_s(context)), aclosing(core.follow()) as sizes:
            async for size in sizes:
                if size > minimum_index:
                    return
    raise OutOfRangeError(Violation("minimum_index", f"this node holds {size} entries so far"))
