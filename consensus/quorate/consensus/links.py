"""Which peers this node dials: those that it was told, and those that have dialled it.

Owns the lives of the links: at most one of a peer at a time, ended and begun as peers come, go and
move. Bounds how many peers may have themselves dialled that this node does not know yet. Does not
own what a link does (`link`), nor who may have a stream (`servicer`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable

from quorate.consensus import tasks
from quorate.consensus.limits import MAX_LEARNED_OF_DOMAIN, MAX_LEARNED_PEERS
from quorate.consensus.link import Link
from quorate.consensus.peers import LocalIdentity, Peer
from quorate.core.ids import SpiffeId
from quorate.v1 import peer_pb2 as pb


class Links:
    """The links of a node. A peer is *named* by the node itself, or else *learned* from its own
    stream, for as long as that lasts."""

    def __init__(
        self, make: Callable[[Peer], Link], ended: Callable[[asyncio.Task[None]], None]
    ) -> None:
        """ended: told of the task of each link that is over, for whatever reason."""
        self._make = make
        self._told = ended
        self._named: dict[str, Peer] = {}
        self._learned: dict[str, Peer] = {}
        self._links: dict[str, Link] = {}
        self._running: dict[str, asyncio.Task[None]] = {}  # of the links above, when dialling
        self._tasks: dict[asyncio.Task[None], str] = {}  # those that are ending, too
        self._is_dialling = False

    @property
    def named(self) -> frozenset[str]:
        return frozenset(self._named)

    def name(self, peers: Iterable[Peer]) -> None:
        """These are the peers from now on, and what was learned of them is forgotten."""
        before, self._named = self._named, {peer.node_id: peer for peer in peers}
        for node_id in self._named:
            self._learned.pop(node_id, None)
        for node_id in before | self._named:
            self._reconcile(node_id)

    def learn(self, peer: Peer) -> bool:
        """Keeps a link to a peer that is not named, until it is forgotten; without an address,
        keeps a place for it. False when there are too many such peers already."""
        assert peer.node_id not in self._named
        if peer.node_id not in self._learned and not self._has_place(peer.node_id):
            return False
        self._learned[peer.node_id] = peer
        self._reconcile(peer.node_id)
        return True

    def forget(self, node_id: str) -> None:
        if self._learned.pop(node_id, None) is not None:
            self._reconcile(node_id)

    def _has_place(self, node_id: str) -> bool:
        domain = SpiffeId.parse(node_id).trust_domain
        of_domain = sum(SpiffeId.parse(other).trust_domain == domain for other in self._learned)
        return len(self._learned) < MAX_LEARNED_PEERS and of_domain < MAX_LEARNED_OF_DOMAIN

    def _reconcile(self, node_id: str) -> None:
        """Makes the link to this node what it should be."""
        wanted = self._named.get(node_id) or self._learned.get(node_id)
        link = self._links.get(node_id)
        if link is not None and link.peer == wanted:
            return
        if link is not None:
            del self._links[node_id]
            running = self._running.pop(node_id, None)
            if running is not None:
                running.cancel()
        if wanted is not None and wanted.address:
            self._links[node_id] = self._make(wanted)
            if self._is_dialling:
                self._dial(node_id)

    def renew(self, identity: LocalIdentity) -> None:
        """Dials with another certificate from now on; streams that are open go on."""
        for link in self._links.values():
            link.renew(identity)

    def dial(self) -> None:
        """From now on, links are dialled."""
        self._is_dialling = True
        for node_id in self._links:
            self._dial(node_id)

    def _dial(self, node_id: str) -> None:
        older = [task for task, other in self._tasks.items() if other == node_id]
        task = asyncio.create_task(_run(self._links[node_id], older))
        self._running[node_id] = task
        self._tasks[task] = node_id
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        self._told(task)

    def send(self, node_id: str, messages: Iterable[pb.PeerMessage]) -> None:
        """Queues messages on the link to a peer; without one they are dropped."""
        link = self._links.get(node_id)
        if link is not None:
            link.send(messages)

    async def stop(self) -> None:
        """Ends every link, and dials no more."""
        self._is_dialling = False
        for task in self._running.values():
            task.cancel()  # once: it is the end of a link, which takes its time, that waits here
        self._running.clear()
        await tasks.ended(list(self._tasks))


async def _run(link: Link, older: Collection[asyncio.Task[None]]) -> None:
    """A link, once those before it to the same peer are over: the node hears of their end first."""
    await tasks.ended(older)
    await link.run()
