"""Whether a node is who its federation expects: named by the genesis, or added later."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from quorate.core import state
from quorate.core.dsse import DESCRIPTOR_TYPE, GENESIS_TYPE
from quorate.core.errors import ConfigurationError
from quorate.core.genesis import (
    Genesis,
    build_descriptor_payload,
    build_genesis_payload,
    parse_genesis,
)
from quorate.core.records import Node, Role
from quorate.core.state import StateView
from quorate.core.status import Status
from quorate.node import certificates, organisation
from quorate.node.config import NodeConfig, load_config
from quorate.node.identity import TlsIdentity, load_signing_key, load_tls_identity
from quorate.node.organisation import Organisation, read_node
from quorate.node.standing import (
    authorities_of,
    check_genesis,
    check_issued,
    check_ledger,
    founding_authorities,
    own_domain,
)
from quorate.node.store import open_environment
from quorate.proofs.signing import SigningKey, sign_envelope
from quorate.storage import Environment
from quorate.testing.builders import PARAMETERS

BANK, CLINIC = "bank.example", "clinic.example"
SECOND = f"spiffe://{BANK}/node/2"


class Place:
    """Two organisations with a genesis, one of which has made a further node."""

    def __init__(self, directory: Path) -> None:
        self.bank = organisation.create(directory / BANK, domain=BANK)
        clinic = organisation.create(
            directory / CLINIC, domain=CLINIC, peer_address="127.0.0.1:7411"
        )
        self.genesis = _agree(self.bank, clinic)
        self.second = directory / "bank-2"
        organisation.create_node(
            self.bank,
            self.second,
            node="2",
            peer_address="127.0.0.1:7431",
            governance_address="127.0.0.1:7432",
            lease_address="127.0.0.1:7433",
        )


def _agree(*organisations: Organisation) -> Genesis:
    descriptors = [(each.directory / "descriptor.json").read_bytes() for each in organisations]
    now_ms = time.time_ns() // 1_000_000
    payload = build_genesis_payload("quorate.example/f", now_ms, PARAMETERS, descriptors)
    keys = [each.governance_key() for each in organisations]
    return parse_genesis(sign_envelope(GENESIS_TYPE, payload, *keys))


def told(directory: Path) -> tuple[NodeConfig, TlsIdentity, SigningKey, SigningKey]:
    """What a node reads when it starts."""
    config = load_config(directory / "node.toml")
    tls = load_tls_identity(config.tls.certificate, config.tls.private_key)
    return config, tls, load_signing_key(config.keys.signing), load_signing_key(config.keys.log)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def environment(place: Place) -> Iterator[Environment]:
    """The store of the further node."""
    config = load_config(place.second / "node.toml")
    environment = open_environment(config, place.genesis)
    yield environment
    environment.close()


def test_the_node_of_the_genesis_and_a_further_one_of_its_domain_may_start(place: Place) -> None:
    for directory in (place.bank.directory, place.second):
        config, tls, signing, log_key = told(directory)
        assert check_genesis(config, place.genesis, tls, signing, log_key).domain == BANK


def test_the_node_of_a_domain_that_came_later_is_vouched_for_by_its_own_descriptor(
    place: Place, tmp_path: Path
) -> None:
    port = organisation.create(tmp_path / "port", domain="port.example")
    config, tls, signing, log_key = told(port.directory)
    assert check_genesis(config, place.genesis, tls, signing, log_key).domain == "port.example"
    with pytest.raises(ConfigurationError, match="not those in the genesis"):
        check_genesis(config, place.genesis, tls, SigningKey.generate(), log_key)


@pytest.mark.parametrize("whose", ["nobody's", "another's"])
def test_a_node_of_no_domain_of_the_federation_may_not(
    place: Place, tmp_path: Path, whose: str
) -> None:
    port = organisation.create(tmp_path / "port", domain="port.example")
    config, tls, signing, log_key = told(port.directory)
    other = place.bank.directory / "descriptor.json" if whose == "another's" else None
    node = config.node.model_copy(update={"descriptor": other})
    config = config.model_copy(update={"node": node})
    with pytest.raises(ConfigurationError, match=r"port\.example is none of its domains"):
        own_domain(config, place.genesis)
    with pytest.raises(ConfigurationError, match="none of its domains"):
        check_genesis(config, place.genesis, tls, signing, log_key)


@pytest.mark.parametrize("which", [0, 1])
def test_the_node_of_the_genesis_has_the_keys_that_stand_there(place: Place, which: int) -> None:
    config, tls, *keys = told(place.bank.directory)
    keys[which] = SigningKey.generate()
    with pytest.raises(ConfigurationError, match="not those in the genesis"):
        check_genesis(config, place.genesis, tls, *keys)


def test_the_domain_of_the_genesis_vouches_for_a_further_node(place: Place) -> None:
    config, _, signing, log_key = told(place.second)
    pair = certificates.issue_node(certificates.make_ca(BANK), SECOND)
    with pytest.raises(ConfigurationError, match="not issued by its domain's authority"):
        check_genesis(config, place.genesis, TlsIdentity(SECOND, pair), signing, log_key)


def test_a_further_node_has_the_keys_that_it_was_added_with_once_it_knows(
    place: Place, environment: Environment
) -> None:
    _, _, signing, log_key = told(place.second)
    other = SigningKey.generate()
    check_ledger(environment, SECOND, other, other)  # the ledger does not name it yet
    made = read_node(place.second)
    node = Node(
        node=made.id,
        domain=BANK,
        peer_address=made.peer_address,
        signing_key=made.signing_key.hex(),
        log_key=made.log_key.hex(),
        role=Role.OBSERVER,
        status=Status.ACTIVE,
        changed=1,
    )
    state.save_node(environment.turn.state, node)
    environment.commit()
    check_ledger(environment, SECOND, signing, log_key)
    for keys in ((other, log_key), (signing, other)):
        with pytest.raises(ConfigurationError, match="not those with which its domain added it"):
            check_ledger(environment, SECOND, *keys)


def test_a_descriptor_whose_authority_is_no_certificate_is_not_read(
    place: Place, tmp_path: Path
) -> None:
    """Nobody is to propose it, or to run a node with it."""
    own = place.bank.descriptor()
    payload = build_descriptor_payload(
        domain=own.domain,
        governance_key=own.governance_key,
        cosigner_key=own.cosigner_key,
        ca_certificate="-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        node=own.node,
    )
    odd = tmp_path / "odd.json"
    odd.write_bytes(sign_envelope(DESCRIPTOR_TYPE, payload, place.bank.governance_key()))
    with pytest.raises(ConfigurationError, match=r"no X\.509 certificate"):
        organisation.read_descriptor(odd)


# -- whose certificate a node has ----------------------------------------------------------------


def issued(ca: certificates.KeyPair) -> TlsIdentity:
    return TlsIdentity(SECOND, certificates.issue_node(ca, SECOND))


def take(environment: Environment, *authorities: bytes) -> None:
    """As the ledger has it."""
    with environment.read() as snapshot:
        domain = StateView(snapshot.state).domain(BANK)
    assert domain is not None
    first, *others = (each.decode() for each in authorities)
    changed = replace(domain, ca_certificate=first, next_ca="".join(others))
    state.save_domain(environment.turn.state, changed)
    environment.commit()


def grow(environment: Environment) -> None:
    """The node has taken part."""
    environment.turn.append_ledger(b"{}")
    environment.commit()


def test_a_node_goes_by_the_cas_of_the_ledger_once_it_has_one(
    place: Place, environment: Environment
) -> None:
    own, old = place.genesis.descriptors[0], place.bank.ca()
    new = certificates.make_ca(BANK)
    assert authorities_of(own, None) == authorities_of(own, environment) == (old.certificate,)
    take(environment, old.certificate, new.certificate)
    assert authorities_of(own, environment) == (old.certificate, new.certificate)
    for ca in (old, new):
        check_issued(issued(ca), own, environment)
    take(environment, new.certificate)
    assert authorities_of(own, environment) == (new.certificate,)
    check_issued(issued(new), own, environment)
    config, *_ = told(place.second)
    assert founding_authorities(config, place.genesis) == (old.certificate,)


def test_a_certificate_of_no_ca_is_refused_at_the_first_start_and_told_later(
    place: Place, environment: Environment
) -> None:
    """A node that was away may have one of a CA that it does not know yet."""
    own = place.genesis.descriptors[0]
    stranger = issued(certificates.make_ca(BANK))
    with pytest.raises(ConfigurationError, match="not issued by its domain's authority"):
        check_issued(stranger, own, environment)
    grow(environment)
    with capture_logs() as logs:
        check_issued(stranger, own, environment)
    assert [each["event"] for each in logs] == ["certificate.not_trusted"]
    config, _, signing, log_key = told(place.second)
    assert check_genesis(config, place.genesis, stranger, signing, log_key) == own
