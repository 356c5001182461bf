"""The records of the replicated state, as frozen values and as JSON.

Owns their fields and form. `from_json` reads what `to_json` wrote, and raises MalformedError for
anything else: a record that is damaged must never be half understood. Does not know where records
lie (see `quorate.core.state`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import ClassVar, Final

from quorate.core import protocol
from quorate.core.frozen import Freeze
from quorate.core.lineage import Stage
from quorate.core.rows import Row
from quorate.core.status import Status


class Kind(StrEnum):
    """The kinds of record that can be asked for."""

    FEDERATION = "federation"
    DOMAIN = "domain"
    NODE = "node"
    EXECUTOR = "executor"
    TRUST = "trust"
    GRANT = "grant"
    LEASE = "lease"
    PROPOSAL = "proposal"


class Role(StrEnum):
    """What a node is to be in the federation. An observer follows the log and does not vote."""

    VOTER = "voter"
    OBSERVER = "observer"


class LeaseStatus(StrEnum):
    """Expiry is no status: it is judged from time wherever a lease is looked at."""

    ACTIVE = "active"
    RELEASED = "released"


BY_BALLOT: Final = "the federation"
"""Who suspended a domain, when the others did; no domain has such a name."""


def _plain(value: object) -> object:
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, Parameters | Freeze):
        return value.to_json()
    return list(value) if isinstance(value, tuple) else value


class BaseRecord:
    """What all records have: their fields as JSON, in the order of declaration.

    LATER: those that a later version of the protocol has brought, each with a default. They are
    left out while they have it, so that a record is the same bytes under every version."""

    __slots__ = ()

    LATER: ClassVar[frozenset[str]] = frozenset()

    @property
    def id(self) -> str:
        raise NotImplementedError

    def to_json(self) -> dict[str, object]:
        value: dict[str, object] = {"id": self.id}
        for item in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            said = getattr(self, item.name)
            if item.name not in self.LATER or said != item.default:
                value[item.name] = _plain(said)
        return value


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
    frozen: what its domains have frozen together, of all resources; None: nothing."""

    kind: ClassVar[Kind] = Kind.FEDERATION
    LATER: ClassVar[frozenset[str]] = frozenset({"protocol", "frozen"})

    origin: str
    genesis_hash: str
    created: int
    parameters: Parameters
    ledger_time: int
    fence_base: int = 0
    protocol: int = protocol.FIRST
    frozen: Freeze | None = None

    @property
    def id(self) -> str:
        return self.origin

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
        )


@dataclass(frozen=True, slots=True)
class Domain(BaseRecord):
    """An organisation.

    governance_key, cosigner_key: Ed25519 public keys in hex.
    suspended_by: the domain that suspended it, which is itself, or BY_BALLOT; or empty.
    rekeyings: how often it has taken new keys.
    changed: the ledger index of the last change of its status, here and in every record.
    frozen: what it has frozen itself, of its own resources; None: nothing.
    """

    kind: ClassVar[Kind] = Kind.DOMAIN
    LATER: ClassVar[frozenset[str]] = frozenset({"rekeyings", "frozen"})

    domain: str
    status: Status
    suspended_by: str
    governance_key: str
    cosigner_key: str
    ca_certificate: str
    changed: int
    rekeyings: int = 0
    frozen: Freeze | None = None

    @property
    def id(self) -> str:
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


@dataclass(frozen=True, slots=True)
class TrustEdge(BaseRecord):
    """`truster` lets executors of `trustee` have grants within these patterns. Closed: revoked.

    resources: the truster's own; or those of another that passes its trust on, through the truster.
    max_depth: how many edges may follow this one on a route; 0: the trust is not passed on.
    """

    kind: ClassVar[Kind] = Kind.TRUST
    LATER: ClassVar[frozenset[str]] = frozenset({"max_depth"})

    truster: str
    edge: str
    trustee: str
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    status: Status
    changed: int
    max_depth: int = 0

    @property
    def id(self) -> str:
        return f"{self.truster}/{self.edge}"

    @classmethod
    def from_json(cls, value: object) -> TrustEdge:
        row = Row(value)
        return cls(
            truster=row.text("truster"),
            edge=row.text("edge"),
            trustee=row.text("trustee"),
            actions=row.texts("actions"),
            resources=row.texts("resources"),
            status=row.choice("status", Status),
            changed=row.number("changed"),
            max_depth=row.number_or("max_depth", 0),
        )


@dataclass(frozen=True, slots=True)
class Grant(BaseRecord):
    """What `executor` may do to the issuer's resources.

    not_after: ledger time from which on it permits nothing.
    max_uses: how many leases it gives, ever; 0: no limit. uses: how many it has given.
    max_concurrent: how many of them may be in force at once; 0: MAX_CONCURRENT_LEASES.
    parent: the grant that it was made of, by that one's executor, at ledger index `made`; empty:
    the issuer has issued it. max_depth: how often it may be passed on, and on. delegations: how
    many were made of it, ever; what is done with those counts as a use of it.
    """

    kind: ClassVar[Kind] = Kind.GRANT
    LATER: ClassVar[frozenset[str]] = frozenset({"parent", "made", "max_depth", "delegations"})

    issuer: str
    grant: str
    executor: str
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    not_after: int
    max_lease_ttl_ms: int
    max_uses: int
    max_concurrent: int
    uses: int
    status: Status
    changed: int
    parent: str = ""
    made: int = 0
    max_depth: int = 0
    delegations: int = 0

    @property
    def id(self) -> str:
        return f"{self.issuer}/{self.grant}"

    @property
    def exhausted(self) -> bool:
        return self.max_uses != 0 and self.uses >= self.max_uses

    def expired(self, ledger_time: int) -> bool:
        return self.not_after <= ledger_time

    @classmethod
    def from_json(cls, value: object) -> Grant:
        row = Row(value)
        return cls(
            issuer=row.text("issuer"),
            grant=row.text("grant"),
            executor=row.text("executor"),
            actions=row.texts("actions"),
            resources=row.texts("resources"),
            not_after=row.number("not_after"),
            max_lease_ttl_ms=row.number("max_lease_ttl_ms"),
            max_uses=row.number("max_uses"),
            max_concurrent=row.number("max_concurrent"),
            uses=row.number("uses"),
            status=row.choice("status", Status),
            changed=row.number("changed"),
            parent=row.text_or("parent", ""),
            made=row.number_or("made", 0),
            max_depth=row.number_or("max_depth", 0),
            delegations=row.number_or("delegations", 0),
        )


@dataclass(frozen=True, slots=True)
class Lease(BaseRecord):
    """A right to act for a while.

    grant: `<issuer>/<grant>`. trust_edge: `<truster>/<edge>`, or empty within one domain.
    passed_on: the edges that follow that one, in order, when the trust was passed on.
    fence: the ledger index of its acquisition, beyond the federation's fence_base; a later lease
    has a greater one.
    acquired_at, expires_at: ledger time; at expires_at it is over.
    depends_on: `<kind>:<id>` of everything that must stay active for it to hold.
    parents: the leases that the work came from; each held when this one was acquired.
    stage, events, lineage: how far the work has come, how many events say so, and the head of their
    chain (`quorate.core.lineage`); they change no status.
    """

    kind: ClassVar[Kind] = Kind.LEASE
    LATER: ClassVar[frozenset[str]] = frozenset({"passed_on"})

    lease: str
    executor: str
    action: str
    resource: str
    grant: str
    trust_edge: str
    fence: int
    acquired_at: int
    expires_at: int
    status: LeaseStatus
    depends_on: tuple[str, ...]
    policy_version: int
    changed: int
    parents: tuple[str, ...] = ()
    stage: Stage = Stage.AUTHORIZED
    events: int = 0
    lineage: str = ""
    passed_on: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return self.lease

    @property
    def edges(self) -> tuple[str, ...]:
        """The ids of the edges of its route, from the resource's domain to the executor's."""
        return (self.trust_edge, *self.passed_on) if self.trust_edge else ()

    @property
    def grants(self) -> tuple[str, ...]:
        """The grants that it is a use of: its own, and those that are behind it."""
        parts = (thing.partition(":") for thing in self.depends_on)
        return tuple(ident for kind, _, ident in parts if kind == Kind.GRANT)

    def expired(self, ledger_time: int) -> bool:
        return ledger_time >= self.expires_at

    @classmethod
    def from_json(cls, value: object) -> Lease:
        row = Row(value)
        return cls(
            lease=row.text("lease"),
            executor=row.text("executor"),
            action=row.text("action"),
            resource=row.text("resource"),
            grant=row.text("grant"),
            trust_edge=row.text("trust_edge"),
            fence=row.number("fence"),
            acquired_at=row.number("acquired_at"),
            expires_at=row.number("expires_at"),
            status=row.choice("status", LeaseStatus),
            depends_on=row.texts("depends_on"),
            policy_version=row.number("policy_version"),
            changed=row.number("changed"),
            parents=row.texts("parents"),
            stage=row.choice("stage", Stage),
            events=row.number("events"),
            lineage=row.text("lineage"),
            passed_on=row.texts_or("passed_on", ()),
        )


Governed = Domain | Node | Executor | TrustEdge | Grant
