"""Who a node's peers are, from its own state: the transport's directory.

Owns what follows from the replicated state and from Raft's configuration for the links between
nodes, and when that has changed. Decides nothing about members: they are the ledger's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import lru_cache

import structlog

from quorate.consensus.peers import Peer
from quorate.core.errors import MalformedError
from quorate.core.genesis import load_certificate
from quorate.core.ids import SpiffeId, dns_name
from quorate.core.limits import MAX_DOMAINS
from quorate.core.records import Domain, Node
from quorate.core.state import StateView
from quorate.core.status import Status
from quorate.node.config import NodeConfig
from quorate.node.introduction import find_order, is_order
from quorate.storage import Environment

log = structlog.get_logger(__name__)


def peers_of_state(
    nodes: Iterable[Node], domains: Iterable[Domain], config: NodeConfig
) -> list[Peer]:
    """Links to all of `nodes` but this one. Each is dialled where the configuration says, else
    where its domain says, and vouched for by its domain's authority."""
    authorities = {domain.id: usable_authorities(domain) for domain in domains}
    return [
        Peer(
            node_id=node.id,
            address=config.peers.get(node.id, node.peer_address),
            server_name=dns_name(node.id),
            authorities=authorities[node.domain],
        )
        for node in nodes
        if node.id != config.node.id
    ]


class Peering:
    """This node's peers, as of the last `refresh`; the transport's `Directory`.

    A retired node is a peer as long as Raft's configuration in force names it: until it is removed
    there, its vote may be needed for removing it.
    """

    def __init__(
        self,
        environment: Environment,
        config: NodeConfig,
        members: Callable[[], Collection[str]],
        *,
        origin: str,
        founders: Collection[str],
    ) -> None:
        """members: of the configuration in force, voters and learners. origin: of the ledger.
        founders: the nodes that its genesis names, which everybody knows."""
        self._environment = environment
        self._config = config
        self._members = members
        self._nodes: dict[str, Node] = {}
        self._domains: dict[str, Domain] = {}
        self._gone: frozenset[str] = frozenset()
        self._founders = frozenset(founders)
        self._order = b""
        self._origin = origin
        self.refresh()

    def refresh(self) -> bool:
        """Reads the state; returns whether the peers, or who may vouch for them, have changed."""
        members = self._members()
        with self._environment.read() as snapshot:
            view = StateView(snapshot.state)
            nodes = {node.id: node for node in view.nodes()}
            domains = {each.id: each for each in view.domains() if usable_authorities(each)}
        gone = frozenset(node.id for node in nodes.values() if node.retired) - set(members)
        if (nodes, domains, gone) == (self._nodes, self._domains, self._gone):
            return False
        self._nodes, self._domains, self._gone = nodes, domains, gone
        self._find_order()
        return True

    def _find_order(self) -> None:
        own = self._nodes.get(self._config.node.id)
        if own is not None and own.id not in self._founders and not self._order:
            with self._environment.read() as snapshot:
                self._order = find_order(snapshot, own)

    def peers(self) -> list[Peer]:
        """Whom this node dials; nobody, once it is gone itself."""
        if self._config.node.id in self._gone:
            return []
        nodes = [
            node
            for node in self._nodes.values()
            if node.id not in self._gone and node.domain in self._domains
        ]
        return peers_of_state(nodes, self._domains.values(), self._config)

    # -- the transport's directory -----------------------------------------------------------

    def authorities(self) -> list[bytes]:
        members = {node.domain for node in self._nodes.values() if node.id not in self._gone}
        return [
            authority
            for domain in self._domains.values()
            for authority in usable_authorities(domain)
            if domain.status is not Status.REVOKED or domain.id in members
        ]

    def authorities_of(self, node_id: str) -> tuple[bytes, ...]:
        if node_id in self._gone:
            return ()
        domain = self._domain_of(node_id)
        return () if domain is None else usable_authorities(domain)

    def address_of(self, node_id: str) -> str | None:
        return self._config.peers.get(node_id)

    def own_address(self) -> str:
        own = self._nodes.get(self._config.node.id)
        return "" if own is None else own.peer_address

    def own_order(self) -> bytes:
        return self._order

    def belongs(self, node_id: str, order: bytes) -> bool:
        if node_id in self._nodes or node_id in self._members():
            return True
        domain = self._domain_of(node_id)
        if domain is None:
            return False
        with self._environment.read() as snapshot:  # time goes on without any change of members
            now = StateView(snapshot.state).ledger_time()
        return is_order(order, node_id, self._origin, domain, now)

    def _domain_of(self, node_id: str) -> Domain | None:
        """The domain that speaks for a node. One that was expelled speaks for none but those that
        are known, as long as they are members: it can order and issue what it likes."""
        domain = self._domains.get(SpiffeId.parse(node_id).trust_domain)
        if domain is None or (domain.status is Status.REVOKED and node_id not in self._nodes):
            return None
        return domain


def usable_authorities(domain: Domain) -> tuple[bytes, ...]:
    """PEM of a domain's CAs, as far as they are certificates: whoever was admitted may have brought
    anything, for that is not decided in the ledger, and it must spoil nobody else's."""
    return tuple(each.encode("ascii") for each in domain.authorities if _is_usable(domain.id, each))


@lru_cache(maxsize=4 * MAX_DOMAINS)
def _is_usable(domain: str, certificate: str) -> bool:
    try:
        load_certificate(certificate)
    except MalformedError as error:
        log.warning("peer.unusable_authority", domain=domain, problem=str(error))
        return False
    return True
