"""Ending tasks, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any


async def end(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancels the tasks and waits until they have ended."""
    for task in tasks:
        task.cancel()
    await ended(tasks)


async def ended(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Waits until the tasks have ended, even when the waiter itself is cancelled meanwhile: what
    follows may rely on their being over. The cancellation is raised afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while left := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(left)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
