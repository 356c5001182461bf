"""The records of who takes part: the federation, its domains, their nodes and executors."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import ClassVar, Final

from quorate.core import protocol
from quorate.core.frozen import Freeze
from quorate.core.records.base import BaseRecord, Kind
from quorate.core.records.policies import PolicyMark
from quorate.core.rows import Row
from quorate.core.status import Status

BY_BALLOT: Final = "the federation"
"""Who suspended a domain, when the others did; no domain has such a name."""


class Role(StrEnum):
    """What a node is to be in the federation. An observer follows the log and does not vote."""

    VOTER = "voter"
    OBSERVER = "observer"


@dataclass(frozen=True, slots=True)
class Parameters:
    """What the federation agreed on at genesis. See the defaults in `quorate.core.limits`.

    authority_period_ms: L, how long after a confirmation by a quorum a node may permit.
    max_permit_ttl_ms: how long an executor may rely on one permit; at most L.
    rho_ppm: how far the rates of two boot clocks may differ.
    max_skew_ms: how far a wall clock may be off before its node does not lead.
    """

    authority_period_ms: int
    max_permit_ttl_ms: int
    rho_ppm: int
    max_skew_ms: int

    def to_json(self) -> dict[str, object]:
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @classmethod
    def from_json(cls, value: object) -> Parameters:
        row = Row(value)
        return cls(*(row.number(item.name) for item in fields(cls)))


@dataclass(frozen=True, slots=True)
class Federation(BaseRecord):
    """ledger_time: milliseconds since the epoch; never goes back.
    fence_base: what the fences of leases are counted from; 0, but after a recovery.
    protocol: the version of the rules that it lives by.
    frozen: what its domains have frozen together, of all resources; None: nothing.
    policies: those that its domains have agreed on; None: they never have."""

    kind: ClassVar[Kind] = Kind.FEDERATION
    LATER: ClassVar[frozenset[str]] = frozenset({"protocol", "frozen", "policies"})

    origin: str
    genesis_hash: str
    created: int
    parameters: Parameters
    ledger_time: int
    fence_base: int = 0
    protocol: int = protocol.FIRST
    frozen: Freeze | None = None
    policies: PolicyMark | None = None

    @property
    def id(self) -> str:
        return self.origin

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
            policies=row.parsed_or("policies", PolicyMark.from_json, None),
        )


@dataclass(frozen=True, slots=True)
class Domain(BaseRecord):
    """An organisation.

    governance_key, cosigner_key: Ed25519 public keys in hex.
    suspended_by: the domain that suspended it, which is itself, or BY_BALLOT; or empty.
    rekeyings: how often it has taken new keys.
    changed: the ledger index of the last change of its status, here and in every record.
    frozen: what it has frozen itself, of its own resources; None: nothing.
    policies: its own; None: it has never published any.
    """

    kind: ClassVar[Kind] = Kind.DOMAIN
    LATER: ClassVar[frozenset[str]] = frozenset({"rekeyings", "frozen", "policies"})

    domain: str
    status: Status
    suspended_by: str
    governance_key: str
    cosigner_key: str
    ca_certificate: str
    changed: int
    rekeyings: int = 0
    frozen: Freeze | None = None
    policies: PolicyMark | None = None

    @property
    def id(self) -> str:
        return self.domain

    @property
    def policies_id(self) -> str:
        return self.domain

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
            policies=row.parsed_or("policies", PolicyMark.from_json, None),
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
    kind: ClassVar[Kind] = Kind.EXECUTOR

    executor: str
    domain: str
    status: Status
    changed: int

    @property
    def id(self) -> str:
        return self.executor

    @classmethod
    def from_json(cls, value: object) -> Executor:
        row = Row(value)
        return cls(
            executor=row.text("executor"),
            domain=row.text("domain"),
            status=row.choice("status", Status),
            changed=row.number("changed"),
        )
