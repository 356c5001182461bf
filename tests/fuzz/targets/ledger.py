"""What the replicated log carries, and what becomes of it: payloads, entries, whole ledgers."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

from tests.fuzz.harness import SEPARATOR, Bounds, attempt, target
from tests.unit.core.conftest import World, copied, live

from quorate.cli.ledger_check import command_payload
from quorate.cli.ledger_members import Members
from quorate.core import codec, dsse, effects, entries, explaining, invariants
from quorate.core.commands import parse_command
from quorate.core.decision import DecisionRequest
from quorate.core.errors import MalformedError
from quorate.core.limits import MAX_ENTRY_BYTES
from quorate.core.outcome import Reason
from quorate.core.replaying import Replay
from quorate.core.store import Reader
from quorate.core.succession import Succession
from quorate.core.transitions import Applied
from quorate.core.vetting import Vetting
from quorate.node.introduction import _accepted_order
from quorate.proofs.signing import sign_envelope

MAX_COMMANDS = 6
_ASKED = ("read", "payments.transfer")


@cache
def lived() -> World:
    """Something of every kind. No target changes it."""
    world = World()
    world.setup()
    return live(world)


@cache
def _replayed() -> Replay:
    replay = Replay(lived().federation.parsed_genesis())
    for entry in lived().entries:
        replay.take(entry)
    return replay


def _replay() -> Replay:
    replay = copy.copy(_replayed())
    replay._store = copied(_replayed()._store)
    return replay


def another() -> World:
    """A copy, to be changed."""
    world = copy.copy(lived())
    world.store = copied(lived().store)
    world.entries = list(lived().entries)
    return world


def vet(state: Reader) -> None:
    """Raises MalformedError for a state that can be none."""
    vetting = Vetting(state)
    while not vetting.step(1_000_000):
        pass


def succeed(before: Reader, after: Reader) -> None:
    """Raises MalformedError where one state cannot have become of the other."""
    succession = Succession(before, after)
    while not succession.step(1_000_000):
        pass


def envelope_of(part: bytes, world: World) -> bytes:
    """What a part of an input stands for: an object with `type`, `issuer` and `body` is a command
    that its issuer signs; whatever else is there counts too. All other bytes stand for themselves.
    """
    value = attempt(MalformedError, codec.decode, part, MAX_ENTRY_BYTES)
    if not isinstance(value, dict) or not {"type", "issuer", "body"} <= value.keys():
        return part
    usual: dict[str, Any] = {
        "v": 1,
        "origin": world.federation.origin,
        "nonce": f"{len(world.entries):032x}",
        "not_after": world.now + 60_000,
    }
    payload = codec.encode(usual | value)
    known = isinstance(value["issuer"], str)
    key = attempt(KeyError, world.federation.key_of, value["issuer"]) if known else None
    return sign_envelope(dsse.COMMAND_TYPE, payload, key or world.bank.governance)


@target(
    "quorate.core.transitions",
    "quorate.core.entries",
    "quorate.core.replaying",
    bounds=Bounds(steps=(2_000_000, 400), allocated=(8 * 1024 * 1024, 2_000)),
)
def payloads(data: bytes) -> None:
    """Nothing that the log can carry is a fault; what becomes of it can be read, is the same when
    it is decided again, and leaves a state that keeps its promises."""
    world, replay = another(), _replay()
    for part in data.split(SEPARATOR)[:MAX_COMMANDS]:
        before = copied(world.store)
        envelope = envelope_of(part, world)
        applied = world.apply(envelope)
        assert applied.fault is None, applied.fault
        assert applied.outcome.reason is not Reason.INTERNAL
        if applied.entry is not None:
            _check_entry(applied.entry, applied, world)
            assert replay.take(applied.entry).seq == applied.outcome.index
            assert len(applied.entry) <= MAX_ENTRY_BYTES
        if applied.outcome.accepted:
            assert invariants.check(world.view) == []
            vet(world.store)
            succeed(before, world.store)


def _check_entry(data: bytes, applied: Applied, world: World) -> None:
    entry = entries.parse(data)
    assert (entry.kind, entry.reason) == (applied.kind, applied.outcome.reason)
    assert (entry.seq, entry.thing) == (applied.outcome.index, applied.outcome.thing)
    effect = effects.effect_of(entry.seq, data)
    assert effect is None or (entry.accepted and effect.ledger_time == entry.time == world.now)


@target("quorate.core.codec", "quorate.core.transitions", bounds=Bounds(steps=(400_000, 200)))
def stamped_payload(data: bytes) -> None:
    world = another()
    applied = world.apply_payload(data)
    assert applied.fault is None
    if applied.entry is not None:
        _replay().take(applied.entry)


@target(
    "quorate.core.entries", "quorate.core.effects", "quorate.cli.ledger_check", "quorate.core.rows"
)
def entry(data: bytes) -> None:
    """Who reads an entry strictly, and who reads it as this node's own, agree."""
    parsed = attempt(MalformedError, entries.parse, data)
    effect = attempt(MalformedError, effects.effect_of, 7, data)
    value = attempt(MalformedError, codec.load, data)
    if isinstance(value, dict):
        command_payload(value)
    if parsed is not None and effect is not None:
        assert parsed.accepted
        assert (effect.index, effect.ledger_time) == (7, parsed.time)
    if parsed is not None and parsed.kind == "node.add" and isinstance(parsed.command, dict):
        order = _accepted_order(data, parsed.thing)
        assert not order or codec.decode(order, MAX_ENTRY_BYTES) == parsed.command


@target(
    "quorate.core.replaying",
    "quorate.cli.ledger_members",
    "quorate.core.explaining",
    bounds=Bounds(steps=(200_000, 400), allocated=(4 * 1024 * 1024, 2_000)),
)
def ledger(data: bytes) -> None:
    """As a node shows it: to who decides it all again, and to who repeats what is of members."""
    replay, members = Replay(_genesis()), Members(_genesis())
    attempt(MalformedError, replay.take, lived().entries[0])
    for part in data.split(SEPARATOR)[:MAX_COMMANDS]:
        if attempt(MalformedError, replay.take, part) is None:
            break
    for part in data.split(SEPARATOR)[:MAX_COMMANDS]:
        attempt(MalformedError, _learn, members, part)
    for action in _ASKED:
        asked = DecisionRequest(lived().agent, action, "//bank.example/accounts/7")
        explaining.explain(replay.view, asked, lived().now)


@cache
def _genesis() -> Any:
    return lived().federation.parsed_genesis()


def _learn(members: Members, data: bytes) -> None:
    """As `quorate.cli.ledger_check` does."""
    value = codec.decode(data, MAX_ENTRY_BYTES)
    if not isinstance(value, dict):
        raise MalformedError("not an object")
    members.reach(value)
    envelope = dsse.from_json(value.get("command"), "command")
    command = parse_command(envelope.payload, members.protocol)
    members.check(command, envelope)
    members.learn(command, envelope, value)
