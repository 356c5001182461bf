"""A node's streams to and from its peers: gRPC over mutual TLS, one stream a direction.

Owns what follows when the peers change. Who is admitted is `servicer`'s, which links are kept is
`links`', what a link does is `link`'s, the port is `server`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import NoReturn

from quorate.consensus.link import Link
from quorate.consensus.links import Links
from quorate.consensus.peers import Directory, Handler, LocalIdentity, Peer
from quorate.consensus.server import PeerServer
from quorate.consensus.servicer import PeerServicer
from quorate.core.ids import dns_name
from quorate.v1 import peer_pb2 as pb


class Transport:
    """All links of a node, and the server for those of its peers."""

    def __init__(
        self,
        identity: LocalIdentity,
        directory: Directory,
        handler: Handler,
        is_issued_by: Callable[[bytes, bytes], bool],
    ) -> None:
        """is_issued_by: (leaf PEM, authority PEM) -> bool, whether it is the direct issuer."""
        self._directory = directory
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._identity = identity
        self._links = Links(
            lambda peer: Link(self._identity, peer, handler, directory), self._ended
        )
        self._servicer = PeerServicer(
            identity, directory, handler, is_issued_by, met=self._met, parted=self._links.forget
        )
        self._server = PeerServer(identity, self._servicer)

    async def start(self, listen_address: str) -> int:
        """Serves and starts to dial; returns the port. Raises OSError when it cannot listen."""
        self._server.trust(self._directory.authorities())
        port, following = await self._server.start(listen_address)
        following.add_done_callback(self._ended)
        self._links.dial()
        return port

    def update(self, peers: Iterable[Peer]) -> None:
        """These are the peers to keep links to from now on; call it whenever what the directory
        says has changed, too. The links and streams of those that are gone end at once."""
        before = self._links.named
        self._links.name(peers)
        self._servicer.recheck(gone=before - self._links.named)
        self._server.trust(self._directory.authorities())

    def renew(self, identity: LocalIdentity) -> None:
        """Another certificate and key of the same node: what is dialled from now on is dialled with
        them, and the server is made anew to show them."""
        assert identity.node_id == self._identity.node_id, "a node stays who it is"
        self._identity = identity
        self._links.renew(identity)
        self._server.renew(identity)

    def _met(self, node_id: str, address: str, authorities: tuple[bytes, ...]) -> bool:
        """A stream is about to be let in: dials a node back that is not named. False when there
        are too many such nodes."""
        if node_id in self._links.named:
            return True
        configured = self._directory.address_of(node_id)
        where, name = configured or address, dns_name(node_id)
        return self._links.learn(Peer(node_id, where, name, authorities))

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._failed.done():
            self._failed.set_exception(error)

    async def failure(self) -> NoReturn:
        """Waits until a link or the server fails by a fault of the program or for want of its port,
        and raises it: a node that has lost one for good must not go on as if it were whole."""
        await asyncio.shield(self._failed)
        raise AssertionError("only an exception ends the wait")

    def send(self, peer: str, messages: Iterable[pb.PeerMessage]) -> None:
        """Queues messages while the link to `peer` is up; else, or without one, drops them."""
        self._links.send(peer, messages)

    async def stop(self) -> None:
        """Ends links and streams; what is updated from now on is dialled no more."""
        await self._links.stop()
        await self._server.stop()


__all__ = ["Directory", "LocalIdentity", "Peer", "Transport"]
