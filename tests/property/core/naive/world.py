"""What there is, as plain dictionaries in plain lists.

The fields of a thing are named as in its record, so that both can be compared; those that begin
with an underscore are the model's own. Sources: docs/ledger.md, docs/ballots.md, docs/reasons.md,
docs/upgrades.md.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

Thing = dict[str, Any]

LIMITS: dict[str, int] = {
    "MAX_COMMAND_LIFETIME_MS": 86_400_000,
    "MAX_LEASE_TTL_MS": 86_400_000,
    "MAX_CONCURRENT_LEASES": 1000,
    "MAX_EDGES_PER_PAIR": 16,
    "MAX_GRANTS_PER_EXECUTOR_AND_ISSUER": 256,
    "MAX_DOMAINS": 9,
    "MAX_EXECUTORS_PER_DOMAIN": 100_000,
    "MAX_NODES_PER_DOMAIN": 8,
    "MAX_NODES_EVER_PER_DOMAIN": 1_000,
    "MAX_OPEN_PROPOSALS_PER_DOMAIN": 8,
    "MAX_PROPOSAL_LIFETIME_MS": 30 * 86_400_000,
    "MAX_EVENTS_PER_LEASE": 1_000,
    "MAX_DEPTH": 7,
    "MAX_DELEGATED_GRANTS_PER_EXECUTOR_AND_ISSUER": 32,
    "MAX_GRANTS_FROM_ONE_DELEGATOR": 8,
    "MAX_DELEGATIONS_PER_GRANT": 1_000,
    "MAX_ANCESTORS": 64,
    "MAX_ANCESTOR_EXECUTORS": 32,
    "MAX_CONTAINMENTS_PER_DOMAIN": 256,
    "MAX_REKEYINGS_PER_DOMAIN": 100,
    "REKEYINGS_FOR_RECOVERY": 10,
    "MAX_REFERENCES_PER_DOMAIN": 16,
}
"""As in docs/ledger.md."""

LATER: dict[str, Any] = {
    "protocol": 1,
    "max_depth": 0,
    "passed_on": [],
    "parent": "",
    "made": 0,
    "delegations": 0,
    "conditions": [],
    "ancestors": [],
    "ancestor_executors": [],
    "rekeyings": 0,
    "key_set": None,
    "next_ca": "",
    "references": 0,
    "suspended_for": "",
    "suspended_by_domain": False,
    "failed_at": 0,
    "attestations": [],
    "challenge": None,
    "policies": None,
    "context": [],
}
"""The fields that a later version has brought: they are left out while they have these values, so
that a federation of version 1 writes what it always wrote (ADR 0021)."""

LATEST = 2
"""The latest version of the protocol that is modelled."""

BALLOT_TYPES = (
    "domain.admit",
    "domain.suspend",
    "domain.reinstate",
    "domain.expel",
    "federation.set_thresholds",
    "federation.upgrade",
)
BALLOT_TYPES_OF_SECOND = ("federation.set_parameters", "federation.set_rates")
FREEZING = ("federation.freeze", "federation.thaw")
POLICING = ("federation.set_policy", "federation.retire_policy")
"""These have rules."""
REINSTATING = "federation.reinstate_executor"
"""Of what is executors' own, the only one."""

EVERY_BALLOT_TYPE = (*BALLOT_TYPES, *BALLOT_TYPES_OF_SECOND, *FREEZING, *POLICING, REINSTATING)

PARAMETERS = {
    "authority_period_ms": 2_000,
    "max_permit_ttl_ms": 1_000,
    "rho_ppm": 10_000,
    "max_skew_ms": 5_000,
}
"""What the federation of the histories has agreed on at genesis."""


NO_RATES = {"domain_per_min": 0, "executor_per_min": 0}


def decided_by_ballot(version: int) -> tuple[str, ...]:
    return BALLOT_TYPES if version == 1 else EVERY_BALLOT_TYPE


class No(Exception):  # noqa: N818  # an answer, and no error
    """A denial. things: any of them may be what it is about."""

    def __init__(self, reason: str, *things: str) -> None:
        super().__init__(reason, *things)
        self.reason = reason
        self.things = things


@dataclass(frozen=True)
class Command:
    """A command as whoever signs it means it.

    at: the time that the leader stamps it with. key: whose key signs; empty: the issuer's.
    signers: the public keys that sign a domain's command; none are said where `key` says it.
    """

    issuer: str
    verb: str
    body: Mapping[str, Any]
    nonce: str
    not_after: int
    at: int
    origin: str
    key: str = ""
    signers: frozenset[str] = frozenset()

    @property
    def ident(self) -> str:
        return sha256(f"{self.issuer}\x00{self.nonce}")


@dataclass(frozen=True)
class Said:
    """What the ledger has to say of a command. result: what of the outcome's is told here."""

    reason: str = ""
    things: tuple[str, ...] = ("",)
    index: int = 0
    is_repeat: bool = False
    result: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class World:
    """protocol: the version that the federation lives by. mark: which policies it has. memory: the
    executed commands, those that could be repeated no more among them."""

    origin: str
    time: int
    protocol: int = 1
    limits: Mapping[str, int] = field(default_factory=lambda: LIMITS)
    size: int = 1
    domains: list[Thing] = field(default_factory=list)
    nodes: list[Thing] = field(default_factory=list)
    executors: list[Thing] = field(default_factory=list)
    edges: list[Thing] = field(default_factory=list)
    grants: list[Thing] = field(default_factory=list)
    leases: list[Thing] = field(default_factory=list)
    proposals: list[Thing] = field(default_factory=list)
    contained: list[Thing] = field(default_factory=list)
    references: list[Thing] = field(default_factory=list)
    policies: list[Thing] = field(default_factory=list)
    frozen: list[Thing] = field(default_factory=list)
    mark: Thing | None = None
    memory: list[Thing] = field(default_factory=list)
    heads: dict[str, str] = field(default_factory=dict)
    former_keys: list[str] = field(default_factory=list)
    former_cas: list[str] = field(default_factory=list)
    thresholds: dict[str, str] = field(
        default_factory=lambda: dict.fromkeys(EVERY_BALLOT_TYPE, "majority")
    )
    parameters: list[Mapping[str, int]] = field(default_factory=lambda: [PARAMETERS])
    """All that were ever in force, the present ones last."""
    rates: Mapping[str, int] = field(default_factory=lambda: NO_RATES)
    allowances: dict[tuple[str, str], tuple[Fraction, int]] = field(default_factory=dict)
    """What part of a minute's worth each may still do at once, as of when."""

    def join(self, descriptor: Mapping[str, Any]) -> None:
        """A domain becomes a member, with its first node."""
        self.domains.append(
            {
                "domain": descriptor["domain"],
                "status": "active",
                "suspended_by": "",
                "governance_key": descriptor["governance_key"],
                "cosigner_key": descriptor["cosigner_key"],
                "ca_certificate": descriptor["ca_certificate"],
                "next_ca": "",
                "changed": self.size,
                "rekeyings": 0,
                "key_set": None,
                "references": 0,
                "policies": None,
            }
        )
        node = {name: value for name, value in descriptor["node"].items() if name != "id"}
        self.nodes.append(
            {
                "node": descriptor["node"]["id"],
                "domain": descriptor["domain"],
                "role": "voter",
                "status": "active",
                "changed": self.size,
                "protocol": self.protocol,
                **node,
            }
        )

    def voting_nodes(self) -> list[Thing]:
        return [each for each in self.active_nodes() if each["role"] == "voter"]

    def active_nodes(self) -> list[Thing]:
        return [each for each in self.nodes if each["status"] == "active"]

    def used_keys(self) -> list[str]:
        """All that are, or ever were, somebody's."""
        of_domains = [each[key] for each in self.domains for key in KEYS_OF_DOMAINS]
        for each in self.domains:
            more = each["key_set"] or {"governance_keys": [], "recovery_keys": []}
            of_domains += [*more["governance_keys"], *more["recovery_keys"]]
        return (
            self.former_keys
            + of_domains
            + [each[key] for each in self.nodes for key in KEYS_OF_NODES]
        )


KEYS_OF_DOMAINS = ("governance_key", "cosigner_key")
KEYS_OF_NODES = ("signing_key", "log_key")


def enough(world: World, issuer: str) -> frozenset[str]:
    """Keys of a domain, as many as have to sign; none are said of others."""
    domain = find(world.domains, domain=issuer)
    if domain is None:
        return frozenset()
    own = [domain["governance_key"]]
    if domain["key_set"]:
        own += domain["key_set"]["governance_keys"]
        own = own[: domain["key_set"]["threshold"]]
    return frozenset(own)


def public(thing: Thing) -> Thing:
    """The thing without what is the model's own."""
    return {name: value for name, value in thing.items() if not name.startswith("_")}


def find(things: Sequence[Thing], **what: object) -> Thing | None:
    """The first that has all of these fields."""
    for each in things:
        if all(each[name] == value for name, value in what.items()):
            return each
    return None


def home(spiffe: str) -> str:
    """The domain of an executor or node."""
    return spiffe.split("/")[2]


def owner(resource: str) -> str:
    """The domain that a resource, or a pattern of some, belongs to."""
    return resource.split("/")[2]


def fits(pattern: str, name: str) -> bool:
    """Whether a pattern of actions or of resources matches one."""
    if pattern.endswith("*"):
        return name.startswith(pattern[:-1]) and name != pattern[:-1]
    return pattern == name


def is_for(scope: Thing | Mapping[str, Any], action: str, resource: str) -> bool:
    """Whether something with lists of patterns is for an act."""
    return any(fits(each, action) for each in scope["actions"]) and any(
        fits(each, resource) for each in scope["resources"]
    )


def is_within(pattern: str, wider: Sequence[str]) -> bool:
    """Whether everything that the pattern matches is matched by others. The name in the wildcard's
    place is nobody's: what matches it does so whatever the name."""
    if pattern.endswith("*"):
        return any(fits(each, pattern[:-1] + "zz") for each in wider)
    return any(fits(each, pattern) for each in wider)


def canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def proposal_id(command: Command) -> str:
    """SHA-256 over the command's id, the type, when it expires, and what is proposed."""
    body = command.body
    parts = (command.ident, body["act"], str(body["expires_at"]), canonical(body["body"]))
    return sha256("\x00".join(parts))


def lease_id(command: Command) -> str:
    return sha256(command.origin + command.ident)[:32]


def delegation_name(command: Command) -> str:
    """docs/delegation.md and ADR 0024 say that it is a hash of the command, and not of what."""
    return "d-" + sha256(f"delegation\x00{command.origin}\x00{command.ident}")[:32]


def signed(envelope: Mapping[str, Any]) -> Any:
    """What stands in an envelope."""
    return json.loads(base64.b64decode(envelope["payload"]))
