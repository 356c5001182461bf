"""Keeping the graph of lineage: it follows the ledger of its own node, a few entries at a time.

Owns when it goes on, and when it is made anew: where it has entries that the ledger has not, or
others. It is behind the ledger by a second or so; who asks and cannot wait says so (`advance`). No
fault of it stops the node: it is told, and tried again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Final

import structlog

from quorate.core.errors import MalformedError, QuorateError
from quorate.core.graph import mark_of, take
from quorate.core.state import StateView
from quorate.core.store import Reader, Writer
from quorate.storage import Snapshot
from quorate.storage.graph import GraphError, GraphStore

log = structlog.get_logger(__name__)

ENTRIES_A_STEP: Final = 128
"""Taken in one transaction; the snapshot that they are read from is held no longer."""
REST_S: Final = 1.0
"""Between two looks at a ledger that it has caught up with: each is an fsync."""
BREATH_S: Final = 0.005
"""Between two steps of one that is far behind: the node's own work comes first."""
RETRY_S: Final = 10.0


class LineageKeeper:
    """The graph of one node's ledger. `step` is for one thread at a time, `read` for any."""

    def __init__(
        self,
        open_graph: Callable[[], GraphStore],
        read: Callable[[], AbstractContextManager[Snapshot]],
    ) -> None:
        """open_graph: raises GraphError. read: a snapshot of the node's ledger and state."""
        self._open = open_graph
        self._read = read
        self._graph: GraphStore | None = None
        self._asked = asyncio.Event()
        self._stepped = asyncio.Event()
        self.problem = ""

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            while True:
                await self._rest(await self._try())
        finally:
            graph, self._graph = self._graph, None
            if graph is not None:
                graph.close()

    async def _try(self) -> float:
        """Takes one step; how long to rest then, in seconds."""
        stepping = asyncio.ensure_future(asyncio.to_thread(self.step))
        try:
            has_more = await asyncio.shield(stepping)
        except asyncio.CancelledError:
            with suppress(QuorateError, OSError):
                await stepping  # a transaction of it may be open
            raise
        except (QuorateError, OSError) as error:
            problem = _words_of(error)
            if problem != self.problem:
                log.warning("lineage.not_followed", problem=problem)
            self.problem = problem
            return RETRY_S
        self.problem = ""
        stepped, self._stepped = self._stepped, asyncio.Event()
        stepped.set()
        return BREATH_S if has_more else REST_S

    async def _rest(self, pause_s: float) -> None:
        self._asked.clear()
        if pause_s == BREATH_S:
            await asyncio.sleep(pause_s)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._asked.wait()

    async def advance(self, size: int, within_s: float) -> None:
        """Returns when the graph has the first `size` entries, or when the time is up."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._graph is None or self.size() < size:
                    stepped = self._stepped
                    self._asked.set()
                    await stepped.wait()

    def size(self) -> int:
        """How many entries are in it. Raises GraphError."""
        with self.read() as graph:
            return mark_of(graph).size

    @contextmanager
    def read(self) -> Iterator[Reader]:
        """Raises GraphError, also while there is none."""
        if self._graph is None:
            raise GraphError("the graph of lineage is not open yet")
        with self._graph.read() as graph:
            yield graph

    def step(self) -> bool:
        """Takes in the next entries; whether there are more. Raises QuorateError, and OSError."""
        if self._graph is None:
            self._graph = self._open()
        if not self._graph.is_roomy():
            raise GraphError("the disk is nearly full: the graph of lineage does not go on")
        has_more = False

        def fill(graph: Writer) -> None:
            nonlocal has_more
            with self._read() as snapshot:  # and it is closed before anything is synced
                start = _start(graph, snapshot)
                entries = snapshot.ledger_entries(start, ENTRIES_A_STEP)
                view = StateView(snapshot.state)
                for index, entry in enumerate(entries, start=start):
                    take(graph, view, index, entry)
                has_more = snapshot.ledger_size > start + len(entries)

        try:
            self._graph.write(fill)
        except MalformedError as error:
            log.warning("lineage.begun_anew", problem=str(error))
            self._graph.clear()
            return True
        return has_more


def _words_of(error: QuorateError | OSError) -> str:
    """Without the path that an OSError names: whoever reads the log knows where the graph lies."""
    if isinstance(error, OSError):
        return f"the graph of lineage: {error.strerror or error}"
    return str(error)


def _start(graph: Reader, snapshot: Snapshot) -> int:
    """How many entries are in the graph. Raises MalformedError when it is of another ledger."""
    mark = mark_of(graph)
    last = snapshot.ledger_entry(mark.size - 1) if mark.size else None
    said = hashlib.sha256(last).hexdigest() if last is not None else ""
    if said != mark.last:
        raise MalformedError(f"the graph has {mark.size} entries that are not the ledger's")
    return mark.size
