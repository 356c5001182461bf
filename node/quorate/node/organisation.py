"""An organisation's directory: how `quorate init` lays it out, and how its tools read it.

Owns the names of the files in it, and of those in the directory of an executor or of a further
node. The forms of their
contents are elsewhere (`quorate.node.config`, `.identity`, `quorate.core.genesis`). Nothing that
exists is ever overwritten.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from quorate.core import codec, ids
from quorate.core.dsse import DESCRIPTOR_TYPE
from quorate.core.errors import ConfigurationError, MalformedError
from quorate.core.genesis import (
    Descriptor,
    Genesis,
    NodeDescriptor,
    build_descriptor_payload,
    load_certificate,
    parse_descriptor,
    parse_node,
)
from quorate.core.limits import MAX_DESCRIPTOR_BYTES, MAX_GENESIS_BYTES
from quorate.core.recovery import parse_founding
from quorate.node import certificates
from quorate.node.certificates import KeyPair
from quorate.node.config import NodeConfig, load_config
from quorate.node.identity import (
    DIRECTORY_MODE,
    TlsIdentity,
    load_signing_key,
    load_tls_identity,
    read_private,
    read_public,
    write_private,
    write_public,
)
from quorate.proofs.signing import SigningKey, sign_envelope

DESCRIPTOR_FILE: Final = "descriptor.json"
CA_CERTIFICATE_FILE: Final = "ca.crt"
CA_KEY_FILE: Final = "ca.key"
GOVERNANCE_KEY_FILE: Final = "governance.key"
COSIGNER_KEY_FILE: Final = "cosigner.key"
OPERATOR_CERTIFICATE_FILE: Final = "operator.crt"
OPERATOR_KEY_FILE: Final = "operator.key"
CONFIG_FILE: Final = "node.toml"
CLIENT_FILE: Final = "client.toml"
NODE_FILE: Final = "node.json"
GENESIS_FILE: Final = "genesis.json"

_WILDCARD_HOSTS: Final = ("0.0.0.0", "[::]")  # noqa: S104 - compared with, not bound to


@dataclass(frozen=True, slots=True)
class Organisation:
    """One organisation's directory, as its operator's tools need it. Keys are read when used."""

    directory: Path
    config: NodeConfig
    domain: str

    @classmethod
    def load(cls, directory: Path) -> Organisation:
        """Raises ConfigurationError when `directory` is none that `create` made."""
        file = directory / CONFIG_FILE
        if not file.is_file():
            raise ConfigurationError(
                f"{directory} is no organisation's directory: it has no {CONFIG_FILE}",
                hint="make one with `quorate init DIR --domain DOMAIN`, or correct --org",
            )
        config = load_config(file)
        return cls(directory, config, ids.SpiffeId.parse(config.node.id).trust_domain)

    def governance_key(self) -> SigningKey:
        return load_signing_key(self.directory / GOVERNANCE_KEY_FILE)

    def ca_certificate(self) -> bytes:
        return read_public(self.directory / CA_CERTIFICATE_FILE)

    def ca(self) -> KeyPair:
        """With the CA's private key: for issuing."""
        return KeyPair(self.ca_certificate(), read_private(self.directory / CA_KEY_FILE))

    def operator(self) -> TlsIdentity:
        return load_tls_identity(
            self.directory / OPERATOR_CERTIFICATE_FILE, self.directory / OPERATOR_KEY_FILE
        )

    def descriptor(self) -> Descriptor:
        return read_descriptor(self.directory / DESCRIPTOR_FILE)

    def genesis(self) -> Genesis:
        """The federation that the node belongs to, every signature verified."""
        return read_genesis(self.config.node.genesis)


def read_descriptor(path: Path) -> Descriptor:
    """Raises ConfigurationError when it is malformed, not signed by the key it names, or with an
    authority that is no certificate."""
    try:
        descriptor = parse_descriptor(read_public(path, MAX_DESCRIPTOR_BYTES))
        load_certificate(descriptor.ca_certificate)
        return descriptor
    except MalformedError as error:
        raise ConfigurationError(
            f"{path} is not a signed descriptor: {error}",
            hint="ask its organisation for the descriptor.json that `quorate init` made",
        ) from error


def read_node(path: Path) -> NodeDescriptor:
    """What the ledger is to know of a node: of its directory, or of the file in it. Raises
    ConfigurationError when it is no such description."""
    file = path / NODE_FILE if path.is_dir() else path
    try:
        return parse_node(read_public(file, MAX_DESCRIPTOR_BYTES))
    except MalformedError as error:
        raise ConfigurationError(
            f"{file} does not describe a node: {error}",
            hint=f"give the directory that `quorate node init` made, or the {NODE_FILE} in it",
        ) from error


def read_genesis(path: Path) -> Genesis:
    """A genesis, or the recovery document in its place. Raises ConfigurationError unless every
    organisation has signed that has to."""
    if not path.is_file():
        raise ConfigurationError(
            f"there is no genesis at {path}",
            hint="copy the genesis.json that every organisation has signed to this path",
        )
    try:
        return parse_founding(read_public(path, MAX_GENESIS_BYTES))
    except MalformedError as error:
        raise ConfigurationError(
            f"{path} is not a genesis that everybody signed: {error}",
            hint="see who is missing with `quorate genesis verify`",
        ) from error


# -- making ----------------------------------------------------------------------------------


class _Fresh:
    """A directory that is being filled, and all that was made in it so far."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.made: list[Path] = []

    def folder(self, name: str = "") -> None:
        path = self.directory / name
        path.mkdir(mode=DIRECTORY_MODE)
        self.made.append(path)

    def private(self, name: str, data: bytes) -> None:
        write_private(self.directory / name, data)
        self.made.append(self.directory / name)

    def public(self, name: str, data: bytes) -> None:
        write_public(self.directory / name, data)
        self.made.append(self.directory / name)


@contextmanager
def _fresh_directory(directory: Path) -> Iterator[_Fresh]:
    """A new or empty directory to fill. If that fails, what was made (and only that) goes."""
    fresh = _Fresh(directory)
    try:
        if not directory.exists():
            directory.parent.mkdir(parents=True, exist_ok=True)
            fresh.folder()
        elif next(directory.iterdir(), None) is not None:
            raise ConfigurationError(
                f"{directory} is not empty", hint="nothing is ever overwritten; choose another"
            )
        else:
            directory.chmod(DIRECTORY_MODE)
        yield fresh
    except BaseException as error:
        for path in reversed(fresh.made):
            path.rmdir() if path.is_dir() else path.unlink()
        if isinstance(error, OSError):
            raise ConfigurationError(
                f"{directory} cannot be made: {error.strerror}", hint="check the path and its owner"
            ) from error
        raise


@dataclass(frozen=True, slots=True)
class _NewNode:
    """The keys of a node that is being made."""

    descriptor: NodeDescriptor
    tls: KeyPair
    signing: SigningKey
    log: SigningKey

    @classmethod
    def make(cls, ca: KeyPair, domain: str, name: str, addresses: Mapping[str, str]) -> _NewNode:
        """`name` is what follows `/node/` in its id. Raises MalformedError or
        ConfigurationError."""
        node_id = f"spiffe://{domain}/node/{name}"
        ids.check_node(node_id)
        for what, address in addresses.items():
            _check(f"{what} address", address, ids.check_address)
        peer_address = dialable(addresses["peer"], "--peer-address")
        signing, log = SigningKey.generate(), SigningKey.generate()
        descriptor = NodeDescriptor(node_id, peer_address, signing.public, log.public)
        return cls(descriptor, certificates.issue_node(ca, node_id), signing, log)

    def write_keys(self, fresh: _Fresh) -> None:
        fresh.folder("node")
        fresh.private("node/tls.key", self.tls.private_key)
        fresh.public("node/tls.crt", self.tls.certificate)
        fresh.private("node/signing.key", self.signing.to_pem())
        fresh.private("node/log.key", self.log.to_pem())


def create(
    directory: Path,
    *,
    domain: str,
    node: str = "1",
    peer_address: str = "127.0.0.1:7401",
    governance_address: str = "127.0.0.1:7402",
    lease_address: str = "127.0.0.1:7403",
) -> Organisation:
    """Makes an organisation's keys, certificates, descriptor and node.toml.

    peer_address is where the other members dial the node, and stands in the descriptor. Raises
    ConfigurationError when `directory` is not new or empty, MalformedError for a malformed name.
    """
    ids.check_domain(domain)
    addresses = {"peer": peer_address, "governance": governance_address, "lease": lease_address}
    ca = certificates.make_ca(domain)
    made = _NewNode.make(ca, domain, node, addresses)
    operator = certificates.issue_operator(ca, f"spiffe://{domain}/operator/admin")
    governance, cosigner = SigningKey.generate(), SigningKey.generate()
    payload = build_descriptor_payload(
        domain=domain,
        governance_key=governance.public,
        cosigner_key=cosigner.public,
        ca_certificate=ca.certificate.decode("ascii"),
        node=made.descriptor,
    )
    with _fresh_directory(directory) as fresh:
        fresh.private(CA_KEY_FILE, ca.private_key)
        fresh.public(CA_CERTIFICATE_FILE, ca.certificate)
        fresh.private(GOVERNANCE_KEY_FILE, governance.to_pem())
        fresh.private(COSIGNER_KEY_FILE, cosigner.to_pem())
        fresh.private(OPERATOR_KEY_FILE, operator.private_key)
        fresh.public(OPERATOR_CERTIFICATE_FILE, operator.certificate)
        made.write_keys(fresh)
        fresh.public(DESCRIPTOR_FILE, sign_envelope(DESCRIPTOR_TYPE, payload, governance))
        # Last: a directory with a node.toml is a whole one.
        fresh.public(CONFIG_FILE, _node_toml(made.descriptor.id, addresses))
        return Organisation.load(directory)


def create_node(
    organisation: Organisation,
    directory: Path,
    *,
    node: str,
    peer_address: str,
    governance_address: str,
    lease_address: str,
) -> NodeDescriptor:
    """Makes the directory of one more node of an organisation: keys, certificate, node.toml, and
    what the ledger is to know of it. The genesis comes along, if there is one by now.

    The node is no member until it is added. Raises ConfigurationError or MalformedError.
    """
    addresses = {"peer": peer_address, "governance": governance_address, "lease": lease_address}
    made = _NewNode.make(organisation.ca(), organisation.domain, node, addresses)
    genesis = organisation.config.node.genesis
    with _fresh_directory(directory) as fresh:
        made.write_keys(fresh)
        if genesis.is_file():
            fresh.public(GENESIS_FILE, read_public(genesis, MAX_GENESIS_BYTES))
        descriptor = read_public(organisation.directory / DESCRIPTOR_FILE, MAX_DESCRIPTOR_BYTES)
        fresh.public(DESCRIPTOR_FILE, descriptor)
        fresh.public(NODE_FILE, codec.encode(made.descriptor.to_json()))
        fresh.public(CONFIG_FILE, _node_toml(made.descriptor.id, addresses))
        load_config(directory / CONFIG_FILE)
    return made.descriptor


def issue_executor(
    organisation: Organisation,
    path: str,
    out: Path,
    *,
    lease_address: str = "",
    governance_address: str = "",
) -> str:
    """Makes an executor's directory for `path` (`agent/payments`); returns its SPIFFE ID.

    The addresses are those of the node's configuration unless given. The executor may act only
    once it is registered, too. Raises ConfigurationError or MalformedError.
    """
    executor = f"spiffe://{organisation.domain}/{path.strip('/')}"
    ids.check_executor(executor)
    listen = organisation.config.listen
    settings = {
        "lease_address": lease_dialable(lease_address or listen.lease, "--lease-address"),
        "governance_address": dialable(
            governance_address or listen.governance, "--governance-address"
        ),
        "server_name": ids.dns_name(organisation.config.node.id),
        "spiffe_id": executor,
    }
    pair = certificates.issue_executor(organisation.ca(), executor)
    with _fresh_directory(out) as fresh:
        fresh.private("executor.key", pair.private_key)
        fresh.public("executor.crt", pair.certificate)
        fresh.public(CA_CERTIFICATE_FILE, organisation.ca_certificate())
        fresh.public(CLIENT_FILE, _toml({"node": settings}))
    return executor


def dialable(address: str, option: str) -> str:
    """The address, when one can dial it. Raises ConfigurationError for a wildcard."""
    _check(option, address, ids.check_address)
    return _no_wildcard(address, option)


def lease_dialable(address: str, option: str) -> str:
    """The same of the lease side, which a unix socket may lead to, too."""
    _check(option, address, ids.check_lease_address)
    return _no_wildcard(address, option)


def _no_wildcard(address: str, option: str) -> str:
    if address.rpartition(":")[0] in _WILDCARD_HOSTS:
        raise ConfigurationError(
            f"{address} is where the node listens, not an address to dial",
            hint=f"say under which address it is reached: {option} HOST:PORT",
        )
    return address


def _check(what: str, address: str, syntax: Callable[[str], None]) -> None:
    try:
        syntax(address)
    except MalformedError as error:
        raise MalformedError(error.problem, field=what) from error


_OPTIONAL_SETTINGS: Final = b"""
# What is not set has its default:
#
# [peers]                      # where to dial a member, when not where its descriptor says
# "spiffe://clinic.example/node/1" = "127.0.0.1:9001"
# [storage]
# map_size_bytes = 1073741824
# [raft]
# heartbeat_ms = 100
# election_min_ms = 500
# election_max_ms = 1000
# [edge]
# processes = 1
# [log]
# level = "info"
# format = "json"
"""


def _node_toml(node_id: str, addresses: Mapping[str, str]) -> bytes:
    settings = _toml(
        {
            "node": {
                "id": node_id,
                "data_dir": "data",
                "genesis": GENESIS_FILE,
                "descriptor": DESCRIPTOR_FILE,
            },
            "listen": addresses,
            "tls": {"certificate": "node/tls.crt", "private_key": "node/tls.key"},
            "keys": {"signing": "node/signing.key", "log": "node/log.key"},
        }
    )
    return settings + _OPTIONAL_SETTINGS


def _toml(sections: Mapping[str, Mapping[str, str]]) -> bytes:
    """Texts only; a JSON string of printable characters, none of them escaped, is a TOML basic
    string."""
    quoted = partial(json.dumps, ensure_ascii=False)
    blocks = [
        "\n".join([f"[{name}]", *(f"{key} = {quoted(value)}" for key, value in keys.items())])
        for name, keys in sections.items()
    ]
    return ("\n\n".join(blocks) + "\n").encode("utf-8")
