"""The ledger and the model, side by side: each command is judged by both.

Owns how commands are signed and handed to the ledger, what is compared, and making a history that
shows a difference short.

Verifying Ed25519 takes half of the time that executing a command takes, and says nothing about the
rules: with `is_cheap`, a signature is a hash of the key and the message, made and verified here.
Descriptors are real in any case, and then each is verified once.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from random import Random
from typing import Any, Final

from tests.property.core.naive import deciding, freezing
from tests.property.core.naive.cast import (
    ACTIONS,
    CONTEXTS,
    FOUNDERS,
    JOINERS,
    PATHS,
    SMALL_LIMITS,
)
from tests.property.core.naive.histories import Author
from tests.property.core.naive.keying import OFFLINE, SPARE
from tests.property.core.naive.model import hand_in
from tests.property.core.naive.noting import Came, freezes_of, links_of, note
from tests.property.core.naive.showing import AGENT, AS_ASKED, STRANGER
from tests.property.core.naive.world import (
    LATER,
    LIMITS,
    NO_RATES,
    Command,
    No,
    Said,
    World,
    find,
    public,
    signed,
)

from quorate.core import acts, codec, dsse
from quorate.core.decision import DecisionRequest, check_lease, decide
from quorate.core.genesis import parse_descriptor
from quorate.core.limits import PROTOCOL_VERSION
from quorate.core.outcome import Decision, Deny, Outcome
from quorate.core.store import MemoryStore
from quorate.core.verifying.measurement import MEASURED, STATEMENT_TYPE, statement_of
from quorate.proofs.signing import SigningKey, sign_envelope
from quorate.testing.builders import CREATED_MS, ORIGIN, Federation, Ledger, Organisation, key_for

MEMBERS: Final = {
    name: Organisation.named(name, f"127.0.0.1:{7401 + 10 * place}")
    for place, name in enumerate(FOUNDERS)
} | {
    name: Organisation.named(name, f"127.0.0.1:{9000 + place}")
    for place, name in enumerate(JOINERS)
}
LENGTHS: Final = (12, 70)
"""The least and the most commands of a history."""
ASKING: Final = 0.3
"""How often a permit is asked for after a command; at the end of a history it is anyhow."""


@dataclass(frozen=True)
class Setting:
    """What a history begins with. founders: how many domains the genesis has. version: of the
    protocol. is_small: whether limits are. is_cheap: whether signatures are."""

    founders: int = 3
    version: int = 2
    is_small: bool = False
    is_cheap: bool = True

    @classmethod
    def any_of(cls, chance: Random, *, is_cheap: bool = True) -> Setting:
        founders, version = chance.choice((1, 2, 3, 3, 3, 4, 4)), chance.choice((1, 2, 2))
        return cls(founders, version, chance.random() < 0.5, is_cheap)


class DifferenceError(AssertionError):
    """The ledger and the model disagree. history: how it began, and the commands so far."""

    history: tuple[Setting, list[Command]]


class Sides:
    """One history, as far as it has come."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.ledger = begun(setting)
        limits = LIMITS | (SMALL_LIMITS if setting.is_small else {})
        self.world = World(ORIGIN, CREATED_MS, setting.version, limits, size=0)
        for name in FOUNDERS[: setting.founders]:
            self.world.join(signed(descriptor_of(name)))
        self.world.size = 1
        self.payloads: list[bytes] = []

    def judge(self, command: Command) -> Said:
        """Has both judge a command. Raises DifferenceError."""
        command = self._quoting(command)
        payload = codec.stamp(command.at, sign(command, is_cheap=self.setting.is_cheap))
        self.payloads.append(payload)
        said = hand_in(self.world, command)
        applied = self.ledger.apply_payload(payload)
        if command.verb == "attestation.challenge" and not said.reason and not said.is_repeat:
            who = find(self.world.executors, executor=command.body["executor"])
            assert who is not None
            who["challenge"]["text"] = applied.outcome.result.get("challenge")
        compare_outcomes(command, said, applied.outcome)
        if applied.fault is not None or (applied.entry is None) != said.is_repeat:
            raise DifferenceError(f"{command}: {applied}")
        return said

    def _quoting(self, command: Command) -> Command:
        """The command with the challenge that its executor has to answer now."""
        if command.verb != "attestation.report":
            return command
        who = find(self.world.executors, executor=command.body["executor"])
        text = who["challenge"]["text"] if who and who["challenge"] else "0" * 64
        body, evidence = dict(command.body), dict(command.body["evidence"])
        for said in (body, evidence):
            said["challenge"] = text if said["challenge"] == AS_ASKED else said["challenge"]
        return replace(command, body=body | {"evidence": evidence})

    def ask(  # in the order of a request
        self, executor: str, action: str, resource: str, now: int, context: Sequence[str] = ()
    ) -> str:
        """Asks both for a permit; the reason, empty for a yes. Raises DifferenceError."""

        def expected() -> list[str]:
            asked = executor, action, resource, now, context
            return deciding.decide(self.world, *asked).relied_on()

        request = DecisionRequest(executor, action, resource, tuple(context))
        return compare_decisions(request, expected, decide(self.ledger.view, request, now))

    def check(self, asked: Sequence[str], now: int) -> str:
        """Asks both whether a lease may be acted on. asked: the lease, the executor, the action and
        the resource. Raises DifferenceError."""
        lease, executor, action, resource = asked

        def expected() -> list[str]:
            basis: deciding.Basis = deciding.check(self.world, asked, now)["_basis"]
            return basis.relied_on()

        decision, _ = check_lease(self.ledger.view, lease, executor, action, resource, now)
        return compare_decisions(asked, expected, decision)

    def compare_states(self) -> None:
        """Every record. Raises DifferenceError."""
        view, world = self.ledger.view, self.world
        pairs = (
            ("domain", view.domains(), world.domains),
            ("node", view.nodes(), world.nodes),
            ("executor", view.executors(), world.executors),
            ("truster", view.trust_edges(), world.edges),
            ("issuer", view.grants(), world.grants),
            ("lease", view.leases(), world.leases),
            ("proposal", view.proposals(), world.proposals),
            ("thing", view.containments(), world.contained),
            ("name", view.all_references(), world.references),
            ("owner", view.all_policies(), world.policies),
        )
        for name, records, things in pairs:
            own = {"truster": "edge", "issuer": "grant", "name": "domain"}.get(name, name)
            known = {(each[name], each[own]): each for each in things}
            found = [record.to_json() for record in records]
            if len(known) != len(found):
                raise DifferenceError(f"{len(found)} of {name}, where {len(known)} are expected")
            for record in found:
                expected = known.get((record[name], record[own]))
                if expected is None:
                    raise DifferenceError(f"{name} {record['id']} is not expected")
                _same(f"{name} {record['id']}", public(expected), record)
                if name == "lease":
                    relied_on = {"relied on": expected["_basis"].relied_on()}
                    given = {"relied on": sorted(_depends_on(record))}
                    _same(f"lease {record['id']}", relied_on, given)
        rules = dict.fromkeys(world.thresholds, "majority") | dict(view.thresholds())
        _same("thresholds", world.thresholds, rules)
        _same("time", {"": world.time}, {"": view.ledger_time()})
        present, ever = dict(world.parameters[-1]), world.parameters
        widest = {name: max(each[name] for each in ever) for name in present}
        told: dict[str, object] = {"protocol": world.protocol, "parameters": present}
        record = view.federation().to_json()
        told |= {"widest": widest, "rates": world.rates, "policies": world.mark}
        told["frozen"] = freezing.of(world, world.origin)
        for domain in view.domains():
            told_of = {"frozen": freezing.of(world, domain.id)}
            _same(f"domain {domain.id}", told_of, domain.to_json())
        _same("federation", told, {"widest": present, "rates": NO_RATES} | record)
        _same("heads", world.heads, {node: view.lineage_head(node) for node in world.heads})


# -- comparing -----------------------------------------------------------------------------------


def compare_outcomes(command: Command, said: Said, outcome: Outcome) -> None:
    result = plain(said.result)
    expected = {"reason": said.reason, "index": said.index, "repeat": said.is_repeat, **result}
    found = {
        **{name: outcome.result.get(name) for name in result},
        "reason": str(outcome.reason or ""),
        "index": outcome.index,
        "repeat": outcome.duplicate,
    }
    if not said.reason and "reason" in result:  # why a ballot's act has failed
        expected["reason"], found["reason"] = result["reason"], outcome.result.get("reason")
    _same(str(command), expected, found)
    if outcome.accepted != (said.reason == "") or outcome.thing not in said.things:
        raise DifferenceError(f"{command}: {outcome}, expected {said}")


def compare_decisions(asked: object, expected: Callable[[], list[str]], found: Decision) -> str:
    try:
        relied_on = expected()
    except No as no:
        if not isinstance(found, Deny) or (found.reason, found.thing) not in [
            (no.reason, thing) for thing in no.things
        ]:
            raise DifferenceError(f"{asked}: {found}, expected {no}") from None
        return no.reason
    if isinstance(found, Deny) or sorted(found.depends_on) != relied_on:
        raise DifferenceError(f"{asked}: {found}, expected a permit by {relied_on}")
    return ""


def _depends_on(record: Mapping[str, Any]) -> list[str]:
    return list(record["depends_on"])


def plain(said: Mapping[str, Any]) -> dict[str, Any]:
    """As it is written: what a later version has brought stands nowhere while it says nothing."""
    return {k: None if k in LATER and v == LATER[k] else v for k, v in said.items()}


def _same(what: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    for name, value in plain(expected).items():
        if found.get(name) != value:
            raise DifferenceError(f"{what}: {name} is {found.get(name)!r}, expected {value!r}")


# -- whole histories -----------------------------------------------------------------------------


def play(chance: Random, came: Came, *, is_cheap: bool = True) -> tuple[Sides, list[Command]]:
    """Makes up a history, has both sides judge it, and compares. Raises DifferenceError."""
    setting = Setting.any_of(chance, is_cheap=is_cheap)
    sides = Sides(setting)
    descriptors = {name: descriptor_of(name) for name in MEMBERS}
    author = Author(chance, sides.world, descriptors, public_of)
    commands: list[Command] = []
    try:
        with rules_of(setting):
            for _ in range(chance.randint(*LENGTHS)):
                commands.append(author.next())
                note(came, sides.world, commands[-1], sides.judge(commands[-1]))
                if chance.random() < ASKING:
                    came["decide", sides.ask(*author.question(), sides.world.time)] += 1
                    check_all(sides, came, sides.world.time, linked=True)
            examine(sides, chance, author, came)
    except DifferenceError as error:
        error.history = setting, commands
        raise
    return sides, commands


def examine(sides: Sides, chance: Random, author: Author, came: Came) -> None:
    """Everything that can be asked at the end of a history, or much of it."""
    sides.compare_states()
    now = sides.world.time + chance.choice((0, 1, 1_000, 30_000))
    for _ in range(12):
        came["decide", sides.ask(*author.question(), now)] += 1
    check_all(sides, came, now)
    other = author.held()
    came["check", sides.check((other[1], author.anybody(), *author.question()[1:]), now)] += 1


def check_all(sides: Sides, came: Came, now: int, *, linked: bool = False) -> None:
    """Checks every lease by its own executor; or those alone that rest on several links, or whose
    resource is frozen, and are not over by themselves."""
    for lease in sides.world.leases:
        links = links_of(lease)
        is_one = links or freezes_of(sides.world, lease)
        if linked and (not is_one or lease["status"] != "active" or now >= lease["expires_at"]):
            continue
        reason = sides.check((lease["lease"], lease["executor"], "", ""), now)
        came["check", reason] += 1
        for each in links:
            came[f"check {each}", reason] += 1
        for each in freezes_of(sides.world, lease):
            came[f"check {each}", reason] += 1


def replay(setting: Setting, commands: Sequence[Command]) -> Sides:
    """The same commands again, on both sides. Raises DifferenceError."""
    sides = Sides(setting)
    with rules_of(setting):
        for command in commands:
            sides.judge(command)
        sides.compare_states()
        _ask_everything(sides)
    return sides


def _ask_everything(sides: Sides) -> None:
    world = sides.world
    for grant, action, path in product(world.grants, ACTIONS, PATHS):
        asked = grant["executor"], action, f"//{grant['issuer']}/{path}", world.time
        for context in ((), *CONTEXTS) if world.protocol > 1 else ((),):
            sides.ask(*asked, context)
    for each, owner in product(world.executors, world.domains):  # without a grant, too
        for now in (world.time, *lapses_of(world, each["executor"])):
            resource = f"//{owner['domain']}/{PATHS[0]}"
            sides.ask(each["executor"], ACTIONS[0], resource, max(now, world.time))
    for lease in world.leases:
        lapses = lapses_of(world, lease["executor"])
        for now in (world.time, lease["expires_at"] - 1, lease["expires_at"], *lapses):
            sides.check((lease["lease"], lease["executor"], "", ""), max(now, world.time))


def lapses_of(world: World, executor: str) -> list[int]:
    """When what an executor has proved counts no more."""
    who = find(world.executors, executor=executor)
    assert who is not None
    ages = {each["name"]: each["max_age_ms"] for each in deciding.references_for(world, who)}
    held = [each for each in who["attestations"] if each["reference"] in ages]
    return [each["challenged_at"] + ages[each["reference"]] for each in held]


def shortest(setting: Setting, commands: list[Command]) -> list[Command]:
    """A part of a history that still shows a difference, of which nothing can be left out."""

    def differs(some: list[Command]) -> bool:
        try:
            replay(setting, some)
        except DifferenceError:
            return True
        return False

    size = len(commands)
    while size:
        place = 0
        while place < len(commands):
            less = commands[:place] + commands[place + size :]
            if differs(less):
                commands = less
            else:
                place += size
        size //= 2
    return commands


# -- signing, and the limits ---------------------------------------------------------------------


def sign(command: Command, *, is_cheap: bool) -> bytes:
    """The envelope of a command."""
    payload = codec.encode(
        {
            "v": PROTOCOL_VERSION,
            "origin": command.origin,
            "type": command.verb,
            "issuer": command.issuer,
            "nonce": command.nonce,
            "not_after": command.not_after,
            "body": body_of(command, is_cheap=is_cheap),
        }
    )
    used = [KEYS[public] for public in sorted(command.signers)]
    used = used or [key_of(command.key or command.issuer)]
    return _signed(dsse.COMMAND_TYPE, payload, *used, is_cheap=is_cheap)


def body_of(command: Command, *, is_cheap: bool) -> Mapping[str, Any]:
    """Its body, with evidence as it is sent."""
    told = command.body.get("evidence")
    if command.verb != "attestation.report" or not isinstance(told, dict):
        return command.body
    said = {"origin": command.origin, "executor": told["executor"], "challenge": told["challenge"]}
    said |= {"environment": told["environment"]} if told["environment"] else {}
    payload = statement_of(told["image"], MEASURED, said)
    [key] = [key for key in map(key_for, (AGENT, STRANGER)) if key.public.hex() == told["by"]]
    envelope = _signed(STATEMENT_TYPE, payload, key, is_cheap=is_cheap)
    return {**command.body, "evidence": {"measurement": json.loads(envelope)}}


def _signed(kind: str, payload: bytes, *used: SigningKey, is_cheap: bool) -> bytes:
    if not is_cheap:
        return sign_envelope(kind, payload, *used)
    message = dsse.pae(kind, payload)
    marks = tuple(dsse.Signature(key.keyid, _mark(key.public, message)) for key in used)
    return dsse.Envelope(payload, kind, marks).to_bytes()


KEYS: Final[dict[str, SigningKey]] = {}
"""Those that were named, by public key."""


def public_of(name: str) -> str:
    """The public key, in hex, that belongs to a name."""
    key = key_for(name)
    KEYS[key.public.hex()] = key
    return key.public.hex()


for _member in MEMBERS:
    for _purpose in ("governance", "cosigner", *SPARE, *OFFLINE, "c1", "c2"):
        public_of(f"{_member} {_purpose}")


def key_of(issuer: str) -> SigningKey:
    """The key of a domain or a node, which follows from its name."""
    if not issuer.startswith("spiffe://"):
        return key_for(f"{issuer} governance")
    first = [member.signing for member in MEMBERS.values() if member.node == issuer]
    return first[0] if first else key_for(f"{issuer} signing")


@cache
def descriptor_of(name: str) -> dict[str, Any]:
    envelope: dict[str, Any] = json.loads(MEMBERS[name].descriptor())
    return envelope


@contextmanager
def rules_of(setting: Setting) -> Iterator[None]:
    """The ledger goes by the history's limits and signatures meanwhile."""
    changed: list[tuple[Any, str, Any]] = []

    def put(module: Any, name: str, value: Any) -> None:
        changed.append((module, name, getattr(module, name)))
        setattr(module, name, value)

    try:
        for name, value in SMALL_LIMITS.items() if setting.is_small else ():
            for module in _holding(name):
                put(module, name, value)
        if setting.is_cheap:
            put(dsse, "verify_bytes", _verify_mark)
            put(acts, "parse_descriptor", _parse_descriptor)
        yield
    finally:
        for module, name, value in reversed(changed):
            setattr(module, name, value)


@cache
def _holding(name: str) -> tuple[Any, ...]:
    """The modules that go by a limit. How many grants a decision looks at is no limit of what there
    can be: those that are over are more."""
    return tuple(
        module
        for path, module in sorted(sys.modules.items())
        if path.startswith("quorate.core.")
        and hasattr(module, name)
        and not (name == "MAX_GRANTS_PER_EXECUTOR_AND_ISSUER" and path.endswith(".decision"))
    )


def _mark(public_key: bytes, message: bytes) -> bytes:
    return hashlib.sha512(public_key + message).digest()


_verify_really = dsse.verify_bytes
_parse_descriptor = cache(parse_descriptor)


def _verify_mark(public_key: bytes, signature: bytes, message: bytes) -> bool:
    is_marked = signature == _mark(public_key, message)
    return is_marked or _verify_really(public_key, signature, message)


@cache
def _genesis(founders: int, version: int) -> Ledger:
    return Ledger(Federation.build(FOUNDERS[:founders], version=version))


def begun(setting: Setting) -> Ledger:
    """A ledger with nothing but its genesis."""
    return branch(_genesis(setting.founders, setting.version))


def branch(ledger: Ledger) -> Ledger:
    """Another ledger that goes on from here."""
    other = copy(ledger)
    other.entries, other.store = [*ledger.entries], MemoryStore()
    for key, value in ledger.store.items():
        other.store.put(key, value)
    return other
