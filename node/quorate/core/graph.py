"""The graph of what came from what: made of the ledger, entry by entry, and asked about any index.

Owns the rows that an entry adds to it, and what is read of them: what a lease came from and what
came from it, what relied on a thing, and how each lease stood before an entry and after it. It
takes part in no decision and no snapshot; each node makes its own, from its ledger and the records
of its state, and can make it anew at any time. Pure: where the rows lie is `quorate.storage`'s.

    m                              how far it goes: entries, and the hash of the last
    l lease                        its index, its ancestors and how far up each is
    d lease 0 depth index          what came from it, the nearest first
    r H(thing) index               the leases that relied on it
    g H(thing) index               the grants that were passed on of it, or by it
    s H(thing) ~index              what entries did to it, the newest first

Indexes are 8 bytes, big-endian; ~ is their complement. A lease relies on whatever an entry of the
ledger can stop it by (`quorate.core.effects.things_of`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from quorate.core import codec, keys
from quorate.core.bodies import AcquireLease, NarrowTrust, RenewLease
from quorate.core.commands import parse_any
from quorate.core.containment import listed
from quorate.core.delegation import chain_of
from quorate.core.dsse import from_json
from quorate.core.effects import Effect, LetThrough, effect_of, things_of
from quorate.core.errors import MalformedError, StorageDamagedError
from quorate.core.leasing import expiry
from quorate.core.limits import MAX_ANCESTORS
from quorate.core.outcome import Deny, Reason
from quorate.core.patterns import Scope
from quorate.core.records import Kind, Lease
from quorate.core.routing import split_id
from quorate.core.rows import Row
from quorate.core.state import StateView
from quorate.core.store import Reader, Writer
from quorate.core.verbs import Verb

MARK: Final = b"m"
_LEASES: Final = b"l"
_DESCENDANTS: Final = b"d"
_RELYING: Final = b"r"
_PASSED_ON: Final = b"g"
_HISTORY: Final = b"s"
_LAST: Final = 2**64 - 1
_THING_BYTES: Final = 16
_MOST_DEPTH: Final = 255


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a graph goes. size: entries of the ledger that are in it. last: SHA-256 of the last
    of them, in hex; empty: there is none."""

    size: int
    last: str


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a lease stands in the graph. index: of the entry that made it. ancestors: how far up
    each is; of what version 1 gave, the nearest MAX_ANCESTORS, and then it is cut."""

    index: int
    ancestors: dict[str, int]
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """One lease of an answer. depth: how far it is from what was asked about; 0: it relies on it
    without being of its lineage. index: of the entry that made it."""

    lease: str
    index: int
    depth: int = 0


@dataclass(frozen=True, slots=True)
class Page:
    """after: where the next page begins; empty: there is none."""

    found: tuple[Found, ...]
    after: bytes = b""


# -- writing -------------------------------------------------------------------------------------


def take(graph: Writer, view: StateView, index: int, entry: bytes) -> None:
    """Adds what the entry at `index`, which is the next, says. view: a state that has it; what is
    read of it never changes. Raises MalformedError, and StorageError."""
    row = Row(codec.load(entry))
    if row.text("decision") == "accepted":
        match row.text("type"):
            case Verb.LEASE_ACQUIRE:
                _take_lease(graph, view, index, row)
            case Verb.GRANT_DELEGATE:
                _take_delegation(graph, view, index, row.text("thing"))
        effect = effect_of(index, entry)
        if effect is not None and _is_kept(effect):
            _take_effect(graph, view, effect, row)
    digest = hashlib.sha256(entry).digest()
    graph.put(MARK, keys.number(index + 1) + digest)


def _take_lease(graph: Writer, view: StateView, index: int, row: Row) -> None:
    lease = view.lease(row.text("thing"))
    if lease is None:
        raise StorageDamagedError(f"the ledger gave a lease that is not there: {index}")
    if graph.get(_LEASES + lease.id.encode("ascii")) is not None:
        return  # it was asked for again, and was there
    origin = _origin(graph, lease, index)
    said = {"index": index, "up": origin.ancestors, "cut": origin.is_cut}
    graph.put(_LEASES + lease.id.encode("ascii"), codec.encode(said))
    for ancestor, depth in origin.ancestors.items():
        place = bytes((min(depth, _MOST_DEPTH),)) + keys.number(index)
        graph.put(_descendants(ancestor) + place, lease.id.encode("ascii"))
    own = f"{Kind.LEASE}:{lease.id}"
    for thing in things_of(listed(view, lease), view.federation_record().origin):
        if thing != own:
            graph.put(_RELYING + _hash(thing) + keys.number(index), lease.id.encode("ascii"))


def _origin(graph: Reader, lease: Lease, index: int) -> Origin:
    """By its parents, which came before it."""
    up: dict[str, int] = {}
    for parent in lease.parents:
        before = origin_of(graph, parent)
        up[parent] = 1
        for ident, depth in before.ancestors.items() if before is not None else ():
            up[ident] = min(depth + 1, up.get(ident, depth + 1))
    nearest = sorted(up.items(), key=lambda item: (item[1], item[0]))
    return Origin(index, dict(nearest[:MAX_ANCESTORS]), len(nearest) > MAX_ANCESTORS)


def _take_delegation(graph: Writer, view: StateView, index: int, ident: str) -> None:
    """It rests on each grant before it, on who passed those on, and on their domains."""
    grant = view.grant(*split_id(ident))
    if grant is None:
        raise StorageDamagedError(f"the ledger made a grant that is not there: {index}")
    things = {f"{Kind.DOMAIN}:{grant.issuer}"}
    for each in chain_of(view, grant):
        home = each.executor.split("/")[2]
        things |= {f"{Kind.GRANT}:{each.id}", f"{Kind.EXECUTOR}:{each.executor}"}
        things.add(f"{Kind.DOMAIN}:{home}")
    for thing in sorted(things):
        graph.put(_PASSED_ON + _hash(thing) + keys.number(index), ident.encode("ascii"))


def _is_kept(effect: Effect) -> bool:
    """What policies say of a lease is no matter of things, and what its executor has to prove is
    one of time, too: the graph knows neither (docs/lineage.md)."""
    return not effect.is_unsaid


def _take_effect(graph: Writer, view: StateView, effect: Effect, row: Row) -> None:
    said: dict[str, object] = {"reason": effect.reason.value if effect.reason else ""}
    if isinstance(effect.but_for, LetThrough):
        said["actions"] = list(effect.but_for.actions)
    elif effect.but_for is not None:
        said["actions"] = list(effect.but_for.actions)
        said["resources"] = list(effect.but_for.resources)
    if effect.thing.startswith(f"{Kind.LEASE}:") and effect.reason is None:
        said["expires_at"] = _expires_at(view, effect, row)
    graph.put(_history(effect.thing, effect.index), codec.encode(said))


def _expires_at(view: StateView, effect: Effect, row: Row) -> int:
    """Ledger time until which an entry gave a lease, or renewed it."""
    body = parse_any(from_json(row.nested("command"), "command").payload).body
    lease = view.lease(effect.thing.partition(":")[2])
    grant = None if lease is None else view.grant(*split_id(lease.grant))
    if grant is None or not isinstance(body, (AcquireLease, RenewLease)):
        raise StorageDamagedError(f"entry {effect.index} is about no lease")
    return expiry(effect.ledger_time, grant, body.ttl_ms)


# -- reading -------------------------------------------------------------------------------------


def mark_of(graph: Reader) -> Mark:
    """Raises MalformedError for what is no graph's."""
    data = graph.get(MARK)
    if data is None:
        return Mark(0, "")
    size, last = int.from_bytes(data[:8], "big"), data[8:].hex()
    if len(data) != 8 + hashlib.sha256().digest_size or size == 0:
        raise MalformedError("a mark of another form")
    return Mark(size, last)


def origin_of(graph: Reader, lease: str) -> Origin | None:
    """None: the ledger gave no such lease. Raises MalformedError."""
    if not lease.isascii():
        return None
    data = graph.get(_LEASES + lease.encode("ascii"))
    if data is None:
        return None
    said = Row(codec.load(data))
    up = said.nested("up")
    if not isinstance(up, dict):
        raise MalformedError("ancestors in another form")
    ancestors = {str(name): int(depth) for name, depth in up.items()}
    return Origin(said.number("index"), ancestors, said.flag("cut"))


def descendants(graph: Reader, lease: str, after: bytes, most: int) -> Page:
    """What came from a lease, the nearest first, then in the order of the ledger."""
    prefix = _descendants(lease)
    rows = _rows(graph, prefix, after, most)
    found = tuple(
        Found(value.decode("ascii"), int.from_bytes(place[1:], "big"), place[0])
        for place, value in rows[:most]
    )
    return Page(found, rows[most - 1][0] if len(rows) > most else b"")


def relying(graph: Reader, thing: str, after: bytes, most: int) -> Page:
    """The leases that rely on a thing (`<kind>:<id>`), in the order of the ledger."""
    rows = _rows(graph, _RELYING + _hash(thing), after, most)
    found = tuple(
        Found(value.decode("ascii"), int.from_bytes(place, "big")) for place, value in rows[:most]
    )
    return Page(found, rows[most - 1][0] if len(rows) > most else b"")


def passed_on(graph: Reader, thing: str, after: bytes, most: int) -> Page:
    """The grants that were passed on of a thing, or by it, in the order of the ledger; a grant's id
    stands in the place of a lease's."""
    rows = _rows(graph, _PASSED_ON + _hash(thing), after, most)
    found = tuple(
        Found(value.decode("ascii"), int.from_bytes(place, "big")) for place, value in rows[:most]
    )
    return Page(found, rows[most - 1][0] if len(rows) > most else b"")


class Standings:
    """How leases stood when the ledger had `size` entries, at a ledger time (ms)."""

    def __init__(self, graph: Reader, origin: str, size: int, ledger_time: int) -> None:
        """origin: of the ledger."""
        self._graph = graph
        self._origin = origin
        self._size = size
        self._ledger_time = ledger_time
        self._known: dict[str, tuple[int, Row] | None] = {}

    def of(self, lease: Lease, made: int) -> Deny | None:
        """None: it was in force; or what denied it. made: the index of its entry, when everything
        that it relies on was good. The lease has to say what it came from. Raises
        MalformedError."""
        if made >= self._size:
            return Deny(Reason.UNKNOWN_LEASE, lease.id)
        own = f"{Kind.LEASE}:{lease.id}"
        last = self._latest(own)
        if last is None or last[1].text("reason"):
            return Deny(Reason.LEASE_RELEASED, lease.id)
        if self._ledger_time >= last[1].number("expires_at"):
            return Deny(Reason.LEASE_EXPIRED, lease.id)
        for thing in things_of(lease, self._origin):
            found = self._latest(thing) if thing != own else None
            if found is None or found[0] <= made:
                continue
            reason = found[1].text("reason")
            if reason and not _spares(found[1], lease):
                return Deny(Reason(reason), thing.partition(":")[2])
        return None

    def _latest(self, thing: str) -> tuple[int, Row] | None:
        """The index of the last entry that did something to a thing, and what; None: none did."""
        if thing not in self._known:
            prefix = _HISTORY + _hash(thing)
            start = prefix + keys.number(_LAST - (self._size - 1))
            row = next(self._graph.scan(prefix, start), None)
            self._known[thing] = None
            if row is not None:
                index = _LAST - int.from_bytes(row[0][len(prefix) :], "big")
                self._known[thing] = index, Row(codec.load(row[1]))
        return self._known[thing]


def _spares(said: Row, lease: Lease) -> bool:
    """Whether what stopped a thing let this lease go on."""
    if said.nested("actions") is None:
        return False
    scope: Scope | LetThrough = LetThrough(said.texts("actions"))
    if said.nested("resources") is not None:
        scope = NarrowTrust("", said.texts("actions"), said.texts("resources"))
    return Effect(0, 0, "", None, scope).spares(lease)


def _rows(graph: Reader, prefix: bytes, after: bytes, most: int) -> list[tuple[bytes, bytes]]:
    """One more than `most`, of those behind `after`, by what follows the prefix."""
    start = prefix + after + b"\x00" if after else prefix
    rows: Iterator[tuple[bytes, bytes]] = islice(graph.scan(prefix, start), most + 1)
    return [(key[len(prefix) :], value) for key, value in rows]


def _descendants(lease: str) -> bytes:
    return _DESCENDANTS + lease.encode("ascii", "replace") + b"\x00"


def _history(thing: str, index: int) -> bytes:
    return _HISTORY + _hash(thing) + keys.number(_LAST - index)


def place_hash(text: str) -> bytes:
    """Which list a page is of."""
    return _hash(text)


def _hash(thing: str) -> bytes:
    return hashlib.sha256(thing.encode("utf-8", "surrogatepass")).digest()[:_THING_BYTES]
