"""What domains contain, and what came from it: docs/containment.md."""

from __future__ import annotations

from tests.property.core.naive.rules import Yes, may_widen
from tests.property.core.naive.world import Command, No, Thing, World, find, home, owner


def contain(world: World, by: Thing, command: Command) -> Yes:
    thing, own = meant(world, by, command), by["domain"]
    found = find(world.contained, thing=thing)
    if found is not None and own in found["by"]:
        raise No("ILLEGAL_TRANSITION", thing)
    if (
        len([e for e in world.contained if own in e["by"]])
        >= world.limits["MAX_CONTAINMENTS_PER_DOMAIN"]
    ):
        raise No("LIMIT_EXCEEDED", own)
    if found is None:
        found = {"thing": thing, "by": [], "since": world.size}
        world.contained.append(found)
    found.update(by=sorted([*found["by"], own]), changed=world.size)
    return done(command, found)


def lift_containment(world: World, by: Thing, command: Command) -> Yes:
    thing, own = meant(world, by, command), by["domain"]
    may_widen(by)
    found = find(world.contained, thing=thing)
    if found is None or own not in found["by"]:
        raise No("ILLEGAL_TRANSITION", thing)
    found.update(by=[each for each in found["by"] if each != own], changed=world.size)
    world.contained[:] = [each for each in world.contained if each["by"]]
    return done(command, found)


def meant(world: World, by: Thing, command: Command) -> str:
    """What is to be contained, or no more, if it is the domain's to say."""
    body = command.body
    if "executor" in body:
        executor: str = body["executor"]
        if home(executor) != by["domain"]:
            raise No("NOT_AUTHORIZED", executor)
        if find(world.executors, executor=executor) is None:
            raise No("NOT_FOUND", executor)
        return executor
    ident: str = body["lease"]
    lease = find(world.leases, lease=ident)
    if lease is None:
        raise No("NOT_FOUND", ident)
    if by["domain"] not in (home(lease["executor"]), owner(lease["resource"])):
        raise No("NOT_AUTHORIZED", ident)
    return ident


def done(command: Command, found: Thing) -> Yes:
    said = {"type": command.verb, "thing": found["thing"], "by": list(found["by"])}
    return Yes(found["thing"], {"id": found["thing"], "executed": said})
