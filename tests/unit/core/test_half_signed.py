"""New keys whose command lost signatures on its way: whoever passes it on can take some away, and
must not use up by that what the domain has signed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.unit.core.keyed import HOUR_MS, NEW, A, B, G, Keys, R, World, two_of_three

from quorate.core import dsse, keys
from quorate.core.limits import MAX_ENVELOPE_BYTES
from quorate.core.outcome import Reason
from quorate.core.transitions import examine
from quorate.proofs.signing import SigningKey


@pytest.fixture
def world() -> World:
    return World()


def without(envelope: bytes, *gone: SigningKey) -> bytes:
    parsed = dsse.parse(envelope, MAX_ENVELOPE_BYTES, most=32)
    keyids = {key.keyid for key in gone}
    left = tuple(item for item in parsed.signatures if item.keyid not in keyids)
    assert len(left) == len(parsed.signatures) - len(gone)
    return dsse.Envelope(parsed.payload, parsed.payload_type, left).to_bytes()


def refuses(world: World, stripped: bytes, whole: bytes, reason: Reason, thing: str) -> None:
    """It is told before anything is proposed; and executed, it is no memory of the domain's."""
    told = examine(world.ledger.view, stripped, world.ledger.now)
    assert told is not None
    assert (told.reason, told.thing) == (reason, thing)
    remembered = _remembered(world)
    for _ in range(2):
        said = world.ledger.apply(stripped).outcome
        assert (said.reason, said.thing, said.duplicate) == (reason, thing, False)
    assert _remembered(world) == remembered
    assert examine(world.ledger.view, whole, world.ledger.now) is None
    assert world.ledger.apply(whole).outcome.accepted
    assert world.is_well()


def _remembered(world: World) -> dict[bytes, bytes]:
    kept = keys.OUTCOMES, keys.FORGETTING
    return {key: value for key, value in world.ledger.store.items() if key.startswith(kept)}


def given(world: World, wanted: Keys, *signers: SigningKey) -> bytes:
    return world.envelope("domain.rekey", wanted.body(), *signers)


@pytest.mark.parametrize("gone", [G[:1], G[1:2], R[:1], [G[0], G[2], R[0]]])
def test_a_new_keys_signature_that_was_taken_away(world: World, gone: Sequence[SigningKey]) -> None:
    whole = given(world, Keys(G[:3], 2, R[:1], 1), world.first, *G[:3], *R[:1])
    refuses(world, without(whole, *gone), whole, Reason.BAD_SIGNATURE, gone[0].public.hex())


def test_a_cosigner_keys_signature_that_was_taken_away(world: World) -> None:
    whole = given(world, Keys([world.first], cosigner=NEW[0]), world.first, NEW[0])
    stripped = without(whole, NEW[0])
    refuses(world, stripped, whole, Reason.BAD_SIGNATURE, NEW[0].public.hex())


def test_recovery_keys_that_are_to_change_the_recovery_keys(world: World) -> None:
    two_of_three(world, recovery=1)
    whole = given(world, Keys(G[:3], 2, NEW[:1], 1), *G[:2], R[0], NEW[0])
    refuses(world, without(whole, R[0]), whole, Reason.NOT_AUTHORIZED, A)


def test_recovery_keys_that_are_to_renew_keys_whose_time_is_over(world: World) -> None:
    end = world.ledger.now + HOUR_MS
    two_of_three(world, recovery=1, not_after=end)
    world.ledger.now = end
    assert world.give("domain.suspend", {"domain": A}, *G[:2]).accepted, "time goes by entries"
    whole = given(world, Keys(G[:3], 2, R[:1], 1), *G[:2], R[0])
    refuses(world, without(whole, R[0]), whole, Reason.KEY_EXPIRED, A)


def test_recovery_keys_that_are_to_make_one_of_the_last_changes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_of_three(world, recovery=1)
    monkeypatch.setattr("quorate.core.rekeying.MAX_REKEYINGS_PER_DOMAIN", 2)
    monkeypatch.setattr("quorate.core.rekeying.REKEYINGS_FOR_RECOVERY", 1)
    whole = given(world, Keys(G[:2], 2, R[:1], 1), *G[:2], R[0])
    refuses(world, without(whole, R[0]), whole, Reason.LIMIT_EXCEEDED, A)


def test_what_no_signature_would_change_is_remembered(world: World) -> None:
    """Nobody makes it so by taking a signature away; and so it cannot be recorded again and
    again."""
    two_of_three(world)
    others = Keys(G[:3], 2).body() | {"domain": B}
    taken = Keys([*G[:2], world.first], 2)
    for body, reason in (
        (Keys(G[:3], 2).body(), Reason.ILLEGAL_TRANSITION),
        (others, Reason.NOT_AUTHORIZED),
        (taken.body(), Reason.ALREADY_EXISTS),
    ):
        envelope = world.envelope("domain.rekey", body, *G[:2], world.first)
        first, again = (world.ledger.apply(envelope).outcome for _ in range(2))
        assert (first.reason, first.duplicate) == (reason, False)
        assert (again.reason, again.duplicate) == (reason, True)


def test_a_repeat_is_the_first_outcome_whatever_was_taken_from_it(world: World) -> None:
    """Keys that signed nothing then, as they were not new, do not have to sign it now."""
    assert world.rekey(Keys([world.first, *G[:2]]), world.first, *G[:2]).accepted
    whole = given(world, Keys([world.first, G[0], G[2]]), world.first, G[2])
    assert world.ledger.apply(whole).outcome.accepted
    assert world.rekey(Keys([world.first, G[2]]), world.first).accepted
    for envelope in (whole, without(whole, G[2])):
        assert examine(world.ledger.view, envelope, world.ledger.now) is None
        again = world.ledger.apply(envelope).outcome
        assert (again.accepted, again.duplicate) == (True, True)
