"""Who may do what, and whether a lease still holds: in the order of docs/reasons.md."""

from __future__ import annotations

from collections.abc import Sequence

from tests.property.core.naive.world import No, Thing, World, find, is_for, owner

NEAREST_FIRST = (
    "CONCURRENCY_LIMIT",
    "USES_EXHAUSTED",
    "GRANT_EXPIRED",
    "GRANT_SUSPENDED",
    "GRANT_REVOKED",
)


def decide(
    world: World, executor: str, action: str, resource: str, now: int
) -> tuple[Thing | None, Thing]:
    """The edge and the grant that permit a new lease; None within one domain. Raises No."""
    who = active_executor(world, executor)
    active_domain(world, owner(resource))
    edge = None
    if owner(resource) != who["domain"]:
        edge = trusting_edge(world, who["domain"], action, resource)
    return edge, permitting_grant(world, executor, action, resource, now)


def relied_on(executor: str, home: str, resource: str, edge: str, grant: str) -> list[str]:
    """What a permit relies on, as `<kind>:<id>`, in order of that."""
    things = {f"domain:{home}", f"domain:{owner(resource)}", f"executor:{executor}"}
    things |= {f"grant:{grant}"} | ({f"trust:{edge}"} if edge else set())
    return sorted(things)


def active_executor(world: World, executor: str) -> Thing:
    found = find(world.executors, executor=executor)
    if found is None:
        raise No("UNKNOWN_EXECUTOR", executor)
    if found["status"] != "active":
        raise No(f"EXECUTOR_{found['status'].upper()}", executor)
    active_domain(world, found["domain"])
    return found


def active_domain(world: World, domain: str) -> None:
    found = find(world.domains, domain=domain)
    if found is None:
        raise No("UNKNOWN_DOMAIN", domain)
    if found["status"] != "active":
        raise No(f"DOMAIN_{found['status'].upper()}", domain)


def trusting_edge(world: World, trustee: str, action: str, resource: str) -> Thing:
    """The first by name that leads from the resource's owner to the trustee."""
    for edge in sorted(world.edges, key=lambda each: str(each["edge"])):
        if (
            edge["truster"] == owner(resource)
            and edge["trustee"] == trustee
            and edge["status"] == "active"
            and is_for(edge, action, resource)
        ):
            return edge
    raise No("NO_TRUST", owner(resource))


def permitting_grant(world: World, executor: str, action: str, resource: str, now: int) -> Thing:
    """The first by name that permits. When none does, the denial is the one nearest to a permit;
    which of several that are equally near it is about is left open."""
    failures: list[tuple[str, str]] = []
    for grant in sorted(world.grants, key=lambda each: str(each["grant"])):
        is_meant = grant["executor"] == executor and grant["issuer"] == owner(resource)
        if not is_meant or not is_for(grant, action, resource):
            continue
        problem = what_ended(grant, now) or what_is_used_up(world, grant, now)
        if not problem:
            return grant
        failures.append((problem, name_of(grant)))
    for reason in NEAREST_FIRST:
        things = [thing for problem, thing in failures if problem == reason]
        if things:
            raise No(reason, *things)
    raise No("NO_GRANT", owner(resource))


def what_ended(grant: Thing, now: int) -> str:
    if grant["status"] != "active":
        return f"GRANT_{grant['status'].upper()}"
    return "GRANT_EXPIRED" if now >= grant["not_after"] else ""


def what_is_used_up(world: World, grant: Thing, now: int) -> str:
    if grant["max_uses"] and grant["uses"] >= grant["max_uses"]:
        return "USES_EXHAUSTED"
    in_force = [
        lease
        for lease in world.leases
        if lease["grant"] == name_of(grant)
        and lease["status"] == "active"
        and now < lease["expires_at"]
    ]
    most = grant["max_concurrent"] or world.limits["MAX_CONCURRENT_LEASES"]
    return "CONCURRENCY_LIMIT" if len(in_force) >= most else ""


def held(world: World, lease: str, executor: str) -> Thing:
    """The lease, if it is the executor's."""
    found = find(world.leases, lease=lease)
    if found is None:
        raise No("UNKNOWN_LEASE", lease)
    if found["executor"] != executor:
        raise No("NOT_LEASE_HOLDER", lease)
    return found


def review(world: World, lease: Thing, now: int) -> None:
    """Raises No when the lease does not hold any more."""
    if lease["status"] != "active":
        raise No("LEASE_RELEASED", lease["lease"])
    if now >= lease["expires_at"]:
        raise No("LEASE_EXPIRED", lease["lease"])
    active_executor(world, lease["executor"])
    active_domain(world, owner(lease["resource"]))
    if lease["trust_edge"]:
        truster, _, name = lease["trust_edge"].partition("/")
        edge = find(world.edges, truster=truster, edge=name, status="active")
        if edge is None or not is_for(edge, lease["action"], lease["resource"]):
            raise No("NO_TRUST", lease["trust_edge"])
    grant = grant_of(world, lease)
    problem = what_ended(grant, now)
    if problem:
        raise No(problem, lease["grant"])


def grant_of(world: World, lease: Thing) -> Thing:
    issuer, _, name = lease["grant"].partition("/")
    grant = find(world.grants, issuer=issuer, grant=name)
    assert grant is not None
    return grant


def check(world: World, asked: Sequence[str], now: int) -> Thing:
    """The lease, if its executor may act on it now. asked: the lease, the executor, the action and
    the resource; the latter two may be empty. Raises No."""
    lease, executor, action, resource = asked
    found = held(world, lease, executor)
    if action not in ("", found["action"]) or resource not in ("", found["resource"]):
        raise No("LEASE_SCOPE", lease)
    review(world, found, now)
    return found


def name_of(grant: Thing) -> str:
    return f"{grant['issuer']}/{grant['grant']}"
