"""Who may do what, and whether a lease still holds: in the order of docs/reasons.md.

How trust leads somewhere is docs/trust.md's, what a grant that was passed on rests on
docs/delegation.md's. Both say nothing of the order in which the links of a chain are asked, nor
which of them a denial is about when several are broken: here they are asked as the ledger asks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tests.property.core.naive import policing
from tests.property.core.naive.world import No, Thing, World, find, fits, is_for, owner

NEAREST_FIRST = (
    "CONDITION_UNMET",
    "CONCURRENCY_LIMIT",
    "USES_EXHAUSTED",
    "GRANT_EXPIRED",
    "GRANT_SUSPENDED",
    "GRANT_REVOKED",
    "NO_TRUST",
    "CONTAINED",
    "EXECUTOR_SUSPENDED",
    "DOMAIN_SUSPENDED",
    "EXECUTOR_REVOKED",
    "DOMAIN_REVOKED",
)


class Link(NamedTuple):
    """One grant behind another. delegator: its executor, that passed it on. route: how trust leads
    to that one's domain."""

    grant: Thing
    delegator: Thing
    route: list[Thing]


class Basis(NamedTuple):
    """What permits. route: how trust leads to the executor's domain; nothing within one. chain:
    what is behind the grant, the nearest first."""

    executor: Thing
    owner: str
    route: list[Thing]
    grant: Thing
    chain: list[Link]

    @property
    def grants(self) -> list[Thing]:
        """All that a lease counts for."""
        return [self.grant, *(link.grant for link in self.chain)]

    def relied_on(self) -> list[str]:
        """`<kind>:<id>` of all of it, in order of that."""
        who = [self.executor, *(link.delegator for link in self.chain)]
        edges = [*self.route, *(edge for link in self.chain for edge in link.route)]
        things = {f"domain:{self.owner}"}
        things |= {f"executor:{each['executor']}" for each in who}
        things |= {f"domain:{each['domain']}" for each in who}
        things |= {f"trust:{edge_id(each)}" for each in edges}
        things |= {f"domain:{each['trustee']}" for each in edges}
        things |= {f"grant:{name_of(each)}" for each in self.grants}
        return sorted(things)


def decide(  # noqa: PLR0917  # in the order of a request
    world: World,
    executor: str,
    action: str,
    resource: str,
    now: int,
    context: Sequence[str] = (),
) -> Basis:
    """What permits a new lease. Raises No."""
    who = active_executor(world, executor)
    has_proved(world, who, now)
    is_free(world, executor)
    of = owner(resource)
    active_domain(world, of)
    is_let_through(world, of, action)
    route = trusted(world, edges_for(world, action, resource), of, who["domain"], of)
    grant, chain = permitting_grant(world, executor, action, resource, now, context)
    basis = Basis(who, of, route, grant, chain)
    ask_policies(world, basis, action, resource, context)
    return basis


def ask_policies(
    world: World, basis: Basis, action: str, resource: str, context: Sequence[str]
) -> None:
    path = resource.removeprefix(f"//{basis.owner}")
    home, hops = basis.executor["domain"], len(basis.route)
    act = policing.Act(home, action, path, hops, len(basis.chain), tuple(context))
    policing.allow(world, basis.owner, act)


def known_executor(world: World, executor: str) -> Thing:
    found = find(world.executors, executor=executor)
    if found is None:
        raise No("UNKNOWN_EXECUTOR", executor)
    if found["status"] != "active":
        raise No(f"EXECUTOR_{found['status'].upper()}", executor)
    return found


def active_executor(world: World, executor: str) -> Thing:
    found = known_executor(world, executor)
    active_domain(world, found["domain"])
    return found


def active_domain(world: World, domain: str) -> None:
    found = find(world.domains, domain=domain)
    if found is None:
        raise No("UNKNOWN_DOMAIN", domain)
    if found["status"] != "active":
        raise No(f"DOMAIN_{found['status'].upper()}", domain)


def is_let_through(world: World, of: str, action: str) -> None:
    """Raises No when the owner, or all together, have frozen that; both may have."""
    frozen = [
        each["who"]
        for each in world.frozen
        if each["who"] in (of, world.origin) and not any(fits(p, action) for p in each["actions"])
    ]
    if frozen:
        raise No("FROZEN", *frozen)


# -- proofs --------------------------------------------------------------------------------------


def has_proved(world: World, who: Thing, now: int) -> None:
    """Raises No unless each reference that is for the executor is met, and still."""
    for reference in references_for(world, who):
        thing = f"{reference['domain']}/{reference['name']}"
        held = find(who["attestations"], reference=reference["name"])
        if held is None:
            raise No("ATTESTATION_MISSING", thing)
        if what_differs(reference, held["claims"]):
            raise No("ATTESTATION_MISMATCH", thing)
        if now >= held["challenged_at"] + reference["max_age_ms"]:
            raise No("ATTESTATION_STALE", thing)


def references_of(world: World, domain: str) -> list[Thing]:
    return [each for each in world.references if each["domain"] == domain]


def references_for(world: World, who: Thing) -> list[Thing]:
    """In order of name."""
    named = [
        each
        for each in references_of(world, who["domain"])
        if any(is_one_of(pattern, who["executor"]) for pattern in each["executors"])
    ]
    return sorted(named, key=lambda each: str(each["name"]))


def is_one_of(pattern: str, executor: str) -> bool:
    if pattern.endswith("/*"):
        return executor.startswith(pattern.removesuffix("*"))
    return executor == pattern


def what_differs(reference: Thing, claims: Thing) -> str:
    """The first thing that was shown, and is not as the reference wants it."""
    if claims["signer"] not in reference["signers"]:
        return "signer"
    if claims["image"] not in reference["images"]:
        return "image"
    wanted = reference.get("environments")
    return "environment" if wanted and claims.get("environment") not in wanted else ""


# -- trust ---------------------------------------------------------------------------------------


def edges_for(world: World, action: str, resource: str) -> list[Thing]:
    return [each for each in world.edges if lets(each, action, resource)]


def trusted(
    world: World, usable: Sequence[Thing], truster: str, trustee: str, thing: str
) -> list[Thing]:
    """The shortest route from one domain to another, then the first by the ids of its edges; none
    is needed within one. thing: what the denial is about."""
    if truster == trustee:
        return []
    routes = list(chains(world, usable, [], truster, trustee))
    if not routes:
        raise No("NO_TRUST", thing)
    return min(routes, key=lambda route: (len(route), [edge_id(each) for each in route]))


def chains(
    world: World, usable: Sequence[Thing], before: list[Thing], at: str, end: str
) -> Iterator[list[Thing]]:
    """Every way on from a domain to the end that passes by none twice and that each of its edges
    lets be as long as it is."""
    passed = {each["truster"] for each in before}
    for edge in usable:
        if edge["truster"] != at or edge["trustee"] in passed:
            continue
        route = [*before, edge]
        if any(each["max_depth"] < len(route) - place for place, each in enumerate(route, 1)):
            continue
        if edge["trustee"] == end:
            yield route
        elif is_active(world, edge["trustee"]) and len(route) <= world.limits["MAX_DEPTH"]:
            yield from chains(world, usable, route, edge["trustee"], end)


def is_active(world: World, domain: str) -> bool:
    return find(world.domains, domain=domain, status="active") is not None


def lets(edge: Thing, action: str, resource: str) -> bool:
    return edge["status"] == "active" and is_for(edge, action, resource)


def edge_id(edge: Thing) -> str:
    return f"{edge['truster']}/{edge['edge']}"


# -- grants --------------------------------------------------------------------------------------


def permitting_grant(  # noqa: PLR0917  # as `decide`
    world: World, executor: str, action: str, resource: str, now: int, context: Sequence[str]
) -> tuple[Thing, list[Link]]:
    """The first that permits, and what is behind it: of those that the issuer has issued by name,
    then of those that were passed on. When none does, the denial is the one nearest to a permit;
    which of several that are equally near it is about is left open."""
    failures: list[No] = []
    for grant in sorted(world.grants, key=place_of):
        is_meant = grant["executor"] == executor and grant["issuer"] == owner(resource)
        if not is_meant or not is_for(grant, action, resource):
            continue
        try:
            gives(world, grant, now, context)
            return grant, what_is_behind(world, grant, action, resource, now, context)
        except No as no:
            failures.append(no)
    for reason in NEAREST_FIRST:
        things = [thing for no in failures if no.reason == reason for thing in no.things]
        if things:
            raise No(reason, *things)
    raise No("NO_GRANT", owner(resource))


def place_of(grant: Thing) -> tuple[int, str]:
    """docs/delegation.md: the one that was passed on first."""
    return (grant["made"] if grant["parent"] else -1), name_of(grant)


def gives(world: World, grant: Thing, now: int, context: Sequence[str]) -> None:
    """Raises No when the grant, by itself, gives no lease to who says this."""
    problem = what_ended(grant, now) or what_is_used_up(world, grant, now)
    if problem:
        raise No(problem, name_of(grant))
    for condition in grant["conditions"]:
        said = [each for each in context if each.startswith(f"{condition['name']}=")]
        texts = [each[len(condition["name"]) + 1 :] for each in said]
        if not any(is_like(text, value) for text in texts for value in condition["values"]):
            raise No("CONDITION_UNMET", f"{name_of(grant)}/{condition['name']}")


def is_like(text: str, value: str) -> bool:
    """docs/delegation.md: the text itself, or how it begins, with more behind that."""
    if value[-1] == "*":
        return len(text) >= len(value) and text[: len(value) - 1] == value[:-1]
    return text == value


def what_is_behind(  # noqa: PLR0917  # as `decide`
    world: World, grant: Thing, action: str, resource: str, now: int, context: Sequence[str]
) -> list[Link]:
    """All that a grant rests on that was passed on. Raises No when something of it is not good."""
    edges, chain = edges_for(world, action, resource), behind(world, grant)
    for each in chain:
        gives(world, each, now, context)
        active_executor(world, each["executor"])
        is_free(world, each["executor"])
    links: list[Link] = []
    for each in reversed(chain):
        who = active_executor(world, each["executor"])
        home = who["domain"]
        links.append(Link(each, who, trusted(world, edges, each["issuer"], home, home)))
    return links[::-1]


def behind(world: World, grant: Thing) -> list[Thing]:
    """The grants that it was made of, the nearest first."""
    parent = grant_named(world, grant["parent"])
    return [parent, *behind(world, parent)] if parent else []


def grant_named(world: World, ident: str) -> Thing | None:
    issuer, _, name = ident.partition("/")
    return find(world.grants, issuer=issuer, grant=name)


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
        if any(each is grant for each in lease["_basis"].grants)
        and lease["status"] == "active"
        and now < lease["expires_at"]
    ]
    most = grant["max_concurrent"] or world.limits["MAX_CONCURRENT_LEASES"]
    return "CONCURRENCY_LIMIT" if len(in_force) >= most else ""


def name_of(grant: Thing) -> str:
    return f"{grant['issuer']}/{grant['grant']}"


# -- leases --------------------------------------------------------------------------------------


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
    basis: Basis = lease["_basis"]
    if lease["status"] != "active":
        raise No("LEASE_RELEASED", lease["lease"])
    if now >= lease["expires_at"]:
        raise No("LEASE_EXPIRED", lease["lease"])
    has_proved(world, active_executor(world, lease["executor"]), now)
    is_above_nothing_contained(world, lease)
    active_domain(world, basis.owner)
    is_let_through(world, basis.owner, lease["action"])
    for edge in basis.route:
        still_lets(edge, lease)
        if edge is not basis.route[-1]:
            active_domain(world, edge["trustee"])
    review_grants([basis.grant], now)
    review_chain(world, lease, basis.chain, now)
    ask_policies(world, basis, lease["action"], lease["resource"], lease["context"])


def is_free(world: World, *things: str) -> None:
    """Raises No when one of them is contained; several may be."""
    for each in things:
        if find(world.contained, thing=each) is not None:
            raise No("CONTAINED", each)


def is_above_nothing_contained(world: World, lease: Thing) -> None:
    """What is nearest is told: the lease, who it rests on, and then what it came from."""
    ancestors = list(came_from(world, lease["parents"]))
    is_of_old = lease["parents"] and not lease["ancestors"] and world.protocol > 1
    whose = {who for each in ancestors for who in rests_on(each)}
    is_long = len(ancestors) > world.limits["MAX_ANCESTORS"]
    if is_of_old and (is_long or len(whose) > world.limits["MAX_ANCESTOR_EXECUTORS"]):
        raise No("BROKEN_LINEAGE", lease["lease"])
    is_free(world, lease["lease"], *rests_on(lease))
    is_free(world, *sorted(each["lease"] for each in ancestors))
    is_free(world, *sorted(whose))


def rests_on(lease: Thing) -> list[str]:
    """Its executor, and whoever has passed on what it was given by, the nearest first."""
    basis: Basis = lease["_basis"]
    return [lease["executor"], *(link.delegator["executor"] for link in basis.chain)]


def came_from(world: World, parents: Sequence[str]) -> Iterator[Thing]:
    """All leases above, each once."""
    seen: set[str] = set()
    left = list(parents)
    while left:
        ident = left.pop(0)
        lease = find(world.leases, lease=ident)
        assert lease is not None
        if ident not in seen:
            seen.add(ident)
            left += lease["parents"]
            yield lease


def say_where_from(world: World, parents: list[str]) -> dict[str, list[str]]:
    """What a new lease says of its ancestors. Raises No when that is too much, about a parent with
    which, or after which, it is."""
    if world.protocol == 1:
        return {"ancestors": [], "ancestor_executors": []}
    leases: list[Thing] = []
    for place, parent in enumerate(parents):
        leases = [*came_from(world, parents[: place + 1])]
        is_long = len(leases) > world.limits["MAX_ANCESTORS"]
        if is_long or len(names(leases)) > world.limits["MAX_ANCESTOR_EXECUTORS"]:
            raise No("LIMIT_EXCEEDED", parent)
    return {
        "ancestors": sorted(each["lease"] for each in leases),
        "ancestor_executors": sorted(names(leases)),
    }


def names(leases: list[Thing]) -> set[str]:
    return {who for each in leases for who in rests_on(each)}


def review_chain(world: World, lease: Thing, chain: Sequence[Link], now: int) -> None:
    """What is behind its grant: domains first, then executors, trust and grants."""
    edges = [edge for link in chain for edge in link.route]
    domains = [link.delegator["domain"] for link in chain] + [edge["trustee"] for edge in edges]
    for domain in domains:
        active_domain(world, domain)
    for link in chain:
        known_executor(world, link.delegator["executor"])
    for edge in edges:
        still_lets(edge, lease)
    review_grants([link.grant for link in chain], now)


def still_lets(edge: Thing, lease: Thing) -> None:
    if not lets(edge, lease["action"], lease["resource"]):
        raise No("NO_TRUST", edge_id(edge))


def review_grants(grants: Sequence[Thing], now: int) -> None:
    for grant in grants:
        problem = what_ended(grant, now)
        if problem:
            raise No(problem, name_of(grant))


def check(world: World, asked: Sequence[str], now: int) -> Thing:
    """The lease, if its executor may act on it now. asked: the lease, the executor, the action and
    the resource; the latter two may be empty. Raises No."""
    lease, executor, action, resource = asked
    found = held(world, lease, executor)
    if action not in ("", found["action"]) or resource not in ("", found["resource"]):
        raise No("LEASE_SCOPE", lease)
    review(world, found, now)
    return found
