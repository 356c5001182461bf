"""Who a node is in its federation: of which domain, and with which keys.

Owns the checks that a node's keys and certificate are those that the others expect of it. The
genesis names the first node of each domain; a further one, or one of a domain that was admitted
later, is named by the ledger, which it may not hold yet. Does not own whether a node may take part:
that is the ledger's and the other nodes'.
"""

from __future__ import annotations

import structlog

from quorate.core.errors import ConfigurationError
from quorate.core.genesis import Descriptor, Genesis
from quorate.core.ids import SpiffeId
from quorate.core.state import StateView
from quorate.node.certificates import issued_by
from quorate.node.config import NodeConfig
from quorate.node.identity import TlsIdentity
from quorate.node.organisation import read_descriptor
from quorate.node.peering import usable_authorities
from quorate.node.store import store_path
from quorate.proofs.signing import SigningKey
from quorate.storage import Environment

log = structlog.get_logger(__name__)


def own_domain(config: NodeConfig, genesis: Genesis) -> Descriptor:
    """The descriptor of the node's own domain: that in the genesis, or else the domain's own, for
    one that was admitted later. Raises ConfigurationError when there is neither."""
    domain = SpiffeId.parse(config.node.id).trust_domain
    for descriptor in genesis.descriptors:
        if descriptor.domain == domain:
            return descriptor
    own = config.node.descriptor
    if own is not None and (descriptor := read_descriptor(own)).domain == domain:
        return descriptor
    raise ConfigurationError(
        f"{config.node.id} is not a node of {genesis.origin}: {domain} is none of its domains",
        hint="check node.id and node.genesis in the configuration; the domain of a node that was "
        "admitted later needs node.descriptor",
    )


def check_genesis(
    config: NodeConfig, genesis: Genesis, tls: TlsIdentity, signing: SigningKey, log_key: SigningKey
) -> Descriptor:
    """The descriptor of the node's domain, which has vouched for it. Raises ConfigurationError when
    it has not, or when the node holds other keys than the genesis says."""
    descriptor = own_domain(config, genesis)
    named = descriptor.node
    if config.node.id == named.id and (
        (named.signing_key, named.log_key) != (signing.public, log_key.public)
    ):
        raise ConfigurationError(
            "the node's keys are not those in the genesis",
            hint="use the keys that `quorate init` made with the signed descriptor",
        )
    if not store_path(config).exists():
        _check_issued(tls, authorities_of(descriptor, None))
    return descriptor


def authorities_of(descriptor: Descriptor, environment: Environment | None) -> tuple[bytes, ...]:
    """PEM of the CAs of the node's domain that are certificates: as the ledger has them, as far as
    this node has it, else as the domain was described at first."""
    if environment is not None:
        with environment.read() as snapshot:
            domain = StateView(snapshot.state).domain(descriptor.domain)
        if domain is not None:
            return usable_authorities(domain)
    return tuple(each.encode("ascii") for each in descriptor.authorities)


def founding_authorities(config: NodeConfig, genesis: Genesis) -> tuple[bytes, ...]:
    """PEM of the CAs that everybody knows who has the genesis; none, for the domain of a node that
    was admitted later."""
    own = SpiffeId.parse(config.node.id).trust_domain
    found = [each for each in genesis.descriptors if each.domain == own]
    return tuple(text.encode("ascii") for each in found for text in each.authorities)


def check_issued(tls: TlsIdentity, descriptor: Descriptor, environment: Environment) -> None:
    """Raises ConfigurationError when the node's certificate is of no CA of its domain. One that has
    a ledger may lag behind what its domain has changed; the others know, and let it in or not."""
    try:
        _check_issued(tls, authorities_of(descriptor, environment))
    except ConfigurationError as error:
        with environment.read() as snapshot:
            if snapshot.ledger_size <= 1:
                raise
        log.error("certificate.not_trusted", problem=str(error), hint=error.hint)


def _check_issued(tls: TlsIdentity, authorities: tuple[bytes, ...]) -> None:
    if not any(issued_by(tls.pair.certificate, each) for each in authorities):
        raise ConfigurationError(
            "the node's certificate was not issued by its domain's authority",
            hint="renew it: `quorate node renew`",
        )


def check_ledger(
    environment: Environment, node_id: str, signing: SigningKey, log_key: SigningKey
) -> None:
    """Raises ConfigurationError when the ledger, as far as this node has it, knows the node with
    other keys: what it signs would be worth nothing."""
    with environment.read() as snapshot:
        node = StateView(snapshot.state).node(node_id)
    keys = signing.public.hex(), log_key.public.hex()
    if node is not None and (node.signing_key, node.log_key) != keys:
        raise ConfigurationError(
            f"the keys of {node_id} are not those with which its domain added it",
            hint="use the directory whose node.json was given to `quorate node add`",
        )
