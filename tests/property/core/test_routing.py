"""Routes of trust, held to a search that tries every walk."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from quorate.core import state
from quorate.core.decision import DecisionRequest, choose_route
from quorate.core.limits import MAX_DEPTH
from quorate.core.outcome import Deny, Reason
from quorate.core.records import Domain, Grant, TrustEdge
from quorate.core.routing import Routes
from quorate.core.state import StateView
from quorate.core.status import Status
from quorate.core.store import MemoryStore
from quorate.testing.builders import Federation, Ledger, grant_body

NAMES = tuple(f"{name}.example" for name in ("ash", "birch", "cedar", "elm"))
OWNER, TRUSTEE = NAMES[0], NAMES[-1]
T = TypeVar("T")
RESOURCE, ACTION = f"//{OWNER}/a/b", "read.one"


def mostly(usual: T, *others: T) -> st.SearchStrategy[T]:
    return st.sampled_from([usual] * 5 + list(others))


edges = st.builds(
    TrustEdge,
    truster=st.sampled_from(NAMES),
    edge=st.sampled_from(["1", "2", "3", "4", "5", "z"]),
    trustee=st.sampled_from(NAMES),
    actions=mostly(("*",), ("read.*",), ("write.one",)),
    resources=mostly((f"//{OWNER}/*",), (f"//{OWNER}/a/*", f"//{OWNER}/c"), ("//x/*",)),
    status=mostly(Status.ACTIVE, Status.REVOKED),
    changed=st.just(1),
    max_depth=st.sampled_from([0, 0, 0, 1, 1, 2, MAX_DEPTH]),
)
worlds = st.lists(edges, min_size=4, max_size=20, unique_by=lambda edge: edge.id)
standings = st.lists(mostly(Status.ACTIVE, Status.SUSPENDED), min_size=4, max_size=4)

_BASE = Ledger(Federation.build(NAMES))


def store_of(world: list[TrustEdge], standing: list[Status]) -> MemoryStore:
    store = MemoryStore()
    for key, value in _BASE.store.items():
        store.put(key, value)
    for name, status in zip(NAMES, standing, strict=True):
        known = StateView(store).domain(name)
        assert known is not None
        fields = {each: getattr(known, each) for each in Domain.__slots__}
        suspended_by = name if status is Status.SUSPENDED else ""
        changed = Domain(**fields | {"status": status, "suspended_by": suspended_by})
        state.save_domain(store, changed)
    for edge in world:
        if edge.truster != edge.trustee:
            state.save_edge(store, edge)
    return store


def covers(edge: TrustEdge) -> bool:
    """By hand, for the few patterns there are."""
    by_action = edge.actions[0] in {"*", "read.*"}
    return edge.status is Status.ACTIVE and by_action and edge.resources[0] != "//x/*"


def routes(world: list[TrustEdge], standing: list[Status]) -> Iterator[tuple[TrustEdge, ...]]:
    """Every chain of different edges that is one, whatever it costs."""
    active = {name for name, each in zip(NAMES, standing, strict=True) if each is Status.ACTIVE}
    usable = [edge for edge in world if covers(edge) and edge.truster != edge.trustee]
    for length in range(1, len(NAMES)):
        for between in permutations(set(NAMES) - {OWNER, TRUSTEE}, length - 1):
            stops = (OWNER, *between, TRUSTEE)
            if not set(between) <= active:
                continue
            chains: list[tuple[TrustEdge, ...]] = [()]
            for place in range(length):
                following = length - 1 - place
                chains = [
                    (*chain, edge)
                    for chain in chains
                    for edge in usable
                    if (edge.truster, edge.trustee) == stops[place : place + 2]
                    and edge.max_depth >= following
                ]
            yield from chains


@given(worlds, standings)
@settings(max_examples=1_000)
def test_the_shortest_is_taken_then_the_first(
    world: list[TrustEdge], standing: list[Status]
) -> None:
    standing = [Status.ACTIVE, *standing[1:-1], Status.ACTIVE]
    found = Routes(StateView(store_of(world, standing)), ACTION, RESOURCE).find(OWNER, TRUSTEE)
    best = min(
        routes(world, standing),
        key=lambda chain: (len(chain), [edge.id for edge in chain]),
        default=(),
    )
    assert [edge.id for edge in found] == [edge.id for edge in best]


@given(worlds, standings, st.data())
def test_less_trust_never_permits_more(
    world: list[TrustEdge], standing: list[Status], data: st.DataObject
) -> None:
    standing = [Status.ACTIVE, *standing[1:-1], Status.ACTIVE]
    before = Routes(StateView(store_of(world, standing)), ACTION, RESOURCE).find(OWNER, TRUSTEE)
    kept = [edge for edge in world if data.draw(st.booleans())]
    after = Routes(StateView(store_of(kept, standing)), ACTION, RESOURCE).find(OWNER, TRUSTEE)
    assert bool(before) or not after
    if before and set(before) <= set(kept):
        assert after == before, "what is not on the route does not change it by going"


@given(worlds, standings)
def test_what_is_decided_relies_on_all_that_the_route_passes(
    world: list[TrustEdge], standing: list[Status]
) -> None:
    standing = [Status.ACTIVE, *standing[1:-1], Status.ACTIVE]
    store = store_of(world, standing)
    view = StateView(store)
    executor = _BASE.federation[TRUSTEE].executor("agent")
    ledger = Ledger(Federation.build(NAMES))
    assert ledger.run(TRUSTEE, "executor.register", {"executor": executor}).outcome.accepted
    body = grant_body("g", executor, [f"//{OWNER}/*"])
    assert ledger.run(OWNER, "grant.issue", body).outcome.accepted
    record, grant = ledger.view.executor(executor), ledger.view.grant(OWNER, "g")
    assert record is not None
    assert isinstance(grant, Grant)
    state.save_executor(store, record)
    state.save_grant(store, grant, ledger.now)
    route = choose_route(view, DecisionRequest(executor, ACTION, RESOURCE), ledger.now)
    edges = Routes(view, ACTION, RESOURCE).find(OWNER, TRUSTEE)
    if isinstance(route, Deny):
        assert route == Deny(Reason.NO_TRUST, OWNER)
        assert not edges
        return
    stops = {OWNER, *(edge.trustee for edge in edges)}
    wanted = {f"domain:{each}" for each in stops} | {f"trust:{edge.id}" for edge in edges}
    assert set(route.depends_on) == wanted | {f"executor:{executor}", f"grant:{OWNER}/g"}
    assert len(set(route.depends_on)) == len(route.depends_on)
