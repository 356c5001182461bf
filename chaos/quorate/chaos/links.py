"""Faults of the network between nodes that are alive and well, for any user.

Owns one small TCP proxy for each directed link (A dials B) and the state of each. It needs no
root, no network namespace and no packet filter: the nodes are told, in the [peers] table of their
configuration, to dial one another through these proxies. All of it is one thread with an event
loop; every method may be called from any thread, and has taken effect when it returns, on existing
connections too.

A cut link is a black hole: connections stay open, new ones are accepted and lead nowhere, and
neither data nor the end of a connection passes. What a cut held is dropped when it heals and the
connections are reset, as a firewall does that has lost their state; `heal(resume=True)` lets it
pass instead, as the network does when a cable is put back.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from quorate.chaos.relay import Relay, Rules, Way
from quorate.core.errors import QuorateError

__all__ = ["LinkError", "LinkState", "Links", "Way"]

BOTH_WAYS: Final = frozenset(Way)
_COMMAND_TIMEOUT_S: Final = 10.0
_BACKLOG: Final = 128
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)

_T = TypeVar("_T")
_Name = tuple[str, str]


class LinkError(QuorateError):
    """There is no such link, or the links are closed."""


@dataclass(frozen=True, slots=True)
class LinkState:
    """One directed link at one moment."""

    held: frozenset[Way]
    refusing: bool
    delay_ms: float
    connections: int
    bytes_passed: int

    @property
    def is_open(self) -> bool:
        return not self.held and not self.refusing


class _Link:
    """A listening socket and its relays. Touched in the event loop only."""

    def __init__(self, listener: socket.socket, target: tuple[str, int]) -> None:
        self.listener = listener
        self.target = target
        self.rules = Rules()
        self.relays: dict[asyncio.Task[None], Relay] = {}
        self.accepting: asyncio.Task[None] | None = None
        self.faults: list[BaseException] = []

    async def accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            dialler, _ = await loop.sock_accept(self.listener)
            dialler.setblocking(False)
            if self.rules.refusing:
                dialler.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                dialler.close()
                continue
            relay = Relay(dialler, self.target, self.rules)
            task = loop.create_task(relay.run())
            self.relays[task] = relay
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.relays.pop(task, None)
        fault = None if task.cancelled() else task.exception()
        if fault is not None:  # ours: a connection that breaks ends its relay without one
            self.faults.append(fault)

    async def hold(self, ways: frozenset[Way]) -> None:
        self.rules.held = ways
        for relay in self.relays.values():
            relay.suffered = relay.suffered or bool(ways)
        async with self.rules.changed:
            self.rules.changed.notify_all()

    async def drop(self, chosen: Callable[[Relay], bool]) -> None:
        """Resets the chosen connections."""
        ending = [task for task, relay in self.relays.items() if chosen(relay)]
        for task in ending:
            task.cancel()
        if ending:
            await asyncio.wait(ending)

    async def close(self) -> None:
        if self.accepting is not None:
            self.accepting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.accepting
        await self.drop(lambda _relay: True)
        self.listener.close()
        if self.faults:
            raise ExceptionGroup("relays failed", [LinkError(repr(f)) for f in self.faults])


class Links:
    """All directed links of a cluster, by the names of their ends."""

    def __init__(self) -> None:
        self._links: dict[_Name, _Link] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="quorate-links", daemon=True)
        self._closed = False
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def add(self, dialler: str, listener: str, target: str, *, port: int = 0) -> str:
        """Makes the link on which `dialler` reaches `listener` at `target` ("127.0.0.1:7401").

        Returns the address to dial instead. `port` 0 takes a free one.
        """
        assert dialler != listener
        assert (dialler, listener) not in self._links
        host, _, number = target.rpartition(":")
        return self._do(self._add((dialler, listener), (host, int(number)), port))

    def address(self, dialler: str, listener: str) -> str:
        """Where `dialler` must dial to reach `listener` over this link."""
        host, number = self._find(dialler, listener).listener.getsockname()
        return f"{host}:{number}"

    def cut(self, dialler: str, listener: str, *, ways: Iterable[Way] = BOTH_WAYS) -> None:
        """Nothing passes on this one link any more, or nothing on the `ways` that are named."""
        self._do(self._find(dialler, listener).hold(frozenset(ways)))

    def sever(self, one: str, other: str) -> None:
        """Cuts both links between two nodes."""
        self.partition_off([(one, other)])

    def reset(self, dialler: str, listener: str) -> None:
        """Connections on this link are reset, now and whenever one is made, until it heals."""

        async def refuse(link: _Link) -> None:
            link.rules.refusing = True
            await link.drop(lambda _relay: True)

        self._do(refuse(self._find(dialler, listener)))

    def delay(self, dialler: str, listener: str, delay_ms: float) -> None:
        """Every byte takes this much longer, each way. Order is kept."""
        assert delay_ms >= 0

        async def slow(link: _Link) -> None:
            link.rules.delay_ms = delay_ms

        self._do(slow(self._find(dialler, listener)))

    def partition(self, groups: Iterable[Iterable[str]]) -> None:
        """Cuts every link between nodes that are not in the same group.

        A node that no group names is cut off from everybody. Links within a group are left alone.
        """
        group_of: dict[str, int] = {}
        for number, group in enumerate(groups):
            for node in group:
                assert node not in group_of, f"{node} is in two groups"
                group_of[node] = number
        unknown = set(group_of) - {end for name in self._links for end in name}
        if unknown:
            raise LinkError(f"no such node: {', '.join(sorted(unknown))}")
        self.partition_off(
            [
                (one, other)
                for one, other in self._links
                if group_of.get(one) is None or group_of.get(one) != group_of.get(other)
            ]
        )

    def partition_off(self, pairs: Iterable[_Name]) -> None:
        """Cuts the links between each of these pairs, both directions, all in one moment."""
        names = {pair for one, other in pairs for pair in ((one, other), (other, one))}
        self._do(self._hold_all([self._find(*name) for name in sorted(names)]))

    def isolate(self, node: str) -> None:
        """Cuts a node off from everybody."""
        pairs = [name for name in self._links if node in name]
        if not pairs:
            raise LinkError(f"no such node: {node}")
        self.partition_off(pairs)

    def heal(self, *, resume: bool = False) -> None:
        """Opens every link and takes away every delay.

        Connections that a cut held are reset and what it held is dropped, unless `resume`.
        """
        self._do(self._heal(list(self._links.values()), resume=resume))

    def open(self, dialler: str, listener: str, *, resume: bool = False) -> None:
        """Heals one link."""
        self._do(self._heal([self._find(dialler, listener)], resume=resume))

    def state(self, dialler: str, listener: str) -> LinkState:
        """What a link does at this moment."""

        async def look(link: _Link) -> LinkState:
            rules = link.rules
            return LinkState(
                rules.held, rules.refusing, rules.delay_ms, len(link.relays), rules.bytes_passed
            )

        return self._do(look(self._find(dialler, listener)))

    def close(self) -> None:
        """Closes every connection and ends the thread. Harmless when repeated."""
        if self._closed:
            return

        async def close_all() -> None:
            for link in self._links.values():
                await link.close()

        try:
            self._do(close_all())
        finally:
            self._closed = True
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_COMMAND_TIMEOUT_S)
            assert not self._thread.is_alive()
            self._loop.close()

    # -- inside ------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _do(self, work: Coroutine[Any, Any, _T]) -> _T:
        if self._closed:
            work.close()
            raise LinkError("the links are closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_COMMAND_TIMEOUT_S)

    def _find(self, dialler: str, listener: str) -> _Link:
        try:
            return self._links[dialler, listener]
        except KeyError:
            raise LinkError(f"there is no link from {dialler} to {listener}") from None

    async def _add(self, name: _Name, target: tuple[str, int], port: int) -> str:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(_BACKLOG)
        link = _Link(listener, target)
        link.accepting = asyncio.get_running_loop().create_task(link.accept())
        self._links[name] = link
        host, number = listener.getsockname()
        return f"{host}:{number}"

    async def _hold_all(self, links: list[_Link]) -> None:
        # All the flags first, with no pause between them, so that the cut is one moment.
        for link in links:
            link.rules.held = BOTH_WAYS
        for link in links:
            await link.hold(BOTH_WAYS)

    async def _heal(self, links: list[_Link], *, resume: bool) -> None:
        if not resume:
            for link in links:  # while they are still held: nothing slips out first
                await link.drop(lambda relay: relay.suffered)
        for link in links:
            link.rules.refusing = False
            link.rules.delay_ms = 0.0
            for relay in link.relays.values():
                relay.suffered = False
            await link.hold(frozenset())
