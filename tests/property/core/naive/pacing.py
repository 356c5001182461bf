"""How many commands in a minute: each uses up a part of an allowance, which grows back evenly."""

from __future__ import annotations

from fractions import Fraction

from tests.property.core.naive.policing import in_force
from tests.property.core.naive.world import Command, No, Thing, World, find

COUNTED = (
    "executor.register",
    "executor.reinstate",
    "executor.lift_containment",
    "trust.open",
    "grant.issue",
    "grant.reinstate",
    "grant.delegate",
    "resources.thaw",
    "policy.retire",
    "proposal.open",
    "node.add",
    "node.promote",
    "lease.acquire",
    "lease.renew",
    "attestation.retire_reference",
    "attestation.challenge",
    "attestation.report",
)
"""What widens, or costs everybody something again and again."""
FOR_EXECUTORS = (
    "lease.acquire",
    "lease.renew",
    "grant.delegate",
    "attestation.challenge",
    "attestation.report",
)

Allowances = dict[tuple[str, str], tuple[Fraction, int]]


def allowances(world: World, by: Thing, command: Command) -> Allowances:
    """What is left to everybody whom the command counts for. Raises No when it is too many."""
    if command.verb not in COUNTED and not replaces(world, by, command):
        return {}
    is_node = command.issuer.startswith("spiffe://")
    whose = [("node" if is_node else "domain", by["domain"], world.rates["domain_per_min"])]
    if is_node and command.verb in FOR_EXECUTORS:
        executor = find(world.executors, executor=command.body["executor"])
        if executor is not None and executor["domain"] == by["domain"]:
            rate = world.rates["executor_per_min"]
            whose.insert(0, ("executor", executor["executor"], rate))
    left: Allowances = {}
    for kind, name, rate in whose:
        if rate:
            before, since = world.allowances.get((kind, name), (Fraction(1), world.time))
            had = min(Fraction(1), before + Fraction(world.time - since, 60_000))
            if had < Fraction(1, rate):
                raise No("RATE_LIMITED", name)
            left[kind, name] = had - Fraction(1, rate), world.time
    return left


def replaces(world: World, by: Thing, command: Command) -> bool:
    """Another set of policies, or another reference, than the one that there is: what that let
    through, and what it asked for, may be wider afterwards."""
    if command.verb == "policy.publish":
        return in_force(world, by["domain"]) != ""
    if command.verb == "attestation.set_reference":
        name = command.body["reference"]
        return find(world.references, domain=by["domain"], name=name) is not None
    return False
