"""Several keys of a domain, of which some have to sign; keys kept offline; keys that expire."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import pytest
from tests.unit.core.keyed import (
    HOUR_MS,
    NEW,
    A,
    G,
    Keys,
    R,
    World,
    copied,
    follows,
    hexes,
    two_of_three,
)

from quorate.core import codec, dsse, keys, protocol
from quorate.core.errors import MalformedError
from quorate.core.keysets import count_signatures, has_enough
from quorate.core.limits import MAX_COMMAND_SIGNATURES
from quorate.core.outcome import Reason
from quorate.core.transitions import examine
from quorate.core.vetting import Vetting
from quorate.testing.builders import ballot_body, key_for, node_body, proposal_body


@pytest.fixture
def world() -> World:
    return World()


# -- k of n ----------------------------------------------------------------------------------------


def test_two_of_three_sign(world: World) -> None:
    two_of_three(world)
    for some in combinations(G[:3], 2):
        assert world.register(*some).accepted
    assert world.register(*G[:3]).accepted
    for one in G[:3]:
        said = world.register(one)
        assert (said.reason, said.thing) == (Reason.TOO_FEW_SIGNATURES, A)
    assert world.is_well()


def test_whoever_is_not_of_the_set_does_not_count(world: World) -> None:
    two_of_three(world, recovery=2)
    for other in (world.first, G[3], world.ledger.federation[A].cosigner, R[0]):
        assert world.register(G[0], other).reason is Reason.TOO_FEW_SIGNATURES
        assert world.register(other).reason is Reason.BAD_SIGNATURE
    assert world.register(*R[:2]).reason is Reason.BAD_SIGNATURE


def test_a_forged_signature_beside_a_good_one_does_not_count(world: World) -> None:
    two_of_three(world)
    body = {"executor": f"spiffe://{A}/agent/x"}
    envelope = dsse.parse(world.envelope("executor.register", body, G[0], G[1]), 16_384)
    good, other = envelope.signatures
    for sig in (good.sig, bytes(64), other.sig[:-1] + bytes([other.sig[-1] ^ 1])):
        forged = dsse.Envelope(
            envelope.payload, envelope.payload_type, (good, dsse.Signature(other.keyid, sig))
        )
        said = world.ledger.apply(forged.to_bytes()).outcome
        assert said.reason is Reason.TOO_FEW_SIGNATURES
    twice = dsse.Envelope(envelope.payload, envelope.payload_type, (good, good))
    assert world.ledger.apply(twice.to_bytes()).outcome.reason is Reason.MALFORMED_COMMAND


def test_too_few_are_refused_before_anything_is_proposed(world: World) -> None:
    two_of_three(world)
    body = {"executor": f"spiffe://{A}/agent/x"}
    denied = examine(world.ledger.view, world.envelope("executor.register", body, G[0]), 0)
    assert denied is not None
    assert denied.reason is Reason.TOO_FEW_SIGNATURES


def test_a_set_is_changed_by_as_many_as_it_needs(world: World) -> None:
    two_of_three(world)
    next_keys = Keys([*G[1:3], NEW[0]], 2)
    assert world.rekey(next_keys, G[0], NEW[0]).reason is Reason.TOO_FEW_SIGNATURES
    assert world.rekey(next_keys, G[0], G[1]).reason is Reason.BAD_SIGNATURE
    assert world.rekey(next_keys, G[0], G[1], NEW[0]).accepted
    assert world.register(G[0], G[1]).reason is Reason.TOO_FEW_SIGNATURES
    assert world.register(G[1], NEW[0]).accepted
    assert world.rekey(Keys([G[1]]), G[1], G[2]).accepted, "back to one"
    assert world.domain.key_set is None
    assert world.register(G[1]).accepted
    assert world.is_well()


def test_nine_of_nine_can_be_renewed_at_once(world: World) -> None:
    assert world.rekey(Keys(G, 9, R, 9), world.first, *G, *R).accepted
    fresh = Keys(NEW, 9, R, 9)
    for missing in range(9):
        some = [key for key in G if key is not G[missing]]
        assert world.rekey(fresh, *some, *NEW).reason is Reason.TOO_FEW_SIGNATURES
    assert len(G + NEW + R) <= MAX_COMMAND_SIGNATURES
    assert world.rekey(fresh, *G, *NEW).accepted
    assert world.is_well()


def test_every_new_key_signs(world: World) -> None:
    wanted = Keys(G[:3], 2, R[:2], 1)
    everybody = [world.first, *G[:3], *R[:2]]
    for missing in everybody[1:]:
        said = world.rekey(wanted, *(key for key in everybody if key is not missing))
        assert (said.reason, said.thing) == (Reason.BAD_SIGNATURE, missing.public.hex())
    assert world.rekey(wanted, *everybody).accepted


def test_no_key_of_a_set_serves_another_purpose_or_comes_back(world: World) -> None:
    two_of_three(world, recovery=1)
    for odd in (
        Keys([*G[:2], R[0]], 2),  # a recovery key that is to govern
        Keys(G[:2], 2, [R[0], G[2]], 1),
        Keys(G[:3], 2, R[:1], 1, cosigner=R[0]),
        Keys([*G[:3], world.first], 2, R[:1], 1),  # was there before
        Keys([*G[:3], world.ledger.federation[A].signing], 2, R[:1], 1),
    ):
        said = world.rekey(odd, *G[:3], R[0], *odd.governance, *odd.recovery)
        assert said.reason in {Reason.ALREADY_EXISTS, Reason.MALFORMED_COMMAND}
    assert world.is_well()


@pytest.mark.parametrize(
    "change",
    [
        {"governance_keys": hexes(G[1:3])[::-1]},
        {"threshold": 0},
        {"threshold": 4},
        {"threshold": 10},
        {"recovery_threshold": 1},
        {"recovery_keys": [R[0].public.hex()]},
        {"recovery_keys": [G[1].public.hex()], "recovery_threshold": 1},
        {"recovery_keys": ["0" * 64], "recovery_threshold": 1},
        {"recovery_keys": ["01" + "0" * 62], "recovery_threshold": 1},
        {"not_after": 2_000_000_000_000},
        {"governance_keys": [], "threshold": 1},
        {"governance_keys": [G[0].public.hex()], "threshold": 1},
        {"more": 1},
    ],
)
def test_a_set_makes_sense(world: World, change: dict[str, Any]) -> None:
    body = Keys(G[:3], 2).body()
    said = world.give("domain.rekey", {**body, "key_set": {**body["key_set"], **change}}, *G[:3])
    assert said.reason is Reason.MALFORMED_COMMAND
    assert said.thing.startswith("body.key_set")


def test_the_first_version_knows_no_more_signatures_than_it_did() -> None:
    world = World(protocol.FIRST)
    body = {"executor": f"spiffe://{A}/agent/x"}
    assert world.give("executor.register", body, world.first, *G[:8]).accepted
    said = world.give("executor.register", body, world.first, *G[:9])
    assert (said.reason, said.thing) == (Reason.MALFORMED_COMMAND, "signatures")
    assert World().give("executor.register", body, world.first, *G[:9], *R, *NEW).accepted
    more = [key_for(f"more {place}") for place in range(MAX_COMMAND_SIGNATURES)]
    said = World().give("executor.register", body, world.first, *more)
    assert (said.reason, said.thing) == (Reason.MALFORMED_COMMAND, "signatures")


def test_nothing_is_counted_where_nothing_is_needed(world: World) -> None:
    envelope = dsse.parse(world.envelope("domain.suspend", {"domain": A}, *G[:3]), 16_384)
    known = [key.public.hex() for key in G]
    assert not has_enough(envelope, known, 0)
    assert not has_enough(envelope, [], 0)
    assert has_enough(envelope, known, 3)
    assert not has_enough(envelope, known, 4)
    assert not has_enough(envelope, [known[0]] * 3, 2), "a key counts once"
    assert count_signatures(envelope, known, 2) == 2


# -- recovery keys ---------------------------------------------------------------------------------


def test_recovery_keys_sign_new_keys_and_nothing_else(world: World) -> None:
    two_of_three(world, recovery=2)
    for kind, body in (
        ("executor.register", {"executor": f"spiffe://{A}/agent/x"}),
        ("domain.suspend", {"domain": A}),
        ("node.add", node_body(f"spiffe://{A}/node/2")),
        ("proposal.open", proposal_body("domain.expel", {"domain": "beta.example"})),
        ("ballot.cast", ballot_body("0" * 64)),
    ):
        assert world.give(kind, body, *R[:2]).reason is Reason.BAD_SIGNATURE, kind
    assert world.rekey(Keys(NEW[:1], 1, R[:2], 1), R[1], NEW[0]).accepted
    assert world.register(*G[:3]).reason is Reason.BAD_SIGNATURE
    assert world.register(NEW[0]).accepted
    assert world.is_well()


def test_a_thief_of_the_governance_keys_cannot_take_the_recovery_keys_away(world: World) -> None:
    keys_now = Keys(G[:3], 2, R[:2], 2)
    assert world.rekey(keys_now, world.first, *G[:3], *R[:2]).accepted
    thief = NEW[:2]
    for wanted in (
        Keys(thief, 1),
        Keys(thief, 1, R[:1], 1),
        Keys(thief, 1, R[:2], 1),
        Keys(thief, 1, [*R[:2], NEW[3]], 1),
        Keys(G[:3], 2, [NEW[3]], 1),
    ):
        said = world.rekey(wanted, *G[:3], *thief, NEW[3], R[0])  # one alone of the two
        assert (said.reason, said.thing) == (Reason.NOT_AUTHORIZED, A)
    assert world.rekey(Keys(thief, 2, R[:2], 2), *G[:2], *thief).accepted, "he may well govern"
    assert world.register(*G[:3]).reason is Reason.BAD_SIGNATURE
    back = Keys(NEW[4:6], 2, R[:2], 2)
    assert world.rekey(back, R[0], *NEW[4:6]).reason is Reason.TOO_FEW_SIGNATURES
    assert world.rekey(back, *R[:2], *NEW[4:6]).accepted
    assert world.register(*thief).reason is Reason.BAD_SIGNATURE
    assert world.register(*NEW[4:6]).accepted
    assert world.is_well()


def test_the_recovery_keys_change_themselves(world: World) -> None:
    two_of_three(world, recovery=1)
    assert world.rekey(Keys(G[:3], 2, R[1:3], 2), R[0], *R[1:3]).accepted
    assert world.rekey(Keys(G[:3], 2), R[0]).reason is Reason.BAD_SIGNATURE
    assert world.rekey(Keys(G[:3], 2), *R[1:3]).accepted, "and are given up"
    assert world.rekey(Keys(G[:3], 2, R[3:4], 1), *G[:2], R[3]).accepted, "who governs names others"


def test_some_of_the_changes_are_left_to_the_recovery_keys(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has stolen the governance keys could use all up."""
    monkeypatch.setattr("quorate.core.rekeying.MAX_REKEYINGS_PER_DOMAIN", 3)
    monkeypatch.setattr("quorate.core.rekeying.REKEYINGS_FOR_RECOVERY", 1)
    assert world.rekey(Keys(G[:1], 1, R[:1], 1), world.first, G[0], R[0]).accepted
    assert world.rekey(Keys(G[1:2], 1, R[:1], 1), G[0], G[1]).accepted
    said = world.rekey(Keys(G[2:3], 1, R[:1], 1), G[1], G[2])
    assert said.reason is Reason.LIMIT_EXCEEDED
    assert world.rekey(Keys(G[2:3], 1, R[:1], 1), R[0], G[2]).accepted
    said = world.rekey(Keys(G[3:4], 1, R[:1], 1), R[0], G[3])
    assert said.reason is Reason.LIMIT_EXCEEDED


def test_a_recovery_document_has_room_for_all_keys(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_of_three(world, recovery=1)
    monkeypatch.setattr("quorate.core.rekeying.MAX_GENESIS_BYTES", 1_000)
    said = world.rekey(Keys(G[:4], 2, R[:1], 1), *G[:4])
    assert said.reason is Reason.LIMIT_EXCEEDED
    assert world.rekey(Keys(G[:2], 2, R[:1], 1), *G[:2]).accepted, "less always fits"


# -- expiry ----------------------------------------------------------------------------------------


def test_keys_that_expire_do_nothing_but_narrow(world: World) -> None:
    end = world.ledger.now + HOUR_MS
    now_keys = two_of_three(world, recovery=1, not_after=end)
    world.ledger.now = end - 1
    agent = {"executor": f"spiffe://{A}/agent/x"}
    assert world.give("executor.register", agent, *G[:2]).accepted
    world.ledger.now = end
    for kind, body in (
        ("executor.register", {"executor": f"spiffe://{A}/agent/y"}),
        ("executor.reinstate", agent),
        ("node.add", node_body(f"spiffe://{A}/node/2")),
        ("node.retire", {"node": f"spiffe://{A}/node/1"}),
        ("resources.thaw", {}),
        ("proposal.open", proposal_body("domain.expel", {"domain": "beta.example"})),
        ("ballot.cast", ballot_body("0" * 64)),
        ("domain.reinstate", {"domain": A}),
        ("domain.rekey", Keys(G[:2], 2, R[:1], 1).body()),
    ):
        said = world.give(kind, body, *G[:2])
        assert (said.reason, said.thing) == (Reason.KEY_EXPIRED, A), kind
    assert world.give("executor.suspend", agent, G[0]).reason is Reason.TOO_FEW_SIGNATURES
    assert world.give("executor.suspend", agent, *G[:2]).accepted
    assert world.give("executor.revoke", agent, *G[:2]).accepted
    assert world.give("resources.freeze", {"actions": []}, *G[:2]).accepted
    assert world.give("domain.suspend", {"domain": A}, *G[:2]).accepted
    assert world.rekey(now_keys, R[0]).reason is Reason.ILLEGAL_TRANSITION
    assert world.rekey(Keys(G[:3], 2, R[:1], 1, end), R[0]).reason is Reason.ILLEGAL_TRANSITION
    assert world.rekey(Keys(G[:3], 2, R[:1], 1, end - 1), R[0]).reason is Reason.KEY_EXPIRED
    assert world.rekey(Keys(G[:3], 2, R[:1], 1, end + 1), R[0]).accepted
    assert world.give("domain.reinstate", {"domain": A}, *G[:2]).accepted
    assert world.is_well()


def test_what_came_too_late_is_not_done_by_a_repeat(world: World) -> None:
    end = world.ledger.now + HOUR_MS
    two_of_three(world, recovery=1, not_after=end)
    world.ledger.now = end
    late = world.envelope("executor.register", {"executor": f"spiffe://{A}/agent/y"}, *G[:2])
    assert world.ledger.apply(late).outcome.reason is Reason.KEY_EXPIRED
    assert world.rekey(Keys(G[:3], 2, R[:1], 1), R[0]).accepted
    again = world.ledger.apply(late).outcome
    assert (again.reason, again.duplicate) == (Reason.KEY_EXPIRED, True)


# -- whoever is sent a state -----------------------------------------------------------------------


def test_whoever_was_away_follows_through_every_kind_of_change(world: World) -> None:
    states = [world.copy()]
    end = world.ledger.now + HOUR_MS
    for wanted, signers in (
        (Keys(G[:3], 2), (world.first, *G[:3])),
        (Keys(G[:3], 2, R[:2], 2), (*G[:2], *R[:2])),
        (Keys(G[3:4], 1, R[:2], 2), (*G[:2], G[3])),
        (Keys(NEW[:2], 2, R[:2], 1), (*R[:2], *NEW[:2])),
        (Keys(NEW[:2], 2, R[:2], 1, end), NEW[:2]),
        (Keys(NEW[2:3]), (R[1], NEW[2])),
    ):
        assert world.rekey(wanted, *signers).accepted
        states.append(world.copy())
    for place, before in enumerate(states):
        for after in states[place:]:
            assert follows(before, after)
    for earlier, later in pairwise(states):
        with pytest.raises(MalformedError):
            follows(later, earlier)


def forged(world: World, wanted: Keys, *signers: Any) -> Any:
    """The state as it would be if the domain had done this, whoever has signed."""
    after, domain = world.copy(), world.domain
    envelope = world.envelope("domain.rekey", wanted.body(), *signers)
    body = wanted.body()
    row = {**domain.to_json(), "rekeyings": domain.rekeyings + 1}
    row.pop("key_set", None)
    row |= {name: value for name, value in body.items() if name != "domain"}
    place = keys.record(keys.Kind.DOMAIN, A)
    assert place is not None
    after.put(place, codec.encode(row))
    after.put(keys.rekeying(A, domain.rekeyings), envelope)
    for key in (*wanted.governance, *wanted.recovery, wanted.cosigner):
        after.put(keys.public_key(key.public.hex()), A.encode())
    return after


def test_no_sender_of_a_state_shrinks_a_threshold_or_drops_recovery_keys(world: World) -> None:
    assert world.rekey(Keys(G[:3], 2, R[:2], 2), world.first, *G[:3], *R[:2]).accepted
    before = world.copy()
    assert follows(before, forged(world, Keys(G[:2], 2, R[:2], 2), *G[:2])), "as is right"
    for wanted, signers in (
        (Keys(G[:3], 1, R[:2], 2), G[:1]),  # one alone makes it one of three
        (Keys(NEW[:1], 1, R[:2], 2), (G[0], NEW[0])),
        (Keys(G[:3], 2), G[:3]),  # who governs drops the recovery keys
        (Keys(G[:3], 2, R[:2], 1), (*G[:3], R[0])),
        (Keys(G[:3], 2, [*R[:2], NEW[0]], 2), (*G[:3], R[0], NEW[0])),
        (Keys(NEW[:1], 1, R[:2], 2), (R[0], NEW[0])),
        (Keys(NEW[:2], 1, R[:2], 2), (*G[:2], NEW[0])),  # a new key that nobody has
        (Keys(G[:3], 2, NEW[:1], 1), R[:2]),
    ):
        after = forged(world, wanted, *signers)
        assert Vetting(after).step(1_000_000), "it is well formed"
        with pytest.raises(MalformedError, match="did not take"):
            follows(before, after)
    unproven = world.copy()
    place = keys.record(keys.Kind.DOMAIN, A)
    assert place is not None
    for change in ({"threshold": 1}, {"recovery_threshold": 1}, {"not_after": 10**15}):
        row = world.domain.to_json()
        assert isinstance(row["key_set"], dict)
        unproven.put(place, codec.encode({**row, "key_set": {**row["key_set"], **change}}))
        with pytest.raises(MalformedError, match="another key_set"):
            follows(before, unproven)
    row.pop("key_set")
    unproven.put(place, codec.encode(row))
    with pytest.raises(MalformedError, match="another key_set"):
        follows(before, unproven)


def test_a_former_key_of_any_kind_stays_on_file(world: World) -> None:
    two_of_three(world, recovery=1)
    before = world.copy()
    assert world.rekey(Keys(NEW[:1]), R[0], NEW[0]).accepted
    assert follows(before, world.copy())
    for key in (G[0], G[2], R[0]):
        after = world.copy()
        after.delete(keys.public_key(key.public.hex()))
        with pytest.raises(MalformedError, match="former key"):
            follows(before, after)


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 0},
        {"threshold": 4},
        {"recovery_threshold": 0},
        {"recovery_threshold": 3},
        {"governance_keys": [NEW[0].public.hex()]},
        {"recovery_keys": [], "recovery_threshold": 0, "not_after": 1},
        {"governance_keys": [], "threshold": 1, "recovery_keys": [], "recovery_threshold": 0},
        {"more": 1},
        {"recovery_keys": "x"},
    ],
)
def test_a_state_with_a_set_that_cannot_be_is_none(world: World, change: dict[str, Any]) -> None:
    two_of_three(world, recovery=2)
    odd = copied(world.ledger.store)
    place = keys.record(keys.Kind.DOMAIN, A)
    assert place is not None
    row = world.domain.to_json()
    assert isinstance(row["key_set"], dict)
    odd.put(place, codec.encode({**row, "key_set": {**row["key_set"], **change}}))
    with pytest.raises(MalformedError):
        Vetting(odd).step(1_000_000)


def test_a_state_of_the_first_version_has_none(world: World) -> None:
    two_of_three(world)
    odd = copied(world.ledger.store)
    row = codec.load(odd.get(keys.FEDERATION) or b"")
    assert isinstance(row, dict)
    odd.put(keys.FEDERATION, codec.encode({n: v for n, v in row.items() if n != "protocol"}))
    with pytest.raises(MalformedError, match="cannot be"):
        Vetting(odd).step(1_000_000)
