"""Whoever else goes by a domain's keys: recovery documents of the federation, verifiers of a
ledger, nodes that are shown an order, and explanations."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from tests.unit.core.keyed import HOUR_MS, NEW, A, B, G, Keys, R, World, two_of_three

from quorate.cli.ledger_members import Members
from quorate.cli.recover import _add_signatures
from quorate.core import codec, dsse, entries, keys, protocol
from quorate.core.commands import envelope_in, open_envelope, parse_command
from quorate.core.errors import ConfigurationError, MalformedError
from quorate.core.explanation import Question
from quorate.core.invariants import check
from quorate.core.keysets import KeySet
from quorate.core.limits import MAX_GENESIS_BYTES
from quorate.core.outcome import Reason
from quorate.core.records import Domain
from quorate.core.recounting import recount
from quorate.core.recovering import begin_without, carry_over, next_fence_base
from quorate.core.recovery import (
    Former,
    build_recovery_payload,
    parse_recovery,
    parse_recovery_draft,
    signatures_missing,
    state_hash,
)
from quorate.core.recovery_room import longest_document
from quorate.core.replaying import Replay
from quorate.core.state import StateView
from quorate.core.status import Status
from quorate.core.store import MemoryStore
from quorate.core.vetting import Vetting
from quorate.node.former import check_former
from quorate.node.introduction import is_order
from quorate.node.recover import _descriptor
from quorate.proofs.signing import SigningKey, sign_envelope
from quorate.testing.builders import Federation, ca_certificate, key_for, node_body

ORIGIN = "quorate.example/recovered-1"


@pytest.fixture
def world() -> World:
    world = World()
    two_of_three(world, recovery=2)
    return world


# -- recovery documents ----------------------------------------------------------------------------


def payload_of(world: World, **changes: Any) -> bytes:
    view, size = world.ledger.view, len(world.ledger.entries)
    federation = view.federation()
    former = Former(
        origin=federation.origin,
        genesis_hash=federation.genesis_hash,
        ledger_size=size,
        root="0" * 64,
        log_index=size + 1,
        log_term=3,
        state=state_hash(world.ledger.store.items()),
    )
    given = {
        "origin": ORIGIN,
        "created_ms": federation.ledger_time + 5,
        "parameters": federation.parameters,
        "version": federation.protocol,
        "fence_base": next_fence_base(federation, size),
        "former": former,
        "descriptors": [_descriptor(view, domain.id, set()) for domain in view.domains()],
        "survivors": [A, B],
    }
    return build_recovery_payload(**(given | changes))


def document(world: World, *signers: SigningKey, **changes: Any) -> bytes:
    return sign_envelope(dsse.RECOVERY_TYPE, payload_of(world, **changes), *signers)


def test_a_survivor_signs_with_as_many_keys_as_have_to(world: World) -> None:
    other = world.ledger.federation[B].governance
    for two in combinations(G[:3], 2):
        assert parse_recovery(document(world, *two, other)).survivors == (A, B)
    for some in ((G[0], other), (*R[:2], other), (world.first, G[0], other), (G[0], G[1])):
        with pytest.raises(MalformedError, match="not signed by"):
            parse_recovery(document(world, *some))
    for more in ((*G[:3], other), (*G[:2], R[0], other), (*G[:2], other, NEW[0])):
        with pytest.raises(MalformedError, match=r"more than needed|does not go on"):
            parse_recovery(document(world, *more))


def test_a_draft_says_who_is_missing(world: World) -> None:
    draft, signed = parse_recovery_draft(document(world, G[2]))
    assert signed == ()
    assert [signatures_missing(draft, domain) for domain in (A, B)] == [1, 1]
    draft, signed = parse_recovery_draft(document(world, G[0], G[2]))
    assert signed == (A,)
    with pytest.raises(MalformedError, match="does not go on"):
        parse_recovery_draft(document(world, R[0]))


def test_signatures_are_added_in_two_places_and_no_more_than_needed(
    world: World, tmp_path: Path
) -> None:
    """Whoever signs first, the document is the same: its hash is the new federation's name."""
    other = world.ledger.federation[B].governance
    hashes = set()
    for place, order in enumerate(((G[0], G[1], other), (other, G[1], G[0]))):
        file = tmp_path / f"{place}.json"
        file.write_bytes(document(world))
        for key in (*order, G[2]):
            draft, _ = parse_recovery_draft(file.read_bytes())
            _add_signatures(file, draft, B if key is other else A, [key])
        hashes.add(parse_recovery(file.read_bytes()).hash)
    assert len(hashes) == 1


def test_the_new_ledger_has_the_same_keys(world: World) -> None:
    other = world.ledger.federation[B].governance
    recovery = parse_recovery(document(world, G[0], G[1], other))
    genesis = world.ledger.federation.parsed_genesis()
    check_former(genesis, recovery, world.ledger.store)
    before = world.domain.key_set
    alone = MemoryStore()
    begin_without(alone, recovery)
    carry_over(world.ledger.store, recovery)
    for view in (world.ledger.view, StateView(alone)):
        domain = view.domain(A)
        assert domain is not None
        assert domain.key_set == before
    assert check(world.ledger.view) == []
    assert Vetting(world.ledger.store).step(1_000_000)


def test_no_other_set_is_slipped_into_a_recovery(world: World) -> None:
    own, other = world.ledger.federation[A], world.ledger.federation[B].governance
    assert own.governance is world.first
    [first, second] = [_descriptor(world.ledger.view, each, set()) for each in (A, B)]
    assert first.key_set is not None
    genesis = world.ledger.federation.parsed_genesis()
    for wrong in (
        None,
        replace(first.key_set, threshold=1),
        replace(first.key_set, recovery_keys=(), recovery_threshold=0),
        replace(first.key_set, recovery_keys=(NEW[0].public.hex(),), recovery_threshold=1),
        replace(first.key_set, not_after=1),
    ):
        forged = replace(first, key_set=wrong)
        signers = [key for key in G[:3] if key.public == first.governance_key]
        signers += [key for key in G[:3] if key not in signers][: 0 if wrong is None else 1]
        if wrong is not None and wrong.threshold == 1:
            signers = signers[:1]
        recovery = parse_recovery(document(world, *signers, other, descriptors=[forged, second]))
        with pytest.raises(ConfigurationError, match="does not go on"):
            check_former(genesis, recovery, world.ledger.store)
        with pytest.raises(MalformedError, match="otherwise than the state"):
            carry_over(world.ledger.store, recovery)


def test_a_set_in_a_document_makes_sense(world: World) -> None:
    [first, second] = [_descriptor(world.ledger.view, each, set()) for each in (A, B)]
    assert first.key_set is not None
    for wrong in (
        replace(first.key_set, threshold=4),
        replace(first.key_set, recovery_threshold=0),
        replace(first.key_set, governance_keys=(second.governance_key.hex(),)),
        replace(first.key_set, governance_keys=(first.governance_key.hex(),)),
    ):
        with pytest.raises(MalformedError):
            payload_of(world, descriptors=[replace(first, key_set=wrong), second])


def test_nine_organisations_with_three_keys_and_three_offline_each_have_room() -> None:
    """As docs/keys.md says."""
    keys = tuple(f"{number:064x}" for number in range(3))
    key_set = KeySet(keys[:2], 2, keys, 2, 2**53 - 1)
    nine = [
        Domain(
            domain=f"organisation-{number}.example",
            status=Status.ACTIVE,
            suspended_by="",
            governance_key="0" * 64,
            cosigner_key="0" * 64,
            ca_certificate=ca_certificate(f"organisation-{number}.example"),
            changed=0,
            key_set=key_set,
        )
        for number in range(9)
    ]
    assert longest_document(nine, protocol.LATEST) <= MAX_GENESIS_BYTES
    alone = [replace(each, key_set=None) for each in nine]
    assert longest_document(nine, protocol.LATEST) > longest_document(alone, protocol.LATEST)
    one = [replace(nine[0], key_set=replace(key_set, threshold=3)), *nine[1:]]
    signature = 170
    longer = longest_document(one, protocol.LATEST) - longest_document(nine, protocol.LATEST)
    assert longer >= signature


# -- whoever verifies a ledger ---------------------------------------------------------------------


class Reading:
    """Members as they change with entries that say that they were accepted."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.members = Members(world.ledger.federation.parsed_genesis())
        for data in world.ledger.entries[1:]:
            entry = codec.decode(data, 10**6)
            assert isinstance(entry, dict)
            self._take(envelope_in(entry["command"]), entry)

    def show(self, envelope: bytes, time: int) -> None:
        seq = len(self._world.ledger.entries)
        self._take(open_envelope(envelope), {"seq": seq, "time": time})

    def _take(self, envelope: dsse.Envelope, entry: dict[str, Any]) -> None:
        command = parse_command(envelope.payload, self.members.protocol)
        self.members.reach(entry)
        self.members.check(command, envelope)
        self.members.learn(command, envelope, entry)


def test_what_too_few_have_signed_was_never_accepted(world: World) -> None:
    now, body = world.ledger.now, {"executor": f"spiffe://{A}/agent/x"}
    Reading(world).show(world.envelope("executor.register", body, *G[:2]), now)
    for signers in (G[:1], R[:2], [world.first], [G[0], R[0]]):
        with pytest.raises(MalformedError, match="not signed by"):
            Reading(world).show(world.envelope("executor.register", body, *signers), now)
    Reading(world).show(world.envelope("domain.rekey", Keys(NEW[:1]).body(), R[0], NEW[0]), now)
    without = Keys(G[:3], 2).body()
    with pytest.raises(MalformedError, match="NOT_AUTHORIZED"):
        Reading(world).show(world.envelope("domain.rekey", without, *G[:3]), now)


def test_what_expired_keys_have_signed_was_never_accepted() -> None:
    world = World()
    end = world.ledger.now + HOUR_MS
    two_of_three(world, recovery=1, not_after=end)
    world.ledger.now = end - 1
    register = world.envelope("executor.register", {"executor": f"spiffe://{A}/agent/x"}, *G[:2])
    suspend = world.envelope("domain.suspend", {"domain": A}, *G[:2])
    Reading(world).show(register, end - 1)
    Reading(world).show(suspend, end)
    with pytest.raises(MalformedError, match="KEY_EXPIRED"):
        Reading(world).show(register, end)
    taken = world.envelope("domain.rekey", Keys(NEW[:1]).body(), *G[:2], NEW[0])
    with pytest.raises(MalformedError, match="KEY_EXPIRED"):
        Reading(world).show(taken, end)


# -- others ----------------------------------------------------------------------------------------


def test_an_order_is_signed_by_enough(world: World) -> None:
    second = f"spiffe://{A}/node/2"
    origin = world.ledger.federation.origin
    for signers, is_good in (((G[0], G[2]), True), (G[:1], False), (R[:2], False)):
        order = world.envelope("node.add", node_body(second), *signers)
        assert is_order(order, second, origin, world.domain, world.ledger.now) is is_good


def test_an_order_of_keys_whose_time_is_over_is_none() -> None:
    """By the time and the keys that are known here: who had read of a node that such keys added in
    their time would know the node."""
    world, second = World(), f"spiffe://{A}/node/2"
    end = world.ledger.now + HOUR_MS
    two_of_three(world, recovery=1, not_after=end)
    order = world.envelope("node.add", node_body(second), *G[:2])
    also_by_recovery = world.envelope("node.add", node_body(second), *G[:2], R[0])
    origin = world.ledger.federation.origin
    for shown in (order, also_by_recovery):
        assert is_order(shown, second, origin, world.domain, end - 1)
        for late in (end, end + 1):
            assert not is_order(shown, second, origin, world.domain, late)
    assert world.rekey(Keys(G[:3], 2, R[:1], 1, end + HOUR_MS), R[0]).accepted
    assert is_order(order, second, origin, world.domain, end), "it was renewed"


def test_a_ledger_with_many_signatures_is_decided_again(world: World) -> None:
    assert world.rekey(Keys(NEW, 9, R[:2], 1), R[0], *NEW).accepted
    replay = Replay(world.ledger.federation.parsed_genesis())
    for data in world.ledger.entries:
        replay.take(data)
    domain = replay.view.domain(A)
    assert domain == world.domain


@pytest.mark.parametrize("reason", [Reason.TOO_FEW_SIGNATURES, Reason.KEY_EXPIRED])
def test_a_denial_is_explained(reason: Reason) -> None:
    world = World()
    end = world.ledger.now + HOUR_MS
    two_of_three(world, recovery=1, not_after=end)
    world.ledger.now = end
    signers = G[:1] if reason is Reason.TOO_FEW_SIGNATURES else G[:2]
    before = world.copy()
    body = {"executor": f"spiffe://{A}/agent/x"}
    applied = world.ledger.apply(world.envelope("executor.register", body, *signers))
    assert applied.entry is not None
    told = recount(StateView(before), entries.parse(applied.entry))
    failed = told.decided
    assert failed is not None
    assert failed.denied is not None
    assert (failed.question, failed.denied.reason) == (Question.COMMAND, reason)
    assert failed.remedy is not None


def test_who_never_said_anything_of_keys_is_written_as_before() -> None:
    for version in (protocol.FIRST, protocol.SECOND):
        world = World(version)
        assert "key_set" not in world.domain.to_json()
        assert Federation.build((A, B), version=version).genesis
    assert key_for("x").public


def test_a_state_has_every_key_of_its_proofs_on_file(world: World) -> None:
    assert world.rekey(Keys(NEW[:1]), R[0], NEW[0]).accepted
    for former in (G[1], R[1]):
        odd = world.copy()
        odd.delete(keys.public_key(former.public.hex()))
        with pytest.raises(MalformedError, match="not on file"):
            Vetting(odd).step(1_000_000)


def test_a_document_of_the_first_version_has_no_sets() -> None:
    world = World(protocol.FIRST)
    [first, second] = [_descriptor(world.ledger.view, each, set()) for each in (A, B)]
    assert payload_of(world, descriptors=[first, second])
    key_set = KeySet((), 1, (R[0].public.hex(),), 1, 0)
    with pytest.raises(MalformedError, match="not a field"):
        payload_of(world, descriptors=[replace(first, key_set=key_set), second])


def test_recovery_keys_alone_have_to_be_proven_too() -> None:
    """They came after the genesis: the base says whether the domain has taken them."""
    world = World()
    other = world.ledger.federation[B].governance
    assert world.rekey(Keys([world.first], 1, R[:1], 1), world.first, R[0]).accepted
    genesis = world.ledger.federation.parsed_genesis()
    recovery = parse_recovery(document(world, world.first, other))
    check_former(genesis, recovery, world.ledger.store)
    with pytest.raises(ConfigurationError, match="other keys"):
        check_former(genesis, recovery)
