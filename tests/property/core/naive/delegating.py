"""What an executor passes on of a grant, and takes back: docs/delegation.md."""

from __future__ import annotations

from tests.property.core.naive.deciding import (
    active_executor,
    behind,
    grant_named,
    has_proved,
    is_free,
    name_of,
    what_ended,
)
from tests.property.core.naive.rules import (
    Yes,
    change,
    is_own,
    may_yet_permit,
    new_grant,
    next_status,
)
from tests.property.core.naive.world import (
    Command,
    No,
    Thing,
    World,
    delegation_name,
    find,
    home,
    is_within,
)


def delegate_grant(world: World, by: Thing, command: Command) -> Yes:
    body, name = command.body, delegation_name(command)
    is_own(by, home(body["executor"]), body["executor"])
    parent = granted(world, body["executor"], body["grant"])
    has_proved(world, active_executor(world, body["executor"]), world.time)
    is_free(world, body["executor"])
    for each in (parent, *behind(world, parent)):
        problem = what_ended(each, world.time)
        if problem:
            raise No(problem, name_of(each))
    to = find(world.executors, executor=body["to"])
    if to is None:
        raise No("UNKNOWN_EXECUTOR", body["to"])
    if to["status"] == "revoked":
        raise No("EXECUTOR_REVOKED", body["to"])
    terms = {k: v for k, v in body.items() if k not in ("to", "grant", "executor")}
    made = {"issuer": parent["issuer"], "grant": name, "executor": body["to"]}
    grant = new_grant(world, {**terms, **made}, parent=body["grant"], made=world.size)
    is_narrower(grant, parent)
    if body["to"] == body["executor"]:
        raise No("NOT_AUTHORIZED", body["to"])
    if world.time >= grant["not_after"]:
        raise No("GRANT_EXPIRED", name_of(grant))
    if find(world.grants, issuer=grant["issuer"], grant=name) is not None:
        raise No("ALREADY_EXISTS", name_of(grant))
    alive = may_yet_permit(world, grant["issuer"], body["to"])
    passed_on = [each for each in alive if each["parent"] and not is_over(world, each)]
    own = [each for each in passed_on if behind(world, each)[0]["executor"] == body["executor"]]
    if (
        parent["delegations"] >= world.limits["MAX_DELEGATIONS_PER_GRANT"]
        or len(alive) >= world.limits["MAX_GRANTS_PER_EXECUTOR_AND_ISSUER"]
        or len(passed_on) >= world.limits["MAX_DELEGATED_GRANTS_PER_EXECUTOR_AND_ISSUER"]
        or len(own) >= world.limits["MAX_GRANTS_FROM_ONE_DELEGATOR"]
    ):
        raise No("LIMIT_EXCEEDED", body["grant"])
    parent["delegations"] += 1
    world.grants.append(grant)
    return Yes(name_of(grant), dict(grant))


def is_over(world: World, grant: Thing) -> bool:
    """Whether something that it was made of is over for good."""
    return any(
        each["status"] == "revoked"
        or world.time >= each["not_after"]
        or 0 < each["max_uses"] <= each["uses"]
        for each in behind(world, grant)
    )


def is_narrower(grant: Thing, parent: Thing) -> None:
    """Each link of a chain is within the one before."""
    for kind in ("actions", "resources"):
        for pattern in grant[kind]:
            if not is_within(pattern, parent[kind]):
                raise No("WIDENS", pattern)
    if grant["max_depth"] >= parent["max_depth"]:
        raise No("WIDENS", "max_depth")
    for field in ("not_after", "max_lease_ttl_ms"):
        if grant[field] > parent[field]:
            raise No("WIDENS", field)
    for field in ("max_uses", "max_concurrent"):
        is_limited = parent[field] > 0
        if is_limited and (grant[field] == 0 or grant[field] > parent[field]):
            raise No("WIDENS", field)


def granted(world: World, executor: str, ident: str) -> Thing:
    """A grant, if it is to this executor."""
    grant = grant_named(world, ident)
    if grant is None:
        raise No("NOT_FOUND", ident)
    if grant["executor"] != executor:
        raise No("NOT_AUTHORIZED", ident)
    return grant


def recall_grant(world: World, by: Thing, command: Command) -> Yes:
    body = command.body
    grant = grant_named(world, body["grant"])
    if grant is None:
        raise No("NOT_FOUND", body["grant"])
    if not grant["parent"]:
        raise No("NOT_AUTHORIZED", body["grant"])
    is_own(by, home(body["executor"]), body["executor"])
    granted(world, body["executor"], grant["parent"])
    change(world, grant, status=next_status(grant["status"], "revoke", body["grant"]))
    return Yes(body["grant"])
