"""Who a node's peers are, and what the streams between them tell the node."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from quorate.v1 import peer_pb2 as pb

PROTOCOL_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Peer:
    """Another member, and how to reach it.

    address: host:port to dial. server_name: the DNS name in its certificate.
    ca_certificate: PEM of its own domain's authority; no other may vouch for it.
    """

    node_id: str
    address: str
    server_name: str
    ca_certificate: bytes


@dataclass(frozen=True, slots=True)
class LocalIdentity:
    """This node's certificate chain and key, PEM, and the federation that it belongs to."""

    node_id: str
    certificate: bytes
    private_key: bytes
    genesis_hash: bytes


class Handler(Protocol):
    """What the transport tells the node. All calls come from the event loop."""

    async def messages(self, peer: str, messages: Iterable[pb.PeerMessage]) -> None:
        """Takes in messages, in the peer's order; waits while the node is behind."""
        ...

    def connected(self, peer: str) -> None: ...

    def disconnected(self, peer: str) -> None: ...
