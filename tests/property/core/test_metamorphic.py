"""What must hold between two histories that differ in one respect, whatever else is in them.

The histories are those of `naive`; the ledger alone is looked at here.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from random import Random
from typing import Any

from tests.property.core.between import (
    agree,
    any_of,
    command_of,
    held,
    histories,
    narrowing,
    narrowings,
    permits,
    restrictions,
    run,
    widenings,
)
from tests.property.core.naive.cast import ACTIONS, CONTEXTS, PATHS
from tests.property.core.naive.pacing import COUNTED
from tests.property.core.naive.sides import MEMBERS, Setting, begun, branch, play, rules_of
from tests.property.core.naive.world import Command, enough, home, is_for

from quorate.core import codec
from quorate.core.conditions import Condition
from quorate.core.genesis import parse_genesis
from quorate.core.outcome import Reason
from quorate.core.records import Kind
from quorate.core.state import list_records, save_grant
from quorate.core.store import MemoryStore
from quorate.core.transitions import apply, install_genesis
from quorate.proofs import merkle
from quorate.testing.builders import ORIGIN, Ledger

GOVERNING = ("executor", "trust", "grant", "domain", "resources")


@histories
def test_taking_back_permits_nothing(chance: Random) -> None:
    """Whatever was denied is denied, and no lease comes to hold, when anything is taken back."""
    sides, _ = play(chance, Counter())
    with rules_of(sides.setting):
        before = permits(sides.ledger, sides.world), held(sides.ledger)
        for _ in range(6):
            ledger = branch(sides.ledger)
            deeds = [*narrowings(sides.world, chance), *restrictions(sides.world, chance)]
            deed = any_of(deeds, chance)
            run(ledger, [command_of(sides.world, deed, "f" * 32, sides.world.time)])
            assert permits(ledger, sides.world) <= before[0]
            assert held(ledger) <= before[1]


@histories
def test_what_was_taken_back_earlier_permits_nothing_later(chance: Random) -> None:
    """Within what domains govern alone, a history with something taken back somewhere in it permits
    nothing at its end that it does not permit without.

    Of the whole it would not be true, and need not: what was denied meanwhile used nothing up, a
    suspended domain has no vote, what is over makes room, and an edge that is narrow already cannot
    be narrowed to something else. Nor of what a node has taken back that is retired instead, nor of
    what a domain freezes when it has thawed, and cannot thaw while it is suspended.
    """
    sides, commands = play(chance, Counter())
    commands = [each for each in once(commands) if each.verb.split(".")[0] in GOVERNING]
    place = chance.randint(0, len(commands))
    at = commands[place - 1].at if place else sides.ledger.now
    added = narrowing(sides.world, chance, at)
    if added.verb == "node.retire":
        commands = [each for each in commands if each.verb != "grant.recall"]
        place = min(place, len(commands))
    if added.verb == "domain.suspend":
        commands = [each for each in commands if each.verb != "resources.thaw"]
        place = min(place, len(commands))
    if added.verb.startswith("trust"):
        others = [each for each in commands[place:] if each.verb != "trust.narrow"]
        commands = commands[:place] + others
    setting = Setting(sides.setting.founders, sides.setting.version)
    with_it, without = begun(setting), begun(setting)
    with rules_of(setting):
        run(without, commands)
        run(with_it, [*commands[:place], added, *commands[place:]])
        assert permits(with_it, sides.world) <= permits(without, sides.world)


@histories
def test_narrowing_never_widens(chance: Random) -> None:
    """What an edge is for only shrinks, and a lease that was left out never holds again."""
    sides, commands = play(chance, Counter())
    ledger = begun(sides.setting)
    left_out: set[str] = set()
    with rules_of(sides.setting):
        for command in commands:
            before = covered(ledger)
            [outcome] = run(ledger, [command])
            after = covered(ledger)
            assert all(after[edge] <= acts for edge, acts in before.items())
            if command.verb == "trust.narrow" and outcome.accepted and not outcome.duplicate:
                lost = before[outcome.thing] - after[outcome.thing]
                left_out |= {
                    lease.id
                    for lease in ledger.view.leases()
                    if f"trust:{outcome.thing}" in lease.depends_on
                    and (lease.action, lease.resource) in lost
                }
            assert not left_out & held(ledger)


def covered(ledger: Ledger) -> dict[str, set[tuple[str, str]]]:
    """What each edge is for."""
    owners = [domain.id for domain in ledger.view.domains()]
    resources = [f"//{owner}/{path}" for owner, path in product(owners, PATHS)]
    return {
        edge.id: {
            (action, resource)
            for action, resource in product(ACTIONS, resources)
            if is_for({"actions": edge.actions, "resources": edge.resources}, action, resource)
        }
        for edge in ledger.view.trust_edges()
        if edge.status == "active"
    } | {edge.id: set() for edge in ledger.view.trust_edges() if edge.status != "active"}


@histories
def test_trust_and_grants_take_nothing_away(chance: Random) -> None:
    """Whatever was permitted is permitted, and whatever lease held holds, when trust is opened,
    also for others' resources, or something is granted, or passed on."""
    sides, _ = play(chance, Counter())
    at, world = sides.world.time, sides.world
    with rules_of(sides.setting):
        before = permits(sides.ledger, world), held(sides.ledger)
        for place in range(8):
            deed = chance.choice(list(widenings(world, chance)))
            added = command_of(world, deed, f"{place:032x}", at)
            ledger = branch(sides.ledger)
            run(ledger, [added])
            assert permits(ledger, world) >= before[0]
            assert held(ledger) >= before[1]


@histories
def test_a_condition_more_permits_nothing(chance: Random) -> None:
    """Whatever was denied is denied, whatever is said, when a grant asks for more; and each lease
    holds that held."""
    sides, _ = play(chance, Counter())
    world = sides.world
    grants = list(sides.ledger.view.grants())
    with rules_of(sides.setting):
        before = [permits(sides.ledger, world, said) for said in EVER_SAID]
        for _ in range(3):
            ledger = branch(sides.ledger)
            for grant in chance.sample(grants, min(len(grants), 3)):
                asked = {each.name: each for each in (*some_conditions(chance), *grant.conditions)}
                more = tuple(asked[name] for name in sorted(asked))
                save_grant(ledger.store, replace(grant, conditions=more), ledger.now)
            after = [permits(ledger, world, said) for said in EVER_SAID]
            assert all(now <= then for now, then in zip(after, before, strict=True))
            assert held(ledger) == held(sides.ledger)


EVER_SAID = ((), *CONTEXTS)


def some_conditions(chance: Random) -> list[Condition]:
    values = (("1",), ("1", "2"), ("1*",), ("*",))
    return [Condition(name, chance.choice(values)) for name in "at" if chance.random() < 0.7]


@histories
def test_a_grant_with_a_condition_gives_no_more_than_one_without(chance: Random) -> None:
    """Also when it is passed on."""
    sides, _ = play(chance, Counter())
    at, world = sides.world.time, sides.world
    if world.protocol == 1:
        return
    given = [each for each in widenings(world, chance) if each[1].startswith("grant")]
    with rules_of(sides.setting):
        for place in range(4 if given else 0):
            issuer, verb, body = chance.choice(given)
            asks = {"conditions": [each.to_json() for each in some_conditions(chance)]}
            with_it, without = branch(sides.ledger), branch(sides.ledger)
            who = "", enough(world, issuer)
            for ledger, said in ((with_it, asks if asks["conditions"] else {}), (without, {})):
                meant = f"{place:032x}", at + 1_000, at, world.origin, *who
                run(ledger, [Command(issuer, verb, body | said, *meant)])
            for context in EVER_SAID:
                assert permits(with_it, world, context) <= permits(without, world, context)


@histories
def test_what_is_passed_on_multiplies_nothing(chance: Random) -> None:
    """No more leases than a grant has uses, and no more at once than it allows, in all that was
    ever made of it; and what was made of it is within it."""
    sides, _ = play(chance, Counter())
    view = sides.ledger.view
    grants = {grant.id: grant for grant in view.grants()}
    leases, good = list(view.leases()), held(sides.ledger)
    for grant in grants.values():
        counted = [lease for lease in leases if f"grant:{grant.id}" in lease.depends_on]
        in_force = [lease for lease in counted if lease.id in good]
        assert len(counted) == grant.uses
        assert not grant.max_uses or grant.uses <= grant.max_uses
        assert not grant.max_concurrent or len(in_force) <= grant.max_concurrent
        for lease in counted:
            assert is_for(
                {"actions": grant.actions, "resources": grant.resources},
                lease.action,
                lease.resource,
            )
            assert lease.expires_at <= grant.not_after
        if grant.parent:
            assert grant.max_depth < grants[grant.parent].max_depth
            assert grant.not_after <= grants[grant.parent].not_after
        made = sum(other.parent == grant.id for other in grants.values())
        assert made == grant.delegations


def test_an_upgrade_permits_and_denies_nothing() -> None:
    upgraded = sum(upgrade(Random(seed)) for seed in range(50))  # noqa: S311
    assert upgraded > 5, "of those of version 1 that can be"


def upgrade(chance: Random) -> bool:
    """Upgrades a federation of version 1 at the end of a history; says whether it could."""
    sides, _ = play(chance, Counter())
    world, at = sides.world, sides.world.time
    if world.protocol > 1:
        return False
    ledger = branch(sides.ledger)
    declared = [(each["node"], "node.declare", {"protocol": 2}) for each in world.active_nodes()]
    with rules_of(sides.setting):
        before = permits(ledger, world), held(ledger), substance(ledger)
        run(ledger, [command_of(world, deed, "d" * 32, at) for deed in declared])
        agree(ledger, world, "federation.upgrade", {"protocol": 2})
        after = permits(ledger, world), held(ledger), substance(ledger)
    if ledger.view.federation().protocol == 1:
        return False
    assert after[:2] == before[:2]
    assert without_upgrades(after[2]) == without_upgrades(before[2])
    return True


def without_upgrades(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What an upgrade, its proposal and the declarations before it should leave as it was."""
    return [
        {k: v for k, v in record.items() if k not in {"protocol", "ledger_time"}}
        for record in records
        if record.get("act") != "federation.upgrade"
    ]


# -- order ---------------------------------------------------------------------------------------


def once(commands: Sequence[Command]) -> list[Command]:
    """Without what is said again."""
    return list({(each.issuer, each.nonce): each for each in reversed(commands)}.values())[::-1]


def footprint(command: Command) -> tuple[set[str], set[str]]:
    """What a command may change, and what it looks at beyond that; what is counted uses up an
    allowance of its issuer's, and one of an executor that is its domain's."""
    changes, looks = touched(command)
    kind = "nodes" if command.issuer.startswith("spiffe://") else "domain"
    own = home(command.issuer) if kind == "nodes" else command.issuer
    return changes | ({f"allowance of {kind} {own}"} if command.verb in COUNTED else set()), looks


STOPS = ("executors", "policies", "references")


def touched(command: Command) -> tuple[set[str], set[str]]:
    body, subject = command.body, command.verb.split(".")[0]
    issuer = command.issuer
    own = home(issuer) if issuer.startswith("spiffe://") else issuer
    looks = {f"domain {own}", f"nodes of {own}"}
    everywhere = {f"{what} {each}" for what in ("domain", "edges of") for each in MEMBERS}
    match subject:
        case "executor" if "contain" in command.verb:  # also what came from it, whosever it is
            return {f"executors of {each}" for each in MEMBERS}, looks
        case "executor":
            looks |= {f"references of {home(body['executor'])}"}
            return {f"executors of {home(body['executor'])}"}, looks
        case "trust":
            trustee = body.get("trustee", "")
            return {f"edges of {own}"}, looks | {f"domain {trustee}"}
        case "grant" if "to" in body or command.verb == "grant.recall":
            who = {home(body["executor"]), home(body.get("to", body["executor"]))}
            looks |= {f"domain {each}" for each in who}
            looks |= {f"{what} of {each}" for what in ("executors", "references") for each in who}
            return {f"grants of {body['grant'].partition('/')[0]}"}, looks
        case "grant":
            executor = body.get("executor", f"spiffe://{own}/")
            return {f"grants of {own}"}, looks | {f"executors of {home(executor)}"}
        case "domain":
            return {f"domain {own}"}, looks
        case "resources":
            return {f"frozen by {own}"}, looks
        case "policy":
            return {f"policies of {own}"}, looks
        case "attestation" if "reference" in command.verb:
            return {f"references of {own}"}, looks
        case "lease" if command.verb == "lease.acquire" and "parents" not in body:
            owner = body["resource"].split("/")[2]
            everywhere |= {f"{what} of {each}" for what in STOPS for each in MEMBERS}
            looks |= everywhere | {f"frozen by {each}" for each in MEMBERS}
            return {f"grants of {owner}"}, looks
    return {"anything"}, looks


def are_independent(one: Command, other: Command) -> bool:
    """Whether neither changes what the other changes or looks at."""
    changes, looks = footprint(one)
    changes_too, looks_too = footprint(other)
    if "anything" in changes | changes_too:
        return False
    return not changes & (changes_too | looks_too) and not changes_too & looks


def substance(ledger: Ledger) -> list[dict[str, Any]]:
    """Every record, less what says at which index something happened."""
    records: list[dict[str, Any]] = [
        json.loads(data) for kind in Kind for _, data in list_records(ledger.view, kind, "", 10_000)
    ]
    by_index = {"changed", "made", "fence", "base", "since", "reported"}

    def less(value: Any) -> Any:
        if isinstance(value, list):
            return [less(each) for each in value]
        if isinstance(value, dict):
            return {name: less(said) for name, said in value.items() if name not in by_index}
        return value

    return [less(record) for record in records]


def test_the_order_of_independent_commands_does_not_matter() -> None:
    swapped = sum(swap_neighbours(Random(seed)) for seed in range(40))  # noqa: S311
    assert swapped > 10, "of those that are both accepted"


def swap_neighbours(chance: Random) -> int:
    """Swaps some pairs of independent commands in a history; says how many did something."""
    sides, commands = play(chance, Counter())
    commands = once(commands)
    places = [
        place
        for place in range(len(commands) - 1)
        if are_independent(commands[place], commands[place + 1])
    ]
    did_something = 0
    for place in places[-3:]:
        at = max(each.at for each in commands[place : place + 2])
        pair = [replace(each, at=at) for each in commands[place : place + 2]]
        before, behind = commands[:place], commands[place + 2 :]
        first, second = begun(sides.setting), begun(sides.setting)
        with rules_of(sides.setting):
            said = run(first, [*before, *pair, *behind])
            said_too = run(second, [*before, *reversed(pair), *behind])
        said_too[place], said_too[place + 1] = said_too[place + 1], said_too[place]
        assert [(each.reason, each.thing) for each in said] == [
            (each.reason, each.thing) for each in said_too
        ]
        assert substance(first) == substance(second)
        did_something += said[place].accepted and said[place + 1].accepted
    return did_something


# -- from entry 0 --------------------------------------------------------------------------------


def root(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962, 2.1, as it stands there."""
    if len(leaves) == 1:
        return merkle.leaf_hash(leaves[0])
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return merkle.node_hash(root(leaves[:half]), root(leaves[half:]))


def again(entries: Sequence[bytes]) -> list[bytes]:
    """What comes of executing the commands that a ledger's entries hold, each at its time."""
    store = MemoryStore()
    decoded = [json.loads(entry) for entry in entries]
    genesis = parse_genesis(codec.encode(decoded[0]["command"]))
    made = [install_genesis(store, genesis)]
    for each in decoded[1:]:
        command = each["command"]
        is_raw = each["type"] == "malformed"
        data = b64decode(command["raw"]) if is_raw else codec.encode(command)
        payload = codec.stamp(each["time"], data)
        applied = apply(store, payload, len(made))
        made += [applied.entry] if applied.entry is not None else []
    return made


@histories
def test_a_ledger_executed_again_from_entry_0_has_the_same_root(chance: Random) -> None:
    """Also when commands were repeated, which makes no entry."""
    sides, commands = play(chance, Counter())
    ledger = begun(sides.setting)
    with rules_of(sides.setting):
        run(ledger, commands)
        made = again(ledger.entries)
    assert root(made) == root(ledger.entries)


def test_a_repeat_that_is_signed_for_longer_changes_nothing_for_others() -> None:
    """It stands in no entry. The first command is answered for longer; its nonce is not kept from
    another for longer, or the entries executed again would come to something else."""
    ledger = begun(Setting(founders=1))
    at, nonce = ledger.now, "e" * 16

    def register(name: str, at: int, not_after: int) -> Command:
        body = {"executor": f"spiffe://a.example/agent/{name}"}
        return Command("a.example", "executor.register", body, nonce, not_after, at, ORIGIN)

    with rules_of(Setting()):
        first, longer, late, other, reused = run(
            ledger,
            [
                register("x", at, at + 10),
                register("x", at, at + 1_000),
                register("x", at + 400, at + 900),
                register("y", at + 500, at + 1_000),
                register("x", at + 600, at + 1_000),
            ],
        )
        made = again(ledger.entries)
    assert (first.accepted, longer.duplicate, late.duplicate) == (True, True, True)
    assert (other.accepted, reused.reason) == (True, Reason.NONCE_REUSED)
    assert made == ledger.entries
