"""What came up in histories: how often what came to what, and over how many links."""

from __future__ import annotations

from collections import Counter

from tests.property.core.naive import deciding
from tests.property.core.naive.world import FREEZING, Command, Said, Thing, World, find, home, owner

Came = Counter[tuple[str, str]]
"""How often each verb came to each reason; an empty reason is a yes."""


def note(came: Came, world: World, command: Command, said: Said) -> None:
    """What a command came to, and a ballot's act, and what was reported; and for leases that rest
    on several links, how many."""
    if said.is_repeat:
        came["repeat", said.reason] += 1
        return
    came[command.verb, said.reason] += 1
    if "executed" in said.result and command.verb in ("proposal.open", "ballot.cast"):
        came["by ballot: " + said.result["executed"]["type"], ""] += 1
    if "reason" in said.result:
        came["by ballot", said.result["reason"]] += 1
        proposal = find(world.proposals, proposal=said.things[0]) or {"act": ""}
        came["by ballot: " + proposal["act"], said.result["reason"]] += 1
    if command.body.get("act") in FREEZING:
        came[f"proposal.open: {command.body['act']}", said.reason] += 1
    for reason in said.result.get("refused", {}).values():
        came["event", reason] += 1
    if command.verb == "lease.acquire" and is_behind(world, command, said):
        came["lease.acquire, for a link", said.reason] += 1
    lease = find(
        world.leases, lease=said.things[0] if not said.reason else command.body.get("lease")
    )
    if lease is not None and command.verb in ("lease.acquire", "lease.renew"):
        for links in links_of(lease):
            came[f"{command.verb} {links}", said.reason] += 1
    if lease is not None and command.verb.startswith("lease."):
        for freezes in freezes_of(world, lease):
            came[f"{command.verb} {freezes}", said.reason] += 1


def links_of(lease: Thing) -> list[str]:
    basis: deciding.Basis = lease["_basis"]
    edges, passed_on = len(basis.route), len(basis.chain)
    named = [f"over {edges} edges"] if edges > 1 else []
    named += [f"passed on {passed_on} times"] if passed_on else []
    if any(each["conditions"] for each in basis.grants):
        named.append("with conditions")
    if any(link.grant["conditions"] for link in basis.chain):
        named.append("with conditions further on")
    return named + (["passed on, and over several edges"] if edges > 1 and passed_on else [])


def freezes_of(world: World, lease: Thing) -> list[str]:
    """Which freezes are of its resource: one that lets it go on all the same among them."""
    of = owner(lease["resource"])
    whose = {each["who"] for each in world.frozen} & {of, world.origin}
    if len(whose) == 2:
        return ["under two freezes"]
    return ["under its owner's freeze" if of in whose else "under the freeze of all"] * len(whose)


def is_behind(world: World, command: Command, said: Said) -> bool:
    """Whether a lease was denied for something that its executor's own grant rests on."""
    executor, resource = str(command.body["executor"]), str(command.body["resource"])
    thing = said.things[0]
    if said.reason == "CONDITION_UNMET":
        thing = thing.rpartition("/")[0]
    if said.reason.startswith("EXECUTOR_"):
        return thing != executor
    if said.reason.startswith("DOMAIN_") or said.reason == "NO_TRUST":
        return thing not in {home(executor), owner(resource)}
    grant = deciding.grant_named(world, thing)
    return grant is not None and said.reason != "" and bool(grant["executor"] != executor)
