"""A whole federation in memory: keys, signed documents, signed commands, and a ledger to apply
them to.

Owns what tests, simulators and tools build on when no real node is wanted. Keys follow from names,
so that the same script gives the same bytes in every process; never use them for anything else.
"""

from __future__ import annotations

import datetime
import hashlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from quorate.core import codec, dsse, protocol
from quorate.core.commands import is_node
from quorate.core.genesis import (
    Genesis,
    NodeDescriptor,
    build_descriptor_payload,
    build_genesis_payload,
    parse_genesis,
)
from quorate.core.limits import (
    DEFAULT_AUTHORITY_PERIOD_MS,
    DEFAULT_MAX_PERMIT_TTL_MS,
    DEFAULT_MAX_SKEW_MS,
    DEFAULT_RHO_PPM,
    PROTOCOL_VERSION,
)
from quorate.core.records import Parameters
from quorate.core.state import StateView
from quorate.core.store import MemoryStore
from quorate.core.transitions import Applied, apply, install_genesis
from quorate.core.verifying import Asked
from quorate.core.verifying.measurement import (
    MEASURED,
    PROVENANCE,
    STATEMENT_TYPE,
    built,
    measured,
    statement_of,
)
from quorate.core.verifying.svid import asked_bytes
from quorate.proofs.signing import SigningKey, sign_envelope

ORIGIN = "quorate.example/federation-1"
CREATED_MS = 1_700_000_000_000
PARAMETERS = Parameters(
    authority_period_ms=DEFAULT_AUTHORITY_PERIOD_MS,
    max_permit_ttl_ms=DEFAULT_MAX_PERMIT_TTL_MS,
    rho_ppm=DEFAULT_RHO_PPM,
    max_skew_ms=DEFAULT_MAX_SKEW_MS,
)


@cache
def key_for(name: str) -> SigningKey:
    """The Ed25519 key that belongs to a name, the same in every process."""
    return SigningKey(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest()))


@cache
def ca_certificate(domain: str) -> str:
    """A CA certificate in PEM, the same in every process but for its signature's randomness."""
    key = ec.derive_private_key(
        int.from_bytes(hashlib.sha256(domain.encode()).digest()[:31]), ec.SECP256R1()
    )
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, domain)])
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256(), ecdsa_deterministic=True)
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


@dataclass(frozen=True, slots=True)
class Organisation:
    """One domain with all its keys."""

    domain: str
    governance: SigningKey
    cosigner: SigningKey
    signing: SigningKey
    log: SigningKey
    peer_address: str

    @classmethod
    def named(cls, domain: str, peer_address: str) -> Organisation:
        return cls(
            domain=domain,
            governance=key_for(f"{domain} governance"),
            cosigner=key_for(f"{domain} cosigner"),
            signing=key_for(f"{domain} signing"),
            log=key_for(f"{domain} log"),
            peer_address=peer_address,
        )

    @property
    def node(self) -> str:
        return f"spiffe://{self.domain}/node/1"

    def executor(self, name: str) -> str:
        return f"spiffe://{self.domain}/agent/{name}"

    def descriptor(self) -> bytes:
        """The signed descriptor."""
        payload = build_descriptor_payload(
            domain=self.domain,
            governance_key=self.governance.public,
            cosigner_key=self.cosigner.public,
            ca_certificate=ca_certificate(self.domain),
            node=NodeDescriptor(self.node, self.peer_address, self.signing.public, self.log.public),
        )
        return sign_envelope(dsse.DESCRIPTOR_TYPE, payload, self.governance)


@dataclass(slots=True)
class Federation:
    """Organisations with a genesis that all have signed. Nonces count up from one."""

    organisations: dict[str, Organisation]
    genesis: bytes
    origin: str
    _nonces: int = field(default=0)

    @classmethod
    def build(
        cls,
        domains: Sequence[str] = ("bank.example", "clinic.example"),
        *,
        origin: str = ORIGIN,
        created_ms: int = CREATED_MS,
        parameters: Parameters = PARAMETERS,
        version: int = protocol.LATEST,
    ) -> Federation:
        organisations = {
            domain: Organisation.named(domain, f"127.0.0.1:{7401 + 10 * index}")
            for index, domain in enumerate(domains)
        }
        members = organisations.values()
        descriptors = [member.descriptor() for member in members]
        payload = build_genesis_payload(origin, created_ms, parameters, descriptors, version)
        genesis = sign_envelope(
            dsse.GENESIS_TYPE, payload, *(member.governance for member in members)
        )
        return cls(organisations, genesis, origin)

    def __getitem__(self, domain: str) -> Organisation:
        return self.organisations[domain]

    def parsed_genesis(self) -> Genesis:
        return parse_genesis(self.genesis)

    def command(
        self,
        issuer: str,
        kind: str,
        body: Mapping[str, object],
        nonce: str | None = None,
        not_after: int | None = None,
        *,
        origin: str | None = None,
        key: SigningKey | None = None,
    ) -> bytes:
        """A signed command's envelope. issuer: a domain or a node of the federation, whose key
        signs unless another is given. not_after: an hour after the genesis unless given."""
        if nonce is None:
            self._nonces += 1
            nonce = f"{self._nonces:032x}"
        payload = codec.encode(
            {
                "v": PROTOCOL_VERSION,
                "origin": self.origin if origin is None else origin,
                "type": kind,
                "issuer": issuer,
                "nonce": nonce,
                "not_after": CREATED_MS + 3_600_000 if not_after is None else not_after,
                "body": dict(body),
            }
        )
        return sign_envelope(dsse.COMMAND_TYPE, payload, key or self.key_of(issuer))

    def key_of(self, issuer: str) -> SigningKey:
        """The key that signs for a domain or a node."""
        if not is_node(issuer):
            return self.organisations[issuer].governance
        for member in self.organisations.values():
            if member.node == issuer:
                return member.signing
        return key_for(f"{issuer} signing")  # of a node that `node_body` adds


class Ledger:
    """A ledger in memory: the genesis installed, commands applied one after the other."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.store = MemoryStore()
        genesis = federation.parsed_genesis()
        self.entries: list[bytes] = [install_genesis(self.store, genesis)]
        self.now = genesis.created

    @property
    def view(self) -> StateView:
        return StateView(self.store)

    def apply(self, envelope: bytes) -> Applied:
        """Applies one envelope, stamped with the ledger's own time `now`."""
        return self.apply_payload(codec.stamp(self.now, envelope))

    def apply_payload(self, payload: bytes) -> Applied:
        applied = apply(self.store, payload, len(self.entries))
        if applied.entry is not None:
            self.entries.append(applied.entry)
        return applied

    def run(
        self, issuer: str, kind: str, body: Mapping[str, object], nonce: str | None = None
    ) -> Applied:
        """Signs a command that is good for an hour from now, and applies it."""
        return self.apply(self.federation.command(issuer, kind, body, nonce, self.now + 3_600_000))

    def digest(self) -> str:
        """A hash of the whole state and all entries: equal exactly when both are."""
        total = hashlib.sha256()
        for part in (part for item in self.store.items() for part in item):
            total.update(len(part).to_bytes(8, "big") + part)
        for entry in self.entries:
            total.update(hashlib.sha256(entry).digest())
        return total.hexdigest()


def grant_body(
    grant: str, executor: str, resources: Sequence[str], **changes: object
) -> dict[str, object]:
    """The body of a `grant.issue` that allows any action for a day."""
    body: dict[str, object] = {
        "grant": grant,
        "executor": executor,
        "actions": ["*"],
        "resources": list(resources),
        "not_after": CREATED_MS + 86_400_000,
        "max_lease_ttl_ms": 60_000,
        "max_uses": 0,
        "max_concurrent": 0,
    }
    return body | changes


def trust_body(
    edge: str, trustee: str, resources: Sequence[str], **changes: object
) -> dict[str, object]:
    """The body of a `trust.open` for any action."""
    body: dict[str, object] = {
        "edge": edge,
        "trustee": trustee,
        "actions": ["*"],
        "resources": list(resources),
    }
    return body | changes


def narrow_body(
    edge: str, resources: Sequence[str], actions: Sequence[str] = ("*",)
) -> dict[str, object]:
    """The body of a `trust.narrow`."""
    return {"edge": edge, "actions": list(actions), "resources": list(resources)}


def node_body(
    node: str, peer_address: str = "127.0.0.1:7499", role: str = "observer", **changes: object
) -> dict[str, object]:
    """The body of a `node.add`, with keys that follow from the node's id."""
    body: dict[str, object] = {
        "node": node,
        "peer_address": peer_address,
        "signing_key": key_for(f"{node} signing").public.hex(),
        "log_key": key_for(f"{node} log").public.hex(),
        "role": role,
    }
    return body | changes


def proposal_body(
    act: str, body: Mapping[str, object], expires_at: int = CREATED_MS + 86_400_000
) -> dict[str, object]:
    """The body of a `proposal.open`."""
    return {"act": act, "body": dict(body), "expires_at": expires_at}


def ballot_body(proposal: str, choice: str = "yes") -> dict[str, object]:
    return {"proposal": proposal, "choice": choice}


def acquire_body(  # noqa: PLR0917  # in the order of the command
    executor: str,
    action: str,
    resource: str,
    ttl_ms: int = 0,
    parents: Sequence[str] = (),
    context: Sequence[str] = (),
) -> dict[str, object]:
    """The body of a `lease.acquire`. context: `<name>=<text>`."""
    body: dict[str, object] = {"executor": executor, "action": action, "resource": resource}
    body["ttl_ms"] = ttl_ms
    lists = {"parents": list(parents), "context": list(context)}
    return body | {name: said for name, said in lists.items() if said}


def svid_body(
    reference: str, executors: Sequence[str], max_age_ms: int = 60_000, **changes: object
) -> dict[str, object]:
    """The body of an `attestation.set_reference` for whichever key is the executor's."""
    body: dict[str, object] = {"reference": reference, "evidence": "svid"}
    return body | {"executors": list(executors), "max_age_ms": max_age_ms} | changes


IMAGE = hashlib.sha256(b"image").hexdigest()


def measurement_body(
    reference: str, executors: Sequence[str], max_age_ms: int = 60_000, **changes: object
) -> dict[str, object]:
    """The body of an `attestation.set_reference` for IMAGE, as the key of `agent` has measured."""
    body: dict[str, object] = {"reference": reference, "evidence": "measurement"}
    body |= {"executors": list(executors), "max_age_ms": max_age_ms, "images": [IMAGE]}
    return body | {"signers": [key_for("agent").public.hex()]} | changes


def measurement_evidence(
    asked: Asked,
    image: str = IMAGE,
    key: SigningKey | None = None,
    builder: str = "",
    **more: str,
) -> dict[str, object]:
    """What the agent has measured; with a provenance by the key of `builder`, if one is named."""
    payload = statement_of(image, MEASURED, measured(asked, **more))
    signed = sign_envelope(STATEMENT_TYPE, payload, key or key_for("agent"))
    evidence: dict[str, object] = {"measurement": codec.load(signed)}
    if builder:
        payload = statement_of(image, PROVENANCE, built(builder))
        signed = sign_envelope(STATEMENT_TYPE, payload, key_for("builder"))
        evidence["provenance"] = codec.load(signed)
    return evidence


def svid_evidence(asked: Asked, key: SigningKey | None = None) -> dict[str, object]:
    """The proof of an Ed25519 key."""
    key = key or key_for("svid")
    spki = bytes.fromhex("302a300506032b6570032100") + key.public
    signed = key.sign(asked_bytes(asked))
    return {"key": b64encode(spki).decode(), "signature": b64encode(signed).decode()}
