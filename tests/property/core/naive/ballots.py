"""What domains decide together: docs/ballots.md, counted with fractions."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from tests.property.core.naive import deciding, freezing, policing
from tests.property.core.naive.rules import NOT_SUSPENDED, Yes, change, may_widen, next_status
from tests.property.core.naive.world import (
    FREEZING,
    KEYS_OF_DOMAINS,
    KEYS_OF_NODES,
    POLICING,
    REINSTATING,
    Command,
    No,
    Thing,
    World,
    canonical,
    find,
    proposal_id,
    signed,
)

SHARES = {"majority": Fraction(1, 2), "two-thirds": Fraction(2, 3), "unanimity": Fraction(1)}
ABOUT_A_DOMAIN = ("domain.suspend", "domain.reinstate", "domain.expel")
OTHERS = "the federation"
"""Who has suspended a domain that the others have suspended."""


def needs_ballot(world: World, by: Thing, command: Command) -> Yes:
    raise No("NEEDS_BALLOT", command.verb)


def open_proposal(world: World, by: Thing, command: Command) -> Yes:
    body, ident = command.body, proposal_id(command)
    may_widen(by)
    if body["expires_at"] <= world.time:
        raise No("PROPOSAL_EXPIRED", ident)
    if body["expires_at"] > world.time + world.limits["MAX_PROPOSAL_LIFETIME_MS"]:
        raise No("LIFETIME_TOO_LONG", ident)
    if find(world.proposals, proposal=ident) is not None:
        raise No("ALREADY_EXISTS", ident)
    is_possible(world, body["act"], body["body"])
    filed = [
        each
        for each in world.proposals
        if each["proposer"] == by["domain"]
        and each["status"] == "open"
        and world.time < each["expires_at"]
    ]
    if len(filed) >= world.limits["MAX_OPEN_PROPOSALS_PER_DOMAIN"]:
        raise No("LIMIT_EXCEEDED", by["domain"])
    proposal = {
        "proposal": ident,
        "proposer": by["domain"],
        "act": body["act"],
        "body": canonical(body["body"]),
        "opened_at": world.time,
        "expires_at": body["expires_at"],
        "yes": [by["domain"]],
        "no": [],
        "status": "open",
        "reason": "",
        "thing": "",
        "changed": world.size,
        "_body": body["body"],
        "_seen": what_it_widens(world, body["act"], body["body"]),
    }
    world.proposals.append(proposal)
    return counted(world, proposal)


def withdraw_proposal(world: World, by: Thing, command: Command) -> Yes:
    proposal = open_one(world, command)
    if proposal["proposer"] != by["domain"]:
        raise No("NOT_AUTHORIZED", proposal["proposal"])
    change(world, proposal, status="withdrawn")
    return Yes(proposal["proposal"])


def cast_ballot(world: World, by: Thing, command: Command) -> Yes:
    proposal, own = open_one(world, command), by["domain"]
    may_widen(by)
    if own == subject(proposal["act"], proposal["_body"]):
        raise No("NO_VOTE", own)
    for side in ("yes", "no"):
        votes = {*proposal[side]} - {own}
        votes |= {own} if side == command.body["choice"] else set()
        change(world, proposal, **{side: sorted(votes)})
    return counted(world, proposal)


def open_one(world: World, command: Command) -> Thing:
    ident = command.body["proposal"]
    proposal = find(world.proposals, proposal=ident)
    if proposal is None:
        raise No("NOT_FOUND", ident)
    if proposal["status"] != "open":
        raise No("PROPOSAL_CLOSED", ident)
    if world.time >= proposal["expires_at"]:
        raise No("PROPOSAL_EXPIRED", ident)
    return proposal


def subject(act: str, body: Mapping[str, Any]) -> str:
    """The domain that the others decide about."""
    return str(body["domain"]) if act in ABOUT_A_DOMAIN else ""


# -- counting ------------------------------------------------------------------------------------


def counted(world: World, proposal: Thing) -> Yes:
    """What becomes of a proposal with what was said so far."""
    about = subject(proposal["act"], proposal["_body"])
    others = [each for each in world.domains if each["domain"] != about]
    members = [each["domain"] for each in others if each["status"] != "revoked"]
    voters = [each["domain"] for each in others if each["status"] == "active"]
    share = SHARES[world.thresholds[proposal["act"]]]

    def is_enough(agreeing: int) -> bool:
        return (
            agreeing > Fraction(len(voters), 2)
            and agreeing > Fraction(len(members), 2)
            and agreeing >= share * len(voters)
            and agreeing >= (2 if about else 1)
        )

    yes = len([each for each in voters if each in proposal["yes"]])
    no = len([each for each in voters if each in proposal["no"]])
    result: dict[str, Any] = {"id": proposal["proposal"], "yes": yes, "no": no}
    if is_enough(yes):
        result |= carry_out(world, proposal)
    elif not is_enough(len(voters) - no):
        proposal["status"] = "rejected"
    return Yes(proposal["proposal"], result | {"status": proposal["status"]})


def carry_out(world: World, proposal: Thing) -> Mapping[str, Any]:
    act, body = proposal["act"], proposal["_body"]
    try:
        if what_it_widens(world, act, body) != proposal["_seen"]:
            raise No("SUPERSEDED", proposal["proposal"])
        is_possible(world, act, body)
    except No as no:
        failure = {"reason": no.reason, "thing": no.things[0]}
        proposal.update(failure, status="failed")
        return failure
    proposal["status"] = "executed"
    more: Mapping[str, Any] = {}
    if act in POLICING:
        more = policing.put_together(world, body)
    if act in FREEZING:
        more = freezing.do_together(world, act, body)
    thing = world.origin if act in (*POLICING, *FREEZING) else do(world, act, body)
    return {"executed": {"type": act, "thing": thing, **more}}


def what_it_widens(world: World, act: str, body: Mapping[str, Any]) -> object:
    """What a widening act was proposed for, as it was."""
    if act == "domain.reinstate":
        found = find(world.domains, domain=body["domain"]) or {}
        own = ("policies", "references")  # what it may change all the same
        return {name: said for name, said in found.items() if name not in own}
    if act == "federation.set_thresholds":
        return dict(world.thresholds)
    if act == "federation.set_parameters":
        return world.parameters[-1]
    if act == "federation.set_rates":
        return world.rates
    if act == "federation.thaw":
        return freezing.of(world, world.origin)
    if act in POLICING:
        return world.mark
    if act == REINSTATING:
        who = find(world.executors, executor=body["executor"]) or {}
        proving = ("attestations", "challenge")  # to prove something is no other suspension
        return {name: said for name, said in who.items() if name not in proving}
    return None


# -- what is decided -----------------------------------------------------------------------------


def is_possible(world: World, act: str, body: Mapping[str, Any]) -> None:
    """Raises No when it cannot be done."""
    if act == "domain.admit":
        may_join(world, signed(body["descriptor"]))
    elif act == "federation.set_thresholds":
        if after(world, body) == world.thresholds:
            raise No("ILLEGAL_TRANSITION", act)
    elif act == "federation.set_parameters":
        if body["parameters"] == world.parameters[-1]:
            raise No("ILLEGAL_TRANSITION", act)
    elif act == "federation.set_rates":
        if body == world.rates:
            raise No("ILLEGAL_TRANSITION", act)
    elif act == "federation.upgrade":
        may_upgrade(world, body["protocol"])
    elif act in POLICING:
        policing.may_put_together(world, body)
    elif act == REINSTATING:
        may_be_reinstated(world, body["executor"])
    elif act in FREEZING:
        freezing.may_together(world, act)
    else:
        status_after(world, act, body["domain"])


def after(world: World, body: Mapping[str, Any]) -> dict[str, str]:
    """The thresholds that are wished for; of what is not named, those by default."""
    return {**dict.fromkeys(world.thresholds, "majority"), **body["thresholds"]}


def may_join(world: World, descriptor: Mapping[str, Any]) -> None:
    joining, node = descriptor["domain"], descriptor["node"]
    known = find(world.domains, domain=joining)
    if known is not None:
        raise No("FINAL" if known["status"] == "revoked" else "ALREADY_EXISTS", joining)
    if len(world.domains) >= world.limits["MAX_DOMAINS"]:
        raise No("LIMIT_EXCEEDED", joining)
    keys = [descriptor[name] for name in KEYS_OF_DOMAINS] + [node[name] for name in KEYS_OF_NODES]
    for key in keys:
        if key in world.used_keys():
            raise No("ALREADY_EXISTS", key)
    if find(world.active_nodes(), peer_address=node["peer_address"]) is not None:
        raise No("ALREADY_EXISTS", node["peer_address"])


def may_upgrade(world: World, version: int) -> None:
    """One version at a time, when every node that is not retired knows it."""
    if version != world.protocol + 1:
        raise No("ILLEGAL_TRANSITION", f"protocol {version}")
    behind = [each["node"] for each in world.active_nodes() if each["protocol"] < version]
    if behind:
        raise No("UNSUPPORTED_PROTOCOL", *sorted(behind))


def may_be_reinstated(world: World, executor: str) -> None:
    """Who is suspended for nothing but its proofs, and has new ones."""
    who = find(world.executors, executor=executor)
    if who is None:
        raise No("UNKNOWN_EXECUTOR", executor)
    next_status(who["status"], "reinstate", executor)
    if who["suspended_by_domain"] or not who["suspended_for"]:
        raise No("NOT_AUTHORIZED", executor)
    home = find(world.domains, domain=who["domain"])
    assert home is not None
    may_widen(home)
    deciding.has_proved(world, who, world.time)


def status_after(world: World, act: str, domain: str) -> str:
    found = find(world.domains, domain=domain)
    if found is None:
        raise No("UNKNOWN_DOMAIN", domain)
    suspended_itself = found["suspended_by"] == domain
    if act == "domain.reinstate" and suspended_itself:
        raise No("NOT_AUTHORIZED", domain)
    if act == "domain.suspend" and suspended_itself:
        return "suspended"
    status = next_status(found["status"], act.split(".")[1], domain)
    if status == "revoked" and all(each["domain"] == domain for each in world.voting_nodes()):
        raise No("LAST_VOTER", domain)
    return status


def do(world: World, act: str, body: Mapping[str, Any]) -> str:
    """Does what is possible; says to whom."""
    if act == "domain.admit":
        descriptor = signed(body["descriptor"])
        world.join(descriptor)
        return str(descriptor["domain"])
    if act == "federation.set_thresholds":
        world.thresholds = after(world, body)
        return world.origin
    if act == "federation.set_parameters":
        world.parameters.append(body["parameters"])
        return world.origin
    if act == "federation.set_rates":
        world.rates = body
        return world.origin
    if act == "federation.upgrade":
        world.protocol = body["protocol"]
        return world.origin
    if act == REINSTATING:
        who = find(world.executors, executor=body["executor"])
        assert who is not None
        change(world, who, status="active", **NOT_SUSPENDED)
        return str(body["executor"])
    status = status_after(world, act, body["domain"])
    domain = find(world.domains, domain=body["domain"])
    assert domain is not None
    change(world, domain, status=status, suspended_by=OTHERS if status == "suspended" else "")
    if status == "revoked":
        policing.end(world, domain)
        freezing.end(world, domain["domain"])
        for node in world.active_nodes():
            if node["domain"] == body["domain"]:
                change(world, node, status="revoked")
    return str(body["domain"])
