"""A state that somebody else has sent: whatever is odd about it is found before it is used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.core.conftest import BANK, CLINIC, NODE, SECOND, World, copied

from quorate.core import codec, keys, state
from quorate.core.errors import MalformedError, StorageDamagedError
from quorate.core.invariants import check
from quorate.core.limits import MAX_DEPTH, MAX_EVENTS_PER_LEASE
from quorate.core.lineage import Stage
from quorate.core.proposals import Proposal, ProposalStatus
from quorate.core.records import Kind, Lease, LeaseStatus, Node, Role
from quorate.core.status import Status
from quorate.core.store import MemoryStore
from quorate.core.stored import Stored
from quorate.core.vetting import Vetting, read_node
from quorate.testing.builders import key_for


def vet(store: Any, most: int = 1_000) -> None:
    vetting = Vetting(store)
    while not vetting.step(most):
        pass


@pytest.mark.parametrize("most", [1, 2, 7, 1_000])
def test_a_state_that_commands_have_made_passes_in_steps_of_any_size(
    lived: World, most: int
) -> None:
    vet(lived.store, most)
    vetting, count, steps = Vetting(lived.store), len(lived.store.items()), 1
    while not vetting.step(most):
        steps += 1
    assert steps == count // most + 1


def test_a_new_federation_passes(world: World) -> None:
    vet(world.store)


def passes(store: MemoryStore) -> bool:
    try:
        vet(store)
    except MalformedError:
        return False
    return True


def test_whatever_is_missing_is_missed(lived: World) -> None:
    """But for what is over, and nothing stands on: a lease, a closed edge, a closed proposal; for
    how many have to agree on what, of which each may be as it was; and for what a node has
    reported: whoever has forgotten that it did is told so; and for what was used of a rate."""
    spared = []
    for key, _ in lived.store.items():
        without = copied(lived.store)
        without.delete(key)
        if passes(without):
            spared.append(key)
    leases = [each for each in lived.view.leases() if each.id.encode() in {k[1:] for k in spared}]
    assert len(leases) == 3
    assert all(each.status == "released" or each.expired(lived.now) for each in leases)
    closed = [
        b"P" + each.id.encode()
        for each in lived.view.proposals()
        if each.status is not ProposalStatus.OPEN
    ]
    assert len(closed) == 5
    assert [key for key in spared if key[:1] != b"L"] == [
        *closed,
        b"R" + f"{BANK}/closed".encode(),
        b"V",
        b"k" + lived.clinic.cosigner.public,  # a former key: `succession` sees to it
        b"o" + lived.clinic.node.encode(),
        b"zd" + BANK.encode(),  # of a rate: who has none has used nothing up
        b"zd" + CLINIC.encode(),
        b"ze" + lived.agent.encode(),
        b"ze" + lived.clinic.executor("other").encode(),
        b"zn" + CLINIC.encode(),
    ]


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value + b" ",
        lambda value: b"",
        lambda value: b"\xff" * 9,
        lambda value: b"{}",
        lambda value: value[:-1] + b',"zz":1}' if value.endswith(b"}") else value + b"1",
        lambda value: value.replace(b'"status":"active"', b'"status":"odd"'),
        lambda value: value.replace(b"example", b"\xc3\xa9xample"),
    ],
)
def test_whatever_is_odd_is_seen(lived: World, change: Callable[[bytes], bytes]) -> None:
    """But for the words in the outcome of a command: nobody lives by them."""
    for key, value in lived.store.items():
        if change(value) == value or (key[:1] == b"c" and codec_reads(change(value))):
            continue
        odd = copied(lived.store)
        odd.put(key, change(value))
        assert not passes(odd), key


def codec_reads(value: bytes) -> bool:
    """Whether they are canonical JSON of at least something."""
    try:
        return codec.decode(value, 10_000) != {} and b'"zz"' not in value
    except MalformedError:
        return False


def test_whatever_is_too_much_is_seen(lived: World) -> None:
    """A second of everything, at a key that is nobody's. But public keys may be on file as anyone's
    who is there: he may have had them once."""
    for key, value in lived.store.items():
        for extra in (key + b"0", key[:-1] + bytes([key[-1] ^ 1]), b"?" + key, b"Z"):
            is_public_key = key[:1] == b"k" and len(extra) == 33
            if lived.store.get(extra) is not None or is_public_key:
                continue
            more = copied(lived.store)
            more.put(extra, value)
            assert not passes(more), extra


def broken_nodes(node: Node) -> list[Node]:
    return [
        replace(node, log_key="zz"),
        replace(node, log_key="ab"),
        replace(node, log_key=key_for("another").public.hex()),
        replace(node, signing_key="00" * 32),  # of low order
        replace(node, peer_address="nowhere"),
        replace(node, peer_address="host:99999"),
        replace(node, domain=CLINIC),
        replace(node, domain="port.example"),
        replace(node, status=Status.SUSPENDED),
        replace(node, role=Role.VOTER),  # a second one
        replace(node, status=Status.REVOKED),  # and in the index of those that are not
        replace(node, node="spiffe://bank.example/agent/2"),
        replace(node, changed=2**60),
    ]


def broken_proposals(proposal: Proposal) -> list[Proposal]:
    """proposal: of the clinic, open, and agreed to by itself alone."""
    return [
        replace(proposal, act="executor.register"),
        replace(proposal, act="domain.expel"),
        replace(proposal, body="{}"),
        replace(proposal, body="nothing"),
        replace(proposal, proposer="port.example"),
        replace(proposal, proposer=BANK),  # in whose index it is not
        replace(proposal, yes=("port.example",)),
        replace(proposal, yes=(CLINIC, CLINIC)),
        replace(proposal, yes=(CLINIC, BANK)),
        replace(proposal, no=(CLINIC,)),
        replace(proposal, status=ProposalStatus.EXECUTED),  # and in the index of the open ones
        replace(proposal, proposal="0"),
    ]


def broken_lineages(told: Lease, silent: Lease) -> list[Lease]:
    """told: with an event and a parent; silent: with none."""
    return [
        replace(told, parents=("0" * 32,)),
        replace(told, parents=told.parents * 2),
        replace(told, parents=tuple(sorted((*told.parents, silent.id), reverse=True))),
        replace(told, stage=Stage.AUTHORIZED),
        replace(told, events=0),
        replace(told, events=MAX_EVENTS_PER_LEASE + 1),
        replace(told, lineage=""),
        replace(told, lineage="0"),
        replace(silent, stage=Stage.STARTED),
        replace(silent, events=1),
        replace(silent, lineage="0" * 64),
    ]


def test_heads_of_what_nodes_have_reported_are_of_nodes_that_exist(lived: World) -> None:
    for key, value in (
        (keys.lineage_head(NODE), b"\1" * 31),
        (keys.lineage_head(NODE), b""),
        (keys.lineage_head(f"spiffe://{BANK}/node/99"), b"\1" * 32),
    ):
        odd = copied(lived.store)
        odd.put(key, value)
        with pytest.raises(MalformedError):
            vet(odd)
    fine = copied(lived.store)
    fine.put(keys.lineage_head(NODE), b"\1" * 32)
    vet(fine)


def test_records_that_nobody_could_live_with_are_seen(lived: World) -> None:
    view = lived.view
    node, domain = view.node(SECOND), view.domain(BANK)
    edge, grant = view.trust_edge(BANK, "edge"), view.grant(BANK, "grant")
    active = next(each for each in view.leases() if each.status is LeaseStatus.ACTIVE)
    told = next(each for each in view.leases() if each.events)
    silent = next(each for each in view.leases() if not each.events)
    assert node is not None
    assert domain is not None
    assert edge is not None
    assert grant is not None
    proposal = next(each for each in view.proposals() if each.status is ProposalStatus.OPEN)
    records: list[Stored] = [
        *broken_nodes(node),
        *broken_proposals(proposal),
        replace(domain, ca_certificate="none"),
        replace(domain, governance_key=key_for("another").public.hex()),
        replace(domain, domain="port.example"),
        replace(edge, trustee="port.example"),
        replace(edge, max_depth=MAX_DEPTH + 1),
        replace(edge, actions=("**",)),
        replace(edge, status=Status.REVOKED),
        replace(edge, resources=edge.resources * 33),
        replace(grant, executor=f"spiffe://{CLINIC}/agent/nobody"),
        replace(grant, issuer="port.example"),
        replace(grant, resources=("nothing",)),
        replace(grant, status=Status.REVOKED),
        replace(grant, max_uses=1),
        replace(grant, grant="An Odd Name"),
        replace(active, grant=f"{BANK}/nothing"),
        replace(active, trust_edge=""),
        replace(active, passed_on=(active.trust_edge,)),
        replace(active, passed_on=(f"{BANK}/nothing",)),
        replace(active, trust_edge="", passed_on=(active.trust_edge,)),
        replace(active, executor=f"spiffe://{CLINIC}/agent/nobody"),
        replace(active, expires_at=active.expires_at + 1),
        replace(active, status=LeaseStatus.RELEASED),
        replace(active, depends_on=active.depends_on[1:]),
        replace(active, resource="nothing"),
        replace(active, lease="no lease"),
        *broken_lineages(told, silent),
    ]
    for record in records:
        odd = copied(lived.store)
        key = keys.record(record.kind, record.id)
        assert key is not None
        odd.put(key, codec.encode(record.to_json()) if valid(record) else b"")
        with pytest.raises(MalformedError):
            vet(odd)


def valid(record: Any) -> bool:
    """Whether the record has a form at all; integers beyond JSON's have none."""
    try:
        codec.encode(record.to_json())
    except MalformedError:
        return False
    return True


def test_a_record_that_calls_itself_another_is_seen(lived: World) -> None:
    for prefix in keys.RECORDS.values():
        key, value = next(lived.store.scan(prefix))
        said = codec.load(value)
        assert isinstance(said, dict)
        odd = copied(lived.store)
        odd.put(key, codec.encode({**said, "id": "another"}))
        with pytest.raises(MalformedError, match="another"):
            vet(odd)


def test_a_state_in_which_nobody_votes_is_none(world: World) -> None:
    for node in world.view.nodes():
        state.save_node(world.store, replace(node, role=Role.OBSERVER))
    with pytest.raises(MalformedError, match="nobody votes"):
        vet(world.store)


@pytest.mark.parametrize("time", [b"\xff" * 8, b"\xff" * 100, b"", (2**53).to_bytes(8, "big")])
def test_a_time_that_no_command_could_follow_is_none(world: World, time: bytes) -> None:
    world.store.put(keys.LEDGER_TIME, time)
    with pytest.raises(MalformedError):
        vet(world.store)


def test_nothing_is_no_state() -> None:
    with pytest.raises(MalformedError):
        vet(MemoryStore())


def test_a_failure_of_the_reader_is_not_the_senders(world: World) -> None:
    class Failing(MemoryStore):
        def get(self, key: bytes) -> bytes | None:
            raise StorageDamagedError("the disk")

    with pytest.raises(StorageDamagedError):
        vet(Failing())


def test_what_passes_has_no_contradiction_that_the_invariants_see(lived: World) -> None:
    assert check(lived.view) == []


# -- one node, read early ------------------------------------------------------------------------


def test_the_sender_is_read_before_the_rest(lived: World) -> None:
    assert read_node(lived.store, NODE) == lived.view.node(NODE)
    assert read_node(lived.store, f"spiffe://{BANK}/node/99") is None
    assert read_node(lived.store, "\u00e9") is None
    key = keys.record(Kind.NODE, NODE)
    assert key is not None
    other = lived.store.get(keys.RECORDS[Kind.NODE] + SECOND.encode())
    assert other is not None
    node = lived.view.node(NODE)
    assert node is not None
    for odd in (b"\xff", b"{}", other, codec.encode(replace(node, log_key="zz").to_json())):
        lived.store.put(key, odd)
        with pytest.raises(MalformedError):
            read_node(lived.store, NODE)
