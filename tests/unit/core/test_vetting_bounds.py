"""What another node may send as a state: no index of an entry that there is not, and no moment that
has not come. What followed would have to be later than that, or it would never end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.core.conftest import BANK, NODE, World, copied, live

from quorate.core import codec, keys, state
from quorate.core.errors import MalformedError
from quorate.core.frozen import Freeze
from quorate.core.limits import (
    MAX_DELEGATIONS_PER_GRANT,
    MAX_LEASE_TTL_MS,
    MAX_PROPOSAL_LIFETIME_MS,
)
from quorate.core.records import DRIFT, BaseRecord, Executor, Kind, LeaseStatus
from quorate.core.remembered import Remembered
from quorate.core.state import StateView
from quorate.core.status import Status
from quorate.core.store import MemoryStore
from quorate.core.vetting import Vetting


@pytest.fixture(scope="module")
def lived() -> World:
    """No test changes it."""
    world = World()
    world.setup()
    live(world)
    world.must(BANK, "resources.freeze", {"actions": []})
    return world


def is_let_in(store: MemoryStore, size: int) -> bool:
    try:
        return Vetting(store, size).step(1_000_000)
    except MalformedError:
        return False


def with_record(world: World, record: BaseRecord) -> MemoryStore:
    store, key = copied(world.store), keys.record(record.kind, record.id)
    assert key is not None
    assert store.get(key) is not None
    store.put(key, codec.encode(record.to_json()))
    return store


def records(view: StateView) -> Iterator[BaseRecord]:
    for some in (
        view.domains(),
        view.nodes(),
        view.executors(),
        view.trust_edges(),
        view.grants(),
        view.leases(),
        view.proposals(),
        view.containments(),
        view.all_references(),
        view.all_policies(),
    ):
        yield next(iter(some))


def test_what_commands_have_made_is_of_entries_that_there_are(lived: World) -> None:
    size = len(lived.entries)
    assert is_let_in(lived.store, size)
    assert not is_let_in(lived.store, size - 5), "they are the last ones that there are"


@pytest.mark.parametrize("kind", sorted(set(Kind) - {Kind.FEDERATION}))
def test_nothing_was_changed_by_an_entry_that_is_to_come(lived: World, kind: Kind) -> None:
    size = len(lived.entries)
    [found] = [each for each in records(lived.view) if each.kind is kind]
    for changed, is_fine in ((size - 1, True), (size, False), (2**53 - 1, False)):
        store = with_record(lived, replace(found, changed=changed))  # type: ignore[call-arg]
        assert is_let_in(store, size) is is_fine, (kind, changed)


def proof_of(lived: World, **changes: Any) -> BaseRecord:
    found = lived.view.executor(lived.clinic.executor("other"))
    assert isinstance(found, Executor)
    proof = replace(found.attestations[0], **changes)
    return replace(found, attestations=(proof,))


def failed_of(lived: World, at: int) -> BaseRecord:
    found = lived.view.executor(lived.clinic.executor("other"))
    assert found is not None
    return replace(found, status=Status.SUSPENDED, suspended_for=DRIFT, failed_at=at)


def lease_of(lived: World, **changes: Any) -> BaseRecord:
    over = next(each for each in lived.view.leases() if each.status is LeaseStatus.RELEASED)
    return replace(over, **changes)


def domain_of(lived: World, **changes: Any) -> BaseRecord:
    found = lived.view.domain(BANK)
    assert found is not None
    return replace(found, **changes)


def proposal_of(lived: World, lasts_ms: int) -> BaseRecord:
    found = next(iter(lived.view.proposals()))
    return replace(found, expires_at=found.opened_at + lasts_ms)


def contained_of(lived: World, **changes: Any) -> BaseRecord:
    return replace(next(iter(lived.view.containments())), **changes)


def grant_of(lived: World, **changes: Any) -> BaseRecord:
    found = lived.view.grant(BANK, "grant")
    assert found is not None
    return replace(found, **changes)


Odd = Callable[[World, int, int], BaseRecord]
"""Of a state, the first index that there is not, and its time in ms."""

LAST: dict[str, tuple[Odd, Odd]] = {
    "a report": (
        lambda w, size, _: proof_of(w, reported=size - 1),
        lambda w, size, _: proof_of(w, reported=size),
    ),
    "when a proof was asked for": (
        lambda w, _, now: proof_of(w, challenged_at=now),
        lambda w, _, now: proof_of(w, challenged_at=now + 1),
    ),
    "what an executor failed in": (
        lambda w, size, _: failed_of(w, size - 1),
        lambda w, size, _: failed_of(w, size),
    ),
    "what is frozen": (
        lambda w, size, _: domain_of(w, frozen=Freeze((), size - 1)),
        lambda w, size, _: domain_of(w, frozen=Freeze((), size)),
    ),
    "since when it is contained": (
        lambda w, size, _: contained_of(w, since=size - 1),
        lambda w, size, _: contained_of(w, since=size),
    ),
    "where a grant was made": (
        lambda w, size, _: grant_of(w, made=size - 1),
        lambda w, size, _: grant_of(w, made=size),
    ),
    "how often a grant was passed on": (
        lambda w, *_: grant_of(w, delegations=MAX_DELEGATIONS_PER_GRANT),
        lambda w, *_: grant_of(w, delegations=MAX_DELEGATIONS_PER_GRANT + 1),
    ),
    "a fence": (
        lambda w, size, _: lease_of(w, fence=size - 1),
        lambda w, size, _: lease_of(w, fence=size),
    ),
    "when a lease was acquired": (
        lambda w, _, now: lease_of(w, acquired_at=now),
        lambda w, _, now: lease_of(w, acquired_at=now + 1),
    ),
    "when a lease ends": (
        lambda w, _, now: lease_of(w, expires_at=now + MAX_LEASE_TTL_MS),
        lambda w, _, now: lease_of(w, expires_at=now + MAX_LEASE_TTL_MS + 1),
    ),
    "for how long a proposal is open": (
        lambda w, *_: proposal_of(w, MAX_PROPOSAL_LIFETIME_MS),
        lambda w, *_: proposal_of(w, MAX_PROPOSAL_LIFETIME_MS + 1),
    ),
}


@pytest.mark.parametrize("what", LAST)
def test_nothing_is_further_than_the_state_itself(lived: World, what: str) -> None:
    """The last that can be, and the first that cannot."""
    size, now = len(lived.entries), lived.view.ledger_time()
    last, beyond = LAST[what]
    assert is_let_in(with_record(lived, last(lived, size, now)), size)
    assert not is_let_in(with_record(lived, beyond(lived, size, now)), size)


def test_policies_were_published_no_more_often_than_there_were_entries(lived: World) -> None:
    size, store = len(lived.entries), copied(lived.store)
    found, domain = lived.view.policies(BANK), lived.view.domain(BANK)
    assert found is not None
    assert domain is not None
    for often, is_fine in ((size - 1, True), (size, False)):
        odd = replace(found, version=often)
        state.save_policies(store, odd)
        state.save_domain(store, replace(domain, policies=odd.mark))
        assert is_let_in(store, size) is is_fine


def test_the_federation_was_frozen_by_an_entry_that_there_is(lived: World) -> None:
    size, store = len(lived.entries), copied(lived.store)
    federation = lived.view.federation()
    for since, is_fine in ((size - 1, True), (size, False)):
        state.save_federation(store, replace(federation, frozen=Freeze(("x",), since)))
        assert is_let_in(store, size) is is_fine


def test_what_became_of_a_command_stands_in_an_entry_that_there_is(lived: World) -> None:
    size, store = len(lived.entries), copied(lived.store)
    key, data = next(lived.store.scan(keys.OUTCOMES))
    found = Remembered.from_json(codec.load(data))
    for index, is_fine in ((size - 1, True), (size, False)):
        odd = replace(found, outcome=replace(found.outcome, index=index))
        store.put(key, codec.encode(odd.to_json()))
        assert is_let_in(store, size) is is_fine


def recovered(lived: World, base: int) -> MemoryStore:
    """As a recovery leaves it, of what has to look later when it changes again."""
    store = copied(lived.store)
    federation = lived.view.federation()
    state.save_federation(store, replace(federation, fence_base=base, frozen=None))
    for domain in lived.view.domains():
        state.save_domain(store, replace(domain, frozen=None))
    for reference in lived.view.all_references():
        state.save_reference(store, replace(reference, changed=0))
    for executor in lived.view.executors():
        proofs = tuple(replace(each, reported=0) for each in executor.attestations)
        state.save_executor(store, replace(executor, attestations=proofs))
    for policies in lived.view.all_policies():
        state.save_policies(store, replace(policies, changed=0))
    for contained in list(lived.view.containments()):
        state.save_containment(store, replace(contained, since=0, changed=0), contained)
    return store


def test_what_a_recovery_keeps_is_of_entries_before_it(lived: World) -> None:
    base = len(lived.entries) + 2**32
    node = lived.view.node(NODE)
    assert node is not None
    store = recovered(lived, base)
    assert is_let_in(store, 1)
    state.save_node(store, replace(node, changed=base))
    assert is_let_in(store, 1)
    state.save_node(store, replace(node, changed=base + 1))
    assert not is_let_in(store, 1)


def test_what_has_to_look_later_when_it_changes_again_has_begun_anew(lived: World) -> None:
    """Or a recovery's first entries would look earlier than what is there."""
    base = len(lived.entries) + 2**32
    reference = next(iter(lived.view.all_references()))
    policies = next(iter(lived.view.all_policies()))
    contained = next(iter(lived.view.containments()))
    for spoil in (
        lambda store: state.save_reference(store, replace(reference, changed=1)),
        lambda store: state.save_policies(store, replace(policies, changed=1)),
        lambda store: state.save_containment(store, replace(contained, since=0), contained),
    ):
        store = recovered(lived, base)
        spoil(store)
        assert not is_let_in(store, 1)


def test_fences_go_on_from_those_of_the_former_ledger(lived: World) -> None:
    size = len(lived.entries)
    for base, fence, is_fine in (
        (0, 2**32, False),
        (2**32, 2**32 + size - 1, True),
        (2**32, 2**32 + size, False),
    ):
        store = with_record(lived, lease_of(lived, fence=fence))
        federation = replace(lived.view.federation(), fence_base=base)
        state.save_federation(store, federation)
        assert is_let_in(store, size) is is_fine
