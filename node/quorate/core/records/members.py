"""The records of who takes part: the federation, its domains, their nodes and executors."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import ClassVar, Final

from quorate.core import protocol
from quorate.core.frozen import Freeze
from quorate.core.keysets import KeySet
from quorate.core.records.attested import Attestation, Challenge, attestations_from_json
from quorate.core.records.base import BaseRecord, Kind
from quorate.core.records.policies import PolicyMark
from quorate.core.rows import Row
from quorate.core.status import Status

BY_BALLOT: Final = "the federation"
"""Who suspended a domain, when the others did; no domain has such a name."""
DRIFT: Final = "drift"
"""Why an executor is suspended that has said itself that it is not what it was."""


class Role(StrEnum):
    """What a node is to be in the federation. An observer follows the log and does not vote."""

    VOTER = "voter"
    OBSERVER = "observer"


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the federation agreed on: at genesis, or since, by ballot. See the defaults in
    `quorate.core.limits`.

    authority_period_ms: L, how long after a confirmation by a quorum a node may permit.
    max_permit_ttl_ms: how long an executor may rely on one permit; at most L.
    rho_ppm: how far the rates of two boot clocks may differ.
    max_skew_ms: how far a wall clock may be off before its node does not lead.
    """

    authority_period_ms: int
    max_permit_ttl_ms: int
    rho_ppm: int
    max_skew_ms: int

    def covers(self, other: Parameters) -> bool:
        """Whether none of the other's is larger."""
        return self.joined(other) == self

    def joined(self, other: Parameters) -> Parameters:
        """Of each the larger."""
        names = (item.name for item in fields(self))
        return Parameters(*(max(getattr(self, name), getattr(other, name)) for name in names))

    def to_json(self) -> dict[str, object]:
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @classmethod
    def from_json(cls, value: object) -> Parameters:
        row = Row(value)
        return cls(*(row.number(item.name) for item in fields(cls)))


@dataclass(frozen=True, slots=True)
class Rates:
    """How many commands are executed in a minute; 0: as many as come. See `quorate.core.rates`.

    domain_per_min: of those that a domain signs, and again of those that its nodes sign.
    executor_per_min: of those that nodes sign for one executor.
    """

    domain_per_min: int
    executor_per_min: int

    def to_json(self) -> dict[str, object]:
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @classmethod
    def from_json(cls, value: object) -> Rates:
        row = Row(value)
        return cls(*(row.number(item.name) for item in fields(cls)))


@dataclass(frozen=True, slots=True)
class Federation(BaseRecord):
    """ledger_time: milliseconds since the epoch; never goes back.
    fence_base: what the fences of leases are counted from; 0, but after a recovery.
    protocol: the version of the rules that it lives by.
    frozen: what its domains have frozen together, of all resources; None: nothing.
    widest: of each parameter the largest that was ever in force; None: those in force are.
    rates: how many commands are executed in a minute; None: as many as come.
    policies: those that its domains have agreed on; None: they never have."""

    kind: ClassVar[Kind] = Kind.FEDERATION
    LATER: ClassVar[frozenset[str]] = frozenset(
        {"protocol", "frozen", "widest", "rates", "policies"}
    )

    origin: str
    genesis_hash: str
    created: int
    parameters: Parameters
    ledger_time: int
    fence_base: int = 0
    protocol: int = protocol.FIRST
    frozen: Freeze | None = None
    widest: Parameters | None = None
    rates: Rates | None = None
    policies: PolicyMark | None = None

    @property
    def id(self) -> str:
        return self.origin

    @property
    def bounding(self) -> Parameters:
        """By these whoever waits for something to be over has to count: what rests on former ones
        may last for longer than what is in force allows."""
        return self.widest or self.parameters

    @property
    def policies_id(self) -> str:
        """Where its policies are: an origin may be a domain's name, too."""
        return BY_BALLOT

    @classmethod
    def from_json(cls, value: object) -> Federation:
        row = Row(value)
        return cls(
            origin=row.text("origin"),
            genesis_hash=row.text("genesis_hash"),
            created=row.number("created"),
            parameters=Parameters.from_json(row.nested("parameters")),
            ledger_time=row.number("ledger_time"),
            fence_base=row.number("fence_base"),
            protocol=row.number_or("protocol", protocol.FIRST),
            frozen=row.parsed_or("frozen", Freeze.from_json, None),
            widest=row.parsed_or("widest", Parameters.from_json, None),
            rates=row.parsed_or("rates", Rates.from_json, None),
            policies=row.parsed_or("policies", PolicyMark.from_json, None),
        )


@dataclass(frozen=True, slots=True)
class Domain(BaseRecord):
    """An organisation.

    governance_key, cosigner_key: Ed25519 public keys in hex.
    suspended_by: the domain that suspended it, which is itself, or BY_BALLOT; or empty.
    rekeyings: how often it has taken new keys.
    key_set: its keys beside those two; None: there are none, and the governance key signs alone.
    ca_certificate, next_ca: PEM of the CAs whose leaves are its own; next_ca: empty, but while it
    goes from one to another.
    changed: the ledger index of the last change of its status, here and in every record.
    frozen: what it has frozen itself, of its own resources; None: nothing.
    references: of how many things it wants a proof from its executors.
    policies: its own; None: it has never published any.
    """

    kind: ClassVar[Kind] = Kind.DOMAIN
    LATER: ClassVar[frozenset[str]] = frozenset(
        {"rekeyings", "frozen", "key_set", "references", "policies", "next_ca"}
    )

    domain: str
    status: Status
    suspended_by: str
    governance_key: str
    cosigner_key: str
    ca_certificate: str
    changed: int
    rekeyings: int = 0
    frozen: Freeze | None = None
    key_set: KeySet | None = None
    references: int = 0
    policies: PolicyMark | None = None
    next_ca: str = ""

    @property
    def id(self) -> str:
        return self.domain

    @property
    def policies_id(self) -> str:
        return self.domain

    @property
    def has_policies(self) -> bool:
        """Whether a set of its own is in force."""
        return self.policies is not None and bool(self.policies.sha256)

    @property
    def authorities(self) -> tuple[str, ...]:
        """PEM of the CAs that alone may vouch for what is called by this domain's name."""
        return (self.ca_certificate, self.next_ca) if self.next_ca else (self.ca_certificate,)

    @classmethod
    def from_json(cls, value: object) -> Domain:
        row = Row(value)
        return cls(
            domain=row.text("domain"),
            status=row.choice("status", Status),
            suspended_by=row.text("suspended_by"),
            governance_key=row.text("governance_key"),
            cosigner_key=row.text("cosigner_key"),
            ca_certificate=row.text("ca_certificate"),
            changed=row.number("changed"),
            rekeyings=row.number_or("rekeyings", 0),
            frozen=row.parsed_or("frozen", Freeze.from_json, None),
            key_set=row.parsed_or("key_set", KeySet.from_json, None),
            references=row.number_or("references", 0),
            policies=row.parsed_or("policies", PolicyMark.from_json, None),
            next_ca=row.text_or("next_ca", ""),
        )


@dataclass(frozen=True, slots=True)
class Node(BaseRecord):
    """A member node, or one that was: revoked is retired, and its id is never used again.

    signing_key, log_key: Ed25519 public keys in hex.
    role: what it is to be, as its domain decided; a retired one keeps its last. What it is in the
    consensus right now is in the log's configuration, which follows.
    protocol: the latest version of the rules that it has said its program knows.
    """

    kind: ClassVar[Kind] = Kind.NODE
    LATER: ClassVar[frozenset[str]] = frozenset({"protocol"})

    node: str
    domain: str
    peer_address: str
    signing_key: str
    log_key: str
    role: Role
    status: Status
    changed: int
    protocol: int = protocol.FIRST

    @property
    def id(self) -> str:
        return self.node

    @property
    def retired(self) -> bool:
        return self.status is not Status.ACTIVE

    @property
    def votes(self) -> bool:
        """Whether it is meant to vote."""
        return self.role is Role.VOTER and not self.retired

    @classmethod
    def from_json(cls, value: object) -> Node:
        row = Row(value)
        return cls(
            node=row.text("node"),
            domain=row.text("domain"),
            peer_address=row.text("peer_address"),
            signing_key=row.text("signing_key"),
            log_key=row.text("log_key"),
            role=row.choice("role", Role),
            status=row.choice("status", Status),
            changed=row.number("changed"),
            protocol=row.number_or("protocol", protocol.FIRST),
        )


@dataclass(frozen=True, slots=True)
class Executor(BaseRecord):
    """suspended_for: the reference that what it has proved did not match, or DRIFT: then nobody
    reinstates it without new proofs; empty: its domain had its own reasons. suspended_by_domain:
    its domain had its own reasons, too: then no ballot reinstates it. failed_at: the entry that
    last said what it is suspended for; 0: that is in the ledger before a recovery.
    attestations: what it has proved, in order of the references' names. challenge: what it was
    asked last, and has not answered."""

    kind: ClassVar[Kind] = Kind.EXECUTOR
    LATER: ClassVar[frozenset[str]] = frozenset(
        {"suspended_for", "suspended_by_domain", "failed_at", "attestations", "challenge"}
    )

    executor: str
    domain: str
    status: Status
    changed: int
    suspended_for: str = ""
    suspended_by_domain: bool = False
    failed_at: int = 0
    attestations: tuple[Attestation, ...] = ()
    challenge: Challenge | None = None

    @property
    def id(self) -> str:
        return self.executor

    def attestation(self, reference: str) -> Attestation | None:
        """What it has proved for a reference, by its name."""
        return next((each for each in self.attestations if each.reference == reference), None)

    @classmethod
    def from_json(cls, value: object) -> Executor:
        row = Row(value)
        return cls(
            executor=row.text("executor"),
            domain=row.text("domain"),
            status=row.choice("status", Status),
            changed=row.number("changed"),
            suspended_for=row.text_or("suspended_for", ""),
            suspended_by_domain=row.flag_or("suspended_by_domain", missing=False),
            failed_at=row.number_or("failed_at", 0),
            attestations=row.parsed_or("attestations", attestations_from_json, ()),
            challenge=row.parsed_or("challenge", Challenge.from_json, None),
        )
