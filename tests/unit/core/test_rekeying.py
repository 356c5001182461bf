"""New keys for a domain: signed by the old, held by whoever takes them, and followed by others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from quorate.core import codec, keys, protocol, state
from quorate.core.effects import effect_of
from quorate.core.errors import MalformedError
from quorate.core.invariants import check
from quorate.core.outcome import Outcome, Reason
from quorate.core.store import MemoryStore
from quorate.core.succession import Succession
from quorate.core.vetting import Vetting
from quorate.proofs.commands import build_command
from quorate.proofs.signing import SigningKey
from quorate.testing.builders import Federation, Ledger, key_for

A, B = "alpha.example", "beta.example"


class World:
    def __init__(self, version: int = protocol.LATEST) -> None:
        self.ledger = Ledger(Federation.build((A, B), version=version))
        self.old = self.ledger.federation[A].governance
        self.cosigner = self.ledger.federation[A].cosigner
        self._nonces = 0

    def envelope(
        self,
        governance: SigningKey,
        cosigner: SigningKey,
        *signers: SigningKey,
        issuer: str = A,
        domain: str = A,
    ) -> bytes:
        self._nonces += 1
        first, *others = signers
        return build_command(
            origin=self.ledger.federation.origin,
            issuer=issuer,
            command_type="domain.rekey",
            body={
                "domain": domain,
                "governance_key": governance.public.hex(),
                "cosigner_key": cosigner.public.hex(),
            },
            nonce=f"f{self._nonces:031x}",
            not_after=self.ledger.now + 60_000,
            key=first,
            also_signed_by=others,
        )

    def rekey(self, governance: SigningKey, cosigner: SigningKey, *signers: SigningKey) -> Outcome:
        return self.ledger.apply(self.envelope(governance, cosigner, *signers)).outcome

    def register(self, key: SigningKey) -> Outcome:
        command = self.ledger.federation.command
        body = {"executor": f"spiffe://{A}/agent/{self._nonces}"}
        self._nonces += 1
        envelope = command(A, "executor.register", body, f"e{self._nonces:031x}", key=key)
        return self.ledger.apply(envelope).outcome

    def copy(self) -> MemoryStore:
        copied = MemoryStore()
        for key, value in self.ledger.store.items():
            copied.put(key, value)
        return copied

    def is_well(self) -> bool:
        return check(self.ledger.view) == [] and Vetting(self.ledger.store).step(1_000_000)


@pytest.fixture
def world() -> World:
    return World()


NEW, NEWER = key_for("new"), key_for("newer")
COSIGNER = key_for("new cosigner")


def test_the_new_key_signs_and_the_old_one_does_not_any_more(world: World) -> None:
    assert world.register(world.old).accepted
    done = world.rekey(NEW, COSIGNER, world.old, NEW, COSIGNER)
    assert (done.accepted, done.thing) == (True, A)
    assert world.register(world.old).reason is Reason.BAD_SIGNATURE
    assert world.register(NEW).accepted
    domain = world.ledger.view.domain(A)
    assert domain is not None
    assert (domain.governance_key, domain.cosigner_key) == (NEW.public.hex(), COSIGNER.public.hex())
    assert domain.rekeyings == 1
    assert world.ledger.view.key_owner(world.old.public.hex()) == A, "it is nobody else's ever"
    assert world.is_well()


def test_no_lease_is_touched(world: World) -> None:
    applied = world.ledger.apply(world.envelope(NEW, COSIGNER, world.old, NEW, COSIGNER))
    assert applied.entry is not None
    assert effect_of(applied.outcome.index, applied.entry) is None


def test_one_key_can_be_renewed_alone(world: World) -> None:
    assert world.rekey(world.old, COSIGNER, world.old, COSIGNER).accepted
    assert world.rekey(NEW, COSIGNER, world.old, NEW, COSIGNER).accepted
    assert world.is_well()


def test_a_repeat_of_it_is_the_first_outcome(world: World) -> None:
    envelope = world.envelope(NEW, COSIGNER, world.old, NEW, COSIGNER)
    first, again = (world.ledger.apply(envelope).outcome for _ in range(2))
    assert (first.accepted, again.duplicate, again.index) == (True, True, first.index)


@pytest.mark.parametrize(
    ("signers", "reason"),
    [
        (lambda w: (w.old,), Reason.BAD_SIGNATURE),
        (lambda w: (w.old, NEW), Reason.BAD_SIGNATURE),
        (lambda w: (w.old, COSIGNER), Reason.BAD_SIGNATURE),
        (lambda w: (NEW,), Reason.BAD_SIGNATURE),
        (lambda w: (w.cosigner, NEW), Reason.BAD_SIGNATURE),
        (lambda w: (w.ledger.federation[B].governance, NEW), Reason.BAD_SIGNATURE),
    ],
)
def test_both_keys_have_to_sign(world: World, signers: Any, reason: Reason) -> None:
    before = world.ledger.view.domain(A)
    assert world.rekey(NEW, COSIGNER, *signers(world)).reason is reason
    assert world.ledger.view.domain(A) == before


def test_keys_are_nobodys_and_never_were(world: World) -> None:
    other = world.ledger.federation[B]
    for governance, cosigner in (
        (other.governance, COSIGNER),
        (NEW, other.cosigner),
        (NEW, world.ledger.federation[A].signing),
        (NEW, world.old),
    ):
        said = world.rekey(governance, cosigner, world.old, governance, cosigner)
        assert said.reason in {Reason.ALREADY_EXISTS, Reason.MALFORMED_COMMAND}, said
    assert world.rekey(NEW, COSIGNER, world.old, NEW, COSIGNER).accepted
    back = world.rekey(world.old, COSIGNER, NEW, world.old)
    assert (back.reason, back.thing) == (Reason.ALREADY_EXISTS, world.old.public.hex())
    assert world.is_well()


def test_nothing_new_is_nothing(world: World) -> None:
    assert world.rekey(world.old, world.cosigner, world.old).reason is Reason.ILLEGAL_TRANSITION


def test_no_key_changes_its_purpose(world: World) -> None:
    said = world.rekey(world.cosigner, world.old, world.old, world.cosigner)
    assert (said.reason, said.thing) == (Reason.ALREADY_EXISTS, world.cosigner.public.hex())


def test_nobody_takes_keys_for_another(world: World) -> None:
    envelope = world.envelope(NEW, COSIGNER, world.old, NEW, COSIGNER, domain=B)
    assert world.ledger.apply(envelope).outcome.reason is Reason.NOT_AUTHORIZED


def test_a_suspended_domain_may_because_of_its_key(world: World) -> None:
    assert world.ledger.run(A, "domain.suspend", {"domain": A}).outcome.accepted
    assert world.rekey(NEW, COSIGNER, world.old, NEW, COSIGNER).accepted


def test_one_key_is_not_for_two_purposes(world: World) -> None:
    said = world.rekey(NEW, NEW, world.old, NEW)
    assert (said.reason, said.thing) == (Reason.MALFORMED_COMMAND, "body.cosigner_key")


def test_there_is_an_end_to_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quorate.core.rekeying.MAX_REKEYINGS_PER_DOMAIN", 1)
    assert world.rekey(NEW, COSIGNER, world.old, NEW, COSIGNER).accepted
    assert world.rekey(NEWER, COSIGNER, NEW, NEWER).reason is Reason.LIMIT_EXCEEDED


def test_the_first_version_does_not_know_it() -> None:
    world = World(protocol.FIRST)
    said = world.rekey(NEW, COSIGNER, world.old, NEW, COSIGNER)
    assert (said.reason, said.thing) == (Reason.MALFORMED_COMMAND, "type")


# -- whoever is sent a state ---------------------------------------------------------------------


def follows(before: MemoryStore, after: MemoryStore) -> bool:
    return Succession(before, after).step(1_000_000)


def test_whoever_knows_the_old_keys_follows_to_the_new_ones(world: World) -> None:
    first = world.copy()
    assert world.rekey(NEW, COSIGNER, world.old, NEW, COSIGNER).accepted
    second = world.copy()
    assert world.rekey(NEWER, COSIGNER, NEW, NEWER).accepted
    third = world.copy()
    for before, after in ((first, second), (first, third), (second, third), (third, third)):
        assert follows(before, after)
    for before, after in ((second, first), (third, first), (third, second)):
        with pytest.raises(MalformedError):
            follows(before, after)


def test_nobody_gives_a_domain_keys_that_it_did_not_take(world: World) -> None:
    """As a leader that lies would, in a state that is well formed."""
    before = world.copy()
    mine = key_for("a liar's")
    other = world.ledger.federation[B].governance
    forged = {  # each lacks one thing alone
        world.envelope(mine, COSIGNER, mine, COSIGNER): "did not take",
        world.envelope(mine, COSIGNER, other, mine, COSIGNER): "did not take",
        world.envelope(mine, COSIGNER, world.cosigner, mine, COSIGNER): "did not take",
        world.envelope(mine, COSIGNER, world.old, COSIGNER): "did not take",
        world.envelope(mine, COSIGNER, world.old, mine): "did not take",
        world.envelope(mine, COSIGNER, world.old, mine, COSIGNER, issuer=B): "another domain",
        world.envelope(mine, COSIGNER, world.old, mine, COSIGNER, domain=B): "another domain",
    }
    domain = world.ledger.view.domain(A)
    assert domain is not None
    for envelope, problem in forged.items():
        after = world.copy()
        changed = replace(
            domain,
            governance_key=mine.public.hex(),
            cosigner_key=COSIGNER.public.hex(),
            rekeyings=1,
        )
        state.save_domain(after, changed)
        after.put(keys.rekeying(A, 0), envelope)
        for key in (mine, COSIGNER):
            state.claim_key(after, key.public.hex(), A)
        with pytest.raises(MalformedError, match=problem):
            follows(before, after)
    taken = world.copy()
    assert world.rekey(NEW, COSIGNER, world.old, NEW, COSIGNER).accepted
    forgotten = world.copy()
    forgotten.delete(keys.public_key(world.old.public.hex()))
    with pytest.raises(MalformedError, match="former key"):
        follows(taken, forgotten)
    without = taken
    state.save_domain(without, replace(domain, governance_key=mine.public.hex()))
    with pytest.raises(MalformedError, match="another governance_key"):
        follows(before, without)


def test_what_others_may_still_have_to_follow_by_stays(world: World) -> None:
    """A node that has followed does not need the proof any more: one that knows less does."""
    assert world.rekey(NEW, COSIGNER, world.old, NEW, COSIGNER).accepted
    before = world.copy()
    proof = before.get(keys.rekeying(A, 0))
    assert proof is not None
    for change in (
        lambda s: s.delete(keys.rekeying(A, 0)),
        lambda s: s.put(keys.rekeying(A, 0), proof[:-1]),
    ):
        after = world.copy()
        change(after)
        with pytest.raises(MalformedError, match="not what it was"):
            follows(before, after)
    follows(before, world.copy())


def test_keys_of_another_ledger_are_none_here(world: World) -> None:
    """The same domain may be in two federations, with the same keys."""
    before = world.copy()
    elsewhere = Federation.build((A, B), origin="quorate.example/other")
    envelope = build_command(
        origin=elsewhere.origin,
        issuer=A,
        command_type="domain.rekey",
        body={
            "domain": A,
            "governance_key": NEW.public.hex(),
            "cosigner_key": COSIGNER.public.hex(),
        },
        nonce="a" * 32,
        not_after=world.ledger.now,
        key=world.old,
        also_signed_by=[NEW, COSIGNER],
    )
    domain = world.ledger.view.domain(A)
    assert domain is not None
    taken = replace(
        domain,
        governance_key=NEW.public.hex(),
        cosigner_key=COSIGNER.public.hex(),
        rekeyings=1,
    )
    state.save_domain(world.ledger.store, taken)
    world.ledger.store.put(keys.rekeying(A, 0), envelope)
    with pytest.raises(MalformedError, match="did not take"):
        follows(before, world.ledger.store)


def test_a_state_has_each_proof_once_and_in_order(world: World) -> None:
    assert world.rekey(NEW, COSIGNER, world.old, NEW, COSIGNER).accepted
    good = world.copy()
    proof = good.get(keys.rekeying(A, 0))
    assert proof is not None
    for change in (
        lambda s: s.delete(keys.rekeying(A, 0)),
        lambda s: s.put(keys.rekeying(A, 1), proof),
        lambda s: s.put(keys.rekeying(A, 0), proof[:-1]),
        lambda s: s.put(keys.rekeying(A, 0), codec.encode({"payload": "x"})),
        lambda s: s.put(keys.rekeying(B, 0), proof),
        lambda s: s.put(keys.REKEYINGS + b"x", proof),
    ):
        odd = MemoryStore()
        for key, value in good.items():
            odd.put(key, value)
        change(odd)
        with pytest.raises(MalformedError):
            Vetting(odd).step(1_000_000)
