"""The order in which a command is judged (docs/ledger.md), and which rule is whose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tests.property.core.naive import (
    ballots,
    containing,
    delegating,
    freezing,
    keys,
    pacing,
    proving,
    publishing,
    rules,
)
from tests.property.core.naive.rules import Yes
from tests.property.core.naive.world import Command, No, Said, Thing, World, decided_by_ballot, find

Rule = Callable[[World, Thing, Command], Yes]

OF_DOMAINS: dict[str, Rule] = {
    "executor.register": rules.register_executor,
    "executor.suspend": rules.govern_executor,
    "executor.reinstate": rules.govern_executor,
    "executor.revoke": rules.govern_executor,
    "executor.contain": containing.contain,
    "executor.lift_containment": containing.lift_containment,
    "trust.open": rules.open_trust,
    "trust.narrow": rules.narrow_trust,
    "trust.close": rules.close_trust,
    "grant.issue": rules.issue_grant,
    "grant.suspend": rules.govern_grant,
    "grant.reinstate": rules.govern_grant,
    "grant.revoke": rules.govern_grant,
    "resources.freeze": freezing.freeze_resources,
    "resources.thaw": freezing.thaw_resources,
    "policy.publish": publishing.publish_policy,
    "policy.retire": publishing.retire_policy,
    "domain.suspend": rules.govern_domain,
    "domain.reinstate": rules.govern_domain,
    "domain.rekey": keys.rekey_domain,
    "domain.admit": ballots.needs_ballot,
    "domain.expel": ballots.needs_ballot,
    "federation.set_thresholds": ballots.needs_ballot,
    "federation.set_parameters": ballots.needs_ballot,
    "federation.set_rates": ballots.needs_ballot,
    "federation.upgrade": ballots.needs_ballot,
    "federation.set_policy": ballots.needs_ballot,
    "federation.retire_policy": ballots.needs_ballot,
    "federation.reinstate_executor": ballots.needs_ballot,
    "federation.freeze": ballots.needs_ballot,
    "federation.thaw": ballots.needs_ballot,
    "proposal.open": ballots.open_proposal,
    "proposal.withdraw": ballots.withdraw_proposal,
    "ballot.cast": ballots.cast_ballot,
    "node.add": rules.add_node,
    "node.promote": rules.assign_role,
    "node.demote": rules.assign_role,
    "node.retire": rules.retire_node,
    "attestation.set_reference": proving.set_reference,
    "attestation.retire_reference": proving.retire_reference,
}
OF_NODES: dict[str, Rule] = {
    "node.declare": rules.declare_node,
    "grant.delegate": delegating.delegate_grant,
    "grant.recall": delegating.recall_grant,
    "lease.acquire": rules.acquire_lease,
    "lease.renew": rules.renew_lease,
    "lease.release": rules.release_lease,
    "lineage.append": rules.append_lineage,
    "attestation.challenge": proving.challenge_executor,
    "attestation.report": proving.report_attestation,
    "attestation.drift": proving.report_drift,
}


SINCE_SECOND = (
    *("grant.delegate", "grant.recall", "policy.publish", "policy.retire"),
    *("federation.set_policy", "federation.retire_policy"),
    *("federation.set_parameters", "federation.set_rates", "domain.rekey"),
    *("executor.contain", "executor.lift_containment"),
    *("resources.freeze", "resources.thaw", "federation.freeze", "federation.thaw"),
    *("attestation.set_reference", "attestation.retire_reference", "attestation.challenge"),
    *("attestation.report", "attestation.drift", "federation.reinstate_executor"),
)
"""Types of command that version 2 has brought; and a field, in two that there were. One of them
has another besides."""
DEEPENED_BY_SECOND = ("trust.open", "grant.issue")


def hand_in(world: World, command: Command) -> Said:
    """Has the world judge a command; says what the ledger has to answer."""
    world.time = max(world.time, command.at)
    try:
        is_known(world, command)
        by = authenticated(world, command)
        said = repeated(world, command)
        if said is None:
            in_time(world, by, command)
            keys.wholly_signed(world, by, command)
            counted = pacing.allowances(world, by, command)
            said = executed(world, by, command)
            world.allowances |= counted
    except No as no:
        said = Said(no.reason, no.things, world.size)
    if not said.is_repeat:
        world.size += 1
    return said


def is_known(world: World, command: Command) -> None:
    """The form: what a later version has brought is malformed in an earlier one."""
    act = command.body["act"] if command.verb == "proposal.open" else ""
    if act and act not in decided_by_ballot(world.protocol):
        raise No("MALFORMED_COMMAND", "body.act")
    of_thresholds(world, command)
    if world.protocol >= 2:
        return
    if command.verb in SINCE_SECOND:
        raise No("MALFORMED_COMMAND", "type")
    if command.verb == "grant.issue" and "conditions" in command.body:
        raise No("MALFORMED_COMMAND", "body.conditions")
    if command.verb in DEEPENED_BY_SECOND and "max_depth" in command.body:
        raise No("MALFORMED_COMMAND", "body.max_depth")
    if "context" in command.body:
        raise No("MALFORMED_COMMAND", "body.context")


def of_thresholds(world: World, command: Command) -> None:
    """Each version's thresholds are of all that it decides by ballot, and of nothing else."""
    body, place = command.body, "body.thresholds"
    if command.verb == "proposal.open":
        body, place = body["body"], "body.body.thresholds"
    others = {*body.get("thresholds", ())} ^ {*decided_by_ballot(world.protocol)}
    if "thresholds" in body and others:
        raise No("MALFORMED_COMMAND", f"{place}.{min(others)}")


def authenticated(world: World, command: Command) -> Thing:
    """The domain that the command comes from."""
    if command.origin != world.origin:
        raise No("WRONG_ORIGIN", command.origin)
    node = find(world.nodes, node=command.issuer)
    by = find(world.domains, domain=node["domain"] if node else command.issuer)
    if by is None:
        raise No("UNKNOWN_ISSUER", command.issuer)
    if node is None and command.signers:
        keys.signed_enough(by, command)
    elif command.key not in ("", command.issuer):
        raise No("BAD_SIGNATURE", command.issuer)
    return by


def repeated(world: World, command: Command) -> Said | None:
    before = find(world.memory, command_id=command.ident)
    if before is None or before["not_after"] < world.time:
        return None
    if before["asked"] != (command.verb, command.body):
        if before["reserved"] < world.time:
            return None
        raise No("NONCE_REUSED", command.nonce)
    before["not_after"] = max(before["not_after"], command.not_after)
    said: Said = before["said"]
    return replace(said, is_repeat=True)


def in_time(world: World, by: Thing, command: Command) -> None:
    node = find(world.nodes, node=command.issuer)
    if node is not None and node["status"] == "revoked":
        raise No("NODE_RETIRED", command.issuer)
    if by["status"] == "revoked":
        raise No("DOMAIN_REVOKED", by["domain"])
    if command.not_after < world.time:
        raise No("EXPIRED_COMMAND", command.ident)
    if command.not_after > world.time + world.limits["MAX_COMMAND_LIFETIME_MS"]:
        raise No("LIFETIME_TOO_LONG", command.ident)


def executed(world: World, by: Thing, command: Command) -> Said:
    """What comes of it, which is remembered."""
    is_node = command.issuer.startswith("spiffe://")
    rule = (OF_NODES if is_node else OF_DOMAINS).get(command.verb)
    try:
        if rule is None:
            raise No("NOT_AUTHORIZED", command.issuer)
        if not is_node:
            keys.in_their_time(world, by, command)
        yes = rule(world, by, command)
        said = Said("", (yes.thing,), world.size, result=yes.result)
    except No as no:
        said = Said(no.reason, no.things, world.size)
    world.memory.insert(
        0,  # where it is found before another that had its nonce
        {
            "command_id": command.ident,
            "asked": (command.verb, command.body),
            "not_after": command.not_after,
            "reserved": command.not_after,
            "said": said,
        },
    )
    return said
