"""Who a node's peers are, from its own state: the transport's directory.

Owns what follows from the replicated state and the configuration for the links between nodes, and
when that has changed. Decides nothing about members: they are the ledger's.
"""

from __future__ import annotations

from collections.abc import Iterable

from quorate.consensus.peers import Peer
from quorate.core.ids import SpiffeId, dns_name
from quorate.core.records import Domain, Node
from quorate.core.state import StateView
from quorate.node.config import NodeConfig
from quorate.storage import Environment


def peers_of_state(
    nodes: Iterable[Node], domains: Iterable[Domain], config: NodeConfig
) -> list[Peer]:
    """The nodes that this one keeps links to: all of `nodes` but itself. Each is dialled where the
    configuration says, else where its domain says, and vouched for by its domain's authority."""
    authorities = {domain.id: domain.ca_certificate.encode("ascii") for domain in domains}
    return [
        Peer(
            node_id=node.id,
            address=config.peers.get(node.id, node.peer_address),
            server_name=dns_name(node.id),
            ca_certificate=authorities[node.domain],
        )
        for node in nodes
        if node.id != config.node.id
    ]


class Peering:
    """This node's peers, as of the last `refresh`; the transport's `Directory`."""

    def __init__(self, environment: Environment, config: NodeConfig) -> None:
        self._environment = environment
        self._config = config
        self._nodes: dict[str, Node] = {}
        self._domains: dict[str, Domain] = {}
        self.refresh()

    def refresh(self) -> bool:
        """Reads the state; returns whether the peers, or who may vouch for them, have changed."""
        with self._environment.read() as snapshot:
            view = StateView(snapshot.state)
            nodes = {node.id: node for node in view.active_nodes()}
            domains = {domain.id: domain for domain in view.domains()}
        if (nodes, domains) == (self._nodes, self._domains):
            return False
        self._nodes, self._domains = nodes, domains
        return True

    def peers(self) -> list[Peer]:
        return peers_of_state(self._nodes.values(), self._domains.values(), self._config)

    # -- the transport's directory -----------------------------------------------------------

    def authorities(self) -> list[bytes]:
        return [domain.ca_certificate.encode("ascii") for domain in self._domains.values()]

    def authority_of(self, node_id: str) -> bytes | None:
        if node_id not in self._nodes:
            return None
        domain = self._domains.get(SpiffeId.parse(node_id).trust_domain)
        return None if domain is None else domain.ca_certificate.encode("ascii")

    def address_of(self, node_id: str) -> str | None:
        return self._config.peers.get(node_id)

    def own_address(self) -> str:
        own = self._nodes.get(self._config.node.id)
        return "" if own is None else own.peer_address
