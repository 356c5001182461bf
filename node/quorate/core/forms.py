"""How the body of each type of command is read.

Owns their form. Every reader raises MalformedError, whose field names the place. Which of them a
version of the protocol has is `quorate.core.commands`'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from quorate.core import codec, dsse, ids, patterns, protocol
from quorate.core.acts import ACTS, check_act, let_through, policy_text
from quorate.core.bodies import (
    AcquireLease,
    AddNode,
    AppendLineage,
    AssignRole,
    Body,
    CastBallot,
    CloseTrust,
    ContainExecutor,
    DeclareNode,
    DelegateGrant,
    FreezeResources,
    GovernDomain,
    GovernExecutor,
    GovernGrant,
    IssueGrant,
    LiftContainment,
    NarrowTrust,
    OpenProposal,
    OpenTrust,
    PublishPolicy,
    RecallGrant,
    RegisterExecutor,
    RekeyDomain,
    ReleaseLease,
    RenewLease,
    RetireNode,
    WithdrawProposal,
)
from quorate.core.conditions import read_conditions
from quorate.core.errors import MalformedError
from quorate.core.fields import Fields
from quorate.core.genesis import certificate_digest, check_certificate
from quorate.core.keysets import check_keyed, read_key_set
from quorate.core.limits import (
    MAX_ATTRIBUTES,
    MAX_AUTHORITIES_PER_DOMAIN,
    MAX_CONCURRENT_LEASES,
    MAX_DEPTH,
    MAX_LEASE_TTL_MS,
    MAX_PARENTS,
    MAX_PATTERNS,
    MAX_RECORDS_PER_COMMAND,
)
from quorate.core.lineage import check_context, check_head, check_whole_context, parse_record
from quorate.core.records import Role
from quorate.core.status import Act
from quorate.core.verbs import Verb


def register_executor(body: Fields) -> Body:
    return RegisterExecutor(body.text("executor", ids.check_executor))


def govern_executor(act: Act) -> Callable[[Fields], Body]:
    return lambda body: GovernExecutor(act, body.text("executor", ids.check_executor))


def contain_executor(body: Fields) -> Body:
    if body.has("executor"):
        return ContainExecutor(executor=body.text("executor", ids.check_executor))
    return ContainExecutor(lease=body.text("lease", ids.check_lease_id))


def lift_containment(body: Fields) -> Body:
    if body.has("executor"):
        return LiftContainment(executor=body.text("executor", ids.check_executor))
    return LiftContainment(lease=body.text("lease", ids.check_lease_id))


def open_trust(body: Fields) -> OpenTrust:
    return OpenTrust(
        edge=body.text("edge", ids.check_name),
        trustee=body.text("trustee", ids.check_domain),
        actions=body.texts("actions", patterns.check_action_pattern, MAX_PATTERNS),
        resources=body.texts("resources", patterns.check_resource_pattern, MAX_PATTERNS),
    )


def open_passed_trust(body: Fields) -> Body:
    return replace(open_trust(body), max_depth=_max_depth(body))


def narrow_trust(body: Fields) -> Body:
    return NarrowTrust(
        edge=body.text("edge", ids.check_name),
        actions=body.texts("actions", patterns.check_action_pattern, MAX_PATTERNS),
        resources=body.texts("resources", patterns.check_resource_pattern, MAX_PATTERNS),
    )


def close_trust(body: Fields) -> Body:
    return CloseTrust(body.text("edge", ids.check_name))


def issue_grant(body: Fields) -> IssueGrant:
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


def issue_deep_grant(body: Fields) -> Body:
    grant = issue_grant(body)
    return replace(grant, max_depth=_max_depth(body), conditions=read_conditions(body))


def delegate_grant(body: Fields) -> Body:
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
        conditions=read_conditions(body),
    )


def recall_grant(body: Fields) -> Body:
    return RecallGrant(
        executor=body.text("executor", ids.check_executor),
        grant=body.text("grant", ids.check_grant_id),
    )


def _max_depth(body: Fields) -> int:
    """What is not passed on has no depth: what is meant is said in one way only."""
    return body.integer("max_depth", 1, MAX_DEPTH) if body.has("max_depth") else 0


def govern_grant(act: Act) -> Callable[[Fields], Body]:
    return lambda body: GovernGrant(act, body.text("grant", ids.check_name))


def freeze_resources(body: Fields) -> Body:
    return FreezeResources(let_through(body))


def publish_policy(body: Fields) -> Body:
    return PublishPolicy(policy_text(body))


def govern_domain(act: Act) -> Callable[[Fields], Body]:
    return lambda body: GovernDomain(act, body.text("domain", ids.check_domain))


def _read_authorities(body: Fields) -> tuple[str, ...]:
    """Only their form is looked at: see `check_certificate`."""
    if not body.has("ca_certificates"):
        return ()
    named = body.texts("ca_certificates", check_certificate, MAX_AUTHORITIES_PER_DOMAIN)
    if len({certificate_digest(each) for each in named}) < len(named):
        raise MalformedError("names one twice", field=body.at("ca_certificates"))
    return named


def rekey_domain(body: Fields) -> Body:
    command = RekeyDomain(
        domain=body.text("domain", ids.check_domain),
        governance_key=body.text("governance_key", dsse.parse_public_key),
        cosigner_key=body.text("cosigner_key", dsse.parse_public_key),
        key_set=read_key_set(body),
        authorities=_read_authorities(body),
    )
    if command.governance_key == command.cosigner_key:
        raise MalformedError("is the governance key, too", field=body.at("cosigner_key"))
    try:
        check_keyed(command, may_be=True)
    except MalformedError as error:
        raise MalformedError(error.problem, field=body.at("key_set")) from error
    return command


def add_node(body: Fields) -> Body:
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


def assign_role(role: Role) -> Callable[[Fields], Body]:
    return lambda body: AssignRole(role, body.text("node", ids.check_node))


def retire_node(body: Fields) -> Body:
    return RetireNode(body.text("node", ids.check_node))


def declare_node(body: Fields) -> Body:
    return DeclareNode(body.integer("protocol", protocol.FIRST, protocol.MOST))


def open_proposal(version: int) -> Callable[[Fields], Body]:
    def read(body: Fields) -> Body:
        act = Verb(body.text("act", lambda text: check_act(text, version)))
        text = codec.encode(body.peek("body")).decode("utf-8")
        inner = body.nested("body")
        proposal = OpenProposal(act, ACTS[version][act](inner), text, body.integer("expires_at"))
        inner.done()
        return proposal

    return read


def withdraw_proposal(body: Fields) -> Body:
    return WithdrawProposal(body.text("proposal", ids.check_proposal_id))


def cast_ballot(body: Fields) -> Body:
    return CastBallot(
        proposal=body.text("proposal", ids.check_proposal_id),
        is_yes=body.text("choice", _check_choice) == "yes",
    )


def _check_choice(text: str) -> None:
    if text not in {"yes", "no"}:
        raise MalformedError("must be yes or no")


def acquire_lease(body: Fields) -> AcquireLease:
    return AcquireLease(
        executor=body.text("executor", ids.check_executor),
        action=body.text("action", ids.check_action),
        resource=body.text("resource", ids.check_resource),
        ttl_ms=body.integer("ttl_ms"),
        parents=_parents(body),
    )


def acquire_told_lease(body: Fields) -> Body:
    """With what the executor says of it. Without that there is no such field, as with parents."""
    context: tuple[str, ...] = ()
    if body.has("context"):
        context = body.texts("context", check_context, MAX_ATTRIBUTES)
        try:
            check_whole_context(context)
        except MalformedError as error:
            raise MalformedError(error.problem, field=body.at("context")) from error
    return replace(acquire_lease(body), context=context)


def _parents(body: Fields) -> tuple[str, ...]:
    """Without parents there is no such field: what is meant is said in one way only."""
    if not body.has("parents"):
        return ()
    parents = body.texts("parents", ids.check_lease_id, MAX_PARENTS)
    if list(parents) != sorted(parents):
        raise MalformedError("must be in ascending order", field=body.at("parents"))
    return parents


def renew_lease(body: Fields) -> Body:
    return RenewLease(
        lease=body.text("lease", ids.check_lease_id),
        executor=body.text("executor", ids.check_executor),
        ttl_ms=body.integer("ttl_ms"),
    )


def release_lease(body: Fields) -> Body:
    return ReleaseLease(
        lease=body.text("lease", ids.check_lease_id),
        executor=body.text("executor", ids.check_executor),
    )


def append_lineage(body: Fields) -> Body:
    return AppendLineage(
        after=body.text("after", check_head),
        records=tuple(
            parse_record(item, body.at(f"records[{place}]"))
            for place, item in enumerate(body.objects("records", 1, MAX_RECORDS_PER_COMMAND))
        ),
    )
