"""What is frozen: by a domain of its own resources, by all together of everybody's
(docs/containment.md). All freezes stand in one list, whosever they are; two at the most are of one
resource."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.property.core.naive.rules import Yes, may_widen
from tests.property.core.naive.world import Command, No, Thing, World, find


def freeze_resources(world: World, by: Thing, command: Command) -> Yes:
    return done(command.verb, by["domain"], put(world, by["domain"], command.body["actions"]))


def thaw_resources(world: World, by: Thing, command: Command) -> Yes:
    may_widen(by)
    return done(command.verb, by["domain"], take(world, by["domain"]))


def done(verb: str, who: str, actions: Sequence[str]) -> Yes:
    said = {"type": verb, "thing": who, "actions": list(actions)}
    return Yes(who, {"id": who, "executed": said})


# -- by ballot -----------------------------------------------------------------------------------


def may_together(world: World, act: str) -> None:
    """Raises No when it is so already."""
    is_frozen = of(world, world.origin) is not None
    if is_frozen == (act == "federation.freeze"):
        raise No("ILLEGAL_TRANSITION", world.origin)


def do_together(world: World, act: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the entry says of it, besides."""
    if act == "federation.freeze":
        return {"actions": put(world, world.origin, body["actions"])}
    return {"actions": take(world, world.origin)}


# -- the list ------------------------------------------------------------------------------------


def put(world: World, who: str, actions: Sequence[str]) -> list[str]:
    if find(world.frozen, who=who) is not None:
        raise No("ILLEGAL_TRANSITION", who)
    world.frozen.append({"who": who, "actions": list(actions), "since": world.size})
    return list(actions)


def take(world: World, who: str) -> list[str]:
    """What was let through until now."""
    found = find(world.frozen, who=who)
    if found is None:
        raise No("ILLEGAL_TRANSITION", who)
    end(world, who)
    return list(found["actions"])


def end(world: World, who: str) -> None:
    world.frozen[:] = [each for each in world.frozen if each["who"] != who]


def of(world: World, who: str) -> Thing | None:
    """The freeze as it stands in the record of a domain, or of the federation."""
    found = find(world.frozen, who=who)
    return found and {name: said for name, said in found.items() if name != "who"}
