"""What executors have to prove, and prove: docs/attestation.md.

Evidence is told as whoever makes it means it: who has signed, what is said, and about whom; how it
is signed is left to `sides`. Of the two kinds one is modelled, measurements, without provenance:
they differ in what they show, and not in what follows. What a challenge says is the ledger's to
make up: `sides` tells it to the model.
"""

from __future__ import annotations

from typing import Any

from tests.property.core.naive import deciding
from tests.property.core.naive.rules import Yes, change, is_own, may_widen
from tests.property.core.naive.world import Command, No, Thing, World, find, home

MINUTES_TO_ANSWER = 5


def set_reference(world: World, by: Thing, command: Command) -> Yes:
    body = command.body
    thing = f"{by['domain']}/{body['reference']}"
    for pattern in body["executors"]:
        is_own(by, home(pattern), thing)
    wanted = {k: v for k, v in body.items() if k != "reference"}
    found = find(world.references, domain=by["domain"], name=body["reference"])
    if found is None:
        if (
            len(deciding.references_of(world, by["domain"]))
            >= world.limits["MAX_REFERENCES_PER_DOMAIN"]
        ):
            raise No("LIMIT_EXCEEDED", by["domain"])
        found = {"domain": by["domain"], "name": body["reference"]}
        world.references.append(found)
    else:
        may_widen(by)
        if wanted == {k: found[k] for k in found if k not in ("domain", "name", "changed")}:
            raise No("ILLEGAL_TRANSITION", thing)
        for name in [*found]:
            if name not in ("domain", "name"):
                del found[name]
    change(world, found, **wanted)
    count(world, by)
    return Yes(thing)


def retire_reference(world: World, by: Thing, command: Command) -> Yes:
    thing = f"{by['domain']}/{command.body['reference']}"
    found = find(world.references, domain=by["domain"], name=command.body["reference"])
    if found is None:
        raise No("NOT_FOUND", thing)
    may_widen(by)
    world.references.remove(found)
    count(world, by)
    return Yes(thing)


def count(world: World, by: Thing) -> None:
    by["references"] = len(deciding.references_of(world, by["domain"]))


def challenge_executor(world: World, by: Thing, command: Command) -> Yes:
    who = asked(world, by, command)
    if not deciding.references_for(world, who):
        raise No("NOT_FOUND", who["executor"])
    who["challenge"] = {"text": "", "at": world.time}
    until = world.time + MINUTES_TO_ANSWER * 60_000
    return Yes(who["executor"], {"expires_at": until})


def report_attestation(world: World, by: Thing, command: Command) -> Yes:
    body, evidence = command.body, command.body["evidence"]
    who = asked(world, by, command)
    thing = f"{by['domain']}/{body['reference']}"
    named = [e for e in deciding.references_for(world, who) if e["name"] == body["reference"]]
    if not named:
        raise No("NOT_FOUND", thing)
    question, reference = who["challenge"], named[0]
    if question is None or question["text"] != body["challenge"]:
        raise No("NO_CHALLENGE", who["executor"])
    if world.time >= question["at"] + MINUTES_TO_ANSWER * 60_000:
        raise No("NO_CHALLENGE", who["executor"])
    if world.time >= question["at"] + reference["max_age_ms"]:
        raise No("ATTESTATION_STALE", thing)
    if evidence["by"] not in reference["signers"]:
        raise No("BAD_EVIDENCE", "evidence.measurement")
    for name, really in (("executor", who["executor"]), ("challenge", body["challenge"])):
        if evidence[name] != really:
            raise No("BAD_EVIDENCE", f"evidence.measurement.predicate.{name}")
    claims = {"signer": evidence["by"], "image": evidence["image"]}
    claims |= {"environment": evidence["environment"]} if evidence["environment"] else {}
    wrong = deciding.what_differs(reference, claims)
    if wrong:
        stop(world, who, thing)
        return Yes(who["executor"], {"failing": wrong, "suspended_for": thing})
    made = {
        "reference": reference["name"],
        "evidence": "measurement",
        "claims": claims,
        "challenged_at": question["at"],
        "reported": world.size,
    }
    living = [each["name"] for each in deciding.references_of(world, by["domain"])]
    kept = [each for each in who["attestations"] if each["reference"] in living]
    kept = [each for each in kept if each["reference"] != reference["name"]]
    who["attestations"] = sorted([*kept, made], key=lambda each: str(each["reference"]))
    who["challenge"] = None
    return Yes(who["executor"], {"fresh_until": question["at"] + reference["max_age_ms"]})


def report_drift(world: World, by: Thing, command: Command) -> Yes:
    who = asked(world, by, command)
    stop(world, who, "drift")
    return Yes(who["executor"], {"suspended_for": "drift"})


def stop(world: World, who: Thing, cause: str) -> None:
    """It is not what it was. Nothing that it has proved counts any more."""
    if who["status"] == "active":
        change(world, who, status="suspended")
    elif not who["suspended_for"]:
        who["suspended_by_domain"] = True
    who.update(failed_at=world.size, suspended_for=cause, attestations=[], challenge=None)


def asked(world: World, by: Thing, command: Command) -> Thing:
    """The executor that it is about: of the node's own domain, suspended or not."""
    executor: Any = command.body["executor"]
    is_own(by, home(executor), executor)
    who = find(world.executors, executor=executor)
    if who is None:
        raise No("UNKNOWN_EXECUTOR", executor)
    if who["status"] == "revoked":
        raise No("EXECUTOR_REVOKED", executor)
    return who
