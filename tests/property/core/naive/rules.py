"""What each command means that a domain or a node gives alone.

Each rule takes the world, the domain that the command comes from, and the command; it says what the
command was about, or raises No before it has changed anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from tests.property.core.naive import deciding
from tests.property.core.naive.world import (
    KEYS_OF_NODES,
    Command,
    No,
    Thing,
    World,
    canonical,
    find,
    home,
    is_within,
    lease_id,
    owner,
    public,
)


class Yes(NamedTuple):
    """thing: what the command was about. result: what its outcome says."""

    thing: str
    result: Mapping[str, Any] = {}


def next_status(status: str, act: str, thing: str) -> str:
    """The one life of every governed thing."""
    if status == "revoked":
        raise No("FINAL", thing)
    match act, status:
        case "suspend", "active":
            return "suspended"
        case "reinstate", "suspended":
            return "active"
        case (("revoke" | "close" | "retire" | "expel"), _):
            return "revoked"
    raise No("ILLEGAL_TRANSITION", thing)


def may_widen(by: Thing) -> None:
    if by["status"] != "active":
        raise No(f"DOMAIN_{by['status'].upper()}", by["domain"])


def is_new(existing: Thing | None, thing: str) -> None:
    if existing is not None:
        raise No("FINAL" if existing["status"] == "revoked" else "ALREADY_EXISTS", thing)


def is_own(by: Thing, domain: str, thing: str) -> None:
    if domain != by["domain"]:
        raise No("NOT_AUTHORIZED", thing)


def act_of(command: Command) -> str:
    return command.verb.split(".")[1]


def change(world: World, thing: Thing, **fields: object) -> None:
    thing.update(fields, changed=world.size)


# -- executors -----------------------------------------------------------------------------------


def register_executor(world: World, by: Thing, command: Command) -> Yes:
    executor = command.body["executor"]
    is_own(by, home(executor), executor)
    may_widen(by)
    is_new(find(world.executors, executor=executor), executor)
    ever = [each for each in world.executors if each["domain"] == by["domain"]]
    if len(ever) >= world.limits["MAX_EXECUTORS_PER_DOMAIN"]:
        raise No("LIMIT_EXCEEDED", by["domain"])
    world.executors.append(
        {
            "executor": executor,
            "domain": by["domain"],
            "status": "active",
            "changed": world.size,
            "suspended_for": "",
            "suspended_by_domain": False,
            "failed_at": 0,
            "attestations": [],
            "challenge": None,
        }
    )
    return Yes(executor)


NOT_SUSPENDED = {"suspended_for": "", "suspended_by_domain": False, "failed_at": 0}


def govern_executor(world: World, by: Thing, command: Command) -> Yes:
    executor = command.body["executor"]
    is_own(by, home(executor), executor)
    who = find(world.executors, executor=executor)
    if who is not None and act_of(command) == "reinstate":
        may_widen(by)
        next_status(who["status"], "reinstate", executor)
        if who["suspended_for"]:
            deciding.has_proved(world, who, world.time)
    is_by_proofs = who is not None and who["suspended_for"] and not who["suspended_by_domain"]
    if who is not None and is_by_proofs and act_of(command) == "suspend":
        change(world, who, suspended_by_domain=True)
        return Yes(executor)
    yes = govern(world, by, command, who, executor)
    if who is not None and who["status"] != "suspended":
        who.update(NOT_SUSPENDED)
    return yes


def govern(world: World, by: Thing, command: Command, found: Thing | None, thing: str) -> Yes:
    """Suspends, reinstates, or ends something of the domain's own."""
    if found is None:
        raise No("NOT_FOUND", thing)
    if act_of(command) == "reinstate":
        may_widen(by)
    change(world, found, status=next_status(found["status"], act_of(command), thing))
    return Yes(thing)


# -- trust ---------------------------------------------------------------------------------------


def open_trust(world: World, by: Thing, command: Command) -> Yes:
    body, truster = command.body, by["domain"]
    thing = f"{truster}/{body['edge']}"
    if world.protocol == 1:
        is_own(by, the_owner(body), thing)
    if body["trustee"] == truster:
        raise No("NOT_AUTHORIZED", thing)
    may_widen(by)
    is_new(find(world.edges, truster=truster, edge=body["edge"]), thing)
    trustee = find(world.domains, domain=body["trustee"])
    if trustee is None:
        raise No("UNKNOWN_DOMAIN", body["trustee"])
    if trustee["status"] == "revoked":
        raise No("DOMAIN_REVOKED", body["trustee"])
    pair = [
        each
        for each in world.edges
        if (each["truster"], each["trustee"]) == (truster, body["trustee"])
        and each["status"] != "revoked"
    ]
    if len(pair) >= world.limits["MAX_EDGES_PER_PAIR"]:
        raise No("LIMIT_EXCEEDED", thing)
    made = {"truster": truster, "status": "active", "changed": world.size}
    world.edges.append({"max_depth": 0, **body, **made})
    return Yes(thing)


def the_owner(scope: Mapping[str, Any]) -> str:
    """Whose resources it is about; nobody's when they are several domains'."""
    owners = {owner(each) for each in scope["resources"]}
    return owners.pop() if len(owners) == 1 else ""


def narrow_trust(world: World, by: Thing, command: Command) -> Yes:
    body, thing = command.body, f"{by['domain']}/{command.body['edge']}"
    edge = find(world.edges, truster=by["domain"], edge=body["edge"])
    if edge is None:
        raise No("NOT_FOUND", thing)
    if edge["status"] == "revoked":
        raise No("FINAL", thing)
    for kind in ("actions", "resources"):
        for pattern in body[kind]:
            if not is_within(pattern, edge[kind]):
                raise No("WIDENS", pattern)
    if all(is_within(each, body[kind]) for kind in ("actions", "resources") for each in edge[kind]):
        raise No("ILLEGAL_TRANSITION", thing)
    change(world, edge, actions=body["actions"], resources=body["resources"])
    return Yes(thing)


def close_trust(world: World, by: Thing, command: Command) -> Yes:
    name = command.body["edge"]
    edge = find(world.edges, truster=by["domain"], edge=name)
    return govern(world, by, command, edge, f"{by['domain']}/{name}")


# -- grants --------------------------------------------------------------------------------------


def issue_grant(world: World, by: Thing, command: Command) -> Yes:
    body, issuer = command.body, by["domain"]
    thing = f"{issuer}/{body['grant']}"
    is_own(by, the_owner(body), thing)
    may_widen(by)
    is_new(find(world.grants, issuer=issuer, grant=body["grant"]), thing)
    executor = find(world.executors, executor=body["executor"])
    if executor is None:
        raise No("UNKNOWN_EXECUTOR", body["executor"])
    if executor["status"] == "revoked":
        raise No("EXECUTOR_REVOKED", body["executor"])
    if world.time >= body["not_after"]:
        raise No("GRANT_EXPIRED", thing)
    alive = may_yet_permit(world, issuer, body["executor"])
    if len(alive) >= world.limits["MAX_GRANTS_PER_EXECUTOR_AND_ISSUER"]:
        raise No("LIMIT_EXCEEDED", thing)
    world.grants.append(new_grant(world, body, issuer=issuer))
    return Yes(thing)


def may_yet_permit(world: World, issuer: str, executor: str) -> list[Thing]:
    """The grants of an executor by one issuer that fill its room."""
    return [
        each
        for each in world.grants
        if (each["issuer"], each["executor"]) == (issuer, executor)
        and each["status"] != "revoked"
        and world.time < each["not_after"]
        and not 0 < each["max_uses"] <= each["uses"]
    ]


def new_grant(world: World, body: Mapping[str, Any], **fields: object) -> Thing:
    made = {"uses": 0, "status": "active", "changed": world.size}
    later = {"max_depth": 0, "parent": "", "made": 0, "delegations": 0, "conditions": []}
    return {**later, **body, **made, **fields}


def govern_grant(world: World, by: Thing, command: Command) -> Yes:
    name = command.body["grant"]
    grant = find(world.grants, issuer=by["domain"], grant=name)
    return govern(world, by, command, grant, f"{by['domain']}/{name}")


# -- the domain itself ---------------------------------------------------------------------------


def govern_domain(world: World, by: Thing, command: Command) -> Yes:
    domain = command.body["domain"]
    is_own(by, domain, domain)
    status = next_status(by["status"], act_of(command), domain)
    if status == "active" and by["suspended_by"] != domain:
        raise No("NOT_AUTHORIZED", domain)
    change(world, by, status=status, suspended_by=domain if status == "suspended" else "")
    return Yes(domain)


# -- nodes ---------------------------------------------------------------------------------------


def add_node(world: World, by: Thing, command: Command) -> Yes:
    body, node, domain = command.body, command.body["node"], by["domain"]
    is_own(by, home(node), node)
    may_widen(by)
    is_new(find(world.nodes, node=node), node)
    ever = [each for each in world.nodes if each["domain"] == domain]
    active = [each for each in world.active_nodes() if each["domain"] == domain]
    is_full = len(active) >= world.limits["MAX_NODES_PER_DOMAIN"]
    if is_full or len(ever) >= world.limits["MAX_NODES_EVER_PER_DOMAIN"]:
        raise No("LIMIT_EXCEEDED", domain)
    for key in (body[name] for name in KEYS_OF_NODES):
        if key in world.used_keys():
            raise No("ALREADY_EXISTS", key)
    if find(world.active_nodes(), peer_address=body["peer_address"]) is not None:
        raise No("ALREADY_EXISTS", body["peer_address"])
    if body["role"] == "voter":
        has_no_voter(world, domain)
    made = {"domain": domain, "status": "active", "changed": world.size}
    world.nodes.append({**body, **made, "protocol": world.protocol})
    return Yes(node)


def assign_role(world: World, by: Thing, command: Command) -> Yes:
    role = "voter" if act_of(command) == "promote" else "observer"
    node = own_node(world, by, command)
    if role == "voter":
        may_widen(by)
    if node["status"] == "revoked":
        raise No("FINAL", node["node"])
    if node["role"] == role:
        raise No("ILLEGAL_TRANSITION", node["node"])
    if role == "voter":
        has_no_voter(world, by["domain"])
    else:
        leaves_a_voter(world, node)
    change(world, node, role=role)
    return Yes(node["node"])


def retire_node(world: World, by: Thing, command: Command) -> Yes:
    node = own_node(world, by, command)
    status = next_status(node["status"], "retire", node["node"])
    leaves_a_voter(world, node)
    change(world, node, status=status)
    return Yes(node["node"])


def declare_node(world: World, by: Thing, command: Command) -> Yes:
    node, knows = find(world.nodes, node=command.issuer), command.body["protocol"]
    assert node is not None
    if knows < world.protocol:
        raise No("UNSUPPORTED_PROTOCOL", node["node"])
    if knows == node["protocol"]:
        raise No("ILLEGAL_TRANSITION", node["node"])
    change(world, node, protocol=knows)
    return Yes(node["node"])


def own_node(world: World, by: Thing, command: Command) -> Thing:
    node = command.body["node"]
    is_own(by, home(node), node)
    found = find(world.nodes, node=node)
    if found is None:
        raise No("NOT_FOUND", node)
    return found


def has_no_voter(world: World, domain: str) -> None:
    voter = find(world.voting_nodes(), domain=domain)
    if voter is not None:
        raise No("LIMIT_EXCEEDED", voter["node"])


def leaves_a_voter(world: World, node: Thing) -> None:
    if world.voting_nodes() == [node]:
        raise No("LAST_VOTER", node["node"])


# -- leases --------------------------------------------------------------------------------------


def acquire_lease(world: World, by: Thing, command: Command) -> Yes:
    body, now = command.body, world.time
    executor, action, resource = body["executor"], body["action"], body["resource"]
    is_own(by, home(executor), executor)
    context = list(body.get("context", ()))
    basis = deciding.decide(world, executor, action, resource, now, context)
    parents = [holds(world, each, now) for each in body.get("parents", ())]
    lists = deciding.say_where_from(world, parents)
    ident, route = lease_id(command), [deciding.edge_id(each) for each in basis.route]
    before = find(world.leases, lease=ident)
    if before is not None:
        # The ledger has forgotten the command, and the lease is there.
        asked = {"executor": executor, "action": action, "resource": resource}
        asked |= {"parents": parents, "context": context}
        is_same = asked == {name: before[name] for name in asked}
        if is_same and before["status"] == "active" and now < before["expires_at"]:
            return Yes(ident, public(before))
        raise No("ALREADY_EXISTS", ident)
    lease = {
        "lease": ident,
        "executor": executor,
        "action": action,
        "resource": resource,
        "grant": deciding.name_of(basis.grant),
        "trust_edge": route[0] if route else "",
        "passed_on": route[1:],
        "fence": world.size,
        "acquired_at": now,
        "expires_at": end_of_lease(world, basis.grant, body["ttl_ms"]),
        "status": "active",
        "changed": world.size,
        "parents": parents,
        **lists,
        "context": context,
        "stage": "authorized",
        "events": 0,
        "lineage": "",
        "_basis": basis,
    }
    for grant in basis.grants:
        grant["uses"] += 1
    world.leases.append(lease)
    return Yes(ident, public(lease))


def holds(world: World, parent: str, now: int) -> str:
    lease = find(world.leases, lease=parent)
    try:
        if lease is not None:
            deciding.review(world, lease, now)
            return parent
    except No as no:
        if no.reason == "CONTAINED":
            raise
    raise No("BROKEN_LINEAGE", parent)


def end_of_lease(world: World, grant: Thing, wished_ms: int) -> int:
    longest = min(grant["max_lease_ttl_ms"], world.limits["MAX_LEASE_TTL_MS"])
    return int(min(world.time + min(wished_ms or longest, longest), grant["not_after"]))


def renew_lease(world: World, by: Thing, command: Command) -> Yes:
    lease = own_lease(world, by, command)
    deciding.review(world, lease, world.time)
    grant = lease["_basis"].grant
    change(world, lease, expires_at=end_of_lease(world, grant, command.body["ttl_ms"]))
    return Yes(lease["lease"], public(lease))


def release_lease(world: World, by: Thing, command: Command) -> Yes:
    lease = own_lease(world, by, command)
    if lease["status"] != "active":
        raise No("LEASE_RELEASED", lease["lease"])
    if world.time >= lease["expires_at"]:
        raise No("LEASE_EXPIRED", lease["lease"])
    change(world, lease, status="released")
    return Yes(lease["lease"], public(lease))


def own_lease(world: World, by: Thing, command: Command) -> Thing:
    executor = command.body["executor"]
    is_own(by, home(executor), executor)
    return deciding.held(world, command.body["lease"], executor)


# -- lineage -------------------------------------------------------------------------------------

FOLLOWS: dict[str, dict[str, str]] = {
    "authorized": {"started": "started", "interrupted": "interrupted"},
    "started": {
        "verified": "started",
        "reported": "started",
        "interrupted": "interrupted",
        "completed": "completed",
    },
    "interrupted": {
        "reported": "interrupted",
        "contained": "contained",
        "recovery_started": "recovering",
    },
    "contained": {"reported": "contained", "recovery_started": "recovering"},
    "recovering": {
        "reported": "recovering",
        "interrupted": "interrupted",
        "revalidated": "started",
    },
    "completed": {},
}


def append_lineage(world: World, by: Thing, command: Command) -> Yes:
    node, body = command.issuer, command.body
    head = world.heads.get(node, "")
    if body["after"] != head:
        raise No("OUT_OF_ORDER", head)
    refused = {}
    for place, record in enumerate(body["records"]):
        try:
            take_in(world, by, record)
        except No as no:
            refused[str(place)] = no.reason
        head = chained(head, record)
    world.heads[node] = head
    return Yes(node, {"head": head, "refused": refused})


def take_in(world: World, by: Thing, record: Mapping[str, Any]) -> None:
    executor = record["executor"]
    if executor:
        is_own(by, home(executor), executor)
    if record["kind"] == "denials":
        return
    lease = deciding.held(world, record["lease"], executor)
    stage = FOLLOWS[lease["stage"]].get(record["type"])
    if stage is None:
        raise No("ILLEGAL_TRANSITION")
    if lease["events"] >= world.limits["MAX_EVENTS_PER_LEASE"]:
        raise No("LIMIT_EXCEEDED")
    said = [record["type"], record["attributes"]]
    lease.update(stage=stage, events=lease["events"] + 1, lineage=chained(lease["lineage"], said))


def chained(head: str, item: object) -> str:
    return hashlib.sha256(bytes.fromhex(head) + canonical(item).encode()).hexdigest()
