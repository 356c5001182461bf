"""The commands: what each may say, parsed once into typed values.

Owns their form, and which kind of issuer may give which. Does not know the state: whether a command
may be executed is decided by `quorate.core.transitions`.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from quorate.core import codec, dsse, ids, patterns, protocol
from quorate.core.acts import ACTS, check_act, let_through
from quorate.core.bodies import (
    AcquireLease,
    AddNode,
    AppendLineage,
    AssignRole,
    Body,
    CastBallot,
    CloseTrust,
    DeclareNode,
    DelegateGrant,
    FreezeResources,
    GovernDomain,
    GovernExecutor,
    GovernGrant,
    IssueGrant,
    NarrowTrust,
    OpenProposal,
    OpenTrust,
    RecallGrant,
    RegisterExecutor,
    RekeyDomain,
    ReleaseLease,
    RenewLease,
    RetireNode,
    ThawResources,
    WithdrawProposal,
)
from quorate.core.errors import MalformedError
from quorate.core.fields import Fields
from quorate.core.limits import (
    MAX_CONCURRENT_LEASES,
    MAX_DEPTH,
    MAX_ENVELOPE_BYTES,
    MAX_LEASE_TTL_MS,
    MAX_PARENTS,
    MAX_PATTERNS,
    MAX_RECORDS_PER_COMMAND,
    PROTOCOL_VERSION,
)
from quorate.core.lineage import check_head, parse_record
from quorate.core.records import Role
from quorate.core.status import Act
from quorate.core.verbs import Verb


@dataclass(frozen=True, slots=True)
class Command:
    """A well-formed command. Nothing about it is verified.

    issuer: a domain, or a node's SPIFFE ID for what nodes ask. not_after: ledger time.
    fingerprint: what it asks for, less nonce and lifetime; a repeat has the same.
    """

    origin: str
    verb: Verb
    issuer: str
    nonce: str
    not_after: int
    body: Body
    command_id: str
    fingerprint: str

    @property
    def issued_by_node(self) -> bool:
        return is_node(self.issuer)


def is_node(issuer: str) -> bool:
    """Whether an issuer is a node; otherwise it is a domain."""
    return issuer.startswith("spiffe://")


def parse_command(payload: bytes, version: int = protocol.LATEST) -> Command:
    """Parses an envelope's payload, by the rules of one version of the protocol. Raises
    MalformedError, whose field names the place: what a later version has brought is malformed, as
    it is to a program that does not know it; and UnsupportedProtocolError for a version that is not
    known here."""
    protocol.check(version)
    value = codec.decode(payload, MAX_ENVELOPE_BYTES)
    fields = Fields(value)
    fields.integer("v", PROTOCOL_VERSION, PROTOCOL_VERSION)
    origin = fields.text("origin", ids.check_origin)
    bodies = _BODIES[version]
    kind = fields.text("type")
    if kind not in bodies:
        raise MalformedError("is no type of command", field="type")
    verb = Verb(kind)
    issuer = fields.text("issuer", _check_issuer)
    nonce = fields.text("nonce", ids.check_nonce)
    not_after = fields.integer("not_after")
    inner = fields.nested("body")
    fields.done()
    body = bodies[verb](inner)
    inner.done()
    assert isinstance(value, dict), "Fields reads objects only"
    return Command(
        origin=origin,
        verb=verb,
        issuer=issuer,
        nonce=nonce,
        not_after=not_after,
        body=body,
        command_id=ids.command_id(issuer, nonce),
        fingerprint=hashlib.sha256(codec.encode([verb, value["body"]])).hexdigest(),
    )


def parse_any(payload: bytes) -> Command:
    """A command of whatever version of the protocol, the latest first: for who does not know which
    the ledger lives by. Raises MalformedError."""
    for version in range(protocol.LATEST, protocol.FIRST, -1):
        with contextlib.suppress(MalformedError):
            return parse_command(payload, version)
    return parse_command(payload, protocol.FIRST)


def is_known(kind: str, version: int) -> bool:
    """Whether there is such a type of command in this version of the protocol."""
    return kind in _BODIES[version]


def _check_issuer(text: str) -> None:
    if is_node(text):
        ids.check_node(text)
    else:
        ids.check_domain(text)


def _register_executor(body: Fields) -> Body:
    return RegisterExecutor(body.text("executor", ids.check_executor))


def _govern_executor(act: Act) -> Callable[[Fields], Body]:
    return lambda body: GovernExecutor(act, body.text("executor", ids.check_executor))


def _open_trust(body: Fields) -> OpenTrust:
    return OpenTrust(
        edge=body.text("edge", ids.check_name),
        trustee=body.text("trustee", ids.check_domain),
        actions=body.texts("actions", patterns.check_action_pattern, MAX_PATTERNS),
        resources=body.texts("resources", patterns.check_resource_pattern, MAX_PATTERNS),
    )


def _open_passed_trust(body: Fields) -> Body:
    return replace(_open_trust(body), max_depth=_max_depth(body))


def _narrow_trust(body: Fields) -> Body:
    return NarrowTrust(
        edge=body.text("edge", ids.check_name),
        actions=body.texts("actions", patterns.check_action_pattern, MAX_PATTERNS),
        resources=body.texts("resources", patterns.check_resource_pattern, MAX_PATTERNS),
    )


def _close_trust(body: Fields) -> Body:
    return CloseTrust(body.text("edge", ids.check_name))


def _issue_grant(body: Fields) -> IssueGrant:
    return IssueGrant(
        grant=body.text("grant", ids.check_name),
        executor=body.text("executor", ids.check_executor),
        actions=body.texts("actions", patterns.check_action_pattern, MAX_PATTERNS),
        resources=body.texts("resources", patterns.check_resource_pattern, MAX_PATTERNS),
        not_after=body.integer("not_after"),
        max_lease_ttl_ms=body.integer("max_lease_ttl_ms", 1, MAX_LEASE_TTL_MS),
        max_uses=body.integer("max_uses"),
        max_concurrent=body.integer("max_concurrent", 0, MAX_CONCURRENT_LEASES),
    )


def _issue_deep_grant(body: Fields) -> Body:
    return replace(_issue_grant(body), max_depth=_max_depth(body))


def _delegate_grant(body: Fields) -> Body:
    grant, executor = body.text("grant", ids.check_grant_id), body.text("to", ids.check_executor)
    delegator = body.text("executor", ids.check_executor)
    return DelegateGrant(
        executor=delegator,
        grant=grant,
        to=executor,
        actions=body.texts("actions", patterns.check_action_pattern, MAX_PATTERNS),
        resources=body.texts("resources", patterns.check_resource_pattern, MAX_PATTERNS),
        not_after=body.integer("not_after"),
        max_lease_ttl_ms=body.integer("max_lease_ttl_ms", 1, MAX_LEASE_TTL_MS),
        max_uses=body.integer("max_uses"),
        max_concurrent=body.integer("max_concurrent", 0, MAX_CONCURRENT_LEASES),
        max_depth=_max_depth(body),
    )


def _recall_grant(body: Fields) -> Body:
    return RecallGrant(
        executor=body.text("executor", ids.check_executor),
        grant=body.text("grant", ids.check_grant_id),
    )


def _max_depth(body: Fields) -> int:
    """What is not passed on has no depth: what is meant is said in one way only."""
    return body.integer("max_depth", 1, MAX_DEPTH) if body.has("max_depth") else 0


def _govern_grant(act: Act) -> Callable[[Fields], Body]:
    return lambda body: GovernGrant(act, body.text("grant", ids.check_name))


def _freeze_resources(body: Fields) -> Body:
    return FreezeResources(let_through(body))


def _govern_domain(act: Act) -> Callable[[Fields], Body]:
    return lambda body: GovernDomain(act, body.text("domain", ids.check_domain))


def _rekey_domain(body: Fields) -> Body:
    command = RekeyDomain(
        domain=body.text("domain", ids.check_domain),
        governance_key=body.text("governance_key", dsse.parse_public_key),
        cosigner_key=body.text("cosigner_key", dsse.parse_public_key),
    )
    if command.governance_key == command.cosigner_key:
        raise MalformedError("is the governance key, too", field=body.at("cosigner_key"))
    return command


def _add_node(body: Fields) -> Body:
    command = AddNode(
        node=body.text("node", ids.check_node),
        peer_address=body.text("peer_address", ids.check_address),
        signing_key=body.text("signing_key", dsse.parse_public_key),
        log_key=body.text("log_key", dsse.parse_public_key),
        role=Role(body.text("role", _check_role)),
    )
    if command.signing_key == command.log_key:
        raise MalformedError("is the signing key, too", field=body.at("log_key"))
    return command


def _check_role(text: str) -> None:
    if text not in list(Role):
        raise MalformedError("must be voter or observer")


def _assign_role(role: Role) -> Callable[[Fields], Body]:
    return lambda body: AssignRole(role, body.text("node", ids.check_node))


def _retire_node(body: Fields) -> Body:
    return RetireNode(body.text("node", ids.check_node))


def _declare_node(body: Fields) -> Body:
    return DeclareNode(body.integer("protocol", protocol.FIRST, protocol.MOST))


def _open_proposal(version: int) -> Callable[[Fields], Body]:
    def read(body: Fields) -> Body:
        act = Verb(body.text("act", lambda text: check_act(text, version)))
        text = codec.encode(body.peek("body")).decode("utf-8")
        inner = body.nested("body")
        proposal = OpenProposal(act, ACTS[version][act](inner), text, body.integer("expires_at"))
        inner.done()
        return proposal

    return read


def _withdraw_proposal(body: Fields) -> Body:
    return WithdrawProposal(body.text("proposal", ids.check_proposal_id))


def _cast_ballot(body: Fields) -> Body:
    return CastBallot(
        proposal=body.text("proposal", ids.check_proposal_id),
        is_yes=body.text("choice", _check_choice) == "yes",
    )


def _check_choice(text: str) -> None:
    if text not in {"yes", "no"}:
        raise MalformedError("must be yes or no")


def _acquire_lease(body: Fields) -> Body:
    return AcquireLease(
        executor=body.text("executor", ids.check_executor),
        action=body.text("action", ids.check_action),
        resource=body.text("resource", ids.check_resource),
        ttl_ms=body.integer("ttl_ms"),
        parents=_parents(body),
    )


def _parents(body: Fields) -> tuple[str, ...]:
    """Without parents there is no such field: what is meant is said in one way only."""
    if not body.has("parents"):
        return ()
    parents = body.texts("parents", ids.check_lease_id, MAX_PARENTS)
    if list(parents) != sorted(parents):
        raise MalformedError("must be in ascending order", field=body.at("parents"))
    return parents


def _renew_lease(body: Fields) -> Body:
    return RenewLease(
        lease=body.text("lease", ids.check_lease_id),
        executor=body.text("executor", ids.check_executor),
        ttl_ms=body.integer("ttl_ms"),
    )


def _release_lease(body: Fields) -> Body:
    return ReleaseLease(
        lease=body.text("lease", ids.check_lease_id),
        executor=body.text("executor", ids.check_executor),
    )


def _append_lineage(body: Fields) -> Body:
    return AppendLineage(
        after=body.text("after", check_head),
        records=tuple(
            parse_record(item, body.at(f"records[{place}]"))
            for place, item in enumerate(body.objects("records", 1, MAX_RECORDS_PER_COMMAND))
        ),
    )


_Bodies = Mapping[Verb, Callable[[Fields], Body]]


def _by_ballot(version: int) -> _Bodies:
    """The acts that are no commands of a domain to itself, too."""
    own = Verb.DOMAIN_SUSPEND, Verb.DOMAIN_REINSTATE
    return {act: read for act, read in ACTS[version].items() if act not in own}


_OF_FIRST: Final[_Bodies] = MappingProxyType(
    {
        **_by_ballot(protocol.FIRST),
        Verb.EXECUTOR_REGISTER: _register_executor,
        Verb.EXECUTOR_SUSPEND: _govern_executor(Act.SUSPEND),
        Verb.EXECUTOR_REINSTATE: _govern_executor(Act.REINSTATE),
        Verb.EXECUTOR_REVOKE: _govern_executor(Act.REVOKE),
        Verb.TRUST_OPEN: _open_trust,
        Verb.TRUST_NARROW: _narrow_trust,
        Verb.TRUST_CLOSE: _close_trust,
        Verb.GRANT_ISSUE: _issue_grant,
        Verb.GRANT_SUSPEND: _govern_grant(Act.SUSPEND),
        Verb.GRANT_REINSTATE: _govern_grant(Act.REINSTATE),
        Verb.GRANT_REVOKE: _govern_grant(Act.REVOKE),
        Verb.DOMAIN_SUSPEND: _govern_domain(Act.SUSPEND),
        Verb.DOMAIN_REINSTATE: _govern_domain(Act.REINSTATE),
        Verb.PROPOSAL_OPEN: _open_proposal(protocol.FIRST),
        Verb.PROPOSAL_WITHDRAW: _withdraw_proposal,
        Verb.BALLOT_CAST: _cast_ballot,
        Verb.NODE_ADD: _add_node,
        Verb.NODE_PROMOTE: _assign_role(Role.VOTER),
        Verb.NODE_DEMOTE: _assign_role(Role.OBSERVER),
        Verb.NODE_RETIRE: _retire_node,
        Verb.NODE_DECLARE: _declare_node,
        Verb.LEASE_ACQUIRE: _acquire_lease,
        Verb.LEASE_RENEW: _renew_lease,
        Verb.LEASE_RELEASE: _release_lease,
        Verb.LINEAGE_APPEND: _append_lineage,
    }
)

_OF_SECOND: Final[_Bodies] = MappingProxyType(
    {
        **_OF_FIRST,
        **_by_ballot(protocol.SECOND),
        Verb.TRUST_OPEN: _open_passed_trust,
        Verb.GRANT_ISSUE: _issue_deep_grant,
        Verb.GRANT_DELEGATE: _delegate_grant,
        Verb.GRANT_RECALL: _recall_grant,
        Verb.DOMAIN_REKEY: _rekey_domain,
        Verb.RESOURCES_FREEZE: _freeze_resources,
        Verb.RESOURCES_THAW: lambda _body: ThawResources(),
        Verb.PROPOSAL_OPEN: _open_proposal(protocol.SECOND),
    }
)

_BODIES: Final[Mapping[int, _Bodies]] = MappingProxyType(
    {protocol.FIRST: _OF_FIRST, protocol.SECOND: _OF_SECOND}
)
"""How the commands of each version are read."""
