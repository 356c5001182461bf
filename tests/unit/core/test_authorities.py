"""Another CA for a domain: taken by its keys, followed by proofs, and known to recoveries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.core.keyed import HOUR_MS, A, B, G, R, World, two_of_three
from tests.unit.core.test_key_sets_elsewhere import payload_of

from quorate.core import codec, dsse, keys, protocol, state
from quorate.core.errors import ConfigurationError, MalformedError
from quorate.core.genesis import certificate_digest, check_certificate
from quorate.core.keysets import governance_keys
from quorate.core.limits import MAX_GENESIS_BYTES
from quorate.core.outcome import Outcome, Reason
from quorate.core.records import Domain
from quorate.core.recovering import begin_without, carry_over
from quorate.core.recovery import parse_recovery_draft
from quorate.core.recovery_room import longest_document
from quorate.core.state import StateView
from quorate.core.store import MemoryStore
from quorate.core.succession import Succession
from quorate.core.vetting import Vetting
from quorate.node.certificates import issue_node, make_ca
from quorate.node.former import check_former
from quorate.node.identity import write_private, write_public
from quorate.node.survivors import refuse_answers
from quorate.proofs.commands import build_command
from quorate.proofs.signing import SigningKey, sign_envelope
from quorate.testing.builders import Federation, Ledger, ca_certificate

OLD, NEXT, THIRD = ca_certificate(A), ca_certificate("next"), ca_certificate("third")
PEM_OF_NOTHING = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@pytest.fixture
def world() -> World:
    return World()


def own(world: World) -> Domain:
    domain = world.ledger.view.domain(A)
    assert domain is not None
    return domain


def body(world: World, *authorities: str, **changes: Any) -> dict[str, Any]:
    domain = own(world)
    said: dict[str, Any] = {
        "domain": A,
        "governance_key": domain.governance_key,
        "cosigner_key": domain.cosigner_key,
        "ca_certificates": list(authorities),
    }
    return said | ({"key_set": domain.key_set.to_json()} if domain.key_set else {}) | changes


NONCES = iter(range(1, 10_000))


def envelope(world: World, said: dict[str, Any], *signers: SigningKey, issuer: str = A) -> bytes:
    first, *others = signers or (world.ledger.federation[A].governance,)
    return build_command(
        origin=world.ledger.federation.origin,
        issuer=issuer,
        command_type="domain.rekey",
        body=said,
        nonce=f"ca{next(NONCES):030x}",
        not_after=world.ledger.now + 60_000,
        key=first,
        also_signed_by=others,
    )


def take(world: World, *authorities: str, signers: tuple[SigningKey, ...] = ()) -> Outcome:
    return world.ledger.apply(envelope(world, body(world, *authorities), *signers)).outcome


def copied(store: MemoryStore) -> MemoryStore:
    made = MemoryStore()
    for key, value in store.items():
        made.put(key, value)
    return made


def follows(before: MemoryStore, after: MemoryStore) -> bool:
    return Succession(before, after).step(1_000_000)


def is_well(world: World) -> bool:
    return Vetting(world.ledger.store).step(1_000_000)


# -- taking one --------------------------------------------------------------------------------


def test_two_are_trusted_and_then_the_new_one_alone(world: World) -> None:
    assert own(world).authorities == (OLD,)
    assert take(world, OLD, NEXT).accepted
    assert own(world).authorities == (OLD, NEXT)
    assert is_well(world)
    assert take(world, NEXT).accepted
    assert own(world).authorities == (NEXT,)
    assert own(world).to_json().keys() == own(World()).to_json().keys() | {"rekeyings"}
    assert own(world).rekeyings == 2
    assert is_well(world)


def test_keys_stay_and_so_do_cas_where_nothing_is_said_of_them(world: World) -> None:
    before = own(world)
    assert take(world, OLD, NEXT).accepted
    assert governance_keys(own(world)) == governance_keys(before)
    assert own(world).cosigner_key == before.cosigner_key
    two_of_three(world, recovery=2)
    assert own(world).authorities == (OLD, NEXT)


@pytest.mark.parametrize("said", [(OLD,), (OLD, NEXT)])
def test_nothing_new_is_nothing(world: World, said: tuple[str, ...]) -> None:
    if len(said) > 1:
        assert take(world, *said).accepted
    assert take(world, *said).reason is Reason.ILLEGAL_TRANSITION


@pytest.mark.parametrize(
    "said",
    [
        (),
        (OLD, OLD),
        (OLD, NEXT, THIRD),
        ("no certificate",),
        (OLD + NEXT,),
        (OLD, ""),
        (OLD, NEXT + "x"),
    ],
)
def test_what_can_be_no_cas_is_malformed(world: World, said: tuple[str, ...]) -> None:
    denied = take(world, *said)
    assert denied.reason is Reason.MALFORMED_COMMAND
    assert denied.thing.startswith("body.ca_certificates")
    assert own(world).authorities == (OLD,)


def test_nobody_gives_another_domain_a_ca(world: World) -> None:
    other = world.ledger.federation[B].governance
    said = body(world, NEXT)
    for signed in (
        envelope(world, said, other),
        envelope(world, said, other, issuer=B),
        envelope(world, said, world.ledger.federation[A].cosigner),
    ):
        assert not world.ledger.apply(signed).outcome.accepted
    assert own(world).authorities == (OLD,)


def test_as_many_sign_as_have_to(world: World) -> None:
    two_of_three(world, recovery=2)
    assert take(world, NEXT, signers=(G[0],)).reason is Reason.TOO_FEW_SIGNATURES
    assert take(world, NEXT, signers=(R[5],)).reason is Reason.BAD_SIGNATURE
    assert take(world, OLD, NEXT, signers=(G[0], G[1])).accepted
    assert take(world, THIRD, signers=(R[0],)).accepted, "it may be the thief's"
    assert own(world).authorities == (THIRD,)
    assert is_well(world)


def test_expired_keys_drop_no_ca_and_recovery_keys_do(world: World) -> None:
    """Others rely on a domain's nodes: whoever has an expired key must not cut them off."""
    end = world.ledger.now + HOUR_MS
    two_of_three(world, recovery=2, not_after=end)
    world.ledger.now = end
    assert take(world, NEXT, signers=(G[0], G[1])).reason is Reason.KEY_EXPIRED
    said = body(world, NEXT)
    said["key_set"]["not_after"] = end + HOUR_MS
    assert world.ledger.apply(envelope(world, said, R[0], R[1])).outcome.accepted
    assert own(world).authorities == (NEXT,)


def test_a_suspended_domain_may(world: World) -> None:
    command = world.ledger.federation.command
    suspend = command(A, "domain.suspend", {"domain": A}, "5" * 32)
    assert world.ledger.apply(suspend).outcome.accepted
    assert take(world, NEXT).accepted


def test_the_first_version_does_not_know_it() -> None:
    first = Ledger(Federation.build((A, B), version=protocol.FIRST))
    domain = first.view.domain(A)
    assert domain is not None
    assert "next_ca" not in domain.to_json()
    state.save_domain(first.store, replace(domain, next_ca=NEXT))
    with pytest.raises(MalformedError, match="no next CA"):
        Vetting(first.store).step(1_000_000)


def test_a_recovery_document_has_room_for_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    members = world.ledger.view.domains()
    version = world.ledger.view.federation().protocol
    two = [replace(each, next_ca=NEXT) if each.id == A else each for each in members]
    room = longest_document(two, version) - 1
    assert longest_document(members, version) < room < MAX_GENESIS_BYTES
    monkeypatch.setattr("quorate.core.rekeying.MAX_GENESIS_BYTES", room)
    assert take(world, OLD, NEXT).reason is Reason.LIMIT_EXCEEDED
    assert take(world, NEXT).accepted


# -- whoever is sent a state -------------------------------------------------------------------


def test_whoever_knows_the_old_one_follows_to_the_new_one(world: World) -> None:
    states = [copied(world.ledger.store)]
    for said in ((OLD, NEXT), (NEXT,), (NEXT, THIRD)):
        assert take(world, *said).accepted
        states.append(copied(world.ledger.store))
    two_of_three(world, recovery=2)
    states.append(copied(world.ledger.store))
    for place, before in enumerate(states):
        for after in states[place:]:
            assert follows(before, after)
        for after in states[:place]:
            with pytest.raises(MalformedError):
                follows(before, after)


def test_nobody_gives_a_domain_a_ca_that_it_did_not_take(world: World) -> None:
    """As a leader that lies would, in a state that is well formed."""
    before = copied(world.ledger.store)
    other = world.ledger.federation[B].governance
    mine, said = own(world), body(world, THIRD)
    for signed in (envelope(world, said, other), envelope(world, body(world, NEXT))):
        after = copied(world.ledger.store)
        state.save_domain(after, replace(mine, ca_certificate=THIRD, rekeyings=1))
        after.put(keys.rekeying(A, 0), signed)
        for ca in (OLD, NEXT, THIRD):
            state.claim_key(after, certificate_digest(ca), A)
        assert Vetting(after).step(1_000_000)
        with pytest.raises(MalformedError, match=r"did not take|another ca_certificate"):
            follows(before, after)
    for lie in (
        replace(mine, ca_certificate=THIRD),
        replace(mine, next_ca=THIRD),
    ):
        after = copied(world.ledger.store)
        state.save_domain(after, lie)
        with pytest.raises(MalformedError, match="another"):
            follows(before, after)


def test_no_sender_keeps_a_ca_that_was_dropped(world: World) -> None:
    before = copied(world.ledger.store)
    assert take(world, OLD, NEXT).accepted
    assert take(world, NEXT).accepted
    after = copied(world.ledger.store)
    state.save_domain(after, replace(own(world), ca_certificate=OLD, next_ca=NEXT))
    with pytest.raises(MalformedError, match="another"):
        follows(before, after)


@pytest.mark.parametrize("other", [OLD, "none", OLD + NEXT])
def test_a_state_with_a_next_ca_that_cannot_be_is_none(world: World, other: str) -> None:
    state.save_domain(world.ledger.store, replace(own(world), next_ca=other))
    with pytest.raises(MalformedError):
        Vetting(world.ledger.store).step(1_000_000)


# -- recovery ----------------------------------------------------------------------------------


def document(world: World, payload: bytes) -> bytes:
    signers = [world.ledger.federation[name].governance for name in (A, B)]
    return sign_envelope(dsse.RECOVERY_TYPE, payload, *signers)


def test_the_new_ledger_has_both(world: World) -> None:
    assert take(world, OLD, NEXT).accepted
    recovery, _ = parse_recovery_draft(document(world, payload_of(world)))
    carried = copied(world.ledger.store)
    carry_over(carried, recovery)
    alone = MemoryStore()
    begin_without(alone, recovery)
    for store in (carried, alone):
        domain = StateView(store).domain(A)
        assert domain is not None
        assert domain.authorities == (OLD, NEXT)
    for changed in (
        replace(own(world), next_ca=""),
        replace(own(world), next_ca=THIRD),
        replace(own(world), ca_certificate=NEXT, next_ca=OLD),
    ):
        store = copied(world.ledger.store)
        state.save_domain(store, changed)
        with pytest.raises(MalformedError, match="otherwise than the state"):
            carry_over(store, recovery)


@pytest.mark.parametrize("other", [OLD, "none", None])
def test_a_next_ca_in_a_document_makes_sense(world: World, other: Any) -> None:
    assert take(world, OLD, NEXT).accepted
    said: Any = codec.decode(payload_of(world), MAX_GENESIS_BYTES)
    [row] = [each for each in said["domains"] if each["domain"] == A]
    assert row["next_ca"] == NEXT
    check_certificate(row["next_ca"])
    row["next_ca"] = other
    with pytest.raises(MalformedError, match="next_ca"):
        parse_recovery_draft(document(world, codec.encode(said)))


def test_a_document_goes_on_from_the_genesis_by_the_proofs_of_the_base(world: World) -> None:
    genesis = world.ledger.federation.parsed_genesis()
    assert take(world, OLD, NEXT).accepted
    recovery, _ = parse_recovery_draft(document(world, payload_of(world)))
    base = world.ledger.store
    check_former(genesis, recovery, base)
    with pytest.raises(ConfigurationError, match="other keys in the document"):
        check_former(genesis, recovery)
    own_item = recovery.descriptors[0]
    assert own_item.domain == A
    for lie in (
        replace(own_item, next_ca=THIRD),
        replace(own_item, ca_certificate=THIRD),
        replace(own_item, ca_certificate=NEXT, next_ca=""),
    ):
        lying = replace(recovery, descriptors=(lie, *recovery.descriptors[1:]))
        with pytest.raises(ConfigurationError, match="does not go on from"):
            check_former(genesis, lying, base)


# -- what was dropped --------------------------------------------------------------------------


def test_a_ca_that_was_dropped_never_comes_back(world: World) -> None:
    """Whoever held the command back by which it was one of two has the domain's own signature."""
    withheld = envelope(world, body(world, OLD, NEXT))
    assert take(world, OLD, NEXT).accepted
    assert take(world, NEXT).accepted
    late = world.ledger.apply(withheld).outcome
    assert (late.reason, late.thing) == (Reason.ALREADY_EXISTS, certificate_digest(OLD))
    assert own(world).authorities == (NEXT,)
    assert take(world, NEXT, THIRD).accepted
    assert is_well(world)


def test_a_ca_may_stay_alone_and_the_new_one_is_gone_for_ever(world: World) -> None:
    assert take(world, OLD, NEXT).accepted
    assert take(world, OLD).accepted
    assert take(world, OLD, NEXT).reason is Reason.ALREADY_EXISTS
    assert take(world, OLD, THIRD).accepted


def test_a_state_that_has_forgotten_a_dropped_ca_is_not_taken(world: World) -> None:
    before = copied(world.ledger.store)
    assert take(world, OLD, NEXT).accepted
    assert take(world, NEXT).accepted
    assert follows(before, world.ledger.store)
    forgetful = copied(world.ledger.store)
    forgetful.delete(keys.public_key(certificate_digest(OLD)))
    with pytest.raises(MalformedError, match="not on file"):
        follows(before, forgetful)


def test_one_ca_is_not_two_because_its_lines_end_elsewhere(world: World) -> None:
    head, *lines, end = OLD.splitlines()
    unbroken = "\n".join([head, "".join(lines), end]) + "\n"
    for other in (OLD.rstrip("\n"), unbroken):
        assert take(world, OLD, other).reason is Reason.MALFORMED_COMMAND


@pytest.mark.parametrize(
    "authorities", [(OLD.rstrip("\n"), NEXT), (PEM_OF_NOTHING,)], ids=["no newline", "no CA"]
)
def test_no_domain_keeps_the_others_from_asking_whether_it_is_lost(
    world: World, tmp_path: Path, authorities: tuple[str, ...]
) -> None:
    pair = issue_node(make_ca(B), f"spiffe://{B}/node/1")
    write_private(tmp_path / "tls.key", pair.private_key)
    write_public(tmp_path / "tls.crt", pair.certificate)
    tls = SimpleNamespace(certificate=tmp_path / "tls.crt", private_key=tmp_path / "tls.key")
    config: Any = SimpleNamespace(peers={}, tls=tls)
    assert take(world, *authorities).accepted
    others = {node.id for node in world.ledger.view.nodes() if node.domain != A}
    base: Any = SimpleNamespace(state=world.ledger.store)
    refuse_answers(config, base, others)
