"""The graph of lineage: what it says of any index is what the ledger's states said then."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
from tests.unit.core.conftest import BANK, CLINIC, copied
from tests.unit.core.test_containment import CONTAIN, LIFT, OTHERS, OWN, Chain, unlisted

from quorate.core import codec, graph, keys
from quorate.core.containment import listed
from quorate.core.decision import review
from quorate.core.effects import things_of
from quorate.core.errors import MalformedError, StorageDamagedError
from quorate.core.graph import Found, Standings, mark_of, origin_of, take
from quorate.core.outcome import Deny, Reason
from quorate.core.state import StateView
from quorate.core.store import MemoryStore
from quorate.testing.builders import ORIGIN, narrow_body


class Recorded(Chain):
    """Keeps the state as it was with each entry."""

    def __init__(self) -> None:
        self.states: dict[int, MemoryStore] = {}
        super().__init__()

    def do(self, issuer: str, kind: str, body: dict[str, object]) -> Any:
        outcome = super().do(issuer, kind, body)
        self.states[len(self.entries)] = copied(self.store)
        return outcome

    def live_on(self) -> None:
        """Whatever stops leases, and lets them go on."""
        self.must(CLINIC, "executor.suspend", {"executor": self.agent})
        self.must(CLINIC, "executor.reinstate", {"executor": self.agent})
        self.must(BANK, "resources.freeze", {"actions": []})
        self.must(BANK, "resources.thaw", {})
        self.must(BANK, "resources.freeze", {"actions": ["payments.*"]})
        self.must(BANK, "resources.thaw", {})
        self.must(CLINIC, CONTAIN, {"lease": self.root.id})
        self.must(BANK, CONTAIN, {"lease": self.root.id})
        self.must(CLINIC, LIFT, {"lease": self.root.id})
        self.must(BANK, LIFT, {"lease": self.root.id})
        self.must(CLINIC, "domain.suspend", {"domain": CLINIC})
        self.must(CLINIC, "domain.reinstate", {"domain": CLINIC})
        self.must(BANK, "grant.suspend", {"grant": "teller"})
        self.must(BANK, "grant.reinstate", {"grant": "teller"})
        late = self.leased(self.agent, OTHERS, [self.grandchild.id])
        self.must(BANK, "trust.narrow", narrow_body("edge", ["//bank.example/accounts/*"]))
        self.must(BANK, "trust.narrow", narrow_body("edge", ["//bank.example/accounts/8"]))
        self.must(CLINIC, CONTAIN, {"executor": self.agent})
        self.must(CLINIC, LIFT, {"executor": self.agent})
        self.must(BANK, "trust.close", {"edge": "edge"})
        assert self.lease_act("release", self.root.id).accepted
        assert self.renewed(self.child).accepted
        self.now += 3_000
        assert self.renewed(self.grandchild).accepted
        self.now += 59_000
        assert not self.renewed(self.child).accepted, "it has expired"
        self.must(BANK, "grant.revoke", {"grant": "teller"})
        assert late.ancestors


def made_of(world: Chain) -> MemoryStore:
    store = MemoryStore()
    for index, entry in enumerate(world.entries):
        take(store, world.view, index, entry)
    return store


@pytest.fixture
def lived_on() -> Recorded:
    world = Recorded()
    world.live_on()
    return world


def everything(store: MemoryStore, ask: Any, thing: str, page: int = 2) -> list[Found]:
    found: list[Found] = []
    after = b""
    while True:
        answer = ask(store, thing, after, page)
        assert len(answer.found) <= page
        found += answer.found
        after = answer.after
        if not after:
            return found


def time_of(world: Chain, index: int) -> int:
    entry = codec.load(world.entries[index])
    assert isinstance(entry, dict)
    return int(entry["time"])


def test_every_lease_stood_at_every_index_as_the_state_said_then(lived_on: Recorded) -> None:
    store, seen = made_of(lived_on), set()
    for size, state in lived_on.states.items():
        then, time = StateView(state), time_of(lived_on, size - 1)
        standings = Standings(store, ORIGIN, size, time)
        for lease in lived_on.view.leases():
            origin = origin_of(store, lease.id)
            assert origin is not None
            found = standings.of(listed(lived_on.view, lease), origin.index)
            before = then.lease(lease.id)
            if before is None:
                assert found == Deny(Reason.UNKNOWN_LEASE, lease.id)
                continue
            expected = review(then, before, time)
            assert (found is None) == (expected is None), (size, found, expected)
            seen.add(expected.reason if expected is not None else None)
    assert seen >= {
        None,
        Reason.EXECUTOR_SUSPENDED,
        Reason.FROZEN,
        Reason.CONTAINED,
        Reason.DOMAIN_SUSPENDED,
        Reason.GRANT_SUSPENDED,
        Reason.NO_TRUST,
        Reason.LEASE_RELEASED,
        Reason.LEASE_EXPIRED,
    }


def test_what_relies_on_a_thing_is_every_lease_that_an_entry_could_stop_by_it(
    lived_on: Recorded,
) -> None:
    store = made_of(lived_on)
    leases = list(lived_on.view.leases())
    things = {each for lease in leases for each in things_of(lease, ORIGIN)}
    for thing in sorted(each for each in things if not each.startswith("lease:")):
        found = everything(store, graph.relying, thing)
        expected = [lease for lease in leases if thing in things_of(lease, ORIGIN)]
        assert {each.lease for each in found} == {lease.id for lease in expected}, thing
        assert [each.index for each in found] == sorted(lease.fence for lease in expected)
    assert everything(store, graph.relying, "executor:nobody") == []


def test_what_came_from_a_lease_comes_the_nearest_first(lived_on: Recorded) -> None:
    store, world = made_of(lived_on), lived_on
    found = everything(store, graph.descendants, world.root.id, page=1)
    assert [(each.lease, each.depth) for each in found][:2] == [
        (world.child.id, 1),
        (world.grandchild.id, 2),
    ]
    assert [each.depth for each in found] == [1, 2, 3]
    origin = origin_of(store, world.grandchild.id)
    assert origin is not None
    assert origin.ancestors == {world.child.id: 1, world.root.id: 2}
    for lease in world.view.leases():
        own = origin_of(store, lease.id)
        assert own is not None
        assert tuple(sorted(own.ancestors)) == lease.ancestors
    assert everything(store, graph.descendants, "0" * 32) == []
    assert origin_of(store, "0" * 32) is None
    assert origin_of(store, "\xe9") is None


def test_the_shortest_way_counts() -> None:
    chain = Chain()
    both = chain.leased(chain.nurse, OWN, sorted((chain.root.id, chain.grandchild.id)))
    origin = origin_of(made_of(chain), both.id)
    assert origin is not None
    assert origin.ancestors == {chain.root.id: 1, chain.grandchild.id: 1, chain.child.id: 2}


def test_the_shortest_way_counts_whichever_is_looked_at_first() -> None:
    chain = Chain()
    near = [chain.leased(chain.teller, OTHERS, [chain.root.id]) for _ in range(4)]
    pairs = [sorted((each.id, chain.grandchild.id)) for each in near]
    assert len({pair.index(chain.grandchild.id) for pair in pairs}) == 2, "both orders"
    below = [chain.leased(chain.nurse, OWN, pair) for pair in pairs]
    store = made_of(chain)
    for lease in below:
        origin = origin_of(store, lease.id)
        assert origin is not None
        assert origin.ancestors[chain.root.id] == 2


def test_a_lease_that_is_given_again_is_in_it_once() -> None:
    chain = Chain()
    store = made_of(chain)
    acquired = next(e for e in chain.entries if chain.child.id.encode() in e and b"acquire" in e)
    take(store, chain.view, len(chain.entries), acquired)
    found = everything(store, graph.descendants, chain.root.id)
    assert [each.lease for each in found] == [chain.child.id, chain.grandchild.id]


def test_a_lease_of_the_first_version_relies_on_what_its_parents_came_from() -> None:
    chain, store = Chain(), MemoryStore()
    for index, entry in enumerate(chain.entries):
        take(store, unlisted(chain, version=1), index, entry)
    found = everything(store, graph.relying, f"contained:{chain.root.id}")
    assert [each.lease for each in found] == [each.id for each in chain.all]


def test_of_too_many_ancestors_the_nearest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """As there can be of leases of the first version."""
    chain = Chain()
    monkeypatch.setattr(graph, "MAX_ANCESTORS", 1)
    store = made_of(chain)
    origin = origin_of(store, chain.grandchild.id)
    assert origin is not None
    assert (origin.ancestors, origin.is_cut) == ({chain.child.id: 1}, True)
    below = chain.leased(chain.nurse, OWN, [chain.grandchild.id])
    take(store, chain.view, len(chain.entries) - 1, chain.entries[-1])
    origin = origin_of(store, below.id)
    assert origin is not None
    assert origin.is_cut, "so is what came from it"


def test_grants_that_were_passed_on_are_found_by_all_that_is_behind_them() -> None:
    chain = Chain()
    passed = {
        **{"executor": chain.teller, "grant": f"{BANK}/teller", "to": chain.nurse},
        **{"actions": ["*"], "resources": ["//bank.example/*"], "not_after": chain.now + 60_000},
        **{"max_lease_ttl_ms": 60_000, "max_uses": 0, "max_concurrent": 0, "max_depth": 1},
    }
    first = chain.must(chain.bank.node, "grant.delegate", passed)
    on = passed | {"executor": chain.nurse, "grant": first.thing, "to": chain.agent}
    on.pop("max_depth")
    second = chain.must(chain.clinic.node, "grant.delegate", on)
    store = made_of(chain)
    for thing, expected in (
        (f"grant:{BANK}/teller", [first, second]),
        (f"grant:{first.thing}", [second]),
        (f"executor:{chain.teller}", [first, second]),
        (f"executor:{chain.nurse}", [second]),
        (f"domain:{CLINIC}", [second]),
        (f"domain:{BANK}", [first, second]),
        (f"executor:{chain.agent}", []),
    ):
        found = everything(store, graph.passed_on, thing, page=1)
        assert [(each.lease, each.index) for each in found] == [
            (each.thing, each.index) for each in expected
        ], thing


def test_it_says_how_far_it_goes_and_takes_nothing_that_is_no_entry() -> None:
    chain, store = Chain(), MemoryStore()
    assert (mark_of(store).size, mark_of(store).last) == (0, "")
    for index, entry in islice(enumerate(chain.entries), 3):
        take(store, chain.view, index, entry)
    assert mark_of(store).size == 3
    with pytest.raises(MalformedError):
        take(store, chain.view, 3, b"{}")
    store.put(graph.MARK, keys.number(0) + bytes(32))
    with pytest.raises(MalformedError):
        mark_of(store)
    acquired = next(n for n, e in enumerate(chain.entries) if b'"type":"lease.acquire"' in e)
    without = copied(chain.store)
    without.delete(keys.RECORDS[chain.root.kind] + chain.root.id.encode())
    with pytest.raises(StorageDamagedError):
        take(MemoryStore(), StateView(without), acquired, chain.entries[acquired])
