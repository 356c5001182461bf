"""What commands ask for: the body of each type, as a typed value.

Owns their fields. How they are read is `quorate.core.commands`', what they do the handlers'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quorate.core.acts import FederationAct
from quorate.core.conditions import Condition
from quorate.core.keysets import KeySet
from quorate.core.lineage import Record
from quorate.core.records import EvidenceKind, Role
from quorate.core.status import Act
from quorate.core.verbs import Verb


@dataclass(frozen=True, slots=True)
class RegisterExecutor:
    executor: str


@dataclass(frozen=True, slots=True)
class GovernExecutor:
    act: Act
    executor: str


@dataclass(frozen=True, slots=True)
class ContainExecutor:
    """One of the two: an executor, or one lease."""

    executor: str = ""
    lease: str = ""


@dataclass(frozen=True, slots=True)
class LiftContainment:
    """Ends that, as far as the issuer has brought it about."""

    executor: str = ""
    lease: str = ""


@dataclass(frozen=True, slots=True)
class OpenTrust:
    """See `quorate.core.records.TrustEdge` for the fields."""

    edge: str
    trustee: str
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    max_depth: int = 0


@dataclass(frozen=True, slots=True)
class NarrowTrust:
    """actions, resources: all that the edge is still for."""

    edge: str
    actions: tuple[str, ...]
    resources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CloseTrust:
    edge: str


@dataclass(frozen=True, slots=True)
class IssueGrant:
    """See `quorate.core.records.Grant` for the fields."""

    grant: str
    executor: str
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    not_after: int
    max_lease_ttl_ms: int
    max_uses: int
    max_concurrent: int
    max_depth: int = 0
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class GovernGrant:
    act: Act
    grant: str


@dataclass(frozen=True, slots=True)
class FreezeResources:
    """actions: all that may still be done to the issuer's resources; none: nothing."""

    actions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ThawResources:
    """Ends that."""


@dataclass(frozen=True, slots=True)
class PublishPolicy:
    """text: the issuer's whole set of policies, in the place of the one before. Whether the engine
    takes it is looked at when it is known whose it is."""

    text: str


@dataclass(frozen=True, slots=True)
class RetirePolicy:
    """The issuer has no policies any more."""


@dataclass(frozen=True, slots=True)
class GovernDomain:
    act: Act
    domain: str


@dataclass(frozen=True, slots=True)
class RekeyDomain:
    """Ed25519 public keys in hex, fit to verify with and different: those from then on, and no
    others. key_set: None, when the governance key signs alone. authorities: PEM of the CAs whose
    leaves are the domain's from then on; none: they stay."""

    domain: str
    governance_key: str
    cosigner_key: str
    key_set: KeySet | None = None
    authorities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AddNode:
    """signing_key, log_key: Ed25519 public keys in hex, fit to verify with and different."""

    node: str
    peer_address: str
    signing_key: str
    log_key: str
    role: Role


@dataclass(frozen=True, slots=True)
class AssignRole:
    """Promoting makes a voter, demoting an observer."""

    role: Role
    node: str


@dataclass(frozen=True, slots=True)
class RetireNode:
    node: str


@dataclass(frozen=True, slots=True)
class DeclareNode:
    """What a node says of itself. protocol: the latest version of the rules that its program
    knows."""

    protocol: int


@dataclass(frozen=True, slots=True)
class OpenProposal:
    """act, body: what is to be done when enough domains agree. text: the body as it was signed, in
    canonical JSON. expires_at: ledger time from which on nobody votes on it."""

    act: Verb
    body: FederationAct
    text: str
    expires_at: int


@dataclass(frozen=True, slots=True)
class WithdrawProposal:
    proposal: str


@dataclass(frozen=True, slots=True)
class CastBallot:
    proposal: str
    is_yes: bool


@dataclass(frozen=True, slots=True)
class DelegateGrant:
    """What `executor` passes on, of a grant to it. grant: `<issuer>/<name>`. to: another executor.
    The rest: see `quorate.core.records.Grant`."""

    executor: str
    grant: str
    to: str
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    not_after: int
    max_lease_ttl_ms: int
    max_uses: int
    max_concurrent: int
    max_depth: int
    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class RecallGrant:
    """grant: one that `executor` has passed on."""

    executor: str
    grant: str


@dataclass(frozen=True, slots=True)
class AcquireLease:
    """ttl_ms: the wished lifetime; 0: the longest that there is. parents: the leases that the work
    came from, in ascending order. context: `<name>=<text>`, in ascending order of the names."""

    executor: str
    action: str
    resource: str
    ttl_ms: int
    parents: tuple[str, ...] = ()
    context: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RenewLease:
    lease: str
    executor: str
    ttl_ms: int


@dataclass(frozen=True, slots=True)
class ReleaseLease:
    lease: str
    executor: str


@dataclass(frozen=True, slots=True)
class AppendLineage:
    """What a node reports (`quorate.core.lineage`). after: its chain's head, as it knows it."""

    after: str
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class SetReference:
    """What executors have to prove. terms: what is accepted, by the names of a reference's fields;
    which of them there are depends on the kind of evidence."""

    reference: str
    evidence: EvidenceKind
    executors: tuple[str, ...]
    max_age_ms: int
    terms: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class RetireReference:
    reference: str


@dataclass(frozen=True, slots=True)
class ChallengeExecutor:
    """Asks the executor to prove something."""

    executor: str


@dataclass(frozen=True, slots=True)
class ReportAttestation:
    """What it proves. reference: a name. evidence: canonical JSON, for the reference's verifier."""

    executor: str
    reference: str
    challenge: str
    evidence: str


@dataclass(frozen=True, slots=True)
class ReportDrift:
    executor: str


NodeBody = (
    DeclareNode
    | DelegateGrant
    | RecallGrant
    | AcquireLease
    | RenewLease
    | ReleaseLease
    | AppendLineage
    | ChallengeExecutor
    | ReportAttestation
    | ReportDrift
)
DomainBody = (
    RegisterExecutor
    | GovernExecutor
    | ContainExecutor
    | LiftContainment
    | OpenTrust
    | NarrowTrust
    | CloseTrust
    | IssueGrant
    | GovernGrant
    | FreezeResources
    | ThawResources
    | PublishPolicy
    | RetirePolicy
    | GovernDomain
    | RekeyDomain
    | AddNode
    | AssignRole
    | RetireNode
    | FederationAct
    | OpenProposal
    | WithdrawProposal
    | CastBallot
    | SetReference
    | RetireReference
)
Body = DomainBody | NodeBody
