"""Records, and whole states of other nodes, before this one lives by them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from tests.fuzz.harness import SEPARATOR, Bounds, attempt, passes, target
from tests.fuzz.targets.ledger import another, lived, succeed, vet
from tests.unit.core.conftest import BANK, CLINIC, NODE, copied

from quorate.core import codec, keys
from quorate.core.acts import ACTS
from quorate.core.errors import MalformedError, StorageDamagedError
from quorate.core.outcome import Reason
from quorate.core.records import Federation, Kind
from quorate.core.remembered import Remembered
from quorate.core.state import StateView, list_records, parse_lasting, record_json
from quorate.core.store import MemoryStore
from quorate.core.stored import PARSERS
from quorate.core.thresholds import thresholds_from_json, thresholds_to_json
from quorate.core.vetting import read_node
from quorate.testing.builders import acquire_body, grant_body, narrow_body, node_body

MAX_CHANGES = 8
_KINDS = tuple(PARSERS)


@target(
    "quorate.core.records", "quorate.core.stored", "quorate.core.proposals", "quorate.core.rows"
)
def record(data: bytes) -> None:
    """An input is the kind, and the record."""
    kind = _KINDS[data[0] % len(_KINDS)] if data else Kind.NODE
    value = attempt(MalformedError, codec.decode_flat, data[1:])
    found = attempt(MalformedError, PARSERS[kind], value)
    if found is not None:
        assert PARSERS[kind](found.to_json()) == found
        assert isinstance(found.id, str)
    if kind is not Kind.LEASE:
        attempt(StorageDamagedError, parse_lasting, kind, data[1:])


@target("quorate.core.records", "quorate.core.remembered", "quorate.core.thresholds")
def other_record(data: bytes) -> None:
    value = attempt(MalformedError, codec.decode_flat, data)
    federation = attempt(MalformedError, Federation.from_json, value)
    assert federation is None or codec.encode(federation.to_json())
    remembered = attempt(MalformedError, Remembered.from_json, value)
    assert remembered is None or Remembered.from_json(remembered.to_json()) == remembered
    thresholds = attempt(MalformedError, thresholds_from_json, value)
    assert thresholds is None or thresholds_to_json(thresholds) == value


def changed(data: bytes) -> MemoryStore:
    """The state that an input stands for: pairs instead of those that there are. Each begins with
    the length of its key; without a value, the pair is gone."""
    store = copied(lived().store)
    for part in data.split(SEPARATOR)[:MAX_CHANGES]:
        end = 1 + (part[0] if part else 0)
        key, value = part[1:end], part[end:]
        if value == b"\x00":
            store.put(key, b"")
        elif value:
            store.put(key, value)
        else:
            store.delete(key)
    return store


@cache
def _commands() -> tuple[bytes, ...]:
    """What a node may be given next: something of each kind."""
    world = another()
    agent, node = world.agent, world.clinic.node
    held = [lease.id for lease in world.view.leases()]
    grant = grant_body("new", agent, [f"//{BANK}/accounts/*"], max_depth=2)
    grant |= {"conditions": [{"name": "ticket", "values": ["OPS-*"]}]}
    told = acquire_body(agent, "payments.read", f"//{BANK}/accounts/7", context=["ticket=OPS-7"])
    proposals = [each.id for each in world.view.proposals()]
    given: list[tuple[str, str, Mapping[str, object]]] = [
        (CLINIC, "resources.thaw", {}),
        (BANK, "grant.issue", grant),
        (node, "lease.acquire", acquire_body(agent, "payments.read", f"//{BANK}/accounts/7")),
        (node, "lease.acquire", told),
        (
            node,
            "lease.acquire",
            acquire_body(agent, "payments.read", f"//{BANK}/x", 0, held[:1]),
        ),
        *((node, "lease.renew", {"lease": i, "executor": agent, "ttl_ms": 0}) for i in held[:3]),
        *((node, "lease.release", {"lease": i, "executor": agent}) for i in held[:2]),
        (BANK, "trust.narrow", narrow_body("edge", [f"//{BANK}/accounts/*"])),
        (BANK, "node.add", node_body(f"spiffe://{BANK}/node/9", "127.0.0.1:7999")),
        (BANK, "node.retire", {"node": NODE}),
        *((BANK, "ballot.cast", {"proposal": i, "choice": "yes"}) for i in proposals),
        (CLINIC, "executor.reinstate", {"executor": world.clinic.executor("other")}),
        (CLINIC, "executor.revoke", {"executor": agent}),
        (BANK, "domain.suspend", {"domain": BANK}),
    ]
    return tuple(
        world.federation.command(issuer, kind, body, f"{n:032x}", world.now + 60_000)
        for n, (issuer, kind, body) in enumerate(given, 10_000)
    )


@target(
    "quorate.core.vetting.walk",
    "quorate.core.vetting.records",
    "quorate.core.succession",
    "quorate.core.proofs_kept",
    "quorate.core.state.view",
    "quorate.core.keys",
    bounds=Bounds(steps=(600_000, 400), allocated=(8 * 1024 * 1024, 2_000)),
)
def vetted_state(data: bytes) -> None:
    """A state that passes stops nobody who reads it."""
    store = changed(data)
    attempt(MalformedError, read_node, store, NODE)
    if not passes(MalformedError, vet, store):
        return
    view = StateView(store)
    for kind in Kind:
        for ident, _ in list_records(view, kind, "", 1_000):
            assert record_json(view, kind, ident) is not None
    assert any(view.thresholds().keys() <= acts.keys() for acts in ACTS.values())
    attempt(MalformedError, succeed, lived().store, store)


@target(
    "quorate.core.state.view",
    "quorate.core.state.writing",
    "quorate.core.transitions",
    bounds=None,
    inputs="vetted_state",
)
def governed_state(data: bytes) -> None:
    """Nor who executes commands on it: none of them is a fault."""
    store = changed(data)
    if not passes(MalformedError, vet, store):
        return
    world = another()
    world.store, world.now = store, max(world.now, StateView(store).ledger_time())
    for command in _commands():
        applied = world.apply(command)
        assert applied.outcome.reason is not Reason.INTERNAL, applied.fault


@target("quorate.core.keys", "quorate.core.state.view")
def key(data: bytes) -> None:
    """Any text may be asked for, whatever kind it is meant to be of."""
    ident = data.decode("utf-8", "surrogateescape")
    view = lived().view
    for kind in Kind:
        if kind is not Kind.FEDERATION:
            assert keys.record(kind, ident) is None or ident.isascii()
        record_json(view, kind, ident)
        list_records(view, kind, ident, 3)
