"""What tests of two histories that differ in one respect have in common: all that can be taken back
or given at the end of one, and what is permitted then.

The histories are those of `naive`; the ledger alone is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from random import Random
from typing import Any

from tests.property.core.naive.cast import ACTIONS, PATHS, Deed
from tests.property.core.naive.deciding import behind
from tests.property.core.naive.policing import ALL, in_force
from tests.property.core.naive.sides import public_of, sign
from tests.property.core.naive.world import Command, World, enough, home, owner

from quorate.core import codec
from quorate.core.decision import DecisionRequest, check_lease, decide
from quorate.core.outcome import Outcome, Permit
from quorate.testing.builders import Ledger

HISTORIES = 100


def histories(test: Callable[[Random], None]) -> Callable[[], None]:
    """Runs a test on histories, each made from its own number. Those that hypothesis makes up are
    short and much alike, and hardly anything is permitted at their end."""

    def on_each() -> None:
        for seed in range(HISTORIES):
            try:
                test(Random(seed))  # noqa: S311  # the same each time
            except Exception as error:
                error.add_note(f"in the history of seed {seed}")
                raise

    on_each.__doc__ = test.__doc__
    return on_each


def run(ledger: Ledger, commands: Sequence[Command]) -> list[Outcome]:
    return [
        ledger.apply_payload(codec.stamp(each.at, sign(each, is_cheap=True))).outcome
        for each in commands
    ]


def permits(ledger: Ledger, world: World, context: Sequence[str] = ()) -> set[tuple[str, str, str]]:
    """All that would be permitted as a new lease, of what is ever asked for, to who says this."""
    now, view = ledger.view.ledger_time(), ledger.view
    executors = [each["executor"] for each in world.executors]
    owners = [each["domain"] for each in world.domains]
    asked = product(executors, ACTIONS, (f"//{of}/{path}" for of in owners for path in PATHS))
    return {
        each
        for each in asked
        if isinstance(decide(view, DecisionRequest(*each, tuple(context)), now), Permit)
    }


def held(ledger: Ledger) -> set[str]:
    """The leases that may be acted on."""
    now, view = ledger.view.ledger_time(), ledger.view
    return {
        lease.id
        for lease in view.leases()
        if isinstance(check_lease(view, lease.id, lease.executor, "", "", now)[0], Permit)
    }


def narrowings(world: World, chance: Random) -> Iterator[Deed]:
    """Who may take something back by which command: all that there is to take back."""
    for each in world.executors:
        for act in ("suspend", "revoke"):
            yield each["domain"], f"executor.{act}", {"executor": each["executor"]}
    for each in world.grants:
        for act in ("suspend", "revoke"):
            yield each["issuer"], f"grant.{act}", {"grant": each["grant"]}
        for passed_on in behind(world, each)[:1]:
            who, ident = passed_on["executor"], f"{each['issuer']}/{each['grant']}"
            for node in world.active_nodes():
                if node["domain"] == home(who):
                    yield node["node"], "grant.recall", {"executor": who, "grant": ident}
    for each in world.edges:
        yield each["truster"], "trust.close", {"edge": each["edge"]}
        less = {
            "actions": [chance.choice(ACTIONS)],
            "resources": [chance.choice(each["resources"])],
        }
        yield each["truster"], "trust.narrow", {"edge": each["edge"], **less}
    for each in world.domains:
        yield each["domain"], "domain.suspend", {"domain": each["domain"]}
    for each in world.nodes:
        for act in ("demote", "retire"):
            yield each["domain"], f"node.{act}", {"node": each["node"]}
    if world.protocol > 1:
        yield from stops(world)


def stops(world: World) -> Iterator[Deed]:
    """Of these, what version 2 has brought that stops what somebody does."""
    for each in world.domains:
        own = each["domain"]
        yield own, "resources.freeze", {"actions": []}
        yield own, "attestation.set_reference", reference(own)
    for each in world.executors:
        executor = {"executor": each["executor"]}
        yield each["domain"], "executor.contain", executor
        for node in world.active_nodes():
            if node["domain"] == each["domain"]:
                yield node["node"], "attestation.drift", executor
    for each in world.leases:
        for domain in {home(each["executor"]), owner(each["resource"])}:
            yield domain, "executor.contain", {"lease": each["lease"]}


def restrictions(world: World, chance: Random) -> Iterator[Deed]:
    """What stops a part of it, as things are. Not what it would have stopped earlier: a freeze that
    lets something through keeps another away, and policies are replaced by the next."""
    if world.protocol == 1:
        return
    for each in world.domains:
        own = each["domain"]
        yield own, "resources.freeze", {"actions": [chance.choice(("read", "pay.*"))]}
        yield own, "policy.publish", {"text": with_a_forbid(in_force(world, own))}
    for each in world.references:
        body = {k: v for k, v in each.items() if k not in ("domain", "name", "changed")}
        body |= {"reference": each["name"], "max_age_ms": max(each["max_age_ms"] // 2, 1_000)}
        yield each["domain"], "attestation.set_reference", body


def reference(domain: str) -> dict[str, Any]:
    """One that nobody has met."""
    return {
        "reference": "new",
        "evidence": "measurement",
        "executors": [f"spiffe://{domain}/agent/*"],
        "max_age_ms": 60_000,
        "signers": [public_of("agent")],
        "images": ["a" * 64],
    }


def with_a_forbid(text: str) -> str:
    """Policies with one more; who has none has no say, and permits everything."""
    forbid = 'forbid (principal, action, resource) when { context.action like "pay*" };'
    return f"{text or ALL}\n{forbid}"


def any_of(deeds: Iterable[Deed], chance: Random) -> Deed:
    """Of each type of command as often."""
    by_verb: dict[str, list[Deed]] = {}
    for deed in deeds:
        by_verb.setdefault(deed[1], []).append(deed)
    return chance.choice(by_verb[chance.choice(sorted(by_verb))])


def command_of(world: World, deed: Deed, nonce: str, at: int) -> Command:
    issuer, verb, body = deed
    signers = enough(world, issuer)
    return Command(issuer, verb, body, nonce, at + 1_000, at, world.origin, "", signers)


def narrowing(world: World, chance: Random, at: int) -> Command:
    return command_of(world, any_of(narrowings(world, chance), chance), "f" * 32, at)


def widenings(world: World, chance: Random) -> Iterator[Deed]:
    """Who may give something by which command. Much of it is refused; then nothing changes."""
    terms: dict[str, Any] = {"not_after": world.time + 1_000, "max_lease_ttl_ms": 1, "max_uses": 1}
    terms |= {"max_concurrent": 1, "actions": ["*"]}
    depth: dict[str, Any] = {"max_depth": chance.randint(1, 7)} if world.protocol > 1 else {}
    domains = [each["domain"] for each in world.domains]
    for truster, trustee, of in product(domains, repeat=3):
        edge = {"edge": "zz", "trustee": trustee, "actions": ["*"], "resources": [f"//{of}/*"]}
        yield truster, "trust.open", edge | depth
    for each in world.executors:
        for of in domains:
            grant = {"grant": "zz", "executor": each["executor"], "resources": [f"//{of}/*"]}
            yield of, "grant.issue", grant | terms | depth
    for grant, to in product(world.grants, world.executors):
        who, ident = grant["executor"], f"{grant['issuer']}/{grant['grant']}"
        part = {name: grant[name] for name in terms} | {"resources": grant["resources"]}
        for node in world.active_nodes():
            if node["domain"] == home(who):
                body = {"executor": who, "grant": ident, "to": to["executor"]}
                yield node["node"], "grant.delegate", part | body


def agree(ledger: Ledger, world: World, act: str, body: dict[str, Any]) -> list[Outcome]:
    """All that are active propose it, and vote for it; says what was said of that."""
    at = ledger.view.ledger_time()
    active = [each["domain"] for each in world.domains if each["status"] == "active"]
    if not active:
        return []
    first, *others = active
    proposed = {"act": act, "body": body, "expires_at": at + 1_000}
    nonce = act.encode().hex()
    said = run(ledger, [command_of(world, (first, "proposal.open", proposed), nonce, at)])
    ballot = {"proposal": said[0].thing, "choice": "yes"}
    cast = [(each, "ballot.cast", ballot) for each in others]
    return said + run(ledger, [command_of(world, each, nonce, at) for each in cast])
