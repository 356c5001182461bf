"""What must hold whatever the history: of freezes, containments, policies, references, keys and
rates. Beside `test_metamorphic`, which takes back what there was in version 1, and these with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from random import Random

from tests.property.core.between import (
    agree,
    any_of,
    command_of,
    held,
    histories,
    narrowings,
    permits,
    restrictions,
    run,
    widenings,
    with_a_forbid,
)
from tests.property.core.naive.cast import Deed
from tests.property.core.naive.policing import TOGETHER, in_force
from tests.property.core.naive.sides import begun, branch, play, public_of, rules_of
from tests.property.core.naive.world import Command, World, find, home

from quorate.core import state
from quorate.core.outcome import Outcome, Reason
from quorate.core.rates import COUNTED_IN_PLACE
from quorate.core.records import Rates
from quorate.testing.builders import Ledger

BACK = {
    "executor.suspend": "executor.reinstate",
    "executor.contain": "executor.lift_containment",
    "grant.suspend": "grant.reinstate",
    "domain.suspend": "domain.reinstate",
    "resources.freeze": "resources.thaw",
    "policy.publish": "policy.retire",
    "attestation.set_reference": "attestation.retire_reference",
}
"""What ends again what was just begun."""


def back(world: World, deed: Deed) -> Deed | None:
    issuer, verb, body = deed
    if verb == "policy.publish" and in_force(world, issuer):
        return None
    if verb == "attestation.set_reference" and body["reference"] != "new":
        return None
    same = {name: body[name] for name in ("executor", "lease", "grant", "domain") if name in body}
    same |= {"reference": body["reference"]} if "reference" in body else {}
    return (issuer, BACK[verb], same) if verb in BACK else None


@histories
def test_what_is_ended_again_leaves_nothing_behind(chance: Random) -> None:
    """What was permitted is so again, and the leases that held hold; and nothing more is."""
    sides, _ = play(chance, Counter())
    world, at = sides.world, sides.world.time
    deeds = [*narrowings(world, chance), *restrictions(world, chance)]
    deeds = [each for each in deeds if back(world, each)]
    with rules_of(sides.setting):
        before = permits(sides.ledger, world), held(sides.ledger)
        for _ in range(6 if deeds else 0):
            deed, ledger = any_of(deeds, chance), branch(sides.ledger)
            ending = back(world, deed)
            assert ending is not None
            [begin] = run(ledger, [command_of(world, deed, "e" * 32, at)])
            between = permits(ledger, world), held(ledger)
            assert between[0] <= before[0]
            assert between[1] <= before[1]
            [end] = run(ledger, [command_of(world, ending, "f" * 32, at)])
            if begin.accepted:
                is_ended = before if end.accepted else between
                assert (permits(ledger, world), held(ledger)) == is_ended


@histories
def test_what_all_stop_together_permits_nothing(chance: Random) -> None:
    """And a thaw, or no policies any more, brings back what there was."""
    sides, _ = play(chance, Counter())
    world, ledger = sides.world, branch(sides.ledger)
    with rules_of(sides.setting):
        before = permits(ledger, world), held(ledger)
        text, actions = with_a_forbid(in_force(world, TOGETHER)), chance.choice(([], ["read"]))
        agree(ledger, world, "federation.set_policy", {"text": text})
        forbidden = permits(ledger, world), held(ledger)
        if ledger.view.federation().policies != sides.ledger.view.federation().policies:
            assert not [act for _, act, _ in forbidden[0] if act.startswith("pay")]
        is_frozen = ledger.view.federation().frozen is not None
        agree(ledger, world, "federation.freeze", {"actions": actions})
        frozen = permits(ledger, world), held(ledger)
        assert frozen[0] <= forbidden[0] <= before[0]
        assert frozen[1] <= forbidden[1] <= before[1]
        if is_frozen or ledger.view.federation().frozen is None:
            assert frozen == forbidden
            return
        assert all(action in actions for _, action, _ in frozen[0])
        agree(ledger, world, "federation.thaw", {})
        assert ledger.view.federation().frozen is None
        assert (permits(ledger, world), held(ledger)) == forbidden


# -- whose they are ------------------------------------------------------------------------------


def stopping(ledger: Ledger) -> dict[tuple[str, str], object]:
    """What there is of each kind, by whose it is and what."""
    view = ledger.view
    found: dict[tuple[str, str], object] = {("", "frozen"): view.federation().frozen}
    found["", "rates"] = view.federation().rates
    found["", "policies"] = view.federation().policies
    for domain in view.domains():
        own = domain.domain
        found[own, "frozen"] = domain.frozen
        found[own, "policies"] = domain.policies
        found[own, "keys"] = domain.governance_key, domain.cosigner_key, domain.key_set
    for each in view.all_references():
        found[each.domain, f"reference {each.name}"] = each
    for contained in view.containments():
        found |= {(by, f"containment of {contained.thing}"): True for by in contained.by}
    return found


def changed_by(command: Command, outcome: Outcome) -> str:
    """Whose such things a command may change: its issuer's; those of all, or of an expelled domain,
    when it was decided by ballot."""
    done = outcome.result.get("executed")
    if command.verb in ("proposal.open", "ballot.cast"):
        is_judged = isinstance(done, dict) and str(done["type"]).startswith("domain.")
        return str(done["thing"]) if is_judged else ""
    return home(command.issuer) if command.issuer.startswith("spiffe") else command.issuer


@histories
def test_nobody_changes_what_another_has_stopped(chance: Random) -> None:
    """And a list of what is let through never changes while something is frozen."""
    sides, commands = play(chance, Counter())
    ledger = begun(sides.setting)
    with rules_of(sides.setting):
        after = stopping(ledger)
        for command in commands:
            before = after
            [outcome] = run(ledger, [command])
            after = stopping(ledger)
            changed = {key for key in before | after if before.get(key) != after.get(key)}
            assert {whose for whose, _ in changed} <= {changed_by(command, outcome)}
            assert outcome.accepted or not changed
            for key in changed:
                was, now = before.get(key), after.get(key)
                assert key[1] != "frozen" or was is None or now is None


# -- keys and rates ------------------------------------------------------------------------------


@histories
def test_new_keys_permit_and_deny_nothing(chance: Random) -> None:
    sides, _ = play(chance, Counter())
    world, ledger = sides.world, branch(sides.ledger)
    with rules_of(sides.setting):
        before = permits(ledger, world), held(ledger)
        for domain in [each["domain"] for each in world.domains]:
            body = {"domain": domain, "governance_key": public_of(f"{domain} z1")}
            has = find(world.domains, domain=domain)
            assert has is not None
            body |= {"cosigner_key": has["cosigner_key"]}
            given_up = command_of(world, (domain, "domain.rekey", body), "f" * 32, world.time)
            signers = given_up.signers | {body["governance_key"]}
            run(ledger, [replace(given_up, signers=signers)])
        assert (permits(ledger, world), held(ledger)) == before


def rated(ledger: Ledger, rates: Rates | None) -> Ledger:
    other = branch(ledger)
    state.save_federation(other.store, replace(other.view.federation(), rates=rates))
    return other


def used_up(world: World) -> Iterator[Deed]:
    """One command that is counted, of everybody who signs any. It may be refused."""
    for each in world.domains:
        yield each["domain"], "trust.open", {**EDGE, "trustee": each["domain"]}
    for each in world.active_nodes():
        body = {"executor": f"spiffe://{each['domain']}/agent/a", "lease": "0" * 32, "ttl_ms": 0}
        yield each["node"], "lease.renew", body


EDGE = {"edge": "zz", "actions": ["*"], "resources": ["//a.example/*"]}


@histories
def test_rates_keep_nobody_from_taking_back(chance: Random) -> None:
    """One a minute, and that is used up: what takes back comes to the same, and what gives to the
    same, or to nothing."""
    sides, _ = play(chance, Counter())
    world, at = sides.world, sides.world.time
    if world.protocol == 1:
        return
    ledger = rated(sides.ledger, Rates(1, 1))
    with rules_of(sides.setting):
        run(ledger, [command_of(world, deed, "a" * 32, at) for deed in used_up(world)])
        for place in range(8):
            is_narrowing = place < 5
            deeds = narrowings(world, chance) if is_narrowing else widenings(world, chance)
            added = command_of(world, any_of(deeds, chance), f"{place:032x}", at)
            free = rated(ledger, None)
            [said], [freely] = run(ledger, [added]), run(free, [added])
            if added.verb in COUNTED_IN_PLACE:  # of what it takes the place of, nobody knows more
                assert said.reason in (freely.reason, Reason.RATE_LIMITED)
            elif is_narrowing:
                assert (said.reason, said.thing) == (freely.reason, freely.thing)
                assert permits(ledger, world) == permits(free, world)
            else:
                assert said.reason in (freely.reason, Reason.RATE_LIMITED)
                assert permits(ledger, world) <= permits(free, world)
