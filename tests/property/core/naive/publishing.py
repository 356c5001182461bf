"""How a domain publishes its policies, and retires them."""

from __future__ import annotations

from tests.property.core.naive.policing import in_force, may_put, put
from tests.property.core.naive.rules import Yes, may_widen
from tests.property.core.naive.world import Command, Thing, World


def publish_policy(world: World, by: Thing, command: Command) -> Yes:
    if in_force(world, by["domain"]):
        may_widen(by)
    may_put(world, by["domain"], by["domain"], command.body["text"])
    mark = put(world, by["domain"], command.body["text"])
    by["policies"] = mark
    return Yes(by["domain"], {"id": by["domain"], "version": mark["version"]})


def retire_policy(world: World, by: Thing, command: Command) -> Yes:
    may_widen(by)
    may_put(world, by["domain"], by["domain"], "")
    by["policies"] = put(world, by["domain"], "")
    return Yes(by["domain"])
