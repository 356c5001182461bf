"""The keys of domains: who has to sign, what is done with keys that are over, and new ones.

Whoever has signed a command is a set of keys, no more; that signatures are what they should be is
another matter. Sources: docs/keys.md, docs/ledger.md.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from tests.property.core.naive.rules import Yes, change, is_own
from tests.property.core.naive.world import Command, No, Thing, World

ALONE: dict[str, Any] = {
    "governance_keys": [],
    "threshold": 1,
    "recovery_keys": [],
    "recovery_threshold": 0,
    "not_after": 0,
}
"""What holds of a domain that has said nothing else."""

KEYS = ("governance_key", "cosigner_key", "key_set")

EVEN_WHEN_OVER = (
    "executor.suspend",
    "executor.revoke",
    "executor.contain",
    "trust.narrow",
    "trust.close",
    "grant.suspend",
    "grant.revoke",
    "resources.freeze",
    "domain.suspend",
)


def terms(keys: Mapping[str, Any]) -> Mapping[str, Any]:
    return keys.get("key_set") or ALONE


def governing(keys: Mapping[str, Any]) -> set[str]:
    return {keys["governance_key"], *terms(keys)["governance_keys"]}


def recovering(keys: Mapping[str, Any]) -> set[str]:
    return {*terms(keys)["recovery_keys"]}


def by_governance(domain: Thing, command: Command) -> bool:
    return len(governing(domain) & command.signers) >= terms(domain)["threshold"]


def by_recovery(domain: Thing, command: Command) -> bool:
    """Recovery keys give new keys, and do nothing else."""
    needed = terms(domain)["recovery_threshold"]
    signed = len(recovering(domain) & command.signers)
    return command.verb == "domain.rekey" and needed > 0 and signed >= needed


def signed_enough(domain: Thing, command: Command) -> None:
    if by_governance(domain, command) or by_recovery(domain, command):
        return
    counted = governing(domain)
    if command.verb == "domain.rekey":
        counted |= recovering(domain)
    some = counted & command.signers
    raise No("TOO_FEW_SIGNATURES" if some else "BAD_SIGNATURE", command.issuer)


def in_their_time(world: World, domain: Thing, command: Command) -> None:
    end = terms(domain)["not_after"]
    is_over = end != 0 and world.time >= end
    if is_over and command.verb not in EVEN_WHEN_OVER and not by_recovery(domain, command):
        raise No("KEY_EXPIRED", domain["domain"])


def wholly_signed(world: World, by: Thing, command: Command) -> None:
    """Whoever passes a command on can take signatures away from it. What would have become of it
    with them is not lost by that."""
    body, domain = command.body, by["domain"]
    is_its_own = command.verb == "domain.rekey" and command.issuer == domain == body["domain"]
    if not is_its_own or is_same(by, body):
        return
    if recovering(by) and not by_recovery(by, command):
        offline = ("recovery_keys", "recovery_threshold")
        if any(terms(by)[name] != terms(body)[name] for name in offline):
            raise No("NOT_AUTHORIZED", domain)
        in_their_time(world, by, command)
        most = world.limits["MAX_REKEYINGS_PER_DOMAIN"]
        if most - world.limits["REKEYINGS_FOR_RECOVERY"] <= by["rekeyings"] < most:
            raise No("LIMIT_EXCEEDED", domain)
    for key in fresh(by, body):
        if key not in command.signers:
            raise No("BAD_SIGNATURE", key)


def digest_of(certificate: str) -> str:
    der = b64decode("".join(certificate.splitlines()[1:-1]))
    return hashlib.sha256(der).hexdigest()


def has_cas(domain: Thing) -> list[str]:
    return [each for each in (domain["ca_certificate"], domain["next_ca"]) if each]


def is_same(by: Thing, body: Mapping[str, Any]) -> bool:
    has_keys = all(by.get(name) == body.get(name) for name in KEYS)
    return has_keys and body.get("ca_certificates", has_cas(by)) == has_cas(by)


def rekey_domain(world: World, by: Thing, command: Command) -> Yes:
    body, domain = command.body, by["domain"]
    is_own(by, body["domain"], body["domain"])
    if is_same(by, body):
        raise No("ILLEGAL_TRANSITION", domain)
    if 0 < terms(body)["not_after"] <= world.time:
        raise No("KEY_EXPIRED", domain)
    if by["rekeyings"] >= world.limits["MAX_REKEYINGS_PER_DOMAIN"]:
        raise No("LIMIT_EXCEEDED", domain)
    for key in fresh(by, body):
        if key in world.used_keys():
            raise No("ALREADY_EXISTS", key)
    named = body.get("ca_certificates", [])
    for ca in named:
        if ca not in has_cas(by) and ca in world.former_cas:
            raise No("ALREADY_EXISTS", digest_of(ca))
    world.former_cas += [*has_cas(by), *named] if named else []
    world.former_keys += [*sorted(governing(by) | recovering(by)), by["cosigner_key"]]
    taken = {name: body.get(name) for name in KEYS}
    taken["ca_certificate"], taken["next_ca"] = (*body.get("ca_certificates", has_cas(by)), "")[:2]
    change(world, by, **taken, rekeyings=by["rekeyings"] + 1)
    return Yes(domain)


def fresh(has: Mapping[str, Any], gets: Mapping[str, Any]) -> list[str]:
    """Keys that are to do what they did not do before, as the command names them."""
    new = [gets["governance_key"], *terms(gets)["governance_keys"]]
    new = [key for key in new if key not in governing(has)]
    new += [key for key in [gets["cosigner_key"]] if key != has["cosigner_key"]]
    return new + [key for key in terms(gets)["recovery_keys"] if key not in recovering(has)]
