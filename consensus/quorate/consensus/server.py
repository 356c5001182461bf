"""The listening side of the streams between nodes: a gRPC server over mutual TLS.

Owns the port, the certificate that it shows, and whom TLS trusts: the authorities of all domains
that are known. Who may vouch for whom, and who is let in, is `servicer`'s.

When the authorities or its own certificate change, the server is made anew on its port, and every
stream begins again. The library can also be asked to fetch its roots and its certificate before
each handshake, but that corrupts memory when handshakes coincide (grpcio 1.85). An authority that
the library cannot read is left out: with it first there is no server, and what comes behind it is
not trusted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

import grpc
import structlog
from grpc import aio

from quorate.consensus.limits import MAX_LEARNED_PEERS, MAX_MEMBERS, MAX_PEER_MESSAGE_BYTES
from quorate.consensus.peers import LocalIdentity
from quorate.consensus.servicer import PeerServicer
from quorate.v1 import peer_pb2_grpc

MAX_STREAMS: Final = MAX_MEMBERS + MAX_LEARNED_PEERS + 16
"""Streams in progress, those that are not yet admitted among them; more are refused at once."""
_STOP_GRACE_S: Final = 0.2
_REBIND_RETRY_S: Final = 0.05
_REBIND_TRIES: Final = 100
"""A server that has stopped may hold its port for a moment."""
log = structlog.get_logger(__name__)


class PeerServer:
    """Serves a servicer on one address, with changing authorities and certificates."""

    def __init__(self, identity: LocalIdentity, servicer: PeerServicer) -> None:
        self._pair = self._served_pair = (identity.private_key, identity.certificate)
        self._servicer = servicer
        self._address = ""
        self._wanted: tuple[bytes, ...] = ()
        self._served: tuple[bytes, ...] = ()
        self.left_out: tuple[bytes, ...] = ()
        """Of the authorities that are served, those that nobody is let in by."""
        self._server: aio.Server | None = None
        self._changed = asyncio.Event()
        self._is_stopping = False
        self._following: asyncio.Task[None] | None = None

    async def start(self, listen_address: str) -> tuple[int, asyncio.Task[None]]:
        """Listens; returns the port, and the task that follows the authorities from now on, which
        ends with `stop`, or raises. Raises OSError when it cannot listen."""
        port = await self._begin(listen_address)
        self._address = f"{listen_address.rpartition(':')[0]}:{port}"
        self._following = asyncio.create_task(self._follow())
        return port, self._following

    def trust(self, authorities: Iterable[bytes]) -> None:
        """These are the authorities from now on, PEM."""
        self._wanted = tuple(sorted(set(authorities)))
        self._changed.set()

    def renew(self, identity: LocalIdentity) -> None:
        """This is the certificate to show from now on, and its key."""
        self._pair = (identity.private_key, identity.certificate)
        self._changed.set()

    async def stop(self) -> None:
        self._is_stopping = True
        self._changed.set()
        if self._following is not None:
            await asyncio.wait([self._following])
        await self._end()

    async def _begin(self, address: str) -> int:
        self._served, self._served_pair = self._wanted, self._pair
        readable = [each for each in self._served if await self._can_read(each, address)]
        self.left_out = tuple(each for each in self._served if each not in readable)
        if self.left_out:
            if not await self._can_read(self._served_pair[1], address):  # it is not because of them
                raise OSError(f"cannot listen for peers on {address}")
            log.error("peer.authorities_left_out", count=len(self.left_out))
        credentials = self._trusting(b"\n".join(readable))
        server = aio.server(
            maximum_concurrent_rpcs=MAX_STREAMS,
            options=[
                ("grpc.max_receive_message_length", MAX_PEER_MESSAGE_BYTES),
                ("grpc.max_concurrent_streams", 16),
                ("grpc.so_reuseport", 0),
            ],
        )
        peer_pb2_grpc.add_PeerServiceServicer_to_server(self._servicer, server)
        try:
            port = server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise OSError(f"cannot listen for peers on {address}") from error
        self._servicer.open()
        await server.start()
        self._server = server
        return port

    def _trusting(self, authorities: bytes) -> grpc.ServerCredentials:
        return grpc.ssl_server_credentials(
            [self._served_pair], root_certificates=authorities, require_client_auth=True
        )

    async def _can_read(self, authority: bytes, address: str) -> bool:
        """Whether the library makes a server that trusts this authority, on any port. It has no
        other way to be asked, and other libraries read other certificates."""
        probe, host = aio.server(), address.rpartition(":")[0]
        try:
            probe.add_secure_port(f"{host}:0", self._trusting(authority))
        except RuntimeError:
            return False
        finally:
            await probe.stop(None)
        return True

    async def _end(self) -> None:
        await self._servicer.close()
        server, self._server = self._server, None
        if server is not None:
            await server.stop(_STOP_GRACE_S)

    async def _follow(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._is_stopping:
                return
            if (self._wanted, self._pair) != (self._served, self._served_pair):
                log.info("peer.server_renewed", address=self._address)
                await self._end()
                await self._begin_again()

    async def _begin_again(self) -> None:
        for _ in range(_REBIND_TRIES):
            if self._is_stopping:
                return
            try:
                await self._begin(self._address)
            except OSError:
                await asyncio.sleep(_REBIND_RETRY_S)
            else:
                return
        await self._begin(self._address)


__all__ = ["MAX_STREAMS", "PeerServer"]
