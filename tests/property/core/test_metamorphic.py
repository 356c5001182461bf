"""What must hold between two histories that differ in one respect, whatever else is in them.

The histories are those of `naive`; the ledger alone is looked at here.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.property.core.naive.cast import ACTIONS, CONTEXTS, PATHS
from tests.property.core.naive.deciding import behind
from tests.property.core.naive.sides import MEMBERS, Setting, begun, branch, play, rules_of, sign
from tests.property.core.naive.world import Command, World, enough, home, is_for

from quorate.core import codec
from quorate.core.conditions import Condition
from quorate.core.decision import DecisionRequest, check_lease, decide
from quorate.core.genesis import parse_genesis
from quorate.core.outcome import Outcome, Permit, Reason
from quorate.core.records import Kind
from quorate.core.state import list_records, save_grant
from quorate.core.store import MemoryStore
from quorate.core.transitions import apply, install_genesis
from quorate.proofs import merkle
from quorate.testing.builders import ORIGIN, Ledger

chances = st.randoms(use_true_random=False)
GOVERNING = ("executor", "trust", "grant", "domain")


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
    return {
        (executor, action, f"//{owner}/{path}")
        for executor, action, owner, path in product(executors, ACTIONS, owners, PATHS)
        if isinstance(
            decide(
                view,
                DecisionRequest(executor, action, f"//{owner}/{path}", tuple(context)),
                now,
            ),
            Permit,
        )
    }


def held(ledger: Ledger) -> set[str]:
    """The leases that may be acted on."""
    now, view = ledger.view.ledger_time(), ledger.view
    return {
        lease.id
        for lease in view.leases()
        if isinstance(check_lease(view, lease.id, lease.executor, "", "", now)[0], Permit)
    }


def narrowings(world: World, chance: Random) -> Iterator[tuple[str, str, dict[str, Any]]]:
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


def narrowing(world: World, chance: Random, at: int) -> Command:
    issuer, verb, body = chance.choice(list(narrowings(world, chance)))
    signers = enough(world, issuer)
    return Command(issuer, verb, body, "f" * 32, at + 1_000, at, world.origin, "", signers)


@settings(max_examples=18)
@given(chances)
def test_taking_back_permits_nothing(chance: Random) -> None:
    """Whatever was denied is denied, and no lease comes to hold, when anything is taken back."""
    sides, _ = play(chance, Counter())
    with rules_of(sides.setting):
        before = permits(sides.ledger, sides.world), held(sides.ledger)
        for _ in range(6):
            ledger = branch(sides.ledger)
            run(ledger, [narrowing(sides.world, chance, sides.world.time)])
            assert permits(ledger, sides.world) <= before[0]
            assert held(ledger) <= before[1]


@settings(max_examples=18)
@given(chances)
def test_what_was_taken_back_earlier_permits_nothing_later(chance: Random) -> None:
    """Within what domains govern alone, a history with something taken back somewhere in it permits
    nothing at its end that it does not permit without.

    Of the whole it would not be true, and need not: what was denied meanwhile used nothing up, a
    suspended domain has no vote, what is over makes room, and an edge that is narrow already cannot
    be narrowed to something else. Nor of what a node has taken back that is retired instead.
    """
    sides, commands = play(chance, Counter())
    commands = [each for each in once(commands) if each.verb.split(".")[0] in GOVERNING]
    place = chance.randint(0, len(commands))
    at = commands[place - 1].at if place else sides.ledger.now
    added = narrowing(sides.world, chance, at)
    if added.verb == "node.retire":
        commands = [each for each in commands if each.verb != "grant.recall"]
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


@settings(max_examples=18)
@given(chances)
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


@settings(max_examples=18)
@given(chances)
def test_trust_and_grants_take_nothing_away(chance: Random) -> None:
    """Whatever was permitted is permitted, and whatever lease held holds, when trust is opened,
    also for others' resources, or something is granted, or passed on."""
    sides, _ = play(chance, Counter())
    at, world = sides.world.time, sides.world
    with rules_of(sides.setting):
        before = permits(sides.ledger, world), held(sides.ledger)
        for place in range(8):
            issuer, verb, body = chance.choice(list(widenings(world, chance)))
            who = "", enough(world, issuer)
            added = Command(issuer, verb, body, f"{place:032x}", at + 1_000, at, world.origin, *who)
            ledger = branch(sides.ledger)
            run(ledger, [added])
            assert permits(ledger, world) >= before[0]
            assert held(ledger) >= before[1]


def widenings(world: World, chance: Random) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Who may give something by which command. Much of it is refused; then nothing changes."""
    terms: dict[str, Any] = {"not_after": world.time + 1_000, "max_lease_ttl_ms": 1, "max_uses": 1}
    terms |= {"max_concurrent": 1, "actions": ["*"]}
    depth: dict[str, Any] = {"max_depth": chance.randint(1, 7)} if world.protocol > 1 else {}
    domains = [each["domain"] for each in world.domains]
    for truster, trustee, owner in product(domains, repeat=3):
        edge = {"edge": "zz", "trustee": trustee, "actions": ["*"], "resources": [f"//{owner}/*"]}
        yield truster, "trust.open", edge | depth
    for each in world.executors:
        for owner in domains:
            grant = {"grant": "zz", "executor": each["executor"], "resources": [f"//{owner}/*"]}
            yield owner, "grant.issue", grant | terms | depth
    for grant, to in product(world.grants, world.executors):
        who, ident = grant["executor"], f"{grant['issuer']}/{grant['grant']}"
        part = {name: grant[name] for name in terms} | {"resources": grant["resources"]}
        for node in world.active_nodes():
            if node["domain"] == home(who):
                body = {"executor": who, "grant": ident, "to": to["executor"]}
                yield node["node"], "grant.delegate", part | body


@settings(max_examples=18)
@given(chances)
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


@settings(max_examples=18)
@given(chances)
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


@settings(max_examples=18)
@given(chances)
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
    active = [each["domain"] for each in world.domains if each["status"] == "active"]
    proposed = {"act": "federation.upgrade", "body": {"protocol": 2}, "expires_at": at + 1_000}
    deeds: list[tuple[str, str, dict[str, Any]]]
    deeds = [(each["node"], "node.declare", {"protocol": 2}) for each in world.active_nodes()]
    deeds += [(active[0], "proposal.open", proposed)] if active else []
    commands = [
        Command(issuer, verb, body, f"{place:032x}", at + 1_000, at, world.origin)
        for place, (issuer, verb, body) in enumerate(deeds)
    ]
    with rules_of(sides.setting):
        before = permits(ledger, world), held(ledger), substance(ledger)
        said = run(ledger, commands)
        ballot = {"proposal": said[-1].thing, "choice": "yes"} if said else {}
        run(
            ledger,
            [
                Command(each, "ballot.cast", ballot, "b" * 32, at + 1_000, at, world.origin)
                for each in active[1:]
            ],
        )
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
    """What a command may change, and what it looks at beyond that."""
    body, subject = command.body, command.verb.split(".")[0]
    issuer = command.issuer
    own = home(issuer) if issuer.startswith("spiffe://") else issuer
    looks = {f"domain {own}", f"nodes of {own}"}
    everywhere = {f"{what} {each}" for what in ("domain", "edges of") for each in MEMBERS}
    match subject:
        case "executor" if "contain" in command.verb:  # also what came from it, whosever it is
            return {f"executors of {each}" for each in MEMBERS}, looks
        case "executor":
            return {f"executors of {home(body['executor'])}"}, looks
        case "trust":
            trustee = body.get("trustee", "")
            return {f"edges of {own}"}, looks | {f"domain {trustee}"}
        case "grant" if "to" in body or command.verb == "grant.recall":
            who = {home(body["executor"]), home(body.get("to", body["executor"]))}
            looks |= {f"domain {each}" for each in who}
            looks |= {f"executors of {each}" for each in who}
            return {f"grants of {body['grant'].partition('/')[0]}"}, looks
        case "grant":
            executor = body.get("executor", f"spiffe://{own}/")
            return {f"grants of {own}"}, looks | {f"executors of {home(executor)}"}
        case "domain":
            return {f"domain {own}"}, looks
        case "lease" if command.verb == "lease.acquire" and "parents" not in body:
            owner = body["resource"].split("/")[2]
            looks |= everywhere | {f"executors of {each}" for each in MEMBERS}
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


@settings(max_examples=18)
@given(chances)
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
