"""Policies (docs/policies.md): a handful of texts, each with what it means in Python.

Knows no policy engine. Whoever has published none has no say; each that has must permit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tests.property.core.naive.world import No, Thing, World, find, sha256

FORBIDS, NOTHING_PERMITS, BROKEN = "POLICY_FORBIDS", "NO_POLICY_PERMITS", "POLICY_BROKEN"
TOGETHER = "the federation"
"""Whose the federation's policies are."""


class Act(NamedTuple):
    """What is asked about."""

    home: str
    action: str
    path: str
    hops: int
    delegations: int
    context: tuple[str, ...]


ALL = "permit (principal, action, resource);"


def only(condition: str) -> str:
    return f"permit (principal, action, resource) when {{ {condition} }};"


def all_but(condition: str) -> str:
    return f"{ALL} forbid (principal, action, resource) when {{ {condition} }};"


TICKET = 'context.given.hasTag("t") && context.given.getTag("t") == "1"'

MEANINGS: dict[str, Callable[[Act], str]] = {
    ALL: lambda act: "",
    f"{ALL} // once more": lambda act: "",
    only('context.action like "pay*"'): (
        lambda act: "" if act.action.startswith("pay") else NOTHING_PERMITS
    ),
    all_but('["read"].contains(context.action)'): (
        lambda act: FORBIDS if act.action == "read" else ""
    ),
    all_but("context.hops > 1 || context.delegations > 0"): (
        lambda act: FORBIDS if act.hops > 1 or act.delegations > 0 else ""
    ),
    only('principal in Domain::"a.example" || context.cross_domain'): (
        lambda act: "" if act.home == "a.example" or act.hops else NOTHING_PERMITS
    ),
    all_but('resource.path like "/x/*"'): (
        lambda act: FORBIDS if act.path.startswith("/x/") else ""
    ),
    only(f'context.action != "read" || {TICKET}'): (
        lambda act: "" if act.action != "read" or "t=1" in act.context else NOTHING_PERMITS
    ),
    # The sum is too large as soon as there is an edge.
    all_but("9223372036854775807 + context.hops < 0"): lambda act: BROKEN if act.hops else "",
}
BAD = only("context.time > 1")
"""No set of policies: there is no such attribute."""


def may_put(world: World, owner: str, thing: str, text: str) -> None:
    """Raises No."""
    if in_force(world, owner) == text:
        raise No("ILLEGAL_TRANSITION", thing)
    if text == BAD:
        raise No(BROKEN, thing)


def may_put_together(world: World, body: Mapping[str, Any]) -> None:
    may_put(world, TOGETHER, world.origin, body.get("text", ""))


def put_together(world: World, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the entry says of it, besides."""
    world.mark = put(world, TOGETHER, body.get("text", ""))
    return {"version": world.mark["version"], "text": body.get("text", "")}


def put(world: World, owner: str, text: str) -> Thing:
    """The mark of what is in force then."""
    found = find(world.policies, owner=owner)
    if found is None:
        found = {"owner": owner, "version": 0}
        world.policies.append(found)
    version = found["version"] + (1 if text else 0)
    found.update(version=version, text=text, changed=world.size)
    return {"version": version, "sha256": sha256(text) if text else ""}


def end(world: World, domain: Thing) -> None:
    """Of a domain that is expelled."""
    domain["policies"] = None
    found = find(world.policies, owner=domain["domain"])
    if found is not None and found["text"]:
        found.update(text="", changed=world.size)


def in_force(world: World, owner: str) -> str:
    found = find(world.policies, owner=owner)
    return str(found["text"]) if found is not None else ""


def allow(world: World, owner: str, act: Act) -> None:
    """Raises No by the first set that does not permit."""
    whose = {TOGETHER: world.origin, owner: owner, act.home: act.home}
    for each, thing in whose.items():
        text = in_force(world, each)
        problem = MEANINGS[text](act) if text else ""
        if problem:
            raise No(problem, thing)
