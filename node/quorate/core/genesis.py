"""How a federation begins: the organisations' descriptors, and the genesis that all have signed.

Owns both documents: building their payloads, parsing and verifying them. A genesis that parses here
was signed by every domain that it names, and each descriptor in it by the domain that it describes.
Does not keep private keys and does not put anything into a store (`quorate.core.transitions`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509

from quorate.core import codec, dsse, ids, protocol
from quorate.core.errors import MalformedError, UnsupportedProtocolError
from quorate.core.fields import Fields, unbase64
from quorate.core.keysets import KeySet, key_set_of
from quorate.core.limits import (
    MAX_DESCRIPTOR_BYTES,
    MAX_DOMAINS,
    MAX_GENESIS_BYTES,
    PROTOCOL_VERSION,
)
from quorate.core.records import Parameters

_PEM_RE: Final = re.compile(
    r"-----BEGIN CERTIFICATE-----\n(?:[A-Za-z0-9+/=]{1,64}\n)+-----END CERTIFICATE-----\n?"
)

PARAMETER_RANGES: Final = {
    "authority_period_ms": (100, 60_000),
    "max_permit_ttl_ms": (1, 60_000),
    "rho_ppm": (0, 100_000),
    "max_skew_ms": (1, 3_600_000),
}


@dataclass(frozen=True, slots=True)
class NodeDescriptor:
    """A node as its domain describes it. The keys are raw Ed25519 public keys."""

    id: str
    peer_address: str
    signing_key: bytes
    log_key: bytes

    def to_json(self) -> dict[str, codec.JsonValue]:
        return {
            "id": self.id,
            "peer_address": self.peer_address,
            "signing_key": self.signing_key.hex(),
            "log_key": self.log_key.hex(),
        }


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A domain as it describes itself, verified. envelope: the signed document. key_set, next_ca:
    as in its record; it begins without them."""

    domain: str
    governance_key: bytes
    cosigner_key: bytes
    ca_certificate: str
    node: NodeDescriptor
    envelope: dsse.Envelope
    key_set: KeySet | None = None
    next_ca: str = ""

    @property
    def authorities(self) -> tuple[str, ...]:
        """PEM of the CAs whose leaves are the domain's."""
        return (self.ca_certificate, self.next_ca) if self.next_ca else (self.ca_certificate,)

    @property
    def keys(self) -> tuple[bytes, ...]:
        more = key_set_of(self)
        return (
            self.governance_key,
            self.cosigner_key,
            self.node.signing_key,
            self.node.log_key,
            *(bytes.fromhex(key) for key in (*more.governance_keys, *more.recovery_keys)),
        )


@dataclass(frozen=True, slots=True)
class Genesis:
    """A verified genesis. hash: SHA-256 of its bytes. created: milliseconds since the epoch.
    descriptors: in ascending order of domain. protocol: the version of the rules to begin with."""

    origin: str
    created: int
    parameters: Parameters
    descriptors: tuple[Descriptor, ...]
    envelope: dsse.Envelope
    hash: bytes
    protocol: int


def build_descriptor_payload(
    *,
    domain: str,
    governance_key: bytes,
    cosigner_key: bytes,
    ca_certificate: str,
    node: NodeDescriptor,
) -> bytes:
    """What a domain signs with its governance key to describe itself. Raises MalformedError."""
    payload = codec.encode(
        {
            "v": PROTOCOL_VERSION,
            "domain": domain,
            "governance_key": governance_key.hex(),
            "cosigner_key": cosigner_key.hex(),
            "ca_certificate": ca_certificate,
            "node": node.to_json(),
        }
    )
    _read_descriptor(dsse.Envelope(payload, dsse.DESCRIPTOR_TYPE, ()))
    return payload


def build_genesis_payload(
    origin: str,
    created_ms: int,
    parameters: Parameters,
    descriptor_envelopes: Sequence[bytes],
    version: int = protocol.LATEST,
) -> bytes:
    """What every domain signs. version: of the protocol. The descriptors may come in any order.
    Raises MalformedError."""
    descriptors = sorted(
        (parse_descriptor(data) for data in descriptor_envelopes), key=lambda item: item.domain
    )
    payload = codec.encode(
        {
            "v": PROTOCOL_VERSION,
            "origin": origin,
            "created": created_ms,
            "parameters": parameters.to_json(),
            "descriptors": [item.envelope.to_json() for item in descriptors],
            **protocol_to_json(version),
        }
    )
    draft = dsse.Envelope(payload, dsse.GENESIS_TYPE, ())
    _read_genesis(draft, b"")
    return payload


def parse_descriptor(data: bytes) -> Descriptor:
    """Parses and verifies a signed descriptor. Raises MalformedError."""
    return _verified_descriptor(dsse.parse(data, MAX_DESCRIPTOR_BYTES), "")


def parse_node(data: bytes) -> NodeDescriptor:
    """Parses the description of one node, by itself and unsigned. Raises MalformedError."""
    return read_node(Fields(codec.decode(data, MAX_DESCRIPTOR_BYTES)))


def parse_genesis(data: bytes) -> Genesis:
    """Parses a genesis and verifies every signature; the authorities are certificates. Raises
    MalformedError."""
    envelope = dsse.parse(data, MAX_GENESIS_BYTES)
    genesis = _read_genesis(envelope, hashlib.sha256(data).digest())
    for item in genesis.descriptors:
        load_certificate(item.ca_certificate)
        if not envelope.verify(item.governance_key):
            raise MalformedError(f"not signed by {item.domain}", field="signatures")
    # Each domain signed once (keyids differ), so one more is a stranger's.
    if len(envelope.signatures) != len(genesis.descriptors):
        raise MalformedError("signed by somebody who is no member", field="signatures")
    return genesis


def parse_draft(data: bytes) -> tuple[Genesis, tuple[str, ...]]:
    """A genesis that need not be signed by all yet, and the domains that have signed it.

    Raises MalformedError.
    """
    envelope = dsse.parse(data, MAX_GENESIS_BYTES, draft=True)
    genesis = _read_genesis(envelope, hashlib.sha256(data).digest())
    signed = tuple(d.domain for d in genesis.descriptors if envelope.verify(d.governance_key))
    return genesis, signed


def _read_genesis(envelope: dsse.Envelope, digest: bytes) -> Genesis:
    check_type(envelope, dsse.GENESIS_TYPE)
    fields = Fields(codec.decode(envelope.payload, MAX_GENESIS_BYTES))
    fields.integer("v", PROTOCOL_VERSION, PROTOCOL_VERSION)
    origin = fields.text("origin", ids.check_origin)
    created = fields.integer("created")
    parameters = read_parameters(fields.nested("parameters"))
    items = fields.objects("descriptors", 1, MAX_DOMAINS)
    version = read_protocol(fields)
    fields.done()
    descriptors = tuple(
        _verified_descriptor(dsse.from_json(item, f"descriptors[{index}]"), f"descriptors[{index}]")
        for index, item in enumerate(items)
    )
    check_together(descriptors)
    return Genesis(origin, created, parameters, descriptors, envelope, digest, version)


def check_together(
    descriptors: tuple[Descriptor, ...],
    field: str = "descriptors",
    present: Sequence[Descriptor] | None = None,
) -> None:
    """What descriptors of several domains must be to each other. present: those of them that are
    still members; None: all. Raises MalformedError."""
    names = [item.domain for item in descriptors]
    if names != sorted(set(names)):
        raise MalformedError("must be sorted by domain, each once", field=field)
    keys = [key for item in descriptors for key in item.keys]
    if len(set(keys)) != len(keys):
        raise MalformedError("a key serves two purposes", field=field)
    addresses = [item.node.peer_address for item in (present or descriptors)]
    if len(set(addresses)) != len(addresses):
        raise MalformedError("two nodes have one peer address", field=field)


def protocol_to_json(version: int) -> dict[str, codec.JsonValue]:
    """As it stands in a founding document: the first version goes without saying."""
    return {} if version == protocol.FIRST else {"protocol": version}


def read_protocol(fields: Fields) -> int:
    """Raises MalformedError, also for a version that this program does not know."""
    if not fields.has("protocol"):
        return protocol.FIRST
    version = fields.integer("protocol", protocol.FIRST + 1, protocol.MOST)
    try:
        protocol.check(version)
    except UnsupportedProtocolError as error:
        raise MalformedError(str(error), field=fields.at("protocol"), hint=error.hint) from error
    return version


def read_parameters(fields: Fields) -> Parameters:
    """Raises MalformedError."""
    values = {name: fields.integer(name, *span) for name, span in PARAMETER_RANGES.items()}
    fields.done()
    parameters = Parameters(**values)
    if parameters.max_permit_ttl_ms > parameters.authority_period_ms:
        raise MalformedError(
            "must not exceed authority_period_ms", field=fields.at("max_permit_ttl_ms")
        )
    return parameters


def check_parameters(parameters: Parameters) -> None:
    """Raises MalformedError for parameters that nobody can have agreed on."""
    read_parameters(Fields(parameters.to_json(), "parameters"))


def _verified_descriptor(envelope: dsse.Envelope, path: str) -> Descriptor:
    try:
        descriptor = _read_descriptor(envelope)
    except MalformedError as error:
        place = ".".join(part for part in (path, error.field) if part)
        raise MalformedError(error.problem, field=place) from error
    if len(envelope.signatures) != 1 or not envelope.verify(descriptor.governance_key):
        raise MalformedError(f"not signed by {descriptor.domain} alone", field=path)
    return descriptor


def _read_descriptor(envelope: dsse.Envelope) -> Descriptor:
    check_type(envelope, dsse.DESCRIPTOR_TYPE)
    fields = Fields(codec.decode(envelope.payload, MAX_DESCRIPTOR_BYTES))
    fields.integer("v", PROTOCOL_VERSION, PROTOCOL_VERSION)
    domain = fields.text("domain", ids.check_domain)
    governance_key = read_key(fields, "governance_key")
    cosigner_key = read_key(fields, "cosigner_key")
    ca_certificate = fields.text("ca_certificate", check_certificate)
    node = read_node(fields.nested("node"))
    fields.done()
    if ids.SpiffeId.parse(node.id).trust_domain != domain:
        raise MalformedError(f"must be a node of {domain}", field="node.id")
    return Descriptor(domain, governance_key, cosigner_key, ca_certificate, node, envelope)


def read_node(fields: Fields) -> NodeDescriptor:
    """Raises MalformedError."""
    node = NodeDescriptor(
        id=fields.text("id", ids.check_node),
        peer_address=fields.text("peer_address", ids.check_address),
        signing_key=read_key(fields, "signing_key"),
        log_key=read_key(fields, "log_key"),
    )
    fields.done()
    return node


def read_key(fields: Fields, name: str) -> bytes:
    """A public key, fit to verify with. Raises MalformedError."""
    return bytes.fromhex(fields.text(name, dsse.parse_public_key))


def check_type(envelope: dsse.Envelope, expected: str) -> None:
    """Raises MalformedError for an envelope of something else."""
    if envelope.payload_type != expected:
        raise MalformedError(f"must be {expected}", field="payloadType")


def check_certificate(text: str) -> None:
    """Exactly one certificate in PEM (RFC 7468), by its form alone: whatever follows a first one
    would be trusted by nobody, and seen by everybody. What is in it is not looked at. This is part
    of deciding, and libraries, or two versions of one, do not agree on which certificates are good.
    Whoever uses one asks `load_certificate` first."""
    if _PEM_RE.fullmatch(text) is None:
        raise MalformedError("must be one certificate in PEM")
    unbase64("".join(text.splitlines()[1:-1]), "")


def certificate_digest(text: str) -> str:
    """Which certificate it is, however its text is broken into lines: SHA-256 of its DER, in hex.
    text: of the form that `check_certificate` asks for."""
    return hashlib.sha256(unbase64("".join(text.splitlines()[1:-1]), "")).hexdigest()


def load_certificate(text: str) -> x509.Certificate:
    """The certificate of a domain's authority. Raises MalformedError when it is none that this
    machine's library takes."""
    try:
        certificate = x509.load_pem_x509_certificate(text.encode("ascii"))
        serial = certificate.serial_number
    except Exception as error:  # whatever the library makes of it: it is no certificate here
        raise MalformedError("is no X.509 certificate", field="ca_certificate") from error
    if serial <= 0:  # the library warns of it, and will refuse it some day
        raise MalformedError("has a serial number that is not positive", field="ca_certificate")
    return certificate
