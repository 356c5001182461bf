"""A node's streams to and from its peers: gRPC over mutual TLS, one stream a direction.

Owns the server and the links' lives. Who is admitted is `servicer`'s, what a link does is `link`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, NoReturn

import grpc
from grpc import aio

from quorate.consensus.limits import MAX_PEER_MESSAGE_BYTES
from quorate.consensus.link import Link
from quorate.consensus.peers import Handler, LocalIdentity, Peer
from quorate.consensus.servicer import PeerServicer
from quorate.v1 import peer_pb2 as pb
from quorate.v1 import peer_pb2_grpc

MAX_STREAMS: Final = 64
"""Streams in progress, those that are not yet admitted among them; more are refused at once."""


class Transport:
    """All links of a node, and the server for those of its peers."""

    def __init__(
        self,
        identity: LocalIdentity,
        peers: Iterable[Peer],
        handler: Handler,
        is_issued_by: Callable[[bytes, bytes], bool],
    ) -> None:
        self._identity = identity
        self._peers = {peer.node_id: peer for peer in peers}
        self._links = {peer.node_id: Link(identity, peer, handler) for peer in self._peers.values()}
        self._servicer = PeerServicer(identity, lambda: self._peers, handler, is_issued_by)
        self._tasks: list[asyncio.Task[None]] = []
        self._server: aio.Server | None = None
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self, listen_address: str) -> int:
        """Serves and starts to dial; returns the port, 0 without peers. Raises OSError when it
        cannot listen."""
        if not self._peers:
            return 0  # a federation of one
        roots = b"\n".join(peer.ca_certificate for peer in self._peers.values())
        credentials = grpc.ssl_server_credentials(
            [(self._identity.private_key, self._identity.certificate)],
            root_certificates=roots,
            require_client_auth=True,
        )
        self._server = aio.server(
            maximum_concurrent_rpcs=MAX_STREAMS,
            options=[
                ("grpc.max_receive_message_length", MAX_PEER_MESSAGE_BYTES),
                ("grpc.max_concurrent_streams", 16),
                ("grpc.so_reuseport", 0),
            ],
        )
        peer_pb2_grpc.add_PeerServiceServicer_to_server(self._servicer, self._server)
        try:
            port = self._server.add_secure_port(listen_address, credentials)
        except RuntimeError as error:
            raise OSError(f"cannot listen for peers on {listen_address}") from error
        await self._server.start()
        self._dial()
        return port

    def _dial(self) -> None:
        self._tasks = [asyncio.create_task(link.run()) for link in self._links.values()]
        for task in self._tasks:
            task.add_done_callback(self._link_ended)

    def _link_ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._failed.done():
            self._failed.set_exception(error)

    async def failure(self) -> NoReturn:
        """Waits until a link fails by a fault of the program, and raises it: a node that has lost a
        link for good must not go on as if it were whole."""
        await asyncio.shield(self._failed)
        raise AssertionError("only an exception ends the wait")

    def send(self, peer: str, messages: Iterable[pb.PeerMessage]) -> None:
        self._links[peer].send(messages)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._servicer.stop()
        if self._server is not None:
            await self._server.stop(grace=0.2)


__all__ = ["LocalIdentity", "Peer", "Transport"]
