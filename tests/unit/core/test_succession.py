"""What a state can have become of: whatever was final in the earlier one, the later one keeps."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from tests.unit.core.conftest import BANK, NODE, RETIRED, World, copied

from quorate.core import keys, state
from quorate.core.errors import MalformedError, StorageDamagedError
from quorate.core.proposals import ProposalStatus
from quorate.core.records import Kind
from quorate.core.state import StateView
from quorate.core.status import Status
from quorate.core.store import MemoryStore, Reader
from quorate.core.succession import Succession
from quorate.testing.builders import key_for

GOVERNED = (
    Kind.DOMAIN,
    Kind.NODE,
    Kind.EXECUTOR,
    Kind.TRUST,
    Kind.GRANT,
    Kind.PROPOSAL,
    Kind.POLICIES,
)


def compare(before: Reader, after: Reader, most: int = 1_000) -> int:
    """How many steps it took."""
    succession, steps = Succession(before, after), 1
    while not succession.step(most):
        steps += 1
    return steps


def governed(store: MemoryStore) -> list[bytes]:
    places = [*(keys.RECORDS[kind] for kind in GOVERNED), keys.REKEYINGS]
    return [key for place in places for key, _ in store.scan(place)]


class Counted(MemoryStore):
    """Counts what is read of it."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__()
        self.reads = 0
        for key, value in store.items():
            self.put(key, value)

    def get(self, key: bytes) -> bytes | None:
        self.reads += 1
        return super().get(key)

    def scan(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        for pair in super().scan(prefix, start):
            self.reads += 1
            yield pair


@pytest.mark.parametrize("most", [1, 2, 7, 1_000])
def test_a_later_state_of_the_same_federation_follows_in_steps_of_any_size(
    lived: World, most: int
) -> None:
    genesis = World().store
    assert compare(genesis, lived.store, most) == len(governed(genesis)) // most + 1
    compared = [*governed(lived.store), *lived.view.all_references()]
    assert compare(lived.store, lived.store, most) == len(compared) // most + 1


@pytest.mark.parametrize("most", [1, 10, 500])
def test_a_step_reads_no_more_than_it_may_however_large_the_states_are(
    lived: World, most: int
) -> None:
    """Also where the later state has thousands of things before the first that the earlier has."""
    executor = next(lived.view.executors())
    large = copied(lived.store)
    for number in range(3_000):
        ident = f"spiffe://{BANK}/agent/a-{number}"
        state.save_executor(large, replace(executor, executor=ident))
    for earlier in (large, lived.store):
        before, after = Counted(earlier), Counted(large)
        succession, is_done = Succession(before, after), False
        while not is_done:
            before.reads = after.reads = 0
            is_done = succession.step(most)
            assert before.reads <= most + 2, "the federation and its time, once"
            assert after.reads <= most + 2


@pytest.mark.parametrize("most", [1, 2, 7, 1_000])
def test_a_thing_that_is_gone_is_missed_wherever_it_lies(lived: World, most: int) -> None:
    for key in governed(lived.store):
        after = copied(lived.store)
        after.delete(key)
        is_proof = key.startswith(keys.REKEYINGS)
        problem = "a proof" if is_proof else f"{key[1:].decode()} is gone"
        with pytest.raises(MalformedError, match=problem):
            compare(lived.store, after, most)


def test_what_is_new_follows(lived: World) -> None:
    for key in governed(lived.store):
        before = copied(lived.store)
        before.delete(key)
        compare(before, lived.store)


@pytest.mark.parametrize("most", [1, 1_000])
def test_no_edge_is_for_more_than_it_was(lived: World, most: int) -> None:
    edge = next(each for each in lived.view.trust_edges() if each.status is Status.ACTIVE)
    narrower = copied(lived.store)
    state.save_edge(narrower, replace(edge, resources=("//bank.example/accounts/*",)))
    compare(lived.store, narrower, most)
    wider = copied(lived.store)
    state.save_edge(wider, replace(edge, trustee=BANK))
    for before, after in ((narrower, lived.store), (lived.store, wider)):
        with pytest.raises(MalformedError, match="for another domain, or for more"):
            compare(before, after, most)


@pytest.mark.parametrize("most", [1, 1_000])
def test_what_was_revoked_is_not_brought_back(lived: World, most: int) -> None:
    executor = next(each for each in lived.view.executors() if each.status is Status.ACTIVE)
    edge = next(each for each in lived.view.trust_edges() if each.status is Status.ACTIVE)
    grant = next(each for each in lived.view.grants() if each.status is Status.ACTIVE)
    for revoke in (
        lambda s: state.save_executor(s, replace(executor, status=Status.REVOKED)),
        lambda s: state.save_edge(s, replace(edge, status=Status.REVOKED)),
        lambda s: state.save_grant(s, replace(grant, status=Status.REVOKED), 0),
    ):
        before = copied(lived.store)
        revoke(before)
        compare(lived.store, before, most)
        with pytest.raises(MalformedError, match="was revoked, and has changed"):
            compare(before, lived.store, most)


@pytest.mark.parametrize("most", [1, 1_000])
def test_a_closed_proposal_stays_so_and_an_open_one_is_for_what_it_was(
    lived: World, most: int
) -> None:
    by_status = {each.status: each for each in lived.view.proposals()}
    pending, closed = by_status[ProposalStatus.OPEN], by_status[ProposalStatus.REJECTED]
    voted = copied(lived.store)
    state.save_proposal(voted, replace(pending, no=(BANK,), status=ProposalStatus.REJECTED))
    compare(lived.store, voted, most)
    for change, problem in (
        (replace(closed, status=ProposalStatus.OPEN), "was closed, and has changed"),
        (replace(closed, no=()), "was closed, and has changed"),
        (replace(pending, act="domain.expel"), "is for something else"),
        (replace(pending, body="{}"), "is for something else"),
        (replace(pending, base="0"), "is for something else"),
        (replace(pending, proposer=BANK), "is for something else"),
        (replace(pending, expires_at=pending.expires_at + 1), "is for something else"),
    ):
        after = copied(lived.store)
        state.save_proposal(after, change)
        with pytest.raises(MalformedError, match=problem):
            compare(lived.store, after, most)


def test_a_state_that_cannot_have_become_of_it_does_not_follow(lived: World) -> None:
    federation, before = lived.view.federation(), copied(lived.store)
    node, retired = lived.view.node(NODE), lived.view.node(RETIRED)
    assert node is not None
    assert retired is not None
    domain = lived.view.domains()[0]
    changes: list[tuple[str, Callable[[MemoryStore], None]]] = [
        (
            "another origin",
            lambda s: state.save_federation(s, replace(federation, origin="other.example/1")),
        ),
        (
            "another genesis_hash",
            lambda s: state.save_federation(s, replace(federation, genesis_hash="0" * 64)),
        ),
        (
            "another fence_base",
            lambda s: state.save_federation(s, replace(federation, fence_base=1)),
        ),
        (
            "it has forgotten parameters",
            lambda s: state.save_federation(
                s, replace(federation, parameters=replace(federation.parameters, rho_ppm=1))
            ),
        ),
        (
            "its time is before",
            lambda s: state.save_ledger_time(s, federation.ledger_time - 1),
        ),
        (
            f"{NODE} has another log_key",
            lambda s: state.save_node(s, replace(node, log_key=key_for("another").public.hex())),
        ),
        (
            f"{NODE} has another signing_key",
            lambda s: state.save_node(s, replace(node, signing_key=key_for("x").public.hex())),
        ),
        (
            f"node {NODE} has other keys or another address",
            lambda s: state.save_node(s, replace(node, peer_address="127.0.0.1:1")),
        ),
        (
            f"{RETIRED} was retired",
            lambda s: state.save_node(s, replace(retired, status=Status.ACTIVE)),
        ),
        (
            f"{domain.id} has another governance_key",
            lambda s: state.save_domain(
                s, replace(domain, governance_key=key_for("m").public.hex())
            ),
        ),
        (
            f"{domain.id} has another cosigner_key",
            lambda s: state.save_domain(s, replace(domain, cosigner_key=key_for("m").public.hex())),
        ),
        (
            f"{domain.id} has another ca_certificate",
            lambda s: state.save_domain(s, replace(domain, ca_certificate="another")),
        ),
    ]
    for problem, change in changes:
        after = copied(lived.store)
        change(after)
        with pytest.raises(MalformedError, match=problem):
            compare(before, after)


def test_a_record_of_its_own_that_is_damaged_is_not_the_senders_fault(lived: World) -> None:
    before = copied(lived.store)
    before.put(governed(before)[0], b"{}")
    with pytest.raises(StorageDamagedError):
        compare(before, lived.store)


def test_how_much_there_is_takes_no_memory(lived: World) -> None:
    executor = next(lived.view.executors())
    for number in range(3_000):
        ident = f"spiffe://{BANK}/agent/number-{number}"
        state.save_executor(lived.store, replace(executor, executor=ident))
    other = copied(lived.store)
    for number in range(3_000):
        ident = f"spiffe://{BANK}/agent/number-{number}"
        suspended = replace(executor, executor=ident, status=Status.SUSPENDED)
        state.save_executor(other, suspended)
    lived.store.items()
    tracemalloc.start()
    try:
        compare(lived.store, other)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert StateView(other).executor(executor.id) == executor
    assert peak < 100_000, "a tenth of what they take when they are kept"
