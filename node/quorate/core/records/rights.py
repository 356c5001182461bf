"""The records of who may do what to whose resources: edges of trust, grants, leases."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from quorate.core.conditions import Condition, conditions_from_json
from quorate.core.lineage import Stage
from quorate.core.records.base import BaseRecord, Kind
from quorate.core.rows import Row
from quorate.core.status import Status


class LeaseStatus(StrEnum):
    """Expiry is no status: it is judged from time wherever a lease is looked at."""

    ACTIVE = "active"
    RELEASED = "released"


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
    conditions: what a lease under it has to say in its context, all of it; what was made of it asks
    the same, and more where it says so.
    """

    kind: ClassVar[Kind] = Kind.GRANT
    LATER: ClassVar[frozenset[str]] = frozenset(
        {"parent", "made", "max_depth", "delegations", "conditions"}
    )

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
    conditions: tuple[Condition, ...] = ()

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
            conditions=row.parsed_or("conditions", conditions_from_json, ()),
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
    ancestors: those, and the leases that they came from, all the way back, in ascending order;
    ancestor_executors: who those rest on, likewise. Version 1 left both out.
    stage, events, lineage: how far the work has come, how many events say so, and the head of their
    chain (`quorate.core.lineage`); they change no status.
    context: what the executor said about it, `<name>=<text>`; for the conditions of
    grants, and for policies, to ask about.
    """

    kind: ClassVar[Kind] = Kind.LEASE
    LATER: ClassVar[frozenset[str]] = frozenset(
        {"passed_on", "ancestors", "ancestor_executors", "context"}
    )

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
    ancestors: tuple[str, ...] = ()
    ancestor_executors: tuple[str, ...] = ()
    context: tuple[str, ...] = ()

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
        return self._named(Kind.GRANT)

    @property
    def executors(self) -> tuple[str, ...]:
        """Its own, and those that have passed on what it is a use of."""
        return self._named(Kind.EXECUTOR)

    @property
    def is_listed(self) -> bool:
        """Whether it says all that it came from."""
        return bool(self.ancestors) or not self.parents

    def _named(self, kind: Kind) -> tuple[str, ...]:
        """What it relies on, of one kind."""
        prefix = f"{kind}:"
        return tuple(t.removeprefix(prefix) for t in self.depends_on if t.startswith(prefix))

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
            ancestors=row.texts_or("ancestors", ()),
            ancestor_executors=row.texts_or("ancestor_executors", ()),
            context=row.texts_or("context", ()),
        )
