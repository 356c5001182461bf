"""Who a node's peers are, and what the streams between them tell the node."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from quorate.v1 import peer_pb2 as pb

PROTOCOL_VERSION: Final = 9
"""Between nodes. Raised with every command that an older node would apply otherwise."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node, and how to reach it.

    address: host:port to dial. server_name: the DNS name in its certificate.
    authorities: PEM of its own domain's CAs; no other may vouch for it.
    """

    node_id: str
    address: str
    server_name: str
    authorities: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class LocalIdentity:
    """This node's certificate chain and key, PEM, and the federation that it belongs to."""

    node_id: str
    certificate: bytes
    private_key: bytes
    genesis_hash: bytes


class Directory(Protocol):
    """What this node knows, at the moment of asking, of who belongs to the federation. All calls
    come from the event loop."""

    def authorities(self) -> Iterable[bytes]:
        """PEM of the CAs of every domain that is known here, this node's own among them."""
        ...

    def authorities_of(self, node_id: str) -> tuple[bytes, ...]:
        """PEM of the CAs that alone may vouch for a node: its own domain's, of which there are two
        while it goes from one to another. None at all when the domain is not known here, or the
        node belongs to the federation no longer. The node itself need not be known: this node may
        lag behind (see `belongs`)."""
        ...

    def address_of(self, node_id: str) -> str | None:
        """Where to dial a node, when that was configured here: host:port."""
        ...

    def own_address(self) -> str:
        """Where others dial this node, host:port; empty while that is not known."""
        ...

    def own_order(self) -> bytes:
        """The signed order that added this node, for those who do not know it yet; empty when there
        is none, or it is not known here."""
        ...

    def belongs(self, node_id: str, order: bytes) -> bool:
        """Whether a node is known here to take part, or this is its domain's order to add it."""
        ...


class Handler(Protocol):
    """What the transport tells the node. All calls come from the event loop."""

    async def messages(self, peer: str, messages: Iterable[pb.PeerMessage]) -> None:
        """Takes in messages, in the peer's order; waits while the node is behind."""
        ...

    def connected(self, peer: str) -> None: ...

    def disconnected(self, peer: str) -> None: ...
