"""What an entry of the ledger means for leases that are held.

Owns the one question that whoever follows the ledger asks of each entry: which thing, that leases
rely on, did it stop or let go on, and for which of them? What is frozen is such a thing, too: of a
domain (`frozen:<domain>`) or of the whole federation (`federation:<origin>`); every lease relies on
both, by its resource. What is contained is one, too (`contained:<id>`), for every lease that came
from it or rests on it. So are what its executor has to prove (`references:<domain>`) and what that
has proved (`attestation:<executor>`): entries change them, and whether the one is enough for the
other is asked anew; and policies of a domain (`policies:<domain>`) or of all together
(`joint_policies:<origin>`): what a set means for a lease is asked, too, for it takes a while.
Whether a lease holds at a moment is `quorate.core.decision`'s: time ends leases and grants too, and
no entry says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from quorate.core import codec
from quorate.core.bodies import NarrowTrust
from quorate.core.commands import envelope_in, parse_command
from quorate.core.containment import containable
from quorate.core.errors import MalformedError
from quorate.core.ids import SpiffeId, resource_owner
from quorate.core.outcome import Reason
from quorate.core.patterns import Scope, action_listed, covers
from quorate.core.policies import REASONS as POLICY_REASONS
from quorate.core.policies import why_not_by
from quorate.core.records import (
    BY_BALLOT,
    Domain,
    Executor,
    Grant,
    Kind,
    Lease,
    LeaseStatus,
    TrustEdge,
)
from quorate.core.rows import Row
from quorate.core.state import StateView
from quorate.core.status import Status
from quorate.core.verbs import Verb


@dataclass(frozen=True, slots=True)
class Effect:
    """What an accepted command did.

    index: the ledger index of its entry. ledger_time: of the entry, ms.
    thing: `<kind>:<id>`, one of `things_of` the leases that it concerns.
    reason: why what relies on the thing is denied from here on; None when it is good again, or,
        for a lease, is there, or lasts longer.
    but_for: what goes on all the same of what relies on the thing; None: nothing does. A thaw has
        what the freeze had that it ends.
    may_stop: with no reason: it may have ended what relies on the thing, or not; whoever wants to
        know looks. No permit that was given before counts as given under what is now.
    of_policies: it is about policies. With a reason, a set is in force from here on: what that is
        to a lease, no entry says; whoever wants to know looks (`is_stopped`).
    """

    index: int
    ledger_time: int
    thing: str
    reason: Reason | None
    but_for: Scope | LetThrough | None = None
    may_stop: bool = False
    of_policies: bool = False

    @property
    def is_unsaid(self) -> bool:
        """Whether what relies on the thing may have been good or not, before this and after, and no
        entry says which."""
        return self.of_policies or self.thing.startswith((f"{_REFERENCES}:", f"{_ATTESTATION}:"))

    def spares(self, lease: Lease) -> bool:
        """Whether it changes nothing for this lease, which relies on the thing. What an edge does
        not cover any more it never covers again, and what a freeze lets through stays so until the
        thaw, so that this is settled with the entry."""
        return self.but_for is not None and _is_covered(lease, self.but_for)


@dataclass(frozen=True, slots=True)
class LetThrough:
    """These actions, on whichever resource."""

    actions: tuple[str, ...]


_FROZEN: Final = "frozen"
_CONTAINED: Final = "contained"
_REFERENCES: Final = "references"
_ATTESTATION: Final = "attestation"
_JOINT_POLICIES: Final = "joint_policies"

_EFFECTS: Final = MappingProxyType(
    {
        Verb.EXECUTOR_SUSPEND: (Kind.EXECUTOR, Reason.EXECUTOR_SUSPENDED),
        Verb.EXECUTOR_REINSTATE: (Kind.EXECUTOR, None),
        Verb.FEDERATION_REINSTATE_EXECUTOR: (Kind.EXECUTOR, None),
        Verb.EXECUTOR_REVOKE: (Kind.EXECUTOR, Reason.EXECUTOR_REVOKED),
        Verb.EXECUTOR_CONTAIN: (_CONTAINED, Reason.CONTAINED),
        Verb.EXECUTOR_LIFT_CONTAINMENT: (_CONTAINED, None),
        Verb.TRUST_NARROW: (Kind.TRUST, Reason.NO_TRUST),
        Verb.TRUST_CLOSE: (Kind.TRUST, Reason.NO_TRUST),
        Verb.GRANT_SUSPEND: (Kind.GRANT, Reason.GRANT_SUSPENDED),
        Verb.GRANT_REINSTATE: (Kind.GRANT, None),
        Verb.GRANT_REVOKE: (Kind.GRANT, Reason.GRANT_REVOKED),
        Verb.GRANT_RECALL: (Kind.GRANT, Reason.GRANT_REVOKED),
        Verb.RESOURCES_FREEZE: (_FROZEN, Reason.FROZEN),
        Verb.RESOURCES_THAW: (_FROZEN, None),
        Verb.FEDERATION_FREEZE: (Kind.FEDERATION, Reason.FROZEN),
        Verb.FEDERATION_THAW: (Kind.FEDERATION, None),
        Verb.POLICY_PUBLISH: (Kind.POLICIES, Reason.POLICY_FORBIDS),
        Verb.POLICY_RETIRE: (Kind.POLICIES, None),
        Verb.FEDERATION_SET_POLICY: (_JOINT_POLICIES, Reason.POLICY_FORBIDS),
        Verb.FEDERATION_RETIRE_POLICY: (_JOINT_POLICIES, None),
        Verb.DOMAIN_SUSPEND: (Kind.DOMAIN, Reason.DOMAIN_SUSPENDED),
        Verb.DOMAIN_REINSTATE: (Kind.DOMAIN, None),
        Verb.DOMAIN_EXPEL: (Kind.DOMAIN, Reason.DOMAIN_REVOKED),
        Verb.ATTESTATION_SET_REFERENCE: (_REFERENCES, None),
        Verb.ATTESTATION_RETIRE_REFERENCE: (_REFERENCES, None),
        Verb.ATTESTATION_REPORT: (_ATTESTATION, None),
        Verb.ATTESTATION_DRIFT: (Kind.EXECUTOR, Reason.EXECUTOR_SUSPENDED),
        Verb.LEASE_ACQUIRE: (Kind.LEASE, None),
        Verb.LEASE_RENEW: (Kind.LEASE, None),
        Verb.LEASE_RELEASE: (Kind.LEASE, Reason.LEASE_RELEASED),
    }
)
"""Of verbs that change whether a lease holds. What makes something new that leases can rely on
(registers, opens, issues) changes nothing for those there are: each relies on its own. A set of
policies that is published may stop some leases, and let others go on."""

_WITHOUT: Final = frozenset(
    {
        Verb.EXECUTOR_REGISTER,
        Verb.TRUST_OPEN,
        Verb.GRANT_ISSUE,
        Verb.GRANT_DELEGATE,
        Verb.NODE_ADD,
        Verb.NODE_PROMOTE,
        Verb.NODE_DEMOTE,
        Verb.NODE_RETIRE,
        Verb.NODE_DECLARE,
        Verb.LINEAGE_APPEND,
        Verb.DOMAIN_ADMIT,
        Verb.DOMAIN_REKEY,
        Verb.FEDERATION_SET_THRESHOLDS,
        Verb.FEDERATION_SET_PARAMETERS,
        Verb.FEDERATION_SET_RATES,
        Verb.FEDERATION_UPGRADE,
        Verb.PROPOSAL_WITHDRAW,
        Verb.ATTESTATION_CHALLENGE,
    }
)

_VOTES: Final = frozenset({Verb.PROPOSAL_OPEN, Verb.BALLOT_CAST})
"""What they do is what they have brought to a decision, if they have."""

_FREEZING: Final = frozenset(
    {
        Verb.RESOURCES_FREEZE,
        Verb.RESOURCES_THAW,
        Verb.FEDERATION_FREEZE,
        Verb.FEDERATION_THAW,
    }
)

_CONTAINING: Final = frozenset({Verb.EXECUTOR_CONTAIN, Verb.EXECUTOR_LIFT_CONTAINMENT})
_SAYING: Final = _VOTES | _FREEZING | _CONTAINING
"""Their entries say what they have done."""
_PROVING: Final = frozenset({Verb.ATTESTATION_REPORT, Verb.ATTESTATION_DRIFT})
"""What they say of themselves is whether they have suspended an executor that was active."""

_BY_NAME: Final = {verb.value: effect for verb, effect in _EFFECTS.items()}

SAID: Final = POLICY_REASONS | {Reason.UNKNOWN_LEASE, *(why for _, why in _EFFECTS.values() if why)}
"""Why a lease is denied that an entry has stopped; any other reason is one of time, or of what its
executor has proved."""

assert not _EFFECTS.keys() & (_WITHOUT | _VOTES)
assert _EFFECTS.keys() | _WITHOUT | _VOTES == set(Verb), "a new verb says what it does to leases"


def effect_of(index: int, entry: bytes) -> Effect | None:
    """What the entry at `index` of this node's own ledger did; None: nothing to any lease.

    Raises MalformedError for bytes that are no entry.
    """
    row = Row(codec.load(entry))
    kind, done = row.text("type"), row
    if kind in _SAYING and row.nested("executed") is not None:
        done = Row(row.nested("executed"))
        kind = done.text("type")
    if kind not in _BY_NAME or row.text("decision") != "accepted":
        return None
    of, reason = _BY_NAME[kind]
    thing, may_stop = done.text("thing"), False
    if kind in _PROVING:
        said = Row(row.nested("executed"))
        if said.flag("suspends"):
            of, reason = _EFFECTS[Verb.ATTESTATION_DRIFT]
        elif not said.flag("matches"):
            return None  # it was suspended already
    elif of == _REFERENCES:
        thing, may_stop = _split(thing)[0], kind == Verb.ATTESTATION_SET_REFERENCE
    but_for: Scope | LetThrough | None = None
    if kind == Verb.TRUST_NARROW:
        but_for = _left_by(row)
    elif kind in _FREEZING:
        but_for = LetThrough(done.texts("actions"))
    elif kind in _CONTAINING and len(done.texts("by")) != (reason is not None):
        return None  # another domain has contained it as well: it is so already, or stays so
    time, of_policies = row.number("time"), of in (Kind.POLICIES, _JOINT_POLICIES)
    return Effect(index, time, f"{of}:{thing}", reason, but_for, may_stop, of_policies)


def _left_by(entry: Row) -> Scope:
    """What a narrowing has left: it stands in the command alone. Raises MalformedError."""
    envelope = envelope_in(entry.nested("command"))
    body = parse_command(envelope.payload).body
    if not isinstance(body, NarrowTrust):
        raise MalformedError("is no narrowing", field="command")
    return body


def things_of(lease: Lease, origin: str) -> tuple[str, ...]:
    """Everything that an entry of this ledger can stop, and the lease with it; itself, too. The
    lease has to say what it came from (`quorate.core.containment.listed`)."""
    owner, home = resource_owner(lease.resource), SpiffeId.parse(lease.executor).trust_domain
    return (
        *lease.depends_on,
        f"{_FROZEN}:{owner}",
        f"{Kind.FEDERATION}:{origin}",
        f"{_REFERENCES}:{home}",
        f"{_ATTESTATION}:{lease.executor}",
        f"{_JOINT_POLICIES}:{origin}",
        f"{Kind.POLICIES}:{owner}",
        *((f"{Kind.POLICIES}:{home}",) if home != owner else ()),
        f"{Kind.LEASE}:{lease.id}",
        *(f"{_CONTAINED}:{thing}" for thing in dict.fromkeys(containable(lease))),
    )


def is_of_policies(thing: str) -> bool:
    return thing.startswith((f"{Kind.POLICIES}:", f"{_JOINT_POLICIES}:"))


def is_stopped(view: StateView, thing: str, lease: Lease | None) -> bool:
    """Whether this lease, which relies on the thing, is denied by what entries have said of it.
    lease: None when the thing is a lease, or there is none. Raises StorageError."""
    kind, _, name = thing.partition(":")
    if kind == Kind.LEASE:
        lease = view.lease(name)
        return lease is None or lease.status is not LeaseStatus.ACTIVE
    if kind in (_FROZEN, Kind.FEDERATION):
        held = view.federation() if kind == Kind.FEDERATION else view.domain(name)
        frozen = None if held is None else held.frozen
        return frozen is not None and not (lease is not None and frozen.lets(lease.action))
    if kind == _CONTAINED:
        return view.containment(name) is not None
    if kind in (_REFERENCES, _ATTESTATION):
        return False  # no entry says so: it is asked of the proof, at its time
    if kind in (Kind.POLICIES, _JOINT_POLICIES):
        policies = view.policies(name if kind == Kind.POLICIES else BY_BALLOT)
        text = "" if policies is None else policies.text
        return bool(text) and (lease is None or why_not_by(text, lease) is not None)
    record: Domain | Executor | TrustEdge | Grant | None
    match kind:
        case Kind.DOMAIN:
            record = view.domain(name)
        case Kind.EXECUTOR:
            record = view.executor(name)
        case Kind.TRUST:
            record = edge = view.trust_edge(*_split(name))
            if edge is not None and lease is not None and not _is_covered(lease, edge):
                return True
        case Kind.GRANT:
            record = view.grant(*_split(name))
        case _:
            raise AssertionError(f"nothing relies on {thing}")
    return record is None or record.status is not Status.ACTIVE


def _is_covered(lease: Lease, scope: Scope | LetThrough) -> bool:
    if isinstance(scope, LetThrough):
        return action_listed(scope.actions, lease.action)
    return covers(scope.actions, scope.resources, lease.action, lease.resource)


def _split(name: str) -> tuple[str, str]:
    owner, _, own = name.partition("/")
    return owner, own
